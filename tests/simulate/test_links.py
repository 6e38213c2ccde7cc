import pytest
import simpy

from modum.simulate.links import Flow, SharedLink


def run(arrivals: list[tuple[float, float]], rate: float, most: float = 1e9) -> list[float]:
    """When each of (time, bytes) has crossed a link of ``rate`` bytes per second, at most ``most`` each."""
    environment = simpy.Environment()
    link = SharedLink(environment, lambda flows: min(most, rate / flows))
    ends = [0.0] * len(arrivals)

    def send(index: int, time: float, nbytes: float):  # type: ignore[no-untyped-def]
        yield environment.timeout(time)
        yield link.transfer(nbytes)
        ends[index] = environment.now

    for index, (time, nbytes) in enumerate(arrivals):
        environment.process(send(index, time, nbytes))
    environment.run()
    assert link.active == 0
    return ends


def test_one_flow_has_the_link_to_itself() -> None:
    assert run([(1.0, 50.0)], 10.0) == pytest.approx([6.0])


def test_flows_share_equally() -> None:
    # alone for 2 s, then both at half the rate until the small one is done, then alone again
    assert run([(0.0, 50.0), (2.0, 10.0)], 10.0) == pytest.approx([6.0, 4.0])


def test_a_flow_is_no_faster_than_its_own_link() -> None:
    assert run([(0.0, 10.0), (0.0, 10.0)], 10.0, most=2.0) == pytest.approx([5.0, 5.0])


def test_many_flows_together_take_what_their_bytes_take() -> None:
    ends = run([(0.001 * k, 10.0) for k in range(1000)], 100.0)
    assert max(ends) == pytest.approx(100.0)
    assert ends == sorted(ends)


def test_a_cancelled_flow_leaves_its_share_to_the_others() -> None:
    environment = simpy.Environment()
    link = SharedLink(environment, lambda flows: 10.0 / flows)
    flows: list[Flow] = [link.transfer(50.0), link.transfer(50.0)]
    environment.run(until=2.0)
    flows[0].cancel()
    environment.run(until=flows[1])
    assert environment.now == pytest.approx(6.0)
    assert not flows[0].triggered
    assert link.busy == pytest.approx(6.0)
