"""A discrete-event simulation of the update rules over thousands of workers, in virtual time."""

from modum.simulate.report import Report
from modum.simulate.run import simulate
from modum.simulate.scenario import Scenario
from modum.simulate.training import Learner, Moment, Trainer

__all__ = ["Learner", "Moment", "Report", "Scenario", "Trainer", "simulate"]
