"""Start and watch: memory servers and workers on this machine, from their start to the exit status."""

from modum.run.config import RunConfig
from modum.run.supervisor import launch

__all__ = ["RunConfig", "launch"]
