"""The arithmetic of `modum plan`: steady state, identical groups, every step as long as the mean one."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from modum.averaging.schedule import hiding_steps
from modum.plan.cluster import SERVER_PASSES, Cluster, Place
from modum.plan.queueing import mean_exchange, overlapped_exchange
from modum.rules import RULES, Elastic, check_interval, rule_from_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modum.rules import Auto, Leg, UpdateRule

ALL_REDUCE: Final = "allreduce"
"""The baseline for asynchronous rules: every step waits for the average of all workers' gradients."""
BACKWARD = 2 / 3
"""The fraction of a step that is its backward pass, under which an all-reduce can hide."""
BUCKETS = (1 << 20, 25 << 20)
"""Bytes of the first bucket and of each later one of PyTorch's DistributedDataParallel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What to expect of a job. Times are in seconds, sizes in bytes, speeds in bytes per second."""

    cluster: Cluster
    nbytes: int
    step_seconds: float
    rule: str
    step_bytes: float
    """What all workers move to and from the box in one step, if each exchanges at every step; in and out."""
    traffic: float
    """`step_bytes / step_seconds`: what a single server would have to carry at interval 1."""
    hiding_interval: int
    """The fewest steps that hide an exchange on average, with all groups exchanging."""
    interval: int
    """The planned interval: the given one, or the hiding one."""
    exchange_seconds: float
    """Seconds of an exchange at that interval."""
    places: tuple[Place, ...]
    """The fullest first, with the demand of groups that never wait."""
    worker_memory: int
    """Bytes that a worker needs beyond its model and optimizer (group members: each)."""
    server_memory: int
    """Bytes of the pool that the fullest memory server needs."""
    efficiency: float
    """Samples per second, relative to as many workers that never exchange; 0 to 1."""

    @property
    def bottleneck(self) -> Place:
        """The place that saturates first."""
        return self.places[0]


def estimate(
    cluster: Cluster,
    nbytes: int,
    step_seconds: float,
    *,
    rule: str = Elastic.name,
    interval: int | Auto = "auto",
    overlap: bool = True,
) -> Estimate:
    """Estimate a job in its steady state.

    With `overlap` an exchange costs only its boundary (snapshot and correction); without it, all of it. A synchronous
    all-reduce over all workers waits for its ring, except for what hides under the backward pass.

    Args:
        cluster: the machines.
        nbytes: bytes of the model's weights.
        step_seconds: mean time of a local step.
        rule: a name in `modum.rules.RULES`, with optional settings ("downpour:staleness=divide"), or "allreduce".
        interval: steps between exchanges.
        overlap: whether exchanges run beside compute.

    Returns:
        The estimate.

    Raises:
        ValueError: an argument is out of its range, or the rule is unknown.
    """
    if nbytes < 1:
        raise ValueError(f"the model's size ({nbytes} bytes) must be at least 1 byte")
    if not step_seconds > 0:
        raise ValueError(f"the step time ({step_seconds} s) must be greater than 0")
    if rule != ALL_REDUCE and rule.partition(":")[0] not in RULES:
        raise ValueError(f"rule ({rule}) must be one of {', '.join([*RULES, ALL_REDUCE])}")
    check_interval(interval)
    if rule == ALL_REDUCE:
        return _all_reduce(cluster, nbytes, step_seconds, overlap, 2.0 * nbytes * cluster.workers)
    made = rule_from_text(rule, interval=interval, overlap=overlap)
    interval, overlap, legs = made.interval, made.overlap, made.traffic(nbytes)
    moved = sum(map(sum, legs))
    step_bytes = float(moved * cluster.workers)
    step = step_seconds + cluster.group_average(nbytes)
    boundary = cluster.boundary(nbytes)
    together = sum(max(leg) / cluster.flow(nbytes, cluster.groups) + cluster.tail(nbytes) for leg in legs)
    # one that hides when all groups exchange at once always hides; search for the fewest steps that do on average
    hiding = (
        bisect_left(
            range(1, hiding_steps(together, step) + 1),
            True,
            key=lambda steps: _hides(cluster, nbytes, legs, steps * step, boundary),
        )
        + 1
    )
    planned = hiding if interval == "auto" else interval
    compute = planned * step
    if overlap:
        # an exchange that does not hide delays the next one until it does, while compute goes on
        steps = max(planned, hiding)
        cycle = steps * step + boundary
        exchange = _overlapped(cluster, nbytes, legs, cycle) or together
    else:
        flow, extra = partial(cluster.flow, nbytes), cluster.tail(nbytes)
        alone = [max(leg) / flow(1) for leg in legs]
        exchange = 0.0
        for number, leg in enumerate(legs):
            # each leg uses another direction of the link, and waits only in its own queue
            others = compute + boundary + sum(alone[:number] + alone[number + 1 :]) + len(legs) * extra
            exchange += mean_exchange(cluster.groups, others, flow, max(leg)) + extra
        steps, cycle = planned, compute + exchange + boundary
    return Estimate(
        cluster=cluster,
        nbytes=nbytes,
        step_seconds=step_seconds,
        rule=rule,
        step_bytes=step_bytes,
        traffic=step_bytes / step_seconds,
        hiding_interval=hiding,
        interval=planned,
        exchange_seconds=exchange,
        places=_places(cluster, nbytes, legs, 1 / compute, step),
        worker_memory=_worker_memory(cluster, nbytes, made),
        server_memory=math.ceil(nbytes * cluster.largest_part(nbytes)),
        efficiency=steps * step_seconds / cycle,
    )


def all_reduce_step(cluster: Cluster, nbytes: int, step_seconds: float, *, overlap: bool = True) -> float:
    """Return the seconds of a step of `step_seconds` whose gradients are averaged over all workers.

    With `overlap`, buckets are reduced one after another while the backward pass goes on: bucket i is ready when its
    share of the backward pass is done, as in PyTorch's DistributedDataParallel.
    """
    whole = cluster.ring(nbytes)
    if not overlap:
        return step_seconds + whole
    start, per_byte = (1 - BACKWARD) * step_seconds, BACKWARD * step_seconds / nbytes
    finished, done, size = start, 0, BUCKETS[0]
    while done < nbytes:
        bucket = min(size, nbytes - done)
        done, size = done + bucket, BUCKETS[1]
        finished = max(finished, start + done * per_byte) + cluster.ring(bucket)
    return finished


def _overlapped(cluster: Cluster, nbytes: int, legs: Sequence[Leg], cycle: float) -> float | None:
    """Return the mean seconds of an exchange beside compute, or None if the box is saturated."""
    flow, extra = partial(cluster.flow, nbytes), cluster.tail(nbytes)
    exchange = 0.0
    for leg in legs:
        seconds = overlapped_exchange(cluster.groups, cycle, flow, max(leg), extra)
        if seconds is None:
            return None
        exchange += seconds
    return exchange


def _hides(cluster: Cluster, nbytes: int, legs: Sequence[Leg], compute: float, boundary: float) -> bool:
    exchange = _overlapped(cluster, nbytes, legs, compute + boundary)
    return exchange is not None and exchange <= compute


def _places(cluster: Cluster, nbytes: int, legs: Sequence[Leg], per_second: float, step: float) -> tuple[Place, ...]:
    """Return where bytes go when every group goes through the legs `per_second` times a second."""
    out, back = map(sum, zip(*legs, strict=True))
    moved = out + back
    fuller = 2 * max(out, back) / moved  # a link that does one thing is full when one of its directions is
    part, members, groups = cluster.largest_part(nbytes), cluster.group_size, cluster.groups
    worker = moved / members * per_second
    server = moved * part * groups * per_second
    places = [Place(name="server memory", demand=server / 2 * SERVER_PASSES, capacity=cluster.server_memory)]
    if cluster.colocated:
        shared = worker * (1 - part) + max(0.0, server - worker * part)
        places.append(Place(name="link of a worker with a server", demand=shared, capacity=2 * cluster.link))
    else:
        places.append(Place(name="worker link", demand=worker * fuller, capacity=2 * cluster.link))
        places.append(Place(name="server link", demand=server * fuller, capacity=2 * cluster.server_link_speed))
    if members > 1:
        ring = 4 * (members - 1) / members * nbytes / step
        spread = 2 * (members - 1) / members * nbytes * per_second
        places.append(Place(name="bus of a group", demand=ring + spread, capacity=2 * cluster.bus))
    return tuple(sorted(places, key=lambda place: -place.load))


def _worker_memory(cluster: Cluster, nbytes: int, rule: UpdateRule) -> int:
    """Return the bytes of a member's snapshot, of what the rule remembers and, in a group, of a flat scratch vector."""
    members = cluster.group_size
    own = math.ceil(nbytes / members)
    return own + rule.memory(own) + (nbytes if members > 1 else 0)


def _all_reduce(cluster: Cluster, nbytes: int, step_seconds: float, overlap: bool, step_bytes: float) -> Estimate:
    step = all_reduce_step(cluster, nbytes, step_seconds, overlap=overlap)
    ring = cluster.ring(nbytes)
    sent = 4 * (cluster.workers - 1) / cluster.workers * nbytes
    return Estimate(
        cluster=cluster,
        nbytes=nbytes,
        step_seconds=step_seconds,
        rule=ALL_REDUCE,
        step_bytes=step_bytes,
        traffic=step_bytes / step_seconds,
        hiding_interval=1,
        interval=1,
        exchange_seconds=ring,
        places=(Place(name="worker link", demand=sent / step, capacity=2 * cluster.link),),
        worker_memory=nbytes,
        server_memory=0,
        efficiency=step_seconds / step,
    )
