"""`modum token`, as an operator meets it."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modum.box import Box, Server
from modum.cli.main import app


def token(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["token", *arguments])
    assert done.exit_code == 0, done.output
    return done.output.strip()


def test_tokens_are_made_listed_and_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    vision = token("make", "vision", "--memory", "4MiB", "--expires", "12h")
    look = token("make", "--read-only")
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600
    shown = token("list")
    assert vision not in shown
    assert look not in shown
    assert re.search(r"vision\s+all\s+4MiB\s+until ", shown)
    assert re.search(r"\(the whole box\)\s+read-only\s+good", shown)
    with Server(tokens=tmp_path / "tokens.json") as server, Box.connect(server.address, token=vision) as box:
        box.create("b", 10)
        monkeypatch.setenv("MODUM_TOKEN", look)
        status = CliRunner().invoke(app, ["status", server.address, "--seconds", "0.1"], env={"COLUMNS": "120"}).output
    assert "vision/b" in status
    assert re.search(r"vision\s+127.0.0.1:\d+\s+[\d.]+ KiB\s+4 MiB", status)
    assert token("revoke", "vision").startswith("revoked: ")
    assert re.search(r"vision\s+all\s+4MiB\s+revoked", token("list"))


def test_what_cannot_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["make", "--memory", "4GiB"], "limits a job"),
        (["make", "a/b"], "cannot be called"),
        (["make", "a", "--memory", "lots"], "amount of memory"),
        (["revoke", "nobody"], "tokens.json"),
    ):
        done = CliRunner().invoke(app, ["token", *arguments])
        assert done.exit_code == 2
        assert message in done.output
    assert not list(tmp_path.iterdir())
