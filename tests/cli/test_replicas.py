"""`modum server --replicas 2` and `modum status` of such servers, as a user meets them."""

import pytest
from tests.box.replication.standing_in import Servers
from tests.cli.test_server import modum

THREE = "127.0.0.1:7501,127.0.0.1:7502,127.0.0.1:7503"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--replicas", "2"), "needs to know all servers of the box"),
        (("--box", THREE), "means nothing without --replicas 2"),
        (("--replicas", "2", "--box", THREE, "--port", "7504"), "listens on 127.0.0.1:7504, which is not in --box"),
        (("--replicas", "2", "--box", "127.0.0.1:7501,127.0.0.1:7502", "--port", "7501"), "at least 3 memory servers"),
        (("--replicas", "2", "--box", THREE, "--port", "7501", "--encrypt"), "which is not in --box"),
    ],
)
def test_options_that_do_not_fit_are_told(options: tuple[str, ...], told: str) -> None:
    ended = modum("server", *options)
    assert ended.returncode == 2
    assert told in " ".join(ended.stderr.replace("│", " ").split())


def test_status_shows_who_serves_what_also_when_a_server_is_missing() -> None:
    with Servers() as servers:
        for lost in (None, 0):
            if lost is not None:
                servers.lose(lost)
                servers.wait_until_backed()
            shown = modum("status", ",".join(servers.addresses), COLUMNS="200", MODUM_TOKEN="")
            assert shown.returncode == 0, shown.stderr
            for place, address in enumerate(servers.addresses):
                primary, backup = servers.primary(place), servers.backup(place)
                row = (address, servers.addresses[primary], servers.addresses[backup])
                assert "   ".join(row) in shown.stdout
