"""The emulated cluster, for as short as it can run: that it is what it says, and that nothing of it stays."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest
from bench.cluster.case import Case
from bench.cluster.run import ClusterError, run, unavailable
from bench.figures.bars import final, reached
from bench.figures.definitions import FIGURES
from bench.figures.predict import predict
from bench.figures.scale import ETHERNET, LINK, MODEL, STEP, case, rate
from bench.processes import ROOT

needs_cluster = pytest.mark.skipif(unavailable() is not None, reason=f"no cluster here: {unavailable()}")

POOL = Case(system="pool", workers=2, servers=1, nbytes=1 << 20, rate=20e6, step_seconds=0.0, seconds=1.0, warm_up=1)
"""Clients that exchange 1 MB through links of 20 MB/s."""


@needs_cluster
def test_links_are_as_fast_as_they_are_shaped_and_their_bytes_are_counted() -> None:
    found = run(POOL)
    payload = found.steps * POOL.nbytes
    # two clients through one server's link: its speed, whatever else the machine does, is not exceeded
    assert 0 < payload / found.seconds < 20e6 * 1.1
    assert len(found.sent) == 3
    assert found.sent[2] == pytest.approx(sum(found.sent[:2]), rel=0.2)  # an exchange is as large back as there
    assert sum(found.sent) > 2 * payload * 0.8


@needs_cluster
def test_compressed_exchanges_send_fewer_bytes() -> None:
    found = run(replace(POOL, workers=1, compression="int8"))
    up, down = (sent / (found.steps * POOL.nbytes) for sent in found.sent)
    assert 0.37 < up < 0.55  # 1.52 bytes of 4, the frames of TCP, and parts of exchanges at both ends
    assert 0.25 < down < 0.4


@needs_cluster
def test_a_worker_trains_at_the_pace_of_its_case() -> None:
    found = run(Case(workers=1, nbytes=1 << 20, rate=50e6, step_seconds=0.5, seconds=2.0, warm_up=1))
    assert found.efficiency < 1.02
    assert found.compute_seconds >= 0.5 * 0.99
    assert found.details["exchanges"] >= 1


@needs_cluster
def test_what_fails_inside_is_told_outside() -> None:
    # a model larger than the memory of the server
    with pytest.raises(ClusterError, match="PoolFullError"):
        run(replace(POOL, nbytes=4 << 30))


@needs_cluster
def test_a_killed_measurement_leaves_no_process_and_no_network(tmp_path: Path) -> None:
    file = tmp_path / "case.json"
    file.write_bytes(msgspec.json.encode(replace(POOL, seconds=600.0)))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    before = set(psutil.net_if_addrs())
    with subprocess.Popen([sys.executable, "-m", "bench.cluster.run", str(file)], cwd=ROOT, env=environment) as process:
        deadline = time.monotonic() + 60
        while not (inside := _clients(process.pid)):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(inside, timeout=20)
    assert len(gone) == 2
    assert not alive
    assert set(psutil.net_if_addrs()) == before


def _clients(parent: int) -> list[psutil.Process]:
    """Both clients, as soon as they run."""
    try:
        below = psutil.Process(parent).children(recursive=True)
        found = [process for process in below if process.cmdline()[1:] == ["-m", "bench.cluster.client"]]
    except psutil.NoSuchProcess:
        return []
    return found if len(found) == 2 else []


def test_the_scale_keeps_the_ratio_of_bytes_to_computing() -> None:
    scaled = case()
    assert scaled.rate is not None
    assert scaled.nbytes / (scaled.rate * scaled.step_seconds) == pytest.approx(MODEL / (LINK * STEP))
    assert rate(ETHERNET, MODEL, STEP) == pytest.approx(ETHERNET)


def test_slow_workers_are_the_last_and_speeds_add_up() -> None:
    uneven = case(workers=8, slow=1, slowdown=4.0)
    assert [uneven.step_of(rank) for rank in (0, 6, 7)] == [2.0, 2.0, 8.0]
    assert uneven.ideal == pytest.approx(7 / 2 + 1 / 8)


def test_groups_share_a_host_and_servers_have_their_own() -> None:
    grouped = case(workers=16, hosts=4, group_size=4, servers=2)
    assert [grouped.host_of(rank) for rank in (0, 3, 4, 15)] == [0, 0, 1, 3]
    assert [grouped.host_of_server(server) for server in (0, 1)] == [4, 5]
    assert grouped.all_hosts == 6
    assert case(workers=8, servers=8, colocated=True).all_hosts == 8


def test_every_figure_has_cases_and_the_simulation_says_something_of_enough_of_them() -> None:
    cases = {case for figure in FIGURES.values() for case in figure.cases}
    assert all(figure.cases for figure in FIGURES.values())
    assert all(case.workers % case.group_size == 0 for case in cases)
    for figure, name in (("resnet", "box, 1 server"), ("resnet", "gloo DDP")):
        (line,) = (line for line in FIGURES[figure].lines if line.name == name)
        prediction = predict(line.cases[8])
        assert prediction is not None
        assert 0.8 < prediction.efficiency < 1


def test_an_accuracy_counts_when_it_was_reached_twice() -> None:
    curve = [(1.0, 0.5), (2.0, 0.81), (3.0, 0.79), (4.0, 0.8), (5.0, 0.82), (6.0, 0.84)]
    assert reached(curve, 0.8) == 4.0
    assert reached(curve, 0.9) is None
    assert final(curve) == pytest.approx(0.82)
