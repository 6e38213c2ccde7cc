"""The route to the peer decides which address a host tells to others."""

import socket

import pytest

from modum.cluster.interfaces import (
    Interface,
    chosen_interface,
    host_interfaces,
    interface_to,
    interface_to_box,
    route_source,
)
from modum.errors import ModumError

ETHERNET = Interface("eth0", "10.0.0.1", 24)


def test_an_interface_knows_its_network() -> None:
    assert ETHERNET.is_next_to("10.0.0.77")
    assert not ETHERNET.is_next_to("10.0.1.77")
    assert str(ETHERNET) == "10.0.0.1 (eth0)"


def test_the_route_to_this_host_itself_is_loopback() -> None:
    assert route_source("127.0.0.1") == "127.0.0.1"


def test_neither_loopback_nor_bridges_of_containers_are_told() -> None:
    for each in host_interfaces():
        assert not each.address.startswith(("127.", "169.254.", "fe80:"))
        assert not each.name.startswith(("lo", "docker", "veth", "virbr"))


def test_the_interface_that_the_route_takes_is_chosen() -> None:
    loopback = Interface("lo", "127.0.0.1", 8)
    assert interface_to("peer", ["127.0.0.9"], [ETHERNET, loopback]) == loopback


def test_no_way_to_a_peer_is_told_with_what_was_tried() -> None:
    message = (
        r"no network interface that leads to n2: tried 127\.0\.0\.1 from 127\.0\.0\.1; "
        r"own addresses: 10\.0\.0\.1 \(eth0\)\nHINT: export MODUM_INTERFACE=eth0"
    )
    with pytest.raises(ModumError, match=message):
        interface_to("n2", ["127.0.0.1"], [ETHERNET])


def test_an_interface_can_be_chosen_by_name_or_address() -> None:
    assert chosen_interface("lo").address == chosen_interface("127.0.0.1").address == "127.0.0.1"


def test_an_interface_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(
        ValueError, match=rf"'ib7' is no network interface of {socket.gethostname()}: there are .*\nHINT: "
    ):
        chosen_interface("ib7")


@pytest.mark.usefixtures("bare_environment")
class TestTheWayToABox:
    def test_is_loopback_where_all_servers_are_on_this_host(self) -> None:
        found = interface_to_box(["127.0.0.1:7500", "127.0.0.1:7501"])
        assert (found.address, found.name) == ("127.0.0.1", "")

    def test_is_by_the_first_server_in_the_network(self) -> None:
        own = host_interfaces()
        if not own:
            pytest.skip("this machine has no network")
        found = interface_to_box(["127.0.0.1:7500", f"{own[0].address}:7500"])
        assert (found.address, found.name) == (own[0].address, own[0].name)

    def test_is_the_one_that_the_user_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MODUM_INTERFACE", "lo")
        assert interface_to_box(["10.0.0.1:7500"]).name == "lo"
        monkeypatch.setenv("MODUM_INTERFACE", "ib7")
        with pytest.raises(ValueError, match="'ib7' is no network interface"):
            interface_to_box(["10.0.0.1:7500"])
