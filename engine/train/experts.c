/* SPDX-License-Identifier: Apache-2.0
 * See experts.h. */
#include "engine/train/experts.h"

#include "base/log.h"
#include "engine/dist/dist.h"
#include "engine/model/moe.h"

#include <math.h>
#include <string.h>

ka_status ka_train_experts_open(struct ka_arena *arena, struct ka_train_experts *x,
                                const struct ka_model *model) {
  struct ka_ctx *ctx = arena->ctx;
  *x = (struct ka_train_experts){.model = model};
  if (!model->recipe.moe) return KA_STATUS_OK;
  x->L = model->recipe.L;
  x->E = model->recipe.moe->E;
  KA_TRY(KA_NEW(arena, &x->row, 3 * x->L * x->E, "experts"));
  x->all = x->row + x->L * x->E;
  x->news = x->all + x->L * x->E;
  return KA_STATUS_OK;
}

ka_status ka_train_experts_gather(struct ka_train_experts *x, struct ka_model *model) {
  struct ka_ctx *ctx = model->ctx;
  int64_t n = x->L * x->E;
  if (x->E == 0) return KA_STATUS_OK;
  KA_TRY(ka_model_taken(model, x->news));
  KA_TRY(ka_dist_sum(ctx->dist, "the experts' tokens", x->news, n));
  for (int64_t i = 0; i < n; i++) {
    x->row[i] += x->news[i];
    x->all[i] += x->news[i];
  }
  return KA_STATUS_OK;
}

struct figures {
  double max, cv;
  int64_t dead, unreached, trained;
  bool any; /* a token was seen */
};

static struct figures figures_of(const struct ka_train_experts *x, const double *taken) {
  struct figures f = {0};
  double n_layers = 0, E = (double)x->E;
  for (int64_t l = 0; l < x->L; l++) {
    double sum = 0, squares = 0;
    if (!ka_model_has_experts(x->model, l)) continue;
    for (int64_t e = 0; e < x->E; e++) {
      double n = taken[l * x->E + e];
      bool trained = ka_model_trains_expert(x->model, l, e);
      sum += n;
      f.dead += n == 0;
      f.trained += trained;
      f.unreached += n == 0 && trained;
    }
    n_layers++;
    if (sum == 0) continue;
    f.any = true;
    for (int64_t e = 0; e < x->E; e++) {
      double load = taken[l * x->E + e] * E / sum;
      f.max = fmax(f.max, load);
      squares += (load - 1) * (load - 1);
    }
    f.cv += sqrt(squares / E);
  }
  f.cv = n_layers > 0 ? f.cv / n_layers : 0;
  return f;
}

ka_status ka_train_experts_row(struct ka_train_experts *x, json_t *row, struct ka_tensorboard *tb,
                               int64_t step) {
  if (x->E == 0) return KA_STATUS_OK;
  struct figures f = figures_of(x, x->row);
  struct ka_ctx *ctx = x->model->ctx;
  memset(x->row, 0, (size_t)(x->L * x->E) * sizeof *x->row);
  if (!f.any) return KA_STATUS_OK;
  KA_TRY(ka_json_set(ctx, row, "router_max", json_real(f.max)));
  KA_TRY(ka_json_set(ctx, row, "router_cv", json_real(f.cv)));
  KA_TRY(ka_json_set(ctx, row, "router_dead", json_integer(f.dead)));
  KA_TRY(ka_json_set(ctx, row, "router_unreached", json_integer(f.unreached)));
  KA_TRY(ka_tb_scalar(ctx, tb, "router/max", step, f.max));
  KA_TRY(ka_tb_scalar(ctx, tb, "router/cv", step, f.cv));
  KA_TRY(ka_tb_scalar(ctx, tb, "router/dead", step, (double)f.dead));
  return ka_tb_scalar(ctx, tb, "router/unreached", step, (double)f.unreached);
}

static json_t *counts(const double *taken, int64_t n) {
  json_t *list = json_array();
  for (int64_t i = 0; i < n; i++) json_array_append_new(list, json_integer((json_int_t)taken[i]));
  return list;
}

ka_status ka_train_experts_save(const struct ka_train_experts *x, json_t *state) {
  int64_t n = x->L * x->E;
  if (x->E == 0) return KA_STATUS_OK;
  return ka_json_set(x->model->ctx, state, "experts",
                     json_pack("{s:o, s:o}", "row", counts(x->row, n), "all", counts(x->all, n)));
}

static ka_status read_counts(const struct ka_train_experts *x, const char *path, const json_t *list,
                             double *taken) {
  int64_t n = x->L * x->E;
  if (!list) return KA_STATUS_OK; /* of a run that did not count yet */
  if ((int64_t)json_array_size(list) != n)
    return ka_fail(x->model->ctx, KA_E_INPUT,
                   "%s/state.json: experts: got %zu numbers, expected %lld", path,
                   json_array_size(list), (long long)n);
  for (int64_t i = 0; i < n; i++) {
    taken[i] = json_number_value(json_array_get(list, (size_t)i));
    if (!(taken[i] >= 0))
      return ka_fail(x->model->ctx, KA_E_INPUT,
                     "%s/state.json: experts: entry %lld: got %g, expected 0 or more", path,
                     (long long)i, taken[i]);
  }
  return KA_STATUS_OK;
}

ka_status ka_train_experts_load(struct ka_train_experts *x, const char *path, const json_t *state) {
  struct ka_ctx *ctx = x->model ? x->model->ctx : NULL;
  const json_t *saved = json_object_get(state, "experts");
  if (x->E == 0) return KA_STATUS_OK;
  KA_TRY(read_counts(x, path, json_object_get(saved, "row"), x->row));
  return read_counts(x, path, json_object_get(saved, "all"), x->all);
}

static ka_status add_layer(const struct ka_train_experts *x, int64_t l, json_t *layers,
                           struct ka_str *unreached) {
  struct ka_ctx *ctx = x->model->ctx;
  const double *taken = x->all + l * x->E;
  json_t *trained = json_array();
  for (int64_t e = 0; e < x->E; e++) {
    if (!ka_model_trains_expert(x->model, l, e)) continue;
    json_array_append_new(trained, json_integer((json_int_t)e));
    if (taken[e] == 0)
      KA_TRY(ka_str_printf(ctx, unreached, "%s%lld.%lld", unreached->len ? ", " : "", (long long)l,
                           (long long)e));
  }
  return ka_json_append(ctx, layers,
                        json_pack("{s:I, s:o, s:o}", "layer", (json_int_t)l, "taken",
                                  counts(taken, x->E), "trained", trained));
}

ka_status ka_train_experts_report(const struct ka_train_experts *x, json_t *root) {
  struct ka_ctx *ctx = x->model ? x->model->ctx : NULL;
  struct ka_str unreached = {0};
  ka_status st = KA_STATUS_OK;
  if (x->E == 0) return KA_STATUS_OK;
  struct figures f = figures_of(x, x->all);
  if (!f.any) return KA_STATUS_OK;
  json_t *layers = json_array();
  json_t *o = json_pack("{s:f, s:f, s:I, s:I, s:I, s:o}", "max", f.max, "cv", f.cv, "dead",
                        (json_int_t)f.dead, "unreached", (json_int_t)f.unreached, "trained",
                        (json_int_t)f.trained, "layers", layers);
  KA_TRY(ka_json_set(ctx, root, "experts", o));
  for (int64_t l = 0; l < x->L && ka_ok(st); l++)
    if (ka_model_has_experts(x->model, l)) st = add_layer(x, l, layers, &unreached);
  if (ka_ok(st) && f.unreached > 0)
    ka_warn(ctx, "train",
            "%lld of %lld trained experts got no token and no gradient (layer.expert: %.300s)",
            (long long)f.unreached, (long long)f.trained, unreached.data);
  ka_str_deinit(&unreached);
  return st;
}
