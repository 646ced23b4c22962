#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What README.md and docs/*.md name is there: files of the tree by their path from the root (NAME and ROOM
# stand for any), and what relative links lead to.
cd "$(dirname "$0")/.." || exit 1
rooms='base|kernels|linalg|python|tokenizer|engine|tests|bench|configs|docs'
gone=$({
  grep -HnoE "\\b($rooms)/[A-Za-z0-9_./-]*\\.(c|h|cu|cuh|def|py|sh|cmake|md|yaml|json|awk)\\b" README.md docs/*.md |
    grep -vE 'NAME|ROOM' | while IFS=: read -r file line path; do
      # a link's target starts at its page
      [ -e "$path" ] || [ -e "$(dirname "$file")/$path" ] || echo "lint: $file:$line: there is no $path"
    done
  grep -HnoE '\]\([^)#:]+' README.md docs/*.md | sed 's/](//' | grep -vE ':(https?|mailto)$' | while IFS=: read -r file line path; do
    [ -e "$(dirname "$file")/$path" ] || echo "lint: $file:$line: the link leads to no $path"
  done
})
[ -z "$gone" ] || { echo "$gone"; exit 1; }
echo "lint: what README.md and docs/ name is there"
