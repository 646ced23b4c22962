/* SPDX-License-Identifier: Apache-2.0
 * What a step needs: how far down the gradient goes, which activations that keeps, and the memory
 * for all of it, from the run arena (lives with the model) and the step arena (one pass). The same
 * code measures and allocates. */
#include "engine/model/plan.h"

#include "base/str.h"
#include "engine/model/rope.h"

#include <stdio.h>
#include <string.h>

/* Rows of the head's chunks: enough to pay for reading the head and, when it is trained, for adding
 * to its gradient; fewer where the vocabulary would make the logits larger than the bytes. A
 * separate device has more to keep busy. */
enum { CHUNK_ROWS = 512, CHUNK_BYTES = 128 << 20, MANY = 4 };

static bool trained(const struct ka_model *m, int layer, const enum ka_role *roles, int n) {
  for (int i = 0; i < n; i++) {
    const struct ka_param *p = ka_param_of(m, roles[i], layer);
    if (p && p->trained) return true;
  }
  return false;
}
#define TRAINED(m, layer, ...)                                                                     \
  trained(m, layer, (const enum ka_role[]){__VA_ARGS__},                                           \
          sizeof((const enum ka_role[]){__VA_ARGS__}) / sizeof(enum ka_role))

static void plan_needs(struct ka_model *m) {
  struct ka_model_buffers *b = m->buffers;
  int64_t L = m->recipe.L;
  bool below = ka_param_of(m, KA_ROLE_EMBED, -1)->trained;
  m->lowest_trained_layer = below ? -1 : (int)L;
  for (int l = 0; l < L; l++) {
    struct ka_layer_needs n = {.input = below};
    n.attn_norm = n.input || TRAINED(m, l, KA_ROLE_ATTN_NORM);
    n.qkv = n.attn_norm || TRAINED(m, l, KA_ROLE_Q, KA_ROLE_K, KA_ROLE_V, KA_ROLE_Q_BIAS,
                                   KA_ROLE_K_BIAS, KA_ROLE_V_BIAS, KA_ROLE_Q_NORM, KA_ROLE_K_NORM);
    n.o = n.qkv || TRAINED(m, l, KA_ROLE_O, KA_ROLE_O_BIAS);
    n.ffn_norm = n.o || TRAINED(m, l, KA_ROLE_FFN_NORM);
    n.gate_up =
        n.ffn_norm || TRAINED(m, l, KA_ROLE_GATE, KA_ROLE_UP, KA_ROLE_GATE_BIAS, KA_ROLE_UP_BIAS);
    n.down = n.gate_up || TRAINED(m, l, KA_ROLE_DOWN, KA_ROLE_DOWN_BIAS);
    if (n.down && m->lowest_trained_layer == L) m->lowest_trained_layer = l;
    below = n.down;
    b->layers[l].needs = n;
  }
  b->need_head_input = below || TRAINED(m, -1, KA_ROLE_FINAL_NORM);
}

/* Which weights the base model has to itself, and from where on its pass is its own. */
static void plan_base(struct ka_model *m) {
  struct ka_model_buffers *b = m->buffers;
  int L = (int)m->recipe.L;
  b->n_base = 0;
  b->base_layer = L;
  memcpy(b->base_by_role, m->by_role, (size_t)(L + 1) * KA_N_ROLES * sizeof *m->by_role);
  for (int64_t i = 0; i < m->n_params && m->kl_weight > 0; i++) {
    const struct ka_param *p = &m->params[i];
    if (!p->trained && !p->moved) continue;
    struct ka_param *own = &b->base[b->n_base++];
    *own = (struct ka_param){.name = p->name, .role = p->role, .layer = p->layer};
    own->stored = own->base = p->base;
    b->base_by_role[(p->layer + 1) * (int)KA_N_ROLES + (int)p->role] = own;
    int layer = p->role == KA_ROLE_EMBED ? -1 : p->layer >= 0 ? p->layer : L;
    if (layer < b->base_layer) b->base_layer = layer;
  }
}

/* Which of a block's values get memory of their own. */
struct keep {
#define X(name, width, is_stat) bool name;
  KA_ACTS_TABLE(X)
#undef X
};

/* What of the forward pass the backward pass reads again. */
static struct keep kept(const struct ka_model *m, int layer) {
  const struct ka_layer_needs *n = &m->buffers->layers[layer].needs;
  bool head_norm = m->recipe.qk_norm;
  return (struct keep){
      .s1 = n->attn_norm || TRAINED(m, layer, KA_ROLE_Q, KA_ROLE_K, KA_ROLE_V) ||
            layer == m->buffers->base_layer, /* where the base's pass starts */
      .rstd1 = n->attn_norm,
      .q_pre = n->qkv && head_norm,
      .k_pre = n->qkv && head_norm,
      .q = n->qkv && !head_norm, /* else made again from q_pre */
      .k = n->qkv && !head_norm,
      .v = n->qkv,
      .out = n->qkv || TRAINED(m, layer, KA_ROLE_O),
      .lse = n->qkv,
      .s2 = n->ffn_norm || TRAINED(m, layer, KA_ROLE_GATE, KA_ROLE_UP),
      .rstd2 = n->ffn_norm,
      .gate = n->down,
      .up = n->down,
  };
}

static ka_status values(struct ka_model *m, void **out, int64_t rows, int64_t cols, bool is_stat,
                        const char *name) {
  size_t size = ka_dtype_bytes(is_stat ? ka_wide(m) : m->compute);
  return ka_arena_alloc_n(&m->step, out, rows * cols, size, name);
}

/* Memory for the kept values of one layer; the others are those of `shared`, whose statistics are
 * absent. */
static ka_status plan_acts(struct ka_model *m, struct ka_acts *out, const struct keep *keep,
                           const struct ka_acts *shared, const char *name) {
  struct ka_ctx *ctx = m->ctx;
  const struct ka_recipe *r = &m->recipe;
  int64_t N = m->buffers->B * m->buffers->T;
  const int64_t one = 1, C = r->C, q = r->H * r->D, kv = r->K * r->D, heads = r->H, F = r->F;
#define X(field, width, is_stat)                                                                   \
  if (keep->field)                                                                                 \
    KA_TRY(values(m, &out->field, N, width, is_stat, name));                                       \
  else                                                                                             \
    out->field = shared->field;
  KA_ACTS_TABLE(X)
#undef X
  return KA_STATUS_OK;
}

bool ka_runs_again(const struct ka_model *m, int64_t layer) {
  int64_t lowest = m->lowest_trained_layer > 0 ? m->lowest_trained_layer : 0;
  return layer < m->recipe.L && m->buffers->layers[layer].needs.down &&
         layer - lowest < m->recompute;
}

static ka_status plan_layers(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  const struct ka_acts none = {0};
  struct ka_acts shared = {0}, full = {0};
  struct keep any_shares = {0}, all;
  bool head_norm = m->recipe.qk_norm, any_again = false, base = b->base_layer < m->recipe.L;
#define X(name, width, is_stat) any_shares.name = base && !is_stat;
  KA_ACTS_TABLE(X)
#undef X
  for (int l = 0; l < m->recipe.L; l++) {
    struct keep keep = kept(m, l);
    any_again = any_again || ka_runs_again(m, l);
    if (ka_runs_again(m, l)) continue;
#define X(name, width, is_stat) any_shares.name = any_shares.name || !(keep.name || is_stat);
    KA_ACTS_TABLE(X)
#undef X
  }
  any_shares.s1 = any_shares.s1 || any_shares.s2;
  any_shares.s2 = false;
  any_shares.q_pre = any_shares.q_pre && head_norm;
  any_shares.k_pre = any_shares.k_pre && head_norm;
  KA_TRY(plan_acts(m, &shared, &any_shares, &none, "scratch"));
  shared.s2 = shared.s1; /* the sum may take the place of its addend */
  b->shared = shared;
  if (any_again) { /* a full set, of the block at work */
#define X(name, width, is_stat) all.name = true;
    KA_ACTS_TABLE(X)
#undef X
    all.s1 = false;
    all.q_pre = all.k_pre = head_norm;
    KA_TRY(plan_acts(m, &full, &all, &none, "activations"));
  }
  for (int l = 0; l < m->recipe.L; l++) {
    bool again = ka_runs_again(m, l);
    struct keep keep = again ? (struct keep){.s1 = true} : kept(m, l);
    KA_TRY(plan_acts(m, &b->layers[l].acts, &keep, again ? &full : &shared, "activations"));
  }
  return KA_STATUS_OK;
}

static ka_status plan_scratch(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  const struct ka_recipe *r = &m->recipe;
  int64_t N = b->B * b->T, q = r->H * r->D, kv = r->K * r->D;
  const char *name = "scratch";
  bool attention = false, vectors = false;
  for (int64_t l = 0; l < r->L; l++) attention = attention || b->layers[l].needs.qkv;
  for (int64_t i = 0; i < m->n_slices; i++)
    vectors = vectors || m->params[m->slices[i].param].stored.n_dim < 2;
  KA_TRY(values(m, &b->h, N, r->C, false, name));
  KA_TRY(values(m, &b->delta, N, r->C, false, name));
  KA_TRY(values(m, &b->act, N, r->F, false, name));
  KA_TRY(values(m, &b->final, N, r->C, false, name));
  if (r->qk_norm) {
    KA_TRY(values(m, &b->q_rstd, N, r->H, true, name));
    KA_TRY(values(m, &b->k_rstd, N, r->K, true, name));
  }
  if (b->need_head_input) KA_TRY(values(m, &b->dx, N, r->C, false, name));
  if (attention) {
    KA_TRY(values(m, &b->da, N, q, false, name));
    KA_TRY(values(m, &b->dq, N, q, false, name));
    KA_TRY(values(m, &b->dk, N, kv, false, name));
    KA_TRY(values(m, &b->dv, N, kv, false, name));
  }
  int64_t widest = r->C > r->F ? r->C : r->F;
  if (vectors) KA_TRY(values(m, &b->dvec, 1, widest > q ? widest : q, true, name));
  return KA_STATUS_OK;
}

static ka_status plan_head(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t N = b->B * b->T, C = m->recipe.C, V = m->recipe.V;
  void *best;
  KA_TRY(values(m, &b->picked, N, C, false, "head"));
  KA_TRY(values(m, &b->hidden, N, C, false, "head"));
  KA_TRY(values(m, &b->rstd, N, 1, true, "head"));
  KA_TRY(values(m, &b->loss, N, 1, true, "head"));
  KA_TRY(ka_arena_alloc_n(&m->step, &best, N, sizeof(int32_t), "head"));
  b->best = best;
  /* at least one row of the wide type */
  size_t wide = ka_dtype_bytes(ka_wide(m)),
         bytes = (size_t)(b->chunk_rows * V) * ka_dtype_bytes(m->compute);
  if (bytes < (size_t)V * wide) bytes = (size_t)V * wide;
  KA_TRY(ka_arena_alloc(&m->step, &b->logits, bytes, "logits of a chunk"));
  if (m->kl_weight == 0) return KA_STATUS_OK;
  KA_TRY(values(m, &b->kl, N, 1, true, "head"));
  return ka_arena_alloc(&m->step, &b->base_logits, bytes, "base logits of a chunk");
}

static ka_status plan_rope(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t R = ka_rope_channels(&m->recipe.rope, m->recipe.D);
  int64_t shape[] = {b->P, R / 2};
  KA_TRY(ka_tensor_alloc(&m->run, &b->cos, "RoPE tables", KA_F32, 2, shape));
  KA_TRY(ka_tensor_alloc(&m->run, &b->sin, "RoPE tables", KA_F32, 2, shape));
  if (!b->cos.data || R == 0) return KA_STATUS_OK;
  void *tables;
  KA_TRY(ka_alloc_n(ctx, &tables, b->P * R, sizeof(float), "RoPE tables"));
  float *cos = tables, *sin = cos + b->P * (R / 2);
  ka_rope_table(&m->recipe.rope, R, b->P, cos, sin);
  size_t n_bytes = ka_tensor_bytes(&b->cos);
  ka_status st = ka_dev_upload(m->dev, b->cos.data, cos, n_bytes);
  if (ka_ok(st)) st = ka_dev_upload(m->dev, b->sin.data, sin, n_bytes);
  ka_free(tables);
  return st;
}

static ka_status plan_all(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(ka_weights_plan(m));
  const int64_t n_health = sizeof(struct ka_health) / sizeof(double);
  KA_TRY(ka_tensor_alloc(&m->run, &m->health, "health", KA_F64, 1, &n_health));
  KA_TRY(plan_rope(m));
  KA_TRY(plan_layers(m));
  KA_TRY(plan_scratch(m));
  KA_TRY(plan_head(m));
  return ka_inputs_plan(m);
}

void ka_model_unprepare(struct ka_model *m) {
  struct ka_model_buffers *b = m->buffers;
  for (int i = 0; b && i < KA_RECORDED_PASSES; i++) {
    ka_replay_free(m->dev, &b->recorded[i].replay);
    b->recorded[i] = (struct ka_recorded_pass){0};
  }
  if (b) ka_arena_deinit(&b->host_arena);
  ka_arena_deinit(&m->run);
  ka_arena_deinit(&m->step);
}

ka_status ka_model_prepare(struct ka_model *m, int64_t B, int64_t T, bool measure) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  KA_NEVER(ctx, B < 1 || T < 1);
  b->B = B;
  b->T = T;
  b->P = m->max_position > T ? m->max_position : T;
  int64_t times = m->dev->backend->separate ? MANY : 1, most = times * CHUNK_ROWS;
  int64_t fit = times * CHUNK_BYTES / (m->recipe.V * (int64_t)ka_dtype_bytes(m->compute));
  b->chunk_rows = fit < 1 ? 1 : fit < most ? fit : most;
  if (b->chunk_rows > B * T) b->chunk_rows = B * T;
  plan_needs(m);
  plan_base(m);
  ka_model_unprepare(m);
  const struct ka_memory *memory = ka_dev_memory(m->dev, KA_PLACE_DEVICE);
  ka_arena_init_measure(&m->run, ctx, "model", memory);
  ka_arena_init_measure(&m->step, ctx, "step", memory);
  KA_TRY(plan_all(m));
  if (measure) return KA_STATUS_OK;
  KA_TRY(ka_arena_realise(&m->run, "select less, or set bf16: true"));
  KA_TRY(ka_arena_realise(
      &m->step, "lower micro_batch_size or sequence_len, or set gradient_checkpointing: block"));
  KA_TRY(plan_all(m));
  return ka_weights_fill(m);
}
