"""The conformance suite of transports: what every `modum.box.transport.Transport` must do, with one server or several.

The checks take a box of fresh servers and use only its public interface, so the suite also holds for a
transport written elsewhere.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modum.box import TRANSPORTS, Box, Buffer, Server
from modum.box.compression import COMPRESSIONS
from modum.box.protocol.layout import Layout
from modum.box.protocol.limits import CHUNK, STRIPE
from modum.box.transport import Transport
from modum.errors import (
    BufferExistsError,
    BufferNotFoundError,
    DeadlineError,
    ModumError,
    PoolFullError,
    TransportError,
)

__all__ = ["CHECKS", "FULL", "QUICK", "Scale", "check_transport", "fresh_box", "whole_numbers"]

Floats = NDArray[np.float32]

FLOATS: Final = CHUNK // 4
"""Elements of float32 in a chunk."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much data a check moves.

    Attributes:
        elements: length of a large buffer, which spans several stripes and ends inside a chunk.
        rounds: how often to repeat what must succeed every time.
    """

    elements: int
    rounds: int


FULL: Final = Scale(3 * STRIPE // 4 + 1237, 12)
QUICK: Final = Scale(STRIPE // 4 + 1237, 2)
"""For emulated machines, where everything takes ten times as long."""


def check_transport(
    kind: type[Transport],
    *,
    servers: Sequence[int] = (1, 3),
    memory: int = 128 << 20,
    timeout: float = 30.0,
    scale: Scale = FULL,
) -> None:
    """Check a transport: run every check of this module against memory servers in this process.

    Args:
        kind: the transport's class; it need not be in the registry.
        servers: numbers of servers to check with.
        memory: bytes of each server's pool, at least 64 MiB.
        timeout: seconds without any progress after which an operation fails.
        scale: how much data the checks move.

    Raises:
        AssertionError: the transport breaks docs/explanation/contract.md; the message says how.
        TransportError: this machine cannot use it.
        ModumError: an operation failed. A note on the exception names the check.
    """
    if reason := kind.why_not():
        raise TransportError(f"transport {kind.name!r} cannot be used here: {reason}")
    with _registered(kind):
        for count in servers:
            for check in CHECKS:
                try:
                    with fresh_box(kind.name, count, memory=memory, timeout=timeout) as box:
                        check(box, scale)
                except Exception as error:
                    error.add_note(f"{check.__name__} of transport {kind.name!r}, {count} server(s)")
                    raise


@contextmanager
def fresh_box(transport: str, servers: int, *, memory: int = 128 << 20, timeout: float = 30.0) -> Iterator[Box]:
    """Lend a box of new servers in this process; they end with it.

    Args:
        transport: its name in the registry.
        servers: number of servers.
        memory: bytes of each server's pool.
        timeout: seconds without any progress after which an operation fails.

    Yields:
        The box.
    """
    with ExitStack() as stack:
        addresses = [stack.enter_context(Server(memory=memory, grace=0.2)).address for _ in range(servers)]
        yield stack.enter_context(Box.connect(addresses, transport=transport, timeout=timeout))


@contextmanager
def _registered(kind: type[Transport]) -> Iterator[None]:
    before = TRANSPORTS.get(kind.name)
    TRANSPORTS[kind.name] = kind
    try:
        yield
    finally:
        if before is None:
            del TRANSPORTS[kind.name]
        else:
            TRANSPORTS[kind.name] = before


def whole_numbers(count: int, seed: int = 0) -> Floats:
    """Return random whole numbers as float32, so that their sums are exact in any order."""
    return np.random.default_rng(seed).integers(-1000, 1000, count).astype(np.float32)


# ---- the checks


def check_new_buffer(box: Box, scale: Scale) -> None:
    """Check that a new buffer is zero, and has what it was made with."""
    made = box.create("weights", (3, 5), "float32", meta={"names": ["a", "b"]})
    opened = box.open("weights")
    for buffer in (made, opened):
        seen = (buffer.name, buffer.shape, buffer.dtype, buffer.size, buffer.nbytes, buffer.meta, buffer.version)
        _equal(seen, ("weights", (3, 5), "float32", 15, 60, {"names": ["a", "b"]}, 0), "what the buffer says of itself")
    _same(opened.read(), np.zeros((3, 5), np.float32), "a new buffer")


def check_write_and_read(box: Box, scale: Scale) -> None:
    """Check that reads return what was written, whatever its length."""
    for count in (1, 7, FLOATS - 1, FLOATS, FLOATS + 1, scale.elements):
        x = whole_numbers(count)
        buffer = box.create("b", count)
        buffer.write(x)
        _same(buffer.read(), x, f"{count} elements read into a new array")
        out = np.empty(count, np.float32)
        assert buffer.read(out) is out, "read returns the array that it was given"
        _same(out, x, f"{count} elements read into an array")
        box.delete("b")


def check_adds_accumulate(box: Box, scale: Scale) -> None:
    """Check that adds with and without a scale accumulate, in floats and in whole numbers."""
    for dtype in ("float32", "int64"):
        x = whole_numbers(scale.elements // 2).astype(dtype)
        buffer = box.create(dtype, x.size, dtype)
        buffer.add(x)
        buffer.add(x, scale=-3)
        _same(buffer.read(), -2 * x, f"x - 3 x in {dtype}")


def check_ranges(box: Box, scale: Scale) -> None:
    """Check that an operation changes the range that it is given, and nothing else."""
    before = whole_numbers(scale.elements, 1)
    buffer = box.create("b", before.size)
    buffer.write(before)
    spots = np.random.default_rng(3)
    for turn in range(scale.rounds):
        start = int(spots.integers(0, before.size))
        count = int(spots.integers(1, before.size - start + 1))
        x = whole_numbers(count, turn)
        if turn % 2:
            buffer.add(x, 2, offset=start)
            before[start : start + count] += 2 * x
        else:
            buffer.write(x, offset=start)
            before[start : start + count] = x
        _same(buffer.read(offset=start, count=count), before[start : start + count], f"elements from {start} on")
        _same(buffer.read(), before, f"all, after elements from {start} on were changed")


def check_exchange_moves_both_sides(box: Box, scale: Scale) -> None:
    """Check that an exchange moves both sides toward each other."""
    x, g = whole_numbers(scale.elements, 1), whole_numbers(scale.elements, 2)
    buffer = box.create("b", x.size)
    buffer.write(g)
    d = np.float32(0.3) * (x - g)
    moved = x.copy()
    buffer.exchange(moved, 0.3)
    _same(moved, x - d, "x - d")
    _same(buffer.read(), g + d, "g + d")


def check_exchange_leaves_the_difference(box: Box, scale: Scale) -> None:
    """Check that an exchange can leave the difference."""
    x, g = whole_numbers(scale.elements, 1), whole_numbers(scale.elements, 2)
    buffer = box.create("b", x.size)
    buffer.write(g)
    d = np.float32(0.3) * (x - g)
    buffer.exchange(x, 0.3, leave="difference")
    _same(x, d, "d")
    _same(buffer.read(), g + d, "g + d")


def check_exchange_leaves_what_was_there(box: Box, scale: Scale) -> None:
    """Check that an exchange can leave the numbers that the buffer had before."""
    x, g = whole_numbers(scale.elements, 1), whole_numbers(scale.elements, 2)
    buffer = box.create("b", x.size)
    buffer.write(g)
    d = np.float32(0.3) * (x - g)
    buffer.exchange(x, 0.3, leave="present")
    _same(x, g, "g")
    _same(buffer.read(), g + d, "g + d")


def check_compressed_exchanges(box: Box, scale: Scale) -> None:
    """Check that both sides of a compressed exchange move by one number, near what they would move by without."""
    x, g = whole_numbers(scale.elements, 1), whole_numbers(scale.elements, 2)
    rate = np.float32(0.3)
    # rounding of x, which has at least 8 significant bits, and of what is between x and g
    allowed = float(np.abs(x).max() / 256 + np.abs(x - g).max() / 128)
    buffer = box.create("b", x.size)
    for name in COMPRESSIONS:
        compression: Any = name
        what = f"in {name}"
        buffer.write(g)
        d = x.copy()
        buffer.exchange(d, 0.3, leave="difference", compression=compression)
        _same(buffer.read(), g + d, f"g + d {what}")
        _near(d, rate * (x - g), 0.3 * allowed, f"d {what}")
        buffer.write(g)
        moved = x.copy()
        buffer.exchange(moved, 0.3, compression=compression)
        _same(moved, x - d, f"x - d {what}, once more")
        buffer.write(g)
        there = x[5:1005].copy()
        buffer.exchange(there, 0, offset=5, leave="present", compression=compression)
        _near(there, g[5:1005], allowed, f"g {what}")
        _same(buffer.read(), g, f"the buffer after an exchange {what} with a moving rate of 0")


def check_bfloat16_rounds_once(box: Box, scale: Scale) -> None:
    """Check that bfloat16 is computed in single precision, and each stored number rounded to nearest even once."""
    numbers = np.random.default_rng(1)
    x, g = (_rounded(numbers.standard_normal(FLOATS + 3).astype(np.float32)) for _ in range(2))
    buffer = box.create("b", x.size, "bfloat16")
    buffer.write(_bits(g))
    d = _rounded(np.float32(0.3) * (x - g))
    moved = _bits(x)
    buffer.exchange(moved, 0.3)
    _same(moved, _bits(_rounded(x - d)), "x - d in bfloat16")
    sums = _rounded(g + d)
    _same(buffer.read(), _bits(sums), "g + d in bfloat16")
    there = _bits(x)
    buffer.exchange(there, 0.3, leave="present")
    _same(there, _bits(sums), "g in bfloat16")
    sums = _rounded(sums + _rounded(np.float32(0.3) * (x - sums)))
    buffer.add(_bits(x), 2.0)
    _same(buffer.read(), _bits(_rounded(sums + np.float32(2) * x)), "g + 2 x in bfloat16")


def check_operations_within_the_box(box: Box, scale: Scale) -> None:
    """Check that buffers are scaled in place, copied within the box, and combined with each other."""
    x, y = whole_numbers(scale.elements), whole_numbers(scale.elements - 99, 4)
    buffer, other = box.create("b", x.size), box.create("other", y.size)
    buffer.write(x)
    other.write(y)
    buffer.scale(4)
    x *= 4
    buffer.copy(box.open("b"), offset=x.size // 2 + 1, count=1000)
    x[x.size // 2 + 1 : x.size // 2 + 1001] = x[:1000]
    buffer.axpy(2, buffer)
    _same(buffer.read(), x + 2 * x, "scale, copy, axpy within one buffer")
    buffer.copy(other, offset=7, source_offset=3)
    x = 3 * x
    x[7 : 7 + y.size - 3] = y[3:]
    _same(buffer.read(), x, "copy from another buffer, at another offset")
    buffer.axpy(-2, other, count=y.size)
    x[: y.size] -= 2 * y
    _same(buffer.read(), x, "axpy from another buffer")
    _same(other.read(), y, "the source of both")


def check_adds_of_many_clients(box: Box, scale: Scale) -> None:
    """Check that the adds of many clients all count, and so do their versions."""
    clients, size = 4, STRIPE // 4 + 77
    box.create("sum", size)

    def work(seed: int) -> None:
        with _another(box) as mine:
            buffer = mine.open("sum")
            for turn in range(scale.rounds):
                buffer.add(whole_numbers(size, seed * scale.rounds + turn))
            buffer.close()

    _at_once([lambda seed=seed: work(seed) for seed in range(clients)])  # type: ignore[misc]
    due = np.sum([whole_numbers(size, seed) for seed in range(clients * scale.rounds)], axis=0, dtype=np.float64)
    buffer = box.open("sum")
    _same(buffer.read(), np.asarray(due, np.float32), f"the sum of {clients} clients")
    _equal(buffer.version, clients * scale.rounds, "the version")


def check_threads_of_one_client(box: Box, scale: Scale) -> None:
    """Check that several threads of a client may use one buffer."""
    buffer = box.create("sum", STRIPE // 4)
    ones = np.ones(buffer.size, np.float32)

    def work() -> None:
        for _ in range(scale.rounds):
            buffer.add(ones)

    _at_once([work] * 3)
    _same(buffer.read(), np.full(buffer.size, 3 * scale.rounds, np.float32), "the sum of 3 threads")


def check_a_chunk_changes_in_one_step(box: Box, scale: Scale) -> None:
    """Check that a reader never sees a chunk half changed."""
    buffer = box.create("b", FLOATS)
    stop = threading.Event()

    def change() -> None:
        with _another(box) as mine:
            own = mine.open("b")
            ones = np.ones(FLOATS, np.float32)
            while not stop.is_set():
                own.add(ones)
            own.close()

    def read() -> None:
        try:
            buffer.wait(5)
            cut = Layout.of("b", buffer.nbytes, len(box.servers)).pieces(0, buffer.nbytes)
            pieces = [piece for pieces in cut.values() for piece in pieces]
            assert all(piece.nbytes <= CHUNK for piece in pieces), "the pieces of one chunk are no larger than it"
            for _ in range(4 * scale.rounds):
                seen = buffer.read()
                for piece in pieces:
                    part = seen[piece.start // 4 : (piece.start + piece.nbytes) // 4]
                    assert (part == part[0]).all(), f"a chunk was seen half changed: {part.min()} and {part.max()}"
        finally:
            stop.set()

    _at_once([change, read])


def check_versions(box: Box, scale: Scale) -> None:
    """Check that the version counts finished operations, and that a client can wait for it."""
    buffer = box.create("b", scale.elements)
    message = _raised(DeadlineError, lambda: buffer.wait(1, timeout=0.01))
    _says(message, "buffer 'b'", "version 1 was not reached in 0.01 s", "memory server")

    def wait() -> None:
        _equal(buffer.wait(1), 1, "the version that was waited for")

    _at_once([wait, lambda: buffer.write(np.ones(buffer.size, np.float32))])
    buffer.add(np.ones(1, np.float32))
    buffer.scale(2)
    buffer.read()
    _equal(buffer.version, 3, "the version after three changes and a read")


def check_refusals(box: Box, scale: Scale) -> None:
    """Check that bad arrays and ranges are refused, with the numbers in the message, and change nothing."""
    buffer, whole = box.create("b", 10), box.create("i", 10, "int64")
    x = np.ones(4, np.float32)
    refused: list[tuple[Callable[[], object], tuple[str, ...]]] = [
        (lambda: buffer.write(x, offset=8), ("[8, 12)", "'b'", "10 elements")),
        (lambda: buffer.add(x, offset=-1), ("[-1, 3)",)),
        (lambda: buffer.add(np.ones(4)), ("float64, buffer 'b' is float32",)),
        (lambda: buffer.add(np.ones(8, np.float32)[::2]), ("not C-contiguous",)),
        (lambda: buffer.exchange(x, 1.5), ("moving_rate must be in",)),
        (lambda: buffer.exchange(np.frombuffer(x.tobytes(), np.float32), 0.5), ("read-only",)),
        (lambda: whole.exchange(np.ones(4, np.int64), 0.5), ("floating dtype",)),
        (lambda: buffer.exchange(x, 0.5, compression="zip"), ("none, bfloat16, int8", "'zip'")),  # type: ignore[arg-type]
        (lambda: whole.add(np.ones(4, np.int64), 0.5), ("whole-number factor",)),
        (lambda: buffer.copy(whole), ("int64, buffer 'b' is float32",)),
        (lambda: buffer.copy(buffer, offset=1, count=4), ("overlap",)),
    ]
    for act, parts in refused:
        _says(_raised(ValueError, act), *parts)
    _same(buffer.read(), np.zeros(10, np.float32), "the buffer after what was refused")


def check_names(box: Box, scale: Scale) -> None:
    """Check that a name can be taken once, and again after it was deleted."""
    old = box.create("b", 10)
    _says(_raised(BufferExistsError, lambda: box.create("b", 10)), "'b'")
    box.delete("b")
    for act in (old.read, lambda: old.write(np.ones(10, np.float32))):
        _says(_raised(BufferNotFoundError, act), "deleted")
    _says(_raised(BufferNotFoundError, lambda: box.open("b")), "no buffer 'b'")
    _says(_raised(BufferNotFoundError, lambda: box.delete("b")), "no buffer 'b'")
    _same(box.create("b", 20).read(), np.zeros(20, np.float32), "the new buffer of the old name")


def check_room(box: Box, scale: Scale) -> None:
    """Check that a buffer that does not fit is refused, and leaves nothing."""
    count, room = len(box.servers), box.statistics().servers[0].memory
    _says(_raised(PoolFullError, lambda: box.create("big", count * room // 4 + STRIPE)), "'big' needs", "are free")
    _equal(box.list(), [], "the buffers after that")
    _equal([server.used for server in box.statistics().servers], [0] * count, "the bytes in use after that")
    assert isinstance(box.create("big", count * room // 8), Buffer), "half of the memory can be had"


def check_list_and_statistics(box: Box, scale: Scale) -> None:
    """Check that the list and the statistics show what is there."""
    box.create("b", (2, FLOATS * 8))
    box.create("a", 5, "int64", meta={"k": 1})
    box.open("b").write(np.zeros((2, FLOATS * 8), np.float32))
    infos = [(info.name, info.shape, info.dtype, info.nbytes, info.version, info.meta) for info in box.list()]
    due = [("a", (5,), "int64", 40, 0, {"k": 1}), ("b", (2, FLOATS * 8), "float32", 16 * CHUNK, 1, {})]
    _equal(infos, due, "the list")
    servers = box.statistics().servers
    _equal(sum(server.nbytes["write"] for server in servers), 16 * CHUNK, "bytes written, on all servers together")
    for server in servers:
        _equal((server.buffers, server.clients), (2, 1), "buffers and clients of a server")
        assert server.used >= 16 * CHUNK // len(servers) - STRIPE, f"a server has {server.used} bytes, not its share"


def check_what_workers_agree_by(box: Box, scale: Scale) -> None:
    """Check counters, values, leases and work queues, and that leases and work of a leaving client return at once."""
    _equal([box.counter("c").add(amount) for amount in (5, -2, 0)], [0, 5, 3], "a counter's values before")
    with _another(box) as other:
        other.value("v").set({"k": [1, 2.5]})
        lease = other.lock("l")
        _equal(other.queue("q", 1).take(), 0, "the only item")
        _says(_raised(DeadlineError, lambda: box.lock("l", timeout=0.01)), "'l'", other.session)
        lease.renew()
    _equal(box.value("v").get(), {"k": [1, 2.5]}, "a value that another client set")
    with box.lock("l", timeout=5):
        _equal(box.queue("q", 1).take(timeout=5), 0, "the item that a client left")
        box.queue("q", 1).give_back(0)
        _equal(box.queue("q", 1).take(timeout=0), 0, "the item that a client gave back")
        _equal(box.queue("q", 1).statistics().done, 0, "the items done")


CHECKS: Final[tuple[Callable[[Box, Scale], None], ...]] = (
    check_new_buffer,
    check_write_and_read,
    check_adds_accumulate,
    check_ranges,
    check_exchange_moves_both_sides,
    check_exchange_leaves_the_difference,
    check_exchange_leaves_what_was_there,
    check_compressed_exchanges,
    check_bfloat16_rounds_once,
    check_operations_within_the_box,
    check_adds_of_many_clients,
    check_threads_of_one_client,
    check_a_chunk_changes_in_one_step,
    check_versions,
    check_refusals,
    check_names,
    check_room,
    check_list_and_statistics,
    check_what_workers_agree_by,
)
"""Every check of the suite; each needs a box of fresh servers (`fresh_box`)."""


# ---- helpers


def _another(box: Box) -> Box:
    return Box.connect(box.servers, transport=box.transports[0], timeout=30)


def _at_once(acts: Sequence[Callable[[], None]]) -> None:
    """Run all at the same time, each in a thread; raise the first error once all have ended."""
    with ThreadPoolExecutor(len(acts)) as pool:
        futures = [pool.submit(act) for act in acts]
    for future in futures:
        future.result()


def _rounded(values: Floats) -> Floats:
    """Round to the 8 significant bits of bfloat16, to nearest even."""
    fraction, exponent = np.frexp(values)
    rounded: Floats = np.ldexp(np.rint(fraction * 256) / 256, exponent).astype(np.float32)
    return rounded


def _bits(values: Floats) -> NDArray[np.uint16]:
    """Return the bits of numbers that bfloat16 can hold."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _raised(kind: type[Exception], act: Callable[[], object]) -> str:
    """Return the message of the error that the call must raise."""
    try:
        found = act()
    except kind as error:
        return str(error)
    except (ModumError, ValueError, TypeError) as error:
        raise AssertionError(f"{type(error).__name__} was raised where {kind.__name__} was due: {error}") from error
    raise AssertionError(f"{found!r} was returned where {kind.__name__} was due")


def _says(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message, f"the error must say {part!r}; it says: {message}"


def _equal(found: object, due: object, what: str) -> None:
    assert found == due, f"{what}: {found} where {due} was due"


def _near(found: Floats, due: Floats, allowed: float, what: str) -> None:
    worst = float(np.abs(found - due).max())
    assert worst <= allowed, f"{what}: off by up to {worst:g}, where {allowed:g} is allowed"


def _same(found: NDArray[Any], due: NDArray[Any], what: str) -> None:
    """Compare two arrays to the bit."""
    assert found.shape == due.shape, f"{what}: shape {found.shape} where {due.shape} was due"
    wrong = np.flatnonzero(found.reshape(-1) != due.reshape(-1))
    if wrong.size:
        first = wrong[0]
        raise AssertionError(
            f"{what}: {wrong.size} of {due.size} elements differ, the first is element {first}:"
            f" {found.reshape(-1)[first]} where {due.reshape(-1)[first]} was due"
        )
