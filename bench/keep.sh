#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What keeps the old (docs/forgetting.md): every method of selection and anchoring on a model that
# knows something, three new tasks, at equal learning.
#   bash bench/keep.sh KAPPA MODEL DATA OUT [--tasks A,B] [--methods A,B,...] [--seeds N] [--steps N]
#                      [--rates R,METHOD=R/R,...] [--draws N] [--chars N] [--plan] [-- key=value ...]
# MODEL: a Hugging Face directory (SmolLM2-135M). DATA: text/wikitext2_raw_test.txt and
# text/tinystories_197k.txt (old skills), text/tweeteval_irony and text/tinyshakespeare.txt (new
# tasks; left out without them). --chars: of every held-out text.
# In pieces and resumable: a finished run is never repeated, an interrupted one goes on, more seeds
# or methods are added by the same command. OUT/TASK/report.html is written after each task; a task
# costs (methods + 3 draws) x rates x seeds runs: --plan says how long that is.
set -euo pipefail
usage() { sed -n '3,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 4 ] || usage
kappa=$(realpath "$1") model=$(realpath "$2") data=$(realpath "$3") out=$4
shift 4
tasks=sums,notation,irony seeds=3 steps=32 draws=4 chars=30000 plan=() words=()
# Each with its own rates: what trains few parameters learns at higher ones.
methods=full,full_self,full_kl,full_l2,kappa_lowest,kappa_self,kappa_mp,random,attention,gate_up,feed_forward,half,last_n,kappa_kl
rates=1e-4,3e-4,1e-3,full=1e-5/3e-5/1e-4/3e-4,full_kl=3e-5/1e-4/3e-4,full_self=3e-5/1e-4/3e-4,full_l2=3e-5/1e-4/3e-4,half=3e-5/1e-4/3e-4,feed_forward=3e-5/1e-4/3e-4
while [ $# -gt 0 ]; do
  case $1 in
    --tasks) tasks=$2; shift 2 ;;
    --methods) methods=$2; shift 2 ;;
    --seeds) seeds=$2; shift 2 ;;
    --steps) steps=$2; shift 2 ;;
    --rates) rates=$2; shift 2 ;;
    --draws) draws=$2; shift 2 ;;
    --chars) chars=$2; shift 2 ;;
    --plan) plan=(--plan); shift ;;
    --) shift; words=("$@"); break ;;
    *) usage ;;
  esac
done
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out" && cd "$out"
irony=$data/text/tweeteval_irony
if [ ! -s data/opposites.yaml ]; then # files that stay: a finished run is known by their times too
  python3 "$here/keep_tasks.py" data.tmp $([ -d "$irony" ] && echo "$irony")
  head -c "$chars" "$data/text/wikitext2_raw_test.txt" > data.tmp/wikitext.txt
  head -c "$chars" "$data/text/tinystories_197k.txt" > data.tmp/tinystories.txt
  shakespeare=$data/text/tinyshakespeare.txt
  if [ -s "$shakespeare" ]; then # a manner of writing, scored by the loss of its last pages
    head -c -100000 "$shakespeare" > data.tmp/shakespeare-train.txt
    tail -c "$chars" "$shakespeare" > data.tmp/shakespeare-test.txt
  fi
  mv data.tmp data
fi
# Only rates of methods that are compared.
own_rates() {
  local entry kept=()
  for entry in ${rates//,/ }; do
    case $entry in *=*) [[ ,$methods, == *,${entry%%=*},* ]] && kept+=("$entry") ;; *) kept+=("$entry") ;; esac
  done
  (IFS=,; echo "${kept[*]}")
}
for task in ${tasks//,/ }; do
  train=data/$task-train.jsonl type=input_output new=data/$task.yaml text=
  if [ "$task" = shakespeare ]; then
    train=data/shakespeare-train.txt type=completion new=
    text="- {name: Shakespeare, path: data/shakespeare-test.txt, role: new}"
  fi
  [ -s "$train" ] || { echo "keep.sh: no data for $task: left out" >&2; continue; }
  # What the base can do: a task at chance, or an old skill that it has not, shows nothing.
  [ -s "base-$task.json" ] || [ ${#plan[@]} -gt 0 ] ||
    "$kappa" eval "$model" --tasks "${new:+$new,}data/opposites.yaml" --limit 200 --json "base-$task.json" >&2
  cat > "$task.yaml" <<YAML
base_model: $model
datasets: [{path: $train, type: $type}]
held_out:
  - {name: WikiText, path: data/wikitext.txt}
  - {name: TinyStories, path: data/tinystories.txt}
  $text
forgetting: {new_tasks: [$new], tasks: [data/opposites.yaml], every: 1000000, limit: 200}
selection: {metric: kappa, fraction: 0.2}
sequence_len: 256
micro_batch_size: 4
gradient_accumulation_steps: 1
max_steps: $steps
warmup_ratio: 0.1
learning_rate: 1e-4
val_set_size: 0
save_steps: 50
save_total_limit: 1
report_to: none
output_dir: $task
YAML
  "$kappa" forget "$task.yaml" --methods "$methods" --learning-rates "$(own_rates)" --seeds "$seeds" \
    --draws "$draws" "${plan[@]}" "${words[@]}"
done
