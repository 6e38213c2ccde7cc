"""Lines as glog writes them."""

import io
import logging
import re
from datetime import datetime

from modum.caffe.log import caffe_log, output_line

GLOG = re.compile(r"([IWE])(\d{4} \d\d:\d\d:\d\d\.\d{6}) +\d+ (\w+)\.cpp:\d+\] (.*)")


def test_lines_have_the_prefix_that_log_parsers_cut_off() -> None:
    stream = io.StringIO()
    with caffe_log(stream) as move:
        logging.getLogger("modum.caffe.solver").info("Iteration %d, lr = %g", 100, 0.01)
        logging.getLogger("modum.caffe.net").warning("two\nlines")
        move(1, 2)  # nothing but a terminal has a bar
    found = [GLOG.fullmatch(line) for line in stream.getvalue().splitlines()]
    assert [match and match.group(1, 3, 4) for match in found] == [
        ("I", "test_log", "Iteration 100, lr = 0.01"),
        ("W", "test_log", "two"),
        ("W", "test_log", "lines"),
    ]
    assert all(match and datetime.strptime(match[2], "%m%d %H:%M:%S.%f") for match in found)


def test_afterwards_the_logger_is_as_it_was() -> None:
    logger = logging.getLogger("modum.caffe")
    before = logger.level, logger.propagate, list(logger.handlers)
    stream = io.StringIO()
    with caffe_log(stream, quiet=True):
        logger.info("not this")
    assert stream.getvalue() == ""
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_an_output_with_a_weight_tells_what_it_counts() -> None:
    assert output_line("Train", 0, "loss", 0.5, 2) == "    Train net output #0: loss = 0.5 (* 2 = 1 loss)"
    assert output_line("Test", 1, "accuracy", 0.98, 0) == "    Test net output #1: accuracy = 0.98"
