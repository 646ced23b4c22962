/* SPDX-License-Identifier: Apache-2.0
 * See kernels/cuda/cudnn.h. cuDNN starts with the first call that could be its; a plan is made once
 * a shape, about a third of a second each, and kept. */
#include "kernels/cuda/cudnn.h"

#include "base/log.h"
#include "kernels/cuda/cudnn/attn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16, TILE = 128 }; /* rows shorter than a tile gain nothing */

/* The gradient's workspace holds dS, 2 H T^2 bytes a row of the batch: room for a row of 2,048
 * tokens with 32 heads, or what a small device can spare. */
static const size_t WORKSPACE_BYTES = 512 << 20, DEVICE_PART = 64;

struct known {
  struct cudnn_attn pattern;
  struct cudnn_plan plan; /* plan.plan NULL: refused */
  int64_t rows;           /* of the pattern's B that the plan does */
};

struct cuda_cudnn {
  struct cudnn c;
  bool there, usable; /* the library; its work with this device */
  size_t most_bytes;  /* of workspace */
  void *workspace;    /* of most_bytes; NULL while the scratch is enough */
  struct known *known;
  int64_t n, cap;
};

/* --- opening ---------------------------------------------------------------------------------- */

/* Blackwell's gradients repeat only with settings of the engine that nothing here makes. */
static bool gradients_repeat(const struct cuda_state *s) { return s->props.major <= 9; }

ka_status cuda_cudnn_open(struct ka_dev *dev, size_t *reserved) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  size_t part = s->props.totalGlobalMem / DEVICE_PART;
  void *memory = NULL;
  *reserved = 0;
  KA_TRY(ka_alloc(ctx, &memory, sizeof(struct cuda_cudnn), "cuDNN"));
  struct cuda_cudnn *d = s->cudnn = memory;
  if (s->without & CUDA_CUDNN)
    snprintf(d->c.why, sizeof d->c.why, "KAPPA_CUDA_WITHOUT names it");
  else
    d->there = cudnn_open(&d->c);
  d->most_bytes = part < WORKSPACE_BYTES ? part : WORKSPACE_BYTES;
  if (d->most_bytes < s->scratch_bytes || !gradients_repeat(s)) d->most_bytes = s->scratch_bytes;
  if (d->there && d->most_bytes > s->scratch_bytes) *reserved = d->most_bytes;
  return KA_STATUS_OK;
}

/* Does it work with this device? Asked when it could be used: starting it takes its time. */
static bool usable(struct ka_dev *dev) {
  struct cuda_cudnn *d = cuda_of(dev)->cudnn;
  if (!d->there || d->usable) return d->usable;
  d->there = d->usable = cudnn_use_device(&d->c, cuda_of(dev)->stream);
  if (!d->usable) ka_debug(dev->ctx, "cuda", "no attention by cuDNN: %s", d->c.why);
  return d->usable;
}

void cuda_cudnn_close(struct ka_dev *dev) {
  struct cuda_cudnn *d = cuda_of(dev)->cudnn;
  if (!d) return;
  for (int64_t i = 0; i < d->n; i++) cudnn_plan_free(&d->c, &d->known[i].plan);
  cudnn_close(&d->c);
  (void)cudaFree(d->workspace);
  ka_free(d->known);
  ka_free(d);
  cuda_of(dev)->cudnn = NULL;
}

void cuda_cudnn_describe(struct ka_dev *dev, char *text, size_t n) {
  char forward[96], backward[96] = "own";
  struct cuda_cudnn *d = cuda_of(dev)->cudnn;
  if (!usable(dev)) {
    snprintf(text, n, "no attention by cuDNN: %s", d->c.why);
    return;
  }
  cudnn_attn_describe(&d->c, false, forward, sizeof forward);
  if (gradients_repeat(cuda_of(dev))) cudnn_attn_describe(&d->c, true, backward, sizeof backward);
  snprintf(text, n, "cuDNN %zu.%zu does bf16 attention without documents: forward %s; backward %s",
           d->c.version / 10000, d->c.version % 10000 / 100, forward, backward);
}

/* --- calls ------------------------------------------------------------------------------------ */

struct call {
  const char *op;
  struct cudnn_attn pattern;
  void *at[CUDNN_TENSORS]; /* in device memory */
  float scale, window, softcap;
};

/* A window that hides nothing is none. */
static struct cudnn_attn pattern_of(const struct ka_tensor *q, const struct ka_tensor *k,
                                    const struct ka_tensor *v, int64_t window, double softcap) {
  int64_t T = q->shape[1];
  return (struct cudnn_attn){.B = q->shape[0],
                             .T = T,
                             .H = q->shape[2],
                             .K = k->shape[2],
                             .D = q->shape[3],
                             .V = v->shape[3],
                             .features = (window > 0 && window < T ? CUDNN_ATTN_WINDOW : 0) |
                                         (softcap != 0 ? CUDNN_ATTN_SOFTCAP : 0)};
}

static void make_plan(struct ka_dev *dev, struct known *k) {
  struct cuda_cudnn *d = cuda_of(dev)->cudnn;
  struct cudnn *c = &d->c;
  struct cudnn_attn a = k->pattern;
  struct cudnn_graph g;
  int64_t sizes[128], most = (int64_t)d->most_bytes;
  a.B = k->rows = cudnn_attn_rows(&a, most);
  if (k->pattern.B > 0 && k->rows == 0)
    snprintf(c->why, sizeof c->why, "a row needs more than %zu MiB", d->most_bytes >> 20);
  else if (cudnn_attn_graph(&a, &g, sizes, c->why, sizeof c->why) &&
           cudnn_plan_make(c, &k->plan, &g, most))
    return;
  ka_debug(dev->ctx, "cuda", "B %lld T %lld H %lld K %lld D %lld features %lld: not cuDNN's: %s",
           (long long)k->pattern.B, (long long)a.T, (long long)a.H, (long long)a.K, (long long)a.D,
           (long long)a.features, c->why);
}

/* The pattern, new or known; *out NULL: there is no plan. */
static ka_status find(struct ka_dev *dev, const struct cudnn_attn *a, const struct known **out) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_cudnn *d = cuda_of(dev)->cudnn;
  int64_t i = 0;
  *out = NULL;
  while (i < d->n && memcmp(&d->known[i].pattern, a, sizeof *a) != 0) i++;
  if (i == d->n) {
    void *items = d->known;
    /* What is recorded has run before. */
    if (cuda_of(dev)->capturing || !usable(dev)) return KA_STATUS_OK;
    KA_TRY(ka_grow(ctx, &items, &d->cap, i + 1, sizeof *d->known, "cuDNN plans"));
    d->known = items;
    d->known[d->n++].pattern = *a;
    make_plan(dev, &d->known[i]);
  }
  if (d->known[i].plan.plan) *out = &d->known[i];
  return KA_STATUS_OK;
}

/* Memory that stays where it is, because recordings know the address. */
static ka_status workspace_of(struct ka_dev *dev, const struct cudnn_plan *plan, void **out) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  struct cuda_cudnn *d = s->cudnn;
  if ((size_t)plan->workspace_bytes <= s->scratch_bytes)
    return cuda_scratch(dev, (size_t)plan->workspace_bytes, out);
  if (!d->workspace)
    KA_TRY(cuda_alloc(dev, KA_PLACE_DEVICE, &d->workspace, d->most_bytes, "cuDNN workspace"));
  *out = d->workspace;
  return KA_STATUS_OK;
}

static ka_status run(struct ka_dev *dev, struct call *call, const struct known *k) {
  struct ka_ctx *ctx = dev->ctx;
  struct cudnn *c = &cuda_of(dev)->cudnn->c;
  float one = 1, minus_infinity = -INFINITY;
  void *workspace = NULL;
  call->at[ATTN_SCALE] = &call->scale;
  call->at[ATTN_WINDOW] = &call->window;
  call->at[ATTN_SOFTCAP] = &call->softcap;
  call->at[ATTN_ONE] = &one;
  call->at[ATTN_MINUS_INFINITY] = &minus_infinity;
  KA_TRY(workspace_of(dev, &k->plan, &workspace));
  for (int64_t block = 0; block < k->pattern.B / k->rows; block++)
    if (!cudnn_plan_run(c, &k->plan, call->at, block, workspace))
      return ka_fail(ctx, KA_E_DEVICE, "%s: cuDNN: %s; KAPPA_CUDA_WITHOUT=cudnn does without it",
                     call->op, c->why);
  return cuda_launched(dev, call->op, cudaSuccess);
}

static bool attend(struct ka_dev *dev, struct call *call, ka_status *st) {
  const struct known *k = NULL;
  if (call->pattern.T < TILE) return false;
  for (int i = 0; i < CUDNN_TENSORS; i++)
    if ((uintptr_t)call->at[i] % ALIGN) return false;
  *st = find(dev, &call->pattern, &k);
  if (ka_ok(*st) && k) *st = run(dev, call, k);
  return !ka_ok(*st) || k;
}

bool cuda_cudnn_attn_fwd(struct ka_dev *dev, const struct ka_attn_fwd_args *args, ka_status *st) {
  const struct ka_attn_fwd_args *a = args;
  if (a->q.dtype != KA_BF16 || !a->lse.data || a->doc_start.data || a->q_offset != 0 ||
      a->k.shape[1] != a->q.shape[1])
    return false;
  struct call call = {.op = "attn_fwd",
                      .pattern = pattern_of(&a->q, &a->k, &a->v, a->window, a->softcap),
                      .at = {[ATTN_Q] = a->q.data,
                             [ATTN_KT] = a->k.data,
                             [ATTN_V] = a->v.data,
                             [ATTN_OUT] = a->out.data,
                             [ATTN_LSE] = a->lse.data},
                      .scale = (float)a->scale,
                      .window = (float)a->window,
                      .softcap = (float)a->softcap};
  return attend(dev, &call, st);
}

bool cuda_cudnn_attn_bwd(struct ka_dev *dev, const struct ka_attn_bwd_args *args, ka_status *st) {
  const struct ka_attn_bwd_args *a = args;
  if (a->q.dtype != KA_BF16 || a->doc_start.data || !gradients_repeat(cuda_of(dev))) return false;
  struct call call = {.op = "attn_bwd",
                      .pattern = pattern_of(&a->q, &a->k, &a->v, a->window, a->softcap),
                      .at = {[ATTN_Q] = a->q.data,
                             [ATTN_KT] = a->k.data,
                             [ATTN_V] = a->v.data,
                             [ATTN_VT] = a->v.data,
                             [ATTN_OUT] = a->out.data,
                             [ATTN_LSE] = a->lse.data,
                             [ATTN_DOUT] = a->dout.data,
                             [ATTN_DQ] = a->dq.data,
                             [ATTN_DK] = a->dk.data,
                             [ATTN_DV] = a->dv.data},
                      .scale = (float)a->scale,
                      .window = (float)a->window,
                      .softcap = (float)a->softcap};
  call.pattern.features |= CUDNN_ATTN_BACKWARD;
  return attend(dev, &call, st);
}
