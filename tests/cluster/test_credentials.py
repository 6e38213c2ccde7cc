"""The token comes from a private file or from the environment, and the wish for a transport from the environment."""

from pathlib import Path

import pytest

from modum.box import Box, Server, new_token
from modum.cluster import credentials


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (credentials.TOKEN_VARIABLE, credentials.TRANSPORT_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_a_token_file_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")
    path.chmod(0o644)
    with pytest.raises(ValueError, match=r"mode 0644, others may read it: chmod 600"):
        credentials.token(path)
    path.chmod(0o600)
    assert credentials.token(path) == "secret"
    path.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        credentials.token(path)


def test_the_environment_has_a_token_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert credentials.token() is None
    monkeypatch.setenv("MODUM_TOKEN", "")
    assert credentials.token() is None
    token = new_token()
    monkeypatch.setenv("MODUM_TOKEN", token)
    with Server(token=token) as server, Box.connect(server.address, token=credentials.token()) as box:
        assert box.counter("c").add(1) == 0


def test_the_environment_may_wish_for_a_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    assert credentials.transport() is None
    monkeypatch.setenv("MODUM_TRANSPORT", "tcp")
    assert credentials.transport() == "tcp"
