#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Training speed and memory beside torch, in turns on the same machine:
#   bench/train.sh [PYTHON]        (needs torch and transformers; build/kappa must be there)
# Prints tokens a second of both (best step of the best of ROUNDS rounds), the ratio, the ratio of the
# processor's seconds a step (least; with OMP_NUM_THREADS=1 that of the work alone, whatever else the
# machine does), peak memory. SHAPE=moe: a mixture of 64 experts, in full and a tenth of its experts.
set -euo pipefail
python=${1:-python3}
kappa=${KAPPA:-build/kappa}
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
shape=${SHAPE:-40M}
case $shape in
  moe) selects="full tenth" settings=${SETTINGS:-bf16-sdpa bf16-sdpa-grouped} ;;
  *) selects="full upper" settings=${SETTINGS:-bf16-sdpa bf16-eager} ;;
esac
for round in $(seq "${ROUNDS:-2}"); do
  "$kappa" bench train --shape "$shape" --quiet --json "$dir/kappa-$round.json" > /dev/null
  for select in $selects; do
    for setting in $settings; do
      "$python" "$here/peers/train_torch.py" --shape "$shape" --select "$select" --setting "$setting" \
        > "$dir/torch-$select-$setting-$round.json"
    done
  done
done
"$python" - "$dir" "$selects" <<'PY'
import glob, json, sys
kappa = [json.load(open(f)) for f in glob.glob(sys.argv[1] + "/kappa-*.json")]
print(f"matmul {max(k['gemm_flops'] for k in kappa) / 1e9:.0f} GFLOP/s ({kappa[0]['dtype']})")
for i, select in enumerate(sys.argv[2].split()):
    torch = [json.load(open(f)) for f in glob.glob(f"{sys.argv[1]}/torch-{select}-*.json")]
    t, k = max(torch, key=lambda x: x["tok_per_s"]), max((x["runs"][i] for x in kappa), key=lambda x: x["tok_per_s"])
    share = max(x["runs"][i]["product_share"] for x in kappa)
    cpu = [min(r["cpu_s_a_step"] for r in runs) for runs in (torch, [x["runs"][i] for x in kappa])]
    print(f"{k['name']:22s} kappa {k['tok_per_s']:7.0f} tok/s  torch {t['tok_per_s']:7.0f} ({t['setting']})  "
          f"{k['tok_per_s'] / t['tok_per_s']:.2f}x (processor {cpu[0] / cpu[1]:.2f}x)  products at {share:.0%} of matmul  memory "
          f"{k['peak_bytes'] / 2**20:.0f} / {min(x['peak_bytes'] for x in torch) / 2**20:.0f} MiB")
PY
