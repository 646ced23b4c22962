#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job on this machine, with nothing downloaded but Debian packages: installs what is
# missing, builds, makes a small Llama, teaches it the English of the licences (the old skill), then
# C headers (the new one), once training the units with the lowest condition numbers and once
# training everything, and prints what each learned and forgot. Words are passed on to the second
# job:  bash configs/quickstart/run.sh max_steps=300 selection.fraction=0.1
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
build/kappa forget configs/quickstart/new.yaml "$@"
echo
echo "The tuned models are in $out/new/kappa and $out/new/all; each has a report.html."
build/kappa generate "$out/new/kappa" --prompt '#define ' --max-tokens 120
