/* SPDX-License-Identifier: Apache-2.0
 * AdamW state and steps; see optim.h. */
#include "engine/train/optim.h"

#include "base/rng.h"
#include "engine/dist/dist.h"
#include "engine/train/exchange.h"

#include <math.h>

/* The slice's elements of a whole tensor, of them this rank's part. */
static struct ka_tensor part_of(const struct ka_optim *o, int64_t i, struct ka_tensor whole) {
  return ka_model_shard_view(o->model, i, ka_model_slice_view(&o->model->slices[i], whole));
}

/* Can the update read the base's values in their file? */
static bool base_in_place(const struct ka_optim *o, const struct ka_tensor *base) {
  return !ka_dev_own_memory(o->model->dev) && (base->dtype == KA_F32 || base->dtype == KA_BF16);
}

static ka_status alloc_base(struct ka_optim *o, struct ka_optim_slice *state,
                            struct ka_tensor base) {
  state->w0 = base;
  if (base_in_place(o, &base)) return KA_STATUS_OK;
  return ka_tensor_alloc(&o->arena, &state->w0, "base weights",
                         base.dtype == KA_BF16 ? KA_BF16 : KA_F32, 2, base.shape);
}

static ka_status alloc_slice(struct ka_optim *o, int64_t i) {
  struct ka_ctx *ctx = o->ctx;
  const struct ka_slice *s = &o->model->slices[i];
  const struct ka_param *p = &o->model->params[s->param];
  struct ka_tensor weight = s->part_weight;
  enum ka_dtype type = o->config.state;
  struct ka_optim_slice *state = &o->slices[i];
  state->tensor = p->name;
  state->whole = ka_model_slice_is_whole(o->model, s);
  state->part = o->config.parts ? o->config.parts[s->part] : (struct ka_optim_part){1, 1};
  if (o->config.pull > 0) KA_TRY(alloc_base(o, state, part_of(o, i, p->base)));
  bool same = o->model->compute == type && (state->whole || type == KA_BF16);
  state->own_master = !same || o->config.offload;
  if (state->own_master)
    KA_TRY(ka_tensor_alloc(&o->arena, &state->w, "masters", type, 2, weight.shape));
  else
    state->w = weight;
  KA_TRY(ka_tensor_alloc(&o->arena, &state->m, "first moments", type, 2, weight.shape));
  return ka_tensor_alloc(&o->arena, &state->v, "second moments", type, 2, weight.shape);
}

static ka_status plan(struct ka_optim *o) {
  struct ka_ctx *ctx = o->ctx;
  for (int64_t i = 0; i < o->n; i++) KA_TRY(alloc_slice(o, i));
  return KA_STATUS_OK;
}

static ka_status fill_slice(struct ka_optim *o, int64_t i) {
  struct ka_ctx *ctx = o->ctx;
  struct ka_optim_slice *state = &o->slices[i];
  const struct ka_param *p = &o->model->params[o->model->slices[i].param];
  struct ka_dev *dev = o->model->dev;
  if (state->own_master) KA_TRY(ka_dev_put(dev, state->w, part_of(o, i, p->stored)));
  struct ka_tensor base = part_of(o, i, p->base);
  if (o->config.pull > 0 && !base_in_place(o, &base)) KA_TRY(ka_dev_put(dev, state->w0, base));
  KA_TRY(ka_fill(dev, &(struct ka_fill_args){.x = state->m, .value = 0}));
  return ka_fill(dev, &(struct ka_fill_args){.x = state->v, .value = 0});
}

static ka_status alloc_tables(struct ka_optim *o) {
  struct ka_ctx *ctx = o->ctx;
  void *slices, *steps, *norms;
  KA_TRY(ka_arena_alloc_n(&o->tables, &slices, o->n, sizeof *o->slices, "optimizer slices"));
  KA_TRY(ka_arena_alloc_n(&o->tables, &steps, o->n, sizeof *o->steps, "optimizer step"));
  KA_TRY(ka_arena_alloc_n(&o->tables, &norms, o->n, sizeof *o->norms, "optimizer step"));
  o->slices = slices;
  o->steps = steps;
  o->norms = norms;
  return KA_STATUS_OK;
}

ka_status ka_optim_init(struct ka_ctx *ctx, struct ka_optim *o, struct ka_model *m,
                        const struct ka_optim_config *config, bool measure) {
  const struct ka_memory *memory =
      ka_dev_memory(m->dev, config->offload ? KA_PLACE_PINNED : KA_PLACE_DEVICE);
  *o = (struct ka_optim){.ctx = ctx, .model = m, .config = *config, .n = m->n_slices};
  ka_arena_init(&o->tables, ctx, "optimizer tables");
  ka_arena_init_measure(&o->arena, ctx, "optimizer", memory);
  KA_TRY(alloc_tables(o));
  KA_TRY(plan(o));
  if (measure) return KA_STATUS_OK;
  KA_TRY(ka_arena_realise(&o->arena, "select less, or set optimizer_dtype: bf16 or "
                                     "offload_optimizer: true"));
  KA_TRY(plan(o));
  for (int64_t i = 0; i < o->n; i++) KA_TRY(fill_slice(o, i));
  o->config.parts = NULL; /* they may go */
  return KA_STATUS_OK;
}

void ka_optim_deinit(struct ka_optim *o) {
  if (!o->ctx) return;
  ka_arena_deinit(&o->arena);
  ka_arena_deinit(&o->tables);
  o->slices = NULL;
  o->n = 0;
}

struct ka_tensor *ka_optim_part(struct ka_optim_slice *s, int part) {
  return part == 0 ? &s->w : part == 1 ? &s->m : &s->v;
}

/* The arguments of the step at hand of every slice, of this rank's part of it. */
static void set_step(struct ka_optim *o, double lr) {
  const struct ka_optim_config *c = &o->config;
  struct ka_model *m = o->model;
  for (int64_t i = 0; i < o->n; i++) {
    struct ka_optim_slice *s = &o->slices[i];
    const struct ka_slice *of = &m->slices[i];
    struct ka_tensor first = m->step_stats;
    double rate = lr * s->part.lr_scale;
    uint64_t stream = ka_rng_stream(s->tensor) ^ (uint64_t)of->row << 32 ^ (uint64_t)of->col;
    first.shape[0] = 1;
    o->norms[i] = (struct ka_sumsq_args){.out = first, .x = of->part_grad};
    o->steps[i] = (struct ka_adamw_args){.weight = of->part_weight,
                                         .w = s->w,
                                         .m = s->m,
                                         .v = s->v,
                                         .grad = of->part_grad,
                                         .w0 = s->w0,
                                         .stats = m->step_stats,
                                         .lr = rate,
                                         .beta1 = c->beta1,
                                         .beta2 = c->beta2,
                                         .eps = c->eps,
                                         .weight_decay = c->weight_decay,
                                         .pull = fmin(c->pull * s->part.pull, 1 / rate),
                                         .max_norm = c->max_grad_norm,
                                         .seed = c->seed ^ stream,
                                         .first = ka_model_shard_start(m, i, m->shards.rank),
                                         .t = ++s->t};
  }
}

ka_status ka_optim_step(struct ka_optim *o, double lr) {
  struct ka_ctx *ctx = o->ctx;
  struct ka_model *m = o->model;
  set_step(o, lr);
  KA_TRY(ka_sumsq_list(m->dev, o->norms, o->n));
  if (m->shards.n > 1) {
    KA_TRY(ka_train_exchange_sum(m, "norm and loss", m->step_stats));
    KA_TRY(ka_dist_wait(ctx->dist));
  }
  KA_TRY(ka_adamw_list(m->dev, o->steps, o->n));
  KA_TRY(ka_train_exchange_weights(m));
  return ka_model_weights_changed(m);
}

ka_status ka_optim_publish(struct ka_optim *o) {
  struct ka_ctx *ctx = o->ctx;
  struct ka_model *m = o->model;
  for (int64_t i = 0; i < o->n; i++)
    if (o->slices[i].own_master)
      KA_TRY(ka_copy(
          m->dev, &(struct ka_copy_args){.out = m->slices[i].part_weight, .in = o->slices[i].w}));
  KA_TRY(ka_train_exchange_weights(m));
  return ka_model_weights_changed(m);
}

ka_status ka_optim_slice_name(struct ka_arena *a, const struct ka_optim *o, int64_t i,
                              const char **out) {
  const struct ka_slice *s = &o->model->slices[i];
  if (o->slices[i].whole) return ka_arena_printf(a, out, "%s", o->slices[i].tensor);
  return ka_arena_printf(a, out, "%s[%lld:%lld,%lld:%lld]", o->slices[i].tensor, (long long)s->row,
                         (long long)(s->row + s->n_rows), (long long)s->col,
                         (long long)(s->col + s->n_cols));
}
