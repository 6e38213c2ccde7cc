"""Assign layers to stages, by the user's names or by measurement, the same on all workers."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from modum.errors import DeadlineError, MismatchError
from modum.pipeline.balance import balance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from modum.job import Job
    from modum.pipeline.balance import Layer

__all__ = ["Cuts", "agree"]

_SHOWN: Final = 8
_MEASURE_SECONDS: Final = 300.0
"""How long the other workers wait for the first one to measure the layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cuts:
    """The cuts of a model of named layers, and this worker's stage."""

    layers: tuple[str, ...]
    """All layers, in the order of computation."""
    starts: tuple[int, ...]
    """The first layers of the stages 1, 2, ..."""
    index: int
    """This worker's stage."""

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.starts) + 1

    def bounds(self, stage: int) -> tuple[int, int]:
        """Return the numbers of a stage's first layer and of the first layer after it."""
        ends = (0, *self.starts, len(self.layers))
        return ends[stage], ends[stage + 1]

    @property
    def own(self) -> tuple[int, int]:
        """The bounds of this worker's stage."""
        return self.bounds(self.index)


def agree(
    job: Job,
    layers: Sequence[str],
    *,
    stages: int | None,
    at: Sequence[str] | None,
    forbidden: Mapping[int, str],
    measure: Callable[[], Sequence[Layer]],
    name: str,
) -> Cuts:
    """Return the cuts that all workers of the job use.

    Args:
        job: the job; its world size must be a multiple of `stages`; rank r computes stage `r % stages`.
        layers: names of the layers, in the order of computation.
        stages: number of stages; None: one per worker, or as many as `at` makes.
        at: names of the first layers of stages 1, 2, ...; None: balanced by `measure`, which the first worker calls for
            all.
        forbidden: numbers of layers before which no cut may lie, and why.
        measure: returns the costs of the layers.
        name: name of the pipeline in the box.

    Returns:
        The cuts, with this worker's stage.

    Raises:
        ValueError: a name is not a layer's, a cut is not possible, there are too many stages, or they do not fit
            the number of workers.
        MismatchError: the first worker has another model or other cuts.
        DeadlineError: the first worker has not measured within five minutes.
    """
    starts = None if at is None else _named(layers, at, forbidden)
    if starts is not None:
        if stages is not None and stages != len(starts) + 1:
            raise ValueError(f"stages ({stages}) and at (it makes {len(starts) + 1} stages) differ: give one of them")
        stages = len(starts) + 1
    stages = job.world_size if stages is None else stages
    _check(layers, stages, forbidden, job.world_size)
    if starts is None:
        starts = _balanced(layers, job, stages, forbidden, measure, name)
    return Cuts(layers=tuple(layers), starts=tuple(starts), index=job.rank % stages)


def _named(layers: Sequence[str], at: Sequence[str], forbidden: Mapping[int, str]) -> list[int]:
    starts = []
    for wanted in at:
        if wanted not in layers:
            close = ", ".join(difflib.get_close_matches(wanted, layers, _SHOWN) or layers[:_SHOWN])
            raise ValueError(f"at: none of the {len(layers)} layers is called {wanted!r}. Did you mean {close}?")
        starts.append(list(layers).index(wanted))
    for cut, start in zip(at, starts, strict=True):
        if start == 0:
            raise ValueError(f"at: {cut!r} is the first layer, so that no layer is left for stage 0: name a later one")
        if start in forbidden:
            raise ValueError(f"at: no cut can lie before {cut!r}: {forbidden[start]}. Name another layer")
    if starts != sorted(set(starts)):
        raise ValueError(f"at: {', '.join(at)} must be different layers in the order of the model: {', '.join(layers)}")
    return starts


def _check(layers: Sequence[str], stages: int, forbidden: Mapping[int, str], world_size: int) -> None:
    if stages < 1:
        raise ValueError(f"stages ({stages}) must be at least 1")
    most = len(layers) - len(forbidden)
    if stages > most:
        why = f" ({next(iter(forbidden.values()))})" if forbidden else ""
        raise ValueError(
            f"stages ({stages}) must be at most {most}: the model has {len(layers)} layers"
            f"{f' and {len(forbidden)} places where no cut can lie{why}' if forbidden else ''}. Use fewer stages"
        )
    if world_size % stages:
        raise ValueError(
            f"stages ({stages}) must divide the number of workers ({world_size})\n"
            f"HINT: start one pipeline with `modum run -n {stages} train.py`, two with -n {2 * stages}"
        )


def _balanced(
    layers: Sequence[str],
    job: Job,
    stages: int,
    forbidden: Mapping[int, str],
    measure: Callable[[], Sequence[Layer]],
    name: str,
) -> list[int]:
    """Return the cuts that rank 0 measured: measurements vary, and all workers must cut alike."""
    if stages == 1:
        return []
    cuts = job.box.value(f"{name}/cuts")
    if job.rank == 0:
        starts = balance(measure(), stages, forbidden=forbidden)
        if not cuts.compare_and_set(None, {"layers": list(layers), "starts": starts}):
            raise MismatchError(f"a pipeline {name!r} was cut before in this box: give this one another name=...")
        return starts
    try:
        theirs = cuts.wait(_MEASURE_SECONDS)
    except DeadlineError as error:
        raise DeadlineError(f"rank {job.rank}: waiting for rank 0 to measure the layers: {error}") from None
    if theirs["layers"] != list(layers) or len(theirs["starts"]) != stages - 1:
        raise MismatchError(
            f"rank {job.rank} has {len(layers)} layers ({_some(layers)}) in {stages} stages, but rank 0 has "
            f"{len(theirs['layers'])} ({_some(theirs['layers'])}) in {len(theirs['starts']) + 1}\n"
            "HINT: all workers must build the same model and cut it alike"
        )
    return [int(start) for start in theirs["starts"]]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
