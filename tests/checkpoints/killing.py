"""Runs of `modum run --resume` whose processes are all killed, and what their checkpoints hold."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import psutil
import torch
from safetensors.numpy import load_file

from modum.box.snapshots.folder import snapshots_in
from modum.box.snapshots.manifest import read_manifest, read_signed
from modum.checkpoints.files import RECORD, WORKERS, Record, read_state
from modum.samples.permutation import Permutation
from tests.processes import TIMEOUT, assert_gone
from tests.support import until

SCRIPTS = Path(__file__).parent / "workers"


class Run:
    """A run of the launcher in a folder, whose checkpoints go to `D` there; after the option `-m`, of a module."""

    def __init__(self, folder: Path, script: str | Path, *arguments: object, options: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", "modum", "run", "--resume", "D", *options]
        self.folder = folder / "D"
        self._texts = folder / "output", folder / "errors"  # files: nobody reads pipes while this waits
        with self._texts[0].open("w") as output, self._texts[1].open("w") as errors:
            self.launcher = subprocess.Popen(
                [*command, str(SCRIPTS / script if options[-1:] != ("-m",) else script), *map(str, arguments)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "COLUMNS": "200"},
                stdout=output,
                stderr=errors,
            )

    def wait_for(self, checkpoint: int) -> None:
        """Wait until a checkpoint of this number, or a later one, was taken; the run must go on till then."""

        def taken() -> bool:
            assert self.launcher.poll() is None, self.texts()
            return newest(self.folder) >= checkpoint

        until(taken, TIMEOUT)

    def texts(self) -> tuple[str, str]:
        """What the run has printed so far, and its errors."""
        output, errors = (path.read_text() for path in self._texts)
        return output, errors

    def kill(self) -> tuple[str, str]:
        """Kill all processes of the run at one moment, and return what they had printed, and their errors."""
        everybody = [psutil.Process(self.launcher.pid)]
        everybody += everybody[0].children(recursive=True)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in everybody:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        self.launcher.wait()
        assert_gone(everybody)
        return self.texts()

    def end(self, status: int = 0) -> tuple[str, str]:
        """What the run has printed until its end, and its errors."""
        self.launcher.wait(TIMEOUT)
        output, errors = self.texts()
        assert self.launcher.returncode == status, errors
        return output, errors


def newest(folder: Path) -> int:
    """The number of the newest checkpoint; 0: there is none."""
    checkpoints = snapshots_in(folder / WORKERS)
    return int(checkpoints[-1].name.removeprefix("snapshot-")) if checkpoints else 0


def averager_of(checkpoint: Path, rank: int) -> dict[str, torch.Tensor]:
    """The weights of a worker in a checkpoint."""
    state = torch.load(io.BytesIO(read_state(checkpoint, rank)["averager model"]), weights_only=True)
    weights: dict[str, torch.Tensor] = state["averager"]["weights"]
    return weights


def check_counts(checkpoint: Path, size: int, group_size: int = 1) -> int:
    """Check that the sum of all weights of a checkpoint has each sample once that is done, and no other.

    Returns:
        How many samples are done.
    """
    record = read_signed(checkpoint / RECORD, Record)
    (server,) = record.servers
    snapshot = checkpoint.parent.parent / server.folder / server.snapshot
    manifest = read_manifest(snapshot)
    (part,) = (part for part in manifest.buffers if part.name == "model/float32")
    total = load_file(snapshot / part.file)["model/float32"][:size].astype(np.float64)
    for rank in range(0, record.world_size, group_size):
        total += averager_of(checkpoint, rank)["weight"][0].numpy()
    queue = manifest.notes.queues["model/samples/0"]
    cut = Permutation(size=size, batch_size=4, block=20)
    done = np.zeros(size)
    for block in set(range(queue.fresh)) - set(queue.returned):
        done[np.concatenate(cut.batches(block))] = 1
    for block in queue.returned:
        begun = manifest.notes.values.get(f"model/samples/0/begun/{block}", b"\x00")
        done[np.concatenate(cut.batches(block))[: msgspec.msgpack.decode(begun)]] = 1
    np.testing.assert_allclose(total, done, atol=1e-4)
    return int(done.sum())
