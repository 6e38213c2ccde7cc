"""Kills one memory server after the other, of three with replicas, while clients work; nothing may be lost.

python -m tests.chaos.replicas --kills 200

Real processes on this machine, SIGKILL, and now and then SIGSTOP for longer than a server may be silent. Clients add to
a buffer and to counters, and exchange; at the end every acknowledged one must be there, once. The longest time that an
operation took is what a loss costs.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np

from modum.box import Box
from modum.box.server.process import server_command
from modum.cluster.ports import free_ports
from modum.errors import ModumError
from modum.waiting import poll

SIZE = 1 << 18
"""Numbers of the buffers: 1 MiB."""
COUNT = 3
PATIENCE = 60.0
FROZEN = 3.0
"""Seconds of SIGSTOP: the others have taken over by then."""


class Servers:
    """Three memory servers with replicas, in processes of their own."""

    def __init__(self) -> None:
        self.ports = free_ports(COUNT)
        self.addresses = [f"127.0.0.1:{port}" for port in self.ports]
        self.processes: list[subprocess.Popen[bytes]] = []
        for index in range(COUNT):
            self.processes.append(self.start(index))
        for port in self.ports:
            poll(partial(_listens, port), timeout=PATIENCE, every=0.05, error=lambda: AssertionError("no server"))

    def start(self, index: int) -> "subprocess.Popen[bytes]":
        """Start one."""
        command = server_command(1 << 30, port=self.ports[index], replicas=self.addresses, index=index)
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        """End all."""
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


class Load:
    """A client that works until it is told to stop, and notes how long the slowest operation took."""

    def __init__(self, addresses: list[str], number: int) -> None:
        self._addresses = addresses
        self._number = number
        self.adds = 0
        self.worst = 0.0
        self.times: list[float] = []
        self.trouble = ""
        self.stopping = False
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def take_worst(self) -> float:
        """Return the longest time of an operation since the last call."""
        worst, self.worst = self.worst, 0.0
        return worst

    def _work(self) -> None:
        try:
            with Box.connect(self._addresses, timeout=PATIENCE) as box:
                numbers = box.open_or_create("numbers", SIZE)
                counter = box.counter(f"adds {self._number}")
                weights, x = box.open_or_create("weights", SIZE), np.full(SIZE, 1.0 + self._number, np.float32)
                ones = np.ones(SIZE, np.float32)
                while not self.stopping:
                    begun = time.perf_counter()
                    numbers.add(ones)
                    if counter.add(1) != self.adds:
                        raise AssertionError(f"the counter was not {self.adds}")
                    self.adds += 1
                    weights.exchange(x, 0.25)
                    self.worst = max(self.worst, time.perf_counter() - begun)
        except (ModumError, AssertionError) as error:
            self.trouble = f"{type(error).__name__}: {error}"


def whole(box: Box) -> bool:
    """Whether every place has a backup."""
    try:
        stands = [server.stand for server in box.statistics().servers]
    except ModumError:
        return False
    return all(stand is not None and stand.backup >= 0 for stand in stands)


def main() -> int:
    """Kill, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many servers are lost (20)")
    parser.add_argument("--stops", type=float, default=0.2, help="part of them that are stopped, not killed (0.2)")
    parser.add_argument("--clients", type=int, default=2, help="that work meanwhile (2)")
    parser.add_argument("--seed", type=int, default=0, help="of who is killed, and when (0)")
    choice = parser.parse_args()
    dice = random.Random(choice.seed)  # noqa: S311 - of a game
    servers = Servers()
    pauses: dict[str, list[float]] = {"killed": [], "stopped": []}
    try:
        with Box.connect(servers.addresses, timeout=PATIENCE) as box:
            loads = [Load(servers.addresses, number) for number in range(choice.clients)]
            for kill in range(choice.kills):
                poll(lambda: whole(box), timeout=PATIENCE, every=0.1, error=lambda: AssertionError("no backup in time"))
                time.sleep(1.0 + dice.random())  # who was started again votes again
                victim = dice.randrange(COUNT)
                for load in loads:
                    load.take_worst()
                process = servers.processes[victim]
                how = "stopped" if dice.random() < choice.stops else "killed"
                if how == "stopped":
                    os.kill(process.pid, signal.SIGSTOP)
                    time.sleep(FROZEN)
                    os.kill(process.pid, signal.SIGCONT)
                    time.sleep(0.5)
                else:
                    process.kill()
                    process.wait()
                    time.sleep(dice.random() * 2)
                    servers.processes[victim] = servers.start(victim)
                    time.sleep(2.0)
                pauses[how].append(max(load.take_worst() for load in loads))
                if trouble := [load.trouble for load in loads if load.trouble]:
                    print(f"kill {kill}: {trouble[0]}")
                    return 1
                if sys.stderr.isatty():
                    print(f"\r{kill + 1} of {choice.kills}", end="", file=sys.stderr)
            for load in loads:
                load.stopping = True
            for load in loads:
                load.thread.join()
            total = sum(load.adds for load in loads)
            seen = box.open("numbers").read()
            lost = total - seen
            wrong = int(np.abs(lost).max())
            print(f"{choice.kills} servers lost, {total} adds acknowledged, {wrong} of them lost or twice")
            for how, seconds in pauses.items():
                if seconds:
                    print(
                        f"  {how} {len(seconds)} times: clients paused for {np.median(seconds):.2f} s in the median,"
                        f" {np.quantile(seconds, 0.95):.2f} s at 95 %, {max(seconds):.2f} s at most"
                    )
            return int(bool(np.any(lost != 0)))
    finally:
        servers.close()


if __name__ == "__main__":
    sys.exit(main())
