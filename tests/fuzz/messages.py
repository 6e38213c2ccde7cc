"""Messages of requests: what is not refused is written and read again as the same.

The decoder is compiled, and libFuzzer does not see into it. So the first byte of an input chooses a valid message, and
each three bytes after it change one byte there, take it out, or put one in; after the first byte 255 comes the message.
"""

import math
from typing import Any

from modum.box.protocol import messages
from modum.box.protocol.messages import decode_request, encode
from modum.errors import ProtocolError

VALID = tuple(
    encode(message)
    for message in (
        messages.Join(["a", "b"], ["x:1", "y:2"], 1),
        messages.Create("w", [2, 3], "float32", 24, 24, b"\x80", 5),
        messages.Open("w"),
        messages.Doom("w"),
        messages.Doomed("w"),
        messages.Delete("w", 5),
        messages.ListBuffers(),
        messages.Version(3, 1, 0.5),
        messages.Publish(3),
        messages.CounterAdd("c", -5),
        messages.CounterWait("c", 5, 0.5),
        messages.LeaseAcquire("l", 1.5, 0.5),
        messages.LeaseRenew("l", 1),
        messages.ListLeases(""),
        messages.QueueOpen("q", 9),
        messages.QueueTake("q", 0.5),
        messages.QueueDone("q", 3),
        messages.QueueDone("q", 4, unfinished=True),
        messages.ValuePut("v", b"\x01", b""),
        messages.ValueGet("v", 1.0),
        messages.Link(1, 0),
        messages.Reach(1, 0),
        messages.Look(),
        messages.Bye(),
    )
)
RAW = 255


def take(data: bytes) -> None:
    """Read a request."""
    try:
        request: Any = decode_request(_message(data))
    except ProtocolError:
        return
    again: Any = decode_request(encode(request))
    values = [getattr(request, name) for name in request.__struct_fields__]
    if not any(isinstance(value, float) and math.isnan(value) for value in values):
        assert again == request


def _message(data: bytes) -> bytes:
    if data[:1] == bytes([RAW]):
        return data[1:]
    message = bytearray(VALID[data[0] % len(VALID)] if data else b"")
    for index in range(1, len(data) - 2, 3):
        act, place, byte = data[index : index + 3]
        place %= len(message) + 1
        match act % 3:
            case 0:
                message[place : place + 1] = [byte]
            case 1:
                message[place:place] = [byte]
            case 2:
                del message[place : place + 1 + byte % 4]
    return bytes(message)
