#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that needs a GPU, for a GPU machine that has a driver, the CUDA libraries and torch, but
# no compiler packages and no network.
#   bash bench/device.sh pack                    builds here and collects build-device/pack (< 64 MiB)
#   bash build-device/pack/device.sh OUT [STEP...]    runs there; results and logs go to OUT
# Steps (all by default, in this order): doctor ops goldens train sanitize bench spectral speed ablation largest
# A step that fails does not stop the others; the last line counts them.
set -uo pipefail

pack() {
  set -e
  cd "$(dirname "$0")/.."
  local build=build-device pack=build-device/pack data=${KAPPA_TEST_DATA:-../shared/data}
  # oneDNN and OpenBLAS stay at home: ref has every slot, and the GPU does the work.
  cmake -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DKAPPA_MARCH=x86-64-v3 -DKAPPA_ONEDNN=OFF \
    -DKAPPA_LAPACK=OFF -DBUILD_TESTING=ON '-DCMAKE_BUILD_RPATH=$ORIGIN/lib;$ORIGIN/../lib' > /dev/null
  local tests="kernels_test_ops kernels_test_matmul model_test_golden model_test_generate
    train_test_adamw6 train_test_job_golden train_test_train spectral_test_fixtures spectral_test_property"
  cmake --build $build --target kappa kappa_cuda cuda_twins $tests
  rm -rf $pack
  mkdir -p $pack/tests $pack/lib $pack/peers $pack/data
  cp $build/kappa $build/kappa_cuda.so bench/device.sh $pack/
  for t in cuda_twins $tests; do cp $build/tests/$t $pack/tests/; done
  cp bench/peers/*.py $pack/peers/
  strip --strip-debug $pack/kappa $pack/kappa_cuda.so $pack/tests/*
  # the libraries that a plain machine lacks; CUDA's are there
  ldd $pack/kappa $pack/tests/* | awk '/=> \//{print $3}' | sort -u |
    grep -E 'lib(yaml|jansson|pcre2|utf8proc|xxhash|cmocka|gomp|zstd)' | xargs -r cp -Lt $pack/lib
  if [ -d "$data" ]; then
    for g in llama llama-tied llama-rope3 mistral-window qwen2 qwen3; do
      mkdir -p $pack/data/golden && cp -r "$data/golden/$g" $pack/data/golden/
    done
    cp -r "$data/weights" "$data/spectral" $pack/data/
    mkdir -p $pack/data/text && cp "$data"/text/tiny*.txt $pack/data/text/
    chmod -R u+w $pack/data
  fi
  du -sh $pack
}

# --- on the GPU machine ------------------------------------------------------------------------------

failed=0
# CUDA's libraries may be pip's alone: the folders site-packages/nvidia/*/lib that exist, with colons
pip_libraries() {
  python3 - << 'END'
import glob, os, site, sysconfig
places = site.getsitepackages() + [site.getusersitepackages(), sysconfig.get_paths()["purelib"]]
found = [lib for p in dict.fromkeys(places) for lib in sorted(glob.glob(p + "/nvidia/*/lib"))]
print(":".join(lib for lib in found if os.path.isdir(lib)))
END
}

step() { # NAME COMMAND...: its output to OUT/NAME.log, one line here
  local name=$1 begin=$SECONDS rc
  shift
  "$@" > "$out/$name.log" 2>&1
  rc=$?
  [ $rc -eq 0 ] || failed=$((failed + 1))
  echo "$name: $([ $rc -eq 0 ] && echo ok || echo "FAILED ($rc)") in $((SECONDS - begin)) s"
  [ $rc -eq 0 ] || tail -n 15 "$out/$name.log"
}

torch_train() { python3 "$here/peers/train_torch.py" "$@"; }
gpu_test() { "$here/tests/$1"; }
sanitized() { # TOOL TEST
  compute-sanitizer --tool "$1" --error-exitcode 9 --target-processes all "$here/tests/$2"
}

one_step() {
  local k=$here/kappa
  case $1 in
  doctor) step doctor "$k" doctor ;;
  ops)
    step twins gpu_test cuda_twins
    step ops gpu_test kernels_test_ops
    step ops-without-cudnn env KAPPA_CUDA_WITHOUT=cudnn "$here/tests/kernels_test_ops"
    step matmul gpu_test kernels_test_matmul
    ;;
  goldens)
    for g in "$KAPPA_TEST_DATA"/golden/*/; do
      for d in f32 bf16; do
        step "golden-$(basename "$g")-$d" "$k" verify "$g" --against "$g/golden.safetensors" \
          --dtype $d --device cuda
      done
    done
    step generate gpu_test model_test_generate
    ;;
  train)
    step adamw6 gpu_test train_test_adamw6
    step job_golden gpu_test train_test_job_golden
    step train gpu_test train_test_train
    ;;
  sanitize)
    for tool in memcheck racecheck; do step "ops-$tool" sanitized $tool kernels_test_ops; done
    step adamw6-memcheck sanitized memcheck train_test_adamw6
    ;;
  bench)
    step bench-ops "$k" bench ops --device cuda --json "$out/bench-ops.json"
    for op in attn_fwd attn_bwd; do
      step bench-$op-own env KAPPA_CUDA_WITHOUT=cudnn "$k" bench ops --op $op --device cuda \
        --json "$out/bench-$op-own.json"
    done
    ;;
  spectral)
    step spectral-fixtures gpu_test spectral_test_fixtures
    step spectral-property gpu_test spectral_test_property
    step spectral-bench "$k" bench spectral --device cuda --json "$out/bench-spectral.json"
    step spectral-llama3-8b python3 "$here/peers/spectral_torch.py" --device cuda --kappa "$k"
    ;;
  speed) # tokens/s and model-flop utilisation, torch beside it
    for length in 2048 8192; do
      local size="--shape 8B --device cuda --rows $((8192 / length)) --length $length"
      step "speed-8b-$length" "$k" bench train $size --optimizer-dtype bf16 \
        --json "$out/speed-8b-$length.json"
      step "torch-8b-$length-full" torch_train $size --select full \
        --setting bf16-sdpa-compile-checkpoint
      step "torch-8b-$length-five" torch_train $size --select five --setting bf16-sdpa-compile
    done
    ;;
  ablation) # what each choice is worth; everything at once is the first row
    step speed-1b "$k" bench train --device cuda --shape 1B --json "$out/speed-1b.json"
    for choice in cudnn graphs tuning cudnn,tiles; do
      step "speed-1b-without-$choice" env KAPPA_CUDA_WITHOUT=$choice "$k" bench train \
        --device cuda --shape 1B --json "$out/speed-1b-without-$choice.json"
    done
    step speed-1b-offload "$k" bench train --device cuda --shape 1B --offload \
      --json "$out/speed-1b-offload.json"
    ;;
  largest) step largest-8b-f32-state "$k" bench train --device cuda --shape 8B --select five \
    --json "$out/largest-8b.json" ;;
  *)
    echo "no step $1" >&2
    failed=$((failed + 1))
    ;;
  esac
}

if [ "${1:-}" = pack ]; then
  pack
  exit
fi
[ $# -ge 1 ] || { sed -n '3,9p' "$0" | cut -c3-; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && out=$(cd "$1" && pwd)
shift
export KAPPA_CUDA=${KAPPA_CUDA:-$here/kappa_cuda.so} KAPPA_TEST_DEVICE=cuda KAPPA_BIN=$here/kappa
export KAPPA_TEST_DATA=${KAPPA_TEST_DATA:-$here/data} XDG_CACHE_HOME=${XDG_CACHE_HOME:-$out/cache}
libraries=$(command -v python3 > /dev/null && pip_libraries)
[ -z "$libraries" ] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries
command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version,clocks.max.sm \
  --format=csv | tee "$out/gpu.txt"
[ $# -gt 0 ] || set -- doctor ops goldens train sanitize bench spectral speed ablation largest
for s in "$@"; do one_step "$s"; done
echo "$failed failed"
[ $failed -eq 0 ]
