"""The figures: which cases each needs, and its bars."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bench.cluster.case import Case, Operation
from bench.figures.scale import ETHERNET, INCEPTION, INCEPTION_SECONDS, LINK, SECONDS, case, rate

WORKERS = (1, 2, 4, 8)
SERVERS = (1, 2, 4, 8)
POOL_CLIENTS = 16
"""Twice as many as servers at most, so that the servers' links are what is full."""
LARGE, LARGE_EXCHANGE = 256 << 20, "exchange of 268 MB"
"""For the largest pool only: what a buffer of eight times the size makes of it."""
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
    note: str = ""
    """What else a reader should know; stands above the table."""

    @property
    def cases(self) -> list[Case]:
        """All cases, each once."""
        return list(dict.fromkeys(case for line in self.lines for case in line.cases.values()))


def _over(workers: tuple[int, ...], base: Case) -> dict[int, Case]:
    return {count: replace(base, workers=count) for count in workers}


def _iteration() -> tuple[Line, ...]:
    several = WORKERS[1:]  # one worker of these has nobody to talk to
    synchronous = case(rate=SLOW, seconds=30.0)
    box = replace(synchronous, interval="auto", seconds=40.0)  # the interval settles first
    hybrid = replace(box, group_size=2)
    return (
        Line(name="mpi4py all-reduce", cases=_over(several, replace(synchronous, system="mpi"))),
        Line(name="gloo DDP", cases=_over(several, replace(synchronous, system="ddp"))),
        Line(name="TensorFlow PS", cases=_over(WORKERS, replace(synchronous, system="tensorflow", seconds=40.0))),
        Line(name="box, 1 server", cases=_over(WORKERS, box)),
        Line(
            name="box, a server per host",
            cases={count: replace(box, workers=count, servers=count, colocated=True) for count in several},
        ),
        Line(
            name="box, hybrid in twos",
            cases={count: replace(hybrid, workers=count, hosts=count // 2) for count in several},
        ),
    )


def _resnet() -> tuple[Line, ...]:
    base = case(seconds=30.0)
    return (
        Line(name="box, 1 server", cases=_over(WORKERS, base)),
        Line(name="gloo DDP", cases=_over(WORKERS, replace(base, system="ddp"))),
        Line(name="TensorFlow PS", cases=_over(WORKERS, replace(base, system="tensorflow"))),
    )


def _inception() -> tuple[Line, ...]:
    slower = INCEPTION_SECONDS / SECONDS
    base = case(nbytes=INCEPTION, step_seconds=INCEPTION_SECONDS, rate=rate() / slower, seconds=40.0, warm_up=2)

    def over(base: Case) -> dict[int, Case]:
        return {count: replace(base, workers=count, hosts=count // 4) for count in (8, 16)}

    hybrid = {count: replace(one, group_size=4) for count, one in over(base).items()}
    return (
        Line(name="box, groups of 4", cases={1: base, **hybrid}),
        Line(name="gloo DDP", cases=over(replace(base, system="ddp"))),
        Line(name="TensorFlow PS", cases=over(replace(base, system="tensorflow"))),
    )


def _pool() -> tuple[Line, ...]:
    base = case(system="pool", workers=POOL_CLIENTS, rate=POOL_RATE, step_seconds=0.0, seconds=20.0, warm_up=1)
    operations: tuple[Operation, ...] = ("read", "add", "exchange")
    lines = tuple(
        Line(name=one, cases={count: replace(base, servers=count, operation=one) for count in SERVERS})
        for one in operations
    )
    large = replace(base, nbytes=LARGE, servers=SERVERS[-1], seconds=30.0)
    return (*lines, Line(name=LARGE_EXCHANGE, cases={SERVERS[-1]: large}))


def _unequal() -> tuple[Line, ...]:
    base = case(workers=8, slow=1, slowdown=4.0, seconds=40.0)
    return (
        Line(name="box", cases={8: base}),
        Line(name="gloo DDP", cases={8: replace(base, system="ddp")}),
        Line(name="TensorFlow PS", cases={8: replace(base, system="tensorflow")}),
    )


MODELS = {"cnn": 826_792, "rnn": 334_376}
"""Bytes of their weights."""
TARGET = {"cnn": 0.80, "rnn": 0.80}
LEARNING_SECONDS = 300.0
SINGLE = "a single worker"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """What suits a model: each system has the learning rate with which it was the first at the target.

    ``step`` is in seconds: what two cores can compute eight steps of. Peers are watched for ``peer_seconds``.
    """

    step: float
    peer_seconds: float
    optimizer: Literal["sgd", "adam"]
    box: float
    ddp: float
    tensorflow: float
    moving_rate: float | Literal["auto"] = "auto"


TUNED = {
    "cnn": Tuned(step=0.1, peer_seconds=130.0, optimizer="sgd", box=0.05, ddp=0.1, tensorflow=0.05),
    "rnn": Tuned(step=0.2, peer_seconds=250.0, optimizer="adam", box=0.01, ddp=0.02, tensorflow=0.005, moving_rate=0.4),
}


def _learning(model: str) -> tuple[Line, ...]:
    tuned = TUNED[model]
    base = case(
        model=model,
        nbytes=MODELS[model],
        step_seconds=tuned.step,
        rate=rate(ETHERNET, MODELS[model], tuned.step),
        workers=8,
        seconds=tuned.peer_seconds,
        warm_up=1,
        accuracy=TARGET[model],
        optimizer=tuned.optimizer,
    )
    box = replace(
        base,
        seconds=LEARNING_SECONDS,
        learning_rate=tuned.box,
        moving_rate=tuned.moving_rate,
        interval="auto",
        servers=8,
        colocated=True,
    )
    # momentum makes asynchronous gradients worse: their age acts like one (Mitliagkas et al. 2016)
    tensorflow = replace(base, system="tensorflow", learning_rate=tuned.tensorflow, momentum=0.0)
    alone = replace(base, system="ddp", workers=1, step_seconds=0.0, rate=None, learning_rate=tuned.box)
    return (
        Line(name="box", cases={8: box}),
        Line(name="gloo DDP", cases={8: replace(base, system="ddp", learning_rate=tuned.ddp)}),
        Line(name="TensorFlow PS", cases={8: replace(tensorflow, servers=8, colocated=True)}),
        # as fast as the processor does them: only the final accuracy counts
        Line(name=SINGLE, cases={1: replace(alone, seconds=900.0, steps=round(LEARNING_SECONDS * box.ideal))}),
    )


def _learning_note(model: str) -> str:
    tuned = TUNED[model]
    moving = "" if tuned.moving_rate == "auto" else f" with a moving rate of {tuned.moving_rate}"
    optimizer = {"sgd": "SGD with momentum 0.9 (TensorFlow's without, for its gradients are old)", "adam": "Adam"}
    return (
        "Real training, timed on the emulated cluster. A model as large as ResNet-50 would have steps of"
        f" {tuned.step:g} s and links of 1 Gbit/s. Each worker has batches of 32 and {optimizer[tuned.optimizer]};"
        f" learning rates are {tuned.box} (box){moving}, {tuned.ddp} (DDP) and {tuned.tensorflow} (TensorFlow): of"
        f" some that were tried for each, the one that reached {TARGET[model]:.0%} first. The box has a memory server"
        " on each worker's host; TensorFlow has a parameter server there, with large variables cut over all of them."
        " The single worker is PyTorch by itself with the box's learning rate; it does as many samples as eight workers"
        " that never wait, however long that takes."
    )


def _peers() -> tuple[Line, ...]:
    base = case(rate=SLOW, seconds=40.0, workers=4)
    return (
        Line(name="box, 1 server", cases={4: replace(base, interval="auto")}),
        Line(name="gloo DDP", cases={4: replace(base, system="ddp", seconds=30.0)}),
        Line(name="mpi4py accumulate", cases={4: replace(base, system="accumulate")}),
        Line(name="torchft DiLoCo", cases={4: replace(base, system="torchft")}),
        Line(name="hivemind", cases={4: replace(base, system="hivemind")}),
        Line(name="DeepSpeed", cases={4: replace(base, system="deepspeed")}),
    )


FIGURES: dict[str, Figure] = {
    "iteration": Figure(
        title="Computation and communication of an iteration, network ten times slower than the original's",
        about="computing and waiting per iteration, 1 to 8 workers, slow network",
        x="workers",
        lines=_iteration(),
    ),
    "memory": Figure(
        title="Bandwidth of the pooled memory",
        about="reads, adds and exchanges of 16 clients with 1 to 8 memory servers",
        x="memory servers",
        lines=_pool(),
        note=f"{POOL_CLIENTS} clients, each on a host of its own, do one operation after the other on one buffer, which"
        f" lies on all servers. Every link has {8 * POOL_RATE / 1e6:.0f} Mbit/s each way; an exchange fills both ways."
        " The buffer has 33.6 MB. The dashed lines are straight. Capacity is the servers' memory added up."
        " An exchange of little falls behind: a chunk of 1 MiB must be there whole before its reply begins, and clients"
        " that keep a link full fall into step, all sending while nobody receives. With n chunks on each server that"
        " leaves about n / (n + 1): 0.8 for the 4 chunks that each of eight servers has of 33.6 MB.",
    ),
    "resnet": Figure(
        title="ResNet-50's ratio of bytes to computing, 1 to 8 nodes",
        about="efficiency at the original's ratio",
        x="workers",
        lines=_resnet(),
        note="At this ratio the links have room, and each system loses what it does not hide: TensorFlow reads weights"
        " before a step and writes gradients after it; an all-reduce ends after the backward pass. The original was"
        " 35 % better than the TensorFlow of its day; today's loses less. The slow network of the first figure tells"
        " them apart.",
    ),
    "inception": Figure(
        title="Inception's ratio, 1 to 16 workers, four on each machine",
        about="efficiency with groups of four",
        x="workers",
        lines=_inception(),
        note="Half of ResNet-50's bytes; steps and links are half as fast, for two cores carry sixteen workers. Workers"
        " on a machine share its link. Those of the box average their gradients inside it, so that a machine exchanges"
        " once, not four times. The original was twice as fast as the TensorFlow of its day.",
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
        note=_learning_note("cnn"),
    ),
    "rnn": Figure(
        title="An LSTM on Fashion-MNIST over 1 Gbit/s Ethernet",
        about="test accuracy over seconds, 8 workers",
        x="workers",
        lines=_learning("rnn"),
        note=_learning_note("rnn"),
    ),
    "peers": Figure(
        title="Other systems, four workers, network ten times slower than the original's",
        about="other ways to train with little communication",
        x="workers",
        lines=_peers(),
        note="DiLoCo of torchft meets every 10 steps; hivemind averages its peers' weights after 10 steps of each."
        " mpi4py exchanges elastically with the windows of all ranks after each step (get, then accumulate, each under"
        " a lock); its progress threads poll, and the cores are full. DeepSpeed is ZeRO stage 1 over gloo. Each runs as"
        " its documentation has it.",
    ),
}
