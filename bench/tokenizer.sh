#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tokenizer speed, kappa beside Hugging Face tokenizers in the same run, one core and two:
#   bash bench/tokenizer.sh [TEXT [MODEL_DIR ...]]        PYTHON=... names a Python with tokenizers
# Without that Python, kappa's rates alone.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${KAPPA_TEST_DATA:-../shared/data}
text=${1:-$data/text/wikitext2_raw_test.txt}
shift || true
[ $# -gt 0 ] || set -- "$data"/tokenizers/{gpt2,llama3-rebuilt,llama2-fixed,qwen2.5-rebuilt,olmo2-dolma2}
python=${PYTHON:-python3}
if "$python" -c 'import tokenizers' 2>/dev/null; then
  exec "$python" bench/peers/tokenizers_bench.py "$text" "$@"
fi
echo "bench: $python has no tokenizers; kappa alone" >&2
for model in "$@"; do
  for threads in 1 2; do
    echo "$(basename "$model") $(build/kappa tokenize "$model" "$text" --bench 9 --threads "$threads")"
  done
done
