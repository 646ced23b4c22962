#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds, runs every test that needs no GPU and no network.
#   bash tests/run.sh            all tests, release build in build/
#   bash tests/run.sh asan       the same under AddressSanitizer and UBSan in build-asan/
#   bash tests/run.sh tsan       ... under ThreadSanitizer (clang, libomp) in build-tsan/
# Further words go to ctest: bash tests/run.sh release -L kernels
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
shift || true
bash docs/install-debian.sh
cmake --preset "$preset" -G Ninja -DKAPPA_WERROR=ON -DBUILD_TESTING=ON >/dev/null
dir=build; [ "$preset" = release ] || dir=build-$preset
cmake --build "$dir"
cmake --build "$dir" --target tests
ctest --test-dir "$dir" --output-on-failure -j "$(nproc)" "$@"
