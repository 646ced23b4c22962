/* SPDX-License-Identifier: Apache-2.0
 * The job's selection applied; see select.h. */
#include "engine/train/select.h"

#include "base/log.h"
#include "engine/model/projector.h"
#include "engine/report/progress.h"
#include "engine/spectral/cache.h"
#include "engine/spectral/choose.h"
#include "engine/spectral/units.h"
#include "engine/train/gather.h"

#include <math.h>
#include <string.h>

ka_status ka_select_spec_of_job(struct ka_arena *arena, const struct ka_job *job,
                                struct ka_select_spec *out) {
  struct ka_ctx *ctx = arena->ctx;
  const struct ka_job_selection *s = &job->selection;
  *out = ka_select_spec_default();
  out->metric = s->metric;
  out->highest = s->order == KA_ORDER_HIGHEST;
  out->count = s->count > 0 ? s->count : -1;
  out->fraction = s->fraction > 0 ? s->fraction : -1;
  out->params = s->params > 0 ? s->params : -1;
  out->unit = s->unit;
  out->include = s->include.items;
  out->n_include = s->include.n;
  out->exclude = s->exclude.items;
  out->n_exclude = ka_job_given(job, "selection.exclude") ? s->exclude.n : -1;
  out->max_dim = s->max_dim;
  out->min_layer = s->min_layer;
  out->seed = (uint64_t)(ka_job_given(job, "selection.seed") ? s->seed : job->seed);
  out->soft = s->mode == KA_MODE_SOFT;
  out->power = s->power;
  out->p = s->p;
  KA_TRY(ka_select_quotas(ctx, arena, s->quotas.items, s->quotas.n, out));
  return KA_STATUS_OK;
}

static void show(void *user, double done_flops, double all_flops, const char *unit) {
  struct ka_progress *p = user;
  p->total = (int64_t)(all_flops / 1e6) + 1;
  ka_progress_update(p, (int64_t)(done_flops / 1e6), unit ? unit : "");
}

ka_status ka_train_analyze(struct ka_ctx *ctx, struct ka_dev *dev, struct ka_arena *arena,
                           struct ka_spectrum *results, const struct ka_unit *units, int64_t n,
                           bool cache) {
  struct ka_progress bar;
  struct ka_spectral_options options = {.progress = show, .user = &bar};
  if (cache) KA_TRY(ka_spectral_cache_default_path(arena, &options.cache));
  KA_TRY(ka_linalg_engine_choose(ctx, dev, ka_spectral_flops(units, n, &options), &options.engine));
  ka_progress_begin(ctx, &bar, "analyze", 0, 1);
  bar.share = true;
  ka_status st = ka_spectral_analyze(ctx, arena, results, units, n, &options, NULL);
  ka_progress_end(&bar);
  return st;
}

/* Spectra only as far as the choice needs them. */
static ka_status choose(struct ka_ctx *ctx, struct ka_train_selection *s, struct ka_dev *dev,
                        const struct ka_select_spec *spec) {
  void *mem = NULL;
  struct ka_progress bar;
  struct ka_spectral_options options = {
      .precision = KA_PRECISION_AUTO, .progress = show, .user = &bar};
  KA_TRY(ka_arena_alloc_n(&s->arena, &mem, s->n_units, sizeof(struct ka_spectrum), "spectra"));
  KA_TRY(ka_spectral_cache_default_path(&s->arena, &options.cache));
  if (ka_select_needs_spectra(spec))
    KA_TRY(ka_linalg_engine_choose(ctx, dev, ka_spectral_flops(s->units, s->n_units, &options),
                                   &options.engine));
  ka_progress_begin(ctx, &bar, "analyze", 0, 1);
  bar.share = true;
  ka_status st = ka_select_units(ctx, &s->arena, &s->chosen, mem, spec, s->units, s->n_units, false,
                                 &options, NULL);
  ka_progress_end(&bar);
  return st;
}

/* The chosen unit's matrix in the files. */
static ka_status unit_of(struct ka_ctx *ctx, const struct ka_safetensors *files,
                         const struct ka_selected *u, struct ka_unit *out) {
  struct ka_tensor t;
  KA_TRY(ka_st_get(ctx, files, u->tensor, &t));
  struct ka_tensor m = ka_tensor_as_matrix(t);
  int64_t rows[2] = {0, m.shape[0]}, cols[2] = {0, m.shape[1]};
  if (u->rows[0] >= 0) memcpy(rows, u->rows, sizeof rows);
  if (u->cols[0] >= 0) memcpy(cols, u->cols, sizeof cols);
  if (rows[1] > m.shape[0] || cols[1] > m.shape[1])
    return ka_fail(ctx, KA_E_INPUT, "%s: its rows or columns end beyond the tensor's", u->name);
  *out = ka_unit_of_tensor(
      u->name, ka_tensor_slice(m, rows[0], rows[1] - rows[0], cols[0], cols[1] - cols[0]));
  out->n_dim = t.n_dim;
  return KA_STATUS_OK;
}

/* kappa of the chosen matrices that do not tell it: of controls, and of files by hand. */
static ka_status complete_kappa(struct ka_ctx *ctx, struct ka_train_selection *s,
                                struct ka_dev *dev, const struct ka_safetensors *files) {
  void *units_mem = NULL, *results_mem = NULL, *owners_mem = NULL;
  int64_t n = 0, n_all = s->chosen.n_units;
  KA_TRY(ka_arena_alloc_n(&s->arena, &units_mem, n_all, sizeof(struct ka_unit), "units"));
  KA_TRY(ka_arena_alloc_n(&s->arena, &results_mem, n_all, sizeof(struct ka_spectrum), "spectra"));
  KA_TRY(ka_arena_alloc_n(&s->arena, &owners_mem, n_all, sizeof(struct ka_selected *), "units"));
  struct ka_unit *units = units_mem;
  struct ka_spectrum *results = results_mem;
  struct ka_selected **owners = owners_mem;
  for (int64_t i = 0; i < n_all; i++) {
    struct ka_selected *u = &s->chosen.units[i];
    if (isfinite(u->metrics[KA_METRIC_KAPPA]) || ka_selected_singular(u)) continue;
    KA_TRY(unit_of(ctx, files, u, &units[n]));
    if (units[n].n_dim >= 2) owners[n++] = u;
  }
  if (n > 0) KA_TRY(ka_train_analyze(ctx, dev, &s->arena, results, units, n, true));
  for (int64_t i = 0; i < n; i++) {
    if (results[i].error)
      return ka_fail(ctx, KA_E_INPUT, "%s: %s", units[i].name, results[i].error);
    memcpy(owners[i]->metrics, results[i].metrics, sizeof owners[i]->metrics);
    owners[i]->kappa_rel_bound = results[i].kappa_rel_bound;
  }
  return KA_STATUS_OK;
}

/* The optimizer's parts. A pull by kappa is kappa over the geometric mean of the chosen matrices',
 * so that half of them, about, are pulled harder than evenly, whatever the scale of kappa; singular
 * ones count as the largest, vectors as the mean. */
static void weigh(struct ka_train_selection *s, bool by_kappa) {
  double sum = 0, largest = 1, n = 0;
  for (int64_t i = 0; i < s->chosen.n_units; i++) {
    double kappa = s->chosen.units[i].metrics[KA_METRIC_KAPPA];
    if (!isfinite(kappa)) continue;
    sum += log(kappa);
    largest = fmax(largest, kappa);
    n++;
  }
  double mean = n > 0 ? exp(sum / n) : 1;
  for (int64_t i = 0; i < s->chosen.n_units; i++) {
    const struct ka_selected *u = &s->chosen.units[i];
    double kappa = u->metrics[KA_METRIC_KAPPA];
    if (!isfinite(kappa)) kappa = ka_selected_singular(u) ? largest : mean;
    s->optim_parts[i] = (struct ka_optim_part){u->lr_scale, by_kappa ? kappa / mean : 1};
  }
}

/* A projector is trained whole, by a rate of its own, and has no base to be pulled to. */
static void add_projector(struct ka_train_selection *s, const struct ka_job *job,
                          const struct ka_model *model) {
  double rate = job->learning_rate > 0 ? job->projector.learning_rate / job->learning_rate : 1;
  ka_projector_parts(model, s->parts + s->chosen.n_units);
  for (int64_t i = s->chosen.n_units; i < s->n_parts; i++)
    s->optim_parts[i] = (struct ka_optim_part){rate, 0};
}

static ka_status make_parts(struct ka_ctx *ctx, struct ka_train_selection *s,
                            const struct ka_model *model) {
  void *mem = NULL, *optim_mem = NULL;
  s->n_parts = s->chosen.n_units + ka_projector_n_params(model);
  KA_TRY(ka_arena_alloc_n(&s->arena, &mem, s->n_parts, sizeof *s->parts, "parts"));
  KA_TRY(ka_arena_alloc_n(&s->arena, &optim_mem, s->n_parts, sizeof *s->optim_parts, "parts"));
  s->parts = mem;
  s->optim_parts = optim_mem;
  for (int64_t i = 0; i < s->chosen.n_units; i++) {
    const struct ka_selected *u = &s->chosen.units[i];
    bool rows = u->rows[0] >= 0, cols = u->cols[0] >= 0;
    s->parts[i] = (struct ka_train_part){
        .tensor = u->tensor,
        .row = rows ? u->rows[0] : 0,
        .n_rows = rows ? u->rows[1] - u->rows[0] : -1,
        .col = cols ? u->cols[0] : 0,
        .n_cols = cols ? u->cols[1] - u->cols[0] : -1,
    };
  }
  return KA_STATUS_OK;
}

ka_status ka_train_select(struct ka_ctx *ctx, struct ka_train_selection *s, struct ka_dev *dev,
                          const struct ka_job *job, const struct ka_model *model, const char *file,
                          int64_t step, const struct ka_train_shares *shares) {
  struct ka_select_spec spec;
  double start_s = ka_now_s();
  memset(s, 0, sizeof *s);
  ka_arena_init(&s->arena, ctx, "selection");
  KA_TRY(ka_select_spec_of_job(&s->arena, job, &spec));
  if (strcmp(spec.metric, "random") == 0) /* another draw at another step, the same when resumed */
    spec.seed += (uint64_t)step * 1000003;
  if (!file) file = job->selection.file;
  bool none = job->projector.only && ka_projector_n_params(model) > 0;
  if (none) {
    s->chosen.metric = "none";
  } else if (file) {
    KA_TRY(ka_selection_read(ctx, &s->arena, &s->chosen, file));
    KA_TRY(ka_units_of_file(ctx, &s->arena, &model->files, &model->config, KA_UNIT_EXPERT, true,
                            &s->units, &s->n_units));
    KA_TRY(ka_selection_adopt(ctx, &s->arena, &s->chosen, &model->files, s->units, s->n_units,
                              &model->config));
  } else {
    KA_TRY(ka_units_of_file(ctx, &s->arena, &model->files, &model->config, spec.unit,
                            strcmp(spec.metric, "all") == 0, &s->units, &s->n_units));
    if (shares) ka_train_shares_of_units(shares, s->units, s->n_units);
    KA_TRY(choose(ctx, s, dev, &spec));
    if (shares) s->chosen.affinity = ka_train_shares_affinity(shares, job);
  }
  s->chosen.base = job->base_model;
  if (s->chosen.n_units == 0 && !none)
    return ka_fail(ctx, KA_E_INPUT, "%s: selects no unit; loosen include, exclude or the budget",
                   file ? file : ka_job_place(job, "selection"));
  bool by_kappa = job->anchor.by == KA_PULL_KAPPA;
  if (by_kappa) KA_TRY(complete_kappa(ctx, s, dev, &model->files));
  s->analysis_s = ka_now_s() - start_s;
  KA_TRY(make_parts(ctx, s, model));
  weigh(s, by_kappa);
  add_projector(s, job, model);
  return KA_STATUS_OK;
}

void ka_train_selection_close(struct ka_train_selection *s) { ka_arena_deinit(&s->arena); }

/* A Gram matrix and a few Cholesky factors of it. */
static double flops_of(const struct ka_tensor *t) {
  double m = (double)(t->shape[0] < t->shape[1] ? t->shape[0] : t->shape[1]);
  double n = (double)(t->shape[0] < t->shape[1] ? t->shape[1] : t->shape[0]);
  return m * m * n + 2 * m * m * m;
}

/* The master where the host can read it. */
static ka_status master_of(struct ka_arena *a, const struct ka_optim *o, int64_t i,
                           struct ka_tensor *out) {
  struct ka_ctx *ctx = a->ctx;
  const struct ka_slice *s = &o->model->slices[i];
  *out = o->slices[i].w;
  if (!ka_dev_own_memory(o->model->dev) && o->model->shards.n < 2) return KA_STATUS_OK;
  KA_TRY(ka_tensor_alloc(a, out, "masters", o->config.state, 2, (int64_t[]){s->n_rows, s->n_cols}));
  return ka_optim_fetch(o, i, 0, 0, s->n_rows * s->n_cols, out->data);
}

/* A trained part of a matrix of the model, not of a projector. */
static bool has_kappa(const struct ka_model *m, const struct ka_slice *s) {
  return m->params[s->param].stored.n_dim >= 2 && !ka_projector_owns(m, s);
}

ka_status ka_train_kappa(struct ka_ctx *ctx, const struct ka_optim *o, bool after, double *kappa) {
  struct ka_arena arena;
  void *units_mem = NULL, *results_mem = NULL;
  double flops = 0;
  int64_t n = 0;
  ka_arena_init(&arena, ctx, "kappa drift");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_arena_alloc_n(&arena, &units_mem, o->n, sizeof(struct ka_unit), "units"), out);
  KA_TRY_GOTO(ka_arena_alloc_n(&arena, &results_mem, o->n, sizeof(struct ka_spectrum), "spectra"),
              out);
  struct ka_unit *units = units_mem;
  struct ka_spectrum *results = results_mem;
  for (int64_t i = 0; i < o->n; i++) {
    const struct ka_slice *s = &o->model->slices[i];
    kappa[i] = NAN;
    if (!has_kappa(o->model, s)) continue;
    struct ka_tensor before = ka_model_slice_view(s, o->model->params[s->param].stored);
    if (after) KA_TRY_GOTO(master_of(&arena, o, i, &before), out);
    units[n++] = ka_unit_of_tensor(o->slices[i].tensor, before);
    flops += flops_of(&before);
  }
  if (flops > KA_ANALYZE_FLOPS) goto out;
  KA_TRY_GOTO(ka_train_analyze(ctx, o->model->dev, &arena, results, units, n, !after), out);
  for (int64_t i = 0, k = 0; i < o->n; i++) {
    if (!has_kappa(o->model, &o->model->slices[i])) continue;
    kappa[i] = results[k].error ? NAN : results[k].metrics[KA_METRIC_KAPPA];
    k++;
  }
out:
  ka_arena_deinit(&arena);
  return st;
}
