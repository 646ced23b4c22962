#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Ranks on several hosts: network namespaces of this machine, each with a host name of its own, joined by a
# bridge, which mpirun enters through a launch agent. The run has the bits of one without them, also with delay
# and loss on a link where the kernel has netem ("no netem" where not). One that loses a link has its ranks end
# in time, says which rank and host is missing, and is resumed to the same bits.
#   tests/dist/hosts.sh build/kappa [HOSTS, 3]
# Needs root and ip; says "skipped" without.
kappa=$1 n=${2:-3}
. "$(dirname "$0")/bed.sh"
clean() {
  i=0
  while [ $i -lt "$n" ]; do ip netns del kappa-h$i 2>/dev/null; i=$((i + 1)); done
  rm -rf "$dir"
}
command -v mpirun >/dev/null && ip netns add kappa-h0 2>/dev/null || { echo "skipped: no mpirun, or no network namespaces"; exit 0; }
trap clean EXIT
cat >>job.yaml <<'END'
max_steps: 300
save_steps: 5
shard: optimizer
dist_timeout_s: 6
END

ip -n kappa-h0 link add br0 type bridge || fail "no bridge"
ip -n kappa-h0 addr add 10.77.0.1/24 dev br0
ip -n kappa-h0 link set br0 up
ip -n kappa-h0 link set lo up
hosts=10.77.0.1:1 i=1
while [ $i -lt "$n" ]; do
  ip netns add kappa-h$i
  ip -n kappa-h0 link add v$i type veth peer name eth0 netns kappa-h$i
  ip -n kappa-h0 link set v$i master br0 up
  ip -n kappa-h$i addr add 10.77.0.$((i + 1))/24 dev eth0
  ip -n kappa-h$i link set eth0 up
  ip -n kappa-h$i link set lo up
  hosts=$hosts,10.77.0.$((i + 1)):1
  i=$((i + 1))
done
cat >agent <<'END'
#!/bin/sh
i=$((${1##*.} - 1))
shift
exec ip netns exec kappa-h$i unshare --uts sh -c "hostname h$i; $*"
END
chmod +x agent

over_hosts() { # DIR WORDS...: on $n hosts
  out=$1
  shift
  ip netns exec kappa-h0 timeout 120 mpirun --allow-run-as-root -q --mca plm_rsh_agent "$dir/agent" \
    --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
    --host $hosts -np "$n" "$kappa" train "$dir/job.yaml" output_dir="$dir/$out" "$@" 2>err
}
same() { cmp -s here/model.safetensors "$1/model.safetensors" || fail "$1: another model than that of one host"; }

mpirun --allow-run-as-root --oversubscribe -q -np "$n" "$kappa" train job.yaml output_dir=here 2>err || fail "one host"
over_hosts apart || fail "$n hosts"
same apart
said="$n hosts: the bits of one"
if ip netns exec kappa-h1 tc qdisc add dev eth0 root netem delay 3ms loss 1% 2>/dev/null; then
  over_hosts slow || fail "delay and loss"
  same slow
  said="$said; with 3 ms of delay and 1 % of loss too"
  ip netns exec kappa-h1 tc qdisc del dev eth0 root
else
  said="$said; no netem in this kernel"
fi

over_hosts cut &
launcher=$!
begun=$(date +%s)
until [ -s cut/train_log.jsonl ] && [ "$(wc -l <cut/train_log.jsonl)" -gt 12 ]; do
  sleep 0.05
  [ $(($(date +%s) - begun)) -lt 60 ] || fail "no step in a minute"
done
ranks=$(pgrep -f "^$kappa train $dir/job.yaml output_dir=$dir/cut")
ip -n kappa-h1 link set eth0 down
begun=$(date +%s)
# mpirun itself may wait for its daemon on the host that is gone: what must end is the job's ranks.
alive=$ranks
while [ -n "$alive" ]; do
  sleep 0.2
  [ $(($(date +%s) - begun)) -lt 45 ] || fail "ranks are alive 45 s after the cut"
  alive=$(for p in $ranks; do [ -d "/proc/$p" ] && echo "$p"; done)
done
took=$(($(date +%s) - begun))
ip -n kappa-h1 link set eth0 up
for p in $(ps -o pid= --ppid $launcher); do kill -9 "$p"; done 2>/dev/null
wait $launcher
[ -e cut/model.safetensors ] && fail "the run had ended before the cut"
grep -q "rank 1 on h1.*no sign of life" err || fail "who is missing is not said"
n_steps=$(grep -c '"loss"' cut/train_log.jsonl)
over_hosts cut --resume || fail "the resumed run"
same cut
echo "$said; a cut link: rank 1 named, all ranks ended within $took s, after $n_steps steps, resumed to the same bits"
