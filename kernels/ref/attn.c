/* SPDX-License-Identifier: Apache-2.0
 * Causal attention one query at a time: softmax(scale q K^T) V over the visible keys, and its
 * gradients (Dao 2022, algorithms 1 and 4, without the tiles). */
#include "kernels/ref/ref.h"

#include <math.h>
#include <omp.h>

/* Where one head's vectors are: element d of token t is [t * stride + d]. */
struct head {
  const struct ka_tensor *t;
  int64_t first, stride, width;
};

static struct head head_of(const struct ka_tensor *t, int64_t b, int64_t h) {
  int64_t stride = t->shape[2] * t->shape[3];
  return (struct head){t, b * t->shape[1] * stride + h * t->shape[3], stride, t->shape[3]};
}
static double at(struct head h, int64_t t, int64_t d) {
  return get(h.t, h.first + t * h.stride + d);
}
static void set(struct head h, int64_t t, int64_t d, double v) {
  put(h.t, h.first + t * h.stride + d, v);
}

struct mask {
  const struct ka_tensor *doc_start;
  int64_t window;
};

static int64_t first_key(struct mask mask, int64_t b, int64_t i, int64_t p) {
  int64_t first = 0;
  if (mask.doc_start->data) first = get_id(mask.doc_start, b * mask.doc_start->shape[1] + i);
  if (mask.window > 0 && p - mask.window + 1 > first) first = p - mask.window + 1;
  return first;
}

static double dot(struct head x, int64_t i, struct head y, int64_t j) {
  double sum = 0;
  for (int64_t d = 0; d < x.width; d++) sum += at(x, i, d) * at(y, j, d);
  return sum;
}

static double score(double product, double scale, double softcap) {
  double s = scale * product;
  return softcap > 0 ? softcap * tanh(s / softcap) : s;
}

/* One query: weights of keys [first, p] into w, then out and lse. */
static void attend(const struct ka_attn_fwd_args *args, int64_t b, int64_t h, int64_t i,
                   double *w) {
  int64_t group = args->q.shape[2] / args->k.shape[2], p = args->q_offset + i;
  struct head q = head_of(&args->q, b, h), k = head_of(&args->k, b, h / group);
  struct head v = head_of(&args->v, b, h / group), out = head_of(&args->out, b, h);
  int64_t first = first_key((struct mask){&args->doc_start, args->window}, b, i, p);
  double max = -INFINITY, sum = 0;
  for (int64_t j = first; j <= p; j++) {
    w[j] = score(dot(q, i, k, j), args->scale, args->softcap);
    if (w[j] > max || isnan(w[j])) max = w[j];
  }
  for (int64_t j = first; j <= p; j++) sum += w[j] = exp(w[j] - max);
  for (int64_t d = 0; d < v.width; d++) {
    double o = 0;
    for (int64_t j = first; j <= p; j++) o += w[j] * at(v, j, d);
    set(out, i, d, o / sum);
  }
  if (args->lse.data) put(&args->lse, (b * q.t->shape[2] + h) * q.t->shape[1] + i, max + log(sum));
}

ka_status attn_fwd_ref(struct ka_dev *dev, const struct ka_attn_fwd_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  int64_t n_batch = args->q.shape[0], n_tok = args->q.shape[1], n_heads = args->q.shape[2];
  int64_t n_keys = args->k.shape[1];
  void *scratch;
  KA_TRY(ka_alloc_n(ctx, &scratch, omp_get_max_threads() * n_keys, sizeof(double), "attn_fwd_ref"));
#pragma omp parallel for collapse(3)
  for (int64_t b = 0; b < n_batch; b++)
    for (int64_t h = 0; h < n_heads; h++)
      for (int64_t i = 0; i < n_tok; i++)
        attend(args, b, h, i, (double *)scratch + omp_get_thread_num() * n_keys);
  ka_free(scratch);
  return KA_STATUS_OK;
}

/* One query's part of dq, and of dk and dv of its key/value head, which are sums in double. */
static void attend_back(const struct ka_attn_bwd_args *args, int64_t b, int64_t h, int64_t i,
                        double *dk, double *dv) {
  int64_t group = args->q.shape[2] / args->k.shape[2];
  struct head q = head_of(&args->q, b, h), k = head_of(&args->k, b, h / group);
  struct head v = head_of(&args->v, b, h / group), out = head_of(&args->out, b, h);
  struct head dq = head_of(&args->dq, b, h), dout = head_of(&args->dout, b, h);
  int64_t first = first_key((struct mask){&args->doc_start, args->window}, b, i, i);
  double lse = get(&args->lse, (b * q.t->shape[2] + h) * q.t->shape[1] + i);
  double delta = dot(dout, i, out, i);
  double *sum = dv + args->v.shape[1] * v.width; /* dq of this query */
  for (int64_t d = 0; d < q.width; d++) sum[d] = 0;
  for (int64_t j = first; j <= i; j++) {
    double s = score(dot(q, i, k, j), args->scale, args->softcap), w = exp(s - lse);
    double ds = w * (dot(dout, i, v, j) - delta) * args->scale;
    if (args->softcap > 0) ds *= 1 - s / args->softcap * (s / args->softcap);
    for (int64_t d = 0; d < v.width; d++) dv[j * v.width + d] += w * at(dout, i, d);
    for (int64_t d = 0; d < q.width; d++) {
      dk[j * q.width + d] += ds * at(q, i, d);
      sum[d] += ds * at(k, j, d);
    }
  }
  for (int64_t d = 0; d < q.width; d++) set(dq, i, d, sum[d]);
}

ka_status attn_bwd_ref(struct ka_dev *dev, const struct ka_attn_bwd_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  int64_t n_batch = args->q.shape[0], n_tok = args->q.shape[1], n_heads = args->q.shape[2];
  int64_t n_kv = args->k.shape[2], width = args->q.shape[3], v_width = args->v.shape[3];
  int64_t each = n_tok * (width + v_width) + width;
  void *scratch;
  KA_TRY(ka_alloc_n(ctx, &scratch, omp_get_max_threads() * each, sizeof(double), "attn_bwd_ref"));
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < n_batch; b++)
    for (int64_t g = 0; g < n_kv; g++) {
      double *dk = (double *)scratch + omp_get_thread_num() * each, *dv = dk + n_tok * width;
      for (int64_t i = 0; i < n_tok * (width + v_width); i++) dk[i] = 0;
      for (int64_t h = g * (n_heads / n_kv); h < (g + 1) * (n_heads / n_kv); h++)
        for (int64_t i = 0; i < n_tok; i++) attend_back(args, b, h, i, dk, dv);
      struct head out_k = head_of(&args->dk, b, g), out_v = head_of(&args->dv, b, g);
      for (int64_t j = 0; j < n_tok; j++) {
        for (int64_t d = 0; d < width; d++) set(out_k, j, d, dk[j * width + d]);
        for (int64_t d = 0; d < v_width; d++) set(out_v, j, d, dv[j * v_width + d]);
      }
    }
  ka_free(scratch);
  return KA_STATUS_OK;
}
