"""The leak check itself: each kind of thing left behind fails whoever left it, by name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A sleeper ends when standard input does, which the outer test holds open.
PRELUDE = """
import ctypes, os, socket, subprocess, sys, threading
import pytest, modum.testing.leaks

kept = []
sleeper = [sys.executable, "-c", "import sys; sys.stdin.read()"]
orphaner = [sys.executable, "-c", f"import subprocess; subprocess.Popen({sleeper})"]
"""

LEAKS = {
    "file": ("kept.append(open('/etc/passwd'))", r"file descriptor \d+: /etc/passwd"),
    "socket": ("kept.append(socket.socket())", r"file descriptor \d+: socket:\[\d+\]"),
    "memfd": ("os.memfd_create('forgotten')", r"file descriptor \d+: /memfd:forgotten"),
    "mapped memfd": (
        """
    fd = os.memfd_create('mapped')
    os.ftruncate(fd, 4096)
    ctypes.CDLL(None).mmap(None, 4096, 1, 1, fd, 0)
    os.close(fd)""",
        r"mapped memory: /memfd:mapped",
    ),
    "thread": (
        "threading.Thread(target=threading.Event().wait, name='idler', daemon=True).start()",
        r"thread idler, at .*threading.py:\d+",
    ),
    "child": ("kept.append(subprocess.Popen(sleeper))", r"process \d+: .*sys.stdin.read"),
    "orphan": ("subprocess.run(orphaner, check=True)", r"process \d+: .*sys.stdin.read"),
}


def run_pytest(folder: Path, tests: str, patience: float = 0.1) -> str:
    """Run pytest on `tests` with the leak check as its only plugin; return what it printed."""
    (folder / "test_it.py").write_text(f"{PRELUDE}\nmodum.testing.leaks.CLOSING_SECONDS = {patience}\n{tests}")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-qs",
        "-p",
        "modum.testing.leaks",
        "-p",
        "no:cacheprovider",
        "test_it.py",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    held, hold = os.pipe()
    try:
        with (folder / "output").open("w") as output:
            subprocess.run(command, cwd=folder, env=environment, stdin=held, stdout=output, stderr=output, timeout=60)
    finally:
        os.close(hold)
        os.close(held)
    return (folder / "output").read_text()


@pytest.mark.parametrize("kind", LEAKS)
def test_a_test_that_leaves_something_fails_and_the_message_names_it(kind: str, tmp_path: Path) -> None:
    leak, message = LEAKS[kind]
    output = run_pytest(tmp_path, f"def test_leaks():\n    {leak}\n")
    assert re.search(rf"this function left behind:\n  {message}", output), output
    assert "1 passed, 1 error" in output


def test_things_that_a_test_puts_away_are_no_leak(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
def test_tidy():
    with socket.socket(), open('/etc/passwd'):
        subprocess.run(sleeper, stdin=subprocess.DEVNULL, check=True)
    thread = threading.Thread(target=threading.Event().wait, args=(0.01,))
    thread.start()
""",
        patience=20,
    )
    assert "1 passed" in output
    assert "error" not in output


@pytest.mark.parametrize("scope", ["module", "session"])
def test_a_leaking_fixture_fails_its_own_scope_once(scope: str, tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        f"""
@pytest.fixture(scope="{scope}")
def forgetful():
    return socket.socket().detach()

def test_first(forgetful): pass
def test_second(forgetful): pass
""",
    )
    assert "2 passed, 1 error" in output
    errors, _, _ = output.partition("short test summary")
    assert errors.count(f"this {scope} left behind:\n  file descriptor") == 1


def test_a_failed_test_is_not_blamed_for_what_its_traceback_holds(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, "def test_fails():\n    kept.append(socket.socket())\n    assert not kept\n")
    assert "1 failed" in output
    assert "this function left behind" not in output
