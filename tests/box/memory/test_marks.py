"""The marks behind a segment: what tells one-sided readers that a chunk was changed while they read it."""

import numpy as np
import pytest
from tests.box.parties import party_of
from tests.box.processes import client_process, line_of

from modum.box import Box, Server
from modum.box.memory.segment import file_bytes, mark_offset, trailer_offset
from modum.box.protocol.limits import CHUNK

DIES_IN_A_CHUNK = """
import sys
from tests.box.parties import party_of
with party_of(sys.argv[1], "b") as party:
    assert party.locks.take(CHUNK := 1 << 20, 4, exclusive=True)
    party.mapping.begin(CHUNK, 4)
    print("begun")
    sys.stdin.read()
"""


def marks(server: Server) -> list[int]:
    with party_of(server.address, "b") as party:
        return party.mapping.trailer[512:].tolist()


@pytest.mark.parametrize("transport", ["local", "tcp"])
def test_a_mark_goes_up_by_two_for_every_change_of_its_chunk_alone(server: Server, transport: str) -> None:
    with Box.connect(server.address, transport=transport) as box:
        buffer = box.create("b", 3 * CHUNK // 4)
        x = np.ones(buffer.size, np.float32)
        assert set(marks(server)) == {0}
        buffer.write(x)
        assert marks(server)[:4] == [2, 2, 2, 0]
        buffer.add(x[:2], offset=CHUNK // 4 - 1)  # over the border of the first two
        buffer.exchange(x[:1], 0.5, offset=CHUNK // 2)
        buffer.scale(2, count=1)
        buffer.read()
        assert marks(server)[:4] == [6, 4, 4, 0]


def test_a_mark_that_a_dead_client_left_odd_is_even_after_the_next_change(server: Server) -> None:
    with Box.connect(server.address, transport="tcp", timeout=10) as box:
        buffer = box.create("b", 3 * CHUNK // 4)
        with client_process(DIES_IN_A_CHUNK, server.address) as process:
            assert line_of(process) == "begun"
            assert marks(server)[:3] == [0, 1, 0]
        assert marks(server)[:3] == [0, 1, 0]
        buffer.add(np.ones(buffer.size, np.float32))
        assert marks(server)[:3] == [2, 2, 2]


@pytest.mark.parametrize("nbytes", [0, 4, 4096, CHUNK + 1, 513 * CHUNK])
def test_marks_lie_behind_the_words_and_inside_the_file(nbytes: int) -> None:
    chunks = -(-nbytes // CHUNK)
    assert trailer_offset(nbytes) % 4096 == 0
    assert mark_offset(nbytes, 0) == trailer_offset(nbytes) + 4096
    assert mark_offset(nbytes, chunks) <= file_bytes(nbytes) < mark_offset(nbytes, chunks) + 4096 + 8
