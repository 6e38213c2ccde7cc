"""Reflection: stand in for a server without its token, and send a client's own proof back to it.

Stopped by the role: a proof says whether a client or a server made it. And a client that has a token does not go on
with a server that says it needs none.
"""

import socket
import threading

from modum.box import Box
from modum.box.auth import new_nonce
from modum.box.protocol.frames import Op
from modum.box.protocol.messages import Challenge, Proof, Welcome, decode
from modum.box.sockets import receive_greeting, send_greeting
from modum.errors import AuthenticationError, ModumError
from victim import NotStoppedError, run


def attack(address: str, token: str | None) -> str:
    """Stand in for a server, in two ways; the real one is not needed."""
    del address
    with_a_token = token or "a token"
    said = []
    for token_required in (True, False):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=_pretend, args=(listener, token_required))
            thread.start()
            try:
                name = f"127.0.0.1:{listener.getsockname()[1]}"
                Box.connect(name, token=with_a_token, transport="tcp", timeout=5).close()
            except AuthenticationError as error:
                said.append(str(error))
            except ModumError as error:
                raise NotStoppedError(f"the client found out nothing: {error}") from error
            else:
                raise NotStoppedError("the client took its own proof for that of a server")
            finally:
                thread.join()
    return "; ".join(said)


def _pretend(listener: socket.socket, token_required: bool) -> None:
    """Be a server, as far as one can without the token."""
    connection, _ = listener.accept()
    with connection:
        try:
            receive_greeting(connection, Op.GREET)
            send_greeting(connection, Op.GREET, Challenge(new_nonce(), "0123456789abcdef", token_required))
            theirs = decode(receive_greeting(connection, Op.PROVE)[1], Proof)
            reflected = Welcome(theirs.proof, False, b"12345678", 0, "", "", [], "")
            send_greeting(connection, Op.PROVE, reflected)
        except (ModumError, OSError):
            pass  # the client has seen enough


if __name__ == "__main__":
    run(attack)
