/* SPDX-License-Identifier: Apache-2.0
 * See run_units.h. */
#include "engine/train/run_units.h"

#include "engine/spectral/units.h"

#include <math.h>
#include <string.h>

struct table {
  struct ka_run *r;
  struct ka_arena arena;
  struct ka_unit *units;
  struct ka_spectrum *results; /* NULL: not analysed */
  int64_t n;
  const json_t *before, *after;
  json_t *rows;
};

/* A whole whose parts are listed behind it would be shown twice. */
static bool stands_for_parts(const struct table *t, int64_t i) {
  const struct ka_unit *u = &t->units[i], *next = i + 1 < t->n ? u + 1 : NULL;
  return u->has_parts || (!strchr(u->name, '#') && next && strcmp(next->tensor, u->tensor) == 0);
}

static ka_status list_units(struct table *t) {
  struct ka_run *r = t->r;
  struct ka_ctx *ctx = r->ctx;
  int kind = r->job->selection.unit == KA_UNIT_HEAD ? KA_UNIT_HEAD : KA_UNIT_TENSOR;
  KA_TRY(ka_units_of_file(ctx, &t->arena, &r->open.model.files, &r->open.model.config, kind, false,
                          &t->units, &t->n));
  int64_t n = 0;
  for (int64_t i = 0; i < t->n; i++)
    if (!stands_for_parts(t, i)) t->units[n++] = t->units[i];
  t->n = n;
  return KA_STATUS_OK;
}

static ka_status analyze(struct table *t) {
  struct ka_ctx *ctx = t->r->ctx;
  struct ka_spectral_options options = {0};
  if (ka_spectral_flops(t->units, t->n, &options) > KA_ANALYZE_FLOPS) return KA_STATUS_OK;
  KA_TRY(KA_NEW(&t->arena, &t->results, t->n, "spectra"));
  return ka_train_analyze(ctx, &t->r->open.dev, &t->arena, t->results, t->units, t->n, true);
}

static int64_t overlap(int64_t a, int64_t b, int64_t c, int64_t d) {
  int64_t from = a > c ? a : c, to = b < d ? b : d;
  return to > from ? to - from : 0;
}

static double kappa_of(const json_t *kappa, const char *slice) {
  return ka_json_number(json_object_get(kappa, slice));
}

static ka_status add_row(struct table *t, const char *name, const char *role, int layer, int64_t n,
                         double trained, double rate, double before, double after) {
  json_t *row =
      json_pack("{s:s, s:s, s:i, s:I, s:f, s:f, s:o, s:o}", "name", name, "role", role ? role : "?",
                "layer", layer, "params", (json_int_t)n, "trained", trained, "rate", rate,
                "kappa_before", ka_json_real(before), "kappa_after", ka_json_real(after));
  return ka_json_append(t->r->ctx, t->rows, row);
}

static ka_status add_matrix(struct table *t, int64_t i) {
  struct ka_ctx *ctx = t->r->ctx;
  const struct ka_unit *u = &t->units[i];
  const struct ka_optim *o = &t->r->optim;
  int64_t R = u->view.shape[0], C = u->view.shape[1], n_trained = 0;
  int64_t row = u->rows[0] >= 0 ? u->rows[0] : 0, col = u->cols[0] >= 0 ? u->cols[0] : 0;
  double before = t->results && !t->results[i].error ? t->results[i].metrics[KA_METRIC_KAPPA] : NAN;
  double after = NAN, rate = 0;
  for (int64_t k = 0; k < o->n; k++) {
    const struct ka_slice *s = &t->r->open.model.slices[k];
    const char *name;
    if (strcmp(o->slices[k].tensor, u->tensor) != 0) continue;
    int64_t common = overlap(row, row + R, s->row, s->row + s->n_rows) *
                     overlap(col, col + C, s->col, s->col + s->n_cols);
    if (common == 0) continue;
    n_trained += common;
    rate = fmax(rate, o->slices[k].part.lr_scale);
    if (s->row != row || s->col != col || s->n_rows != R || s->n_cols != C) continue;
    KA_TRY(ka_optim_slice_name(&t->arena, o, k, &name));
    if (!isnan(kappa_of(t->before, name))) before = kappa_of(t->before, name);
    after = kappa_of(t->after, name);
  }
  return add_row(t, u->name, u->role, u->layer, R * C, (double)n_trained / (double)(R * C), rate,
                 before, after);
}

static ka_status fill(struct table *t) {
  struct ka_ctx *ctx = t->r->ctx;
  KA_TRY(list_units(t));
  KA_TRY(analyze(t));
  for (int64_t i = 0; i < t->n; i++) KA_TRY(add_matrix(t, i));
  for (int64_t i = 0; i < t->r->optim.n; i++) {
    const struct ka_slice *s = &t->r->open.model.slices[i];
    const struct ka_param *p = &t->r->open.model.params[s->param];
    if (p->stored.n_dim < 2 || ka_projector_owns(&t->r->open.model, s))
      KA_TRY(add_row(t, p->name, NULL, p->layer, s->n_rows * s->n_cols, 1,
                     t->r->optim.slices[i].part.lr_scale, NAN, NAN));
  }
  return KA_STATUS_OK;
}

ka_status ka_run_units(struct ka_run *r, const json_t *before, const json_t *after, json_t **out) {
  struct table t = {.r = r, .before = before, .after = after, .rows = json_array()};
  if (!t.rows) return ka_fail(r->ctx, KA_E_MEMORY, "report: out of memory");
  ka_arena_init(&t.arena, r->ctx, "report units");
  ka_status st = fill(&t);
  ka_arena_deinit(&t.arena);
  *out = ka_ok(st) ? t.rows : NULL;
  if (!ka_ok(st)) json_decref(t.rows);
  return st;
}
