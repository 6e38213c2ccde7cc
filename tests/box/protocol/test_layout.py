"""Where bytes lie, against a byte-by-byte model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modum.box.protocol.layout import Layout, home_of, paired_pieces, stripe_bytes
from modum.box.protocol.limits import CHUNK, STRIPE

counts = st.integers(1, 7)
sizes = st.integers(1, 40 * STRIPE)


@st.composite
def layouts(draw: st.DrawFn, servers: st.SearchStrategy[int] = counts) -> Layout:
    """Of a buffer of any size and name."""
    nbytes, number = draw(sizes), draw(servers)
    return Layout(nbytes, draw(st.integers(0, number - 1)), number, stripe_bytes(nbytes, number))


@given(layouts())
def test_segments_hold_a_buffer_exactly(layout: Layout) -> None:
    held = layout.segments()
    assert sum(held) == layout.nbytes
    stripe = layout.stripe
    stripes = [(layout.home + index) % layout.servers for index in range(-(-layout.nbytes // stripe))]
    for server in range(layout.servers):
        missing = stripe - (layout.nbytes - 1) % stripe - 1 if stripes[-1] == server else 0
        assert held[server] == stripes.count(server) * stripe - missing


@given(layouts())
def test_stripes_share_no_chunk(layout: Layout) -> None:
    assert layout.stripe <= STRIPE
    assert layout.stripe % CHUNK == 0 or layout.nbytes <= layout.stripe * layout.servers


@given(layouts())
def test_no_server_has_much_more_than_its_share(layout: Layout) -> None:
    """A chunk more at most, or 64 KiB of a small buffer: a bandwidth that grows with the servers is promised."""
    more = max(layout.segments()) - layout.nbytes / layout.servers
    assert more < (CHUNK if layout.nbytes > layout.servers * STRIPE else 64 << 10)


@pytest.mark.parametrize(
    ("nbytes", "servers", "stripe"),
    [
        (100, 8, 64 << 10),  # a small buffer is on one server
        (600_000, 8, 128 << 10),
        (STRIPE, 1, STRIPE),
        (5 * STRIPE, 1, STRIPE),
        (8 * STRIPE, 8, STRIPE),
        (100_000_000, 8, STRIPE),
        (36 << 20, 8, CHUNK),  # in stripes of 4 MiB the first server would have 8 MiB of it, not 5
    ],
)
def test_stripes_are_as_long_as_they_may_be(nbytes: int, servers: int, stripe: int) -> None:
    assert stripe_bytes(nbytes, servers) == stripe


@given(layouts(), st.data())
def test_pieces_cover_a_range_once_and_stay_within_stripes(layout: Layout, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, layout.nbytes - 1))
    count = data.draw(st.integers(1, layout.nbytes - offset))
    held = layout.segments()
    covered = []
    for server, parts in layout.pieces(offset, count).items():
        for piece in parts:
            assert piece.offset // layout.stripe == (piece.offset + piece.nbytes - 1) // layout.stripe
            assert piece.offset + piece.nbytes <= held[server]
            for chunk in piece.chunks():
                assert chunk.offset // CHUNK == (chunk.offset + chunk.nbytes - 1) // CHUNK
                assert chunk.start - piece.start == chunk.offset - piece.offset
            assert sum(chunk.nbytes for chunk in piece.chunks()) == piece.nbytes
            assert layout.place(offset + piece.start) == (server, piece.offset)
            covered.append((piece.start, piece.nbytes))
    position = 0
    for start, length in sorted(covered):
        assert start == position
        position += length
    assert position == count


@given(st.integers(1, 7), st.data())
def test_paired_pieces_agree_with_place_on_both_sides(servers: int, data: st.DataObject) -> None:
    target, source = (data.draw(layouts(st.just(servers))) for _ in range(2))
    offset, source_offset = (data.draw(st.integers(0, layout.nbytes - 1)) for layout in (target, source))
    nbytes = data.draw(st.integers(1, min(target.nbytes - offset, source.nbytes - source_offset)))
    position = 0
    for server, other, piece in paired_pieces(target, offset, source, source_offset, nbytes):
        assert piece.start == position
        for layout, at, start, number in (
            (target, offset, piece.offset, server),
            (source, source_offset, piece.source_offset, other),
        ):
            assert layout.place(at + position) == (number, start)
            assert layout.place(at + position + piece.nbytes - 1) == (number, start + piece.nbytes - 1)
            assert start // CHUNK == (start + piece.nbytes - 1) // CHUNK
        position += piece.nbytes
    assert position == nbytes


def test_homes_spread_over_the_servers() -> None:
    homes = [home_of(f"buffer {number}", 4) for number in range(400)]
    assert all(homes.count(server) > 60 for server in range(4))
