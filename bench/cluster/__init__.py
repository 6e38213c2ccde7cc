"""A cluster on one machine: hosts are network namespaces with shaped links, and a GPU's computing is emulated.

Linux only, and only for root: needs `unshare`, `ip` and `tc` (Debian: util-linux, iproute2).

Everything lives in namespaces of its own (network, processes, mounts, host names) below one process. When that
process ends, whatever the reason, the kernel kills all that runs in them and takes the network away: there is
nothing to clean up, and two clusters do not meet.
"""
