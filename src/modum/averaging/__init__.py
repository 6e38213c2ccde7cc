"""Run an update rule in a worker: its schedule, its background transfers, and which groups take part."""

from typing import TYPE_CHECKING

from modum._lazy import attach

if TYPE_CHECKING:
    from modum.averaging.averaging import Averaging, AveragingStatistics
    from modum.averaging.background import BackgroundTransfer
    from modum.averaging.choice import Choice, OptimizerKind, Scale, choose
    from modum.averaging.guard import Reaction, mend
    from modum.averaging.membership import Membership
    from modum.averaging.scaling import LearningRateScale
    from modum.averaging.sharing import join
    from modum.averaging.worker import Worker

__all__ = [
    "Averaging",
    "AveragingStatistics",
    "BackgroundTransfer",
    "Choice",
    "LearningRateScale",
    "Membership",
    "OptimizerKind",
    "Reaction",
    "Scale",
    "Worker",
    "choose",
    "join",
    "mend",
]

# a simulation runs `Averaging` without a client of the box
__getattr__, __dir__ = attach(
    __name__,
    {
        "modum.averaging.averaging": ("Averaging", "AveragingStatistics"),
        "modum.averaging.background": ("BackgroundTransfer",),
        "modum.averaging.choice": ("Choice", "OptimizerKind", "Scale", "choose"),
        "modum.averaging.guard": ("Reaction", "mend"),
        "modum.averaging.membership": ("Membership",),
        "modum.averaging.scaling": ("LearningRateScale",),
        "modum.averaging.sharing": ("join",),
        "modum.averaging.worker": ("Worker",),
    },
)
