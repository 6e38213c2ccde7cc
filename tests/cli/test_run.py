"""`modum run` starts a job, shows it, and ends with all of it, however it ends."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.box.test_faults import server_process
from tests.processes import assert_gone
from typer.testing import CliRunner

from modum.box import Box, Server, new_token
from modum.cli.main import app
from modum.observe import WorkerProgress, read_progress

PATIENCE = 60.0
RUN = [sys.executable, "-m", "modum", "run"]

Script = Callable[[str], Path]
Result = subprocess.CompletedProcess[str]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Writes train.py into the working directory, which is the test's own."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = tmp_path / "train.py"
        path.write_text(textwrap.dedent(text))
        return path

    return write


def run(*arguments: str, **environment: str) -> Result:
    return subprocess.run(
        [*RUN, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, **environment},
    )


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """The launcher and all that it started, once each of the workers has written a line."""
    command = [*RUN, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as launcher:
        try:
            assert launcher.stdout is not None
            for _ in range(int(arguments[arguments.index("-n") + 1])):
                assert launcher.stdout.readline()
            yield launcher, psutil.Process(launcher.pid).children(recursive=True)
        finally:
            launcher.kill()


SLEEP = """
    import signal, subprocess, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "1000"])
    print("ready", flush=True)
    time.sleep(1000)
    """


class TestAWorker:
    def test_is_told_its_place_the_box_and_its_arguments(self, script: Script) -> None:
        script("import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))")
        options = ["-n", "4", "--group-size", "2", "--servers", "2"]
        result = run(*options, "train.py", "--", "--help", "-n", "9", "--", "x")  # the first -- is for people
        assert result.returncode == 0, result.stderr
        lines = [re.fullmatch(r"\[(\d)\] (.*)", line) for line in result.stdout.splitlines()]
        told = {int(line[1]): json.loads(line[2]) for line in lines if line}
        assert sorted(told) == [0, 1, 2, 3]
        for rank, (arguments, environment) in told.items():
            assert arguments == ["--help", "-n", "9", "--", "x"]
            assert environment["MODUM_RANK"] == environment["MODUM_LOCAL_RANK"] == str(rank)
            assert environment["MODUM_WORLD_SIZE"] == environment["MODUM_LOCAL_WORLD_SIZE"] == "4"
            assert environment["MODUM_GROUP_SIZE"] == "2"
            assert re.fullmatch(r"127\.0\.0\.1:\d+,127\.0\.0\.1:\d+", environment["MODUM_BOX"])
        for name in ("MODUM_BOX", "MODUM_TOKEN"):
            assert len({environment[name] for _, environment in told.values()}) == 1
        assert told[0][1]["MODUM_TOKEN"] not in result.stderr
        assert result.stderr.startswith("modum: 4 workers in 2 groups; 2 memory servers (127.0.0.1:")
        assert "\nmodum: 4/4 workers done\n" in result.stderr

    def test_finds_its_own_group_in_the_variables_of_torch_and_nobody_in_a_group_of_one(self, script: Script) -> None:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
        script(f"import json, os; print(json.dumps([os.environ.get(name) for name in {names}]))")
        outer = dict.fromkeys(names, "7")
        alone = run("-n", "2", "train.py", **outer).stdout.splitlines()
        assert sorted(alone) == [f"[{rank}] [null, null, null, null, null, null]" for rank in range(2)]
        lines = sorted(run("-n", "4", "--group-size", "2", "train.py", **outer).stdout.splitlines())
        told = [json.loads(line[4:]) for line in lines]
        ports = [one.pop(4) for one in told]
        assert told == [[str(rank % 2), "2", str(rank), "127.0.0.1", None] for rank in range(4)]
        assert ports[0] == ports[1] != ports[2] == ports[3]

    @pytest.mark.parametrize(
        ("options", "variables", "expected"),
        [
            ([], {}, ("1", "PASSIVE", "1", "1")),
            ([], {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}, ("3", "ACTIVE", "3", "3")),
            (["--threads", "2"], {"OMP_NUM_THREADS": "3"}, ("2", "PASSIVE", "2", "2")),
            ([], {"TF_NUM_INTRAOP_THREADS": "4"}, ("1", "PASSIVE", "4", "1")),
        ],
    )
    def test_computes_on_one_thread_unless_told_otherwise(
        self,
        script: Script,
        options: list[str],
        variables: dict[str, str],
        expected: tuple[str, ...],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
        for name in names:
            monkeypatch.delenv(name, raising=False)
        script(f"import os; print(*(os.environ[name] for name in {names}))")
        assert run(*options, "train.py", **variables).stdout == f"[0] {' '.join(expected)}\n"

    def test_can_be_a_module(self, script: Script, tmp_path: Path) -> None:
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "train.py").write_text("import sys; print(__name__, __package__, sys.argv[1:])")
        assert run("-m", "package.train", "-n", "5").stdout == "[0] __main__ package ['-n', '5']\n"

    def test_joins_the_box_and_its_progress_is_shown(self, script: Script) -> None:
        script("""
            import modum

            with modum.connect() as job:
                job.report(samples=100, steps=1, total=300, loss=2.0, exchange_seconds=0.004)
                job.report(samples=50, exchange_seconds=0.004, hidden_seconds=0.004)
                job.flush()
                job.box.counter("done").add(1)
                print(job.box.counter("done").wait(2, timeout=60), job.group.index, job.groups)
            """)
        result = run("-n", "2", "--memory", "16MiB", "train.py")
        assert sorted(result.stdout.splitlines()) == ["[0] 2 0 2", "[1] 2 1 2"], result.stderr
        assert "300/300 samples" in result.stderr
        assert result.stderr.endswith("loss 2, exchange 4 ms (50% hidden), 2/2 workers done\n")
        assert ", up to 16 MiB each)" in result.stderr

    def test_may_write_what_is_no_text(self, script: Script) -> None:
        script(r"import sys; sys.stdout.buffer.write(b'caf\xe9 \xe2\x82\xac\r 50%\rdone'); sys.stdout.flush()")
        result = run("train.py")
        assert (result.returncode, result.stdout) == (0, "[0] done\n")


class TestAFailure:
    @pytest.mark.parametrize(
        ("code", "status", "end"),
        [
            ("raise RuntimeError('out of luck')", 1, "exited with code 1"),
            ("sys.exit(3)", 3, "exited with code 3"),
            ("os.kill(os.getpid(), 9)", 137, "was killed by SIGKILL (signal 9)"),
        ],
    )
    def test_stops_the_others_and_is_told_at_the_end(self, script: Script, code: str, status: int, end: str) -> None:
        script(f"""
            import os, sys, time
            print("ready", flush=True)
            if os.environ["MODUM_RANK"] != "1":
                time.sleep(1000)
            print("noise", file=sys.stderr)
            {code}
            """)
        result = run("-n", "3", "train.py")
        assert result.returncode == status
        report = result.stderr[result.stderr.rindex("modum: ") :]
        assert re.match(rf"modum: rank 1 \(pid \d+\) {re.escape(end)}; the others were stopped", report)
        if "raise" in code:
            assert "Its last words:\n  Traceback (most recent call last):\n" in report
            assert report.endswith("  RuntimeError: out of luck\n")
            assert "noise" not in report

    def test_lets_the_other_groups_go_on_if_asked_to(self, script: Script) -> None:
        script("""
            import os, signal, sys, time
            from modum import connect
            with connect() as job:
                if job.rank == 2:
                    job.box.counter("rank 2 is about to end").add(1)
                    sys.exit("no luck")
                if job.rank == 3:
                    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
                    time.sleep(1000)
                job.box.counter("rank 2 is about to end").wait(1, timeout=60)
                print("finished")
            """)
        result = run("-n", "4", "--group-size", "2", "--on-failure", "continue", "train.py")
        assert result.returncode == 0, result.stderr
        assert sorted(result.stdout.splitlines()) == ["[0] finished", "[1] finished"]
        assert "exited with code 1; the other groups go on" in result.stderr
        summary = result.stderr[result.stderr.rindex("modum: ") :].splitlines()
        assert summary[0] == "modum: 2/4 workers and 1/2 groups got done"
        assert re.fullmatch(r"  rank 2 \(pid \d+\) exited with code 1", summary[1])
        assert re.fullmatch(r"  rank 3 \(pid \d+\) was stopped with its group", summary[2])

    def test_of_every_group_is_a_failure_of_the_job(self, script: Script) -> None:
        script("import os, sys; print('bad luck', file=sys.stderr); sys.exit(5)")
        result = run("-n", "2", "--on-failure", "continue", "train.py")
        assert result.returncode == 5
        assert "modum: 0/2 workers and 0/2 groups got done\n" in result.stderr
        assert result.stderr.endswith("Its last words:\n  bad luck\n")

    def test_for_want_of_memory_is_told_without_what_is_inside_modum(self, script: Script) -> None:
        script("""
            import modum

            with modum.connect() as job:
                job.box.create("weights", 10 * 2**10)
            """)
        result = run("--memory", "16KiB", "train.py")
        assert result.returncode == 1
        lines = [line for line in result.stderr.splitlines() if line.startswith("[0]")]
        assert (lines[0], len(lines)) == ("[0] Traceback (most recent call last):", 5), result.stderr
        assert re.fullmatch(
            r"\[0\] modum\.errors\.PoolFullError: buffer 'weights' needs 48 KiB here, "
            r"16 KiB of the pool's 16 KiB are free \(memory server 127\.0\.0\.1:\d+\)",
            lines[3],
        )
        assert lines[4] == "[0] HINT: give modum run or modum server a larger --memory, or add servers"

    def test_does_not_take_the_samples_of_the_dead_out_of_the_summary(self, script: Script) -> None:
        script("""
            import os, signal
            import modum, modum.observe.progress
            from modum.groups import Alone
            from modum.samples import SamplePools

            modum.observe.progress._WRITE_SECONDS = 1000.0  # what is done between two reports is always the last thing
            with modum.connect() as job:
                pool = SamplePools(job, "model", Alone()).pool(size=1000, batch_size=10, epochs=2)
                dead = job.box.counter("dead")
                if job.rank == 0:
                    dead.wait(1)
                for step, _ in enumerate(pool):
                    if job.rank == 1 and step == 41:
                        dead.add(1)
                        os.kill(os.getpid(), signal.SIGKILL)
            """)
        result = run("-n", "2", "--on-failure", "continue", "train.py")
        assert result.returncode == 0, result.stderr
        assert "modum: 2,000/2,000 samples, " in result.stderr

    def test_of_a_memory_server_ends_the_job_and_is_told_by_name(self, script: Script) -> None:
        script("""
            import os, psutil, time
            if os.environ["MODUM_RANK"] == "1":
                servers = [p for p in psutil.Process().parent().children() if "server" in p.cmdline()]
                print(len(servers))
                servers[-1].kill()
            time.sleep(1000)
            """)
        result = run("-n", "2", "--servers", "2", "train.py")
        assert (result.returncode, result.stdout) == (1, "[1] 2\n")
        assert re.search(
            r"modum: memory server 1 \(pid \d+\) at 127\.0\.0\.1:\d+ was killed by SIGKILL \(signal 9\): "
            r"the run cannot go on without its memory",
            result.stderr,
        )


class TestAnEndFromOutside:
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_stops_everything(self, script: Script, number: signal.Signals, status: int) -> None:
        script(SLEEP)
        with running("-n", "2", "train.py") as (launcher, family):
            assert len(family) == 6  # guard, server, two workers with a child each
            launcher.send_signal(number)
            assert launcher.wait(PATIENCE) == status
        assert_gone(family)

    def test_is_not_held_up_by_a_memory_server_that_hangs(self, script: Script) -> None:
        script(SLEEP)
        with running("-n", "2", "train.py") as (launcher, family):
            next(process for process in family if "server" in process.cmdline()).suspend()
            launcher.send_signal(signal.SIGINT)
            assert launcher.wait(PATIENCE) == 130
        assert_gone(family)

    def test_by_sigkill_leaves_no_orphan(self, script: Script) -> None:
        script(SLEEP)
        with running("-n", "2", "train.py") as (launcher, family):
            assert len(family) == 6
            launcher.kill()
        assert_gone(family)

    def test_of_the_output_stops_everything(self, script: Script) -> None:
        script("while True: print('x' * 100, flush=True)")
        with running("-n", "2", "train.py") as (launcher, family):
            assert launcher.stdout is not None
            launcher.stdout.close()
            assert launcher.wait(PATIENCE) == 1
        assert_gone(family)

    def test_interrupts_also_a_launcher_whose_output_nobody_reads(self, script: Script) -> None:
        script("while True: print('x' * 100, flush=True)")
        with running("-n", "2", "train.py") as (launcher, family):
            launcher.send_signal(signal.SIGINT)
            launcher.send_signal(signal.SIGTERM)  # a second one, which cannot merge with the first
            assert launcher.wait(PATIENCE) == 130
        assert_gone(family)


class TestAnExistingBox:
    @pytest.fixture
    def server(self) -> Iterator[tuple[Server, str]]:
        token = new_token()
        with Server(token=token, memory=2**24) as server:
            yield server, token

    def test_is_used_and_starts_with_fresh_progress(self, script: Script, server: tuple[Server, str]) -> None:
        script("import os; print(os.environ['MODUM_BOX'], os.environ['MODUM_TOKEN'])")
        address, token = server[0].address, server[1]
        with Box.connect(address, token=token) as box:
            worker = WorkerProgress(box, 0, 1)
            worker.report(samples=7)
            worker.close()
            result = run("-n", "2", "--box", address, "train.py", MODUM_TOKEN=token)
            lines = sorted(result.stdout.splitlines())
            assert lines == [f"[{rank}] {address} {token}" for rank in range(2)], result.stderr
            assert f"; 1 memory server ({address})" in result.stderr
            assert read_progress(box) is None

    def test_in_a_variable_does_not_count_and_is_told_with_what_does(
        self, script: Script, server: tuple[Server, str]
    ) -> None:
        script("import os; print(os.environ['MODUM_BOX'])")
        address, token = server[0].address, server[1]
        variables = {"MODUM_BOX": address, "MODUM_MEMORY": "1GiB"}
        own = run("--memory", "16MiB", "train.py", **variables)
        assert (own.returncode, address in own.stdout) == (0, False), own.stderr
        assert own.stderr.startswith(
            f"modum: MODUM_BOX={address} does not count here, only options do\n"
            f"HINT: give --box {address}, or unset MODUM_BOX\nmodum: 1 worker in"
        )
        given = run("--box", address, "train.py", **variables, MODUM_TOKEN=token)
        assert (given.stdout, given.stderr.count("MODUM_")) == (f"[0] {address}\n", 0), given.stderr

    def test_is_shared_by_jobs_of_different_names_and_refuses_a_second_of_one_name(
        self, script: Script, server: tuple[Server, str]
    ) -> None:
        script("""
            import sys, modum
            with modum.connect() as job:
                job.report(samples=int(sys.argv[1]), total=100)
                job.flush()
                job.box.counter("here").add(1)
                job.box.counter("here").wait(2)
                print("here", flush=True)
                job.box.counter("end").wait(1)
            """)
        address, token = server[0].address, server[1]
        with Box.connect(address, token=token, namespace="first") as box:
            command = [*RUN, "-n", "2", "--box", address, "--name", "first", "train.py", "7"]
            environment = {**os.environ, "MODUM_TOKEN": token}
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as first:
                assert first.stdout is not None
                assert sorted(first.stdout.readline() for _ in range(2)) == ["[0] here\n", "[1] here\n"]
                again = run("-n", "3", "--box", address, "train.py", "1", MODUM_TOKEN=token, MODUM_JOB="first")
                with Box.connect(address, token=token) as whole:
                    whole.counter("second/end").add(1)
                second = run("-n", "2", "--box", address, "--name", "second", "train.py", "5", MODUM_TOKEN=token)
                progress = read_progress(box)
                box.counter("end").add(1)
            assert first.returncode == 0
        assert again.returncode == 1
        assert "error: 2 workers of a job called 'first' use this box now\nHINT: give this job another" in again.stderr
        assert (second.returncode, second.stdout.count("here")) == (0, 2), second.stderr
        assert progress is not None
        assert (progress.samples, progress.world_size) == (14, 2)

    def test_whose_server_dies_ends_each_worker_with_one_error_that_names_it(self, script: Script) -> None:
        script("""
            from contextlib import ExitStack
            import modum
            from modum.averaging.membership import Membership

            with modum.connect() as job, ExitStack() as stack:
                stack.callback(Membership(job.box, "model", leader=True).leave)
                print("ready", flush=True)
                while True:
                    job.box.counter("steps").add(1)
            """)
        with server_process("--port", "0") as (server, address):
            command = [*RUN, "-n", "2", "--box", address, "--on-failure", "continue", "train.py"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
                assert launcher.stdout is not None
                assert sorted(launcher.stdout.readline() for _ in range(2)) == ["[0] ready\n", "[1] ready\n"]
                server.kill()
                _, told = launcher.communicate(timeout=PATIENCE)
        assert launcher.returncode == 1
        error = (
            f"ConnectionLostError: request CounterAdd: memory server {address} is gone: it could not be reached for "
        )
        for rank in range(2):
            lines = [line.removeprefix(f"[{rank}] ") for line in told.splitlines() if line.startswith(f"[{rank}]")]
            assert (lines[0], len(lines)) == ("Traceback (most recent call last):", 5), told
            assert "train.py" in lines[1]
            assert lines[3].startswith(f"modum.errors.{error}")
            assert lines[4].startswith("HINT: what it held is lost: start the memory servers and the job again")
        assert told.endswith(
            f"modum: memory server {address} cannot be reached: the run could not go on without its memory\n"
        )

    def test_takes_the_same_job_again_as_soon_as_it_was_stopped(self, script: Script) -> None:
        script("""
            import sys, time, modum
            with modum.connect():
                print("here", flush=True)
                time.sleep(float(sys.argv[1]))
            """)
        with server_process("--port", "0") as (_, address):
            command = [*RUN, "-n", "2", "--box", address, "train.py"]
            with subprocess.Popen([*command, "1000"], stdout=subprocess.PIPE, text=True) as launcher:
                assert launcher.stdout is not None
                assert [launcher.stdout.readline()[3:] for _ in range(2)] == [" here\n"] * 2
                launcher.send_signal(signal.SIGINT)
                assert launcher.wait(PATIENCE) == 130
            again = run("-n", "2", "--box", address, "train.py", "0")
        assert again.returncode == 0, again.stderr
        assert again.stderr.startswith(
            "modum: 2 workers of a job without a name in this box: waiting up to 4 s, in case they were just stopped\n"
        )

    def test_says_that_a_job_of_this_name_has_ended_there(self, script: Script, server: tuple[Server, str]) -> None:
        script("""
            import modum
            from modum.groups import Alone
            from modum.samples import SamplePools

            with modum.connect() as job:
                pools = SamplePools(job, "model", Alone())
                print(sum(len(batch) for epoch in range(2) for batch in pools.pool(size=1000, batch_size=10)))
            """)
        address, token = server[0].address, server[1]

        def started(name: str) -> Result:
            return run("--box", address, "--name", name, "train.py", MODUM_TOKEN=token)

        first, again, other = started("first"), started("first"), started("other")
        assert [result.stdout for result in (first, again, other)] == ["[0] 2000\n", "[0] 0\n", "[0] 2000\n"]
        assert [result.returncode for result in (first, again, other)] == [0, 0, 0]
        assert [result.stderr.count("an earlier run") for result in (first, again, other)] == [0, 1, 0]
        assert (
            "has done, in this box, all 1,000 samples, so nothing is left to train\n"
            "[0] HINT: to train anew, give the job another name (modum run --name second, "
        ) in again.stderr

    def test_that_refuses_the_token_is_told_before_anything_starts(
        self, script: Script, server: tuple[Server, str]
    ) -> None:
        script("print('started')")
        result = run("--box", server[0].address, "train.py", MODUM_TOKEN=new_token())
        assert (result.returncode, result.stdout) == (1, "")
        assert "error: " in result.stderr
        assert "token" in result.stderr


INTERRUPTED_AT_AN_IMPORT = """
import os, runpy, signal, sys
count, at = 0, int(sys.argv.pop(1))

class InACallback:
    def __del__(self):  # where an exception gets lost
        if count == at:
            os.kill(os.getpid(), signal.SIGINT)

class Finder:
    @staticmethod
    def find_spec(*_):
        global count
        InACallback()
        count += 1

sys.meta_path.insert(0, Finder)
try:
    runpy.run_module("modum", run_name="__main__", alter_sys=True)
finally:
    print("imports:", count, flush=True)
"""


def test_an_interrupt_at_any_moment_of_the_start_ends_the_launcher(script: Script) -> None:
    """Python looks for a module some hundred times before the workers run; SIGINT comes at twenty of these."""
    script("import sys, time; time.sleep(1000 if sys.argv[1:] else 0)")

    def start(at: int, *arguments: str) -> Result:
        command = [sys.executable, "-c", INTERRUPTED_AT_AN_IMPORT, str(at), "run", "-n", "1", "train.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    whole = start(-1)
    assert whole.returncode == 0, whole.stderr
    imports = int(whole.stdout.rpartition("imports:")[2])
    for part in range(1, 21):  # the first few are Modum's own, before its first line
        status = start(imports * part // 21, "stay").returncode
        assert status in (130, -signal.SIGINT), part  # for a shell, both are 130


def test_an_interrupt_as_soon_as_the_launcher_exists_ends_it(script: Script) -> None:
    script("import time; time.sleep(1000)")
    for _ in range(20):
        with subprocess.Popen([*RUN, "train.py"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as launcher:
            launcher.send_signal(signal.SIGINT)
            status = launcher.wait(PATIENCE)
        assert status in (
            130,
            -signal.SIGINT,
            1,
        )  # for a shell, the first two are one; 1 is Python's, before any module


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-n 4 --group-size 3 train.py", "group size (3) must divide the number of workers (4) HINT: with 4 workers"),
        ("-n 0 train.py", "workers (0) must be at least 1"),
        ("--servers 0 train.py", "servers (0) must be at least 1"),
        ("--threads 0 train.py", "threads (0) must be at least 1"),
        ("--memory 8G train.py", "'8G' is not an amount of memory; write it like 512MiB"),
        ("--box 127.0.0.1:7500 --servers 2 train.py", "HINT: leave out --servers and --memory, or --box"),
        (
            "--box http://127.0.0.1:7500/ train.py",
            "is no address of a memory server, but a URL or a path. HINT: write 127.0.0.1:7500",
        ),
        ("missing.py", "there is no missing.py in"),
        ("--on-failure retry train.py", "'retry' is not one of 'stop', 'continue'"),
        ("", "Missing argument 'SCRIPT'"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_hint(script: Script, arguments: str, message: str) -> None:
    script("")
    result = CliRunner().invoke(app, ["run", *arguments.split()], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 2
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())


def test_the_help_teaches_by_an_example() -> None:
    result = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "120", "TERM": "dumb"})
    assert result.exit_code == 0
    assert "modum run -n 4 --group-size 2 train.py --epochs 3" in result.output


def test_the_launcher_imports_neither_numba_nor_torch(script: Script) -> None:
    script("")
    code = """
        import sys
        from modum.cli.main import app
        try:
            app(["run", "train.py"])
        finally:
            print({"numba", "torch"} & set(sys.modules))
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (result.returncode, result.stdout) == (0, "set()\n"), result.stderr


def test_a_terminal_gets_coloured_labels_above_a_line_that_is_redrawn(script: Script) -> None:
    script("print('hello')")
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    with subprocess.Popen([*RUN, "train.py"], stdout=follower, stderr=follower, env=environment) as launcher:
        os.close(follower)
        shown = b""
        with contextlib.suppress(OSError):  # so a terminal tells that the other side is closed
            while piece := os.read(leader, 4096):
                shown += piece
        os.close(leader)
        assert launcher.wait(PATIENCE) == 0
    assert b"\x1b[36m[0]\x1b[0m hello\r\n" in shown
    assert b"\x1b[?25h" in shown  # the cursor is back
    assert b"1/1 workers done" in shown
