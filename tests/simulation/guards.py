"""Takes out one guard of the box after the other, and has the simulated worlds find that it is missing.

    python -m tests.simulation.guards                  every guard, in at most 5,000 worlds each
    python -m tests.simulation.guards incarnation      one of them

What holds the promises of the box is listed here with the text of the source that does it, and what stands for it where
it is taken out. A guard whose loss no world shows is one that the simulation does not know.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
WORLDS = 5000


class Guard(NamedTuple):
    """A guard, and how it is taken out."""

    file: str
    there: str
    gone: str
    also: tuple[str, str] = ("", "")
    """What stands behind it and would do instead: its text, and what stands for that."""
    replicas: bool = False
    """Whether the worlds are those of servers that stand in for each other."""


GUARDS = {
    "incarnation of a slot": Guard(
        "box/server/sessions.py",
        "if proof.incarnation and (slot is None or slot.incarnation != proof.incarnation):",
        "if slot is None and proof.incarnation:\n"
        "                session = session or self._sessions.setdefault(name, Session(name, self._clock()))\n"
        "                slot = session.slots[proof.slot] = Slot(session, proof.acknowledged)\n"
        "                slot.incarnation = proof.incarnation\n"
        "            if False:",
    ),
    "reply cache": Guard(
        "box/server/sessions.py",
        "slot.replies.last = max(slot.replies.last, proof.acknowledged)",
        "slot.replies.last = proof.acknowledged",
    ),
    "connections are counted in finally": Guard(
        "box/server/sessions.py",
        "            yield slot, resumed\n        finally:\n            with self._mutex:\n"
        "                session.connected -= 1",
        "            yield slot, resumed\n            with self._mutex:\n                session.connected -= 1\n"
        "        finally:\n            with self._mutex:",
    ),
    "nothing old after something new": Guard(
        "box/client/pool.py", "                    self._unsettled.append(connection)\n", "                    pass\n"
    ),
    "only the newest connection acts": Guard(
        "box/server/sessions.py",
        "if self.slot.connection is not self.connection or self.slot.session.ended:",
        "if False:",
    ),
    "nothing for an ended session": Guard(
        "box/server/sessions.py",
        "if self.slot.connection is not self.connection or self.slot.session.ended:",
        "if self.slot.connection is not self.connection:",
    ),
    "sessions of the dead end": Guard("box/server/server.py", "core.sessions.end_silent_ones()", "pass"),
    "a vanished host is noticed": Guard(
        "box/sockets.py",
        "connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(USER_TIMEOUT * 1000))",
        "pass",
    ),
    "incarnation of a buffer": Guard(
        "box/server/segments.py",
        "if left is not None and left.incarnation == spec.incarnation:",
        "if left is not None:",
    ),
    "a deleted name is kept until its parts are gone": Guard(
        "box/parts.py", "                if not self._finish_delete(name):", "                if True:"
    ),
    "missing parts are made by who opens": Guard(
        "box/parts.py",
        "SegmentInfo)\n            try:\n                return self._complete(made)",
        "SegmentInfo)\n            try:\n                servers = range(len(self._servers))\n"
        "                return [self._servers.call(server, Open(name), SegmentInfo) for server in servers]",
    ),
    "a doubtful buffer is not deleted": Guard(
        "box/parts.py",
        "except (ConnectionLostError, DeadlineError, BufferNotFoundError):",
        "except BufferNotFoundError:",
    ),
    "a lease that is known late is renewed": Guard("box/primitives.py", "while not lease.left:", "while False:"),
    "the dead server of a local client is noticed": Guard(
        "box/transport/local.py", "if not self._gone and self._watched.lost:", "if False:"
    ),
    "strangers make room": Guard(
        "box/server/strangers.py",
        "                self._hang_up(oldest)\n",
        "                self._hang_up(connection)\n",
    ),
    "a thread that cannot be started": Guard(
        "box/server/server.py",
        "except RuntimeError:  # a limit",
        "except ZeroDivisionError:  # a limit",
        (
            'except Exception:\n                    log.exception("the acceptor',
            'except ZeroDivisionError:\n                    log.exception("the acceptor',
        ),
    ),
    "acknowledged when the backup has it": Guard(
        "box/server/replication/log.py",
        "link is not None and link.done >= record and time.monotonic() < self._leased",
        "True",
        replicas=True,
    ),
    "a backup must have all before it is in a view": Guard(
        "box/server/replication/log.py",
        "while link.done < last and not link.trouble:",
        "while False:",
        replicas=True,
    ),
    "chunks are copied before they are used": Guard(
        "box/server/replication/log.py", "            self._copy_first(header)\n", "", replicas=True
    ),
    "a client's slot is known to the backup before the client": Guard(
        "box/server/replication/log.py", "        self.wait(self.last, caller)\n", "        pass\n", replicas=True
    ),
    "reads need a lease": Guard(
        "box/server/replication/log.py", " and time.monotonic() < self._leased", "", replicas=True
    ),
    "a backup that takes over answers nothing more": Guard(
        "box/server/replication/place.py",
        "            follower.stop()\n            return",
        "            return",
        replicas=True,
    ),
    "nobody begins anew with a backup that takes over": Guard(
        "box/server/replication/place.py", " or self._taking_over", "", replicas=True
    ),
    "who was started again leaves the next view to the others": Guard(
        "box/server/replication/voter.py", "place.barred = 1 + max(", "place.barred = 0 * max(", replicas=True
    ),
    "a place is served by who was voted for": Guard(
        "box/server/replication/place.py",
        "if taken is None or taken.primary != self._member:",
        "if taken is None:",
        replicas=True,
    ),
    "leases stand still while nobody serves them": Guard(
        "box/server/replication/follower.py", "self.core.clock.go_on_from(now)", "pass", replicas=True
    ),
}


def find(name: str, worlds: int) -> tuple[int, str]:
    """Play worlds without a guard.

    Returns:
        How many worlds it took, and what was wrong; 0 and nothing if all were right.
    """
    guard = GUARDS[name]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "modum"
        shutil.copytree(ROOT / "src" / "modum", tree, ignore=shutil.ignore_patterns("__pycache__"))
        file = tree / guard.file
        text = file.read_text()
        for there, gone in ((guard.there, guard.gone), guard.also):
            if there and text.count(there) != 1:
                raise SystemExit(f"{guard.file} has {there!r} {text.count(there)} times: mend the list")
            text = text.replace(there, gone) if there else text
        file.write_text(text)
        played = subprocess.run(
            [
                *(sys.executable, "-m", "tests.simulation", str(worlds), "--most", "1"),
                *(["--replicas"] if guard.replicas else []),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if found := re.search(r"^seed (\d+): (.*)", played.stdout, re.MULTILINE):
        return int(found[1]) + 1, found[2]
    if played.returncode:
        return 1, (played.stderr.strip().splitlines() or ["it did not start"])[-1]
    return 0, ""


def main() -> int:
    """Take out guards, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("guards", nargs="*", help="parts of their names; all, if none is given")
    parser.add_argument("--worlds", type=int, default=WORLDS, help=f"at most ({WORLDS})")
    choice = parser.parse_args()
    missed = 0
    for name in GUARDS:
        if choice.guards and not any(part in name for part in choice.guards):
            continue
        worlds, wrong = find(name, choice.worlds)
        missed += not worlds
        print(f"{name:48} {worlds or 'not found':>9}  {wrong[:110]}", flush=True)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
