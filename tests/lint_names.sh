#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# One name means one thing and says where it lives: a public name (struct, enum or function of a header) is
# declared once, and begins with a noun of its room. A new noun is a word in this table.
cd "$(dirname "$0")/.." || exit 1
rooms='
base            alloc arena cache check code copy ctx ends error exit fail file fmt free fsync grow index interrupted is json list lock log machine make map memory nearest new now ok open parse path pattern philox publish read remove rename rng sha256 signalled starts str sweep threads trace utf8 visible write
linalg          blas dense linalg panels worker
python          jinja py
tokenizer       tok tokenizer utf8
engine/formats  adapter delta dim gguf head hf hub lora model role safetensors scope st tensor
engine/audio    audio
engine/job      foreign job key yaml
engine/dist     dist mpi
engine/model    accum any arch aux batch branch branches clip clips decoder encoder expert experts family head inputs keep kv layer linear loss mat mla model moe norm outer pairs param pass piece projector recipe recorded rms rope router routing sample session shards slice stack stat step stream train value vector verify weight weights which
engine/data     chat codec data document parquet pq speech thrift unpack
engine/spectral affinity expert fp8 memory select selected selection spectral spectrum unit units
engine/report   crc32c jsonl page progress report spectral tb tensorboard
engine/eval     eval measure measures results run task tasks
engine/train    affinity ckpt fingerprint identity job loop model optim plan recorded report run schedule select self train trainer watch
engine/forget   bench benchmark compare forget repair run
engine/cli      cli measure'
names() { # of a room: FILE NAME
  grep -rEo --include='*.h' '^((struct|enum) ka_[a-z0-9_]+ \{|[a-z][A-Za-z0-9_ \*]*[ \*]ka_[a-z0-9_]+\()' "$1" |
    sed -E 's/^([^:]+):.*[ *]?(ka_[a-z0-9_]+)( \{|\()$/\1 \2/' | sort -u
}
all=$(mktemp)
trap 'rm -f "$all"' EXIT
failed=0
echo "$rooms" | {
  while read -r room nouns; do
    [ -n "$room" ] || continue
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
