"""Cuts memory servers off from each other and from clients, in network namespaces; nothing may be lost or done twice.

python -m tests.chaos.partitions --cuts 20        (as root)

Three servers with replicas and a client, each on a host of its own behind one switch. A cut is a route that leads
nowhere, between a server and some of the other hosts: between primary and backup, between a server and all
that vote, between a server and the client, or all of these. At the end every add that was acknowledged must be there,
once.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench.cluster.network import Network, address, name

from modum.box import Box
from modum.box.server.process import server_command
from modum.errors import ModumError
from modum.waiting import poll

SIZE = 1 << 16
SERVERS = 3
CLIENT = 3
"""Number of the client's host."""
TOKEN = "the token of servers that are cut off"
PORT = 7500
ADDRESSES = [f"{address(host)}:{PORT}" for host in range(SERVERS)]
INSIDE = "MODUM_CHAOS_INSIDE"


def work(until: Path) -> None:
    """Add and count until a file is there: a client's process, which prints what came of it."""
    done, worst, trouble = 0, 0.0, ""
    try:
        with Box.connect(ADDRESSES, token=TOKEN, timeout=60.0) as box:
            numbers, counter = box.open_or_create("numbers", SIZE), box.counter("adds")
            ones = np.ones(SIZE, np.float32)
            while not until.exists():
                begun = time.perf_counter()
                numbers.add(ones)
                if counter.add(1) != done:
                    raise AssertionError(f"the counter was not {done}")
                done += 1
                worst = max(worst, time.perf_counter() - begun)
            seen = numbers.read()
            if (seen != done).any():
                trouble = f"the numbers are {seen.min():.0f} to {seen.max():.0f}"
    except (ModumError, AssertionError) as error:
        trouble = f"{type(error).__name__}: {error}"
    print(f"{done} adds acknowledged, longest {worst:.1f} s; {trouble or 'all there, once'}", flush=True)
    sys.exit(bool(trouble))


def look() -> None:
    """Say whether every place has a backup, as the exit status: a process on the client's host."""
    with Box.connect(ADDRESSES, token=TOKEN, timeout=10.0) as box:
        stands = [server.stand for server in box.statistics().servers]
    sys.exit(not all(stand is not None and stand.backup >= 0 for stand in stands))


def on_host(host: int, *command: str) -> list[str]:
    """Return a command that runs on a host."""
    return ["ip", "netns", "exec", name(host), *command]


def route(do: str, one: int, other: int) -> None:
    """Add or delete the cut between two hosts."""
    for here, there in ((one, other), (other, one)):
        subprocess.run(
            ["ip", "-n", name(here), "route", do, "blackhole", f"{address(there)}/32"], check=True, capture_output=True
        )


def main() -> int:
    """Cut, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=20, help="how many (20)")
    parser.add_argument("--seed", type=int, default=0, help="of who is cut off from whom (0)")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--look", action="store_true", help=argparse.SUPPRESS)
    choice = parser.parse_args()
    if choice.work:
        work(choice.work)
    if choice.look:
        look()
    if INSIDE not in os.environ:
        command = ["unshare", "--mount", "--net", sys.executable, "-m", "tests.chaos.partitions", *sys.argv[1:]]
        return subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode
    dice = random.Random(choice.seed)  # noqa: S311 - of a game
    environment = {**os.environ, "MODUM_TOKEN": TOKEN}
    Network(SERVERS + 1, None).build()
    servers = [
        subprocess.Popen(
            on_host(host, *server_command(1 << 28, address(host), port=PORT, replicas=ADDRESSES)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        for host in range(SERVERS)
    ]
    this = (sys.executable, "-m", "tests.chaos.partitions")

    def whole() -> bool:
        looked = subprocess.run(on_host(CLIENT, *this, "--look"), env=environment, capture_output=True, check=False)
        return looked.returncode == 0

    try:
        poll(whole, timeout=60.0, every=0.5, error=lambda: AssertionError("the servers did not come up"))
        with tempfile.TemporaryDirectory() as folder:
            until = Path(folder) / "end"
            client = subprocess.Popen(on_host(CLIENT, *this, "--work", str(until)), env=environment)
            for _ in range(choice.cuts):
                one = dice.randrange(SERVERS)
                others = [host for host in range(SERVERS + 1) if host != one and dice.random() < 0.6]
                for other in others:
                    route("add", one, other)
                time.sleep(dice.choice([0.4, 1.5, 4.0]))
                for other in others:
                    route("del", one, other)
                time.sleep(dice.choice([0.0, 0.5, 2.0]))
            until.touch()
            return client.wait()
    finally:
        for server in servers:
            server.kill()
            server.wait()


if __name__ == "__main__":
    sys.exit(main())
