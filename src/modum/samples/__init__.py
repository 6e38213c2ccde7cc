"""The samples of a data set, shared out to the workers of a job in blocks."""

from modum.samples.batches import Batches
from modum.samples.pools import SamplePools
from modum.samples.prefetch import Prefetch
from modum.samples.shared import SharedSamples

__all__ = ["Batches", "Prefetch", "SamplePools", "SharedSamples"]
