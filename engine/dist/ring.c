/* SPDX-License-Identifier: Apache-2.0
 * The collectives as messages between neighbours on a ring. A part that is summed goes round once,
 * each rank adding its own, and then round again as it is: 2 (n-1)/n of the bytes a rank, which no
 * algorithm beats, and one order of additions, which the ring gives. */
#include "engine/dist/ranks.h"

#include <stdio.h>
#include <string.h>

static const char *const kinds[KA_DIST_N_KINDS] = {
#define X(name, text) [KA_DIST_##name] = text,
    KA_DIST_KINDS(X)
#undef X
};

const char *ka_dist_kind_name(enum ka_dist_kind kind) { return kinds[kind]; }

static int rank_at(const struct ka_dist *d, int steps) {
  return ((d->rank + steps) % d->n + d->n) % d->n;
}

/* x += y, both [n]. */
static void add(void *x, const void *y, int64_t n, enum ka_dtype dtype) {
#define ADD(type)                                                                                  \
  for (int64_t i = 0; i < n; i++) ((type *)x)[i] += ((const type *)y)[i]
  if (dtype == KA_F32) ADD(float);
  if (dtype == KA_F64) ADD(double);
  if (dtype == KA_I64) ADD(int64_t);
#undef ADD
}

static int64_t at_most(int64_t n, int64_t most) { return n < most ? n : most; }

/* Sends `out` [n_out] to the right while `in` [n_in] from the left is added to x, or, with add_as
 * KA_N_DTYPES, stored there. Bytes. */
static bool shift(struct ka_dist *d, const char *out, int64_t n_out, char *x, int64_t n_in,
                  enum ka_dtype add_as) {
  bool adds = add_as < KA_N_DTYPES;
  for (int64_t at = 0; at < n_out || at < n_in; at += KA_DIST_PIECE) {
    int64_t send = at < n_out ? at_most(n_out - at, KA_DIST_PIECE) : 0;
    int64_t receive = at < n_in ? at_most(n_in - at, KA_DIST_PIECE) : 0;
    void *to = adds ? d->piece : x + at;
    if (!ka_dist_exchange(d, send ? rank_at(d, 1) : -1, out + at, send,
                          receive ? rank_at(d, -1) : -1, to, receive))
      return false;
    if (adds && receive) add(x + at, to, receive / (int64_t)ka_dtype_bytes(add_as), add_as);
  }
  return true;
}

/* n - 1 times: part `first - s` goes to the right, `first - s - 1` comes from the left. starts in
 * units of `size` bytes. */
static bool go_round(struct ka_dist *d, char *x, const int64_t *starts, int64_t size, int first,
                     enum ka_dtype add_as) {
  for (int s = 0; s < d->n - 1; s++) {
    int out = rank_at(d, first - s), in = rank_at(d, first - s - 1);
    int64_t n_out = (starts[out + 1] - starts[out]) * size;
    int64_t n_in = (starts[in + 1] - starts[in]) * size;
    if (!shift(d, x + starts[out] * size, n_out, x + starts[in] * size, n_in, add_as)) return false;
  }
  return true;
}

static bool reduce_scatter(struct ka_dist *d, const struct ka_dist_call *c) {
  enum ka_dtype t = (enum ka_dtype)c->header.dtype;
  return go_round(d, c->x, c->starts, (int64_t)ka_dtype_bytes(t), -1, t);
}

static bool all_gather(struct ka_dist *d, const struct ka_dist_call *c, int64_t size) {
  return go_round(d, c->x, c->starts, size, 0, KA_N_DTYPES);
}

static bool all_reduce(struct ka_dist *d, const struct ka_dist_call *c) {
  size_t size = ka_dtype_bytes((enum ka_dtype)c->header.dtype);
  return reduce_scatter(d, c) && all_gather(d, c, (int64_t)size);
}

/* Along the ring from root: while a piece goes on, the next one comes. */
static bool broadcast(struct ka_dist *d, const struct ka_dist_call *c) {
  int distance = (d->rank - c->header.root + d->n) % d->n;
  int from = distance > 0 ? rank_at(d, -1) : -1, to = distance < d->n - 1 ? rank_at(d, 1) : -1;
  int64_t n = c->header.n, n_pieces = (n + KA_DIST_PIECE - 1) / KA_DIST_PIECE;
  for (int64_t p = from < 0 ? 1 : 0; p <= n_pieces; p++) {
    int64_t in_at = p * KA_DIST_PIECE, out_at = in_at - KA_DIST_PIECE;
    int64_t n_in = from >= 0 && p < n_pieces ? at_most(n - in_at, KA_DIST_PIECE) : 0;
    int64_t n_out = to >= 0 && p > 0 ? at_most(n - out_at, KA_DIST_PIECE) : 0;
    if (!ka_dist_exchange(d, n_out ? to : -1, (char *)c->x + out_at, n_out, n_in ? from : -1,
                          (char *)c->x + in_at, n_in))
      return false;
  }
  return true;
}

static bool all_to_all(struct ka_dist *d, const struct ka_dist_call *c) {
  const char *in = c->in;
  char *out = c->x;
  const int64_t *is = c->in_starts, *os = c->starts;
  memcpy(out + os[d->rank], in + is[d->rank], (size_t)(is[d->rank + 1] - is[d->rank]));
  for (int s = 1; s < d->n; s++) {
    int to = rank_at(d, s), from = rank_at(d, -s);
    int64_t n_out = is[to + 1] - is[to], n_in = os[from + 1] - os[from];
    for (int64_t at = 0; at < n_out || at < n_in; at += KA_DIST_PIECE) {
      int64_t send = at < n_out ? at_most(n_out - at, KA_DIST_PIECE) : 0;
      int64_t receive = at < n_in ? at_most(n_in - at, KA_DIST_PIECE) : 0;
      if (!ka_dist_exchange(d, send ? to : -1, in + is[to] + at, send, receive ? from : -1,
                            out + os[from] + at, receive))
        return false;
    }
  }
  return true;
}

static void describe(const struct ka_dist_header *h, char *text, size_t n) {
  snprintf(text, n, "%s of %s, %lld %s (call %lld)", kinds[h->kind], h->what, (long long)h->n,
           h->dtype < KA_N_DTYPES ? ka_dtype_name((enum ka_dtype)h->dtype) : "bytes",
           (long long)h->sequence);
}

/* Does the left neighbour begin the same? By induction all do. */
static bool compare(struct ka_dist *d, const struct ka_dist_header *own) {
  struct ka_dist_header left;
  char a[160], b[160], text[480];
  if (!ka_dist_exchange(d, rank_at(d, 1), own, sizeof *own, rank_at(d, -1), &left, sizeof left))
    return false;
  if (memcmp(&left, own, sizeof left) == 0) return true;
  if (left.kind < 0 || left.kind >= KA_DIST_N_KINDS) left.kind = KA_DIST_CLOSE;
  left.what[KA_DIST_WHAT - 1] = 0;
  describe(own, a, sizeof a);
  describe(&left, b, sizeof b);
  snprintf(text, sizeof text,
           "the ranks left the common order: this one begins the %s, rank %d the %s", a,
           rank_at(d, -1), b);
  ka_dist_set_failure(d, KA_E_INTERNAL, d->rank, true, text);
  return false;
}

bool ka_dist_run(struct ka_dist *d, const struct ka_dist_call *c) {
  if (!compare(d, &c->header)) return false;
  switch ((enum ka_dist_kind)c->header.kind) {
  case KA_DIST_ALL_REDUCE:
    return all_reduce(d, c);
  case KA_DIST_REDUCE_SCATTER:
    return reduce_scatter(d, c);
  case KA_DIST_ALL_GATHER:
    return all_gather(d, c, 1);
  case KA_DIST_BROADCAST:
    return broadcast(d, c);
  case KA_DIST_ALL_TO_ALL:
    return all_to_all(d, c);
  default:
    return true;
  }
}
