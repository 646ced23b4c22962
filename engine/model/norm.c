/* SPDX-License-Identifier: Apache-2.0
 * The norms of branches and of the head, by the recipe; those of q and k are root mean square norms
 * in every family. */
#include "engine/model/buffers.h"

static struct ka_tensor stat(const struct ka_model *m, void *data, struct ka_tensor x) {
  return data ? ka_stat(m, data, x.shape[0]) : (struct ka_tensor){0};
}

static ka_status rms_fwd(struct ka_model *m, struct ka_tensor y, void *rstd, struct ka_tensor x,
                         struct ka_tensor delta, struct ka_tensor sum, const struct ka_weight *w,
                         double eps) {
  const struct ka_recipe *r = &m->recipe;
  return ka_rmsnorm_fwd(
      m->dev, &(struct ka_rmsnorm_fwd_args){.y = y,
                                            .rstd = stat(m, rstd, x),
                                            .sum = sum,
                                            .x = x,
                                            .delta = delta,
                                            .w = w->w,
                                            .eps = eps,
                                            .offset = r->norm_offset,
                                            .round_before_weight = r->norm_round_before_weight});
}

ka_status ka_rms_fwd(struct ka_model *m, struct ka_tensor y, void *rstd, struct ka_tensor x,
                     const struct ka_weight *w, double eps) {
  return rms_fwd(m, y, rstd, x, (struct ka_tensor){0}, (struct ka_tensor){0}, w, eps);
}

ka_status ka_norm_fwd(struct ka_model *m, struct ka_tensor h, struct ka_norm_stats stats,
                      struct ka_tensor x, void *sum, struct ka_norm norm) {
  struct ka_tensor delta = {0}, s = {0};
  if (sum) {
    delta = ka_mat(m, m->buffers->delta, x.shape[0], x.shape[1]);
    s = ka_mat(m, sum, x.shape[0], x.shape[1]);
  }
  if (!m->recipe.layer_norm)
    return rms_fwd(m, h, stats.rstd, x, delta, s, norm.w, m->recipe.norm_eps);
  return ka_layernorm_fwd(
      m->dev, &(struct ka_layernorm_fwd_args){.y = h,
                                              .mean = stat(m, stats.mean, x),
                                              .rstd = stat(m, stats.rstd, x),
                                              .sum = s,
                                              .x = x,
                                              .delta = delta,
                                              .w = norm.w->w,
                                              .b = norm.bias ? norm.bias->w : (struct ka_tensor){0},
                                              .eps = m->recipe.norm_eps});
}

static ka_status rms_bwd(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                         struct ka_tensor s, void *rstd, const struct ka_weight *w,
                         bool accumulate) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_tensor dw;
  KA_TRY(ka_vector_grad_begin(m, w, 0, &dw));
  KA_TRY(ka_rmsnorm_bwd(m->dev, &(struct ka_rmsnorm_bwd_args){.dx = dx,
                                                              .dw = dw,
                                                              .dy = dy,
                                                              .s = s,
                                                              .rstd = stat(m, rstd, s),
                                                              .w = w->w,
                                                              .offset = m->recipe.norm_offset,
                                                              .accumulate = accumulate}));
  return ka_vector_grad_end(m, w, dw);
}

static ka_status layer_bwd(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                           struct ka_tensor s, struct ka_norm_stats stats, struct ka_norm norm,
                           bool accumulate) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_tensor dw, db;
  KA_TRY(ka_vector_grad_begin(m, norm.w, 0, &dw));
  KA_TRY(ka_vector_grad_begin(m, norm.bias, 1, &db));
  KA_TRY(ka_layernorm_bwd(m->dev, &(struct ka_layernorm_bwd_args){.dx = dx,
                                                                  .dw = dw,
                                                                  .db = db,
                                                                  .dy = dy,
                                                                  .s = s,
                                                                  .mean = stat(m, stats.mean, s),
                                                                  .rstd = stat(m, stats.rstd, s),
                                                                  .w = norm.w->w,
                                                                  .accumulate = accumulate}));
  KA_TRY(ka_vector_grad_end(m, norm.w, dw));
  return ka_vector_grad_end(m, norm.bias, db);
}

ka_status ka_rms_bwd(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                     struct ka_tensor s, void *rstd, const struct ka_weight *w) {
  return rms_bwd(m, dx, dy, s, rstd, w, false);
}

ka_status ka_norm_bwd(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                      struct ka_tensor s, struct ka_norm_stats stats, struct ka_norm norm,
                      bool accumulate) {
  if (m->recipe.layer_norm) return layer_bwd(m, dx, dy, s, stats, norm, accumulate);
  return rms_bwd(m, dx, dy, s, stats.rstd, norm.w, accumulate);
}
