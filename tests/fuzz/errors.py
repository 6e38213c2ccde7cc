"""What an error has to say."""


def check_names(error: Exception, file: str) -> None:
    """Check that an error names the file that it is about."""
    assert file in str(error), f"{error!r} does not name {file}"
