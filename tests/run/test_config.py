"""What the launcher's settings show of themselves."""

from modum.run import RunConfig


def test_the_token_is_not_shown() -> None:
    assert "sesame" not in repr(RunConfig(command=("train.py",), box=("host:1",), token="sesame"))
