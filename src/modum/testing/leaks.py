"""A pytest plugin that fails a test, module or session which leaves something behind.

It counts what the code of a test or of Modum made: file descriptors (sockets, pipes and memfds
are file descriptors), mapped memfds, Python threads and processes, orphans included. Threads that a native
library keeps for itself (OpenMP pools, say) are not Python threads and do not count. Linux only.

In a conftest.py: `pytest_plugins = ["modum.testing.leaks"]`.
"""

import gc
import os
import sys
import threading
import time
import uuid
from collections.abc import Hashable, Iterator
from pathlib import Path

import psutil
import pytest

CLOSING_SECONDS = 3.0
"""Time allowed for things that are just closing."""

Belongings = dict[Hashable, str]
"""What this process has at one moment: an identity for each thing, with a description for readers."""

# Every descendant inherits the mark, whatever becomes of the processes between.
_MARK_NAME = "MODUM_TEST_SESSION"
_MARK = uuid.uuid4().hex
os.environ[_MARK_NAME] = _MARK

_reported: set[Hashable] = set()


def belongings() -> Belongings:
    """Return all that this process has now."""
    return {**_descriptors(), **_mapped_memfds(), **_threads(), **_processes()}


def _descriptors() -> Belongings:
    found: Belongings = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = link.readlink()
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
        found["descriptor", link.name, target] = f"file descriptor {link.name}: {target}"
    return found


def _mapped_memfds() -> Belongings:
    found: Belongings = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/memfd:" in line:
            _, _, _, _, inode, name = line.split(maxsplit=5)
            found["mapping", inode] = f"mapped memory: {name}, inode {inode}"
    return found


def _threads() -> Belongings:
    frames = sys._current_frames()
    found: Belongings = {}
    for thread in threading.enumerate():
        # A dummy stands for a native library's thread that once ran Python code, such as a callback.
        if thread.ident is not None and not isinstance(thread, threading._DummyThread):
            frame = frames.get(thread.ident)
            at = f", at {frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
            found["thread", thread.native_id] = f"thread {thread.name}{at}"
    return found


def _processes() -> Belongings:
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    found: Belongings = {}
    for process in psutil.process_iter():
        try:
            ours = process.pid in children or process.environ().get(_MARK_NAME) == _MARK
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found["process", process.pid] = f"process {process.pid}: {' '.join(process.cmdline())}"
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _check(request: pytest.FixtureRequest) -> Iterator[None]:
    failed_before = request.session.testsfailed
    before = belongings()
    yield
    if request.session.testsfailed > failed_before:  # a failure's traceback keeps things alive
        return
    deadline = time.monotonic() + CLOSING_SECONDS
    while left := {key: name for key, name in belongings().items() if key not in before and key not in _reported}:
        if time.monotonic() > deadline:
            _reported.update(left)
            names = "\n  ".join(sorted(left.values()))
            pytest.fail(f"this {request.scope} left behind:\n  {names}", pytrace=False)
        gc.collect()
        time.sleep(0.01)


_session_leaves_nothing = pytest.fixture(_check, scope="session", autouse=True)
_module_leaves_nothing = pytest.fixture(_check, scope="module", autouse=True)
_function_leaves_nothing = pytest.fixture(_check, scope="function", autouse=True)
