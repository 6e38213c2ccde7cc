"""Update rules: how local and shared parameters move together. NumPy only: no machine learning framework."""

from modum.update.agreement import join
from modum.update.averaging import Averaging, AveragingStatistics
from modum.update.downpour import Downpour
from modum.update.elastic import Elastic
from modum.update.feed import Feed
from modum.update.group import Alone, Group
from modum.update.hybrid import Hybrid
from modum.update.membership import Membership
from modum.update.participant import Participant
from modum.update.relay import Relay
from modum.update.rule import UpdateRule
from modum.update.samples import SharedSamples
from modum.update.scaling import LearningRateScale
from modum.update.vector import Vector

__all__ = [
    "Alone",
    "Averaging",
    "AveragingStatistics",
    "Downpour",
    "Elastic",
    "Feed",
    "Group",
    "Hybrid",
    "LearningRateScale",
    "Membership",
    "Participant",
    "Relay",
    "SharedSamples",
    "UpdateRule",
    "Vector",
    "join",
]
