"""One line joins a worker to its job, however it was started."""

import os

import pytest

from modum.box import Server, new_token
from modum.errors import AuthenticationError
from modum.job import GroupPlace, connect

pytestmark = pytest.mark.usefixtures("bare_environment")


def test_alone_it_has_a_box_of_its_own() -> None:
    with connect() as job:
        buffer = job.box.create("weights", 3)
        buffer.add([1.0, 2.0, 3.0])
        assert buffer.read().tolist() == [1, 2, 3]
        buffer.close()
        assert (job.rank, job.world_size, job.local_rank) == (0, 1, 0)
        assert (job.group, job.groups) == (GroupPlace(0, 1, 0), 1)
    job.close()  # a second time does nothing


def test_alone_it_can_take_the_box_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    token = new_token()
    with Server(token=token, memory=2**20) as server:
        monkeypatch.setenv("MODUM_BOX", server.address)
        monkeypatch.setenv("MODUM_TOKEN", token)
        with connect(transport="tcp") as job:
            assert job.box.servers == (server.address,)
            assert job.box.transports == ("tcp",)
            assert job.box.counter("visits").add(1) == 0


def test_the_environment_chooses_the_transport_unless_the_script_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODUM_TRANSPORT", "tcp")
    for wish, transport in (("auto", "tcp"), ("local", "local")):
        with connect(transport=wish) as job:
            assert job.box.transports == (transport,)
    monkeypatch.setenv("MODUM_TRANSPORT", "pigeon")
    with pytest.raises(ValueError, match="'pigeon' is not one of auto, local, rdma, tcp"):
        connect()


def test_as_one_of_many_it_has_its_launchers_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(token=(token := new_token()), memory=2**20) as server:
        for name, value in {
            "RANK": "5",
            "WORLD_SIZE": "6",
            "LOCAL_RANK": "2",
            "MODUM_GROUP_SIZE": "3",
            "MODUM_BOX": server.address,
            "MODUM_TOKEN": token,
        }.items():
            monkeypatch.setenv(name, value)
        with connect() as job:
            assert (job.rank, job.world_size, job.local_rank) == (5, 6, 2)
            assert (job.group, job.groups) == (GroupPlace(1, 3, 2), 2)


@pytest.mark.parametrize("group_size", ["1", "3"])
def test_while_it_has_a_job_it_is_nobody_elses_rank(group_size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = {"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    with Server(token=(token := new_token()), memory=2**20) as server:
        box = {"MODUM_BOX": server.address, "MODUM_TOKEN": token, "MODUM_GROUP_SIZE": group_size}
        for name, value in {**outside, **box}.items():
            monkeypatch.setenv(name, value)
        for _ in range(2):
            with connect() as job:
                assert (job.rank, job.world_size, job.local_rank) == (5, 6, 2)
                assert not outside.keys() & os.environ.keys()
            assert {name: os.environ[name] for name in outside} == outside


def test_one_of_many_without_a_box_is_told_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    message = r"rank 1 of 4 was told no box: MODUM_BOX is not set\nHINT: .*`modum run -n 4 train\.py`"
    with pytest.raises(ValueError, match=message):
        connect()


def test_a_box_that_refuses_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(token=new_token(), memory=2**20) as server:
        monkeypatch.setenv("MODUM_BOX", server.address)
        monkeypatch.setenv("MODUM_TOKEN", new_token())
        with pytest.raises(AuthenticationError):
            connect(timeout=5)


def test_a_transport_that_does_not_exist_leaves_no_server_running() -> None:
    with pytest.raises(ValueError, match="pigeon"):
        connect(transport="pigeon")
