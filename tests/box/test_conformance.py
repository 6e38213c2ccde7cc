"""What every transport does, with one server and with several: the suite that a new transport must pass."""

import threading
from typing import Any

import numpy as np
import pytest
from tests.box.conftest import EMULATED

from modum.box import Box, Buffer, Server
from modum.box.protocol.limits import CHUNK, STRIPE
from modum.errors import BufferExistsError, BufferNotFoundError, DeadlineError, PoolFullError

FLOATS = CHUNK // 4  # elements of float32 in a chunk
MANY = (1 if EMULATED else 3) * STRIPE // 4 + 1237  # elements that reach over stripes, with a ragged end


def whole_numbers(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random whole numbers, so that sums in float32 are exact in any order."""
    return np.random.default_rng(seed).integers(-1000, 1000, count).astype(np.float32)


def test_a_new_buffer_is_zero_and_has_what_it_was_made_with(box: Box) -> None:
    made = box.create("weights", (3, 5), "float32", meta={"names": ["a", "b"]})
    opened = box.open("weights")
    for buffer in (made, opened):
        assert (buffer.name, buffer.shape, buffer.dtype, buffer.size, buffer.nbytes) == (
            "weights",
            (3, 5),
            "float32",
            15,
            60,
        )
        assert buffer.meta == {"names": ["a", "b"]}
        assert buffer.version == 0
    np.testing.assert_array_equal(opened.read(), np.zeros((3, 5), np.float32))


@pytest.mark.parametrize("count", [1, 7, FLOATS - 1, FLOATS, FLOATS + 1, MANY])
def test_what_is_written_is_read(box: Box, count: int) -> None:
    x = whole_numbers(count)
    buffer = box.create("b", count)
    buffer.write(x)
    np.testing.assert_array_equal(buffer.read(), x)
    out = np.empty(count, np.float32)
    assert buffer.read(out) is out
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_adds_accumulate(box: Box, dtype: str) -> None:
    x = whole_numbers(MANY // 2).astype(dtype)
    buffer = box.create("b", x.size, dtype)
    buffer.add(x)
    buffer.add(x, scale=-3)
    np.testing.assert_array_equal(buffer.read(), -2 * x)


def test_an_exchange_moves_both_sides_toward_each_other(box: Box) -> None:
    x, g = whole_numbers(MANY, 1), whole_numbers(MANY, 2)
    buffer = box.create("b", MANY)
    buffer.write(g)
    rate = np.float32(0.3)
    d = rate * (x - g)
    mine, theirs = x - d, g + d
    moved = x.copy()
    buffer.exchange(moved, 0.3)
    np.testing.assert_array_equal(moved, mine)
    np.testing.assert_array_equal(buffer.read(), theirs)


def test_an_exchange_can_leave_the_difference(box: Box) -> None:
    x, g = whole_numbers(MANY, 1), whole_numbers(MANY, 2)
    buffer = box.create("b", MANY)
    buffer.write(g)
    d = np.float32(0.3) * (x - g)
    buffer.exchange(x, 0.3, difference=True)
    np.testing.assert_array_equal(x, d)
    np.testing.assert_array_equal(buffer.read(), g + d)


def test_bfloat16_rounds_to_nearest_even_once(box: Box) -> None:
    import torch

    x = torch.randn(FLOATS + 3, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    g = torch.randn(FLOATS + 3, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    buffer = box.create("b", x.numel(), "bfloat16")
    buffer.write(g.view(torch.uint16).numpy())
    d = (torch.tensor(0.3) * (x.float() - g.float())).to(torch.bfloat16)
    moved = x.clone()
    buffer.exchange(moved.view(torch.uint16).numpy(), 0.3)
    expected = (g.float() + d.float()).to(torch.bfloat16)
    assert torch.equal(moved, (x.float() - d.float()).to(torch.bfloat16))
    np.testing.assert_array_equal(buffer.read(), expected.view(torch.uint16).numpy())
    buffer.add(x.view(torch.uint16).numpy(), 2.0)
    expected = (expected.float() + 2.0 * x.float()).to(torch.bfloat16)
    np.testing.assert_array_equal(buffer.read(), expected.view(torch.uint16).numpy())


def test_a_buffer_is_scaled_in_place_and_copied_within_itself(box: Box) -> None:
    x = whole_numbers(MANY)
    buffer = box.create("b", MANY)
    buffer.write(x)
    buffer.scale(4)
    x *= 4
    buffer.copy(box.open("b"), offset=MANY // 2 + 1, count=1000)
    x[MANY // 2 + 1 : MANY // 2 + 1001] = x[:1000]
    buffer.axpy(2, buffer)
    np.testing.assert_array_equal(buffer.read(), x + 2 * x)


def test_adds_of_many_clients_all_count(box: Box) -> None:
    workers, rounds, size = 4, 2 if EMULATED else 12, STRIPE // 4 + 77
    box.create("sum", size)

    def work(seed: int) -> None:
        with Box.connect(box.servers, transport=box.transports[0], timeout=30) as mine:
            buffer = mine.open("sum")
            for turn in range(rounds):
                buffer.add(whole_numbers(size, seed * rounds + turn))
            buffer.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = np.sum([whole_numbers(size, seed) for seed in range(workers * rounds)], axis=0, dtype=np.float64)
    buffer = box.open("sum")
    np.testing.assert_array_equal(buffer.read(), expected.astype(np.float32))
    assert buffer.version == workers * rounds


def test_threads_of_one_client_may_use_one_buffer(box: Box) -> None:
    buffer = box.create("sum", STRIPE // 4)
    ones = np.ones(buffer.size, np.float32)

    def work() -> None:
        for _ in range(10):
            buffer.add(ones)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(buffer.read(), 30 * ones)


def test_a_reader_never_sees_a_chunk_half_changed(box: Box) -> None:
    buffer = box.create("b", FLOATS)
    stop = threading.Event()

    def change() -> None:
        with Box.connect(box.servers, transport=box.transports[0], timeout=30) as mine:
            own = mine.open("b")
            ones = np.ones(FLOATS, np.float32)
            while not stop.is_set():
                own.add(ones)
            own.close()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        while buffer.version < 5:
            pass
        parts = [piece for parts in buffer._layout.pieces(0, buffer.nbytes).values() for piece in parts]
        assert all(piece.nbytes <= CHUNK for piece in parts)
        for _ in range(10 if EMULATED else 50):
            seen = buffer.read()
            for piece in parts:
                part = seen[piece.start // 4 : (piece.start + piece.nbytes) // 4]
                assert (part == part[0]).all()
    finally:
        stop.set()
        thread.join()


def test_the_version_counts_finished_operations_and_can_be_waited_for(box: Box) -> None:
    buffer = box.create("b", MANY)
    with pytest.raises(DeadlineError, match=r"buffer 'b'.*version 1 was not reached in 0.01 s.*memory server 127"):
        buffer.wait(1, timeout=0.01)
    thread = threading.Thread(target=lambda: buffer.write(np.ones(MANY, np.float32)))
    thread.start()
    assert buffer.wait(1) == 1
    thread.join()
    buffer.add(np.ones(1, np.float32))
    buffer.scale(2)
    buffer.read()
    assert buffer.version == 3


def test_bad_arrays_and_ranges_are_refused_with_the_numbers(box: Box) -> None:
    buffer = box.create("b", 10)
    whole = box.create("i", 10, "int64")
    x = np.ones(4, np.float32)
    with pytest.raises(ValueError, match=r"\[8, 12\).*'b'.*10 elements"):
        buffer.write(x, offset=8)
    with pytest.raises(ValueError, match=r"\[-1, 3\)"):
        buffer.add(x, offset=-1)
    with pytest.raises(ValueError, match="float64, buffer 'b' is float32"):
        buffer.add(np.ones(4))
    with pytest.raises(ValueError, match="not C-contiguous"):
        buffer.add(np.ones(8, np.float32)[::2])
    with pytest.raises(ValueError, match="moving_rate must be in"):
        buffer.exchange(x, 1.5)
    with pytest.raises(ValueError, match="read-only"):
        buffer.exchange(np.frombuffer(x.tobytes(), np.float32), 0.5)
    with pytest.raises(ValueError, match="floating dtype"):
        whole.exchange(np.ones(4, np.int64), 0.5)
    with pytest.raises(ValueError, match="whole-number factor"):
        whole.add(np.ones(4, np.int64), 0.5)
    with pytest.raises(ValueError, match="int64, buffer 'b' is float32"):
        buffer.copy(whole)
    with pytest.raises(ValueError, match="overlap"):
        buffer.copy(buffer, offset=1, count=4)
    np.testing.assert_array_equal(buffer.read(), np.zeros(10, np.float32))


def test_a_name_can_be_taken_once_and_again_after_it_was_deleted(box: Box) -> None:
    old = box.create("b", 10)
    with pytest.raises(BufferExistsError, match="'b'"):
        box.create("b", 10)
    box.delete("b")
    for act in (old.read, lambda: old.write(np.ones(10, np.float32))):
        with pytest.raises(BufferNotFoundError, match="deleted"):
            act()
    with pytest.raises(BufferNotFoundError, match="no buffer 'b'"):
        box.open("b")
    with pytest.raises(BufferNotFoundError, match="no buffer 'b'"):
        box.delete("b")
    new = box.create("b", 20)
    np.testing.assert_array_equal(new.read(), np.zeros(20, np.float32))


def test_a_buffer_that_does_not_fit_is_refused_and_leaves_nothing(box: Box) -> None:
    room = 128 << 20
    with pytest.raises(PoolFullError, match=r"'big' needs .* of the pool's 128 MiB are free"):
        box.create("big", len(box.servers) * room // 4 + STRIPE)
    assert box.list() == []
    assert [server.used for server in box.statistics().servers] == [0] * len(box.servers)
    assert isinstance(box.create("big", len(box.servers) * room // 8), Buffer)


def test_the_list_and_the_statistics_say_what_is_there(box: Box) -> None:
    box.create("b", (2, FLOATS * 8))
    box.create("a", 5, "int64", meta={"k": 1})
    box.open("b").write(np.zeros((2, FLOATS * 8), np.float32))
    infos = box.list()
    assert [(info.name, info.shape, info.dtype, info.nbytes, info.version) for info in infos] == [
        ("a", (5,), "int64", 40, 0),
        ("b", (2, FLOATS * 8), "float32", 16 * CHUNK, 1),
    ]
    assert infos[0].meta == {"k": 1}
    servers = box.statistics().servers
    assert sum(server.nbytes["write"] for server in servers) == 16 * CHUNK
    assert all(server.buffers == 2 and server.clients == 1 for server in servers)
    assert all(server.used >= 16 * CHUNK // len(servers) - STRIPE for server in servers)


def test_more_than_four_gibibytes_are_addressed() -> None:
    size = (4 << 30) // 4 + 2 * FLOATS  # elements; only what is touched takes memory
    with Server(memory=6 << 30) as server:
        for transport in ("local", "tcp"):
            with Box.connect(server.address, transport=transport, timeout=10) as box:
                buffer = box.create(transport, size)
                x = whole_numbers(FLOATS + 5)
                for offset in (0, (4 << 30) // 4 - 3, size - x.size):
                    buffer.add(x, offset=offset)
                    np.testing.assert_array_equal(buffer.read(offset=offset, count=x.size), x)
                    buffer.scale(0, offset=offset, count=x.size)
                box.delete(transport)
