#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills and failing calls, in turn, on a tiny model of its own:
#   kills     train, forget, delta apply, init, analyze: SIGKILL at the n-th call that changes files,
#             and after random times; then the same command again must end well, with the bits of a run
#             that nobody killed, and leave no temporary file
#   fails     eleven commands: the n-th call of each kind fails once; the exit code is never 0 with
#             another result than without, never a signal, and the message is not empty
#   memory    the same with malloc at sampled places
#   threads   train, eval and analyze with 1, 2 and 3 threads twice each: the same bits a thread count
#   tests/campaign.sh [--short] [--part kills|files|memory|threads] [--from N] [STEP]
#                     (KAPPA=build/kappa, FAULT=build/tests/libkappa_fault.so)
# --short takes three places of each command, the kinds of file calls in one row; STEP (1, of memory 37):
# every so many places otherwise, from the N-th (1), so that campaigns of several pieces add up. Prints
# counts; exits 1 when one fell.
set -uo pipefail
short=0 part=all from=1 step=
while [ $# -gt 0 ]; do
  case $1 in
    --short) short=1 ;;
    --part) part=$2; shift ;;
    --from) from=$2; shift ;;
    *) step=$1 ;;
  esac
  shift
done
kappa=$(realpath "${KAPPA:-build/kappa}"); fault=$(realpath "${FAULT:-build/tests/libkappa_fault.so}")
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT; cd "$home"
export OMP_NUM_THREADS=1 XDG_CACHE_HOME=$home/cache TMPDIR=$home/tmp; mkdir -p tmp
done_n=0; fell=0
say() { fell=$((fell + 1)); echo "FELL $*"; }

cat > config.json <<'X'
{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":257,"hidden_size":32,
 "num_hidden_layers":2,"num_attention_heads":2,"intermediate_size":40,"hidden_act":"silu",
 "max_position_embeddings":128,"rms_norm_eps":1e-5,"tie_word_embeddings":true,"bos_token_id":256,
 "eos_token_id":256}
X
printf 'The quick brown fox jumps over the lazy dog, and the dog sleeps on and on.' > old.txt
for i in 1 2 3 4 5 6; do printf 'abcabcabcabcabcabcabcabc'; done > new.txt
cat > job.yaml <<'X'
base_model: base
datasets: [{path: new.txt}]
held_out: [{name: new, path: new.txt, role: new}, {name: old, path: old.txt}]
sequence_len: 32
micro_batch_size: 1
gradient_accumulation_steps: 1
max_steps: 3
learning_rate: 1e-2
val_set_size: 0
save_steps: 1
logging_steps: 1
bf16: false
threads: 1
report_to: none
selection: {metric: kappa, count: 3}
X
"$kappa" init --config config.json --out base --tokenizer bytes --quiet >/dev/null || exit 1
"$kappa" train job.yaml output_dir=tuned --quiet >/dev/null || exit 1
"$kappa" delta export base tuned d.safetensors --quiet >/dev/null || exit 1
cp tuned/selection.json selection.json

# name | what it writes | command
commands=(
  "train|o|train job.yaml output_dir=o --resume"
  "forget|f|forget job.yaml max_steps=1 save_steps=1 output_dir=f selection.count= selection.params=2000 --methods kappa_lowest --learning-rates 1e-3"
  "delta-export|e.safetensors|delta export base tuned e.safetensors"
  "delta-apply|a|delta apply base d.safetensors a"
  "init|i|init --config config.json --out i --tokenizer bytes"
  "analyze|an.json|analyze base --no-cache --json an.json"
  "plan||plan job.yaml output_dir=p"
  "eval|ev.json|eval tuned --text old.txt --json ev.json"
  "generate||generate tuned --prompt abc --max-tokens 4"
  "tokenize||tokenize base old.txt --ids"
  "delta-show||delta show d.safetensors"
)
field() { cut -d'|' -f"$2" <<< "$1"; }
run() { timeout 120 "$kappa" $1 --quiet > stdout 2> stderr; }
faulty() { # KIND N CMD: under the preload
  LD_PRELOAD=$fault FAULT_KIND=$1 FAULT_AT=$2 timeout 120 "$kappa" $3 --quiet > stdout 2> stderr
}
count() { # KIND CMD
  LD_PRELOAD=$fault FAULT_KIND=$1 FAULT_AT=0 FAULT_COUNT=$home/count "$kappa" $2 --quiet > /dev/null 2>&1
  cat count
}
# The bits of what a command wrote, and of stdout, without clocks and what else is the machine's: the
# program's own size, free memory and disk, the measured rate.
result() {
  { sed -E 's/[0-9.]+ (s|ms|min)\b//g; s/[0-9.]+ tok\/s//g' stdout |
      grep -vE 'libraries|peak|free|rate of|tokens/s'
    if [ -d "$1" ]; then (cd "$1" && find . -name '*.safetensors' -o -name config.json -o -name selection.json | sort | xargs sha256sum)
    elif [ -e "$1" ]; then sed -E 's/"[a-z_]*(seconds|time_s|_s)": [0-9.e+-]+//' "$1"; fi; } | sha256sum
}
places() { # COUNT: the n to try
  local n=$1 by=${step:-${2:-1}}
  [ $short = 1 ] && by=$(((n + 2) / 3))
  [ "$by" -lt 1 ] && by=1
  seq "$from" "$by" "$n"
}
left() { find . -name '*.tmp' -o -name '*.tmp.*' -o -name 'kappa-*' | grep -v '^./cache' | head -3; }

# Commands that ask for a new directory: the killed one may have been through.
fresh() { case $1 in init | delta-apply) rm -rf "$2" ;; esac; }

kills() {
  for c in "${commands[@]:0:6}"; do
    name=$(field "$c" 1) out=$(field "$c" 2) line=$(field "$c" 3) k=0
    rm -rf "$out"; run "$line" || { say "$name: $(cat stderr)"; continue; }
    good=$(result "$out"); rm -rf "$out"
    n=$(count own "$line"); rm -rf "$out"
    for at in $(places "$n"); do
      rm -rf "$out"
      FAULT_KILL=1 faulty own "$at" "$line" 2>/dev/null; k=$((k + 1))
      fresh "$name" "$out"
      run "$line" || { say "kill $name at $at: $(tail -1 stderr)"; continue; }
      [ "$(result "$out")" = "$good" ] || say "kill $name at $at: other bits"
      [ -z "$(left)" ] || { say "kill $name at $at: left $(left)"; left | xargs rm -rf; }
    done
    for i in $(seq $((short ? 1 : 40))); do
      rm -rf "$out"
      "$kappa" $line --quiet > stdout 2> stderr & p=$!
      sleep "0.0$((RANDOM % 90 + 10))"; kill -9 $p 2>/dev/null; wait $p 2>/dev/null; k=$((k + 1))
      fresh "$name" "$out"
      run "$line" || { say "kill $name at a time: $(tail -1 stderr)"; continue; }
      [ "$(result "$out")" = "$good" ] || say "kill $name at a time: other bits"
      [ -z "$(left)" ] || { say "kill $name at a time: left $(left)"; left | xargs rm -rf; }
    done
    done_n=$((done_n + k)); echo "kills $name: $k"
  done
}

fails() { # KINDS STEP: every command, each kind
  for c in "${commands[@]}"; do
    name=$(field "$c" 1) out=$(field "$c" 2) line=$(field "$c" 3) k=0
    rm -rf "$out"; run "$line" || { say "$name: $(cat stderr)"; continue; }
    good=$(result "$out")
    for kind in $1; do
      rm -rf "$out"; n=$(count "$kind" "$line")
      for at in $(places "$n" "${2:-1}"); do
        rm -rf "$out"
        faulty "$kind" "$at" "$line"; rc=$?; k=$((k + 1))
        case $rc in
          0) [ "$(result "$out")" = "$good" ] || say "fail $name $kind $at: exit 0, another result" ;;
          2 | 3) [ -s stderr ] || say "fail $name $kind $at: exit $rc without a word" ;;
          *) say "fail $name $kind $at: exit $rc: $(tail -1 stderr)" ;;
        esac
      done
    done
    done_n=$((done_n + k)); echo "fails $name: $k"
  done
}

threads() {
  local counts="1 2 3"; [ $short = 1 ] && counts=2
  for line in "train job.yaml output_dir=t --resume" "analyze base --no-cache --json t" "eval tuned --text old.txt --json t"; do
    for n in $counts; do
      unset first
      for again in 1 2; do
        rm -rf t; run "$line --threads $n" || say "threads $n $line: $(tail -1 stderr)"
        now=$(result t); [ "${first:=$now}" = "$now" ] || say "threads $n $line: other bits"
        done_n=$((done_n + 1))
      done
    done
  done
}

wanted() { [ $part = all ] || [ $part = "$1" ]; }
if wanted kills; then kills; fi
if [ $short = 1 ]; then fails "orwndl m"; else
  if wanted files; then fails "o r w n d l"; fi
  if wanted memory; then fails m 37; fi
fi
if wanted threads; then threads; fi
echo "$done_n tried, $fell fell"
[ $fell = 0 ]
