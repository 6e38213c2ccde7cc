"""Workers that meet agree on one box, or are all told why not."""

import dataclasses
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.cluster.links import HeldLink

from modum.box import Box, Server
from modum.cluster.bootstrap import Bootstrap
from modum.cluster.by_hand import ByHand
from modum.cluster.environment import ClusterEnvironment
from modum.cluster.munge import MungeError, seal
from modum.cluster.registration import Registration, check_free
from modum.cluster.rendezvous import BoxRendezvous
from modum.cluster.slurm import Slurm
from modum.cluster.slurm_rendezvous import ports_of
from modum.cluster.torchelastic import TorchElastic
from modum.errors import DeadlineError, MismatchError, ModumError
from modum.waiting import poll

pytestmark = pytest.mark.usefixtures("bare_environment")

SECONDS = 20.0


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(memory=2**24, grace=0.2) as one:
        yield one


def together(workers: int, act: Callable[[int], Any]) -> list[Any]:
    """What `act(rank)` of each worker returned, or the exception that it raised."""

    def guarded(rank: int) -> Any:
        try:
            return act(rank)
        except (ModumError, ValueError) as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(guarded, range(workers)))


def meet(server: Server, rank: int, world_size: int, timeout: float = SECONDS) -> BoxRendezvous:
    return BoxRendezvous(Box.connect(server.address, transport="tcp"), rank, world_size, timeout)


class TestARendezvous:
    def test_gives_everybody_what_all_gave_in_every_round(self, server: Server) -> None:
        def worker(rank: int) -> list[list[str]]:
            with meet(server, rank, 3) as rendezvous:
                return [rendezvous.gather(f"{rank}, round {number}: ü") for number in range(2)]

        rounds = [[f"{rank}, round {number}: ü" for rank in range(3)] for number in range(2)]
        assert together(3, worker) == [rounds] * 3

    def test_names_those_that_did_not_come(self, server: Server) -> None:
        with meet(server, 1, 4, timeout=0.2) as rendezvous:
            message = r"3 of 4 workers \(rank 0, 2, 3\) did not come to modum\.connect\(\) within 0\.2 s\nHINT: "
            with pytest.raises(DeadlineError, match=message):
                rendezvous.gather("here")

    def test_refuses_a_rank_that_came_before(self, server: Server) -> None:
        with (
            meet(server, 1, 2),
            Box.connect(server.address, transport="tcp") as box,
            pytest.raises(MismatchError, match=r"rank 1 came twice .* of 2 workers: two jobs .*\nHINT: "),
        ):
            BoxRendezvous(box, 1, 2, SECONDS)


class TestABootstrap:
    def bootstrap(self, server: Server, *places: ClusterEnvironment, then: Callable[[Bootstrap], Any]) -> list[Any]:
        def worker(rank: int) -> Any:
            with meet(server, rank, len(places)) as rendezvous:
                bootstrap = Bootstrap(places[rank], rendezvous)
                try:
                    return then(bootstrap)
                finally:
                    bootstrap.close()

        return together(len(places), worker)

    def test_has_the_servers_of_all_hosts_and_one_token(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MODUM_SERVERS", "2")
        monkeypatch.setenv("MODUM_MEMORY", "16MiB")
        places = [ByHand(rank=rank, world_size=3, local_rank=(0, 1, 0)[rank]) for rank in range(3)]
        all_there = threading.Barrier(3)

        def use(bootstrap: Bootstrap) -> tuple[tuple[str, ...], str | None, int]:
            assert bootstrap.master is None
            with Box.connect(bootstrap.servers, token=bootstrap.token) as box:
                box.counter("here").add(1)
                bootstrap.agree(None)
                all_there.wait(SECONDS)
                here = box.counter("here").value
                all_there.wait(SECONDS)  # whoever returns takes the servers of its host away
                return bootstrap.servers, bootstrap.token, here

        results = self.bootstrap(server, *places, then=use)
        (servers, token, _), *_ = results
        assert results == [(servers, token, 3)] * 3
        assert len(servers) == 4
        assert token

    def test_knows_where_the_members_of_each_group_can_meet(self, server: Server) -> None:
        places = [ByHand(rank=rank, world_size=4, local_rank=rank, group_size=2) for rank in range(4)]
        masters = self.bootstrap(server, *places, then=lambda bootstrap: bootstrap.master)
        assert masters[0] == masters[1] != masters[2] == masters[3]
        assert [address for address, _ in masters] == ["127.0.0.1"] * 4

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"world_size": 4},
                r"rank 1 on .* has world size 4, not 2 as rank 0 on .*\nHINT: start all workers by one",
            ),
            ({"group_size": 2}, r"rank 1 on .* has group size 2, not 1 as rank 0 on .*\nHINT: "),
            ({"rank": 0}, r"rank 1 on .* has rank 0, not 1 as rank 0 on .*\nHINT: "),
            ({"job": "other"}, r"rank 1 on .* has name of the job \(MODUM_JOB\) 'other', not '' as rank 0"),
            ({"box_servers": ("a:1",)}, r"rank 1 on .* has box \(MODUM_BOX\) \['a:1'\], not \[\] as rank 0"),
        ],
    )
    def test_of_workers_that_differ_is_refused_by_all(
        self, server: Server, changes: dict[str, Any], message: str
    ) -> None:
        places = [ByHand(rank=rank, world_size=2, local_rank=rank) for rank in range(2)]
        places[1] = dataclasses.replace(places[1], **changes)
        for error in self.bootstrap(server, *places, then=lambda _: None):
            with pytest.raises(MismatchError, match=message):
                raise error

    def test_ends_for_all_when_one_cannot_go_on(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        places = [ByHand(rank=rank, world_size=2, local_rank=rank) for rank in range(2)]
        monkeypatch.setenv("MODUM_SERVERS", "none")
        first, second = self.bootstrap(server, *places, then=lambda _: None)
        assert (
            str(first)
            == "MODUM_SERVERS='none' is not an integer\nHINT: set it to the number of memory servers on each host"
        )
        assert str(second) == f"rank 0: {first}"

    def test_ends_for_all_when_one_cannot_join_the_box(self, server: Server) -> None:
        places = [ByHand(rank=rank, world_size=2, local_rank=rank) for rank in range(2)]

        def fail(bootstrap: Bootstrap) -> None:
            bootstrap.agree(ValueError("no luck") if bootstrap.hosted is None else None)

        first, second = self.bootstrap(server, *places, then=fail)
        assert (str(first), str(second)) == ("rank 1: no luck", "no luck")


class TestARegistration:
    def box(self, server: Server, namespace: str = "") -> Box:
        return Box.connect(server.address, transport="tcp", namespace=namespace)

    def test_knows_who_is_there(self, server: Server) -> None:
        places = [ByHand(rank=rank, world_size=3, local_rank=rank) for rank in range(3)]
        said: list[str] = []
        with self.box(server) as first, self.box(server) as second:
            registrations = [Registration(box, place) for box, place in zip((first, second), places[:2], strict=True)]
            assert [registration.others() for registration in registrations] == [[1], [0]]
            assert [registration.run for registration in registrations] == [1, 1]
            with pytest.raises(MismatchError, match=r"2 workers of a job without a name use this box now\nHINT: "):
                check_free(first, "", said.append)
            registrations[1].leave()
            registrations[0].wait_for_others(0.0)
            assert registrations[0].others() == []
        with self.box(server) as box:
            check_free(box, "", said.append)
            assert Registration(box, places[2]).run == 2
        assert [text.partition(":")[0] for text in said] == ["2 workers of a job without a name in this box"]

    def test_refuses_another_world_size_while_somebody_is_there(self, server: Server) -> None:
        with self.box(server) as first, self.box(server) as second:
            Registration(first, ByHand(rank=0, world_size=2, local_rank=0))
            message = (
                r"rank 1 comes with world size 3 and group size 1, but rank 0 came with 2 and 1\n"
                r"HINT: start all workers with the same numbers"
            )
            with pytest.raises(MismatchError, match=message):
                Registration(second, ByHand(rank=1, world_size=3, local_rank=0))
            first.close()
            assert Registration(second, ByHand(rank=1, world_size=3, local_rank=0)).others() == []

    def test_goes_on_where_a_link_was_so_full_that_its_lease_ran_out(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("modum.cluster.registration.CHECK_IN_SECONDS", 0.3, raising=False)
        monkeypatch.setattr("modum.cluster.registration.CLAIM_SECONDS", 0.3)
        place = ByHand(rank=0, world_size=2, local_rank=0)
        with HeldLink(server.address, (b"ValueGet", b"modum/job")) as link, self.box(server) as other:
            with Box.connect(link.address, transport="tcp") as box, ThreadPoolExecutor() as threads:
                registering = threads.submit(Registration, box, place)
                assert link.holds.wait(60)
                poll(lambda: not other.leases("modum/check-in"), timeout=60, error=TimeoutError)
                monkeypatch.setattr("modum.cluster.registration.CHECK_IN_SECONDS", 60.0, raising=False)
                link.release()
                assert registering.result(60).others() == []
                assert [lease.name for lease in other.leases("modum/")] == ["modum/worker/member/0"]

    def test_refuses_a_rank_that_is_at_work(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("modum.cluster.registration.CLAIM_SECONDS", 0.3)
        place = ByHand(rank=0, world_size=2, local_rank=0)
        with self.box(server) as first, self.box(server) as second:
            Registration(first, place)
            message = (
                r"rank 0 of 2 is at work in this box already .*\nHINT: give this job a name: modum run --name second"
            )
            with pytest.raises(MismatchError, match=message):
                Registration(second, place)
        with self.box(server, "a") as first, self.box(server, "b") as second:
            assert [Registration(box, place).others() for box in (first, second)] == [[], []]


def test_jobs_of_slurm_whose_ports_are_the_same_do_not_mix() -> None:
    steps = ("77.0", "1327.0")
    assert ports_of(steps[0]) == ports_of(steps[1])

    def worker(number: int) -> list[str]:
        job, rank = divmod(number, 2)
        place = Slurm(
            rank=rank,
            world_size=2,
            local_rank=rank,
            step=steps[job],
            hosts="localhost,other",
            token="a token for both jobs",
        )
        with place.rendezvous(SECONDS) as place_of_all:
            return place_of_all.gather(f"job {job}")

    assert together(4, worker) == [["job 0"] * 2, ["job 0"] * 2, ["job 1"] * 2, ["job 1"] * 2]


def test_slurm_without_munge_wants_a_token() -> None:
    try:
        seal(b"")
        pytest.skip("MUNGE runs on this machine")
    except MungeError:
        pass
    place = Slurm(rank=0, world_size=2, local_rank=0, step="1.0", hosts="localhost")
    message = (
        r"no secret to share, and there is no way to send one safely: MUNGE.*\nHINT: before srun: export MODUM_TOKEN="
    )
    with pytest.raises(ModumError, match=message):
        place.rendezvous(SECONDS)


def test_jobs_of_slurm_meet_at_ports_of_their_own() -> None:
    ports = {step: ports_of(step) for step in ("77.0", "77.1", "78.0", "4000000000.12")}
    assert len({window.start for window in ports.values()}) == 4
    assert all(20000 <= port < 30000 for window in ports.values() for port in window)


def test_a_store_of_torchrun_whose_port_is_taken_is_told() -> None:
    # in a process of its own: torch leaves descriptors behind when it fails
    code = "from modum.cluster import detect; detect().rendezvous(5.0)"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        place = TorchElastic(rank=0, world_size=2, local_rank=0, store_host="127.0.0.1", store_port=port)
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, **place.variables()},
            timeout=60,
            check=False,
        )
    assert result.returncode == 1
    assert f"cannot keep the store of torch.distributed at 127.0.0.1:{port}: " in result.stderr
    assert "HINT: is another job at this port? Give this one another: MASTER_PORT" in result.stderr
