"""Runs one job on this machine: memory servers and workers, from their start to the exit status."""

import signal
import time
from collections.abc import Sequence
from functools import partial

from modum.box import Box, new_token
from modum.box.server.process import ready_address, server_command
from modum.cluster.credentials import child_environment
from modum.cluster.ports import free_port
from modum.cluster.registration import check_free
from modum.observe.console import RunConsole
from modum.observe.progress import clear_progress
from modum.run.children import worker_command, worker_environment
from modum.run.config import RunConfig
from modum.run.processes import Interrupted, Process, Processes, Stream
from modum.run.progress_reader import ProgressReader
from modum.units import count, format_bytes

__all__ = ["Supervisor"]

_POLL_SECONDS = 0.25
_SERVER_START_SECONDS = 60.0
_TRACEBACK = "Traceback (most recent call last):"


class Supervisor:
    """One run of `plan`, shown on `console`."""

    def __init__(self, plan: RunConfig, console: RunConsole) -> None:
        self._plan = plan
        self._console = console
        self._servers: list[Process] = []
        self._addresses: dict[int, str] = {}
        self._workers: list[Process] = []
        self._alive: list[Process] = []
        self._failed: list[Process] = []

    def run(self) -> int:
        """Run the job to its end; returns the exit status of the launcher.

        That is 0 if all workers succeeded, or with `on_failure="continue"` all workers of at least one group;
        else the first failing worker's exit code, or 128 + the signal it died of; 1 if a memory server died;
        128 + the signal by which this process was asked to stop. Whichever it is, no process is left.

        Raises what `Box.connect` raises if `plan.box` cannot be joined, and `MismatchError` if workers of a job of
        this name are there; nothing was started then.
        """
        if self._plan.box:
            plan = self._plan
            with Box.connect(plan.box, token=plan.token, transport="tcp", namespace=plan.name) as box:
                check_free(box, plan.name)
                clear_progress(box)
        reason: Interrupted | _ServerError | None = None
        with ProgressReader() as monitor, self._console, Processes() as processes:
            try:
                servers, token = self._plan.box, self._plan.token
                if not servers:
                    servers, token = self._start_servers(processes)
                self._start_workers(processes, servers, token)
                monitor.start(servers, token, self._plan.name)
                self._watch(processes, monitor)
            except (Interrupted, _ServerError) as error:
                reason = error
            alive = len(self._alive)  # before the rest is stopped
            processes.stop(self._workers)
            monitor.finish(timeout=2.0 if reason is None else 0.2)  # while there is a box to read from
            processes.stop(self._servers)
            self._console.show(monitor.latest, alive, len(self._done()), last=True)
            if reason is not None:
                self._console.message(str(reason), error=True)
                return reason.status
            return self._conclude()

    def _start_servers(self, processes: Processes) -> tuple[tuple[str, ...], str]:
        token = new_token()
        for index in range(self._plan.servers):
            server = processes.start(
                f"memory server {index}",
                server_command(self._plan.memory),
                child_environment(token),
                partial(self._server_output, index),
                keep_stdin=True,
            )
            self._servers.append(server)
        deadline = time.monotonic() + _SERVER_START_SECONDS
        while len(self._addresses) < len(self._servers):
            processes.poll(deadline - time.monotonic())
            self._check_servers()
            if time.monotonic() > deadline:
                silent = next(s for index, s in enumerate(self._servers) if index not in self._addresses)
                raise _ServerError(f"{silent} was not ready after {_SERVER_START_SECONDS:.0f} s")
        return tuple(self._addresses[index] for index in range(len(self._servers))), token

    def _start_workers(self, processes: Processes, servers: Sequence[str], token: str | None) -> None:
        plan = self._plan
        groups = plan.workers // plan.group_size
        limit = "" if plan.box else f", up to {format_bytes(plan.memory)} each"
        self._console.message(
            f"{count(plan.workers, 'worker')} in {count(groups, 'group')}; "
            f"{count(len(servers), 'memory server')} ({', '.join(servers)}{limit})"
        )
        port = free_port()
        width = len(f"[{plan.workers - 1}]")
        for rank in range(plan.workers):
            worker = processes.start(
                f"rank {rank}",
                worker_command(plan),
                worker_environment(plan, rank, servers, token, port),
                partial(self._console.output, f"[{rank}]".ljust(width), rank),
            )
            self._workers.append(worker)
            self._alive.append(worker)

    def _server_output(self, index: int, stream: Stream, lines: list[str]) -> None:
        for line in lines:
            address = ready_address(line)
            if address is None:
                self._console.output(f"[server {index}]", index, stream, [line])
            else:
                self._addresses[index] = address

    def _watch(self, processes: Processes, monitor: ProgressReader) -> None:
        """Return when no worker lives, or when one failed and that is to stop the run."""
        while self._alive:
            try:
                processes.poll(_POLL_SECONDS)
            except Interrupted as request:
                if not processes.pass_on(request.number, self._alive):
                    raise
                self._console.message(f"{request.number.name} goes to the workers, which handle it themselves")
            self._check_servers()
            ended = [worker for worker in self._alive if worker.returncode is not None]
            self._alive = [worker for worker in self._alive if worker.returncode is None]
            for worker in ended:
                if worker.returncode == 0 or worker.stopped:
                    continue
                self._failed.append(worker)
                if self._plan.on_failure == "stop":
                    return
                self._console.message(f"{worker} {worker.end}; the other groups go on", error=True)
                processes.stop(self._group(worker))
            self._console.show(monitor.latest, len(self._alive), len(self._done()))

    def _check_servers(self) -> None:
        for index, server in enumerate(self._servers):
            if server.returncode is not None:
                where = f" at {self._addresses[index]}" if index in self._addresses else ""
                raise _ServerError(
                    f"{server}{where} {server.end}: the run cannot go on without its memory" + _last_words(server)
                )

    def _done(self) -> list[Process]:
        return [worker for worker in self._workers if worker.returncode == 0 and not worker.stopped]

    def _group(self, worker: Process) -> list[Process]:
        size = self._plan.group_size
        first = self._workers.index(worker) // size * size
        return self._workers[first : first + size]

    def _conclude(self) -> int:
        if not self._failed:
            return 0
        first = self._failed[0]
        if self._plan.on_failure == "stop":
            others = "; the others were stopped" if len(self._workers) > 1 else ""
            self._console.message(f"{first} {first.end}{others}{_last_words(first)}", error=True)
            return first.status
        done = self._done()
        groups = self._workers[:: self._plan.group_size]
        whole = sum(all(worker in done for worker in self._group(leader)) for leader in groups)
        lines = [f"{len(done)}/{len(self._workers)} workers and {whole}/{len(groups)} groups got done"]
        lines += [f"{worker} {worker.end}" for worker in self._failed]
        lines += [f"{worker} was stopped with its group" for worker in self._workers if worker.stopped]
        self._console.message("\n  ".join(lines) + ("" if whole else _last_words(first)), error=True)
        return 0 if whole else first.status


class _ServerError(Exception):
    """A memory server is not there, and so the run cannot be either."""

    status = 1


def _last_words(process: Process) -> str:
    """Return the end of what it wrote to its standard error: its traceback, if that is there."""
    lines = list(process.tail)
    if _TRACEBACK in lines:
        lines = lines[lines.index(_TRACEBACK) :]
    if lines:
        return ". Its last words:\n  " + "\n  ".join(lines)
    if process.returncode == -signal.SIGKILL:
        return "\nHINT: the kernel kills a process so when memory runs out; `dmesg` says whether it did"
    return ", with nothing on its standard error"
