"""Every command of the README and of docs/ runs, as far as one machine can."""

import gzip
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.cluster.conftest import LAUNCHERS
from tests.docs.prepare import prepare
from tests.docs.scripts import DOCUMENTS, ROOT, blocks

README = ROOT / "README.md"
ELSEWHERE = {
    "make ": "it is what runs these tests, or takes minutes",
    "srun ": "it needs Slurm; tests/cluster starts a script by a real one",
    "python -m venv ": "tests/docs/test_wheel.py makes an environment",
    ". venv/": "there is no such environment",
    "pip install ": "it downloads; tests/docs/test_wheel.py installs the wheel",
    "modum join ": "it needs a job that runs; tests/run/test_joining.py has some",
    "modum data ": "it downloads; tests/data has a server of its own",
    ".venv/bin/python -m bench.compression ": "it takes minutes, and needs root; tests/bench has a case of it",
    ".venv/bin/python -m bench.snapshots ": "it takes minutes; tests/bench has a small case of it",
    ".venv/bin/python -m bench --only ": "it takes minutes; tests/bench runs the benchmarks on small arrays",
    ".venv/bin/python -m bench --json ": "it takes minutes; tests/bench runs the benchmarks on small arrays",
}
"""How commands begin that are not run here, and why."""
SMALLER = {
    "--hosts 2 -n 4": "--hosts 1 -n 2",
    "encrypt://10.0.0.5:7500 -n 4": "$BOX -n 2",
    "encrypt://10.0.0.5:7500": "$BOX",
    "10.0.0.5:7500,10.0.0.6:7500 -n 4": "$BOX -n 2",
    "10.0.0.5:7500 -n 4": "$BOX -n 2",
    "10.0.0.5:7500": "$BOX",
    "--host 10.0.0.5": "--host 127.0.0.1 --port 0",
    "--memory 64GiB": "--memory 64MiB",
    "mpirun -n 4": "mpirun -n 2",
    "mpirun -n 8": "mpirun -n 1",
    "--nproc-per-node 4": "--nproc-per-node 2",
    "-n 4 --group-size 2 -m modum caffe": "-n 2 --group-size 2 -m modum caffe",
    "--workers 4": "--workers 2",
    "--snapshot-every 30s": "--snapshot-every 50ms",
    "--iterations=100": "--iterations=2",
    "=lenet_iter_5000": "=net_iter_2",
    "=lenet_iter_10000": "=net_iter_4",
    "=lenet_iter_3750": "=lenet_iter_4",
    "=bvlc_alexnet": "=net_iter_4",
    "~/.cache/modum": "$PWD",
    "-n 1000 --servers 64": "-n 16 --servers 4 --steps 20",
    "--stragglers 50x4": "--stragglers 2x4",
    ".venv/bin/python": f"PYTHONPATH={ROOT}:$PYTHONPATH {sys.executable}",
}
"""What other machines, their memory, and much of the work are replaced with."""
SHORT = {"max_iter": 4, "snapshot": 2, "test_iter": 1}
"""What solvers of Caffe are told."""
TRAIN = """
import modum
with modum.connect() as job:
    if job.rank == 0:
        open("model.pt", "w").close()
"""
"""A script that is launched, in place of those of docs/: tests/docs/test_python.py runs them."""
LAUNCH = re.compile(r"train\.py|--workers")
ASSIGNMENT = re.compile(r"(?:export )?(\w+)=(\S+|\$\(.*\))")


def commands(text: str) -> list[str]:
    """Return the lines of a block, without comments."""
    lines = [line.partition("  #")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line]


def reason_against(command: str) -> str | None:
    """Return why a command is not run here; None if it is."""
    return next((reason for beginning, reason in ELSEWHERE.items() if f"{command} ".startswith(beginning)), None)


def reader(document: Path, folder: Path) -> dict[str, str]:
    """Put what the commands of a document need into a folder; return the environment to run them there."""
    prepare(document, folder)
    (folder / "train.py").write_text(blocks(README, "python")[0][1] if document == README else TRAIN)
    if document.parent.name == "tutorials" and document.stem == "caffe":
        example(folder / "examples" / "caffe")
    for solver in folder.rglob("solver.prototxt"):
        kept = [line for line in solver.read_text().splitlines() if line.partition(":")[0] not in SHORT]
        solver.write_text("\n".join([*kept, *(f"{name}: {value}" for name, value in SHORT.items())]))
    ours = {
        name: value
        for name, value in os.environ.items()
        if name == "MODUM_TEST_SESSION" or not name.startswith((*LAUNCHERS, "SLURM"))
    }
    return {**ours, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def example(folder: Path) -> None:
    """Put the example for Caffe into a folder, with a few pictures in place of the data set's."""
    shutil.copytree(ROOT / "examples" / "caffe", folder)
    (folder / "train.py").write_text(TRAIN)
    pictures = folder / "fashion-mnist"
    pictures.mkdir()
    for name in ("train", "t10k"):
        for kind, sizes in {"images-idx3": (200, 28, 28), "labels-idx1": (200,)}.items():
            header = bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4) for size in sizes)
            content = header + bytes(number % 10 for number in range(math.prod(sizes)))
            (pictures / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))


def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    """Run one command to its end, and return what it printed."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def server(command: str, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run a `modum server`; yield its address."""
    with subprocess.Popen(
        ["/bin/sh", "-c", f"exec {command}"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("modum server listening on ").strip()
        finally:
            process.terminate()


def pages() -> Iterator[tuple[Path, list[str]]]:
    """Return the commands that are run one after the other: a block of the README, or all of another document.

    What starts workers is run once for all documents in docs/.
    """
    launched: set[str] = set()
    for document in DOCUMENTS:
        found = [commands(text) for _, text in blocks(document, "sh")]
        if document == README:
            yield from ((document, block) for block in found)
        elif found:
            written = [command for block in found for command in block if command not in launched]
            launched.update(command for command in written if LAUNCH.search(command))
            yield document, written


PAGES = {f"{document.relative_to(ROOT)}: {'; '.join(page)[:60]}": (document, page) for document, page in pages()}


@pytest.mark.parametrize(("document", "page"), PAGES.values(), ids=PAGES)
def test_the_commands_of_the_docs_run(document: Path, page: list[str], tmp_path: Path) -> None:
    """The commands of a page run one after the other, servers beside the rest."""
    reasons = {written: reason for written in page if (reason := reason_against(written))}
    if len(reasons) == len(page):
        pytest.skip("; ".join(f"{written}: {reason}" for written, reason in reasons.items()))
    folder, environment = tmp_path, reader(document, tmp_path)
    with ExitStack() as servers:
        for written in page:
            if written in reasons:
                continue
            command = written
            for large, small in SMALLER.items():
                command = command.replace(large, small)
            if assigned := ASSIGNMENT.fullmatch(command):
                environment[assigned[1]] = run(f'echo "{assigned[2]}"', folder, environment).strip()
            elif command.startswith("cd "):
                folder /= command.removeprefix("cd ")
            elif command.startswith("modum server"):
                machines = 2 if any("10.0.0.6:7500" in other for other in page) else 1
                addresses = [servers.enter_context(server(command, folder, environment)) for _ in range(machines)]
                environment["BOX"] = ",".join(addresses)
            else:
                (folder / "model.pt").unlink(missing_ok=True)
                run(command, folder, environment)
                assert "train.py" not in command or (folder / "model.pt").exists(), f"{command} saved no model"


def test_no_reason_and_no_replacement_is_left_over() -> None:
    written = [command for _, page in PAGES.values() for command in page]
    assert [prefix for prefix in ELSEWHERE if not any(f"{command} ".startswith(prefix) for command in written)] == []
    assert [large for large in SMALLER if not any(large in command for command in written)] == []
