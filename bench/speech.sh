#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A text model learns to hear; what each way of choosing what is trained learns (WER) and forgets (perplexity).
#   bench/speech.sh BASE OUT [N_TRAIN [N_TEST]]        KAPPA=build/kappa, EPOCHS=8, TEXT=FILE with old text (default: docs/*.md)
# Needs espeak-ng and python3. What is there already is not made again. The report: OUT/forget/report.html
set -euo pipefail
base=$(realpath "$1"); mkdir -p "$2"; out=$(realpath "$2"); n=${3:-3000}; m=${4:-100}
here=$(dirname "$(realpath "$0")"); kappa=$(realpath "${KAPPA:-$here/../build/kappa}")
[ -e "$out/data/new_sentences.yaml" ] || python3 "$here/speech_data.py" "$out/data" "$n" "$m"
text=${TEXT:-}; [ -n "$text" ] || { cat "$here"/../docs/*.md > "$out/old.txt"; text=$out/old.txt; }
cat > "$out/job.yaml" <<X
base_model: $base
datasets: [{path: data/train.jsonl, type: speech}]
held_out: [{name: old text, path: $(realpath "$text")}]
forgetting: {new_tasks: [data/new_voices.yaml, data/new_sentences.yaml], every: 1000000}
projector: {stack: 8, hidden: 1024, learning_rate: 1e-3}
selection: {metric: kappa, order: lowest, fraction: 0.1}
sequence_len: 256
micro_batch_size: 4
gradient_accumulation_steps: 1
num_epochs: ${EPOCHS:-8}
warmup_steps: 30
val_set_size: 0.02
output_dir: forget
X
exec "$kappa" forget "$out/job.yaml" --methods projector,kappa_lowest,kappa_mp,random,full,full_self --draws 1 \
  --learning-rates 5e-4,full=2e-4,full_self=2e-4
