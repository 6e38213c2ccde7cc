"""The figures: which cases each needs, and its bars."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.cluster.case import Case
from bench.figures.scale import ETHERNET, INCEPTION, INCEPTION_SECONDS, LINK, SECONDS, case, rate

WORKERS = (1, 2, 4, 8)
SERVERS = (1, 2, 4, 8)
POOL_CLIENTS = 16
"""Twice as many as servers at most, so that the servers' links are what is full."""
POOL_RATE = 48e6
"""Bytes per second of the links on which the pool is measured: eight of them leave the cores time."""

SLOW = rate(LINK / 10)
"""Of a network ten times slower than the original's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line, or one colour of bars: a name, and a case for each x."""

    name: str
    cases: dict[int, Case]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One picture with its table."""

    title: str
    about: str
    x: str
    lines: tuple[Line, ...]

    @property
    def cases(self) -> list[Case]:
        """All cases, each once."""
        return list(dict.fromkeys(case for line in self.lines for case in line.cases.values()))


def _over(workers: tuple[int, ...], base: Case) -> dict[int, Case]:
    return {count: replace(base, workers=count) for count in workers}


def _iteration(link: float, interval: int | str, seconds: float) -> tuple[Line, ...]:
    base = replace(case(rate=link, seconds=seconds), interval=interval)  # type: ignore[arg-type]
    hybrid = replace(base, group_size=2)
    return (
        Line(name="mpi4py all-reduce", cases=_over(WORKERS, replace(base, system="mpi", interval=1))),
        Line(name="gloo DDP", cases=_over(WORKERS, replace(base, system="ddp", interval=1))),
        Line(name="TensorFlow PS", cases=_over(WORKERS, replace(base, system="tensorflow", interval=1))),
        Line(name="box, 1 server", cases=_over(WORKERS, base)),
        Line(
            name="box, a server per host",
            cases={count: replace(base, workers=count, servers=count, colocated=True) for count in WORKERS},
        ),
        Line(
            name="box, hybrid in twos",
            cases={count: replace(hybrid, workers=count, hosts=count // 2) for count in WORKERS if count > 1},
        ),
    )


def _resnet() -> tuple[Line, ...]:
    original = _iteration(rate(), 1, 30.0)
    return tuple(line for line in original if line.name in ("gloo DDP", "TensorFlow PS", "box, 1 server"))


def _inception() -> tuple[Line, ...]:
    counts = (1, 4, 8, 16)
    slower = INCEPTION_SECONDS / SECONDS
    base = case(nbytes=INCEPTION, step_seconds=INCEPTION_SECONDS, rate=rate() / slower, seconds=48.0, warm_up=2)

    def over(base: Case) -> dict[int, Case]:
        return {count: replace(base, workers=count, hosts=max(1, count // 4)) for count in counts}

    hybrid = {count: replace(one, group_size=min(4, count)) for count, one in over(base).items()}
    return (
        Line(name="box, groups of 4", cases=hybrid),
        Line(name="gloo DDP", cases=over(replace(base, system="ddp"))),
        Line(name="TensorFlow PS", cases=over(replace(base, system="tensorflow"))),
    )


def _pool() -> tuple[Line, ...]:
    base = case(system="pool", workers=POOL_CLIENTS, rate=POOL_RATE, step_seconds=0.0, seconds=30.0, warm_up=1)
    return tuple(
        Line(
            name=operation,
            cases={count: replace(base, servers=count, operation=operation) for count in SERVERS},
        )
        for operation in ("read", "add", "exchange")
    )


def _unequal() -> tuple[Line, ...]:
    base = case(workers=8, slow=1, slowdown=4.0, seconds=48.0)
    return (
        Line(name="box", cases={8: base}),
        Line(name="gloo DDP", cases={8: replace(base, system="ddp")}),
        Line(name="TensorFlow PS", cases={8: replace(base, system="tensorflow")}),
    )


MODELS = {"cnn": 826_792, "rnn": 334_376}
"""Bytes of their weights."""
LEARNING_STEP = 0.2
"""Seconds: what two cores can compute eight steps of."""
TARGET = {"cnn": 0.86, "rnn": 0.82}
SINGLE = "a single worker"


def _learning(model: str) -> tuple[Line, ...]:
    network = rate(ETHERNET, MODELS[model], LEARNING_STEP)
    base = case(
        model=model,
        nbytes=MODELS[model],
        step_seconds=LEARNING_STEP,
        rate=network,
        workers=8,
        seconds=240.0,
        warm_up=1,
        accuracy=TARGET[model],
        interval="auto",
    )
    return (
        Line(name="box", cases={8: base}),
        Line(name="gloo DDP", cases={8: replace(base, system="ddp", learning_rate=0.1, interval=1)}),
        Line(name="TensorFlow PS", cases={8: replace(base, system="tensorflow", momentum=0.0, interval=1)}),
        # as many samples as the box has, as fast as the processor does them: only the final accuracy counts
        Line(
            name=SINGLE, cases={1: replace(base, workers=1, step_seconds=0.0, rate=None, interval=100, seconds=110.0)}
        ),
    )


def _peers() -> tuple[Line, ...]:
    base = replace(case(rate=SLOW, seconds=60.0, workers=4), interval=1)
    systems = {"gloo DDP": "ddp", "torchft DiLoCo": "torchft", "hivemind": "hivemind", "DeepSpeed": "deepspeed"}
    others = tuple(Line(name=name, cases={4: replace(base, system=system)}) for name, system in systems.items())  # type: ignore[arg-type]
    return (Line(name="box, 1 server", cases={4: replace(base, interval="auto")}), *others)


FIGURES: dict[str, Figure] = {
    "iteration": Figure(
        title="Computation and communication of an iteration, network ten times slower than the original's",
        about="computing and waiting per iteration, 1 to 8 workers, slow network",
        x="workers",
        lines=_iteration(SLOW, "auto", 60.0),
    ),
    "memory": Figure(
        title="Bandwidth of the pooled memory",
        about="reads, adds and exchanges of 16 clients with 1 to 8 memory servers",
        x="memory servers",
        lines=_pool(),
    ),
    "resnet": Figure(
        title="ResNet-50's ratio of bytes to computing, 1 to 8 nodes",
        about="efficiency at the original's ratio",
        x="workers",
        lines=_resnet(),
    ),
    "inception": Figure(
        title="Inception's ratio, 1 to 16 workers, four on each machine",
        about="efficiency with groups of four",
        x="workers",
        lines=_inception(),
    ),
    "unequal": Figure(
        title="Eight workers, one of them four times slower",
        about="throughput against the sum of speeds",
        x="workers",
        lines=_unequal(),
    ),
    "cnn": Figure(
        title="A CNN on Fashion-MNIST over 1 Gbit/s Ethernet",
        about="test accuracy over seconds, 8 workers",
        x="workers",
        lines=_learning("cnn"),
    ),
    "rnn": Figure(
        title="An LSTM on Fashion-MNIST over 1 Gbit/s Ethernet",
        about="test accuracy over seconds, 8 workers",
        x="workers",
        lines=_learning("rnn"),
    ),
    "peers": Figure(
        title="Other systems, four workers, network ten times slower than the original's",
        about="other ways to train with little communication",
        x="workers",
        lines=_peers(),
    ),
}
