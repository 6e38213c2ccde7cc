"""Plays the journals of all clients again, in the order of their times, and holds them against one another.

What is checked here is what `tests.simulation.history` promises. An operation whose end a client did not write down,
because it was killed or was told that nobody knows, is in doubt for ever.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.chaos.journal import lines_of
from tests.simulation.history import BrokenPromiseError, History, Holding

MAY_NOT_BE_THERE = ("create", "fill", "delete", "open", "look", "lock", "renew", "release", "finish")
"""Kinds of operations that may be refused: names come and go, and leases are lost."""


@dataclass
class Operation:
    """One operation of one process.

    Attributes:
        client: the process, as its journal is named.
        kind: of the operation.
        name: of what it was done to.
        begin: when the client was about to ask, in seconds of the machine.
        what: else was noted before.
        end: when it had the answer.
        result: "done", "refused", "wrong", or "doubt".
        seen: what was noted after.
        snapshot: what the replay keeps from the beginning of the operation to its end.
    """

    client: str
    kind: str
    name: str
    begin: float
    what: dict[str, Any]
    end: float = math.inf
    result: str = "doubt"
    seen: dict[str, Any] = field(default_factory=dict)
    snapshot: Any = None

    @property
    def done(self) -> bool:
        """Whether it was acknowledged."""
        return self.result == "done"

    @property
    def effective_end(self) -> float:
        """When at the latest it took effect: what is in doubt may do so at any time."""
        return math.inf if self.result == "doubt" else self.end

    def __str__(self) -> str:
        return f"{self.kind} of {self.name} by client {self.client} at {self.begin:.6f}"


def operations_of(folder: Path) -> list[Operation]:
    """Return the operations of all journals in a folder."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        open_ones: dict[int, Operation] = {}
        for line in lines_of(path):
            number, time = line.pop("number"), line.pop("time")
            if "kind" in line:
                open_ones[number] = Operation(path.stem, line.pop("kind"), line.pop("name"), time, line)
                found.append(open_ones[number])
            else:
                operation = open_ones.pop(number)
                operation.result = line.pop("end")
                operation.end, operation.seen = line.get("now", time), line
    return found


def replay(operations: list[Operation]) -> History:
    """Check what clients were told against what all of them asked for.

    Args:
        operations: of all journals.

    Returns:
        What was promised, for the last look at the box.

    Raises:
        BrokenPromiseError: it cannot be.
    """
    for operation in operations:
        if operation.result == "wrong" or (operation.result == "refused" and operation.kind not in MAY_NOT_BE_THERE):
            raise BrokenPromiseError(f"{operation} ended with {operation.seen['error']}")
    teller = _Teller(operations)
    moments: list[tuple[float, int, Callable[[Operation], None], Operation]] = []
    for number, operation in enumerate(operations):
        moments.append((operation.begin, number, teller.begin, operation))
        if operation.end < math.inf:
            moments.append((operation.end, number, teller.end, operation))
    for _, _, tell, operation in sorted(moments, key=lambda moment: moment[:2]):
        tell(operation)
    _check_names([operation for operation in operations if operation.kind in ("create", "delete", "open", "look")])
    return teller.history


class _Teller:
    """Tells a history what happened, one moment after the other."""

    def __init__(self, operations: list[Operation]) -> None:
        self.history = History()
        self.history.doubtful = {
            operation.name for operation in operations if operation.kind == "exchange" and not operation.done
        }
        self._swapped: dict[int, Operation] = {}
        self._contents: dict[str, set[int]] = defaultdict(set)

    def begin(self, operation: Operation) -> None:
        """An operation begins: what it asks for may happen from now on."""
        history, name = self.history, operation.name
        match operation.kind:
            case "count" | "add":
                total = history.sum(name)
                operation.snapshot = total.acknowledged
                if total.issued & operation.what["amount"]:
                    raise AssertionError(f"{operation}: the amount was used before")
                total.issued |= operation.what["amount"]
            case "read":
                operation.snapshot = history.sum(name).acknowledged
            case "write":
                history.register(name).issued = operation.what["value"]
            case "watch":
                operation.snapshot = history.register(name).acknowledged
            case "release":
                self._lease(name).release(_number(operation))
            case "take":
                operation.snapshot = set(history.done[name])
            case "swap":
                self._swaps(name, 0, 1)
            case "create":
                self._contents[name].add(operation.what["content"])

    def end(self, operation: Operation) -> None:
        """An operation has ended, and its client knows how."""
        history, name, seen = self.history, operation.name, operation.seen
        if not operation.done:
            history.refused += 1
            if operation.kind == "swap" and operation.result != "doubt":
                self._swaps(name, 0, -1)
            return
        history.acknowledged += 1
        history.kinds[operation.kind] += 1
        match operation.kind:
            case "count":
                total, amount = history.sum(name), operation.what["amount"]
                total.check(seen["seen"], operation.snapshot, f"{operation}: value before")
                if seen["seen"] & amount:
                    raise BrokenPromiseError(f"{operation}: the value before has the amount {amount:#x}")
                total.acknowledged |= amount
            case "add":
                history.sum(name).acknowledged |= operation.what["amount"]
            case "read":
                for each in seen["seen"]:
                    history.sum(name).check(each, operation.snapshot, str(operation))
            case "write":
                register = history.register(name)
                register.acknowledged = max(register.acknowledged, operation.what["value"])
            case "watch":
                for each in seen["seen"]:
                    history.register(name).check(each, operation.snapshot, str(operation))
            case "exchange" if name not in history.doubtful:
                if len(set(seen["given"])) > 1:
                    raise BrokenPromiseError(f"{operation} moved 8 equal numbers by {seen['given']}")
                history.moved[name] = history.moved.get(name, 0.0) + seen["given"][0]
            case "lock":
                self._lease(name).take(_number(operation), seen["now"], seen["until"])
            case "renew":
                holding = self._lease(name)
                if holding.holder == _number(operation) and holding.until:
                    holding.until = seen["until"]
            case "take" if seen["item"] in operation.snapshot:
                raise BrokenPromiseError(f"{operation}: item {seen['item']} was handed out after it was done")
            case "finish":
                if operation.what["item"] in history.done[name]:
                    raise BrokenPromiseError(f"{operation}: item {operation.what['item']} was done twice")
                history.done[name].append(operation.what["item"])
            case "swap":
                self._swaps(name, bool(seen["swapped"]), -1)
                expected = operation.what["expected"]
                if seen["swapped"] and self._swapped.setdefault(expected, operation) is not operation:
                    raise BrokenPromiseError(f"{operation} and {self._swapped[expected]} both replaced {expected}")
            case "look":
                if strange := set(seen["seen"]) - self._contents[name] - {0}:
                    raise BrokenPromiseError(f"{operation} saw {sorted(strange)}, which nobody put there")

    def _lease(self, name: str) -> Holding:
        return self.history.leases.setdefault(name, Holding(name))

    def _swaps(self, name: str, done: int, doubtful: int) -> None:
        before = self.history.swaps.get(name, (0, 0))
        self.history.swaps[name] = (before[0] + done, before[1] + doubtful)


def _number(operation: Operation) -> int:
    """Return a number for the client, for a `Holding`."""
    place, life = operation.client.split("-")
    return int(place) * 100_000 + int(life)


def _check_names(operations: list[Operation]) -> None:
    """A name is one buffer, or none: made once until it is deleted, there until then, and never there again."""
    by_name: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_name[operation.name].append(operation)
    for each in by_name.values():
        made = sorted((one for one in each if one.kind == "create" and one.done), key=lambda one: one.begin)
        deleted = [one for one in each if one.kind == "delete" and one.result != "refused"]
        for first, second in pairwise(made):
            if first.end < second.begin and not _any_between(deleted, first.begin, second.end):
                raise BrokenPromiseError(f"{second} was acknowledged, but nobody had deleted what {first} had made")
        for one in each:
            if one.kind == "open" and one.result == "refused":
                before = max((create for create in made if create.end < one.begin), key=_end, default=None)
                if before and not _any_between(deleted, before.begin, one.end):
                    raise BrokenPromiseError(f"{one} found nothing, but nobody deleted what {before} had made")
        contents = {create.what["content"]: create for create in made}
        gone = [one for one in deleted if one.done]
        opened: dict[str, Operation] = {}
        for one in each:
            if one.kind == "open":
                opened[one.client] = one
            elif one.kind == "look" and one.done:
                for content in one.seen["seen"]:
                    create = contents.get(content)
                    for delete in gone if create else ():
                        if create and create.end < delete.begin and delete.end < opened[one.client].begin:
                            raise BrokenPromiseError(f"{one} saw what {create} had made and {delete} had deleted")


def _any_between(operations: list[Operation], begin: float, end: float) -> bool:
    """Return whether any of the operations may have taken effect in this time."""
    return any(one.begin < end and one.effective_end > begin for one in operations)


def _end(operation: Operation) -> float:
    return operation.end
