"""Run one job on this machine: memory servers and workers, from their start to the exit status."""

import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from modum.box import Box, new_token
from modum.box.server.process import START_SECONDS, ready_address, server_command
from modum.box.sockets import ENCRYPT, parse_address
from modum.checkpoints.names import clear
from modum.cluster.checkpoints import checkpoints_variable
from modum.cluster.credentials import child_environment
from modum.cluster.environment import timeouts_of
from modum.cluster.ports import free_ports
from modum.cluster.registration import Joined, check_free, clear_places, host_name
from modum.observe.console import RunConsole
from modum.observe.progress import JobProgress, clear_progress
from modum.run.checkpoints import Checkpointing, Checkpoints
from modum.run.children import worker_command, worker_environment
from modum.run.config import RunConfig
from modum.run.hosts import Part, meet
from modum.run.joining import announce, join
from modum.run.process import Process, Stream
from modum.run.processes import Interrupted, Processes
from modum.run.progress_reader import ProgressReader
from modum.units import count, format_bytes
from modum.waiting import Deadline

__all__ = ["launch"]

_POLL_SECONDS: Final = 0.25
_LISTEN_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 1.0
_WORD_SECONDS: Final = 2.0
"""How long a worker that has joined may have gone before its launcher says how."""
_TRACEBACK: Final = "Traceback (most recent call last):"


def launch(config: RunConfig, console: RunConsole) -> int:
    """Run a job to its end, and show its progress.

    Args:
        config: what to run.
        console: where to show it.

    Returns:
        The exit status of the launcher: 0 if all workers succeeded, or with `on_failure="continue"` all workers of at
        least one group; else the first failing worker's exit code, or 128 + the signal it died of; 1 if a memory server
        died; 128 + the signal by which this process was asked to stop, however well its workers left: 143 for SIGTERM.
        Whichever it is, no process is left.

    Raises:
        MismatchError: workers of a job of this name are in the box that `config` names, or the checkpoint is of other
            numbers of workers or servers; nothing was started.
        ValueError: the workers that are to join a job make no whole groups of its size; nothing was started.
        SnapshotError: no checkpoint is good, or another run writes them there; nothing was started.
        ModumError: that box cannot be joined; nothing was started.
        KeyboardInterrupt: this process was asked to stop a second time; no process is left.
    """
    part = Part.whole(config)
    checkpoints = None
    if config.resume is not None:
        checkpoints = Checkpoints(config)
        config = checkpoints.servers(config)
        for line in checkpoints.lines:
            console.message(line)
    if config.box:
        with Box.connect(config.box, token=config.token, transport="tcp", namespace=config.name) as box:
            if config.joins:
                config, part = join(box, config, console.message)
            else:
                part = _begin(box, config, console.message)
    with console, Processes() as processes:
        return _Run(config, part, console, processes, checkpoints).to_its_end()


def _begin(box: Box, config: RunConfig, say: Callable[[str], None]) -> Part:
    """Make a box ready for a new job, and return this host's part in it."""
    check_free(box, config.name, say)
    if config.hosts > 1:
        return meet(box, config, say)
    clear_progress(box)
    clear_places(box, range(config.workers))
    return Part.whole(config)


class _Run:
    """One run, while it goes on."""

    def __init__(
        self,
        config: RunConfig,
        part: Part,
        console: RunConsole,
        processes: Processes,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._config = config
        self._part = part
        self._console = console
        self._processes = processes
        self._servers: list[Process] = []
        self._addresses: dict[int, str] = {}
        self._ports: list[int] = []
        self._token = ""
        self._workers: list[Process] = []
        self._alive: list[Process] = []
        self._failed: list[Process] = []
        self._reader: ProgressReader | None = None
        self._checkpoints = checkpoints
        self._checkpointing: Checkpointing | None = None
        self._leaving: Interrupted | _ElsewhereError | None = None
        """Why all workers were asked to leave."""
        self._grace = Deadline(None)

    def to_its_end(self) -> int:
        """See `launch`."""
        reason: Interrupted | _ServerError | _ElsewhereError | None = None
        try:
            servers, token = self._config.box, self._config.token
            if not servers:
                servers, token = self._start_servers()
            self._start_workers(servers, token)
            # a thread: no child is started after it
            ranks = range(self._part.first, self._part.first + self._config.workers)
            self._reader = ProgressReader(servers, token, self._config.name, self._part.failure, ranks, self._announce)
            if self._checkpoints is not None:
                self._checkpointing = Checkpointing(self._checkpoints, self._config, servers, token, self._ranks_alive)
            self._watch()
            self._wait_for_joined(self._reader)
        except (Interrupted, _ServerError, _ElsewhereError) as error:
            reason = error
        except BaseException:
            if self._reader is not None:
                self._reader.finish(timeout=0.0)
            raise
        alive = len(self._alive)  # before the rest is stopped
        if self._checkpointing is not None:
            self._checkpointing.close()
        self._processes.stop(self._workers)
        if self._reader is not None:
            self._tell_other_hosts(self._reader, reason)
            self._reader.finish(timeout=2.0 if reason is None else 0.2)  # while there is a box to read from
        self._processes.stop(self._servers)
        self._console.show(self._progress, alive, len(self._done()), last=True)
        self._tell_of_joined()
        if reason is None and self._leaving is not None:
            self._console.message(f"{self._leaving}; {self._how_they_left()}", error=True)
            return self._leaving.status
        if reason is not None:
            self._console.message(str(reason), error=True)
            return reason.status
        return self._conclude()

    def _tell_other_hosts(self, reader: ProgressReader, reason: Exception | None) -> None:
        if self._leaving is not None or self._config.joins:
            return  # they know, or go on
        if reason is None and self._failed and self._config.on_failure == "stop":
            reader.fail(f"{self._failed[0]} on {host_name()} {self._failed[0].end}")
        elif reason is not None and not isinstance(reason, _ElsewhereError):
            reader.fail(f"{host_name()}: {reason}")

    def _announce(self, box: Box) -> None:
        if not self._config.joins:
            announce(box, self._config, self._part)

    @property
    def _progress(self) -> JobProgress | None:
        return None if self._reader is None else self._reader.latest

    def _start_servers(self) -> tuple[tuple[str, ...], str]:
        token = self._config.token or new_token()
        config = self._config
        self._ports = free_ports(config.servers) if config.replicas > 1 else [0] * config.servers
        self._token = token
        self._servers = [self._start_server(index) for index in range(config.servers)]
        deadline = Deadline(START_SECONDS)
        while len(self._addresses) < len(self._servers):
            self._processes.poll(deadline.left)
            self._check_servers()
            if deadline.passed:
                silent = next(s for index, s in enumerate(self._servers) if index not in self._addresses)
                raise _ServerError(f"{silent} was not ready after {START_SECONDS:.0f} s")
        addresses = tuple(self._addresses[index] for index in range(len(self._servers)))
        if self._config.restore is not None:
            with Box.connect(addresses, token=token, transport="tcp", namespace=self._config.name) as box:
                clear_progress(box)
                clear_places(box, range(self._config.workers))
                clear(box, range(self._config.workers))
        return addresses, token

    def _start_server(self, index: int) -> Process:
        """Start a memory server, for the first time or in place of one that stands in for others and was lost."""
        config = self._config
        scheme = ENCRYPT if config.encrypt else ""
        replicas = [f"{scheme}127.0.0.1:{port}" for port in self._ports] if config.replicas > 1 else []
        return self._processes.start(
            f"memory server {index}",
            server_command(
                config.memory,
                port=self._ports[index],
                replicas=replicas,
                index=index,
                snapshots=config.snapshots,
                restore=config.restore,
                encrypt=config.encrypt,
            ),
            child_environment(self._token),
            partial(self._server_output, index),
            keep_stdin=True,
        )

    def _start_workers(self, servers: Sequence[str], token: str | None) -> None:
        config = self._config
        groups = config.workers // config.group_size
        limit = "" if config.box else f", up to {format_bytes(config.memory)} each"
        self._console.message(
            f"{count(config.workers, 'worker')} in {count(groups, 'group')}{self._ranks()}; "
            f"{count(len(servers), 'memory server')} ({', '.join(servers)}{limit})"
        )
        ports = free_ports(groups)
        checkpoints = {} if self._checkpoints is None else checkpoints_variable(self._checkpoints.resumed)
        width = len(f"[{self._part.first + config.workers - 1}]")
        for number in range(config.workers):
            rank = self._part.first + number
            worker = self._processes.start(
                f"rank {rank}",
                worker_command(config),
                worker_environment(config, self._part, number, servers, token, ports, checkpoints),
                partial(self._console.output, f"[{rank}]".ljust(width), rank),
            )
            self._workers.append(worker)
            self._alive.append(worker)

    def _ranks(self) -> str:
        """Say which of the workers of several hosts are here."""
        if self._config.hosts == 1:
            return ""
        first, here = self._part.first, self._config.workers
        ranks = f"rank {first}" if here == 1 else f"ranks {first} to {first + here - 1}"
        return f", {ranks} of {self._part.world_size} on {self._config.hosts} hosts"

    def _server_output(self, index: int, stream: Stream, lines: list[str]) -> None:
        for line in lines:
            address = ready_address(line)
            if address is None:
                self._console.output(f"[server {index}]", index, stream, [line])
            else:
                self._addresses[index] = address

    def _ranks_alive(self) -> list[int]:
        return [self._part.first + self._workers.index(worker) for worker in self._alive]

    def _watch(self) -> None:
        """Return when no worker lives, or when one failed and that is to stop the run."""
        while self._alive:
            try:
                self._processes.poll(_POLL_SECONDS)
            except Interrupted as request:
                if self._ask_to_leave(request):
                    continue
                if not self._processes.pass_on(request.number, self._alive):
                    raise
                self._console.message(f"{request.number.name} goes to the workers, which handle it themselves")
            for line in self._checkpointing.lines() if self._checkpointing is not None else ():
                self._console.message(line, error=True)
            self._check_servers()
            if self._leaving is not None and self._grace.passed:
                return
            if self._leaving is None and self._reader is not None and self._reader.failure is not None:
                elsewhere = _ElsewhereError(f"the job was stopped on another host: {self._reader.failure}")
                if not (self._reader.leaving and self._ask_to_leave(elsewhere)):
                    raise elsewhere
            ended = [worker for worker in self._alive if worker.returncode is not None]
            self._alive = [worker for worker in self._alive if worker.returncode is None]
            for worker in ended:
                if self._reader is not None:
                    self._reader.ended(self._part.first + self._workers.index(worker), self._end_of(worker))
                if worker.returncode == 0 or worker.stopped:
                    continue
                if self._leaving is not None:
                    self._console.message(f"{worker} {worker.end}", error=True)
                    continue
                self._failed.append(worker)
                if self._config.on_failure == "stop":
                    return
                self._console.message(f"{worker} {worker.end}; the other groups go on", error=True)
                self._processes.stop(self._group(worker))
            self._console.show(self._progress, len(self._alive), len(self._done()))

    def _ask_to_leave(self, reason: "Interrupted | _ElsewhereError") -> bool:
        """Have the workers leave within the grace, once, if they handle SIGTERM, which is what `connect` does."""
        if self._leaving is not None or (isinstance(reason, Interrupted) and reason.number is not signal.SIGTERM):
            return False
        everybody = not (self._config.joins and isinstance(reason, Interrupted))
        if not self._processes.ask_to_leave(self._alive, everybody=everybody):
            return False
        self._leaving = reason
        self._grace = Deadline(self._config.grace)
        if self._checkpointing is not None:
            self._checkpointing.close(timeout=0.0)
        self._console.message(f"{reason}: the workers have {self._config.grace:g} s to leave (--grace)")
        if self._reader is not None and isinstance(reason, Interrupted) and not self._config.joins:
            self._reader.fail(f"{host_name()}: {reason}", leaving=True)
        return True

    def _end_of(self, worker: Process) -> str:
        """Say how a worker ended, for the launchers of other hosts."""
        if worker.returncode != 0:
            return worker.end
        return "done" if self._leaving is None else "left in order, as it was asked to"

    def _wait_for_joined(self, reader: ProgressReader) -> None:
        """Wait for workers that have joined the job, as long as workers wait, where their memory ends with this run.

        Elsewhere wait for a moment, to know how they ended.
        """
        stopped = self._failed and self._config.on_failure == "stop"
        if self._config.joins or stopped or self._leaving is not None:
            return
        deadline, told = Deadline(timeouts_of(self._config.timeout).others if self._servers else _WORD_SECONDS), False
        last = Deadline(_WORD_SECONDS)
        while not deadline.passed:
            reader.look(_LOOK_SECONDS)
            at_work = [str(one.rank) for one in reader.joined if one.alive]
            if not at_work and (last.passed or all(one.end for one in reader.joined)):
                return
            if at_work and self._servers and not told:
                self._console.message(
                    f"the memory servers stay for workers that have joined: rank {', '.join(at_work)}"
                )
                told = True
            self._processes.poll(_POLL_SECONDS)
            self._check_servers()

    def _tell_of_joined(self) -> None:
        """Say who has joined the job since its launch, and what became of them."""
        joined = [] if self._reader is None or self._config.joins else self._reader.joined
        if joined:
            ends = [f"rank {one.rank} on {one.host}: {_state(one)}" for one in joined]
            self._console.message("\n  ".join([f"{count(len(joined), 'worker')} joined later", *ends]))

    def _how_they_left(self) -> str:
        """Say which workers have left in order, and which had to be killed."""
        left = f"{len(self._done())}/{len(self._workers)} workers left in order"
        killed = ", ".join(str(worker) for worker in self._workers if worker.stopped)
        return f"{left}; killed at the end of the grace: {killed}" if killed else left

    def _check_servers(self) -> None:
        for index, server in enumerate(self._servers):
            if server.returncode is not None:
                where = f" at {self._addresses[index]}" if index in self._addresses else ""
                if self._config.replicas > 1 and self._addresses.pop(index, ""):
                    self._console.message(f"{server}{where} {server.end}; the others go on, and it is started again")
                    self._servers[index] = self._start_server(index)
                    continue
                raise _ServerError(
                    f"{server}{where} {server.end}: the run cannot go on without its memory" + _last_words(server)
                )

    def _done(self) -> list[Process]:
        return [worker for worker in self._workers if worker.returncode == 0 and not worker.stopped]

    def _group(self, worker: Process) -> list[Process]:
        size = self._config.group_size
        first = self._workers.index(worker) // size * size
        return self._workers[first : first + size]

    def _conclude(self) -> int:
        if not self._failed:
            self._tell_what_was_not_shared()
            return 0
        first = self._failed[0]
        if self._config.on_failure == "stop":
            others = "; the others were stopped" if len(self._workers) > 1 else ""
            self._console.message(f"{first} {first.end}{others}{_last_words(first)}", error=True)
            self._tell_of_lost_servers()
            return first.status
        done = self._done()
        groups = self._workers[:: self._config.group_size]
        whole = sum(all(worker in done for worker in self._group(leader)) for leader in groups)
        lines = [f"{len(done)}/{len(self._workers)} workers and {whole}/{len(groups)} groups got done"]
        lines += [f"{worker} {worker.end}" for worker in self._failed]
        lines += [f"{worker} was stopped with its group" for worker in self._workers if worker.stopped]
        self._console.message("\n  ".join(lines) + ("" if whole else _last_words(first)), error=True)
        self._tell_of_lost_servers()
        return 0 if whole else first.status

    def _tell_what_was_not_shared(self) -> None:
        """Tell of workers that have trained alone: a script that never joins the job ends as well as one that does."""
        reader = self._reader
        if self._part.world_size == 1 or reader is None or reader.connected is None:
            return
        first = self._part.first
        alone = [rank for rank in range(first, first + self._config.workers) if rank not in reader.connected]
        if alone:
            self._console.message(
                f"{_named(alone)} never called modum.connect(), and shared nothing with the others\n"
                f"HINT: call job = modum.connect() in {self._script}, and give the job to an Averager",
                error=True,
            )
        elif not reader.shared:
            self._console.message(
                f"{_named(reader.connected)} connected, but no averager took a step: no weights were shared\n"
                "HINT: make modum.torch.Averager(job, model, optimizer) before the training loop, or give "
                "modum.keras.Averager(job) to fit as a callback",
                error=True,
            )

    @property
    def _script(self) -> str:
        command = self._config.command
        return command[1] if command[0] == "-m" else command[0]

    def _tell_of_lost_servers(self) -> None:
        """After a failure, name the servers of a box that was there before and is not there any more."""
        if gone := [address for address in self._config.box if not _listens(address)]:
            self._console.message(
                f"{' and '.join(f'memory server {address}' for address in gone)} cannot be reached: "
                "the run could not go on without its memory",
                error=True,
            )


class _ServerError(Exception):
    """A memory server is missing, so the run must end."""

    status = 1


class _ElsewhereError(Exception):
    """The job was stopped on another host."""

    status = 1


def _state(worker: Joined) -> str:
    """Return what became of a worker that has joined."""
    if worker.alive:
        return "at work still"
    return worker.end or "gone without a word"


def _named(ranks: Sequence[int]) -> str:
    """Return ranks in words, several as one span or a list."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > 2 and list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def _listens(address: str) -> bool:
    try:
        socket.create_connection(parse_address(address), _LISTEN_SECONDS).close()
    except OSError:
        return False
    return True


def _last_words(process: Process) -> str:
    """Return the end of what it wrote to its standard error: its traceback, if there is one."""
    lines = list(process.tail)
    if _TRACEBACK in lines:
        lines = lines[lines.index(_TRACEBACK) :]
    if lines:
        return ". Its last words:\n  " + "\n  ".join(lines)
    if process.returncode == -signal.SIGKILL:
        return "\nHINT: the kernel kills a process so when memory runs out; `dmesg` says whether it did"
    return ", with nothing on its standard error"
