"""A worker's part in checkpoints, without a launcher."""

from pathlib import Path

import pytest
import torch

from modum import Job
from modum.box import Box
from modum.checkpoints.worker import Checkpoints
from modum.errors import SnapshotError
from modum.rules import Elastic
from modum.torch import Averager


def job_with_checkpoints(box: Box, resumed: Path | None = None) -> Job:
    return Job(box, checkpoints=Checkpoints(box, 0, on=True, resumed=resumed))


def test_what_has_no_part_in_checkpoints_is_refused(box: Box) -> None:
    with job_with_checkpoints(box) as job:
        with pytest.raises(ValueError, match="a pipeline has no part in the checkpoints of modum run --resume yet"):
            job.checkpoints.refuse("a pipeline")
        with pytest.raises(SnapshotError, match="snapshots are written with the states of all workers"):
            job.snapshot()


def test_only_what_can_be_loaded_again_is_kept(box: Box) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    class Odd:
        def state_dict(self) -> dict[str, object]:
            return {"path": Path("x")}

        def load_state_dict(self, state_dict: dict[str, object]) -> None:
            raise AssertionError("nothing is loaded")

    with job_with_checkpoints(box) as job, Averager(job, model, optimizer, Elastic(interval=2)) as averager:
        with pytest.raises(TypeError, match=r"epoch \(int\) has no state_dict and load_state_dict"):
            averager.keep(epoch=3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="the state of odd could not be loaded again"):
            averager.keep(odd=Odd())
        assert averager.resume() == 0
        assert not averager.checkpoint()
