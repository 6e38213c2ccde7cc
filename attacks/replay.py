"""Replay: record a client's handshake on its way, and play it to the server again.

Stopped by the nonces: a proof is over the 32 random bytes that the server has added to this handshake, and to no other.
"""

import secrets

from modum.box.auth import new_nonce, proof
from modum.box.protocol.frames import Op, Status
from modum.box.protocol.limits import SESSION_BYTES
from modum.box.protocol.messages import ALONE, CLIENT, Challenge, Failure, Greeting, Proof, Welcome, decode
from modum.box.sockets import receive_greeting, send_greeting
from victim import NotStoppedError, dial, run


def attack(address: str, token: str | None) -> str:
    """Record, and play again, at once and after the client has left."""
    session, nonce = secrets.token_bytes(SESSION_BYTES), new_nonce()
    with dial(address) as honest:
        send_greeting(honest, Op.GREET, Greeting(nonce))
        challenge = decode(receive_greeting(honest, Op.GREET)[1], Challenge)
        claim = (1, b"", 0, 5.0, b"")
        mine = proof(
            token, "client", challenge.server, session, 0, nonce, challenge.nonce, b"", b"", CLIENT, ALONE, *claim
        )
        recorded = Proof(session, 0, *claim, mine)
        send_greeting(honest, Op.PROVE, recorded)
        decode(receive_greeting(honest, Op.PROVE)[1], Welcome)
        said = _play(address, nonce, recorded)
    _play(address, nonce, recorded)
    return f"the recorded handshake was refused while its client was there, and afterwards: {said}"


def _play(address: str, nonce: bytes, recorded: Proof) -> str:
    """Say again what was recorded, and return what the server says to it."""
    with dial(address) as connection:
        send_greeting(connection, Op.GREET, Greeting(nonce))
        receive_greeting(connection, Op.GREET)
        send_greeting(connection, Op.PROVE, recorded)
        header, data = receive_greeting(connection, Op.PROVE)
        if header.status is Status.OK:
            raise NotStoppedError("the server took a handshake that it had seen before")
        return decode(data, Failure).message


if __name__ == "__main__":
    run(attack)
