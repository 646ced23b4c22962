/* SPDX-License-Identifier: Apache-2.0
 * AdamW state and steps; see optim.h. */
#include "engine/train/optim.h"

#include <assert.h>
#include <math.h>

static struct ka_tensor stored_slice(const struct ka_model *m, const struct ka_slice *s) {
  struct ka_tensor whole = ka_tensor_as_matrix(m->params[s->param].stored);
  return ka_tensor_slice(whole, s->row, s->n_rows, s->col, s->n_cols);
}

static bool is_whole(const struct ka_model *m, const struct ka_slice *s) {
  return s->n_rows * s->n_cols == ka_tensor_elems(&m->params[s->param].stored);
}

static ka_status alloc_slice(struct ka_optim *o, int64_t i) {
  struct ka_ctx *ctx = o->ctx;
  const struct ka_slice *s = &o->model->slices[i];
  const struct ka_param *p = &o->model->params[s->param];
  const int64_t shape[2] = {s->n_rows, s->n_cols};
  struct ka_optim_slice *state = &o->slices[i];
  state->tensor = p->name;
  state->whole = is_whole(o->model, s);
  state->own_master = !(o->model->compute == KA_F32 && state->whole);
  if (state->own_master)
    KA_TRY(ka_tensor_alloc(&o->arena, &state->w, "f32 masters", KA_F32, 2, shape));
  else
    state->w = s->weight;
  KA_TRY(ka_tensor_alloc(&o->arena, &state->m, "first moments", KA_F32, 2, shape));
  return ka_tensor_alloc(&o->arena, &state->v, "second moments", KA_F32, 2, shape);
}

static ka_status fill_slice(struct ka_optim *o, int64_t i) {
  struct ka_ctx *ctx = o->ctx;
  struct ka_optim_slice *state = &o->slices[i];
  struct ka_dev *dev = o->model->dev;
  if (state->own_master)
    KA_TRY(ka_copy(dev, &(struct ka_copy_args){
                            .out = state->w, .in = stored_slice(o->model, &o->model->slices[i])}));
  KA_TRY(ka_fill(dev, &(struct ka_fill_args){.x = state->m, .value = 0}));
  return ka_fill(dev, &(struct ka_fill_args){.x = state->v, .value = 0});
}

ka_status ka_optim_init(struct ka_ctx *ctx, struct ka_optim *o, struct ka_model *m,
                        const struct ka_optim_config *config, bool measure) {
  *o = (struct ka_optim){.ctx = ctx, .model = m, .config = *config, .n = m->n_slices};
  if (measure)
    ka_arena_init_measure(&o->arena, ctx, "optimizer");
  else
    ka_arena_init(&o->arena, ctx, "optimizer");
  void *slices = NULL;
  KA_TRY(ka_alloc_n(ctx, &slices, o->n, sizeof *o->slices, "optimizer slices"));
  o->slices = slices;
  KA_TRY(ka_tensor_alloc(&o->arena, &o->norm_sq, "gradient norm", KA_F64, 1, (int64_t[]){1}));
  for (int64_t i = 0; i < o->n; i++) KA_TRY(alloc_slice(o, i));
  for (int64_t i = 0; i < o->n && !measure; i++) KA_TRY(fill_slice(o, i));
  return KA_STATUS_OK;
}

void ka_optim_deinit(struct ka_optim *o) {
  ka_arena_deinit(&o->arena);
  ka_free(o->slices);
  o->slices = NULL;
  o->n = 0;
}

ka_status ka_optim_grad_norm(struct ka_optim *o, double *norm) {
  struct ka_ctx *ctx = o->ctx;
  struct ka_dev *dev = o->model->dev;
  KA_TRY(ka_fill(dev, &(struct ka_fill_args){.x = o->norm_sq, .value = 0}));
  for (int64_t i = 0; i < o->n; i++)
    KA_TRY(
        ka_sumsq(dev, &(struct ka_sumsq_args){.out = o->norm_sq, .x = o->model->slices[i].grad}));
  KA_TRY(ka_dev_sync(dev));
  *norm = sqrt(*(const double *)o->norm_sq.data);
  return KA_STATUS_OK;
}

ka_status ka_optim_step(struct ka_optim *o, double lr, double norm) {
  struct ka_ctx *ctx = o->ctx;
  const struct ka_optim_config *c = &o->config;
  double scale = c->max_grad_norm > 0 ? fmin(1, c->max_grad_norm / (norm + 1e-6)) : 1;
  for (int64_t i = 0; i < o->n; i++) {
    struct ka_optim_slice *s = &o->slices[i];
    KA_TRY(ka_adamw(o->model->dev, &(struct ka_adamw_args){
                                       .weight = o->model->slices[i].weight,
                                       .w = s->w,
                                       .m = s->m,
                                       .v = s->v,
                                       .grad = o->model->slices[i].grad,
                                       .lr = lr,
                                       .beta1 = c->beta1,
                                       .beta2 = c->beta2,
                                       .eps = c->eps,
                                       .weight_decay = c->weight_decay,
                                       .grad_scale = scale,
                                       .t = ++s->t,
                                   }));
  }
  return ka_model_weights_changed(o->model);
}

ka_status ka_optim_publish(struct ka_optim *o) {
  struct ka_ctx *ctx = o->ctx;
  for (int64_t i = 0; i < o->n; i++)
    if (o->slices[i].own_master)
      KA_TRY(ka_copy(o->model->dev, &(struct ka_copy_args){.out = o->model->slices[i].weight,
                                                           .in = o->slices[i].w}));
  return ka_model_weights_changed(o->model);
}

ka_status ka_optim_slice_name(struct ka_arena *a, const struct ka_optim *o, int64_t i,
                              const char **out) {
  const struct ka_slice *s = &o->model->slices[i];
  if (o->slices[i].whole) return ka_arena_printf(a, out, "%s", o->slices[i].tensor);
  return ka_arena_printf(a, out, "%s[%lld:%lld,%lld:%lld]", o->slices[i].tensor, (long long)s->row,
                         (long long)(s->row + s->n_rows), (long long)s->col,
                         (long long)(s->col + s->n_cols));
}
