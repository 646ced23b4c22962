# SPDX-License-Identifier: Apache-2.0
# Functions of more than LIMIT lines, from the line that names them to the brace in the first column:
# awk -v LIMIT=60 -f lint_functions.awk FILE...
FNR == 1 { inside = 0 }
!inside && /^[A-Za-z_]/ { first = FNR; name = $0 }
!inside && /^[^#]*\{ *$/ { inside = 1 }
!inside && /^\{/ { inside = 1 }
inside && /^}/ {
  n = FNR - first + 1
  if (/^} *$/ && name !~ /^(static )?(const )?(struct|enum|union)[^()]*$/ && n > LIMIT)
    print FILENAME ":" first ": a function of " n " lines, the limit is " LIMIT ": " name
  inside = 0
}
