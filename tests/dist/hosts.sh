#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Ranks on several hosts: network namespaces of this machine, joined by a bridge, which mpirun enters through
# a launch agent. The run has the bits of one without them, also with delay and loss on the links (where the
# kernel has netem); one whose link is cut ends in time, names who is missing, and is resumed to the same bits.
#   tests/dist/hosts.sh build/kappa [HOSTS, 3]
# Needs root and ip; says "skipped" without.
kappa=$1 n=${2:-3}
command -v mpirun >/dev/null && ip netns add kappa-h0 2>/dev/null || { echo "skipped: no mpirun, or no network namespaces"; exit 0; }
dir=$(mktemp -d)
clean() {
  i=0
  while [ $i -lt "$n" ]; do ip netns del kappa-h$i 2>/dev/null; i=$((i + 1)); done
  rm -rf "$dir"
}
trap clean EXIT
cd "$dir" || exit 1
fail() { echo "hosts: $*"; tail -5 err; exit 1; }

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
host=$1
shift
exec ip netns exec kappa-h$((${host##*.} - 1)) sh -c "$*"
END
chmod +x agent

echo '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 32,
"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
"max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false,
"torch_dtype": "float32"}' >config.json
"$kappa" init --config config.json --out base --seed 5 2>err || fail "init"
awk 'BEGIN { for (r = 0; r < 40; r++) { printf "{\"input_ids\": ["; for (t = 0; t < 8 + r % 16; t++)
  printf "%s%d", t ? ", " : "", (r + t * t) % 64; print "]}" } }' >rows.jsonl
cat >job.yaml <<'END'
base_model: base
datasets: [{path: rows.jsonl, type: tokenized}]
sequence_len: 32
micro_batch_size: 2
gradient_accumulation_steps: 3
max_steps: 30
save_steps: 5
logging_steps: 1
bf16: false
threads: 1
selection: {metric: all}
shard: optimizer
dist_timeout_s: 6
END
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
begun=$(date +%s)
over_hosts cut max_steps=100000 &
launcher=$!
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
mv cut/train_log.jsonl cut-log
n_rows=$(grep -c '"loss"' cut-log)
rm -r cut
over_hosts cut || fail "after the cut"
same cut
echo "$said; a cut link: all ranks ended within $took s, after $n_rows steps"
