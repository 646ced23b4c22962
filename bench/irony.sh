#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The setting of the KappaTune paper: a model learns to tell irony in tweets (TweetEval's task
# "irony"); what of its English is left? Accuracy and word perplexity before and after.
#   bash bench/irony.sh KAPPA MODEL DATA OUT --seeds 3 --draws 4 \
#     --methods kappa_lowest,kappa_highest,kappa_mp,random,last_n,full
# MODEL: a Hugging Face directory. DATA: {train,test}_text.txt and {train,test}_labels.txt of
# datasets/irony in github.com/cardiffnlp/tweeteval, and wikitext.txt, any text of the old skill
# (WikiText-2's test split, for the paper's figure). What follows OUT goes to `kappa forget`: options,
# key=value words for the job.
set -euo pipefail
kappa=$(realpath "$1") model=$(realpath "$2") data=$(realpath "$3") out=$4
shift 4
for f in train_text train_labels test_text test_labels wikitext; do
  [ -s "$data/$f.txt" ] || { echo "irony.sh: $data/$f.txt is missing; see the head of this script" >&2; exit 2; }
done
mkdir -p "$out" && cd "$out"
quoted() { sed -e 's/\\/\\\\/g; s/"/\\"/g; s/\t/ /g; s/\r//g' "$1"; }
if [ ! -s wikitext.txt ]; then
  quoted "$data/train_text.txt" | paste -d '\t' "$data/train_labels.txt" - | awk -F '\t' '{
    print "{\"segments\": [{\"label\": false, \"text\": \"Tweet: " $2 "\\nIronic:\"}, " \
          "{\"label\": true, \"text\": \"" ($1 == 1 ? " yes" : " no") "\"}]}" }' > train.jsonl
  quoted "$data/test_text.txt" | paste -d '\t' "$data/test_labels.txt" - | awk -F '\t' '{
    print "{\"text\": \"" $2 "\", \"label\": " $1 "}" }' > test.jsonl
  cp "$data/wikitext.txt" wikitext.txt
fi
cat > irony.yaml <<YAML
task: irony
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "Tweet: {{text}}\nIronic:"
doc_to_target: label
doc_to_choice: ["no", "yes"]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
YAML
cat > job.yaml <<YAML
base_model: $model
datasets: [{path: train.jsonl, type: input_output}]
held_out: [{name: WikiText, path: wikitext.txt}]
forgetting: {new_tasks: [irony.yaml], every: 1000000}
selection: {metric: kappa, fraction: 0.05}
sequence_len: 256
micro_batch_size: 8
gradient_accumulation_steps: 1
num_epochs: 3
warmup_ratio: 0.03
learning_rate: 2e-5
val_set_size: 0
save_steps: 0
output_dir: irony
YAML
exec "$kappa" forget job.yaml "$@"
