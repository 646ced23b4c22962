/* SPDX-License-Identifier: Apache-2.0
 * See scorer.h. A sequence's inputs are its ids but the last. Sorted as words in a dictionary,
 * beginnings stand before what continues them:
 *
 *   Q a        is scored with the next
 *   Q a b      leaf
 *   Q c        leaf; its kept beginning is Q */
#include "engine/eval/scorer.h"

#include "engine/model/decode.h"

#include <stdlib.h>
#include <string.h>

enum { SHARE_MIN = 64 }; /* on CPUs it pays from 16 to 32 on, docs/evaluation.md */

struct leaf {
  int64_t first, n_riders;                      /* of the order; the last one is the longest */
  int64_t n_inputs, n_pairs, first_row, shared; /* shared: with the leaf before, all unscored */
  bool kept;
};

struct scorer {
  struct ka_ctx *ctx;
  struct ka_model *m;
  struct ka_eval_sequence *s;
  const struct ka_eval_scoring *o;
  int64_t n, n_leaves, rows, n_done;
  int64_t *order;
  struct leaf *leaves;
  struct ka_decoder decoder;
  int32_t *ids, *position, *start; /* [rows], of one pass */
  int32_t *row, *target, *best;    /* of its pairs */
  float *loss;
  int64_t *owner; /* sequence of each pair */
};

/* --- order ------------------------------------------------------------------- */

static int64_t common(const struct ka_eval_sequence *a, const struct ka_eval_sequence *b) {
  int64_t n = (a->n < b->n ? a->n : b->n) - 1, i = 0;
  while (i < n && a->ids[i] == b->ids[i]) i++;
  return i;
}

static int compare(const void *x, const void *y, void *sequences) {
  const struct ka_eval_sequence *s = sequences;
  int64_t i = *(const int64_t *)x, j = *(const int64_t *)y;
  const struct ka_eval_sequence *a = &s[i], *b = &s[j];
  int64_t k = common(a, b);
  bool a_ends = k == a->n - 1, b_ends = k == b->n - 1;
  if (a_ends || b_ends) return a_ends && b_ends ? (i < j ? -1 : i > j) : a_ends ? -1 : 1;
  return a->ids[k] < b->ids[k] ? -1 : 1;
}

static const struct ka_eval_sequence *longest(const struct scorer *x, const struct leaf *l) {
  return &x->s[x->order[l->first + l->n_riders - 1]];
}

/* Groups riders under their leaves. */
static void find_leaves(struct scorer *x) {
  struct leaf *l = NULL;
  for (int64_t i = 0; i < x->n; i++) {
    const struct ka_eval_sequence *s = &x->s[x->order[i]];
    bool begins_next =
        l && common(longest(x, l), s) == l->n_inputs && l->n_pairs + s->n_targets <= x->rows;
    if (!begins_next) {
      l = &x->leaves[x->n_leaves++];
      *l = (struct leaf){.first = i, .first_row = s->n};
    }
    int64_t row = s->n - 1 - s->n_targets;
    l->n_riders++;
    l->n_inputs = s->n - 1;
    l->n_pairs += s->n_targets;
    if (row < l->first_row) l->first_row = row;
  }
}

/* Neighbours whose shared beginning is long enough keep it; leaves that no pass holds do too. */
static void find_kept(struct scorer *x) {
  int64_t least = x->o->share_min ? x->o->share_min : SHARE_MIN;
  for (int64_t i = 0; i < x->n_leaves; i++) {
    struct leaf *l = &x->leaves[i];
    if (i > 0) {
      l->shared = common(longest(x, l - 1), longest(x, l));
      if (l->shared > l->first_row) l->shared = l->first_row;
    }
    if (l->n_inputs > x->rows) l->kept = true;
    if (i > 0 && least > 0 && l->shared >= least) (l - 1)->kept = l->kept = true;
  }
}

/* --- passes ------------------------------------------------------------------ */

/* The pairs of a leaf whose row 0 is at `offset`, sorted by row; returns how many. */
static int64_t list_pairs(struct scorer *x, const struct leaf *l, int64_t offset, int64_t at) {
  int64_t n = at;
  for (int64_t r = l->first_row; r < l->n_inputs; r++)
    for (int64_t k = 0; k < l->n_riders; k++) {
      int64_t i = x->order[l->first + k];
      const struct ka_eval_sequence *s = &x->s[i];
      if (r < s->n - 1 - s->n_targets || r >= s->n - 1) continue;
      x->row[n] = (int32_t)(offset + r);
      x->target[n] = s->ids[r + 1];
      x->owner[n++] = i;
    }
  return n - at;
}

static void take_scores(struct scorer *x, int64_t n_pairs) {
  for (int64_t p = 0; p < n_pairs; p++) {
    const struct ka_eval_sequence *s = &x->s[x->owner[p]];
    *s->ll -= (double)x->loss[p];
    *s->greedy = *s->greedy && x->best[p] == x->target[p];
  }
}

static ka_status done(struct scorer *x, int64_t n_sequences) {
  x->n_done += n_sequences;
  if (x->o->progress) x->o->progress(x->o->user, x->n_done);
  return ka_check_interrupted(x->ctx, "evaluation");
}

static ka_status run_kept(struct scorer *x, const struct leaf *l) {
  struct ka_ctx *ctx = x->ctx;
  const struct ka_eval_sequence *s = longest(x, l);
  int64_t past = l->shared < x->decoder.past ? l->shared : x->decoder.past;
  struct ka_pairs pairs = {.row = x->row, .target = x->target};
  ka_decoder_rewind(&x->decoder, past);
  pairs.n = list_pairs(x, l, -past, 0);
  KA_TRY(
      ka_decoder_score(&x->decoder, s->ids + past, l->n_inputs - past, &pairs, x->loss, x->best));
  take_scores(x, pairs.n);
  return done(x, l->n_riders);
}

static ka_status run_all_kept(struct scorer *x) {
  struct ka_ctx *ctx = x->ctx;
  int64_t capacity = 0;
  for (int64_t i = 0; i < x->n_leaves; i++)
    if (x->leaves[i].kept && x->leaves[i].n_inputs > capacity) capacity = x->leaves[i].n_inputs;
  if (capacity == 0) return KA_STATUS_OK;
  KA_TRY(ka_decoder_attach(&x->decoder, x->m, 1, capacity));
  for (int64_t i = 0; i < x->n_leaves; i++) {
    const struct leaf *l = &x->leaves[i];
    if (!l->kept) continue;
    if (i == 0 || !(l - 1)->kept) ka_decoder_rewind(&x->decoder, 0);
    KA_TRY(run_kept(x, l));
  }
  return KA_STATUS_OK;
}

static int longest_first(const void *a, const void *b) {
  const struct leaf *x = a, *y = b;
  if (x->n_inputs != y->n_inputs) return x->n_inputs > y->n_inputs ? -1 : 1;
  return x->first < y->first ? -1 : x->first > y->first;
}

struct pass {
  int64_t T, n_pairs, n_leaves, n_sequences;
};

static void add_leaf(struct scorer *x, struct pass *p, const struct leaf *l) {
  const struct ka_eval_sequence *s = longest(x, l);
  p->n_pairs += list_pairs(x, l, p->T, p->n_pairs);
  for (int64_t i = 0; i < l->n_inputs; i++) {
    x->ids[p->T + i] = s->ids[i];
    x->position[p->T + i] = (int32_t)i;
    x->start[p->T + i] = (int32_t)p->T;
  }
  p->T += l->n_inputs;
  p->n_leaves++;
  p->n_sequences += l->n_riders;
}

/* Where few shapes are better a pass is filled up with tokens that see only themselves. */
static void fill_up(struct scorer *x, struct pass *p) {
  int64_t T = ka_dev_round(x->m->dev, p->T, x->rows);
  for (; p->T < T && p->T < x->rows; p->T++) {
    x->ids[p->T] = x->position[p->T] = 0;
    x->start[p->T] = (int32_t)p->T;
  }
}

static ka_status run_pass(struct scorer *x, struct pass *p) {
  struct ka_ctx *ctx = x->ctx;
  if (p->n_leaves == 0) return KA_STATUS_OK;
  fill_up(x, p);
  struct ka_batch batch = {.B = 1,
                           .T = p->T,
                           .input_ids = x->ids,
                           .position = x->position,
                           .doc_start = x->start,
                           .pairs = {p->n_pairs, x->row, x->target}};
  KA_TRY(ka_model_score(x->m, &batch, x->loss, x->best));
  take_scores(x, p->n_pairs);
  ka_status st = done(x, p->n_sequences);
  *p = (struct pass){0};
  return st;
}

static ka_status run_packed(struct scorer *x) {
  struct ka_ctx *ctx = x->ctx;
  struct pass p = {0};
  qsort(x->leaves, (size_t)x->n_leaves, sizeof *x->leaves, longest_first);
  for (int64_t i = 0; i < x->n_leaves; i++) {
    const struct leaf *l = &x->leaves[i];
    if (l->kept) continue;
    bool full = p.T + l->n_inputs > x->rows || p.n_pairs + l->n_pairs > x->rows ||
                (x->o->batch_size > 0 && p.n_leaves == x->o->batch_size);
    if (full) KA_TRY(run_pass(x, &p));
    add_leaf(x, &p, l);
  }
  return run_pass(x, &p);
}

/* --- all --------------------------------------------------------------------- */

static ka_status check_ids(const struct scorer *x) {
  int64_t V = x->m->recipe.V;
  for (int64_t i = 0; i < x->n; i++)
    for (int64_t k = 0; k < x->s[i].n; k++)
      if (x->s[i].ids[k] < 0 || x->s[i].ids[k] >= V)
        return ka_fail(x->ctx, KA_E_INPUT,
                       "token id %d is outside the model's vocabulary of %lld; the tokenizer is "
                       "not this model's",
                       x->s[i].ids[k], (long long)V);
  return KA_STATUS_OK;
}

static ka_status allocate(struct scorer *x, struct ka_arena *a) {
  struct ka_ctx *ctx = x->ctx;
  int64_t most = x->rows; /* pairs of a pass, or of one sequence in several */
  for (int64_t i = 0; i < x->n; i++)
    if (x->s[i].n_targets > most) most = x->s[i].n_targets;
  const struct {
    int32_t **p;
    int64_t n;
  } ints[] = {{&x->ids, x->rows}, {&x->position, x->rows}, {&x->start, x->rows},
              {&x->row, most},    {&x->target, most},      {&x->best, most}};
  for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
    KA_TRY(KA_NEW(a, ints[i].p, ints[i].n, "evaluation"));
  }
  KA_TRY(KA_NEW(a, &x->loss, most, "evaluation"));
  KA_TRY(KA_NEW(a, &x->owner, most, "evaluation"));
  KA_TRY(KA_NEW(a, &x->order, x->n, "evaluation"));
  return KA_NEW(a, &x->leaves, x->n, "evaluation");
}

static ka_status score(struct scorer *x, struct ka_arena *a) {
  struct ka_ctx *ctx = x->ctx;
  KA_TRY(check_ids(x));
  KA_TRY(allocate(x, a));
  for (int64_t i = 0; i < x->n; i++) x->order[i] = i;
  qsort_r(x->order, (size_t)x->n, sizeof *x->order, compare, x->s);
  find_leaves(x);
  find_kept(x);
  KA_TRY(run_all_kept(x));
  return run_packed(x);
}

ka_status ka_eval_score_sequences(struct ka_ctx *ctx, struct ka_model *m,
                                  struct ka_eval_sequence *s, int64_t n,
                                  const struct ka_eval_scoring *o) {
  struct scorer x = {.ctx = ctx, .m = m, .s = s, .o = o, .n = n, .rows = ka_model_rows(m)};
  struct ka_arena a;
  if (n == 0) return KA_STATUS_OK;
  ka_arena_init(&a, ctx, "evaluation");
  ka_status st = score(&x, &a);
  ka_decoder_deinit(&x.decoder);
  ka_arena_deinit(&a);
  return st;
}
