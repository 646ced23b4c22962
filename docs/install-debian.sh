#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages kappa needs to build and to run its tests, and those named as words;
# does nothing when they are there. Optional (CMake goes on without): libzstd-dev (packed deltas, .zst
# data), zlib1g-dev, libsnappy-dev, liblz4-dev and libbrotli-dev (.gz data, Parquet), libdnnl-dev
# (oneDNN), libopenblas-dev with liblapacke-dev, libopenmpi-dev with openmpi-bin (ranks),
# libsndfile1-dev with libsoxr-dev and libkissfft-dev (speech).
set -euo pipefail
packages=(gcc g++ libc6-dev cmake ninja-build pkg-config libyaml-dev libjansson-dev libpcre2-dev
          libutf8proc-dev libxxhash-dev libzstd-dev zlib1g-dev libsnappy-dev liblz4-dev libbrotli-dev
          libdnnl-dev libopenblas-dev liblapacke-dev libopenmpi-dev openmpi-bin
          libsndfile1-dev libsoxr-dev libkissfft-dev
          libcmocka-dev "$@")
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
sudo=(); [ "$(id -u)" -eq 0 ] || sudo=(sudo)
echo "installing: ${missing[*]}" >&2
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
