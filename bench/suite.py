"""All benchmarks, by the name that `--only` takes."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench import averaging, caffe, encryption, exchange, gloo, memory, mpi, overlap, pipeline, replicas, small, tcp
from bench.row import Effort, Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One subject.

    Attributes:
        measure: yields its rows.
        about: one line.
        needs: packages beyond Modum's own.
    """

    measure: Callable[[Effort], Iterator[Row]]
    about: str
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """What it needs and this Python does not have."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


BENCHMARKS: dict[str, Benchmark] = {
    "exchange": Benchmark(measure=exchange.measure, about="local exchange against a plain pass over memory"),
    "gloo": Benchmark(measure=gloo.measure, about="local exchange against a gloo all-reduce", needs=("torch",)),
    "mpi": Benchmark(measure=mpi.measure, about="local exchange against MPI get + accumulate", needs=("mpi4py",)),
    "tcp": Benchmark(measure=tcp.measure, about="exchange over TCP against plain sockets"),
    "encryption": Benchmark(measure=encryption.measure, about="exchange over TCP, encrypted against plain"),
    "replicas": Benchmark(measure=replicas.measure, about="operations over TCP, with two replicas against without"),
    "small": Benchmark(measure=small.measure, about="what a small operation costs"),
    "memory": Benchmark(measure=memory.measure, about="memory of a server and of a worker", needs=("torch",)),
    "overlap": Benchmark(
        measure=overlap.measure, about="a worker's step while an exchange runs under it", needs=("torch",)
    ),
    "pipeline": Benchmark(measure=pipeline.measure, about="asynchronous stages against one stage"),
    "averaging": Benchmark(
        measure=averaging.measure, about="what averaging adds to a step", needs=("tensorflow", "torch")
    ),
    "caffe": Benchmark(
        measure=caffe.measure, about="Caffe's nets against the same nets by hand", needs=("torch", "lmdb", "h5py")
    ),
}
