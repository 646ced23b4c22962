#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What happens to processes: a file beyond the limit, a benchmark that is killed, a directory that is
# in use, an error of readdir.   (KAPPA=build/kappa, FAULT=build/tests/libkappa_fault.so)
set -uo pipefail
kappa=$(realpath "${KAPPA:-build/kappa}"); fault=$(realpath "${FAULT:-build/tests/libkappa_fault.so}")
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT; cd "$home"
export OMP_NUM_THREADS=1 XDG_CACHE_HOME=$home/cache
bad=0
expect() { # TEXT CONDITION...
  local text=$1; shift
  if "$@"; then echo "ok   $text"; else echo "FAIL $text"; tail -3 err 2>/dev/null; bad=1; fi
}
wait_for() { for _ in $(seq 1200); do "$@" && return 0; sleep 0.05; done; return 1; }

cat > config.json <<'X'
{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":257,"hidden_size":32,
 "num_hidden_layers":2,"num_attention_heads":2,"intermediate_size":40,"hidden_act":"silu",
 "max_position_embeddings":128,"rms_norm_eps":1e-5,"tie_word_embeddings":true,"bos_token_id":256,
 "eos_token_id":256}
X
for i in 1 2 3 4 5 6; do printf 'abcabcabcabcabcabcabcabc'; done > new.txt
printf 'The quick brown fox jumps over the lazy dog, and the dog sleeps on and on.' > old.txt
cat > job.yaml <<'X'
base_model: base
datasets: [{path: new.txt}]
held_out: [{name: new, path: new.txt, role: new}, {name: old, path: old.txt}]
sequence_len: 32
micro_batch_size: 1
gradient_accumulation_steps: 1
max_steps: 2
learning_rate: 1e-2
val_set_size: 0
save_steps: 1
bf16: false
threads: 1
selection: {metric: kappa, count: 3}
X
"$kappa" init --config config.json --out base --tokenizer bytes --quiet > /dev/null || exit 1

# --- a file beyond the limit: no signal, nothing half-written ---
(ulimit -f 20; "$kappa" train job.yaml output_dir=full --quiet) > /dev/null 2> err
expect "a file beyond the limit is exit 3" [ $? = 3 ]
expect "and leaves no temporary file" [ -z "$(find full -name '*.tmp*')" ]

# --- a directory in use: the second run waits for the first, here a lock that ends when it is seen ---
mkdir used
(exec 8< used; flock 8; touch held; for _ in $(seq 1200); do grep -q waiting err && break; sleep 0.05; done) &
wait_for [ -e held ]
"$kappa" train job.yaml output_dir=used > /dev/null 2> err
expect "a directory in use is waited for" [ $? = 0 ]
expect "and that is said" grep -q "another process is writing here" err
wait

# --- the benchmark is killed: its run ends with it, the next one goes on and its log with it ---
forget=(forget job.yaml max_steps=100000 save_steps=5 logging_steps=1 output_dir=f selection.count= selection.params=2000
  --methods kappa_lowest --learning-rates 1e-3 --quiet)
"$kappa" "${forget[@]}" > /dev/null 2> err & parent=$!
run_of() { child=; read -r child _ < "/proc/$parent/task/$parent/children"; [ -n "$child" ] && # past some steps
  [ "$(find f -name train_log.jsonl -exec cat {} + 2> /dev/null | wc -l)" -gt 8 ]; }
expect "a run of the benchmark starts" wait_for run_of
kill -9 "$parent"; wait "$parent" 2> /dev/null
gone() { ! kill -0 "$child" 2> /dev/null || grep -q '^State:.Z' "/proc/$child/status" 2> /dev/null; }
expect "it ends with its parent" wait_for gone
expect "with a checkpoint" [ -n "$(find f -name 'checkpoint-*' -maxdepth 4 | head -1)" ]
log=$(find f -name log.txt | head -1); cp "$log" first; expect "and has said something" [ -s first ]
rm -rf f/*.tmp*; "$kappa" "${forget[@]}" > /dev/null 2> err & parent=$!
longer() { [ "$(stat -c %s "$log")" -gt "$(stat -c %s first)" ]; }
expect "the next one goes on" wait_for longer
kill "$parent"; wait "$parent" 2> /dev/null
expect "behind what was said" cmp -s -n "$(stat -c %s first)" first "$log"

# --- runs on a device of its own: looked at by a process that ends, its message is the benchmark's ---
standin=$(dirname "$kappa")/kappa_cudahost.so
if [ -e "$standin" ]; then
  plan=("${forget[@]}" max_steps=2 output_dir=g --device cuda --plan)
  KAPPA_CUDA=$standin "$kappa" ${plan[@]/--quiet/} > /dev/null 2> err
  expect "a benchmark on another device plans" grep -q "for the rest, 1 at once" err
  KAPPA_CUDA=$standin "$kappa" "${plan[@]}" datasets.0.path=nope.txt > /dev/null 2> err
  expect "what is wrong with its runs is bad input" [ $? = 2 ]
  expect "in their words" grep -q "^kappa: bad input: .*nope.txt: no such file" err
fi

# --- an error of readdir is no end of the directory ---
"$kappa" train job.yaml output_dir=tuned --quiet > /dev/null 2> err || exit 1
"$kappa" delta export base tuned good.safetensors --quiet > /dev/null || exit 1
LD_PRELOAD=$fault FAULT_KIND=d FAULT_AT=0 FAULT_COUNT=$home/count "$kappa" delta export base tuned d.safetensors --quiet > /dev/null
wrong=0 seen=0
for at in $(seq "$(cat count)"); do
  rm -f d.safetensors
  LD_PRELOAD=$fault FAULT_KIND=d FAULT_AT=$at "$kappa" delta export base tuned d.safetensors --quiet > /dev/null 2> err
  case $? in
    0) cmp -s d.safetensors good.safetensors || wrong=$((wrong + 1)) ;;
    2 | 3) seen=$((seen + 1)); [ ! -e d.safetensors ] && [ -s err ] || wrong=$((wrong + 1)) ;;
    *) wrong=$((wrong + 1)) ;;
  esac
done
expect "errors of readdir are errors ($seen of $(cat count))" [ "$wrong" = 0 ]
expect "most of them" [ "$seen" -gt 2 ]
exit $bad
