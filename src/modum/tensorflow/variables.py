"""TensorFlow's environment variables for workers that share a machine; does not import TensorFlow."""

__all__ = ["worker_variables"]


def worker_variables(threads: str) -> dict[str, str]:
    """Return the environment variables for a worker that computes on `threads` threads.

    TensorFlow has thread pools of its own beside OpenMP's, takes a GPU's whole memory by default, and
    prints several lines at the start of every worker.
    """
    return {
        "TF_CPP_MIN_LOG_LEVEL": "1",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": threads,
    }
