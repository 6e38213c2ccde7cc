"""What a job shows of itself while it runs."""

from modum.observe.progress import JobProgress, WorkerProgress, read_progress

__all__ = ["JobProgress", "WorkerProgress", "read_progress"]
