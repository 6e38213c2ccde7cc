"""What a process on the cluster is told, by its environment."""

import os

import msgspec

from bench.cluster.case import Case


def read_case() -> Case:
    """The case that is measured."""
    return msgspec.json.decode(os.environ["BENCH_CASE"], type=Case)


def rank() -> int:
    """This worker's number."""
    return int(os.environ["RANK"])
