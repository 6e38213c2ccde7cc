"""A training iteration of the Caffe front end against the same net written by hand in PyTorch, one thread each."""

from collections.abc import Iterator

from bench.row import Effort, Row
from bench.timing import take_turns, timed


def measure(effort: Effort) -> Iterator[Row]:
    """One row a net."""
    import torch

    from bench.nets import CONTESTS, by_caffe, by_hand

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for make in CONTESTS:
            contest = make()
            with by_caffe(contest) as solver:
                iterate = by_hand(contest)
                turns = take_turns(
                    {
                        "hand": timed(lambda: [iterate() for _ in range(contest.iterations)]),  # noqa: B023
                        "caffe": timed(lambda: solver.step(contest.iterations)),  # noqa: B023
                    },
                    effort.rounds,
                )
            yield Row(
                what=f"{contest.name}: time of an iteration / that of the same net by hand",
                measured=turns.ratio("caffe", "hand"),
                at_most=contest.at_most,
                detail=f"{contest.iterations} iterations by hand {turns.milliseconds('hand')}, "
                f"by the Caffe front end {turns.milliseconds('caffe')}",
                samples=turns.samples,
                quiet=turns.quiet,
            )
    finally:
        torch.set_num_threads(threads)
