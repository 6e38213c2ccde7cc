#!/bin/sh
# What mpiexec takes for ssh: `remote.sh -x ADDRESS COMMAND...` runs the command on the emulated host.
shift
host="host$((${1##*.} - 1))"
shift
exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"
