"""The frame parser, and a server that is sent rubbish."""

import secrets
import socket

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modum.box import Box, Server
from modum.box.auth import new_nonce
from modum.box.auth import proof as prove
from modum.box.compression import BY_CODE, COMPRESSIONS
from modum.box.protocol.frames import (
    CODE_SHIFT,
    FLAGS,
    PRESENT,
    STAGED,
    Header,
    Op,
    Status,
    check_request,
    parse_header,
)
from modum.box.protocol.limits import CHUNK, HEADER_BYTES, MAX_MESSAGE
from modum.box.protocol.messages import (
    CLIENT,
    Challenge,
    Create,
    Failure,
    Greeting,
    Link,
    Look,
    Proof,
    Welcome,
    decode,
    decode_request,
    encode,
)
from modum.box.sockets import parse_address, receive_exactly, receive_greeting, send_greeting
from modum.errors import ProtocolError

headers = st.builds(
    Header,
    op=st.sampled_from(Op),
    sequence=st.integers(0, 2**64 - 1),
    payload=st.integers(0, 2**32 - 1),
    flags=st.builds(lambda low, code: low | code << CODE_SHIFT, st.integers(0, FLAGS), st.sampled_from([0, *BY_CODE])),
    status=st.sampled_from(Status),
    segment=st.integers(0, 2**64 - 1),
    offset=st.integers(0, 2**64 - 1),
    source=st.integers(0, 2**64 - 1),
    source_offset=st.integers(0, 2**64 - 1),
    factor=st.floats(allow_nan=False),
    count=st.integers(0, 2**32 - 1),
)


@given(headers)
def test_a_header_is_read_as_it_was_written_or_refused(header: Header) -> None:
    try:
        assert parse_header(header.pack()) == header
    except ProtocolError:
        data = header.op < Op.CALL
        within = 0 < header.count <= CHUNK and header.offset % CHUNK + header.count <= CHUNK
        limit = CHUNK if data and header.status is Status.OK else MAX_MESSAGE
        assert (data and not within) or header.payload > limit


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_random_bytes_are_no_header(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="not Modum, or another version"):
        parse_header(data)


@given(headers, st.integers(0, HEADER_BYTES - 1), st.integers(1, 255))
def test_a_changed_header_is_refused_or_within_the_limits(header: Header, place: int, change: int) -> None:
    data = bytearray(header.pack())
    data[place] ^= change
    try:
        seen = parse_header(data)
        check_request(seen)
    except ProtocolError:
        return
    assert seen.payload <= (CHUNK if seen.op < Op.CALL else MAX_MESSAGE)


@given(st.binary(max_size=200))
def test_random_messages_are_requests_or_protocol_errors(data: bytes) -> None:
    try:
        request = decode_request(data)
    except ProtocolError:
        return
    assert decode_request(encode(request)) == request


def connection_to(server: Server) -> socket.socket:
    """A connection that has shaken hands, for a client that then misbehaves."""
    connection = socket.create_connection(parse_address(server.address), 5)
    session, nonce = secrets.token_bytes(16), new_nonce()
    send_greeting(connection, Op.GREET, Greeting(nonce))
    _, data = receive_greeting(connection, Op.GREET)
    challenge = decode(data, Challenge)
    common = (challenge.server, session, 0, nonce, challenge.nonce, b"", b"", CLIENT, challenge.place)
    mine = prove(None, "client", *common, 1, b"", 0, 5.0, b"")
    send_greeting(connection, Op.PROVE, Proof(session, 0, 1, b"", 0, 5.0, b"", mine))
    _, data = receive_greeting(connection, Op.PROVE)
    decode(data, Welcome)
    return connection


def answer(connection: socket.socket) -> tuple[Header, bytes]:
    """The next reply."""
    start = bytearray(HEADER_BYTES)
    assert receive_exactly(connection, memoryview(start))
    header = parse_header(start)
    payload = bytearray(header.payload)
    assert receive_exactly(connection, memoryview(payload))
    return header, bytes(payload)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server ends this connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


INT8, BFLOAT16 = (COMPRESSIONS[name].code << CODE_SHIFT for name in ("int8", "bfloat16"))
SENT = COMPRESSIONS["int8"].sent(10)


def compressed(op: Op = Op.EXCHANGE, payload: int = SENT, flags: int = INT8, count: int = 40) -> bytes:
    """A request of ten numbers, or another, whose numbers are all zeros."""
    return Header(op, 1, payload, flags, segment=1, factor=0.5, count=count).pack() + bytes(payload)


NO_DEVICE = encode(Link(0, 99))
OUT_OF_ORDER = {
    "another protocol": (b"GET / HTTP/1.1\r\nHost: modum\r\n\r\n" + b" " * 64, "not Modum"),
    "an unknown operation": (Header(Op.CALL, 1).pack().replace(bytes([Op.CALL]), bytes([99]), 1), "unknown code"),
    "too long a message": (Header(Op.CALL, 1, MAX_MESSAGE + 1).pack(), f"the limit is {MAX_MESSAGE}"),
    "a chunk too long": (Header(Op.READ, 1, segment=1, count=CHUNK + 1).pack(), "not within one chunk"),
    "over a chunk's edge": (Header(Op.READ, 1, segment=1, offset=CHUNK - 4, count=8).pack(), "not within one chunk"),
    "a wrong payload": (Header(Op.ADD, 1, 8, segment=1, count=4).pack() + b"12345678", "8 bytes of payload"),
    "beyond the segment": (Header(Op.READ, 1, segment=1, offset=40, count=4).pack(), "outside buffer 'b'"),
    "far beyond the segment": (Header(Op.READ, 1, segment=1, offset=2**63, count=4).pack(), "outside buffer 'b'"),
    "half an element": (Header(Op.READ, 1, segment=1, offset=2, count=4).pack(), "not whole elements"),
    "staged without a ring": (Header(Op.ADD, 1, flags=STAGED, segment=1, count=4).pack(), "was never linked"),
    "a staged read without a ring": (Header(Op.READ, 1, flags=STAGED, segment=1, count=4).pack(), "was never linked"),
    "a link to no device": (Header(Op.CALL, 1, len(NO_DEVICE)).pack() + NO_DEVICE, "none has number 99"),
    "a compression that there is not": (compressed(flags=15 << CODE_SHIFT), "unknown flags 0xf0"),
    "a compressed addition": (compressed(Op.ADD), "ADD has no compression"),
    "a compressed read": (compressed(Op.READ, 0), "READ has no compression"),
    "compressed numbers that are not": (compressed(payload=40), "EXCHANGE of 40 bytes has 40 bytes of payload"),
    "too few compressed numbers": (compressed(payload=SENT - 1), f"has {SENT - 1} bytes of payload"),
    "too many compressed numbers": (compressed(flags=BFLOAT16, payload=21), "has 21 bytes of payload"),
    "half a compressed number": (compressed(count=39), "has whole float32, not 39 bytes"),
    "compressed and staged": (compressed(flags=INT8 | STAGED, payload=0), "neither staged nor"),
    "compressed, for what was there": (compressed(flags=INT8 | PRESENT), "neither staged nor"),
    "a number skipped": (Header(Op.CALL, 2, 0).pack(), "request 2 came after request 0"),
    "a reply": (Header(Op.CALL, 1, status=Status.FAILED).pack(), "must have status 0"),
    "no message": (Header(Op.CALL, 1, 4).pack() + b"\xc1\xc1\xc1\xc1", "not a valid request"),
    "an unknown message": (Header(Op.CALL, 1, 12).pack() + encode({"type": "Nonsense"})[:12], "not a valid request"),
}


@pytest.mark.parametrize("name", OUT_OF_ORDER)
def test_a_request_out_of_order_is_answered_with_the_reason_and_closes_that_connection_alone(
    server: Server, name: str
) -> None:
    data, reason = OUT_OF_ORDER[name]
    with Box.connect(server.address, transport="tcp", timeout=5) as box, connection_to(server) as bad:
        buffer = box.create("b", 10)
        bad.sendall(data)
        header, payload = answer(bad)
        assert header.status is Status.REFUSED
        assert reason in decode(payload, Failure).message
        assert is_closed(bad)
        buffer.add(np.ones(10, np.float32))
        np.testing.assert_array_equal(buffer.read(), np.ones(10, np.float32))


@pytest.mark.parametrize("dtype", ["bfloat16", "int64"])
def test_compressed_numbers_for_another_dtype_are_refused_and_nothing_is_applied(server: Server, dtype: str) -> None:
    with Box.connect(server.address, transport="tcp", timeout=5) as box, connection_to(server) as bad:
        buffer = box.create("b", 80, dtype)
        octets = bytearray(np.random.default_rng(0).bytes(SENT))
        bad.sendall(compressed()[:HEADER_BYTES] + octets)
        header, payload = answer(bad)
        assert header.status is Status.REFUSED
        assert f"buffer of {dtype}" in decode(payload, Failure).message
        assert not buffer.read().any()


def test_a_refused_wish_leaves_the_connection_open(server: Server) -> None:
    with connection_to(server) as connection:
        for sequence, bad in enumerate(
            [
                Create("b", [10], "float16", 20, 20, b""),
                Create("b", [-1], "float32", 4, 4, b""),
                Create("b", [2**40, 2**40], "float32", 2**82 % 2**64, 4, b""),
                Create("b", [1] * 33, "float32", 4, 4, b""),
                Create("b" * 256, [1], "float32", 4, 4, b""),
            ],
            start=1,
        ):
            payload = encode(bad)
            connection.sendall(Header(Op.CALL, sequence, len(payload)).pack() + payload)
            header, data = answer(connection)
            assert (header.status, header.sequence) == (Status.FAILED, sequence)
            assert decode(data, Failure).kind == "ValueError"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_server_survives_random_and_mutated_bytes(server: Server, data: st.DataObject) -> None:
    request = encode(Look())
    frames = bytearray(
        Header(Op.CALL, 1, len(request)).pack()
        + request
        + Header(Op.ADD, 2, 40, segment=1, count=40).pack()
        + bytes(40)
        + Header(Op.READ, 3, segment=1, count=40).pack()
        + Header(Op.EXCHANGE, 4, SENT, INT8, segment=1, factor=0.5, count=40).pack()
        + bytes(SENT)
    )
    for _ in range(data.draw(st.integers(0, 6))):
        frames[data.draw(st.integers(0, len(frames) - 1))] = data.draw(st.integers(0, 255))
    shaken = data.draw(st.booleans())
    stream = bytes(frames) if data.draw(st.booleans()) else data.draw(st.binary(max_size=300))
    with connection_to(server) if shaken else socket.create_connection(parse_address(server.address), 5) as bad:
        try:
            bad.sendall(stream)
            bad.shutdown(socket.SHUT_WR)
            while bad.recv(1 << 16):
                pass
        except OSError:
            pass  # closed with our bytes unread
    with Box.connect(server.address, transport="tcp", timeout=5) as box:
        assert box.counter("alive").add(1) >= 0


def test_a_connection_that_never_shakes_hands_takes_nobody_elses_place(server: Server) -> None:
    strangers = [socket.create_connection(parse_address(server.address), 5) for _ in range(80)]
    for stranger in strangers:
        stranger.close()
    with Box.connect(server.address, timeout=10) as box:
        assert box.counter("c").add(1) == 0
