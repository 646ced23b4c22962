#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Kills random ranks of a training job with SIGKILL until N of them are dead, resuming each time; whenever a
# run comes to its end, its model and log must be those of the run that nobody disturbed, to the bit.
#   tests/dist/kills.sh build/kappa [N, 4] [RANKS, 3] [SEED, 1]
# SIGNAL=STOP: stops them instead, which dist_timeout_s ends.
kappa=$1 n_kills=${2:-4} n_ranks=${3:-3} seed=${4:-1}
for tool in mpirun ps; do
  command -v $tool >/dev/null || { echo "skipped: no $tool"; exit 0; }
done
. "$(dirname "$0")/bed.sh"
random() { # below $1, from the seed and a counter
  calls=$((calls + 1))
  awk -v s="$seed" -v c="$calls" -v n="$1" 'BEGIN { srand(s * 7919 + c); rand(); print int(rand() * n) }'
}
cat >>job.yaml <<'END'
max_steps: 150
learning_rate: 1e-3
val_set_size: 4
eval_steps: 40
save_steps: 7
dist_timeout_s: 5
END
run() { # DIR [--resume]; shard follows the seed
  set -- "$kappa" train job.yaml output_dir="$1" shard="$shard" $2
  mpirun --allow-run-as-root --oversubscribe -q -np "$n_ranks" "$@" 2>err
}
# what a clock says is not compared
log() { sed 's/"\(time_s\|tok_per_s\|waited\)": *[0-9.e+-]*//g' "$1/train_log.jsonl"; }

signal=${SIGNAL:-KILL} killed=0 ended=0
set -- none optimizer all
while [ $killed -lt "$n_kills" ]; do
  shard=$1
  set -- "$2" "$3" "$1"
  rm -rf whole parts
  run whole || fail "the undisturbed run ($shard)"
  rc=1
  while [ $rc -ne 0 ]; do
    run parts --resume &
    launcher=$!
    sleep "$(random 20 | awk '{ print 0.2 + $1 / 10 }')"
    mpi=$(ps -o pid= --ppid $launcher -C mpirun | awk '{ print $1; exit }')
    victim=$(ps -o pid= --ppid "${mpi:-$launcher}" | sed -n "$(($(random "$n_ranks") + 1))p")
    if [ -n "$victim" ] && [ $killed -lt "$n_kills" ] && kill -${signal} $victim 2>/dev/null; then
      killed=$((killed + 1))
    fi
    begun=$(date +%s)
    wait $launcher
    rc=$?
    [ $(($(date +%s) - begun)) -lt 60 ] || fail "the end took more than a minute"
  done
  cmp -s whole/model.safetensors parts/model.safetensors || fail "another model ($shard)"
  [ "$(log whole)" = "$(log parts)" ] || fail "another log ($shard)"
  ended=$((ended + 1))
done
echo "$killed ranks killed, $ended runs resumed to their end, all of them the undisturbed run's bits"
