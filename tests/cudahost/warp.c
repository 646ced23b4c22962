/* SPDX-License-Identifier: Apache-2.0
 *
 * What the core's own warp-wide operations compute over the lanes that have arrived: shuffles,
 * votes, matches. */
#include "tests/cudahost/internal.h"

/* The lane that `lane` reads, by the rules of PTX's shfl.sync: segments of `width` lanes; a source
 * outside the segment is the lane itself. */
static int source(const struct cudahost_shuffle *s, int lane) {
  int first = lane & ~(s->width - 1), last = first + s->width - 1, from = 0;
  switch (s->kind) {
  case CUDAHOST_IDX:
    return first + (s->by & (s->width - 1));
  case CUDAHOST_UP:
    from = lane - s->by;
    return from < first ? lane : from;
  case CUDAHOST_DOWN:
    from = lane + s->by;
    return from > last ? lane : from;
  case CUDAHOST_XOR:
    from = lane ^ s->by;
    return from > last ? lane : from;
  }
  return lane;
}

static void shuffle(void *lane[32], unsigned mask) {
  for (unsigned m = mask; m; m &= m - 1) {
    int i = __builtin_ctz(m);
    struct cudahost_shuffle *s = lane[i];
    if (s->width < 1 || s->width > 32 || (s->width & (s->width - 1))) {
      ch_report("a shuffle of width %d: 1, 2, 4, 8, 16 or 32 are possible\n", s->width);
      ch_fault(cudaErrorLaunchFailure);
    }
    int from = source(s, i);
    if (from < 0 || from > 31 || !(mask >> from & 1)) {
      ch_report("a shuffle reads lane %d, which the mask %08x lacks; lane %d asked\n", from, mask,
                i);
      ch_report_place(ch_now->place.pc);
      ch_fault(cudaErrorLaunchFailure);
    }
    s->result = ((struct cudahost_shuffle *)lane[from])->value;
  }
}

static void ballot(void *lane[32], unsigned mask) {
  unsigned result = 0;
  for (unsigned m = mask; m; m &= m - 1) {
    struct cudahost_ballot *b = lane[__builtin_ctz(m)];
    if (b->predicate) result |= m & -m;
  }
  for (unsigned m = mask; m; m &= m - 1)
    ((struct cudahost_ballot *)lane[__builtin_ctz(m)])->result = result;
}

static void match(void *lane[32], unsigned mask) {
  for (unsigned m = mask; m; m &= m - 1) {
    struct cudahost_match *a = lane[__builtin_ctz(m)];
    a->result = 0;
    for (unsigned n = mask; n; n &= n - 1)
      if (((struct cudahost_match *)lane[__builtin_ctz(n)])->value == a->value) a->result |= n & -n;
  }
}

const struct cudahost_warp_op cudahost_op_syncwarp = {"__syncwarp", NULL, true},
                              cudahost_op_shuffle = {"a shuffle", shuffle, false},
                              cudahost_op_ballot = {"a vote", ballot, false},
                              cudahost_op_match = {"a match", match, false};
