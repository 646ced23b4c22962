/* SPDX-License-Identifier: Apache-2.0
 * What `kappa repair` tries, scores, chooses and writes; see repair.h. A point opens TUNED anew and
 * changes it in memory, so that two models are held at once, whatever is tried. */
#include "base/log.h"
#include "engine/forget/front.h"
#include "engine/forget/repair.h"
#include "engine/formats/config.h"
#include "engine/formats/hub.h"
#include "engine/report/card.h"
#include "engine/report/progress.h"
#include "engine/train/run_json.h"

#include <math.h>
#include <string.h>

enum { MAX_POINTS = KA_N_REPAIRS * KA_REPAIR_STRENGTHS + 1 };

static const double INTRUDER_COSINE = 0.5;

struct point {
  const char *method; /* "tuned": nothing was done */
  enum ka_repair_method how;
  double strength; /* NaN: nothing was done */
  double learned, forgot;
  json_t *report;
};

struct sweep {
  struct ka_ctx *ctx;
  const struct ka_repair_options *o;
  struct ka_forget_scoring scoring;
  struct point points[MAX_POINTS];
  int64_t n, chosen;
};

/* TUNED, repaired. Close the source in either case. */
static ka_status open_point(struct sweep *s, const struct point *p, struct ka_model_source *source,
                            struct ka_repair_counts *counts) {
  struct ka_ctx *ctx = s->ctx;
  *counts = (struct ka_repair_counts){0};
  KA_TRY(ka_model_source_open(ctx, source, s->o->tuned, s->o->tuned_base));
  if (isnan(p->strength)) return KA_STATUS_OK;
  return ka_repair_apply(ctx, &s->scoring.base.model.files, &source->files, p->how, p->strength,
                         counts);
}

static double score_of(const struct point *p, const char *key) {
  return ka_json_number(json_object_get(json_object_get(p->report, "scores"), key));
}

static ka_status score_point(struct sweep *s, struct point *p) {
  struct ka_ctx *ctx = s->ctx;
  struct ka_model_source source;
  struct ka_repair_counts counts;
  ka_status st = open_point(s, p, &source, &counts);
  if (ka_ok(st)) st = ka_forget_scoring_source(&s->scoring, &source, &p->report);
  ka_model_source_close(&source);
  KA_TRY(st);
  p->learned = score_of(p, "learned");
  p->forgot = score_of(p, "forgot");
  return KA_STATUS_OK;
}

static void list_points(struct sweep *s) {
  s->points[s->n++] = (struct point){.method = "tuned", .strength = NAN};
  for (int m = 0; m < KA_N_REPAIRS; m++)
    for (int64_t i = 0; i < s->o->n_strengths[m]; i++)
      s->points[s->n++] = (struct point){.method = ka_repair_info((enum ka_repair_method)m)->name,
                                         .how = (enum ka_repair_method)m,
                                         .strength = s->o->strengths[m][i]};
}

/* The least forgotten of those that learned enough; TUNED itself always has. */
static void choose(struct sweep *s) {
  double enough = s->o->keep * s->points[0].learned;
  s->chosen = 0;
  for (int64_t i = 1; i < s->n; i++)
    if (s->points[i].learned >= enough && s->points[i].forgot < s->points[s->chosen].forgot)
      s->chosen = i;
}

/* --- what is written -------------------------------------------------------------------------- */

static ka_status write_weights(struct ka_ctx *ctx, const struct ka_safetensors *files,
                               const char *dir) {
  static const char *const metadata[] = {"format", "pt"};
  struct ka_arena a;
  const char *path;
  ka_arena_init(&a, ctx, "repaired model");
  struct ka_st_out *out;
  ka_status st = KA_NEW(&a, &out, files->n_entries, "tensors");
  for (int64_t i = 0; i < files->n_entries && ka_ok(st); i++) {
    const struct ka_st_entry *e = &files->entries[i];
    out[i] = (struct ka_st_out){.name = e->name, .t = e->t};
    if (e->unreadable) st = ka_fail(ctx, KA_E_INPUT, "%s: %s", e->name, e->unreadable);
  }
  if (ka_ok(st)) st = ka_path_join(&a, &path, dir, "model.safetensors");
  if (ka_ok(st)) st = ka_st_write(ctx, path, out, files->n_entries, metadata, 1);
  ka_arena_deinit(&a);
  return st;
}

static ka_status card_facts(struct sweep *s, const struct point *p, json_t *facts) {
  struct ka_ctx *ctx = s->ctx;
  KA_TRY(ka_report_fact(ctx, facts, "base model", "%s", s->o->spec.base));
  KA_TRY(ka_report_fact(ctx, facts, "tuned model", "%s", s->o->tuned));
  if (isnan(p->strength))
    KA_TRY(ka_report_fact(ctx, facts, "repair", "none: no repair kept enough of what was learned"));
  else
    KA_TRY(ka_report_fact(ctx, facts, "repair", "%s at strength %g: %s", p->method, p->strength,
                          ka_repair_info(p->how)->doc));
  KA_TRY(ka_report_fact(ctx, facts, "chosen",
                        "of %lld by least forgetting, where %g of what the tuned model learned is "
                        "kept",
                        (long long)s->n, s->o->keep));
  return ka_report_by(ctx, facts);
}

/* Over the card that came along: it tells of TUNED. from: TUNED's directory. */
static ka_status write_card(struct sweep *s, const char *from) {
  struct ka_ctx *ctx = s->ctx;
  const struct point *p = &s->points[s->chosen];
  struct ka_report_card card = {.dir = s->o->out, .base_dir = from};
  struct ka_arena a;
  json_t *facts = json_array();
  json_t *root = json_pack("{s:s, s:o, s:O}", "kind", "repair", "settings", facts, "measures",
                           json_object_get(p->report, "measures"));
  if (!root) return ka_fail(ctx, KA_E_MEMORY, "model card: out of memory");
  ka_arena_init(&a, ctx, "model card");
  ka_status st = ka_hub_name(&a, KA_HUB_MODEL, s->o->spec.base, &card.base);
  if (ka_ok(st)) st = card_facts(s, p, facts);
  if (ka_ok(st)) st = ka_report_card_write(ctx, root, &card);
  json_decref(root);
  ka_arena_deinit(&a);
  return st;
}

static ka_status write_chosen(struct sweep *s) {
  struct ka_ctx *ctx = s->ctx;
  struct ka_model_source source;
  struct ka_repair_counts counts;
  const char *dir = s->o->out;
  ka_status st = open_point(s, &s->points[s->chosen], &source, &counts);
  if (ka_ok(st)) st = ka_model_dir_carry(ctx, source.dir, dir);
  if (ka_ok(st)) st = write_weights(ctx, &source.files, dir);
  if (ka_ok(st)) st = write_card(s, source.dir);
  ka_model_source_close(&source);
  if (ka_ok(st)) ka_info(ctx, "repair", "wrote %s", dir);
  return st;
}

static ka_status add_intruders(struct sweep *s, const struct point *p, const char *name,
                               json_t *out) {
  struct ka_ctx *ctx = s->ctx;
  struct ka_model_source source;
  struct ka_repair_counts counts;
  struct ka_repair_intruders found;
  ka_status st = open_point(s, p, &source, &counts);
  if (ka_ok(st))
    st = ka_repair_find_intruders(ctx, &s->scoring.base.model.files, &source.files,
                                  s->o->n_intruders, INTRUDER_COSINE, &found);
  ka_model_source_close(&source);
  KA_TRY(st);
  json_t *row = json_pack("{s:I, s:I, s:I, s:f}", "intruders", (json_int_t)found.n_intruders,
                          "vectors", (json_int_t)found.n_vectors, "matrices",
                          (json_int_t)found.n_matrices, "cosine", INTRUDER_COSINE);
  return ka_json_set(ctx, out, name, row);
}

/* --- the report ------------------------------------------------------------------------------- */

static bool on_front(const struct sweep *s, int64_t i) {
  struct ka_forget_point points[MAX_POINTS];
  int64_t order[MAX_POINTS], n;
  for (int64_t k = 0; k < s->n; k++)
    points[k] = (struct ka_forget_point){s->points[k].learned, s->points[k].forgot};
  n = ka_forget_front(points, s->n, order);
  for (int64_t k = 0; k < n; k++)
    if (order[k] == i) return true;
  return false;
}

static ka_status add_point(struct sweep *s, int64_t i, json_t *list) {
  struct ka_ctx *ctx = s->ctx;
  const struct point *p = &s->points[i];
  const json_t *measures = json_object_get(p->report, "measures"), *m;
  json_t *values = json_array();
  size_t k;
  json_array_foreach(measures, k, m) json_array_append(values, json_object_get(m, "value"));
  json_t *row =
      json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:b}", "method", p->method, "strength",
                ka_json_real(p->strength), "learned", ka_json_real(p->learned), "forgot",
                ka_json_real(p->forgot), "score", ka_json_real(score_of(p, "score")), "kl",
                ka_json_real(score_of(p, "kl")), "values", values, "front", (int)on_front(s, i),
                "chosen", (int)(i == s->chosen));
  return ka_json_append(ctx, list, row);
}

static ka_status fill(struct sweep *s, json_t *root) {
  struct ka_ctx *ctx = s->ctx;
  json_t *points = json_array(), *intruders = json_object();
  KA_TRY(ka_json_set(ctx, root, "points", points));
  KA_TRY(ka_json_set(ctx, root, "intruders", intruders));
  KA_TRY(ka_json_set(ctx, root, "keep", json_real(s->o->keep)));
  KA_TRY(ka_json_set(ctx, root, "measures",
                     json_deep_copy(json_object_get(s->points[0].report, "measures"))));
  for (int64_t i = 0; i < s->n; i++) KA_TRY(add_point(s, i, points));
  if (s->o->n_intruders == 0) return KA_STATUS_OK;
  KA_TRY(add_intruders(s, &s->points[0], "tuned", intruders));
  return s->chosen == 0 ? KA_STATUS_OK
                        : add_intruders(s, &s->points[s->chosen], "chosen", intruders);
}

static ka_status run(struct sweep *s, json_t *root) {
  struct ka_ctx *ctx = s->ctx;
  struct ka_progress bar;
  ka_status st = KA_STATUS_OK;
  list_points(s);
  ka_progress_begin(ctx, &bar, "repair", 0, s->n);
  for (int64_t i = 0; i < s->n && ka_ok(st); i++) {
    ka_progress_update(&bar, i, s->points[i].method);
    st = score_point(s, &s->points[i]);
  }
  ka_progress_end(&bar);
  KA_TRY(st);
  if (!(s->points[0].learned > 0))
    ka_warn(ctx, "repair", "%s learned nothing of the new: there is no gain to keep", s->o->tuned);
  choose(s);
  KA_TRY(fill(s, root));
  return s->o->out ? write_chosen(s) : KA_STATUS_OK;
}

ka_status ka_repair_sweep(struct ka_ctx *ctx, const struct ka_repair_options *o, json_t **report) {
  *report = NULL;
  struct sweep *s;
  KA_TRY(KA_NEW_HEAP(ctx, &s, 1, "repair"));
  s->ctx = ctx;
  s->o = o;
  json_t *root = json_object();
  ka_status st = root ? KA_STATUS_OK : ka_fail(ctx, KA_E_MEMORY, "repair: out of memory");
  if (ka_ok(st) && o->out) st = ka_make_dirs(ctx, o->out); /* rather now than after hours */
  if (ka_ok(st)) {
    st = ka_forget_scoring_open(ctx, &s->scoring, &o->spec);
    if (ka_ok(st) && (ka_measures_count(&s->scoring.measures, true) == 0 ||
                      ka_measures_count(&s->scoring.measures, false) == 0))
      st = ka_fail(ctx, KA_E_USAGE,
                   "repair: measures of both sides are needed: --text or --tasks of what is to be "
                   "kept, --new-text or --new-tasks of what was learned");
    if (ka_ok(st)) st = run(s, root);
    ka_forget_scoring_close(&s->scoring);
  }
  for (int64_t i = 0; i < s->n; i++) json_decref(s->points[i].report);
  ka_free(s);
  if (ka_ok(st)) *report = root;
  if (!ka_ok(st)) json_decref(root);
  return st;
}
