"""A worker's part in checkpoints: it writes its state when asked, and stands still until all have done so."""

from __future__ import annotations

import logging
import random
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from modum.checkpoints.files import read_state, write_file
from modum.checkpoints.names import answer_of, asked_by, member_of, over_by, request_of
from modum.errors import DeadlineError, ModumError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from modum.box import Box

__all__ = ["Checkpoints", "Part"]

_log = logging.getLogger("modum")

_LOOK_SECONDS: Final = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of a worker's state.

    Attributes:
        take: returns it. Nothing of what it depends on is exchanged from then on, until `go_on`.
        load: puts it in place.
        go_on: called once the checkpoint is over.
        random: whether it is the state of random numbers: loaded last, as loading the others may draw some.
    """

    take: Callable[[], bytes]
    load: Callable[[bytes], None]
    go_on: Callable[[], None] = lambda: None
    random: bool = False


class Checkpoints:
    """Writes this worker's state when the launcher asks for it, and gives it back when the job is resumed.

    A checkpoint is of one moment: a worker that has taken its state does nothing more until all have taken theirs, and
    the servers have written what is shared. The random numbers of Python and NumPy are a part of it.

    Args:
        box: of the job.
        rank: of this worker.
        on: whether checkpoints are taken.
        resumed: folder of the workers' states with which the job begins; None: it begins anew.

    Attributes:
        asked: number of the newest checkpoint that was asked for; 0: none was.
        on: as given.
        resumes: whether the job goes on with a checkpoint.
    """

    def __init__(self, box: Box, rank: int, *, on: bool = False, resumed: Path | None = None) -> None:
        self.asked = 0
        self.on = on
        self.resumes = resumed is not None
        self._box = box
        self._rank = rank
        self._resumed = resumed
        self._states: dict[str, bytes] | None = None
        """What was read of `resumed` and not loaded yet."""
        self._known: set[str] = set()
        """The parts that were looked up there, or need not be."""
        self._parts: dict[str, Part] = {}
        self._final: dict[str, bytes] = {}
        """Of the parts that do not change any more."""
        self._answered = 0
        self._mutex = threading.RLock()
        self._closing = False
        self._thread: threading.Thread | None = None
        if self.on:
            self.add("random", Part(take=_random_state, load=_load_random_state, random=True))

    def refuse(self, what: str) -> None:
        """Raise ValueError if checkpoints are taken: what trains here has no part in them.

        Args:
            what: in the error.
        """
        if self.on:
            raise ValueError(
                f"{what} has no part in the checkpoints of modum run --resume yet, and would begin anew after a"
                " restart\nHINT: modum run --snapshot-dir DIR --restore DIR keeps the shared weights"
            )

    @property
    def due(self) -> int:
        """Number of a checkpoint that was asked for and is not taken; 0: there is none."""
        return self.asked if self.asked > self._answered else 0

    def add(self, name: str, part: Part) -> None:
        """Have a part belong to this worker's state from now on; one of that name takes the place of an older one.

        Args:
            name: the same in every run.
            part: how it is taken and loaded.
        """
        if not self.on:
            return
        with self._mutex:
            self._parts[name] = part
            self._final.pop(name, None)
        if not part.random:
            self._wait_until_over(self._answered)
            self._begin_to_listen()

    def end(self, name: str) -> None:
        """Note that a part is as it will stay, and have it answered for while the worker does other things.

        Args:
            name: of the part.
        """
        if self.on:
            with self._mutex:
                self._final[name] = self._parts[name].take()
                self._answer_while_idle()

    def take(self, number: int) -> bool:
        """Take a checkpoint, between two steps, unless it was taken already; all members of a group take the same.

        On return the checkpoint is over, whether it has succeeded or not.

        Args:
            number: `asked`, as all members of the group know it.

        Returns:
            Whether this worker's state was taken.

        Raises:
            ModumError: the box failed.
            ValueError: a part has a state that could not be loaded again. Or the job is resumed, and the loop has begun
                without `resume`: the checkpoint would take the place of what was never loaded.
        """
        if number <= self._answered:
            return False
        if self._resumed is not None and self._states is None:
            raise ValueError(
                "this job goes on from a checkpoint, and this loop has begun without it\n"
                "HINT: for step in range(averager.resume(), steps)"
            )
        with self._mutex:
            self._answer(number)
        self._wait_until_over(number)
        for part in self._parts.values():
            part.go_on()
        return True

    def resume(self) -> bool:
        """Load the parts that were added by now, if the job is resumed; each is loaded once.

        Returns:
            Whether something was loaded.

        Raises:
            SnapshotError: a file is not what was written.
            ValueError: a part's state is of something else; or a part has none, and there is one of a name that no part
                has.
        """
        if self._resumed is None:
            return False
        if self._states is None:
            self._states = read_state(self._resumed, self._rank)
            if not self._states:
                _log.warning(
                    "rank %d has no state in %s, as it had died or left before: it begins with the shared weights",
                    self._rank,
                    self._resumed,
                )
        self._check_names(self._states)
        found = [name for name in self._parts if name in self._states and name not in self._final]
        for name in sorted(found, key=lambda name: self._parts[name].random):
            self._parts[name].load(self._states.pop(name))
            self._known.add(name)
        return bool(found)

    def close(self) -> None:
        """Answer no more. Called before the box is closed."""
        self._closing = True
        if self._thread is not None:
            with suppress(ModumError):
                asked_by(self._box, self._rank).add(1)  # wakes the thread
            self._thread.join(_LOOK_SECONDS)
            self._thread = None

    # ---- inside

    def _check_names(self, states: Mapping[str, bytes]) -> None:
        """Raise ValueError if a new part has no state, and a state no part: the script calls it otherwise now."""
        new = [name for name, part in self._parts.items() if not (part.random or name in self._known)]
        without = [name for name in new if name not in states]
        others = [name for name in states if name not in self._parts]
        if without and others:
            raise ValueError(
                f"the checkpoint has no state of {', '.join(without)}, but of {', '.join(others)}, which this script"
                " has not made\nHINT: give it the name that it had, or name another folder to begin anew"
            )
        self._known.update(without)

    def _begin_to_listen(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._listen, name="modum-checkpoints", daemon=True)
            self._thread.start()
            member_of(self._box, self._rank).set(True)

    def _listen(self) -> None:
        """Note what is asked for, and answer while all parts are as they will stay."""
        counter, seen = asked_by(self._box, self._rank), 0
        with suppress(ModumError):  # the box is gone, and the worker's own errors say more
            while not self._closing:
                try:
                    seen = counter.wait(seen + 1, _LOOK_SECONDS)
                except DeadlineError:
                    continue
                request = request_of(self._box).get()
                if request is None or self._closing:
                    continue
                self.asked = int(request["number"])
                with self._mutex:
                    self._answer_while_idle()

    def _answer_while_idle(self) -> None:
        if self.due and all(part.random or name in self._final for name, part in self._parts.items()):
            self._answer(self.asked)

    def _answer(self, number: int) -> None:
        """Write this worker's state, and say so to the launcher."""
        if number <= self._answered:
            return
        self._answered = number
        request = request_of(self._box).get()
        if request is None or request["number"] != number:
            return  # it was given up
        answer: dict[str, Any] = {"number": number, "states": [], "failure": ""}
        try:
            for place, (name, part) in enumerate(self._parts.items(), 1):
                data = self._final[name] if name in self._final else part.take()
                file = f"worker-{self._rank}.{place}.state"
                checksum = write_file(Path(request["folder"]) / file, data)
                answer["states"].append([self._rank, name, file, len(data), checksum])
        except OSError as error:
            answer["failure"] = f"{error.filename or request['folder']}: {error.strerror or error}"
        answer_of(self._box, self._rank).set(answer)

    def _wait_until_over(self, number: int) -> None:
        counter = over_by(self._box)
        while number:
            try:
                counter.wait(number, _LOOK_SECONDS)
                return
            except DeadlineError:
                continue


def _random_state() -> bytes:
    """Return the state of the random numbers of Python and NumPy."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    numpy = [kind, np.asarray(keys, np.uint32).tobytes(), position, has_gauss, gauss]
    return msgspec.msgpack.encode({"python": random.getstate(), "numpy": numpy})


def _load_random_state(data: bytes) -> None:
    state = msgspec.msgpack.decode(data)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, number = state["numpy"]
    np.random.set_state((kind, np.frombuffer(keys, np.uint32), position, has_gauss, number))
