#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Do two builds train to the same bits, and plan the same memory?
#   tests/model/same_bits.sh OLD_KAPPA NEW_KAPPA [JOBS]     (JOBS: a pattern, as "qwen3-kl|quick")
# Runs short jobs with both and compares the final weights byte for byte: the quickstart's two jobs;
# everything trained, six steps, in f32 and bf16, for each family of before; a selected job with
# recomputed blocks, interrupted and resumed; one anchored to its base by KL; heads. Of each job
# also the memory lines of `kappa plan`, differences of which are shown. Selections are by count: by
# fraction the last unit is cut to the budget, which builds before that did not do.
set -euo pipefail
old=$(realpath "$1") new=$(realpath "$2") which=${3:-.}
cd "$(dirname "$0")/../.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
common='"vocab_size":257,"hidden_size":48,"num_hidden_layers":3,"num_attention_heads":4,
 "num_key_value_heads":2,"head_dim":12,"intermediate_size":80,"max_position_embeddings":128,
 "initializer_range":0.1,"rms_norm_eps":1e-5,"bos_token_id":256,"eos_token_id":256,
 "torch_dtype":"float32"'
config() { echo "{\"architectures\":[\"$1ForCausalLM\"],\"model_type\":\"x\",$common,$2}" > "$dir/$3.json"; }
config Llama '"attention_bias":true,"mlp_bias":true,"tie_word_embeddings":false' llama
config Llama '"tie_word_embeddings":true' tied
config Mistral '"sliding_window":9' mistral
config Qwen2 '"use_sliding_window":true,"sliding_window":7,"max_window_layers":1' qwen2
config Qwen3 '"tie_word_embeddings":false' qwen3
cp configs/quickstart/config.json "$dir/quick.json"
for config in "$dir"/*.json; do
  "$old" init --quiet --config "$config" --out "${config%.json}" --tokenizer bytes
done
failed=0

# job NAME STEPS [resume] KEY=VALUE...: with both, from the same fresh model. resume: in two runs.
job() {
  local name=$1 steps=$2 how=full
  shift 2
  [[ $name =~ $which ]] || return 0
  if [ "$1" = resume ]; then how=resume; shift; fi
  local rest=(max_steps="$steps" datasets='[{path: /usr/share/common-licenses/GPL-2, type: completion}]'
    held_out='[]' val_set_size=0 sequence_len=64 micro_batch_size=4 gradient_accumulation_steps=2
    learning_rate=1e-3 warmup_steps=1 "$@")
  for who in old new; do
    local kappa=${!who} out=$dir/$who/$name
    local words=("$dir/job.yaml" output_dir="$out" "${rest[@]}")
    "$kappa" plan "${words[@]}" --quiet > "$out.plan" || { echo "$name: $who cannot plan"; exit 1; }
    if [ $how = resume ]; then
      "$kappa" train "${words[@]}" save_steps=$((steps / 2)) --quiet > /dev/null
      rm -rf "$out/model.safetensors" "$out/checkpoint-$steps"
      "$kappa" train "${words[@]}" save_steps=$((steps / 2)) --resume --quiet > /dev/null
    else
      "$kappa" train "${words[@]}" save_steps=0 --quiet > /dev/null
    fi
  done
  local said=same
  cmp -s "$dir/old/$name/model.safetensors" "$dir/new/$name/model.safetensors" || said=DIFFERENT
  if cmp -s "$dir/$base/model.safetensors" "$dir/new/$name/model.safetensors"; then said=UNTRAINED; fi
  local memory=same
  diff <(memory_of old "$name") <(memory_of new "$name") > "$dir/diff" || memory="differs"
  echo "$name: weights $said, planned memory $memory"
  [ "$memory" = same ] || sed 's/^/    /' "$dir/diff"
  [ $said = same ] || failed=1
}
# what was called health is called step statistics
memory_of() { sed -n '/^memory/,/^[a-z]* *$/p' "$dir/$1/$2.plan" | sed 's/health         /step statistics/' | sort; }

mkdir -p "$dir/old" "$dir/new"
for base in llama tied mistral qwen2 qwen3; do
  printf 'base_model: %s\noutput_dir: x\ndatasets: [{path: x, type: completion}]\n' "$dir/$base" > "$dir/job.yaml"
  job $base-all 6 selection.metric=all bf16=false
  job $base-bf16 6 selection.metric=all bf16=true
  job $base-recomputed-resumed 6 resume selection.count=6 gradient_checkpointing=block bf16=false
  job $base-kl 4 selection.count=6 anchor.kind=kl anchor.weight=0.5 bf16=false
  job $base-kl-all-recomputed 4 selection.metric=all anchor.kind=kl anchor.weight=0.5 \
    gradient_checkpointing=block bf16=false
  job $base-heads 4 selection.unit=head selection.count=8 bf16=false
done
base=quick
printf 'base_model: %s\noutput_dir: x\ndatasets: [{path: x, type: completion}]\n' "$dir/quick" > "$dir/job.yaml"
job quick-old 8 selection.metric=all sequence_len=256 micro_batch_size=8 learning_rate=2e-3
job quick-new 8 selection.count=8 sequence_len=256 micro_batch_size=8
exit $failed
