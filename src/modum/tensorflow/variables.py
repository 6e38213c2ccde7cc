"""What TensorFlow is told by environment variables in workers that share a machine; imports no TensorFlow."""

__all__ = ["worker_variables"]


def worker_variables(threads: str) -> dict[str, str]:
    """Return the variables for a worker that computes on so many threads.

    TensorFlow has thread pools of its own beside OpenMP's, takes a GPU's whole memory if it is not told otherwise, and
    greets every worker with several lines.
    """
    return {
        "TF_CPP_MIN_LOG_LEVEL": "1",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": threads,
    }
