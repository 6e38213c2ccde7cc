#!/bin/sh
# Run with: ./mpirun.sh train.py --epochs 3   (needs mpi4py for the MPI whose mpirun this is)
# mpirun starts the workers on the hosts of the file `hostfile` by ssh, and fills one host after the other.
# They tell each other over MPI where the memory servers are: one on each host, in the care of its first worker.
here=$(dirname "$0")
# Open MPI itself would also try Docker's bridge, which has the same address on every host.
exec mpirun --hostfile "${HOSTFILE:-$here/hostfile}" --mca btl_tcp_if_exclude lo,docker0 -x OMP_NUM_THREADS=1 \
    python "$@"
