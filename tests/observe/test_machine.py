"""What is found out about the machine that the tests run on."""

import os
import platform
import resource
import socket

import numpy as np
import psutil
import pytest

from modum.box.transport import TRANSPORTS
from modum.observe import machine


@pytest.fixture(scope="module")
def report() -> machine.Report:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return machine.examine(port)


def test_the_report_agrees_with_the_system(report: machine.Report) -> None:
    assert report.python == platform.python_version()
    assert report.packages["numpy"] == np.__version__
    assert report.cores_online == os.cpu_count()
    assert report.cores_allowed == len(os.sched_getaffinity(0))
    assert report.memory_total_bytes == psutil.virtual_memory().total
    assert (report.descriptors_soft, report.descriptors_hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert report.transports.keys() == TRANSPORTS.keys()
    assert "127.0.0.1" in report.addresses


def test_this_machine_can_do_what_the_tests_of_the_box_need(report: machine.Report) -> None:
    assert report.shared_memory_trouble is None
    assert report.loopback_trouble is None
    assert report.addresses["127.0.0.1"] is None
    assert report.memory_bytes_per_second > 1e8
    assert report.memory_all_cores_bytes_per_second > 1e8
    assert report.loopback_bytes_per_second > 1e7


def test_a_port_that_is_taken_is_reported_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reason = machine.why_not_listen("127.0.0.1", listener.getsockname()[1])
    assert reason == "Address already in use: choose another with `modum server --port`"


def test_memory_bandwidth_is_measured_even_with_hardly_any_memory() -> None:
    assert machine.memory_bandwidth(threads=3, nbytes=0) > 0
