"""One-sided access by RDMA: devices, the host's UCX, and both ends of a one-sided connection."""
