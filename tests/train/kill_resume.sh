#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills a job with -9 at ten random moments, resumes each time, and compares with the uninterrupted
# run: weights, optimizer state, every log field but time_s and tok_per_s.
#   tests/train/kill_resume.sh JOB.yaml [key=value ...]       (KAPPA=build/kappa, KILLS=10, SEED=1)
set -euo pipefail
kappa=${KAPPA:-build/kappa}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
RANDOM=${SEED:-1}
begin=$(date +%s%N)
"$kappa" train "$@" output_dir="$dir/whole" --quiet > "$dir/whole.txt"
whole_ms=$((($(date +%s%N) - begin) / 1000000))
for i in $(seq "${KILLS:-10}"); do
  "$kappa" train "$@" output_dir="$dir/killed" --resume --quiet > "$dir/killed.txt" & pid=$!
  ms=$((RANDOM % (whole_ms / 2 + 1)))
  sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
  kill -9 $pid 2> /dev/null || true
  wait $pid 2> /dev/null || true
  echo "kill $i after $ms ms: $(ls "$dir/killed" 2> /dev/null | grep -c '^checkpoint-' || true) checkpoints," \
       "$(wc -l < "$dir/killed/train_log.jsonl" 2> /dev/null || echo 0) rows"
done
"$kappa" train "$@" output_dir="$dir/killed" --resume --quiet > "$dir/killed.txt"
strip() { sed -E 's/,"(time_s|tok_per_s)":[0-9.e+-]+//g' "$1"; }
cmp <(strip "$dir/whole/train_log.jsonl") <(strip "$dir/killed/train_log.jsonl")
last=$(ls "$dir/whole" | sed -n 's/^checkpoint-//p' | sort -n | tail -1)
cmp "$dir/whole/checkpoint-$last/trained.safetensors" "$dir/killed/checkpoint-$last/trained.safetensors"
for f in "$dir"/whole/*.safetensors "$dir/whole/selection.json"; do cmp "$f" "$dir/killed/$(basename "$f")"; done
cmp "$dir/whole.txt" "$dir/killed.txt"
echo "identical: weights, optimizer state at step $last, log, held-out table"
