"""Children are watched, and none outlives the launcher, whatever happens to it."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.processes import assert_gone, is_alive

from modum.run.process import Process, Stream
from modum.run.processes import Interrupted, Processes
from modum.waiting import Deadline

PATIENCE = 20.0


class Output(list[tuple[str, str]]):
    """Every line that came, with its stream."""

    def __call__(self, stream: Stream, lines: list[str]) -> None:
        self.extend((stream, line) for line in lines)


def start(processes: Processes, code: str, output: Output, *arguments: str, **options: bool) -> Process:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return processes.start("child", command, os.environ, output, **options)


def poll_until(processes: Processes, condition: Callable[[], object]) -> None:
    deadline = Deadline(PATIENCE)
    while not condition():
        assert not deadline.passed, "waited in vain"
        processes.poll(0.1)


def run(code: str, *arguments: str) -> tuple[Process, Output]:
    output = Output()
    with Processes() as processes:
        process = start(processes, code, output, *arguments)
        poll_until(processes, lambda: process.returncode is not None)
    return process, output


def test_lines_of_both_streams_are_passed_on_in_order() -> None:
    _, output = run("import sys; print('a\\nb'); print('c', file=sys.stderr); print('d', end='')")
    assert [line for stream, line in output if stream == "stdout"] == ["a", "b", "d"]
    assert [line for stream, line in output if stream == "stderr"] == ["c"]


def test_no_byte_of_megabytes_of_output_is_lost() -> None:
    _, output = run("for i in range(200_000): print(f'line {i:06d} of very many')")
    assert [line for _, line in output] == [f"line {i:06d} of very many" for i in range(200_000)]


def test_a_line_that_is_never_ended_is_passed_on_when_its_writer_is_killed() -> None:
    process, output = run("import os, sys; sys.stdout.write('half'); sys.stdout.flush(); os.kill(os.getpid(), 9)")
    assert output == [("stdout", "half")]
    assert process.returncode == -signal.SIGKILL


def test_the_tail_holds_the_last_lines_of_standard_error() -> None:
    process, _ = run("import sys\nfor i in range(1000): print(i, file=sys.stderr)")
    assert list(process.tail) == [str(i) for i in range(960, 1000)]


@pytest.mark.parametrize(
    ("code", "status", "end"),
    [
        ("pass", 0, "exited with code 0"),
        ("raise SystemExit(7)", 7, "exited with code 7"),
        ("import os; os.kill(os.getpid(), 9)", 137, "was killed by SIGKILL (signal 9)"),
        ("import os; os.abort()", 134, "was killed by SIGABRT (signal 6)"),
    ],
)
def test_an_end_is_told_in_words_and_as_a_shell_does(code: str, status: int, end: str) -> None:
    process, _ = run(code)
    assert (process.status, process.end) == (status, end)


def test_standard_input_is_empty() -> None:
    _, output = run("import sys; print(repr(sys.stdin.read()))")
    assert output == [("stdout", "''")]


def test_a_child_leads_a_session_and_inherits_no_descriptor() -> None:
    code = "import os; print(os.getsid(0) == os.getpid(), sorted(os.listdir('/proc/self/fd'))[:4])"
    _, output = run(code)
    assert output == [("stdout", "True ['0', '1', '2', '3']")]  # 3 is the listing's own


def test_what_a_child_leaves_behind_is_killed_at_its_end() -> None:
    _, output = run("import subprocess; print(subprocess.Popen(['sleep', '1000']).pid)")
    assert_gone([int(output[0][1])])


SESSION_OF_ITS_OWN = """
    import os, subprocess, sys, time
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); time.sleep(1000)"
    one = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, text=True)
    print(one.pid, one.stdout.readline(), end="", flush=True)
    """


@pytest.mark.parametrize("end", ["", "time.sleep(1000)"], ids=["ends by itself", "is killed"])
def test_what_a_child_left_in_a_session_of_its_own_is_killed_at_the_end(end: str) -> None:
    output = Output()
    with Processes() as processes:
        process = start(processes, textwrap.dedent(SESSION_OF_ITS_OWN) + end, output)
        poll_until(processes, lambda: output if end else process.returncode is not None)
        left = [int(pid) for pid in output[0][1].split()]
        assert [is_alive(pid) for pid in left] == [True, True]
    assert [psutil.pid_exists(pid) for pid in left] == [False, False]


def test_children_that_were_there_before_stay() -> None:
    with subprocess.Popen(["sleep", "1000"]) as mine:
        with Processes():
            pass
        assert mine.poll() is None
        mine.kill()


def test_an_orphan_that_ends_leaves_no_zombie() -> None:
    output = Output()
    code = """
        import subprocess, sys, time
        code = "import subprocess; print(subprocess.Popen(['sleep', '0.1'], start_new_session=True).pid, flush=True)"
        subprocess.run([sys.executable, "-c", code])
        time.sleep(1000)
        """
    with Processes() as processes:
        start(processes, code, output)
        poll_until(processes, lambda: output)
        poll_until(processes, lambda: not psutil.pid_exists(int(output[0][1])))


def test_a_stop_is_by_sigterm_first() -> None:
    output = Output()
    code = """
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit('bye'))
        print('ready', flush=True)
        signal.pause()
        """
    with Processes() as processes:
        process = start(processes, code, output)
        poll_until(processes, lambda: output)
        processes.stop([process])
        assert (process.returncode, process.stopped) == (1, True)
    assert output == [("stdout", "ready"), ("stderr", "bye")]


def test_a_child_that_ignores_sigterm_is_killed_with_its_children() -> None:
    output = Output()
    code = """
        import signal, subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(subprocess.Popen(['sleep', '1000']).pid, flush=True)
        while True: signal.pause()
        """
    with Processes() as processes:
        process = start(processes, code, output)
        poll_until(processes, lambda: output)
        processes.stop([process])
        assert process.returncode == -signal.SIGKILL
    assert_gone([int(output[0][1])])


def test_a_suspended_child_is_stopped_too() -> None:
    output = Output()
    with Processes() as processes:
        process = start(processes, "import os; os.kill(os.getpid(), 19)", output)
        poll_until(processes, lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        processes.stop([process])
        assert process.returncode == -signal.SIGKILL


def test_leaving_kills_what_still_runs_also_when_the_output_cannot_be_shown() -> None:
    def broken(stream: Stream, lines: list[str]) -> None:
        raise BrokenPipeError

    with Processes() as processes:
        command = [sys.executable, "-c", "print(flush=True); import time; time.sleep(1000)"]
        process = processes.start("child", command, os.environ, broken)
        with pytest.raises(BrokenPipeError):
            poll_until(processes, lambda: False)
    assert process.returncode == -signal.SIGKILL


def test_an_input_that_is_kept_stays_open() -> None:
    output = Output()
    with Processes() as processes:
        process = start(processes, "import sys; sys.stdin.read()", output, keep_stdin=True)
        processes.poll(0.05)
        assert process.returncode is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_interrupts_the_next_poll(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Processes() as processes:
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=number.name) as caught:
            processes.poll(PATIENCE)
    assert caught.value.status == 128 + number
    assert signal.getsignal(number) is before


def test_the_second_request_interrupts_at_once() -> None:
    with Processes():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_request_goes_to_children_that_all_handle_it(number: signal.Signals) -> None:
    handling = f"signal.signal({int(number)}, lambda *_: print('handled', flush=True))"
    waiting = "print('ready', flush=True)\nwhile True: signal.pause()"
    output = Output()
    with Processes() as processes:
        handles = start(processes, f"import signal; {handling}; {waiting}", output)
        poll_until(processes, lambda: output == [("stdout", "ready")])
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as caught:
            processes.poll(PATIENCE)
        assert processes.pass_on(caught.value.number, [handles])
        poll_until(processes, lambda: output[1:] == [("stdout", "handled")])
        lacks = start(processes, f"import signal; {waiting}", output)
        poll_until(processes, lambda: output[2:] == [("stdout", "ready")])
        assert not processes.pass_on(number, [handles, lacks])
        assert not processes.pass_on(signal.SIGTERM, [handles])


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Processes() as processes:
            os.kill(os.getpid(), signal.SIGHUP)
            processes.poll(0)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nothing_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        textwrap.dedent("""
        import os, sys
        from modum.run.processes import Processes

        worker = '''
        import os, subprocess, time
        print(os.getpid(), subprocess.Popen(["sleep", "1000"]).pid, flush=True)
        time.sleep(1000)
        '''
        with Processes() as processes:
            processes.start("worker", [sys.executable, "-c", worker], os.environ,
                            lambda stream, lines: print(*lines, flush=True))
            while True:
                processes.poll(60)
        """)
    )
    with subprocess.Popen([sys.executable, launcher], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert all(is_alive(pid) for pid in pids)
        family = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert set(pids) < set(family)
        process.kill()
    assert_gone(family)
