/* SPDX-License-Identifier: Apache-2.0
 * See error_rate.h. Texts become lists of pieces, pieces are compared by their bytes. */
#include "engine/eval/error_rate.h"

#include "base/arena.h"

#include <string.h>

struct piece {
  const char *p;
  size_t n;
};

/* The pieces of a text; returns their number. */
static int64_t split(const struct ka_str *s, bool words, struct piece *out) {
  int64_t n = 0, last = 0; /* last: characters up to the last that is not white space */
  size_t start = 0;
  bool inside = false;
  for (size_t i = 0, len; i < s->len; i += len) {
    uint32_t c = 0;
    len = (size_t)ka_utf8_decode(s->data + i, s->len - i, &c);
    if (len == 0) len = 1;
    bool space = ka_is_space(c);
    if (words && !space && !inside) start = i;
    if (words && space && inside) n++;
    if (words && !space) out[n] = (struct piece){s->data + start, i + len - start};
    if (!words && (!space || n > 0)) {
      out[n] = (struct piece){s->data + i, len};
      n++;
      if (!space) last = n;
    }
    inside = !space;
  }
  return words ? n + inside : last;
}

static bool same(const struct piece *a, const struct piece *b) {
  return a->n == b->n && memcmp(a->p, b->p, a->n) == 0;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* row [n_b + 1] */
static int64_t distance(const struct piece *a, int64_t n_a, const struct piece *b, int64_t n_b,
                        int64_t *row) {
  for (int64_t j = 0; j <= n_b; j++) row[j] = j;
  for (int64_t i = 1; i <= n_a; i++) {
    int64_t diagonal = row[0];
    row[0] = i;
    for (int64_t j = 1; j <= n_b; j++) {
      int64_t replaced = diagonal + !same(&a[i - 1], &b[j - 1]);
      diagonal = row[j];
      row[j] = least(replaced, least(row[j], row[j - 1]) + 1);
    }
  }
  return row[n_b];
}

ka_status ka_eval_text_errors(struct ka_ctx *ctx, const struct ka_str *right,
                              const struct ka_str *answer, bool words, int64_t *n_errors,
                              int64_t *n_right) {
  int64_t n_a = (int64_t)right->len + 1, n_b = (int64_t)answer->len + 1; /* at most so many */
  void *pieces, *row;
  KA_TRY(ka_alloc_n(ctx, &pieces, n_a + n_b, sizeof(struct piece), "transcript"));
  ka_status st = ka_alloc_n(ctx, &row, n_b + 1, sizeof(int64_t), "transcript");
  if (ka_ok(st)) {
    struct piece *a = pieces, *b = a + n_a;
    *n_right = split(right, words, a);
    *n_errors = distance(a, *n_right, b, split(answer, words, b), row);
    ka_free(row);
  }
  ka_free(pieces);
  return st;
}
