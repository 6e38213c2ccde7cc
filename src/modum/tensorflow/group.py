"""A group of workers over TensorFlow's own collectives: everything synchronous that happens inside it."""

from __future__ import annotations

import os
import socket
import time
import zlib
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from modum.cluster import detect
from modum.errors import BufferNotFoundError, DeadlineError
from modum.groups import BoxGroup, Group
from modum.run.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modum.box import Box
    from modum.cluster import ClusterEnvironment

JOIN_SECONDS = 120.0
"""How long the first members of a group wait for the last ones, which may be long in importing."""
_POLL_SECONDS = 0.05
_GROUP_KEY = 1  # every group has a cluster of its own


class TensorFlowGroup(Group):
    """Members that reach each other by TensorFlow's collective operations, or a group of one.

    Made by `launched_group`. The collectives work inside a `tf.function` too, but not in one that is compiled by XLA
    (``jit_compile=True``), which knows no collectives between processes on CPUs.
    """

    def __init__(self, relay: BoxGroup | None = None) -> None:
        self._relay = relay
        self.rank = 0 if relay is None else relay.rank
        self.size = 1 if relay is None else relay.size

    def largest(self, values: Sequence[float]) -> tuple[float, ...]:
        return tuple(map(float, values)) if self._relay is None else self._relay.largest(values)

    def broadcast(self, value: int) -> int:
        return value if self._relay is None else self._relay.broadcast(value)

    def average(self, tensors: Sequence[tf.Tensor], purpose: str) -> list[tf.Tensor]:
        """The means over all members, by one all-reduce a dtype (collective).

        ``purpose`` tells apart what may be averaged at the same time: the members' tensors of one purpose, dtype and
        size meet.
        """
        if self.size == 1:
            return list(tensors)
        means: list[tf.Tensor] = list(tensors)
        for dtype in {tensor.dtype for tensor in tensors}:
            numbers = [number for number, tensor in enumerate(tensors) if tensor.dtype == dtype]
            flat = tf.concat([tf.reshape(tensors[number], [-1]) for number in numbers], axis=0)
            mean = self._reduce(flat, purpose) / tf.cast(self.size, dtype)
            parts = tf.split(mean, [tf.size(tensors[number]) for number in numbers])
            for number, part in zip(numbers, parts, strict=True):
                means[number] = tf.reshape(part, tensors[number].shape)
        return means

    def average_all(self, variables: Sequence[tf.Variable], purpose: str) -> None:
        """Give all variables the means over all members (collective)."""
        if self.size > 1 and variables:
            values = self.average([variable.read_value() for variable in variables], purpose)
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def align_all(self, variables: Sequence[tf.Variable], purpose: str) -> None:
        """Give all variables the leader's values, to the bit (collective)."""
        if self.size == 1 or not variables:
            return
        # 0 + x is x in any order of summation; the sign of a zero alone is lost
        for variable in variables:
            own = variable.read_value()
            sent = own if self.rank == 0 else tf.zeros_like(own)
            variable.assign(tf.reshape(self._reduce(tf.reshape(sent, [-1]), purpose), variable.shape))

    def gather(self, part: tf.Tensor, purpose: str) -> tf.Tensor:
        """All members' 1-D tensors, which are equally long, one behind the other (collective)."""
        if self.size == 1:
            return part
        whole = tf.raw_ops.CollectiveGatherV2(
            input=tf.reshape(part, [1, -1]),
            group_size=self.size,
            group_key=_GROUP_KEY,
            instance_key=_instance(f"gather {purpose}", part),
            ordering_token=[],
        )
        return tf.reshape(whole, [-1])

    def _reduce(self, flat: tf.Tensor, purpose: str) -> tf.Tensor:
        return tf.raw_ops.CollectiveReduceV2(
            input=flat,
            group_size=self.size,
            group_key=_GROUP_KEY,
            instance_key=_instance(f"reduce {purpose}", flat),
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
        )


def _instance(purpose: str, tensor: tf.Tensor) -> int:
    """A number that is the same in all members, in whatever order they trace their functions."""
    return zlib.crc32(f"{purpose} {tensor.dtype.name} {tensor.shape.num_elements()}".encode()) & 0x7FFFFFFF


_strategy: Any = None
"""What has started the collectives of this process; they end with it."""
_launched: tuple[Box, TensorFlowGroup] | None = None


def launched_group(box: Box) -> TensorFlowGroup:
    """The group of this worker as the job was launched (``modum run --group-size``); one for each box.

    TensorFlow prepares its collectives before its first operation or never: call this (or make
    `modum.keras.Averaging`, which does) before the model is made.

    Raises:
        RuntimeError: TensorFlow has computed something already.
        DeadlineError: a member of the group did not come.
    """
    global _launched, _strategy
    environment = detect()
    if environment.group_size == 1:
        return TensorFlowGroup()
    name = f"modum/tensorflow/{environment.group}"
    if _strategy is None:
        _strategy = _start(box, name, environment)
    if _launched is None or _launched[0] is not box:
        relay = BoxGroup(box, f"{name}/relay", rank=environment.group_rank, size=environment.group_size)
        _launched = (box, TensorFlowGroup(relay))
    return _launched[1]


def _start(box: Box, name: str, environment: ClusterEnvironment) -> Any:
    size, rank = environment.group_size, environment.group_rank
    host = _own_address(os.environ.get("MASTER_ADDR", "127.0.0.1"))
    box.create(f"{name}/{rank}", 1, "int64", meta={"address": f"{host}:{free_port(host)}"}).close()
    deadline = time.monotonic() + JOIN_SECONDS
    addresses = [_address(box, f"{name}/{member}", deadline) for member in range(size)]
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": addresses}), task_type="worker", task_id=rank, rpc_layer="grpc"
    )
    try:
        # what is wanted of the strategy is that it starts the servers of the collectives
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except RuntimeError as error:
        raise RuntimeError(
            f"TensorFlow has computed something before the group of {size} workers was made, and can prepare no "
            "collectives any more\nHINT: make modum.keras.Averaging(...), or call "
            "modum.tensorflow.launched_group(box), before the model; or launch with --group-size 1"
        ) from error


def _own_address(peer: str) -> str:
    """That by which the host of rank 0, and so the others, reach this one. Nothing is sent."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as route:
        route.connect((peer, 9))
        return str(route.getsockname()[0])


def _address(box: Box, name: str, deadline: float) -> str:
    while True:
        try:
            buffer = box.open(name)
        except BufferNotFoundError:
            if time.monotonic() > deadline:
                raise DeadlineError(
                    f"{name}: this member of the group did not come in {JOIN_SECONDS:g} s; has it died, or does it not "
                    "call modum.tensorflow.launched_group?"
                ) from None
            time.sleep(_POLL_SECONDS)
            continue
        address = str(buffer.meta["address"])
        buffer.close()
        return address
