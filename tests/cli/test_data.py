"""`modum data` against files that are there already, so that it needs no source."""

import pytest
from typer.testing import CliRunner

from modum.cli.main import app
from modum.data import DataError, default_directory, fashion_mnist, shakespeare


def test_fashion_mnist_says_what_it_has_and_where() -> None:
    try:
        fashion_mnist()
    except DataError as error:
        pytest.skip(f"no source of Fashion-MNIST is within reach: {error}")
    result = CliRunner().invoke(app, ["data", "fashion-mnist", "--into", str(default_directory("fashion-mnist"))])
    assert result.exit_code == 0
    assert result.output == f"60000 training and 10000 test images in {default_directory('fashion-mnist')}\n"


def test_shakespeare_says_what_it_has_and_where() -> None:
    try:
        shakespeare()
    except DataError as error:
        pytest.skip(f"no source of Shakespeare is within reach: {error}")
    result = CliRunner().invoke(app, ["data", "shakespeare", "--into", str(default_directory("shakespeare"))])
    assert result.exit_code == 0
    assert result.output.startswith("1042002 characters to train on and 116216")
    assert result.output.endswith(f" to test with in {default_directory('shakespeare')}\n")
