"""Show a running job's progress, and what this machine can do."""

from modum.observe.progress import JobProgress, WorkerProgress, read_progress

__all__ = ["JobProgress", "WorkerProgress", "read_progress"]
