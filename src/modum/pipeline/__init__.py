"""A model cut into stages, one a worker: asynchronous model parallelism through the box. Knows no framework."""

from modum.pipeline.balance import Layer, balance
from modum.pipeline.channel import Message, Reader, Writer
from modum.pipeline.cuts import Cuts, agree
from modum.pipeline.driver import Mode, Pipeline
from modum.pipeline.reports import PipelineStatistics, Step
from modum.pipeline.stage import Stage, Weight

__all__ = [
    "Cuts",
    "Layer",
    "Message",
    "Mode",
    "Pipeline",
    "PipelineStatistics",
    "Reader",
    "Stage",
    "Step",
    "Weight",
    "Writer",
    "agree",
    "balance",
]
