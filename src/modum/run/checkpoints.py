"""The launcher's part in checkpoints: it finds the one to resume, asks for new ones, and records them."""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from modum.box import Box
from modum.box.snapshots.folder import Folder, snapshots_in
from modum.checkpoints.files import (
    RECORD,
    WORKERS,
    Record,
    StateFile,
    discard_others,
    encode_record,
    newest_good,
    server_snapshot,
)
from modum.checkpoints.names import answer_of, asked_by, member_of, over_by, request_of
from modum.errors import DeadlineError, MismatchError, ModumError, SnapshotError
from modum.run.config import RunConfig
from modum.units import format_seconds
from modum.waiting import Deadline

__all__ = ["Checkpointing", "Checkpoints"]

_GATHER_SECONDS: Final = 60.0
"""How long workers stand still for one that does not come to the end of a step."""
_NOBODY: Final = (
    "no checkpoint was taken yet, as some workers have no averager of PyTorch, or solver of Caffe, with the job\n"
    "HINT: --resume needs modum.torch.Averager, or modum.caffe.Solver(..., job=job), in every worker"
)
_LOOK_SECONDS: Final = 0.02
_IDLE_SECONDS: Final = 0.2
_WRITE_SECONDS: Final = 3600.0


class Checkpoints:
    """The folder of a run's checkpoints, taken for this run, and the one with which it begins.

    Args:
        config: the run's; `resume` says where, when, and how many.

    Attributes:
        resumed: folder of the workers' states with which the run begins; None: it begins anew.
        lines: what is to be said about it.

    Raises:
        MismatchError: the checkpoint is of another number of workers, of groups or of servers.
        SnapshotError: another run writes there, or none of the checkpoints is good.
    """

    def __init__(self, config: RunConfig) -> None:
        assert config.resume is not None
        self.settings = config.resume
        self.lines: list[str] = []
        self.resumed: Path | None = None
        folder = config.resume.folder
        self._states = Folder((folder / WORKERS).absolute(), config.resume.kept)
        found = newest_good(folder, self.lines.append)
        try:
            self._states.open()
        except SnapshotError:
            raise SnapshotError(f"another run writes its checkpoints into {folder}") from None
        except OSError as error:
            raise SnapshotError(f"{folder} cannot hold checkpoints: {error.strerror}") from None
        try:
            if found is None:
                self.lines.append(f"{folder} has no checkpoint yet: this run begins anew, and writes them there")
            else:
                self.resumed, record = found[0].absolute(), found[1]
                _check_alike(record, config, folder)
                age = format_seconds(max(0.0, time.time() - record.taken))
                self.lines.append(f"goes on from checkpoint {found[0]}, which was taken {age} ago")
                theirs, ours = " ".join(record.command), " ".join(config.command)
                if theirs not in ("", ours):
                    self.lines.append(
                        f"the checkpoint is of {theirs}, this run is of {ours}: optimizers go on with the settings of"
                        " the checkpoint"
                    )
                for newer in snapshots_in(folder / WORKERS):
                    if newer.name > found[0].name:
                        self._states.discard(newer)
            discard_others(folder, [] if found is None else found[1].servers)
        except BaseException:
            self._states.close()
            raise

    def servers(self, config: RunConfig) -> RunConfig:
        """Return the settings by which the servers write snapshots only when asked, and begin with the right ones.

        They keep one more: the newest of theirs belongs to no checkpoint until that is recorded.
        """
        settings = replace(self.settings, every=None, kept=self.settings.kept + 1)
        return replace(config, snapshots=settings, restore=self.settings.folder if self.resumed else None)

    def commit(self, unfinished: Path, record: Record) -> Path:
        """Have a checkpoint count, and return its folder."""
        with (unfinished / RECORD).open("xb") as file:
            file.write(encode_record(record))
            file.flush()
            os.fsync(file.fileno())
        return self._states.commit(unfinished)

    def begin(self) -> Path:
        """Return a new folder for the workers' states of a checkpoint, which is none yet."""
        return self._states.begin()

    def discard(self, unfinished: Path) -> None:
        """Remove what `begin` has made."""
        self._states.discard(unfinished)

    def close(self) -> None:
        """Let other runs write here."""
        self._states.close()


class Checkpointing:
    """Takes a checkpoint now and then, on a thread of its own, until it is closed.

    Args:
        checkpoints: where, and when.
        config: the run's.
        servers: addresses of the memory servers, in the order of the box.
        token: the box's.
        alive: returns the ranks of the workers that live.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        config: RunConfig,
        servers: Sequence[str],
        token: str | None,
        alive: Callable[[], Collection[int]],
    ) -> None:
        self._checkpoints = checkpoints
        self._config = config
        self._servers = servers
        self._token = token
        self._alive = alive
        self._number = 0
        self._taken = 0
        self._failure = ""
        self._closing = threading.Event()
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="modum-checkpoints", daemon=True)
        self._thread.start()

    def lines(self) -> list[str]:
        """Return what is to be said since the last call."""
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        return lines

    def close(self, timeout: float = 2.0) -> None:
        """Ask for none any more, and give up the one that workers have been asked for."""
        self._closing.set()
        self._thread.join(timeout)

    # ---- inside

    def _run(self) -> None:
        every = self._checkpoints.settings.every
        due, late = Deadline(every), Deadline((every or 0.0) + _GATHER_SECONDS)
        while not self._closing.is_set():
            # the workers use the same box, and their errors say more
            with (
                contextlib.suppress(ModumError),
                Box.connect(self._servers, token=self._token, transport="tcp", namespace=self._config.name) as box,
            ):
                self._release(box)
                while not self._closing.wait(min(_IDLE_SECONDS, due.left)):
                    if due.passed and self._ready(box):
                        due = Deadline(every)
                        self._try(box)
                    elif not self._number and late.passed:
                        late = Deadline(None)
                        self._lines.put(_NOBODY)
            self._closing.wait(_IDLE_SECONDS)

    def _ready(self, box: Box) -> bool:
        """Whether all workers that live answer to requests."""
        alive = self._alive()
        return bool(alive) and all(member_of(box, rank).get() for rank in alive)

    def _try(self, box: Box) -> None:
        self._number += 1
        try:
            unfinished = self._checkpoints.begin()
        except OSError as error:
            self._fail(f"{error.filename}: {error.strerror}")
            return
        try:
            path = self._take(box, unfinished)
        except OSError as error:
            self._fail(f"{error.filename or unfinished}: {error.strerror or error}")
        except (SnapshotError, DeadlineError) as error:
            self._fail(str(error))
        else:
            if path is not None and self._failure:
                self._failure = ""
                self._lines.put(f"checkpoints in {self._checkpoints.settings.folder} work again")
            self._taken += path is not None
        finally:
            self._checkpoints.discard(unfinished)
            self._release(box)

    def _take(self, box: Box, unfinished: Path) -> Path | None:
        """Take a checkpoint; None: it was given up, as the run ends."""
        request_of(box).set({"number": self._number, "folder": str(unfinished)})
        for rank in self._alive():
            asked_by(box, rank).add(1)
        states = self._gathered(box)
        if states is None:
            return None
        servers = [server_snapshot(Path(path)) for path in box.snapshot(timeout=_WRITE_SECONDS)]
        record = Record(
            taken=time.time(),
            world_size=self._config.workers,
            group_size=self._config.group_size,
            command=list(self._config.command),
            servers=servers,
            states=states,
        )
        return self._checkpoints.commit(unfinished, record)

    def _gathered(self, box: Box) -> list[StateFile] | None:
        """Wait for the states of all workers that live, and return them."""
        deadline = Deadline(_GATHER_SECONDS)
        states: dict[int, list[StateFile]] = {}
        while missing := [rank for rank in self._alive() if rank not in states]:
            for rank in missing:
                answer = answer_of(box, rank).get()
                if answer is None or answer["number"] != self._number:
                    continue
                if answer["failure"]:
                    raise SnapshotError(answer["failure"])
                states[rank] = [StateFile(*each) for each in answer["states"]]
            if deadline.passed:
                ranks = ", ".join(map(str, (rank for rank in missing if rank not in states)))
                if ranks:
                    raise SnapshotError(
                        f"rank {ranks} did not come to the end of a step within {_GATHER_SECONDS:.0f} s\nHINT: a loop"
                        " of its own calls averager.checkpoint() at the end of each step"
                    )
            if self._closing.wait(_LOOK_SECONDS):
                return None
        return [each for states_of in states.values() for each in states_of]

    def _release(self, box: Box) -> None:
        """Let the workers go on."""
        over = over_by(box)
        if (behind := self._number - over.value) > 0:
            over.add(behind)

    def _fail(self, reason: str) -> None:
        if reason != self._failure:
            self._failure = reason
            every = format_seconds(self._checkpoints.settings.every or 0.0)
            self._lines.put(f"no checkpoint was taken: {reason}; it is tried again every {every}")


def _check_alike(record: Record, config: RunConfig, folder: Path) -> None:
    """Raise MismatchError if a checkpoint is of another number of workers, servers, or members of a group."""
    ours = {"-n": config.workers, "--group-size": config.group_size, "--servers": config.servers}
    theirs = {"-n": record.world_size, "--group-size": record.group_size, "--servers": len(record.servers)}
    if wrong := [option for option in ours if ours[option] != theirs[option]]:
        raise MismatchError(
            f"the checkpoints in {folder} are of {_options(theirs, wrong)}, and this run has {_options(ours, wrong)}\n"
            f"HINT: give {_options(theirs, wrong)}, or another folder"
        )


def _options(values: dict[str, int], shown: Sequence[str]) -> str:
    return " ".join(f"{option} {values[option]}" for option in shown)
