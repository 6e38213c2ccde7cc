"""A worker's running of an update rule: its schedule, its transfers in the background, who else takes part."""

from modum.averaging.averaging import Averaging, AveragingStatistics
from modum.averaging.membership import Membership
from modum.averaging.scaling import LearningRateScale
from modum.averaging.sharing import join
from modum.averaging.worker import Worker

__all__ = ["Averaging", "AveragingStatistics", "LearningRateScale", "Membership", "Worker", "join"]
