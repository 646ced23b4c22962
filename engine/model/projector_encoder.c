/* SPDX-License-Identifier: Apache-2.0
 * A projector's encoder: transformer layers over the rows that the convolutions leave, where a row
 * sees all rows of its clip and no others.
 *
 *   x += O attention(Q h, K h, V h), h = norm(x);   x += down gelu(up h), h = norm(x)
 *
 * Attention of a clip of n rows is causal attention over the clip written twice, with a window of
 * n:
 *
 *   keys     a b c a b c     query c of the second copy sees   . . . a b c
 *   queries  . . . a b c     query a of it sees                . b c a . .
 *
 * so every back end has it. The first copy's queries are not read, and their gradients are 0. */
#include "engine/model/projector_parts.h"

#include <math.h>

static const double eps = 1e-5;

static struct ka_tensor mat(const struct ka_model *m, void *data, int64_t cols, int copies) {
  return ka_mat(m, data, m->projector->encoder.n_rows * copies, cols);
}

static struct ka_tensor flat(const struct ka_model *m, void *data, int64_t cols) {
  return ka_tensor_1d(data, m->compute, m->projector->encoder.n_rows * cols);
}

static ka_status add(struct ka_model *m, void *out, void *a, void *b) {
  int64_t W = m->projector->encoder.width;
  return ka_add(m->dev, &(struct ka_add_args){
                            .out = flat(m, out, W), .a = flat(m, a, W), .b = flat(m, b, W)});
}

static ka_status gather(struct ka_model *m, void *out, void *x, int from, const int32_t *index,
                        int to) {
  struct ka_encoder *e = &m->projector->encoder;
  return ka_gather_rows(
      m->dev, &(struct ka_gather_rows_args){
                  .out = mat(m, out, e->width, to),
                  .x = mat(m, x, e->width, from),
                  .index = ka_tensor_1d((void *)(uintptr_t)index, KA_I32, e->n_rows * to)});
}

/* --- memory ----------------------------------------------------------------------------------- */

static ka_status values(struct ka_model *m, void **out, int64_t n, enum ka_dtype type) {
  return ka_arena_alloc_n(&m->step, out, n, ka_dtype_bytes(type), "projector");
}

static ka_status plan_layer(struct ka_model *m, struct ka_encoder_layer *l, int64_t R) {
  struct ka_ctx *ctx = m->ctx;
  int64_t W = m->projector->encoder.width, H = m->projector->encoder.heads;
  void **const of_width[] = {&l->mid, &l->h1, &l->h2, &l->q, &l->k, &l->v, &l->a, &l->out};
  for (size_t i = 0; i < sizeof of_width / sizeof *of_width; i++)
    KA_TRY(values(m, of_width[i], R * W, m->compute));
  KA_TRY(values(m, &l->both, 2 * R * W, m->compute));
  KA_TRY(values(m, &l->pre, 4 * R * W, m->compute));
  KA_TRY(values(m, &l->act, 4 * R * W, m->compute));
  KA_TRY(values(m, &l->rstd1, R, ka_accum_dtype(m)));
  KA_TRY(values(m, &l->rstd2, R, ka_accum_dtype(m)));
  return values(m, &l->lse, 2 * R * H, ka_accum_dtype(m));
}

/* Sine and cosine of each position, as in Vaswani et al. 2017. */
static ka_status fill_positions(struct ka_model *m, int64_t R) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_encoder *e = &m->projector->encoder;
  float *table;
  KA_TRY(KA_NEW_HEAP(ctx, &table, R * e->width, "positions"));
  for (int64_t t = 0; t < R; t++)
    for (int64_t c = 0; c < e->width; c++) {
      double angle = (double)t * pow(10000, -(double)(c / 2 * 2) / (double)e->width);
      table[t * e->width + c] = (float)(c % 2 ? cos(angle) : sin(angle));
    }
  ka_status st = ka_dev_put(m->dev, ka_mat(m, e->positions, R, e->width),
                            ka_tensor_2d(table, KA_F32, R, e->width));
  ka_free(table);
  return st;
}

ka_status ka_encoder_plan(struct ka_model *m, int64_t R, struct ka_arena *host) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_encoder *e = &m->projector->encoder;
  int64_t W = e->width;
  for (int i = 0; i < e->n_layers; i++) KA_TRY(plan_layer(m, &e->layers[i], R));
  void **const twice[] = {&e->qq, &e->kk, &e->vv, &e->dd, &e->dq, &e->dk, &e->dv};
  for (size_t i = 0; i < sizeof twice / sizeof *twice; i++)
    KA_TRY(values(m, twice[i], 2 * R * W, m->compute));
  void **const once[] = {&e->t, &e->dx, &e->positions};
  for (size_t i = 0; i < sizeof once / sizeof *once; i++)
    KA_TRY(values(m, once[i], R * W, m->compute));
  void *ints;
  KA_TRY(values(m, &ints, ENCODER_INTS * R, KA_I32));
  e->ints = ints;
  if (host) KA_TRY(KA_NEW(host, &e->host, ENCODER_INTS * R, "clips"));
  if (host) KA_TRY(KA_NEW(host, &e->clip, 2 * R, "clips"));
  return m->step.measuring ? KA_STATUS_OK : fill_positions(m, R);
}

void ka_encoder_begin(struct ka_encoder *e) { e->n_rows = e->n_clips = 0; }

void ka_encoder_clip(struct ka_encoder *e, int64_t first, int64_t n) {
  e->clip[2 * e->n_clips] = (int32_t)first;
  e->clip[2 * e->n_clips++ + 1] = (int32_t)n;
  e->n_rows = first + n;
}

/* Where the lists begin, for R rows: [2R] the clips' rows twice, [R] the second copies, [R,2] both
 * copies of a row, [R] its position. */
struct lists {
  int32_t *twice, *second, *pair, *pos;
};
static struct lists lists_of(int32_t *ints, int64_t R) {
  return (struct lists){ints, ints + 2 * R, ints + 3 * R, ints + 5 * R};
}

ka_status ka_encoder_send(struct ka_model *m) {
  struct ka_encoder *e = &m->projector->encoder;
  struct lists l = lists_of(e->host, e->n_rows);
  for (int64_t c = 0; c < e->n_clips; c++) {
    int64_t first = e->clip[2 * c], n = e->clip[2 * c + 1];
    for (int64_t t = 0; t < n; t++) {
      int32_t row = (int32_t)(first + t), a = (int32_t)(2 * first + t), b = (int32_t)(a + n);
      l.twice[a] = l.twice[b] = row;
      l.second[row] = b;
      l.pair[2 * row] = a;
      l.pair[2 * row + 1] = b;
      l.pos[row] = (int32_t)t;
    }
  }
  return ka_dev_upload(m->dev, e->ints, e->host,
                       (size_t)(ENCODER_INTS * e->n_rows) * sizeof *e->host);
}

/* --- attention -------------------------------------------------------------------------------- */

struct head_views {
  struct ka_tensor q, k, v, out, lse;
};

/* Of the clip's two copies; operands [2R, W]. */
static struct head_views views_of(const struct ka_model *m, const struct ka_encoder_layer *l,
                                  int64_t first, int64_t n) {
  const struct ka_encoder *e = &m->projector->encoder;
  size_t at = (size_t)(2 * first * e->width) * ka_dtype_bytes(m->compute);
  size_t at_lse = (size_t)(2 * first * e->heads) * ka_dtype_bytes(ka_accum_dtype(m));
  const int64_t shape[] = {1, 2 * n, e->heads, e->width / e->heads};
  void *const from[] = {e->qq, e->kk, e->vv, l->both};
  struct head_views v;
  struct ka_tensor *const to[] = {&v.q, &v.k, &v.v, &v.out};
  for (int i = 0; i < 4; i++) *to[i] = ka_tensor_view((char *)from[i] + at, m->compute, 4, shape);
  v.lse = ka_tensor_view((char *)l->lse + at_lse, ka_accum_dtype(m), 3,
                         (int64_t[]){1, e->heads, 2 * n});
  return v;
}

static double scale_of(const struct ka_encoder *e) {
  return 1 / sqrt((double)e->width / (double)e->heads);
}

/* q, k and v of both copies. */
static ka_status double_up(struct ka_model *m, const struct ka_encoder_layer *l) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_encoder *e = &m->projector->encoder;
  const int32_t *twice = lists_of(e->ints, e->n_rows).twice;
  KA_TRY(gather(m, e->qq, l->q, 1, twice, 2));
  KA_TRY(gather(m, e->kk, l->k, 1, twice, 2));
  return gather(m, e->vv, l->v, 1, twice, 2);
}

static ka_status attention_fwd(struct ka_model *m, struct ka_encoder_layer *l) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_encoder *e = &m->projector->encoder;
  KA_TRY(double_up(m, l));
  for (int64_t c = 0; c < e->n_clips; c++) {
    struct head_views v = views_of(m, l, e->clip[2 * c], e->clip[2 * c + 1]);
    KA_TRY(ka_attn_fwd(m->dev, &(struct ka_attn_fwd_args){.out = v.out,
                                                          .lse = v.lse,
                                                          .q = v.q,
                                                          .k = v.k,
                                                          .v = v.v,
                                                          .window = e->clip[2 * c + 1],
                                                          .scale = scale_of(e)}));
  }
  return gather(m, l->a, l->both, 2, lists_of(e->ints, e->n_rows).second, 1);
}

/* The sum of a row's two copies. */
static ka_status fold(struct ka_model *m, void *out, void *x) {
  struct ka_encoder *e = &m->projector->encoder;
  return ka_sum_rows(
      m->dev, &(struct ka_sum_rows_args){
                  .out = mat(m, out, e->width, 1),
                  .x = mat(m, x, e->width, 2),
                  .rows = ka_tensor_2d(lists_of(e->ints, e->n_rows).pair, KA_I32, e->n_rows, 2)});
}

/* da in e->t; the gradients of q, k and v in place of these. */
static ka_status attention_bwd(struct ka_model *m, struct ka_encoder_layer *l) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_encoder *e = &m->projector->encoder;
  struct ka_tensor second = ka_tensor_1d(lists_of(e->ints, e->n_rows).second, KA_I32, e->n_rows);
  KA_TRY(double_up(m, l));
  KA_TRY(ka_scatter_rows(m->dev, &(struct ka_scatter_rows_args){.out = mat(m, e->dd, e->width, 2),
                                                                .x = mat(m, e->t, e->width, 1),
                                                                .index = second}));
  for (int64_t c = 0; c < e->n_clips; c++) {
    int64_t first = e->clip[2 * c], n = e->clip[2 * c + 1];
    struct head_views v = views_of(m, l, first, n);
    size_t at = (size_t)(2 * first * e->width) * ka_dtype_bytes(m->compute);
    struct ka_attn_bwd_args args = {.q = v.q,
                                    .k = v.k,
                                    .v = v.v,
                                    .out = v.out,
                                    .lse = v.lse,
                                    .window = n,
                                    .scale = scale_of(e)};
    void *const from[] = {e->dq, e->dk, e->dv, e->dd};
    struct ka_tensor *const to[] = {&args.dq, &args.dk, &args.dv, &args.dout};
    for (int i = 0; i < 4; i++)
      *to[i] = ka_tensor_view((char *)from[i] + at, m->compute, 4, v.q.shape);
    KA_TRY(ka_attn_bwd(m->dev, &args));
  }
  KA_TRY(fold(m, l->q, e->dq));
  KA_TRY(fold(m, l->k, e->dk));
  return fold(m, l->v, e->dv);
}

/* --- layers ----------------------------------------------------------------------------------- */

static ka_status norm_fwd(struct ka_model *m, void *h, void *rstd, void *x,
                          const struct ka_weight *w) {
  struct ka_encoder *e = &m->projector->encoder;
  return ka_rmsnorm_fwd(m->dev, &(struct ka_rmsnorm_fwd_args){.y = mat(m, h, e->width, 1),
                                                              .rstd = ka_stat(m, rstd, e->n_rows),
                                                              .x = mat(m, x, e->width, 1),
                                                              .w = w->w,
                                                              .eps = eps});
}

/* e->dx += the gradient through the norm of x, of e->t. */
static ka_status norm_bwd(struct ka_model *m, void *x, void *rstd, const struct ka_weight *w) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_encoder *e = &m->projector->encoder;
  struct ka_tensor dw;
  KA_TRY(ka_vector_grad_begin(m, w, 0, &dw));
  KA_TRY(ka_rmsnorm_bwd(m->dev, &(struct ka_rmsnorm_bwd_args){.dx = mat(m, e->dx, e->width, 1),
                                                              .dw = dw,
                                                              .dy = mat(m, e->t, e->width, 1),
                                                              .s = mat(m, x, e->width, 1),
                                                              .rstd = ka_stat(m, rstd, e->n_rows),
                                                              .w = w->w,
                                                              .accumulate = true}));
  return ka_vector_grad_end(m, w, dw);
}

static ka_status layer_fwd(struct ka_model *m, struct ka_encoder_layer *l, void *x) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_encoder *e = &m->projector->encoder;
  int64_t W = e->width;
  struct ka_tensor h1 = mat(m, l->h1, W, 1), h2 = mat(m, l->h2, W, 1), t = mat(m, e->t, W, 1);
  KA_TRY(norm_fwd(m, l->h1, l->rstd1, x, &l->w[KA_ENCODER_NORM1]));
  KA_TRY(ka_linear_fwd(m, mat(m, l->q, W, 1), h1, &l->w[KA_ENCODER_Q], NULL));
  KA_TRY(ka_linear_fwd(m, mat(m, l->k, W, 1), h1, &l->w[KA_ENCODER_K], NULL));
  KA_TRY(ka_linear_fwd(m, mat(m, l->v, W, 1), h1, &l->w[KA_ENCODER_V], NULL));
  KA_TRY(attention_fwd(m, l));
  KA_TRY(ka_linear_fwd(m, t, mat(m, l->a, W, 1), &l->w[KA_ENCODER_O], NULL));
  KA_TRY(add(m, l->mid, x, e->t));
  KA_TRY(norm_fwd(m, l->h2, l->rstd2, l->mid, &l->w[KA_ENCODER_NORM2]));
  KA_TRY(ka_linear_gelu_fwd(m, mat(m, l->act, 4 * W, 1), mat(m, l->pre, 4 * W, 1), h2,
                            &l->w[KA_ENCODER_UP], NULL));
  KA_TRY(ka_linear_fwd(m, t, mat(m, l->act, 4 * W, 1), &l->w[KA_ENCODER_DOWN], NULL));
  return add(m, l->out, l->mid, e->t);
}

/* e->dx: the stream's gradient above the layer, then below it. x: what it read. */
static ka_status layer_bwd(struct ka_model *m, struct ka_encoder_layer *l, void *x) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_encoder *e = &m->projector->encoder;
  int64_t W = e->width;
  struct ka_tensor dx = mat(m, e->dx, W, 1), t = mat(m, e->t, W, 1), act = mat(m, l->act, 4 * W, 1);
  struct ka_tensor h1 = mat(m, l->h1, W, 1);
  KA_TRY(ka_linear_dw(m, dx, act, &l->w[KA_ENCODER_DOWN], NULL));
  KA_TRY(ka_linear_gelu_dx(m, act, mat(m, l->pre, 4 * W, 1), dx, &l->w[KA_ENCODER_DOWN]));
  KA_TRY(ka_linear_dw(m, act, mat(m, l->h2, W, 1), &l->w[KA_ENCODER_UP], NULL));
  KA_TRY(ka_linear_dx(m, t, act, &l->w[KA_ENCODER_UP], false));
  KA_TRY(norm_bwd(m, l->mid, l->rstd2, &l->w[KA_ENCODER_NORM2]));
  KA_TRY(ka_linear_dw(m, dx, mat(m, l->a, W, 1), &l->w[KA_ENCODER_O], NULL));
  KA_TRY(ka_linear_dx(m, t, dx, &l->w[KA_ENCODER_O], false));
  KA_TRY(attention_bwd(m, l));
  void *const d[] = {l->q, l->k, l->v};
  for (int i = 0; i < 3; i++) {
    const struct ka_weight *w = &l->w[KA_ENCODER_Q + i];
    KA_TRY(ka_linear_dw(m, mat(m, d[i], W, 1), h1, w, NULL));
    KA_TRY(ka_linear_dx(m, t, mat(m, d[i], W, 1), w, i > 0));
  }
  return norm_bwd(m, x, l->rstd1, &l->w[KA_ENCODER_NORM1]);
}

ka_status ka_encoder_fwd(struct ka_model *m, struct ka_tensor x, struct ka_tensor *out) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_encoder *e = &m->projector->encoder;
  e->in = x.data;
  *out = x;
  if (e->n_layers == 0) return KA_STATUS_OK;
  KA_TRY(gather(m, e->t, e->positions, 1, lists_of(e->ints, e->n_rows).pos, 1));
  KA_TRY(add(m, x.data, x.data, e->t));
  for (int i = 0; i < e->n_layers; i++) {
    KA_TRY(layer_fwd(m, &e->layers[i], out->data));
    out->data = e->layers[i].out;
  }
  return KA_STATUS_OK;
}

ka_status ka_encoder_bwd(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_encoder *e = &m->projector->encoder;
  for (int i = e->n_layers - 1; i >= 0; i--)
    KA_TRY(layer_bwd(m, &e->layers[i], i > 0 ? e->layers[i - 1].out : e->in));
  return ka_copy(m->dev, &(struct ka_copy_args){.out = mat(m, e->in, e->width, 1),
                                                .in = mat(m, e->dx, e->width, 1)});
}
