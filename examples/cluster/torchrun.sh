#!/bin/sh
# Run on each of two hosts, with its number and the first one's name: ./torchrun.sh 0 node1 train.py --epochs 3
# torchrun starts four workers here; they find the others, and the memory servers, through its store at node1:29500.
# The workers of a host are a group. A worker that dies ends the job, or starts it anew (--max-restarts).
number=$1 first=$2
shift 2
exec torchrun --nnodes 2 --node-rank "$number" --master-addr "$first" --master-port 29500 --nproc-per-node "${WORKERS:-4}" "$@"
