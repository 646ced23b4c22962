/* SPDX-License-Identifier: Apache-2.0
 * A projector's sizes, weights and memory; its passes stand in projector_pass.c. */
#include "engine/model/projector_parts.h"

#include "base/rng.h"

#include <math.h>
#include <string.h>

int64_t ka_projector_stride(const struct ka_projector_config *c) {
  int64_t stride = c->stack;
  for (int64_t i = 0; i < c->n_conv; i++) stride *= c->conv[i];
  return stride;
}

int64_t ka_projector_places(const struct ka_projector_config *c, int64_t n_frames) {
  int64_t stride = ka_projector_stride(c);
  return (n_frames + stride - 1) / stride;
}

const struct ka_projector_config *ka_projector_config_of(const struct ka_model *m) {
  return m->projector ? &m->projector->config : NULL;
}

int64_t ka_projector_n_params(const struct ka_model *m) {
  const struct ka_projector *p = m->projector;
  return p ? 2 * p->n_stages + KA_ENCODER_WEIGHTS * p->encoder.n_layers : 0;
}

int64_t ka_projector_n_elems(const struct ka_model *m) {
  int64_t n = 0;
  for (int64_t i = 0; i < ka_projector_n_params(m); i++)
    n += ka_tensor_elems(&m->params[m->n_params + i].stored);
  return n;
}

bool ka_projector_owns(const struct ka_model *m, const struct ka_slice *s) {
  return s->param >= m->n_params;
}

void ka_projector_parts(const struct ka_model *m, struct ka_train_part *parts) {
  for (int64_t i = 0; i < ka_projector_n_params(m); i++)
    parts[i] = (struct ka_train_part){
        .tensor = m->params[m->n_params + i].name, .n_rows = -1, .n_cols = -1};
}

/* --- stages ----------------------------------------------------------------------------------- */

static void add_stage(struct ka_projector *p, int64_t kernel, int64_t stride, int64_t pad,
                      int64_t out) {
  struct ka_projector_stage *s = &p->stages[p->n_stages++];
  int64_t in = p->n_stages > 1 ? s[-1].out : p->config.n_features;
  *s = (struct ka_projector_stage){
      .kernel = kernel, .stride = stride, .pad = pad, .in = in, .out = out, .frames = 1};
  s->reach = (kernel + stride - 1) / stride;
}

static void make_stages(struct ka_projector *p, int64_t C) {
  const struct ka_projector_config *c = &p->config;
  for (int64_t i = 0; i < c->n_conv; i++)
    add_stage(p, KA_PROJECTOR_KERNEL, c->conv[i], KA_PROJECTOR_KERNEL / 2, c->conv_width);
  p->encoder =
      (struct ka_encoder){.n_layers = (int)c->n_layers, .width = c->conv_width, .heads = c->heads};
  add_stage(p, c->stack, c->stack, 0, c->hidden);
  add_stage(p, 1, 1, 0, C);
  for (int i = p->n_stages - 2; i >= 0; i--)
    p->stages[i].frames = p->stages[i + 1].frames * p->stages[i + 1].stride;
}

/* --- weights ---------------------------------------------------------------------------------- */

/* The root mean square of what stands in the stream where text is. */
static double stream_size(const struct ka_model *m) {
  const struct ka_param *p = ka_weights_find(m, KA_ROLE_EMBED, -1, -1)->param;
  int64_t n = ka_tensor_elems(&p->stored), step = n / 65536 + 1, count = 0;
  double sum = 0;
  for (int64_t i = 0; i < n; i += step, count++) {
    double v = ka_load(p->stored.data, p->stored.dtype, i);
    sum += v * v;
  }
  double size = sqrt(sum / (double)count) * m->recipe.embed_scale;
  return size > 0 && isfinite(size) ? size : 1;
}

/* A matrix: normal, so that a product is `size` times as large as what it reads; a vector:
 * `size`. */
static void fill_fresh(struct ka_tensor *t, const char *name, uint64_t seed, double size) {
  uint64_t stream = ka_rng_stream(name);
  double std = t->n_dim == 2 ? size / sqrt((double)t->shape[1]) : 0;
  double mean = t->n_dim == 1 ? size : 0;
  int64_t n = ka_tensor_elems(t);
  float *x = t->data;
#pragma omp parallel for
  for (int64_t i = 0; i < n; i++)
    x[i] = (float)(mean + std * ka_rng_normal(seed, stream, (uint64_t)i));
}

static ka_status check_shape(struct ka_ctx *ctx, const char *file, const char *name,
                             const struct ka_tensor *got, int n_dim, const int64_t *want) {
  if (got->n_dim == n_dim && memcmp(got->shape, want, (size_t)n_dim * sizeof *want) == 0 &&
      (got->dtype == KA_F32 || got->dtype == KA_BF16 || got->dtype == KA_F16))
    return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT,
                 "%s: %s: got %s of %d dimensions, the first %lld; the projector's sizes want "
                 "F32, BF16 or F16 [%lld%s%lld]",
                 file, name, ka_dtype_name(got->dtype), got->n_dim,
                 (long long)(got->n_dim ? got->shape[0] : 0), (long long)want[0],
                 n_dim == 2 ? ", " : "", (long long)(n_dim == 2 ? want[1] : 0));
}

/* Parameter i: first the stages', then the encoder's. */
struct facts {
  const char *name;
  int n_dim;
  int64_t shape[2];
  double fresh; /* the size of what a product gives; of vectors the value */
  struct ka_weight *w;
  struct ka_piece *piece;
};

static ka_status stage_facts(struct ka_model *m, int64_t i, struct facts *f) {
  struct ka_projector *p = m->projector;
  struct ka_projector_stage *s = &p->stages[i / 2];
  bool bias = i % 2, last = i / 2 + 1 == p->n_stages;
  *f = (struct facts){.n_dim = bias ? 1 : 2,
                      .shape = {s->out, s->kernel * s->in},
                      .fresh = bias   ? 0
                               : last ? stream_size(m)
                                      : sqrt(2),
                      .w = bias ? &s->bias : &s->w,
                      .piece = bias ? &s->bias_piece : &s->piece};
  return ka_arena_printf(&m->meta, &f->name, "projector.%lld.%s", (long long)i / 2,
                         bias ? "bias" : "weight");
}

static ka_status facts_of(struct ka_model *m, int64_t i, struct facts *f) {
  static const char *const names[KA_ENCODER_WEIGHTS] = {"norm1", "q",     "k",  "v",
                                                        "o",     "norm2", "up", "down"};
  struct ka_projector *p = m->projector;
  struct ka_encoder *e = &p->encoder;
  if (i < 2 * p->n_stages) return stage_facts(m, i, f);
  int64_t k = i - 2 * p->n_stages, at = k % KA_ENCODER_WEIGHTS, W = e->width;
  struct ka_encoder_layer *l = &e->layers[k / KA_ENCODER_WEIGHTS];
  bool norm = at == KA_ENCODER_NORM1 || at == KA_ENCODER_NORM2;
  bool ends = at == KA_ENCODER_O || at == KA_ENCODER_DOWN; /* a branch: all together as one */
  *f = (struct facts){.n_dim = norm ? 1 : 2,
                      .shape = {at == KA_ENCODER_UP ? 4 * W : W, at == KA_ENCODER_DOWN ? 4 * W : W},
                      .fresh = ends ? 1 / sqrt(2.0 * e->n_layers) : 1,
                      .w = &l->w[at],
                      .piece = &l->piece[at]};
  return ka_arena_printf(&m->meta, &f->name, "projector.layer.%lld.%s",
                         (long long)k / KA_ENCODER_WEIGHTS, names[at]);
}

static ka_status take_param(struct ka_model *m, int64_t i, const char *file, uint64_t seed) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_param *param = &m->params[m->n_params + i];
  struct ka_tensor t;
  struct facts f;
  KA_TRY(facts_of(m, i, &f));
  *param = (struct ka_param){.name = f.name, .role = KA_N_ROLES, .n_roles = 1, .layer = -1};
  if (file) {
    KA_TRY(ka_st_get(ctx, &m->projector->files, f.name, &t));
    KA_TRY(check_shape(ctx, file, f.name, &t, f.n_dim, f.shape));
  } else {
    KA_TRY(ka_tensor_alloc(&m->meta, &t, "projector", KA_F32, f.n_dim, f.shape));
    fill_fresh(&t, f.name, seed, f.fresh);
  }
  param->stored = param->base = t;
  *f.w = (struct ka_weight){.param = param,
                            .role = KA_N_ROLES,
                            .layer = -1,
                            .expert = -1,
                            .n_rows = f.n_dim == 1 ? 1 : f.shape[0],
                            .n_cols = f.n_dim == 1 ? f.shape[0] : f.shape[1],
                            .pieces = f.piece};
  return KA_STATUS_OK;
}

ka_status ka_projector_open(struct ka_model *m, const struct ka_projector_config *c,
                            const char *file, uint64_t seed) {
  struct ka_ctx *ctx = m->ctx;
  KA_NEVER(ctx, m->projector || c->n_conv > KA_PROJECTOR_CONVS || c->stack < 1 || c->hidden < 1);
  KA_NEVER(ctx, c->n_layers > 0 && (c->n_conv < 1 || c->n_layers > KA_ENCODER_LAYERS ||
                                    c->heads < 1 || c->conv_width % c->heads != 0));
  KA_TRY(KA_NEW(&m->meta, &m->projector, 1, "projector"));
  m->projector->config = *c;
  make_stages(m->projector, m->recipe.C);
  if (file) KA_TRY(ka_st_open(ctx, &m->projector->files, file));
  for (int64_t i = 0; i < ka_projector_n_params(m); i++) KA_TRY(take_param(m, i, file, seed));
  if (file && m->projector->files.n_entries != ka_projector_n_params(m))
    return ka_fail(ctx, KA_E_INPUT, "%s: got %lld tensors, the projector's sizes want %lld", file,
                   (long long)m->projector->files.n_entries, (long long)ka_projector_n_params(m));
  return KA_STATUS_OK;
}

void ka_projector_close(struct ka_model *m) {
  if (!m->projector) return;
  ka_arena_deinit(&m->projector->host);
  ka_st_close(&m->projector->files);
}

static struct ka_weight *weight_at(struct ka_projector *p, int64_t i) {
  int64_t k = i - 2 * p->n_stages;
  if (k >= 0) return &p->encoder.layers[k / KA_ENCODER_WEIGHTS].w[k % KA_ENCODER_WEIGHTS];
  struct ka_projector_stage *s = &p->stages[i / 2];
  return i % 2 ? &s->bias : &s->w;
}

void ka_projector_train(struct ka_model *m) {
  for (int64_t i = 0; i < ka_projector_n_params(m); i++) weight_at(m->projector, i)->n_pieces = 0;
  for (int64_t i = 0; i < m->n_slices; i++) {
    const struct ka_slice *s = &m->slices[i];
    if (!ka_projector_owns(m, s)) continue;
    struct ka_weight *w = weight_at(m->projector, s->param - m->n_params);
    w->n_pieces = 1;
    w->pieces[0] = (struct ka_piece){
        .slice = i, .row = s->row, .n_rows = s->n_rows, .col = s->col, .n_cols = s->n_cols};
  }
}

bool ka_projector_trained(const struct ka_model *m) {
  for (int64_t i = 0; i < ka_projector_n_params(m); i++)
    if (weight_at(m->projector, i)->n_pieces > 0) return true;
  return false;
}

/* --- memory ----------------------------------------------------------------------------------- */

static ka_status alloc_rows(struct ka_model *m, struct ka_tensor *out, int64_t rows, int64_t cols,
                            enum ka_dtype type) {
  return ka_tensor_alloc(&m->step, out, "projector", type, 2, (int64_t[]){rows, cols});
}

static ka_status plan_stage(struct ka_model *m, int i, int64_t N, bool train) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_projector_stage *s = &m->projector->stages[i];
  int64_t rows = N * s->frames, rows_in = rows * s->stride, window = s->kernel * s->in;
  bool last = i + 1 == m->projector->n_stages;
  if (last) return KA_STATUS_OK; /* reads the stage before it as it is */
  KA_TRY(alloc_rows(m, &s->windows, rows, window, m->compute));
  KA_TRY(alloc_rows(m, &s->act, rows, s->out, m->compute));
  KA_TRY(alloc_rows(m, &s->index, rows, s->kernel, KA_I32));
  if (!train) return KA_STATUS_OK;
  KA_TRY(alloc_rows(m, &s->pre, rows, s->out, m->compute));
  if (i == 0) return KA_STATUS_OK;
  KA_TRY(alloc_rows(m, &s->pre_windows, rows, window, m->compute));
  return alloc_rows(m, &s->back, rows_in, s->reach, KA_I32);
}

/* Where the host writes what a batch's clips say: its own memory beside a separate device's. */
static ka_status plan_host(struct ka_model *m, int64_t N) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_projector *p = m->projector;
  bool own = ka_dev_own_memory(m->dev);
  struct ka_arena *a = own ? &p->host : &m->step;
  if (own && m->step.measuring) return KA_STATUS_OK;
  ka_arena_deinit(&p->host);
  ka_arena_init(&p->host, ctx, "clips");
  int64_t frames = N * ka_projector_stride(&p->config);
  KA_TRY(KA_NEW(a, &p->host_frames, frames * p->config.n_features, "clips"));
  KA_TRY(KA_NEW(a, &p->host_place, N, "clips"));
  for (int i = 0; i + 1 < p->n_stages; i++) {
    struct ka_projector_stage *s = &p->stages[i];
    int64_t rows = N * s->frames;
    KA_TRY(KA_NEW(a, &s->host_index, rows * s->kernel, "clips"));
    KA_TRY(KA_NEW(a, &s->host_back, rows * s->stride * s->reach, "clips"));
  }
  return KA_STATUS_OK;
}

ka_status ka_projector_plan(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_projector *p = m->projector;
  int64_t N = m->buffers->B * m->buffers->T;
  bool train = ka_projector_trained(m);
  if (!p) return KA_STATUS_OK;
  for (int64_t i = 0; i < ka_projector_n_params(m); i++) {
    struct ka_weight *w = weight_at(p, i);
    w->w = w->param->weight;
    if (w->n_pieces > 0) w->pieces[0].grad = m->slices[w->pieces[0].slice].grad;
  }
  KA_TRY(alloc_rows(m, &p->frames, N * ka_projector_stride(&p->config), p->config.n_features,
                    m->compute));
  KA_TRY(alloc_rows(m, &p->out, N, m->recipe.C, m->compute));
  KA_TRY(ka_tensor_alloc(&m->step, &p->place, "projector", KA_I32, 1, &N));
  for (int i = 0; i < p->n_stages; i++) KA_TRY(plan_stage(m, i, N, train));
  KA_TRY(plan_host(m, N));
  if (p->encoder.n_layers == 0) return KA_STATUS_OK;
  bool own = ka_dev_own_memory(m->dev);
  struct ka_arena *host = !own ? &m->step : m->step.measuring ? NULL : &p->host;
  return ka_encoder_plan(m, N * p->stages[p->config.n_conv - 1].frames, host);
}
