"""Nets and solvers in text: whatever a file holds, it is read, or the error is Modum's and names the file."""

import warnings

from modum.caffe.errors import CaffeError
from modum.caffe.prototxt import read_net, read_solver, write_text
from tests.fuzz.errors import check_names


def take(data: bytes) -> None:
    """Read a net, and a solver, from the same text."""
    text = data.decode("utf-8", "replace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (read_net, read_solver):
            try:
                message = read("file", text=text)
            except CaffeError as error:
                check_names(error, "file")
                continue
            written = write_text(message)
            assert write_text(read("again", text=written)) == written
