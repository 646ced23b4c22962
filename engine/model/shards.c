/* SPDX-License-Identifier: Apache-2.0
 * How ranks split a trained slice: evenly, by elements where that is one run of memory, else by
 * rows. Depends on the selection and the number of ranks alone. */
#include "engine/model/model.h"

/* The slice's rows lie behind one another in its tensor. */
static bool is_run(const struct ka_model *m, const struct ka_slice *s) {
  struct ka_tensor whole = ka_tensor_as_matrix(m->params[s->param].stored);
  return s->n_rows == 1 || s->n_cols == whole.shape[1];
}

static int64_t share(int64_t n, int r, int n_ranks) {
  return n / n_ranks * r + n % n_ranks * r / n_ranks;
}

int64_t ka_model_shard_start(const struct ka_model *m, int64_t i, int r) {
  const struct ka_slice *s = &m->slices[i];
  int n = m->shards.n < 1 ? 1 : m->shards.n;
  if (is_run(m, s)) return share(s->n_rows * s->n_cols, r, n);
  return share(s->n_rows, r, n) * s->n_cols;
}

struct ka_tensor ka_model_shard_view(const struct ka_model *m, int64_t i, struct ka_tensor whole) {
  const struct ka_slice *s = &m->slices[i];
  if (m->shards.n < 2) return whole;
  int64_t first = ka_model_shard_start(m, i, m->shards.rank);
  int64_t n = ka_model_shard_start(m, i, m->shards.rank + 1) - first;
  if (!is_run(m, s)) return ka_tensor_slice(whole, first / s->n_cols, n / s->n_cols, 0, s->n_cols);
  char *at = whole.data ? (char *)whole.data + (size_t)first * ka_dtype_bytes(whole.dtype) : NULL;
  return ka_tensor_2d(at, whole.dtype, 1, n);
}
