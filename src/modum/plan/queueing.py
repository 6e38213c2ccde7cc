"""How long an exchange takes on average while all groups share the box: a closed queueing network.

Groups compute ("think") and exchange in turn; the box serves all exchanges at once, each at an equal share. Such a
network has a product form whatever the distributions of the times are (Baskett, Chandy, Muntz, Palacios, "Open,
closed, and mixed networks of queues with different classes of customers", JACM 1975).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

HALVINGS = 60


def mean_exchange(groups: int, think: float, flow: Callable[[int], float], nbytes: int) -> float:
    """Return the mean seconds of an exchange that its group waits for.

    Args:
        groups: number of groups.
        think: seconds between the end of an exchange and the start of the group's next one.
        flow: bytes per second that each of k exchanges gets, as a function of k.
        nbytes: bytes of an exchange.

    Returns:
        Seconds, at least `nbytes / flow(1)`.
    """
    if groups == 1 or think <= 0:
        return nbytes / flow(groups)
    exchanging = np.arange(1, groups + 1)
    rates = np.array([flow(k) for k in exchanging.tolist()]) * exchanging / nbytes  # exchanges per second
    left = groups - np.arange(groups + 1)
    log_factorials = np.concatenate(([0.0], np.cumsum(np.log(exchanging))))
    weights = np.concatenate(([0.0], -np.cumsum(np.log(rates)))) + left * math.log(think) - log_factorials[left]
    probabilities = np.exp(weights - weights.max())
    probabilities /= probabilities.sum()
    per_second = float(probabilities[1:] @ rates)
    return groups / per_second - think


def overlapped_exchange(
    groups: int, cycle: float, flow: Callable[[int], float], nbytes: int, extra: float
) -> float | None:
    """Return the mean seconds of an exchange that runs beside compute.

    Between two exchanges a group leaves the box alone for what remains of the cycle, which depends on the answer: it is
    found by bisection.

    Args:
        groups: number of groups.
        cycle: seconds from the start of an exchange to the start of the group's next one.
        flow: bytes per second that each of k exchanges gets, as a function of k.
        nbytes: bytes of an exchange.
        extra: seconds of an exchange in which it leaves the box alone.

    Returns:
        Seconds; None if exchanges last longer than the cycle: the box is saturated.
    """
    low, high = nbytes / flow(1), cycle - extra
    if high < low or (groups > 1 and nbytes / flow(groups) > high):
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if mean_exchange(groups, cycle - middle, flow, nbytes) > middle:
            low = middle
        else:
            high = middle
    return high + extra
