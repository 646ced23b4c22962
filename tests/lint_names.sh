#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# One name means one thing and says where it lives: a public name (struct, enum or function of a header) is
# declared once, and begins with a noun of its room. A new noun is a word in this table, which has a
# line for each room and first letter, so that two additions seldom meet.
cd "$(dirname "$0")/.." || exit 1
rooms='
base            alloc arena
base            cache check code copy ctx
base            ends error exit
base            fail file fmt free fsync
base            grow
base            index interrupted is
base            json
base            list lock log
base            machine make map memory
base            nearest new now
base            ok open
base            parse path pattern philox publish
base            read remove rename rng
base            sha256 signalled starts str sweep
base            threads trace
base            utf8
base            visible
base            write
linalg          blas
linalg          dense
linalg          linalg
linalg          panels
linalg          worker
python          jinja
python          py
tokenizer       tok tokenizer
tokenizer       utf8
engine/formats  adapter
engine/formats  delta dim
engine/formats  gguf
engine/formats  head hf hub
engine/formats  lora
engine/formats  model
engine/formats  role
engine/formats  safetensors scope st
engine/formats  tensor
engine/audio    audio
engine/job      foreign
engine/job      job
engine/job      key
engine/job      yaml
engine/dist     dist
engine/dist     mpi
engine/model    accum any arch aux
engine/model    batch branch branches
engine/model    clip clips
engine/model    decoder
engine/model    encoder expert experts
engine/model    family
engine/model    head
engine/model    inputs
engine/model    keep kv
engine/model    layer linear loss
engine/model    mat mla model moe
engine/model    norm
engine/model    outer
engine/model    pairs param pass piece projector
engine/model    recipe recorded rms rope router routing
engine/model    sample session shards slice stack stat step stream
engine/model    train
engine/model    value vector verify
engine/model    weight weights which
engine/data     chat codec
engine/data     data document
engine/data     parquet pq
engine/data     speech
engine/data     thrift
engine/data     unpack
engine/spectral affinity
engine/spectral expert
engine/spectral fp8
engine/spectral memory
engine/spectral select selected selection spectral spectrum
engine/spectral unit units
engine/report   crc32c
engine/report   jsonl
engine/report   page progress
engine/report   report
engine/report   spectral
engine/report   tb tensorboard
engine/eval     eval
engine/eval     measure measures
engine/eval     results run
engine/eval     task tasks
engine/train    affinity
engine/train    ckpt
engine/train    fingerprint
engine/train    identity
engine/train    job
engine/train    loop
engine/train    model
engine/train    optim
engine/train    plan
engine/train    recorded report run
engine/train    schedule select self
engine/train    train trainer
engine/train    watch
engine/forget   bench benchmark
engine/forget   compare
engine/forget   forget
engine/forget   repair run
engine/cli      cli
engine/cli      measure'
names() { # of a room: FILE NAME
  grep -rEo --include='*.h' '^((struct|enum) ka_[a-z0-9_]+ \{|[a-z][A-Za-z0-9_ \*]*[ \*]ka_[a-z0-9_]+\()' "$1" |
    sed -E 's/^([^:]+):.*[ *]?(ka_[a-z0-9_]+)( \{|\()$/\1 \2/' | sort -u
}
all=$(mktemp)
trap 'rm -f "$all"' EXIT
failed=0
echo "$rooms" | awk 'NF { print $1 }' | uniq | {
  while read -r room; do
    nouns=$(echo "$rooms" | awk -v room="$room" '$1 == room { $1 = ""; print }' | tr '\n' ' ')
    names "$room" | tee -a "$all" | while read -r file name; do
      noun=${name#ka_}
      noun=${noun%%_*}
      case " $nouns " in *" $noun "*) ;; *) echo "lint: $file: $name: no noun of $room (tests/lint_names.sh)" ;; esac
    done
  done
  sort -u "$all" | awk '{ if ($2 in where && where[$2] != $1) print "lint: " $2 " is declared in " where[$2] " and in " $1; where[$2] = $1 }'
} > "$all.out"
cat "$all.out"
[ -s "$all.out" ] && failed=1
rm -f "$all.out"
[ $failed -eq 0 ] && echo "lint: $(sort -u "$all" | wc -l) public names, each of one room and declared once"
exit $failed
