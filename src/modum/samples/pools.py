"""The pools of samples of a job, one after the other."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from modum.samples.shared import SharedSamples

if TYPE_CHECKING:
    from collections.abc import Callable

    from modum.groups import Group
    from modum.job import Job
    from modum.samples.shared import Boundaries

_log = logging.getLogger("modum.samples")


class SamplePools:
    """Numbers the pools of a job: the first pools of all workers are the same pool, and so are the second ones.

    A loop may make one for each epoch. Pools of one name are numbered through the whole job, whoever makes them.

    Args:
        job: whose workers share the samples.
        name: name of the pools in the box.
        group: the workers that step together with this one.
        leaving: whether this worker leaves the job; in a group, all members find the same at the same batch.
        boundaries: called between batches.
    """

    def __init__(
        self,
        job: Job,
        name: str,
        group: Group[Any],
        leaving: Callable[[], bool] = lambda: False,
        boundaries: Boundaries | None = None,
    ) -> None:
        self._job = job
        self._name = name
        self._group = group
        self._leaving = leaving
        self._boundaries = boundaries
        self._told = False
        self._pools: list[SharedSamples] = []
        """Those that may hold samples still."""
        self._control = job.control(name)

    @property
    def total(self) -> int:
        """Samples of all pools of the job so far, over all epochs."""
        return self._job.counts["samples"]

    def pool(self, *, size: int, batch_size: int, epochs: int = 1, **options: Any) -> SharedSamples:
        """Make the next pool, and report progress through it to the job.

        Args:
            size: number of samples.
            batch_size: samples in a batch of the whole group.
            epochs: how many times each sample is handed out.
            **options: `block`, `seed`, `timeout`, `group` and `stopped` of `SharedSamples`; by default, `Job.control`
                of the pools' name stops them, and `Job.timeouts` say how long to wait.

        Returns:
            The pool.

        Raises:
            ValueError: an argument is out of its range.
            MismatchError: other workers made the pool of this number with other settings.
        """
        pools = f"{self._name}/samples"
        before, number = self.total, self._job.counts[pools]

        def report(*, samples: int, total: int) -> None:
            self._job.report(samples=samples, total=before + total)

        shared = SharedSamples(
            self._job.box,
            size=size,
            batch_size=batch_size,
            epochs=epochs,
            name=f"{pools}/{number}",
            report=report,
            ended=lambda: self._job.report(finished=before + shared.total),
            leaving=self._leaving,
            boundaries=self._boundaries,
            **{
                "timeout": self._job.timeouts.others,
                "group": self._group,
                "stopped": lambda: self._control.should_stop,
                **options,
            },
        )
        begun = self._job.box.value(f"{pools}/{number}/run").set_default(self._job.attempt)
        asked_to = self._job.checkpoints.resumes
        if begun != self._job.attempt and self._job.rank == 0 and not self._told and not asked_to:
            self._told = True
            _tell_of_earlier_run(shared)
        self._pools = [*(pool for pool in self._pools if pool.holds), shared]
        self._job.counts[pools] += 1
        self._job.counts["samples"] += shared.total
        return shared

    def note(self) -> None:
        """Note in the box how much is done of what is held here: see `SharedSamples.note`."""
        for shared in self._pools:
            shared.note()

    def forget(self) -> None:
        """Forget what `note` has noted."""
        for shared in self._pools:
            shared.forget()

    def give_back(self) -> None:
        """Hand out again what loops over these pools have taken and not done: nobody goes on with them here."""
        for shared in self._pools:
            shared.give_back()


def _tell_of_earlier_run(samples: SharedSamples) -> None:
    """Say what an earlier run of the job, in the same box, has left to do."""
    done, blocks = samples.done_blocks, samples.permutation.blocks
    if done == blocks:
        left = f"all {samples.total:,} samples, so nothing is left to train"
    else:
        left = f"{done} of {blocks} blocks of its {samples.total:,} samples; this run goes on with the rest"
    _log.warning(
        "an earlier run of a job of this name has done, in this box, %s\n"
        "HINT: to train anew, give the job another name (modum run --name second, or MODUM_JOB=second for every"
        " worker), or start the memory servers anew",
        left,
    )
