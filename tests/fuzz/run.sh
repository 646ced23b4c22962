#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the fuzz targets (clang, libFuzzer, ASan, UBSan) and runs each for SECONDS (default 600),
# two at a time, from a copy of its corpus. A finding is left in build-fuzz/findings, exit 1.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-600}
bash docs/install-debian.sh clang libclang-rt-14-dev libomp-dev
cmake -B build-fuzz -G Ninja -DKAPPA_FUZZ=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_COMPILER=clang >/dev/null
cmake --build build-fuzz --target fuzz
mkdir -p build-fuzz/findings
one() {
  work=$(mktemp -d)
  cp -r "tests/fuzz/corpus/$1" "$work/corpus"
  rc=0
  build-fuzz/tests/fuzz_"$1" -max_total_time="$2" -timeout=60 -rss_limit_mb=4000 -verbosity=0 \
    -print_final_stats=1 -artifact_prefix="build-fuzz/findings/$1-" "$work/corpus" >"$work/log" 2>&1 || rc=$?
  echo "$1: exit $rc, $(sed -n 's/^stat::number_of_executed_units: */runs /p' "$work/log")"
  [ $rc -eq 0 ] || cat "$work/log"
  rm -rf "$work"
  return $rc
}
export -f one
ls tests/fuzz/corpus | xargs -P 2 -I {} bash -c "one {} $seconds"
