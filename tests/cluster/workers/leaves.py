"""Says that it is there, and when it is asked to leave goes on for longer than a launcher that kills at once gives."""

import sys
import time

import modum
from modum.waiting import poll

with modum.connect() as job:
    sys.stdout.write(f"ready {job.rank}\n")  # in one piece: all workers write into one pipe
    sys.stdout.flush()
    poll(lambda: job.stopping, timeout=100, error=lambda: AssertionError("nobody asks"))
    end = time.monotonic() + 1
    poll(lambda: time.monotonic() > end, timeout=100, error=AssertionError)
    job.box.value(f"left {job.rank}").set(True)
    sys.stdout.write(f"left {job.rank}\n")
    sys.stdout.flush()
