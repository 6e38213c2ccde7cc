"""The token comes from a private file or from the environment, and the wish for a transport from the environment."""

import importlib
import pkgutil
from pathlib import Path

import msgspec
import pytest
from rich.pretty import pretty_repr

from modum import cluster
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


def sample(kind: object) -> object:
    """A value of a simple type, as it comes over the wire."""
    return {bool: False, int: 1, str: "x"}.get(kind, [])  # type: ignore[call-overload]


def messages_with_a_token() -> list[type[msgspec.Struct]]:
    """What the workers of a job tell each other, as far as a token is in it."""
    for module in pkgutil.iter_modules(cluster.__path__, "modum.cluster."):
        importlib.import_module(module.name)
    kinds = list(msgspec.Struct.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
    return [
        kind for kind in kinds if kind.__module__.startswith("modum.cluster.") and "token" in kind.__struct_fields__
    ]


def test_no_message_shows_its_token() -> None:
    secret = "a secret that nobody is to see"
    kinds = messages_with_a_token()
    assert len(kinds) == 2
    for kind in kinds:
        told = {field.name: sample(field.type) for field in msgspec.structs.fields(kind)} | {"token": secret}
        message = msgspec.convert(told, kind)
        assert msgspec.to_builtins(message)["token"] == secret
        assert secret not in repr(message)
        assert secret not in pretty_repr(message)
