"""The conformance suite of update rules: what every `modum.rules.UpdateRule` must do."""

import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from modum.averaging.averaging import Averaging
from modum.averaging.background import BackgroundTransfer
from modum.box import Box, Buffer
from modum.box.compression import CompressionName, compression_of
from modum.box.kernels import Leave
from modum.groups import Alone
from modum.parameters import ArrayVector
from modum.rules import UpdateRule

SIZE, STATISTICS, LONG = 96, 16, 1 << 18
STEPS, LEARNING_RATE = 200, 0.05

Array = NDArray[np.float32]


def check_rule(make: Callable[..., UpdateRule], box: Box, name: str = "modum/testing/rule") -> None:
    """Check an update rule with its default settings.

    Args:
        make: the rule's class; it takes `interval` and `overlap`, as all rules do.
        box: where a buffer is made, and deleted again.
        name: the buffer's.

    Raises:
        AssertionError: the rule does not do what `UpdateRule` says; the message shows the result and what was expected.
    """
    rule = make()
    _check_settings(make, rule)
    buffer = box.create(name, SIZE)
    try:
        _check_part(rule, buffer)
        _check_state(rule, buffer)
        _check_memory(rule, buffer)
        for overlap in (False, True):
            _check_training(make(interval=2, overlap=overlap), buffer)
    finally:
        buffer.close()
        box.delete(name)


def _check_settings(make: Callable[..., UpdateRule], rule: UpdateRule) -> None:
    settings = rule.settings()
    assert settings == make().settings(), "rules with the same settings are alike: settings() tells them apart"
    assert msgspec.to_builtins(settings) == settings, f"settings() has more than plain values: {settings}"
    assert settings != make(interval=7).settings(), "settings() must have the interval: workers compare it"
    assert rule.interval == "auto" or rule.interval >= 1, f"interval is {rule.interval!r}"
    assert (make(interval=7).interval, make(overlap=False).overlap) == (7, False), "interval and overlap are settings"
    for wrong in (0, -1):
        assert _refused(make, wrong), f"interval={wrong} is accepted, or refused without naming the value"
    once, twice = rule.traffic(1_000), rule.traffic(2_000)
    assert once, "an exchange has at least one leg"
    assert all(min(leg) >= 0 and max(leg) > 0 for leg in once), f"a leg moves nothing: {once}"
    assert [tuple(2 * nbytes for nbytes in leg) for leg in once] == [tuple(leg) for leg in twice], (
        f"traffic grows with the weights: {once} for 1000 bytes, but {twice} for 2000"
    )


def _refused(make: Callable[..., UpdateRule], interval: int) -> bool:
    try:
        make(interval=interval)
    except ValueError as error:
        return str(interval) in str(error)
    return False


def _check_part(rule: UpdateRule, buffer: Buffer) -> None:
    """Check one transfer of weights, the last of which are statistics."""
    shared = np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)
    buffer.write(shared)
    counted = _Counted(buffer)
    vector = ArrayVector(shared.copy(), STATISTICS)
    part = rule.part(vector, cast(Buffer, counted))
    part.pulled()
    vector.snapshot()
    rate = part.transfer(2, 1)
    assert 0 < rate <= 1, f"transfer returned a rate of {rate}, which must be greater than 0 and at most 1"
    assert np.allclose(vector.staging, 0, atol=1e-6), "a worker that has learned nothing gets a correction"
    assert np.allclose(buffer.read(), shared, atol=1e-6), "a worker that has learned nothing moves the shared weights"

    learned = vector.weights[-STATISTICS:] + np.float32(1)
    vector.weights[-STATISTICS:] = learned
    vector.snapshot()
    rate = part.transfer(2, 1)
    moved = buffer.read()[-STATISTICS:] - shared[-STATISTICS:]
    assert np.allclose(moved, rate, atol=1e-5), (
        f"statistics are mixed with the rate that transfer returns: a difference of 1 moved the shared ones by "
        f"{moved.mean():g} at a rate of {rate:g}"
    )
    vector.subtract(rate)
    mixture = learned - np.float32(rate)
    assert np.allclose(vector.weights[-STATISTICS:], mixture, atol=1e-5), (
        "the correction of statistics is rate (S - G), as modum.parameters.mixed takes it"
    )

    buffer.write(shared)
    vector = ArrayVector(shared.copy())
    counted = _Counted(buffer)
    part = rule.part(vector, cast(Buffer, counted))
    part.pulled()
    counted.moved = (0, 0)
    vector.weights += 1
    vector.snapshot()
    part.transfer(2, 1)
    legs = rule.traffic(vector.weights.nbytes)
    due = sum(leg.out for leg in legs), sum(leg.back for leg in legs)
    assert counted.moved == due, f"traffic() says {due} bytes out and back, but an exchange moved {counted.moved}"
    assert np.isfinite(vector.staging).all(), "the correction has numbers that are not finite"


def _check_state(rule: UpdateRule, buffer: Buffer) -> None:
    """Check that a part that loads the state of another one goes on as that one would."""
    rng = np.random.default_rng(3)
    shared, steps = rng.standard_normal(SIZE).astype(np.float32), rng.standard_normal((2, SIZE)).astype(np.float32)

    def after(state: Mapping[str, Any] | None) -> tuple[dict[str, Any], NDArray[np.generic]]:
        buffer.write(shared)
        vector = ArrayVector(shared.copy())
        part = rule.part(vector, buffer)
        part.pulled()
        vector.weights += steps[0]
        vector.snapshot()
        part.transfer(2, 100)
        kept = part.state()
        if state is not None:
            part = rule.part(vector, buffer)
            part.load(state)
        vector.weights += steps[1]
        vector.snapshot()
        part.transfer(2, 100)
        return kept, vector.staging.copy()

    state, correction = after(None)
    assert np.array_equal(correction, after(state)[1]), (
        "a part that loads the state() of another does not go on as that one: state() and load() must have all that a"
        " part remembers from one exchange to the next"
    )


def _check_memory(rule: UpdateRule, buffer: Buffer) -> None:
    """Check that a new part takes no more memory for a long vector than the rule says."""
    vector = ArrayVector(np.zeros(LONG, np.float32))
    tracemalloc.start()
    try:
        part = rule.part(vector, buffer)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    due = rule.memory(vector.weights.nbytes)
    assert kept < due + vector.weights.nbytes / 10, (
        f"memory() says {due} bytes for {vector.weights.nbytes} of weights, but {type(part).__name__} takes {kept}"
    )


def _check_training(rule: UpdateRule, buffer: Buffer) -> None:
    """Let two workers, each of which sees half of a problem, find its solution together."""
    rng = np.random.default_rng(2)
    solution = rng.standard_normal(SIZE).astype(np.float32)
    apart = rng.standard_normal(SIZE).astype(np.float32)
    buffer.write(np.zeros(SIZE, np.float32))
    vectors = [ArrayVector(np.zeros(SIZE, np.float32)) for _ in range(2)]
    transfers = [BackgroundTransfer(lambda: None, idle_seconds=60.0) for _ in vectors]
    workers = [
        Averaging(rule, [vector], [buffer], Alone(), _Two(), transfer)
        for vector, transfer in zip(vectors, transfers, strict=True)
    ]
    try:
        for worker in workers:
            worker.pull()
        for _ in range(STEPS):
            for vector, worker, transfer, sign in zip(vectors, workers, transfers, (1, -1), strict=True):
                vector.weights -= np.float32(LEARNING_RATE) * (vector.weights - solution - np.float32(sign) * apart)
                worker.step()
                transfer.wait()  # steps take no time here and would run far ahead of any exchange
        for worker in workers:
            worker.finish()
        exchanges = workers[0].statistics().exchanges
    finally:
        for worker in workers:
            worker.close()
    assert exchanges > 1, f"{exchanges} exchanges in {STEPS} steps at an interval of {rule.interval}"
    error = float(np.linalg.norm(buffer.read() - solution) / np.linalg.norm(solution))
    assert error < 0.5, (
        f"two workers with a half of the problem each ended at a relative distance of {error:.2f} from its solution "
        f"({STEPS} steps, overlap={rule.overlap})"
    )


class _Two:
    """A membership that always counts both workers."""

    groups = 2

    def count(self) -> None:
        """Do nothing: no group comes or goes."""


class _Counted:
    """A buffer that counts the bytes to the box and back."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self.moved = (0, 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._buffer, name)

    def read(self, out: Array, *, offset: int = 0) -> Array:
        """Count the bytes back."""
        self._count(0, out.nbytes)
        return self._buffer.read(out, offset=offset)

    def write(self, x: Array, *, offset: int = 0) -> None:
        """Count the bytes out."""
        self._count(x.nbytes, 0)
        self._buffer.write(x, offset=offset)

    def add(self, x: Array, scale: float = 1.0, *, offset: int = 0) -> None:
        """Count the bytes out."""
        self._count(x.nbytes, 0)
        self._buffer.add(x, scale, offset=offset)

    def exchange(
        self,
        x: Array,
        moving_rate: float,
        *,
        offset: int = 0,
        leave: Leave = "moved",
        compression: CompressionName = "none",
    ) -> None:
        """Count the bytes of both directions."""
        chosen = compression_of(compression)
        if chosen is None:
            self._count(x.nbytes, x.nbytes)
        else:
            self._count(chosen.sent(x.size), chosen.answered(x.size))
        self._buffer.exchange(x, moving_rate, offset=offset, leave=leave, compression=compression)

    def _count(self, out: int, back: int) -> None:
        self.moved = (self.moved[0] + out, self.moved[1] + back)
