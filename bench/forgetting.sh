#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The benchmark of docs/forgetting.md: stories260K learns Shakespeare; does it still know its stories?
# bash bench/forgetting.sh KAPPA DATA OUT [PYTHON]: DATA holds weights/stories260K-hf and text/, PYTHON
# has torch, transformers and peft for the LoRA runs (left out without it).
set -euo pipefail
kappa=$(realpath "$1") data=$(realpath "$2") out=$3 python=${4:-}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out" && cd "$out"
text=$data/text
if [ ! -s old-test.txt ]; then # files that stay: a finished run is known by their times too
  head -c 1003854 "$text/tinyshakespeare.txt" > new.txt # the first nine tenths
  head -c 1033854 "$text/tinyshakespeare.txt" | tail -c 30000 > new-test.txt
  head -c 40000 "$text/tinystories_197k.txt" > old-test.txt # what the base was trained on
fi
cat > stories.yaml <<YAML
base_model: $data/weights/stories260K-hf
datasets: [{path: new.txt}]
held_out:
  - {name: Shakespeare, path: new-test.txt, role: new}
  - {name: TinyStories, path: old-test.txt, role: old}
sequence_len: 128
micro_batch_size: 16
gradient_accumulation_steps: 1
max_steps: 60
warmup_steps: 5
learning_rate: 4e-3
val_set_size: 0
save_steps: 0
bf16: false
report_to: none
selection: {metric: kappa, fraction: 0.25}
forgetting: {every: 20}
output_dir: stories
YAML
also=()
if [ -n "$python" ]; then
  [ -s lora.jsonl ] || "$python" "$here/peers/lora_forgetting.py" "$data/weights/stories260K-hf" new.txt lora
  also=(--also lora.jsonl)
fi
exec "$kappa" forget stories.yaml --seeds 3 --draws 4 --learning-rates 1e-3,4e-3,1.6e-2 \
  --methods kappa_lowest,kappa_highest,kappa_mp,random,last_n,kappa_kl,kappa_l2,kappa_soft,full,full_kl,full_l2 "${also[@]}"
