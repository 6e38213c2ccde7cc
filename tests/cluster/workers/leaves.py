"""Says that it is there, and when it is asked to leave goes on for longer than a launcher that kills at once gives."""

import time

import modum
from modum.waiting import poll

with modum.connect() as job:
    print("ready", job.rank, flush=True)
    poll(lambda: job.stopping, timeout=100, error=lambda: AssertionError("nobody asks"))
    end = time.monotonic() + 1
    poll(lambda: time.monotonic() > end, timeout=100, error=AssertionError)
    job.box.value(f"left {job.rank}").set(True)
    print("left", job.rank, flush=True)
