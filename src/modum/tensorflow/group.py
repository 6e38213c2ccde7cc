"""A group of workers over TensorFlow's own collectives: everything synchronous that happens inside it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from modum.cluster.ports import held_port
from modum.groups import BoxGroup, Group
from modum.rules import Hybrid
from modum.rules.hybrid import check_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modum.job import Job
    from modum.rules import UpdateRule

__all__ = ["TensorFlowGroup", "group_of", "launched_group"]

_GROUP_KEY = 1  # every group has a cluster of its own


class TensorFlowGroup(Group[Any]):
    """Members that reach each other by TensorFlow's collective operations, or a group of one.

    Made by `launched_group`. The collectives work inside a `tf.function` too, but not in one that is compiled by XLA
    (`jit_compile=True`), which has no collectives between processes on CPUs.

    Members agree at the first `average` of a purpose which arrays are missing in which member: in a `tf.function` that
    is part of the graph.

    Args:
        beside: the same members through the box, for agreements outside of graphs; None: this worker alone.
    """

    def __init__(self, beside: BoxGroup | None = None) -> None:
        self._beside = beside
        self.rank = 0 if beside is None else beside.rank
        self.size = 1 if beside is None else beside.size
        self._present: dict[tuple[str, int], tuple[bool, ...]] = {}

    def largest(self, values: Sequence[float]) -> tuple[float, ...]:
        return tuple(map(float, values)) if self._beside is None else self._beside.largest(values)

    def broadcast(self, value: int) -> int:
        return value if self._beside is None else self._beside.broadcast(value)

    def average(
        self, arrays: Sequence[Any], like: Sequence[Any] | None = None, *, purpose: str = "average"
    ) -> list[Any]:
        """Average arrays over the group, as `Group.average` does, with one all-reduce per dtype (collective).

        Args:
            arrays: one for each array of the purpose; None where this member has none. Sparse ones (`tf.IndexedSlices`)
                become dense.
            like: tensors of the same shapes; needed where an array may be None in some members.
            purpose: names the collective; members agree at its first call which arrays are present.

        Returns:
            The means; None where no member had an array.

        Raises:
            ValueError: an array is present that was missing in all members at the first call of this purpose.
        """
        if self.size == 1:
            return list(arrays)
        anywhere = self._anywhere([array is not None for array in arrays], purpose)
        means: list[Any] = [None] * len(arrays)
        dense = {
            place: self._dense(array, None if like is None else like[place])
            for place, array in enumerate(arrays)
            if anywhere[place]
        }
        for dtype in dict.fromkeys(tensor.dtype for tensor in dense.values()):
            some = {place: tensor for place, tensor in dense.items() if tensor.dtype == dtype}
            flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in some.values()], axis=0)
            mean = self._reduce(flat, purpose) / tf.cast(self.size, dtype)
            parts = tf.split(mean, [tf.size(tensor) for tensor in some.values()])
            for (place, tensor), part in zip(some.items(), parts, strict=True):
                means[place] = tf.reshape(part, tensor.shape)
        return means

    def align(self, arrays: Sequence[Any], *, purpose: str = "align") -> list[Any]:
        if self.size == 1:
            return list(arrays)
        aligned = []
        for array in arrays:
            # 0 + x is x in any order of summation; the sign of a zero alone is lost
            sent = tf.convert_to_tensor(array) if self.rank == 0 else tf.zeros_like(array)
            aligned.append(tf.reshape(self._reduce(tf.reshape(sent, [-1]), purpose), sent.shape))
        return aligned

    def gather(self, part: Any, lengths: Sequence[int], *, purpose: str = "gather") -> Any:
        if self.size == 1:
            return part
        longest = max(lengths)
        padded = tf.pad(part, [[0, longest - lengths[self.rank]]]) if min(lengths) < longest else part
        whole = tf.raw_ops.CollectiveGatherV2(
            input=tf.reshape(padded, [1, -1]),
            group_size=self.size,
            group_key=_GROUP_KEY,
            instance_key=_instance(f"gather {purpose}", padded),
            ordering_token=[],
        )
        if min(lengths) == longest:
            return tf.reshape(whole, [-1])
        return tf.concat([whole[member, :length] for member, length in enumerate(lengths)], axis=0)

    def _anywhere(self, present: Sequence[bool], purpose: str) -> tuple[bool, ...]:
        """Return which arrays some member has, as found at the first call of this purpose."""
        key = (purpose, len(present))
        if key not in self._present:
            assert self._beside is not None
            found = self._beside.largest([float(there) for there in present])
            self._present[key] = tuple(bool(share) for share in found)
        anywhere = self._present[key]
        late = [str(place) for place, (here, known) in enumerate(zip(present, anywhere, strict=True)) if here > known]
        if late:
            raise ValueError(
                f"{purpose}: arrays {', '.join(late)} were missing in all {self.size} members at the first step, and "
                "are there now\nHINT: TensorFlow's graphs fix which variables have gradients: train all of them from "
                "the first step, or launch with --group-size 1"
            )
        return anywhere

    @staticmethod
    def _dense(array: Any, like: Any) -> tf.Tensor:
        if array is not None:
            return tf.convert_to_tensor(array)
        if like is None:
            raise ValueError("an array is missing: give average(..., like=...), arrays of the same shapes")
        return tf.zeros_like(like)

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
    """Return a number that is the same in all members, however they order the tracing of their functions."""
    return zlib.crc32(f"{purpose} {tensor.dtype.name} {tensor.shape.num_elements()}".encode()) & 0x7FFFFFFF


_strategy: Any = None
"""Keeps this process's collectives alive; they end with it."""
_launched: tuple[Job, TensorFlowGroup] | None = None


def launched_group(job: Job) -> TensorFlowGroup:
    """Return this worker's group as the job was launched (`modum run --group-size`); one per job.

    TensorFlow can prepare its collectives only before its first operation: call this (or make `modum.keras.Averager`,
    which does) before the model is made.

    Args:
        job: from `modum.connect`.

    Returns:
        The group; the same object for the same job.

    Raises:
        RuntimeError: TensorFlow has already computed something.
        DeadlineError: a member of the group did not come.
    """
    global _launched, _strategy
    if job.group.size == 1:
        return TensorFlowGroup()
    if _strategy is None:
        _strategy = _start(job)
    if _launched is None or _launched[0] is not job:
        _launched = (job, TensorFlowGroup(BoxGroup.of(job, "tensorflow")))
    return _launched[1]


def group_of(job: Job, rule: UpdateRule) -> TensorFlowGroup:
    """Return the group that the rule names, else the one that the job was launched with.

    Args:
        job: from `modum.connect`.
        rule: a rule, which may bring its own group.

    Returns:
        The group.

    Raises:
        ValueError: the rule and the launch contradict each other.
    """
    check_groups(rule, job.group.size)
    if not isinstance(rule, Hybrid):
        return TensorFlowGroup()
    return launched_group(job) if rule.inside is None else rule.inside


def _start(job: Job) -> Any:
    place = job.rendezvous("tensorflow", members="group")
    with held_port(job.address) as port:  # until all have theirs: else two members of a host could get the same port
        addresses = place.gather(f"{job.address}:{port}")
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": addresses}), task_type="worker", task_id=job.group.rank, rpc_layer="grpc"
    )
    try:
        # the strategy is made only to start the servers of the collectives
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except RuntimeError as error:
        raise RuntimeError(
            f"TensorFlow has computed something before the group of {job.group.size} workers was made, and can prepare "
            "no collectives any more\nHINT: make modum.keras.Averager(job, ...), or call "
            "modum.tensorflow.launched_group(job), before the model; or launch with --group-size 1"
        ) from error
