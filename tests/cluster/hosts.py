"""Hosts of a small cluster, in network namespaces of this machine, joined by a bridge; with Slurm if asked for.

Everything lives in namespaces of processes and mounts too: whatever happens, killing one process ends all of it.
As a script this file is that process.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil
import pytest

from modum.waiting import poll

HOSTS = 4
START_SECONDS = 30.0
NETWORK = "10.77.0"
CONTROLLER = f"{NETWORK}.254"

UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def address(host: int) -> str:
    """The address of the host `host`, 1 to 4, in the network that all of them share."""
    return f"{NETWORK}.{host}"


class Hosts:
    """Four hosts, each with an `eth0` on one network, and a `docker0` that is the same on all of them.

    A context manager; skips the test, with the reason, where the kernel does not let us.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._slurm: dict[str, str] = {}
        self._commands = ""
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        if os.geteuid():
            pytest.skip("network namespaces need root")
        command = [*UNSHARE, sys.executable, __file__]
        self._log = (self.folder / "hosts.log").open("wb+")
        try:
            self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        except FileNotFoundError as error:
            pytest.skip(f"network namespaces need util-linux: {error}")
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != b"ready\n":
            said = (self.folder / "hosts.log").read_text().strip().splitlines()
            self.__exit__(None, None, None)
            pytest.skip(f"cannot make network namespaces: {said[-1] if said else 'no reason given'}")
        (init,) = psutil.Process(self._keeper.pid).children()
        self._enter = ["nsenter", f"--target={init.pid}", "--net", "--mount", "--pid", f"--wd={Path.cwd()}", "--"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._keeper.kill()
        for process in (self._keeper, *self._daemons):
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._log.close()

    def command(self, host: int | None, command: Sequence[str | Path]) -> list[str]:
        """What runs `command` on a host, or on the machine in the middle of their network."""
        name = "middle" if host is None else f"n{host}"
        # not `ip netns exec`, which mounts another /sys
        inside = [] if host is None else ["nsenter", f"--net=/run/netns/{name}", "--"]
        named = ["unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh"]
        return [*self._enter, *inside, *named, *map(str, command)]

    def start(
        self,
        host: int | None,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        output: int | IO[bytes] = subprocess.PIPE,
        errors: int | IO[bytes] = subprocess.PIPE,
    ) -> "subprocess.Popen[str]":
        """Start `command` on a host; with Slurm, its commands are there."""
        return subprocess.Popen(
            self.command(host, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            text=True,
            env={**environment, **self._slurm, "PATH": f"{self._commands}{environment['PATH']}"},
        )

    def start_slurm(self, root: Path) -> None:
        """A controller in the middle and a node daemon on each host, all of which trust each other by MUNGE."""
        libraries = root / "usr/lib/x86_64-linux-gnu"
        plugins = libraries / "slurm-wlm"
        # the folders are not where Debian's package would have put them
        self._slurm = {
            "LD_LIBRARY_PATH": f"{libraries}:{plugins}",
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }
        self._commands = f"{root}/usr/bin:"
        (self.folder / "slurm.conf").write_text(_slurm_conf(self.folder, plugins))
        # nothing is confined here; without this line Slurm would look for control groups, which containers may not have
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        munged = [str(root / "usr/sbin/munged"), "--foreground"]
        files = [f"--{name}-file=/run/munge/{name}" for name in ("key", "log", "pid", "seed")]
        self._daemon(None, [*munged, *files])
        self._until(["test", "-S", "/run/munge/munge.socket.2"])
        for name in ("state", *(f"spool.node{host}" for host in range(1, HOSTS + 1))):
            (self.folder / name).mkdir()
        self._daemon(None, [root / "usr/sbin/slurmctld-wlm", "-D", "-c"])
        for host in range(1, HOSTS + 1):
            step = root / "usr/sbin/slurmstepd-wlm"
            self._daemon(host, [root / "usr/sbin/slurmd-wlm", "-D", "-N", f"node{host}", "-d", step])
        self._until(["sh", "-c", f'test "$(sinfo --noheader --states=idle --format=%D)" = {HOSTS}'])

    def _daemon(self, host: int | None, command: Sequence[str | Path]) -> None:
        self._daemons.append(self.start(host, command, os.environ, self._log, self._log))  # type: ignore[arg-type]

    def _until(self, command: Sequence[str]) -> None:
        def runs() -> bool:
            """Whether the command succeeds, or it never will."""
            ended = any(daemon.poll() is not None for daemon in self._daemons)
            return ended or self.start(None, command, os.environ, subprocess.DEVNULL, subprocess.DEVNULL).wait() == 0

        def late() -> Exception:
            return TimeoutError(f"{' '.join(command)} failed for {START_SECONDS:g} s")

        with contextlib.suppress(TimeoutError):
            poll(runs, timeout=START_SECONDS, error=late)
            if all(daemon.poll() is None for daemon in self._daemons):
                return
        ended = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
        errors = [line for line in (self.folder / "hosts.log").read_text().splitlines() if "rror" in line]
        pytest.skip(f"Slurm's daemons do not run here: {'; '.join(errors[-3:]) or ended}")


def _slurm_conf(folder: Path, plugins: Path) -> str:
    # Slurm's names are no host names here, as on some clusters: their addresses are known to Slurm alone
    nodes = "".join(
        f"NodeName=node{host} NodeHostname=n{host} NodeAddr={address(host)} CPUs=8\n" for host in range(1, HOSTS + 1)
    )
    return f"""
        ClusterName=modum
        SlurmctldHost=middle({CONTROLLER})
        SlurmUser=root
        SlurmdUser=root
        AuthType=auth/munge
        CredType=cred/munge
        PluginDir={plugins}
        StateSaveLocation={folder}/state
        SlurmdSpoolDir={folder}/spool.%n
        SlurmctldPidFile={folder}/slurmctld.pid
        SlurmdPidFile={folder}/slurmd.%n.pid
        ProctrackType=proctrack/linuxproc
        TaskPlugin=task/none
        SelectType=select/cons_tres
        SelectTypeParameters=CR_CPU
        SlurmdParameters=config_overrides
        ReturnToService=2
        KillWait=2
        {nodes}
        PartitionName=all Nodes=ALL Default=YES
        """.replace("\n        ", "\n")


def _ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


def _make() -> None:
    """The inside of the namespaces: a bridge, and a network namespace for each host."""
    # ip keeps its namespaces in /run/netns, munged its socket in /run/munge: both are to be ours alone
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    for name in ("netns", "munge"):
        Path("/run", name).mkdir(mode=0o755)
    # names are looked up here, and there is nobody to ask
    names = [f"{address(host)} n{host}\n" for host in range(1, HOSTS + 1)]
    for path, text in (
        ("/etc/hosts", f"127.0.0.1 localhost\n{CONTROLLER} middle\n{''.join(names)}"),
        ("/etc/resolv.conf", ""),
    ):
        ours = Path("/run", Path(path).name)
        ours.write_text(text)
        subprocess.run(["mount", "--bind", ours, path], check=True)
    key = Path("/run/munge/key")
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    _ip("link set lo up")
    _ip("link add middle type bridge")
    _ip("link set middle up")
    _ip(f"address add {CONTROLLER}/24 dev middle")
    for host in range(1, HOSTS + 1):
        _ip(f"netns add n{host}")
        _ip(f"link add end{host} type veth peer name eth0 netns n{host}")
        _ip(f"link set end{host} master middle up")
        _ip(f"-n n{host} link set lo up")
        _ip(f"-n n{host} address add {address(host)}/24 dev eth0")
        _ip(f"-n n{host} link set eth0 up")
        _ip(f"-n n{host} route add default via {CONTROLLER}")
        _ip(f"-n n{host} link add docker0 type bridge")
        _ip(f"-n n{host} address add 172.17.0.1/16 dev docker0")
        _ip(f"-n n{host} link set docker0 up")


@contextlib.contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """Kill what still runs when the block is left, and what it has started: nsenter passes no signal on."""
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()


if __name__ == "__main__":
    _make()
    os.write(1, b"ready\n")
    os.read(0, 1)  # until the test has ended
