"""What an endpoint shows of itself."""

from modum.box.client.endpoint import Endpoint


def test_the_token_is_not_shown() -> None:
    assert "sesame" not in repr(Endpoint("host:1", [("host", 1)], "sesame", b"x" * 16, 5.0))
