/* SPDX-License-Identifier: Apache-2.0
 * The norms of branches and of the head, by the recipe; those of q and k are root mean square norms
 * in every family. */
#include "engine/model/plan.h"

static struct ka_rmsnorm_fwd_args rms_args(const struct ka_model *m, struct ka_tensor y, void *rstd,
                                           struct ka_tensor x, const struct ka_weight *w) {
  const struct ka_recipe *r = &m->recipe;
  struct ka_rmsnorm_fwd_args args = {.y = y,
                                     .x = x,
                                     .w = w->w,
                                     .eps = r->norm_eps,
                                     .round_before_weight = r->norm_round_before_weight};
  if (rstd) args.rstd = ka_stat(m, rstd, x.shape[0]);
  return args;
}

ka_status ka_rms_fwd(struct ka_model *m, struct ka_tensor y, void *rstd, struct ka_tensor x,
                     const struct ka_weight *w) {
  struct ka_rmsnorm_fwd_args args = rms_args(m, y, rstd, x, w);
  return ka_rmsnorm_fwd(m->dev, &args);
}

ka_status ka_norm_fwd(struct ka_model *m, struct ka_tensor h, struct ka_norm_stats stats,
                      struct ka_tensor x, void *sum, struct ka_norm norm) {
  struct ka_rmsnorm_fwd_args args = rms_args(m, h, stats.rstd, x, norm.w);
  if (sum) {
    args.delta = ka_mat(m, m->buffers->delta, x.shape[0], x.shape[1]);
    args.sum = ka_mat(m, sum, x.shape[0], x.shape[1]);
  }
  return ka_rmsnorm_fwd(m->dev, &args);
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
                                                              .rstd = ka_stat(m, rstd, s.shape[0]),
                                                              .w = w->w,
                                                              .accumulate = accumulate}));
  return ka_vector_grad_end(m, w, dw);
}

ka_status ka_rms_bwd(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                     struct ka_tensor s, void *rstd, const struct ka_weight *w) {
  return rms_bwd(m, dx, dy, s, rstd, w, false);
}

ka_status ka_norm_bwd(struct ka_model *m, struct ka_tensor dx, struct ka_tensor dy,
                      struct ka_tensor s, struct ka_norm_stats stats, struct ka_norm norm,
                      bool accumulate) {
  return rms_bwd(m, dx, dy, s, stats.rstd, norm.w, accumulate);
}
