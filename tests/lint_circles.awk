# SPDX-License-Identifier: Apache-2.0
# Circles among the files of each room by their includes; x.c, x.h and x.cu are one file here. Files
# that all reach each other are one circle: awk -v ROOMS='engine/data python' -v MOST=2 -v SIZE=3
# -f lint_circles.awk FILE... (names relative to the root). Says those of a room with more than MOST,
# and every one of more than SIZE files.
function room_of(path,   k) {
  for (k = 1; k <= n_rooms; k++)
    if (index(path, rooms[k] "/") == 1) return rooms[k]
  return ""
}
function visit(origin, from,   k, list, n) {
  n = split(edges[from], list, " ")
  for (k = 1; k <= n; k++)
    if (!((origin, list[k]) in reaches)) {
      reaches[origin, list[k]] = 1
      visit(origin, list[k])
    }
}
BEGIN { n_rooms = split(ROOMS, rooms, " ") }
FNR == 1 {
  here = FILENAME
  sub(/\.[a-z]+$/, "", here)
  if (!(here in edges)) { names[++n_names] = here; edges[here] = "" }
}
/^ *# *include "/ {
  there = $0
  sub(/^[^"]*"/, "", there)
  sub(/".*/, "", there)
  if (there !~ /\.(h|cuh)$/ || room_of(there) != room_of(FILENAME)) next
  sub(/\.[a-z]+$/, "", there)
  if (there != here) edges[here] = edges[here] " " there
}
END {
  for (i = 1; i <= n_names; i++) visit(names[i], names[i])
  for (i = 1; i <= n_names; i++) {
    if (!((names[i], names[i]) in reaches) || (names[i] in told)) continue
    room = room_of(names[i])
    line = ""
    size = 0
    for (j = i; j <= n_names; j++)
      if ((names[i], names[j]) in reaches && (names[j], names[i]) in reaches) {
        told[names[j]] = 1
        size++
        line = line " " substr(names[j], length(room) + 2)
      }
    if (size > SIZE) print room ": a circle of " size " files, the limit is " SIZE ":" line
    circles[room] = circles[room] "\n  circle of includes:" line
    count[room]++
  }
  for (k = 1; k <= n_rooms; k++)
    if (count[rooms[k]] > MOST)
      print rooms[k] ": " count[rooms[k]] " circles of includes, the limit is " MOST circles[rooms[k]]
}
