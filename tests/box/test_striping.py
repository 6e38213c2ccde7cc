"""Where bytes lie, against a byte-by-byte model."""

from hypothesis import given
from hypothesis import strategies as st

from modum.box.striping import home_of, paired_pieces, pieces, place, segment_bytes
from modum.box.wire import CHUNK, STRIPE

counts = st.integers(1, 7)
sizes = st.integers(1, 9 * STRIPE)


@given(sizes, counts, st.data())
def test_segments_hold_a_buffer_exactly(nbytes: int, servers: int, data: st.DataObject) -> None:
    home = data.draw(st.integers(0, servers - 1))
    held = segment_bytes(nbytes, home, servers)
    assert sum(held) == nbytes
    stripes = [(home + index) % servers for index in range(-(-nbytes // STRIPE))]
    for server in range(servers):
        full = stripes.count(server) * STRIPE
        assert held[server] == full - (STRIPE - (nbytes - 1) % STRIPE - 1 if stripes[-1] == server else 0)


@given(sizes, counts, st.data())
def test_pieces_cover_a_range_once_and_stay_within_stripes(nbytes: int, servers: int, data: st.DataObject) -> None:
    home = data.draw(st.integers(0, servers - 1))
    offset = data.draw(st.integers(0, nbytes - 1))
    count = data.draw(st.integers(1, nbytes - offset))
    held = segment_bytes(nbytes, home, servers)
    covered = []
    for server, parts in pieces(offset, count, home, servers).items():
        for piece in parts:
            assert piece.offset // STRIPE == (piece.offset + piece.nbytes - 1) // STRIPE
            assert piece.offset + piece.nbytes <= held[server]
            for chunk in piece.chunks():
                assert chunk.offset // CHUNK == (chunk.offset + chunk.nbytes - 1) // CHUNK
                assert chunk.start - piece.start == chunk.offset - piece.offset
            assert sum(chunk.nbytes for chunk in piece.chunks()) == piece.nbytes
            assert place(offset + piece.start, home, servers) == (server, piece.offset)
            covered.append((piece.start, piece.nbytes))
    position = 0
    for start, length in sorted(covered):
        assert start == position
        position += length
    assert position == count


@given(counts, st.integers(0, 5 * STRIPE), st.integers(0, 5 * STRIPE), st.integers(1, 3 * STRIPE), st.data())
def test_paired_pieces_agree_with_place_on_both_sides(
    servers: int, offset: int, source_offset: int, nbytes: int, data: st.DataObject
) -> None:
    home, source_home = (data.draw(st.integers(0, servers - 1)) for _ in range(2))
    position = 0
    for server, other, piece in paired_pieces(offset, home, source_offset, source_home, nbytes, servers):
        assert piece.start == position
        assert place(offset + position, home, servers) == (server, piece.offset)
        assert place(source_offset + position, source_home, servers) == (other, piece.source_offset)
        for start in (piece.offset, piece.source_offset):
            assert start // CHUNK == (start + piece.nbytes - 1) // CHUNK
        position += piece.nbytes
    assert position == nbytes


def test_homes_spread_over_the_servers() -> None:
    homes = [home_of(f"buffer {number}", 4) for number in range(400)]
    assert all(homes.count(server) > 60 for server in range(4))
