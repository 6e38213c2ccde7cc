"""SIGTERM asks a process to leave, besides what it does already."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from modum.cluster.preemption import Notice, Preemption, Request

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _default_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def notice() -> Iterator[Notice]:
    notice = Notice()
    yield notice
    notice.close()


def raised() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_asks_to_leave_once_and_the_handler_goes_at_the_close() -> None:
    preemption = Preemption(PATIENCE)
    preemption.install()
    assert not preemption.stopping
    raised()
    raised()
    assert preemption.stopping
    preemption.close()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_that_was_there_is_called_too_and_comes_back() -> None:
    seen: list[bool] = []
    preemption = Preemption(PATIENCE)

    def own(number: int, frame: object) -> None:
        seen.append(preemption.stopping)

    signal.signal(signal.SIGTERM, own)
    preemption.install()
    raised()
    assert seen == [True]
    preemption.close()
    assert signal.getsignal(signal.SIGTERM) is own


def test_a_handler_that_comes_later_takes_its_place_and_stays() -> None:
    seen: list[int] = []
    preemption = Preemption(PATIENCE)
    preemption.install()

    def own(number: int, frame: object) -> None:
        seen.append(number)

    signal.signal(signal.SIGTERM, own)
    raised()
    assert (seen, preemption.stopping) == ([signal.SIGTERM], False)
    preemption.close()
    assert signal.getsignal(signal.SIGTERM) is own


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    preemption = Preemption(PATIENCE)
    preemption.install()
    raised()
    assert not preemption.stopping
    preemption.close()


def test_outside_the_main_thread_nothing_is_installed() -> None:
    preemption = Preemption(PATIENCE)
    thread = threading.Thread(target=preemption.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    preemption.close()


def test_who_leaves_alone_waits_for_nobody_and_who_leaves_with_all_for_half_of_its_grace(notice: Notice) -> None:
    preemption = Preemption(PATIENCE, notice.path)
    preemption.request()
    assert preemption.patience is None
    notice.say(Request.LEAVE)
    assert preemption.patience == pytest.approx(PATIENCE / 2, rel=0.5)


def test_where_the_run_is_over_a_handler_of_the_users_own_is_called_and_nobody_is_asked_to_leave(
    notice: Notice,
) -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    preemption = Preemption(PATIENCE, notice.path)
    preemption.install()
    notice.say(Request.END)
    raised()
    assert (seen, preemption.stopping) == ([signal.SIGTERM], False)
    preemption.close()


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("Preemption(0.1).install(); kill(); time.sleep(100)", -signal.SIGKILL, "still here 0.1 s after SIGTERM"),
        ("one = Preemption(); one.install(); one.close(); kill()", -signal.SIGTERM, ""),
        (
            "notice = Notice(); notice.say(Request.END); Preemption(60, notice.path).install(); kill()",
            -signal.SIGTERM,
            "",
        ),
        (
            """one = Preemption(); one.install(); child = os.fork()
if not child: kill(); os._exit(3)
os._exit(os.WTERMSIG(os.waitpid(child, 0)[1]))""",
            signal.SIGTERM,
            "",
        ),
    ],
    ids=["kept on", "closed", "over", "forked"],
)
def test_a_process_is_ended_where_it_must_be(code: str, status: int, error: str) -> None:
    start = (
        "import os, signal, time\nfrom modum.cluster.preemption import Notice, Preemption, Request\n"
        "kill = lambda: os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    process = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, timeout=PATIENCE)
    assert process.returncode == status, process.stderr
    assert error in process.stderr


@pytest.mark.parametrize("grace", [0.0, -1.0])
def test_a_grace_of_no_time_is_refused(grace: float) -> None:
    with pytest.raises(ValueError, match=r"must be positive: modum run --grace 30s, or MODUM_GRACE"):
        Preemption(grace)
