"""What `modum simulate` says of a case before it is measured."""

from __future__ import annotations

from dataclasses import dataclass

from bench.cluster.case import Case
from modum.plan import Cluster
from modum.simulate import Scenario, simulate

PAYLOAD = 1448 / 1514
"""Bytes of a full TCP segment among those of its Ethernet frame, as which the shaper counts them."""
LOOPBACK = 2e9
"""Bytes per second between the workers of a host, whose processes share two cores."""
COPY = 2e9
"""At which a worker copies its weights while others compute on the same cores."""
LATENCY = 200e-6
"""Of a message through two Python processes."""
STEPS = 400
"""Of each worker: so many that beginning and end, and where in its interval a worker stands, hardly count."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What of a measurement is predicted."""

    efficiency: float
    exchange_seconds: float


def predict(case: Case) -> Prediction | None:
    """Simulate a case; None for what is no simulated rule (the all-reduce of MPICH is not the simulated ring)."""
    if case.system not in ("box", "ddp") or case.rate is None or case.step_seconds == 0:
        return None
    synchronous = case.system == "ddp"
    link = case.rate * PAYLOAD
    cluster = Cluster(
        workers=case.workers,
        group_size=case.group_size,
        servers=case.servers,
        colocated=case.colocated and not synchronous,
        link=link if case.group_size == 1 else link * case.worker_hosts / case.workers,
        server_link=link,
        server_memory=4e9,
        bus=LOOPBACK,
        copy=COPY,
        latency=LATENCY,
    )
    report = simulate(
        Scenario(
            cluster=cluster,
            nbytes=case.nbytes,
            step_seconds=case.step_seconds,
            steps=STEPS,
            rule="allreduce" if synchronous else "elastic",
            interval=case.interval,
            overlap=case.overlap,
            stragglers=case.slow,
            slowdown=case.slowdown,
        )
    )
    # the beginning and the end of a job are not measured
    middles, rates = report.throughput(STEPS)
    steady = rates[(middles > 0.2 * report.seconds) & (middles < 0.8 * report.seconds)].mean()
    return Prediction(float(steady) / case.ideal, report.exchange_seconds.mean)
