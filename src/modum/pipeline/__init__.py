"""A model cut into stages, one per worker: asynchronous model parallelism through the box. Imports no framework."""

from modum.pipeline.balance import Layer, balance
from modum.pipeline.channel import Message, Reader, Writer
from modum.pipeline.data import SharedData
from modum.pipeline.partitioning import Cuts, agree
from modum.pipeline.pipeline import Pipeline
from modum.pipeline.schedule import Mode
from modum.pipeline.stage import Stage, Weight
from modum.pipeline.statistics import PipelineStatistics, Step

__all__ = [
    "Cuts",
    "Layer",
    "Message",
    "Mode",
    "Pipeline",
    "PipelineStatistics",
    "Reader",
    "SharedData",
    "Stage",
    "Step",
    "Weight",
    "Writer",
    "agree",
    "balance",
]
