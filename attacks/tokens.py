"""Wrong tokens: come without a token, with an empty one, with one that is nearly right, and with many guesses.

Stopped by the proof, an HMAC that is compared in constant time; a token that Modum makes has 256 bits.
"""

from modum.box import Box, new_token
from modum.errors import ModumError
from victim import NotStoppedError, dial, run, shake_hands

GUESSES = 200


def attack(address: str, token: str | None) -> str:
    """Try to come in."""
    if token is None:
        raise NotStoppedError("this server has no token, and lets in everybody who reaches it")
    near = [token[:-1], token + "A", token.swapcase(), f" {token}", token[:-1] + ("A" if token[-1] != "A" else "B")]
    for wrong in [None, "", *near, *(new_token() for _ in range(GUESSES))]:
        with dial(address) as connection:
            try:
                shake_hands(connection, wrong)
            except ModumError:
                continue
            raise NotStoppedError(f"the token {wrong!r} was taken for {token!r}")
    with Box.connect(address, token=token, transport="tcp") as box:
        box.counter("tokens").add(1)
    return f"{GUESSES + len(near) + 2} wrong tokens were refused, and the right one let in"


if __name__ == "__main__":
    run(attack)
