#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Training speed and memory beside torch, in turns on the same machine:
#   bench/train.sh [PYTHON]        (needs torch and transformers; build/kappa must be there)
# Prints tokens a second of both (best step of the best of ROUNDS rounds), the ratio, peak memory.
set -euo pipefail
python=${1:-python3}
kappa=${KAPPA:-build/kappa}
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for round in $(seq "${ROUNDS:-2}"); do
  "$kappa" bench train --quiet --json "$dir/kappa-$round.json" > /dev/null
  for select in full upper; do
    for setting in ${SETTINGS:-bf16-sdpa bf16-eager}; do
      "$python" "$here/peers/train_torch.py" --select $select --setting $setting \
        > "$dir/torch-$select-$setting-$round.json"
    done
  done
done
"$python" - "$dir" <<'PY'
import glob, json, sys
kappa = [json.load(open(f)) for f in glob.glob(sys.argv[1] + "/kappa-*.json")]
print(f"matmul {max(k['gemm_flops'] for k in kappa) / 1e9:.0f} GFLOP/s ({kappa[0]['dtype']})")
for i, select in enumerate(("full", "upper")):
    torch = [json.load(open(f)) for f in glob.glob(f"{sys.argv[1]}/torch-{select}-*.json")]
    t, k = max(torch, key=lambda x: x["tok_per_s"]), max((x["runs"][i] for x in kappa), key=lambda x: x["tok_per_s"])
    share = max(x["runs"][i]["product_share"] for x in kappa)
    print(f"{k['name']:22s} kappa {k['tok_per_s']:7.0f} tok/s  torch {t['tok_per_s']:7.0f} ({t['setting']})  "
          f"{k['tok_per_s'] / t['tok_per_s']:.2f}x  products at {share:.0%} of matmul  memory "
          f"{k['peak_bytes'] / 2**20:.0f} / {min(x['peak_bytes'] for x in torch) / 2**20:.0f} MiB")
PY
