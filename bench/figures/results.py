"""What was measured, kept in a file, so that figures can be drawn again without measuring again."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.cluster.case import Case
from bench.cluster.run import Measured
from bench.processes import ROOT

FILE = ROOT / "bench" / "figures" / "results.json"


class Result(msgspec.Struct, kw_only=True):
    """One case, when and where it was run, and what came of it: a measurement, or why there is none."""

    case: Case
    date: str
    machine: str
    measured: Measured | None = None
    failure: str = ""


class Results:
    """All results, by case."""

    def __init__(self, file: Path = FILE) -> None:
        self._file = file
        found = msgspec.json.decode(file.read_bytes(), type=list[Result]) if file.exists() else []
        self._results = {result.case: result for result in found}

    def __getitem__(self, case: Case) -> Result | None:
        return self._results.get(case)

    def put(self, case: Case, machine: str, measured: Measured | None, failure: str = "") -> None:
        """Keep a result, in the file too."""
        date = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
        self._results[case] = Result(case=case, date=date, machine=machine, measured=measured, failure=failure)
        results: list[Any] = list(self._results.values())
        self._file.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
