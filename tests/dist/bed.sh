# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts beside it, with $kappa set: enters a temporary directory $dir that holds a tiny model
# (base), rows and a job.yaml to which each script adds its own keys. fail WORDS ends the script.
kappa=$(realpath "$kappa")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
fail() { echo "$(basename "$0" .sh): $*"; tail -5 err; exit 1; }

echo '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 32,
"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
"max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false,
"torch_dtype": "float32"}' >config.json
"$kappa" init --config config.json --out base --seed 5 2>err || fail "init"
awk 'BEGIN { for (r = 0; r < 40; r++) { printf "{\"input_ids\": ["; for (t = 0; t < 8 + r % 16; t++)
  printf "%s%d", t ? ", " : "", (r + t * t) % 64; print "]}" } }' >rows.jsonl
cat >job.yaml <<'YAML'
base_model: base
datasets: [{path: rows.jsonl, type: tokenized}]
sequence_len: 32
micro_batch_size: 2
gradient_accumulation_steps: 3
logging_steps: 1
bf16: false
threads: 1
selection: {metric: all}
YAML
