"""One unmodified script, by every launcher: the real mpirun of two MPIs, torchrun, Slurm's srun, `modum run`, none."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.cluster import tools
from tests.cluster.conftest import LAUNCHERS
from tests.cluster.hosts import Hosts, address, ended
from tests.processes import TIMEOUT, assert_gone

from modum.waiting import poll

WORKERS = Path(__file__).parent / "workers"
PYTHON = sys.executable
BIN = Path(sys.prefix) / "bin"
PATH = f"{BIN}:{os.environ['PATH']}"
CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"
WORLD = 4

SSH = """#!/bin/sh
# Stands in for ssh between the hosts: [options] HOST COMMAND...
while [ "${1#-}" != "$1" ]; do shift; done
host=$1
shift
exec nsenter --net=/run/netns/$host -- unshare --uts sh -c "hostname $host; $*"
"""

pytestmark = pytest.mark.timeout(240)


def environment(**more: str) -> dict[str, str]:
    """That of this process, without what an outer launcher may have left in it."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if name == "MODUM_TEST_SESSION" or not name.startswith((*LAUNCHERS, "SLURM"))
    }
    return {**ours, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def worker(name: str) -> list[str]:
    return [PYTHON, str(WORKERS / name)]


def finish(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """The output of a launcher that succeeded."""
    with ended(process):
        output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output + errors
    return output, errors


def start(command: Sequence[str | Path], **more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
    )


def said(output: str) -> list[dict[str, Any]]:
    """What workers printed as JSON; `modum run` puts their rank in front."""
    lines = (line.removeprefix("[0] ") for line in output.splitlines())
    return [json.loads(line) for line in lines if line.startswith("{")]


def batch(hosts: Hosts, *command: str, **more: str) -> str:
    """What a batch job has written, once it has ended."""
    out = hosts.folder / "batch.out"
    options = [f"--output={out}", "--open-mode=truncate", f"--chdir={hosts.folder}"]
    finish(hosts.start(4, ["sbatch", *options, *command], environment(PATH=PATH, **more)))
    poll(
        lambda: not finish(hosts.start(4, ["squeue", "--noheader"], environment()))[0],
        timeout=TIMEOUT,
        error=lambda: AssertionError(f"the batch job goes on: {out.read_text()}"),
    )
    return out.read_text()


def mpich() -> tuple[list[str], dict[str, str]]:
    program = shutil.which("mpirun", path=str(BIN))
    if program is None:
        pytest.skip("MPICH's wheel is not installed beside Python: pip install mpich")
    return [program], {}


def open_mpi() -> tuple[list[str], dict[str, str]]:
    root = tools.open_mpi()
    library = str(root / "lib" / "libmpi.so.40")
    # the machine has fewer cores than workers
    return [str(root / "bin" / "mpirun"), "--map-by", ":OVERSUBSCRIBE"], tools.as_root({"MPI4PY_LIBMPI": library})


@cache
def trained_alone() -> dict[str, Any]:
    output, _ = finish(start(worker("train.py")))
    (result,) = said(output)
    return result


@cache
def trained_by_modum_run() -> dict[str, Any]:
    output, _ = finish(
        start([BIN / "modum", "run", "-n", str(WORLD), "--group-size", str(WORLD), WORKERS / "train.py"])
    )
    (result,) = said(output)
    return result


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Four hosts with Slurm."""
    with Hosts(tmp_path_factory.mktemp("hosts")) as four:
        four.start_slurm(tools.slurm())
        yield four


def check(result: Mapping[str, Any], place: Sequence[int] = (WORLD, 1, WORLD)) -> None:
    """All adds are in the sum, and the training went as it does under `modum run`, bit by bit."""
    assert result["place"] == list(place)
    assert result["sums"] == [5.0 * (1 + 2 + 3 + 4)]
    assert result["weights"] == trained_by_modum_run()["weights"]


class TestTheSameScript:
    """Groups are the hosts, so the four workers of one machine take every step together."""

    def test_alone_goes_the_same_way(self) -> None:
        alone = trained_alone()
        assert (alone["place"], alone["sums"]) == ([1, 1, 1], [5.0])
        # one batch of 32 has another rounding than the mean of four of 8
        assert alone["weights"] == pytest.approx(trained_by_modum_run()["weights"], abs=1e-5)

    def test_by_modum_run(self) -> None:
        check(trained_by_modum_run())

    @pytest.mark.parametrize("mpi", [mpich, open_mpi], ids=["mpich", "openmpi"])
    def test_by_mpirun(self, mpi: Any) -> None:
        mpirun, variables = mpi()
        output, errors = finish(start([*mpirun, "-n", str(WORLD), *worker("train.py")], **variables))
        (result,) = said(output)
        check(result)
        assert "modum: 4 workers on 1 host (started by mpirun), 1 group of 4 (the host); 1 memory server: " in errors

    def test_by_torchrun(self, tmp_path: Path) -> None:
        command = [str(BIN / "torchrun"), "--nproc-per-node", str(WORLD), str(WORKERS / "train.py")]
        output, errors = finish(start(command, TMPDIR=str(tmp_path)))
        (result,) = said(output)
        check(result)
        assert "modum: 4 workers on 1 host (started by torchrun)" in errors

    def test_by_srun_also_with_a_group_over_two_hosts(self, hosts: Hosts) -> None:
        command = ["srun", "--nodes=2", "--ntasks-per-node=2", *worker("train.py")]
        output, errors = finish(hosts.start(2, command, environment(MODUM_GROUP_SIZE=str(WORLD))))
        (result,) = said(output)
        check(result)
        assert "modum: 4 workers on 2 hosts (started by srun), 1 group of 4; 2 memory servers: 10.77.0.1:" in errors


class TestSeveralHosts:
    """Each host has a `docker0` too, which leads nowhere, and which is not told to others."""

    def test_have_a_memory_server_each_and_reach_those_of_others_by_tcp(self, hosts: Hosts) -> None:
        output, errors = finish(hosts.start(1, ["srun", "--nodes=4", *worker("sums.py")], environment()))
        results = {each["rank"]: each for each in said(output)}
        assert sorted(results) == [0, 1, 2, 3]
        for rank, result in results.items():
            assert result["place"] == [4, 4, 1]
            assert result["sums"] == [1 + 2 + 3 + 4]
            assert [server.partition(":")[0] for server in result["servers"]] == [
                address(host) for host in (1, 2, 3, 4)
            ]
            assert result["transports"] == ["local" if server == rank else "tcp" for server in range(4)]
        assert "modum: 4 workers on 4 hosts (started by srun), 4 groups of 1; 4 memory servers: 10.77.0.1:" in errors
        assert errors.count(", eth0)") == 4

    def test_of_torchrun_meet_in_its_store_as_in_the_example(self, hosts: Hosts, tmp_path: Path) -> None:
        with contextlib.ExitStack() as stack:
            agents = [
                stack.enter_context(
                    ended(
                        hosts.start(
                            host,
                            [str(CLUSTER / "torchrun.sh"), str(number), address(3), str(WORKERS / "sums.py")],
                            environment(PATH=PATH, TMPDIR=str(tmp_path), WORKERS="1", MODUM_SERVERS="2"),
                        )
                    )
                )
                for number, host in enumerate((3, 4))
            ]
            results = [result for agent in agents for result in said(finish(agent)[0])]
        assert sorted(result["rank"] for result in results) == [0, 1]
        for result in results:
            assert (result["place"], result["sums"]) == ([2, 2, 1], [3.0])
            assert [server.partition(":")[0] for server in result["servers"]] == [address(h) for h in (3, 3, 4, 4)]

    def test_of_mpirun_meet_over_mpi_as_in_the_example(self, hosts: Hosts) -> None:
        mpirun, variables = open_mpi()
        agent = hosts.folder / "ssh"
        agent.write_text(SSH)
        agent.chmod(0o700)
        hostfile = hosts.folder / "hostfile"
        hostfile.write_text("n1 slots=1\nn2 slots=1\n")
        path = f"{Path(mpirun[0]).parent}:{PATH}"
        place = environment(PATH=path, HOSTFILE=str(hostfile), PRTE_MCA_plm_ssh_agent=str(agent), **variables)
        output, errors = finish(hosts.start(1, [str(CLUSTER / "mpirun.sh"), str(WORKERS / "sums.py")], place))
        assert sorted(each["rank"] for each in said(output)) == [0, 1]
        assert all((each["place"], each["sums"]) == ([2, 2, 1], [3.0]) for each in said(output))
        assert re.search(r"2 memory servers: 10\.77\.0\.1:\d+ \(n1, eth0\), 10\.77\.0\.2:\d+ \(n2, eth0\)\n", errors)

    def test_of_a_batch_job_are_as_in_the_example(self, hosts: Hosts) -> None:
        example = [str(CLUSTER / "slurm.sbatch"), str(WORKERS / "sums.py")]
        results = said(batch(hosts, "--ntasks-per-node=1", *example, MODUM_MEMORY="64MiB"))
        assert sorted(each["rank"] for each in results) == [0, 1]
        assert all((each["place"], each["sums"]) == ([2, 2, 1], [3.0]) for each in results)

    def test_share_a_box_that_runs_already(self, hosts: Hosts) -> None:
        servers = [f"{address(host)}:7500" for host in (1, 2, 3, 4)]
        variables = {"MODUM_TOKEN": "only for this test", "MODUM_BOX": ",".join(servers)}
        with contextlib.ExitStack() as stack:
            for host in (1, 2, 3, 4):
                command = [str(BIN / "modum"), "server", "--host", address(host), "--memory", "64MiB"]
                server = stack.enter_context(ended(hosts.start(host, command, environment(**variables))))
                assert server.stdout is not None
                assert server.stdout.readline() == f"modum server listening on {address(host)}:7500\n"
            places = [{"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", **variables} for rank in (0, 1)]
            workers = [
                stack.enter_context(ended(hosts.start(2 + rank, worker("sums.py"), environment(**place))))
                for rank, place in enumerate(places)
            ]
            results = [said(finish(each)[0])[0] for each in workers]
            second = {**variables, "MODUM_JOB": "second", "MODUM_GROUP_SIZE": "2"}
            output, errors = finish(hosts.start(1, ["srun", "--nodes=2", *worker("sums.py")], environment(**second)))
        for result, nearest in zip(results, (1, 2), strict=True):
            assert (result["place"], result["sums"]) == ([2, 2, 1], [3.0])
            assert result["servers"] == servers
            assert result["transports"] == ["local" if server == nearest else "tcp" for server in range(4)]
        assert [(each["place"], each["sums"], each["servers"]) for each in said(output)] == [
            ([2, 1, 2], [3.0], servers)
        ] * 2
        assert f"1 group of 2; 4 memory servers: {', '.join(servers)}\n" in errors


def ready(launcher: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The memory servers of a job, once all its workers have said that they are there."""
    assert launcher.stdout is not None
    came = [launcher.stdout.readline() for _ in range(WORLD)]
    assert sorted(came) == [f"ready {rank}\n" for rank in range(WORLD)], came
    mark = os.environ["MODUM_TEST_SESSION"]
    servers = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.cmdline()[2:5] == ["-m", "modum", "server"]
                and process.environ().get("MODUM_TEST_SESSION") == mark
            ):
                servers.append(process)
    return servers


@pytest.fixture
def _shared_memory() -> Iterator[None]:
    """Takes away what MPICH leaves behind when it is killed."""

    def files() -> set[Path]:
        return set(Path("/dev/shm").glob("mpich_shm_*"))  # noqa: S108

    before = files()
    yield
    for left in files() - before:
        left.unlink()


@pytest.mark.usefixtures("_shared_memory")
class TestAnEnd:
    @pytest.mark.parametrize("mpi", [mpich, open_mpi], ids=["mpich", "openmpi"])
    def test_of_a_worker_ends_the_job_of_mpirun_and_its_servers(self, mpi: Any) -> None:
        mpirun, variables = mpi()
        with ended(start([*mpirun, "-n", str(WORLD), *worker("wait.py"), "2"], **variables)) as launcher:
            servers = ready(launcher)
            assert launcher.wait(TIMEOUT) != 0
        assert_gone(servers)

    @pytest.mark.parametrize("launcher", ["mpich", "torchrun"])
    def test_by_sigterm_to_the_launcher_lets_workers_leave_in_order(self, launcher: str) -> None:
        command = [*mpich()[0], "-n", str(WORLD), *worker("leaves.py")]
        if launcher == "torchrun":
            command = [str(BIN / "torchrun"), "--nproc-per-node", str(WORLD), str(WORKERS / "leaves.py")]
        with ended(start(command)) as running:
            servers = ready(running)
            running.terminate()
            output, errors = running.communicate(timeout=TIMEOUT)
        assert sorted(output.splitlines()) == [f"left {rank}" for rank in range(WORLD)], errors
        assert_gone(servers)

    def test_of_the_first_worker_waits_for_those_that_need_its_server(self, tmp_path: Path) -> None:
        script = tmp_path / "late.py"
        script.write_text("""
import sys, modum
from modum.waiting import poll
job = modum.connect()
if job.rank:
    poll(lambda: len(job.box.leases("modum/worker/")) == 1, timeout=60.0, error=TimeoutError)
    sys.stdout.write(f"still there: {job.box.counter('late').add(1)}\\n")
    sys.stdout.flush()
""")
        mpirun, _ = mpich()
        output, _ = finish(start([*mpirun, "-n", "2", PYTHON, script]))
        assert output == "still there: 0\n"

    def test_by_ctrl_c_leaves_nothing(self) -> None:
        mpirun, _ = mpich()
        with ended(start([*mpirun, "-n", str(WORLD), *worker("wait.py")], MODUM_SERVERS="2")) as launcher:
            servers = ready(launcher)
            assert len(servers) == 2
            launcher.send_signal(signal.SIGINT)
            assert launcher.wait(TIMEOUT) != 0
        assert_gone(servers)

    def test_by_scancel_leaves_nothing_on_any_host(self, hosts: Hosts) -> None:
        with ended(hosts.start(1, ["srun", "--nodes=4", *worker("wait.py")], environment())) as launcher:
            servers = ready(launcher)
            assert len(servers) == 4
            finish(hosts.start(3, ["scancel", "--state=RUNNING"], environment()))
            # these workers do not look at job.stopping: SIGKILL ends them, and srun, which has waited, says 0
            launcher.wait(TIMEOUT)
        assert_gone(servers)


def test_a_job_that_torchrun_starts_again_meets_again(tmp_path: Path) -> None:
    script = tmp_path / "again.py"
    script.write_text("""
import os, sys, modum
attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
with modum.connect() as job:
    job.box.counter("here").add(1)
    assert job.box.counter("here").wait(2) == 2
    sys.stdout.write(f"attempt {attempt}\\n")  # whole: torchrun takes Python's buffer away, and print writes in parts
    sys.stdout.flush()
    if attempt == "0":
        os._exit(1)
""")
    output, errors = finish(
        start([BIN / "torchrun", "--nproc-per-node=2", "--max-restarts=1", script], TMPDIR=str(tmp_path))
    )
    assert output.count("attempt 1\n") == 2
    assert errors.count("modum: 2 workers on 1 host (started by torchrun)") == 2


class TestAMislaunch:
    def test_by_the_mpirun_of_another_mpi_is_told(self) -> None:
        mpirun, variables = open_mpi()
        library = variables.pop("MPI4PY_LIBMPI")
        with ended(start([*mpirun, "-n", "2", *worker("sums.py")], **variables)) as launcher:
            _, errors = launcher.communicate(timeout=TIMEOUT)
        assert launcher.returncode != 0
        assert "mpirun is of Open MPI, but mpi4py loads MPICH Version" in errors
        assert f"mpirun -x MPI4PY_LIBMPI={library} ..." in errors

    def test_over_an_interface_that_does_not_join_the_hosts_is_told_on_all_of_them(self, hosts: Hosts) -> None:
        command = ["srun", "--nodes=2", *worker("sums.py")]
        with ended(hosts.start(1, command, environment(MODUM_INTERFACE="docker0"))) as launcher:
            _, errors = launcher.communicate(timeout=TIMEOUT)
        assert launcher.returncode != 0
        for node in ("node1", "node2"):
            assert f"{node} cannot reach the box: connect: memory server 172.17.0.1:" in errors
        assert "network interfaces here: 172.17.0.1 (docker0)" in errors
        assert "HINT: " in errors
        assert "export MODUM_INTERFACE=ib0" in errors

    def test_of_unequal_hosts_is_told_what_fits(self, hosts: Hosts) -> None:
        command = ["srun", "--nodes=2", "--ntasks=4", "--distribution=plane=3", *worker("sums.py")]
        with ended(hosts.start(1, command, environment())) as launcher:
            _, errors = launcher.communicate(timeout=TIMEOUT)
        assert launcher.returncode != 0
        assert "different numbers of tasks (3,1), so the host cannot be the group" in errors
        assert "HINT: export MODUM_GROUP_SIZE=1" in errors

    def test_of_ranks_dealt_out_to_hosts_in_turn_is_told_what_fits(self, hosts: Hosts) -> None:
        command = ["srun", "--nodes=2", "--ntasks-per-node=2", "--distribution=cyclic", *worker("sums.py")]
        with ended(hosts.start(1, command, environment())) as launcher:
            _, errors = launcher.communicate(timeout=TIMEOUT)
        assert launcher.returncode != 0
        assert "rank 0 is on node1 and rank 1 on node2, so the 2 workers of a host have no consecutive ranks" in errors
        assert "HINT: fill one host after the other (mpirun --map-by slot, srun --distribution=block)" in errors

    def test_of_the_batch_script_without_srun_is_told(self, hosts: Hosts) -> None:
        script = hosts.folder / "batch.sh"
        script.write_text(f"#!/bin/sh\n{' '.join(worker('sums.py'))}\n")
        output = batch(hosts, "--ntasks=2", str(script))
        assert said(output)[0]["place"] == [1, 1, 1]
        note = "modum: Slurm allotted 2 tasks, but srun did not start this process: it trains alone\nHINT: srun -n 2"
        assert note in output
