"""Every command of the README runs, as far as one machine can."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.cluster.conftest import LAUNCHERS
from tests.docs.scripts import ROOT, blocks

README = ROOT / "README.md"
ELSEWHERE = {
    "make": "it is what runs these tests, or takes minutes",
    "srun": "it needs Slurm; tests/cluster starts a script by a real one",
}
"""Commands that are not run here, and why."""
SMALLER = {
    "--memory 64GiB": "--memory 64MiB",
    "10.0.0.5:7500 -n 4": "$BOX -n 2",
    "10.0.0.5:7500": "$BOX",
    "--host 10.0.0.5": "--host 127.0.0.1 --port 0",
    "mpirun -n 4": "mpirun -n 2",
    "--nproc-per-node 4": "--nproc-per-node 2",
}
"""What other machines, their memory and some of their workers are replaced with."""


def commands() -> list[list[str]]:
    """Return the lines of the README's blocks of commands, without comments."""
    found = []
    for _, text in blocks(README, "sh"):
        lines = [line.partition("  #")[0].strip() for line in text.splitlines()]
        found.append([line for line in lines if line])
    return found


def reader(folder: Path) -> dict[str, str]:
    """Put train.py, the README's first script, into a folder; return the environment to run commands there."""
    (folder / "train.py").write_text(blocks(README, "python")[0][1])
    ours = {
        name: value
        for name, value in os.environ.items()
        if name == "MODUM_TEST_SESSION" or not name.startswith((*LAUNCHERS, "SLURM"))
    }
    return {**ours, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


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


BLOCKS = {"; ".join(block): block for block in commands()}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_the_commands_of_the_readme_run(block: list[str], tmp_path: Path) -> None:
    """The commands of a block run one after the other, servers beside the rest."""
    environment = reader(tmp_path)
    tools = {written.split()[0] for written in block}
    if tools <= ELSEWHERE.keys():
        pytest.skip("; ".join(f"{tool}: {ELSEWHERE[tool]}" for tool in sorted(tools)))
    with ExitStack() as servers:
        for written in block:
            tool = written.split()[0]
            if tool in ELSEWHERE:
                continue
            command = written
            for large, small in SMALLER.items():
                command = command.replace(large, small)
            if tool == "export":
                name, _, value = command.removeprefix("export ").partition("=")
                environment[name] = run(f'echo "{value}"', tmp_path, environment).strip()
            elif command.startswith("modum server"):
                environment["BOX"] = servers.enter_context(server(command, tmp_path, environment))
            else:
                (tmp_path / "model.pt").unlink(missing_ok=True)
                run(command, tmp_path, environment)
                assert "train.py" not in command or (tmp_path / "model.pt").exists(), f"{command} saved no model"
