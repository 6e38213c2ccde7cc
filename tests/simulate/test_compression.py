"""Compressed exchanges in virtual time: their bytes, and their rounding."""

import numpy as np
import pytest
import simpy
from tests.support import Floats

from modum.box.compression import COMPRESSIONS
from modum.box.kernels import Leave
from modum.plan import Cluster
from modum.simulate import Report, Scenario, simulate
from modum.simulate.links import SharedLink
from modum.simulate.virtual import VirtualBuffer
from modum.testing.transport import fresh_box

SIZE = 1000
TIMES = {"bfloat16": 2.0, "int8": 2.64}
"""How many exchanges cross a full link in the time of one that is not compressed."""


def simulated(compression: str, train: bool) -> Report:
    """A job whose exchanges fill the link: 100 MB at every step."""
    cluster = Cluster(workers=2, link=1e8)
    rule = f"elastic:compression={compression},interval=1"
    return simulate(Scenario(cluster=cluster, step_seconds=0.1, steps=60, rule=rule), train=train)


@pytest.mark.parametrize("train", [False, True])
def test_on_a_full_network_an_exchange_takes_the_time_of_its_bytes(train: bool) -> None:
    plain = simulated("none", train)
    for name, times in TIMES.items():
        compressed = simulated(name, train)
        assert plain.exchange_seconds.median / compressed.exchange_seconds.median == pytest.approx(times, rel=0.1)


def test_simulated_training_rounds_as_a_real_exchange_does() -> None:
    W, G = np.random.default_rng(1).standard_normal((2, SIZE)).astype(np.float32)
    with fresh_box("tcp", 1) as box:
        for chosen in COMPRESSIONS.values():
            name = chosen.name
            link = SharedLink(simpy.Environment(), lambda flows: 1.0)
            virtual = VirtualBuffer(G.copy(), 4 * SIZE, link, link, 0.0, lambda: 0, lambda: None)
            virtual.instant = True
            real = box.create(name, SIZE)
            real.write(G)
            leaves: tuple[Leave, ...] = ("difference", "present", "moved")
            for leave in leaves:
                results: list[tuple[Floats, Floats]] = []
                for buffer in (virtual, real):
                    x = W[:700].copy()
                    buffer.exchange(x, 0.3, offset=100, leave=leave, compression=name)
                    results.append((x, buffer.read(np.empty(SIZE, np.float32))))
                for one, other in zip(*results, strict=True):
                    np.testing.assert_array_equal(one, other)
