import math
from dataclasses import replace

import pytest

from modum.plan import Cluster, estimate
from modum.plan.estimate import BACKWARD, all_reduce_step
from modum.plan.queueing import mean_exchange

MB = 1_000_000


def test_the_example_of_the_original_platform() -> None:
    """100 MB, 16 workers, 200 ms: 3.2 GB a step, 16 GB/s, 128 Gbit/s at a single server."""
    cluster = Cluster(workers=16, servers=1, link=7e9, server_memory=100e9)
    plan = estimate(cluster, 100 * MB, 0.2, interval=1)
    assert plan.step_bytes == 3.2e9
    assert plan.traffic == pytest.approx(16e9)
    assert 8 * plan.traffic == pytest.approx(128e9)
    assert plan.bottleneck.name == "server link"
    assert plan.bottleneck.demand == pytest.approx(16e9)
    assert plan.bottleneck.load == pytest.approx(16 / 14)
    assert plan.hiding_interval == 2
    assert plan.server_memory == 100 * MB


def test_more_servers_carry_more_until_a_stripe_is_as_short_as_may_be() -> None:
    places = {}
    for servers in (1, 4, 8, 10_000):
        plan = estimate(Cluster(workers=16, servers=servers, link=7e9), 100 * MB, 0.2, interval=1)
        places[servers] = next(place.demand for place in plan.places if place.name == "server link")
    assert places[1] == pytest.approx(16e9)
    assert places[4] == pytest.approx(16e9 * 6 * 4 * 2**20 / (100 * MB), rel=1e-3)  # 23.8 stripes over 4 servers
    assert places[8] == pytest.approx(places[4] / 2)
    assert places[10_000] == pytest.approx(16e9 * 64 * 2**10 / (100 * MB))  # more servers than stripes


def test_a_server_on_a_workers_machine_shares_its_link() -> None:
    apart = Cluster(workers=8, servers=8, link=1e9, server_memory=1e12)
    together = replace(apart, colocated=True)
    nbytes = 8 * 8 * 4 * 2**20
    assert apart.flow(nbytes, 8) == pytest.approx(1e9)
    # each link carries 7/8 of its own worker's bytes and 7/8 of what the others have here
    assert together.flow(nbytes, 8) == pytest.approx(1e9 / (2 * 7 / 8))
    assert Cluster(workers=1, servers=1, link=1.0, colocated=True).flow(nbytes, 1) == pytest.approx(10e9 / 2)


@pytest.mark.parametrize("nbytes", [4, 100 * MB])
@pytest.mark.parametrize("servers", [1, 2])
def test_a_worker_without_a_server_on_its_machine_is_no_faster_than_its_link(servers: int, nbytes: int) -> None:
    cluster = Cluster(workers=4, servers=servers, link=1e9, server_memory=1e12, colocated=True)
    assert cluster.flow(nbytes, 1) == pytest.approx(1e9)
    assert estimate(cluster, nbytes, 0.2).efficiency <= 1


def test_a_group_shares_its_exchange_out_and_pays_for_its_bus() -> None:
    cluster = Cluster(workers=8, group_size=4, servers=8, link=1e9, bus=10e9, copy=1e15, latency=0, server_memory=1e12)
    nbytes = 32 * 4 * 2**20
    assert cluster.flow(nbytes, 1) == pytest.approx(4e9)
    assert cluster.group_average(nbytes) == pytest.approx(2 * 3 / 4 * nbytes / 10e9)
    plan = estimate(cluster, nbytes, 0.2)
    spread = 3 / 4 * nbytes / 10e9
    step = 0.2 + cluster.group_average(nbytes)
    assert plan.interval == 1
    assert plan.efficiency == pytest.approx(0.2 / (step + spread), rel=1e-6)
    assert plan.worker_memory == nbytes // 4 + nbytes
    # Downpour remembers its slice of the shared weights, too
    assert estimate(cluster, nbytes, 0.2, rule="downpour").worker_memory == 2 * nbytes // 4 + nbytes


def test_the_hiding_interval_is_the_first_that_hides() -> None:
    cluster = Cluster(workers=8, link=125e6, latency=0, copy=1e15)
    plan = estimate(cluster, 100 * MB, 0.2)
    assert plan.exchange_seconds <= plan.interval * 0.2
    shorter = estimate(cluster, 100 * MB, 0.2, interval=plan.interval - 1)
    assert shorter.hiding_interval == plan.interval
    assert shorter.bottleneck.load > 0.95  # there was hardly any room left
    assert plan.interval * 0.2 >= 8 * 100 * MB / 125e6  # what the server's link needs for all of them


def test_without_overlap_the_exchange_is_paid_for() -> None:
    cluster = Cluster(workers=1, link=1e9, latency=0, copy=1e15, server_memory=1e12)
    plan = estimate(cluster, 100 * MB, 0.2, interval=2, overlap=False)
    exchange = 0.1 + 2**20 / 1e9  # the last chunk comes back when all have gone
    assert plan.exchange_seconds == pytest.approx(exchange)
    assert plan.efficiency == pytest.approx(0.4 / (0.4 + exchange))


def test_downpour_crosses_twice() -> None:
    cluster = Cluster(workers=1, link=1e9)
    elastic, downpour = (estimate(cluster, 100 * MB, 1.0, rule=rule) for rule in ("elastic", "downpour"))
    assert downpour.exchange_seconds == pytest.approx(2 * elastic.exchange_seconds)


def test_an_all_reduce_hides_under_the_backward_pass_as_far_as_it_can() -> None:
    cluster = Cluster(workers=8, link=1e9, latency=0)
    ring = 2 * 7 / 8 * 0.1
    assert cluster.ring(100 * MB) == pytest.approx(ring)
    assert all_reduce_step(cluster, 100 * MB, 0.2, overlap=False) == pytest.approx(0.2 + ring)
    fast = replace(cluster, link=1e12)
    assert all_reduce_step(fast, 100 * MB, 0.2) == pytest.approx(0.2, rel=1e-3)
    slow = replace(cluster, link=1e7)  # the network never rests once the first bucket is ready
    ready = (1 - BACKWARD) * 0.2 + BACKWARD * 0.2 * 2**20 / (100 * MB)
    assert all_reduce_step(slow, 100 * MB, 0.2) == pytest.approx(ready + 100 * ring)
    assert estimate(slow, 100 * MB, 0.2, rule="allreduce").efficiency == pytest.approx(0.2 / (ready + 100 * ring))


def test_the_queue_against_known_networks() -> None:
    def alone(_: int) -> float:
        return 1.0

    assert mean_exchange(5, 3.0, alone, 2) == pytest.approx(2.0)  # nobody shares anything

    def shared(flows: int) -> float:
        return 1.0 / flows

    # two customers, thinking and served 1 s each: a repairman with two machines is busy 4/5 of the time
    assert mean_exchange(2, 1.0, shared, 1) == pytest.approx(2 / 0.8 - 1)
    assert mean_exchange(1000, 1.0, shared, 1) == pytest.approx(999.0)
    assert math.isfinite(mean_exchange(10_000, 5.0, shared, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cluster(workers=0), r"workers \(0\) must be at least 1"),
        (lambda: Cluster(workers=6, group_size=4), r"group_size \(4\) must divide workers \(6\): it can be 1, 2, 3, 6"),
        (lambda: Cluster(link=0), "link"),
        (lambda: Cluster(latency=-1), "latency"),
        (lambda: Cluster(workers=2, servers=3, colocated=True), "cannot be more"),
        (lambda: estimate(Cluster(), 0, 0.2), "at least 1 byte"),
        (lambda: estimate(Cluster(), 1, 0.0), "step time"),
        (lambda: estimate(Cluster(), 1, 0.2, interval=0), "interval"),
        (lambda: estimate(Cluster(), 1, 0.2, rule="easgd"), "elastic, drift, downpour, allreduce"),
    ],
)
def test_mistakes_are_told_with_the_value_and_the_limit(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


def test_a_link_is_as_full_as_its_fuller_direction() -> None:
    """Compressed, weights need more bytes to the box than differences back: a link's load is that of the way there."""
    cluster = Cluster(workers=8, link=1e8)
    plain, compressed = (
        estimate(cluster, 100_000_000, 0.2, rule=f"elastic:compression={how}", interval=100) for how in ("none", "int8")
    )
    for number in range(2):
        before, now = (
            sorted((place.name, place.load) for place in found.places if "link" in place.name)[number]
            for found in (plain, compressed)
        )
        assert before[1] / now[1] == pytest.approx(4 / (1.5 + 4 / 256), rel=1e-4), now[0]
    assert plain.traffic / compressed.traffic == pytest.approx(8 / (2.5 + 8 / 256), rel=1e-4)
    assert plain.hiding_interval / compressed.hiding_interval == pytest.approx(2.64, rel=0.1)
