# In the guest: two pairs of RDMA devices, and two network namespaces that stand for two hosts.
# The devices stay in the first namespace, where all processes may use them: in others this kernel's do not work.
set -e
ulimit -l unlimited
mkdir -p /run/netns
echo 20000 > /proc/sys/net/core/netdev_max_backlog # the reply to a read of 1 MiB is a burst of hundreds of frames
for pair in "a b" "c d"; do
  set -- $pair
  ip link add "v$1" mtu 9000 type veth peer name "v$2" mtu 9000
  for end in "$@"; do
    ip link set "v$end" up
    rdma link add "rx$end" type rxe netdev "v$end"
  done
done
while [ -n "$(ip -6 addr show tentative)" ]; do sleep 0.1; done
for host in A B; do
  ip netns add $host
  ip -n $host link set lo up
done
ip link add eth0 netns A type veth peer name eth0 netns B
ip -n A addr add 10.1.0.1/24 dev eth0
ip -n B addr add 10.1.0.2/24 dev eth0
ip -n A link set eth0 up
ip -n B link set eth0 up
