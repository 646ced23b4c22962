#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What `kappa plan` says of memory beside the peak that the same run has (largest resident set, the
# libraries and the mapped model with it), for several jobs on one model.
#   bench/plan_memory.sh MODEL [NAME...]     (KAPPA=build/kappa; NAME: only these of the table below)
# Exits 1 when one is off by more than 3 %.
set -uo pipefail
model=$(realpath "$1"); shift
kappa=$(realpath "${KAPPA:-build/kappa}")
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT; cd "$home"
words=(the of a light old river stone walks under seven never bright cold letter singing road)
for i in $(seq 4000); do printf '%s ' "${words[$((i * i % 97 % 16))]}"; [ $((i % 80)) = 0 ] && printf '\n\n'; done > text.txt
cat > job.yaml <<X
base_model: $model
datasets: [{path: text.txt}]
sequence_len: 256
micro_batch_size: 1
gradient_accumulation_steps: 1
max_steps: 2
learning_rate: 1e-5
val_set_size: 0
output_dir: out
selection: {metric: kappa, count: 20}
X
{ cat job.yaml; echo 'held_out: [{name: old, path: text.txt}]'; } > held-out.yaml
jobs=( # name | keys; the job NAME.yaml where there is one
  "units|"
  "long|sequence_len=1024"
  "rows|micro_batch_size=4"
  "f32|bf16=false"
  "all|selection.metric=all selection.count="
  "all-bf16|selection.metric=all selection.count= optimizer_dtype=bf16"
  "recompute|selection.metric=all selection.count= gradient_checkpointing=true"
  "kl|anchor.kind=kl anchor.weight=0.3"
  "held-out|"
)
bad=0
printf '%-12s %10s %10s %8s\n' job 'plan MiB' 'peak MiB' 'off %'
for j in "${jobs[@]}"; do
  name=${j%%|*} keys=${j#*|}
  [ $# = 0 ] || [[ " $* " = *" $name "* ]] || continue
  rm -rf out; file=job.yaml; [ -e "$name.yaml" ] && file=$name.yaml
  # shellcheck disable=SC2086 # several words
  plan=$("$kappa" plan "$file" $keys --quiet --json - | sed -n 's/^ *"peak_bytes": \([0-9.e+]*\),*/\1/p' | tail -1)
  # shellcheck disable=SC2086
  peak=$("$kappa" train "$file" $keys --quiet --json - 2> err | sed -n 's/^ *"peak_bytes": \([0-9.e+]*\),*/\1/p' | tail -1)
  [ -n "$plan" ] && [ -n "$peak" ] || { echo "$name: $(tail -1 err)"; bad=1; continue; }
  awk -v n="$name" -v p="$plan" -v q="$peak" 'BEGIN { off = 100 * (p / q - 1)
    printf "%-12s %10.0f %10.0f %+8.1f\n", n, p / 1048576, q / 1048576, off; exit off > 3 || off < -3 }' || bad=1
done
exit $bad
