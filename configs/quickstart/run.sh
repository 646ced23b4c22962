#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job on this machine, with nothing downloaded but Debian packages: installs what is
# missing, builds, makes a small Llama, teaches it the English of the licences (the old skill), then
# C headers (the new one) by the recipe that keeps the old skill; at last compares the recipe with
# training everything without it, with the units of the lowest condition numbers and with random
# ones, in a report. Words are passed on to the job of the new skill:
#   bash configs/quickstart/run.sh max_steps=600 anchor.weight=3
set -euo pipefail
cd "$(dirname "$0")/../.."
bash docs/install-debian.sh
[ -f build/CMakeCache.txt ] || cmake -B build -G Ninja >/dev/null
cmake --build build --target kappa

out=out/quickstart
rm -rf "$out"
build/kappa init --config configs/quickstart/config.json --out "$out/fresh" --tokenizer bytes
build/kappa train configs/quickstart/old.yaml
build/kappa analyze "$out/base" --select "kappa lowest 20%"
build/kappa train configs/quickstart/new.yaml "$@"
build/kappa generate "$out/new" --prompt '#define ' --max-tokens 120
echo
build/kappa forget configs/quickstart/new.yaml max_steps=80 "$@" output_dir="$out/forget" \
  selection.fraction=0.2 --methods full_self,full,kappa_lowest,random --seeds 2 --draws 2 \
  --learning-rates 1e-3
echo
echo "The tuned model is $out/new, with its own report.html. The comparison: $out/forget/report.html"
