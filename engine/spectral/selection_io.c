/* SPDX-License-Identifier: Apache-2.0
 *
 * selection.json: {"version": 1, "base", "metric", "order", "seed", "units": [{"name", "unit",
 * "tensor", "rows": [a,b]|null, "cols": [a,b]|null, "lr_scale", "metrics": {...}}]}; of metric
 * affinity also "affinity": {"score", "p", "tokens"}. People edit
 * it: only "units" with "name" or "tensor" is needed; an lr_scale of 1 is left out. */
#include "base/json.h"
#include "engine/spectral/selection.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static json_t *range(const int64_t r[2]) {
  return r[0] < 0 ? json_null() : json_pack("[I,I]", (json_int_t)r[0], (json_int_t)r[1]);
}

static const char *kind_of(const char *name) {
  const char *part = strchr(name, '#');
  if (!part) return "tensor";
  if (strncmp(part, "#head", 5) == 0) return "head";
  if (strncmp(part, "#expert", 7) == 0) return "expert";
  return "tensor";
}

static json_t *metrics_of(const struct ka_selected *u) {
  json_t *o = json_object();
  for (int i = 0; i < KA_N_METRICS; i++) {
    double v = u->metrics[i];
    if (isfinite(v))
      json_object_set_new(o, ka_spectral_metric_info((enum ka_spectral_metric)i)->name,
                          json_real(v));
  }
  if (isfinite(u->kappa_rel_bound))
    json_object_set_new(o, "kappa_rel_bound", json_real(u->kappa_rel_bound));
  if (isfinite(u->affinity)) json_object_set_new(o, "affinity", json_real(u->affinity));
  return o;
}

ka_status ka_selection_write(struct ka_ctx *ctx, const struct ka_selection *s, const char *path) {
  json_t *units = json_array();
  for (int64_t i = 0; i < s->n_units; i++) {
    const struct ka_selected *u = &s->units[i];
    json_t *o = json_pack("{s:s, s:s, s:s, s:o, s:o, s:o}", "name", u->name, "unit",
                          kind_of(u->name), "tensor", u->tensor, "rows", range(u->rows), "cols",
                          range(u->cols), "metrics", metrics_of(u));
    if (u->lr_scale != 1) json_object_set_new(o, "lr_scale", json_real(u->lr_scale));
    json_array_append_new(units, o);
  }
  json_t *root =
      json_pack("{s:i, s:s?, s:s, s:s, s:I, s:o}", "version", 1, "base", s->base, "metric",
                s->metric ? s->metric : "kappa", "order", s->highest ? "highest" : "lowest", "seed",
                (json_int_t)s->seed, "units", units);
  if (!root) return ka_fail(ctx, KA_E_MEMORY, "%s: no memory to write it", path);
  const struct ka_affinity *a = &s->affinity;
  if (a->score)
    json_object_set_new(
        root, "affinity",
        json_pack("{s:s, s:f, s:I}", "score", a->score, "p", a->p, "tokens", (json_int_t)a->n_tok));
  ka_status st = ka_json_write(ctx, root, path);
  json_decref(root);
  return st;
}

static ka_status read_range(struct ka_ctx *ctx, const char *path, int64_t i, const json_t *unit,
                            const char *key, int64_t out[2]) {
  const json_t *v = json_object_get(unit, key);
  out[0] = out[1] = -1;
  if (!v || json_is_null(v)) return KA_STATUS_OK;
  const json_t *a = json_array_get(v, 0), *b = json_array_get(v, 1);
  if (json_is_integer(a) && json_is_integer(b) && json_array_size(v) == 2) {
    out[0] = json_integer_value(a);
    out[1] = json_integer_value(b);
    if (out[0] >= 0 && out[0] < out[1]) return KA_STATUS_OK;
  }
  return ka_fail(ctx, KA_E_INPUT,
                 "%s: units[%lld].%s: expected null or [first, end] with 0 <= first < end", path,
                 (long long)i, key);
}

static ka_status read_metrics(struct ka_ctx *ctx, const char *what, const json_t *unit,
                              struct ka_selected *u) {
  const json_t *m = json_object_get(unit, "metrics");
  for (int i = 0; i < KA_N_METRICS; i++)
    KA_TRY(ka_json_f64_or(ctx, what, m, ka_spectral_metric_info((enum ka_spectral_metric)i)->name,
                          NAN, &u->metrics[i]));
  KA_TRY(ka_json_f64_or(ctx, what, m, "affinity", NAN, &u->affinity));
  return ka_json_f64_or(ctx, what, m, "kappa_rel_bound", NAN, &u->kappa_rel_bound);
}

static ka_status read_unit(struct ka_ctx *ctx, struct ka_arena *arena, const char *path, int64_t i,
                           const json_t *unit, struct ka_selected *u) {
  char what[512];
  const char *name = NULL, *tensor = NULL;
  snprintf(what, sizeof what, "%s: units[%lld]", path, (long long)i);
  if (!json_is_object(unit)) return ka_fail(ctx, KA_E_INPUT, "%s: expected an object", what);
  KA_TRY(ka_json_str_or(ctx, what, unit, "name", NULL, &name));
  KA_TRY(ka_json_str_or(ctx, what, unit, "tensor", NULL, &tensor));
  if (!name) name = tensor;
  if (!name) return ka_fail(ctx, KA_E_INPUT, "%s: needs a name", what);
  if (!tensor) tensor = name;
  *u = (struct ka_selected){0};
  KA_TRY(ka_arena_str(arena, &u->name, name, strlen(name)));
  KA_TRY(ka_arena_str(arena, &u->tensor, tensor, strcspn(tensor, "#")));
  KA_TRY(read_range(ctx, path, i, unit, "rows", u->rows));
  KA_TRY(read_range(ctx, path, i, unit, "cols", u->cols));
  if (strchr(name, '#') && u->rows[0] < 0 && u->cols[0] < 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: %s is a part of a tensor and needs rows or cols", what,
                   name);
  KA_TRY(ka_json_f64_or(ctx, what, unit, "lr_scale", 1, &u->lr_scale));
  if (!(u->lr_scale > 0 && u->lr_scale <= 1000))
    return ka_fail(ctx, KA_E_INPUT, "%s.lr_scale: got %g, expected above 0, at most 1000", what,
                   u->lr_scale);
  return read_metrics(ctx, what, unit, u);
}

static bool meet(const int64_t a[2], const int64_t b[2]) {
  return a[0] < 0 || b[0] < 0 || (a[0] < b[1] && b[0] < a[1]);
}

static ka_status refuse_overlap(struct ka_ctx *ctx, const struct ka_selection *s,
                                const char *path) {
  for (int64_t i = 0; i < s->n_units; i++)
    for (int64_t j = 0; j < i; j++) {
      const struct ka_selected *a = &s->units[i], *b = &s->units[j];
      if (strcmp(a->tensor, b->tensor) == 0 && meet(a->rows, b->rows) && meet(a->cols, b->cols))
        return ka_fail(ctx, KA_E_INPUT, "%s: units[%lld] (%s) and units[%lld] (%s) overlap", path,
                       (long long)j, b->name, (long long)i, a->name);
    }
  return KA_STATUS_OK;
}

static ka_status read_affinity(struct ka_ctx *ctx, struct ka_arena *arena, const char *path,
                               const json_t *root, struct ka_affinity *out) {
  const json_t *a = json_object_get(root, "affinity");
  const char *text = NULL;
  if (!a) return KA_STATUS_OK;
  KA_TRY(ka_json_str_or(ctx, path, a, "score", "token", &text));
  KA_TRY(ka_arena_str(arena, &out->score, text, strlen(text)));
  KA_TRY(ka_json_f64_or(ctx, path, a, "p", 0, &out->p));
  return ka_json_i64_or(ctx, path, a, "tokens", 0, &out->n_tok);
}

static ka_status read_root(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_selection *out,
                           const char *path, const json_t *root) {
  const char *text = NULL;
  int64_t version = 1, seed = 0;
  if (!json_is_object(root)) return ka_fail(ctx, KA_E_INPUT, "%s: expected an object", path);
  KA_TRY(ka_json_i64_or(ctx, path, root, "version", 1, &version));
  if (version != 1)
    return ka_fail(ctx, KA_E_INPUT, "%s: version: got %lld, expected 1", path, (long long)version);
  KA_TRY(ka_json_i64_or(ctx, path, root, "seed", 0, &seed));
  out->seed = (uint64_t)seed;
  KA_TRY(ka_json_str_or(ctx, path, root, "base", NULL, &text));
  if (text) KA_TRY(ka_arena_str(arena, &out->base, text, strlen(text)));
  KA_TRY(ka_json_str_or(ctx, path, root, "metric", "kappa", &text));
  KA_TRY(ka_arena_str(arena, &out->metric, text, strlen(text)));
  KA_TRY(ka_json_str_or(ctx, path, root, "order", "lowest", &text));
  out->highest = strcmp(text, "highest") == 0;
  if (!out->highest && strcmp(text, "lowest") != 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: order: got \"%s\", expected lowest|highest", path, text);
  KA_TRY(read_affinity(ctx, arena, path, root, &out->affinity));
  const json_t *units = json_object_get(root, "units");
  if (!json_is_array(units) || json_array_size(units) == 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: units: expected a list of at least one unit", path);
  out->n_units = (int64_t)json_array_size(units);
  KA_TRY(KA_NEW(arena, &out->units, out->n_units, "selection"));
  for (int64_t i = 0; i < out->n_units; i++)
    KA_TRY(read_unit(ctx, arena, path, i, json_array_get(units, (size_t)i), &out->units[i]));
  return refuse_overlap(ctx, out, path);
}

ka_status ka_selection_read(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_selection *out,
                            const char *path) {
  json_t *root = NULL;
  *out = (struct ka_selection){0};
  KA_TRY(ka_json_load(ctx, path, &root));
  ka_status st = read_root(ctx, arena, out, path, root);
  json_decref(root);
  return st;
}
