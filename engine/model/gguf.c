/* SPDX-License-Identifier: Apache-2.0
 * See gguf.h: which tensors there are, and their rows in the order that llama.cpp wants.
 *
 * Rows of q and k where RoPE turns neighbours (here: channel i with i + R/2 of a head):
 *   a head here   0 1 2 3 | 4 5 6 7   ->   there   0 4 1 5 2 6 3 7 */
#include "engine/model/gguf.h"

#include "engine/model/gguf_archs.h"
#include "engine/model/rope.h"

#include <stdio.h>
#include <string.h>

static const char *const names[KA_N_ROLES] = {
    [KA_ROLE_EMBED] = "token_embd.weight",
    [KA_ROLE_POSITIONS] = "position_embd.weight",
    [KA_ROLE_FINAL_NORM] = "output_norm.weight",
    [KA_ROLE_FINAL_NORM_BIAS] = "output_norm.bias",
    [KA_ROLE_HEAD] = "output.weight",
    [KA_ROLE_ATTN_NORM] = "attn_norm.weight",
    [KA_ROLE_ATTN_NORM_BIAS] = "attn_norm.bias",
    [KA_ROLE_Q] = "attn_q.weight",
    [KA_ROLE_K] = "attn_k.weight",
    [KA_ROLE_V] = "attn_v.weight",
    [KA_ROLE_O] = "attn_output.weight",
    [KA_ROLE_Q_BIAS] = "attn_q.bias",
    [KA_ROLE_K_BIAS] = "attn_k.bias",
    [KA_ROLE_V_BIAS] = "attn_v.bias",
    [KA_ROLE_O_BIAS] = "attn_output.bias",
    [KA_ROLE_Q_NORM] = "attn_q_norm.weight",
    [KA_ROLE_K_NORM] = "attn_k_norm.weight",
    [KA_ROLE_SINKS] = "attn_sinks.weight",
    [KA_ROLE_ATTN_POST_NORM] = "post_attention_norm.weight",
    [KA_ROLE_FFN_NORM] = "ffn_norm.weight",
    [KA_ROLE_FFN_NORM_BIAS] = "ffn_norm.bias",
    [KA_ROLE_GATE] = "ffn_gate.weight",
    [KA_ROLE_UP] = "ffn_up.weight",
    [KA_ROLE_DOWN] = "ffn_down.weight",
    [KA_ROLE_GATE_BIAS] = "ffn_gate.bias",
    [KA_ROLE_UP_BIAS] = "ffn_up.bias",
    [KA_ROLE_DOWN_BIAS] = "ffn_down.bias",
    [KA_ROLE_FFN_POST_NORM] = "post_ffw_norm.weight",
    [KA_ROLE_ROUTER] = "ffn_gate_inp.weight",
    [KA_ROLE_ROUTER_BIAS] = "ffn_gate_inp.bias",
    [KA_ROLE_SHARED_GATE] = "ffn_gate_shexp.weight",
    [KA_ROLE_SHARED_UP] = "ffn_up_shexp.weight",
    [KA_ROLE_SHARED_DOWN] = "ffn_down_shexp.weight",
    [KA_ROLE_SHARED_SWITCH] = "ffn_gate_inp_shexp.weight",
    [KA_ROLE_EXPERT_GATE] = "ffn_gate_exps.weight",
    [KA_ROLE_EXPERT_UP] = "ffn_up_exps.weight",
    [KA_ROLE_EXPERT_DOWN] = "ffn_down_exps.weight",
    [KA_ROLE_EXPERT_GATE_UP] = "ffn_gate_exps.weight",
    [KA_ROLE_EXPERT_GATE_UP_BIAS] = "ffn_gate_exps.bias",
    [KA_ROLE_EXPERT_DOWN_BIAS] = "ffn_down_exps.bias",
};

enum { FUSED_MOST = 3, ROWS_AT_ONCE = 64 };

/* One tensor of the file: weights of these roles below each other, of each expert; of their rows
 * (a vector's elements) every step-th from `first` on. */
struct out_tensor {
  const char *name;
  enum ka_role roles[FUSED_MOST];
  int n_roles, layer, first, step;
};

struct export {
  struct ka_model *m;
  struct ka_gguf *g;
  const struct ka_arch *arch;
  enum ka_gguf_type type;
  int64_t turned; /* channels of a head that change places: all that rotate, or none */
  struct ka_arena arena;
  ka_status (*each)(struct export * e, const struct out_tensor *t);
  int64_t n_done;
  void (*done)(void *user, int64_t n, int64_t of);
  void *user;
};

/* --- rows ------------------------------------------------------------------------------------- */

static bool vector_of(enum ka_role role) {
  enum ka_dim rows = ka_role_info(role)->rows;
  return rows == KA_DIM_ONE || role == KA_ROLE_SHARED_SWITCH;
}

/* Of a weight as a linear layer has it: [out, in], vectors [n]. */
static int64_t size_of(const struct export *e, enum ka_role role, bool rows) {
  const struct ka_role_info *info = ka_role_info(role);
  return ka_recipe_dim(&e->m->recipe, rows ? info->rows : info->cols);
}

/* Where row (or element) i of the file's weight is in ours. */
static int64_t source_row(const struct export *e, const struct out_tensor *t, enum ka_role role,
                          int64_t i) {
  bool turns =
      role == KA_ROLE_Q || role == KA_ROLE_K || role == KA_ROLE_Q_BIAS || role == KA_ROLE_K_BIAS;
  int64_t D = e->m->recipe.D, head = i / D, c = i % D;
  if (turns && c < e->turned) return head * D + c % 2 * (e->turned / 2) + c / 2;
  return t->first + i * t->step;
}

/* The matrix that w is a part of: one expert's where all are stacked. */
static const char *matrix_of(const struct ka_weight *w, int64_t *stride) {
  const struct ka_tensor *s = &w->param->stored;
  size_t size = ka_dtype_bytes(s->dtype);
  *stride = s->shape[s->n_dim - 1];
  int64_t skipped = s->n_dim == 3 ? w->expert * s->shape[1] * s->shape[2] : 0;
  return (const char *)s->data + (size_t)skipped * size;
}

/* Rows [at, at + n) as floats. */
static void load_rows(const struct export *e, const struct out_tensor *t, const struct ka_weight *w,
                      int64_t at, int64_t n, float *out) {
  enum ka_dtype dtype = w->param->stored.dtype;
  size_t size = ka_dtype_bytes(dtype);
  int64_t stride, n_cols = w->transposed ? w->n_rows : w->n_cols;
  const char *matrix = matrix_of(w, &stride);
  for (int64_t i = 0; i < n && !w->transposed; i++) {
    int64_t row = w->row + source_row(e, t, w->role, at + i);
    ka_convert(out + i * n_cols, KA_F32, matrix + (size_t)(row * stride + w->col) * size, dtype,
               n_cols);
  }
  for (int64_t c = 0; c < n_cols && w->transposed; c++)
    for (int64_t i = 0; i < n; i++) {
      int64_t col = w->col + source_row(e, t, w->role, at + i);
      out[i * n_cols + c] = (float)ka_load(matrix, dtype, (w->row + c) * stride + col);
    }
}

/* A norm's weight is what it multiplies by. */
static void load_vector(const struct export *e, const struct out_tensor *t,
                        const struct ka_weight *w, int64_t n, float *out) {
  int64_t stride;
  const char *matrix = matrix_of(w, &stride);
  double offset = ka_role_info(w->role)->fresh == '1' ? e->m->recipe.norm_offset : 0;
  for (int64_t i = 0; i < n; i++) {
    int64_t at = w->row * stride + w->col + source_row(e, t, w->role, i);
    out[i] = (float)(offset + ka_load(matrix, w->param->stored.dtype, at));
  }
}

/* --- one tensor ------------------------------------------------------------------------------- */

static bool stays_wide(enum ka_role role) {
  return vector_of(role) || role == KA_ROLE_ROUTER || role == KA_ROLE_POSITIONS;
}

static ka_status announce(struct export *e, const struct out_tensor *t) {
  enum ka_role role = t->roles[0];
  int64_t E = ka_role_info(role)->scope == KA_SCOPE_EXPERT ? e->m->recipe.moe->E : 0;
  int64_t shape[3] = {E, 0, size_of(e, role, false)};
  bool vector = vector_of(role);
  for (int i = 0; i < t->n_roles && !vector; i++) shape[1] += size_of(e, t->roles[i], true);
  for (int i = 1; i < t->n_roles && vector; i++) shape[2] += size_of(e, t->roles[i], false);
  if (vector) {
    shape[1] = E;
    shape[2] /= t->step;
  } else {
    shape[1] /= t->step;
  }
  int n_dim = (vector ? 1 : 2) + (E > 0);
  return ka_gguf_add_tensor(e->g, t->name, stays_wide(role) ? KA_GGUF_F32 : e->type, n_dim,
                            shape + 3 - n_dim);
}

static ka_status write_weight(struct export *e, const struct out_tensor *t,
                              const struct ka_weight *w, float *rows) {
  struct ka_ctx *ctx = e->m->ctx;
  int64_t n_rows = size_of(e, w->role, true) / t->step;
  for (int64_t at = 0; at < n_rows; at += ROWS_AT_ONCE) {
    int64_t n = n_rows - at < ROWS_AT_ONCE ? n_rows - at : ROWS_AT_ONCE;
    load_rows(e, t, w, at, n, rows);
    KA_TRY(ka_gguf_write_rows(e->g, rows, n));
  }
  return KA_STATUS_OK;
}

static ka_status write_tensor(struct export *e, const struct out_tensor *t) {
  struct ka_ctx *ctx = e->m->ctx;
  bool vector = vector_of(t->roles[0]);
  bool experts = ka_role_info(t->roles[0])->scope == KA_SCOPE_EXPERT;
  int64_t n_cols = 0, E = experts ? e->m->recipe.moe->E : 1;
  void *p;
  for (int i = 0; i < t->n_roles; i++) n_cols += size_of(e, t->roles[i], false);
  KA_TRY(
      ka_arena_alloc_n(&e->arena, &p, n_cols * (vector ? 1 : ROWS_AT_ONCE), sizeof(float), "rows"));
  float *rows = p;
  for (int x = 0; x < E; x++) {
    int64_t at = 0;
    for (int i = 0; i < t->n_roles; i++) {
      const struct ka_weight *w = ka_weights_find(e->m, t->roles[i], t->layer, experts ? x : -1);
      int64_t n = size_of(e, t->roles[i], false) / t->step;
      if (vector) load_vector(e, t, w, n, rows + at);
      if (!vector) KA_TRY(write_weight(e, t, w, rows));
      at += n;
    }
    if (vector) KA_TRY(ka_gguf_write_rows(e->g, rows, 1));
  }
  ka_arena_reset(&e->arena);
  if (e->done) e->done(e->user, ++e->n_done, e->g->n_tensors);
  return ka_check_interrupted(ctx, "export");
}

/* --- all of them ------------------------------------------------------------------------------ */

static ka_status visit(struct export *e, enum ka_role role, int layer) {
  struct ka_ctx *ctx = e->m->ctx;
  unsigned flags = e->arch->flags;
  char name[64];
  const char *word = names[role];
  struct out_tensor t = {.name = name, .roles = {role}, .n_roles = 1, .layer = layer, .step = 1};
  if (flags & KA_ARCH_FUSED_QKV) {
    bool weight = role == KA_ROLE_Q, bias = role == KA_ROLE_Q_BIAS;
    if (role == KA_ROLE_K || role == KA_ROLE_V) return KA_STATUS_OK;
    if (role == KA_ROLE_K_BIAS || role == KA_ROLE_V_BIAS) return KA_STATUS_OK;
    if (weight || bias) {
      word = weight ? "attn_qkv.weight" : "attn_qkv.bias";
      t.roles[1] = weight ? KA_ROLE_K : KA_ROLE_K_BIAS;
      t.roles[2] = weight ? KA_ROLE_V : KA_ROLE_V_BIAS;
      t.n_roles = 3;
    }
  }
  if ((flags & KA_ARCH_FUSED_UP) && role == KA_ROLE_GATE) {
    word = names[KA_ROLE_UP];
    t.roles[1] = KA_ROLE_UP;
    t.n_roles = 2;
  }
  if ((flags & KA_ARCH_FUSED_UP) && role == KA_ROLE_UP) return KA_STATUS_OK;
  if ((flags & KA_ARCH_POST_NAMED) && role == KA_ROLE_FFN_NORM)
    word = names[KA_ROLE_ATTN_POST_NORM];
  bool turns = role == KA_ROLE_EXPERT_GATE_UP || role == KA_ROLE_EXPERT_GATE_UP_BIAS;
  if (turns) t.step = 2;
  snprintf(name, sizeof name, layer < 0 ? "%s" : "blk.%2$d.%1$s", word, layer);
  KA_TRY(e->each(e, &t));
  if (!turns) return KA_STATUS_OK;
  t.first = 1;
  snprintf(name, sizeof name, "blk.%d.ffn_up_exps.%s", layer,
           role == KA_ROLE_EXPERT_GATE_UP ? "weight" : "bias");
  return e->each(e, &t);
}

static ka_status visit_all(struct export *e) {
  struct ka_ctx *ctx = e->m->ctx;
  const struct ka_recipe *r = &e->m->recipe;
  for (int layer = -1; layer < r->L; layer++)
    for (int role = 0; role < KA_N_ROLES; role++) {
      bool tied = role == KA_ROLE_HEAD && r->without[role];
      if (tied || !ka_weights_find(e->m, (enum ka_role)role, layer, -1)) continue;
      KA_NEVER(ctx, !names[role]);
      KA_TRY(visit(e, (enum ka_role)role, layer));
    }
  return KA_STATUS_OK;
}

/* Factors of RoPE that are tensors: in the file behind all others. */
static ka_status rope_factors(struct export *e, bool write) {
  struct ka_ctx *ctx = e->m->ctx;
  const struct ka_recipe *r = &e->m->recipe;
  const struct ka_hf_rope_params *p = &r->ropes[0];
  static const char *const keys[] = {"long_factor", "short_factor"};
  static const char *const words[] = {"rope_factors_long.weight", "rope_factors_short.weight"};
  if (r->n_ropes == 0 || (p->kind != KA_ROPE_LLAMA3 && p->kind != KA_ROPE_LONGROPE))
    return KA_STATUS_OK;
  int64_t R = ka_rope_channels(p, r->D), n = R / 2;
  bool llama3 = p->kind == KA_ROPE_LLAMA3;
  float *factors;
  KA_TRY(KA_NEW(&e->arena, &factors, R + 2, "factors"));
  for (int k = 0; k < (llama3 ? 1 : 2); k++) {
    const char *name = llama3 ? "rope_freqs.weight" : words[k];
    if (!write) KA_TRY(ka_gguf_add_tensor(e->g, name, KA_GGUF_F32, 1, &n));
    if (!write) continue;
    const json_t *scaling = ka_hf_get(&e->m->config, "rope_parameters"), *list;
    if (!scaling) scaling = ka_hf_get(&e->m->config, "rope_scaling");
    list = json_object_get(scaling, keys[k]);
    for (int64_t i = 0; i < n; i++)
      factors[i] = (float)json_number_value(json_array_get(list, (size_t)i));
    if (llama3) ka_arch_llama3_factors(p, R, factors);
    KA_TRY(ka_gguf_write_rows(e->g, factors, 1));
  }
  return KA_STATUS_OK;
}

static ka_status set_general(struct export *e, const char *name) {
  static const char *const types[] = {"general.type", "model"};
  struct ka_ctx *ctx = e->m->ctx;
  int file_type = e->type == KA_GGUF_Q8_0 ? 7 : e->type == KA_GGUF_BF16 ? 32 : 0;
  KA_TRY(ka_gguf_set_text(e->g, "general.architecture", e->arch->name, strlen(e->arch->name)));
  KA_TRY(ka_gguf_set_text(e->g, types[0], types[1], strlen(types[1])));
  KA_TRY(ka_gguf_set_text(e->g, "general.name", name, strlen(name)));
  KA_TRY(ka_gguf_set_u32(e->g, "general.file_type", file_type));
  return ka_gguf_set_u32(e->g, "general.quantization_version", 2);
}

static ka_status run(struct export *e, const char *name) {
  struct ka_ctx *ctx = e->m->ctx;
  const struct ka_recipe *r = &e->m->recipe;
  KA_TRY(ka_arch_of(e->m, &e->arch));
  if ((e->arch->flags & KA_ARCH_PAIRS) && r->n_ropes > 0)
    e->turned = ka_rope_channels(&r->ropes[0], r->D);
  if (name) KA_TRY(set_general(e, name));
  if (name) KA_TRY(ka_arch_facts(e->m, e->arch, e->g));
  e->each = name ? announce : write_tensor;
  KA_TRY(visit_all(e));
  return rope_factors(e, !name);
}

ka_status ka_model_gguf_plan(struct ka_model *m, struct ka_gguf *g, enum ka_gguf_type type,
                             const char *name) {
  struct export e = {.m = m, .g = g, .type = type};
  ka_arena_init(&e.arena, m->ctx, "gguf");
  ka_status st = run(&e, name);
  ka_arena_deinit(&e.arena);
  return st;
}

ka_status ka_model_gguf_write(struct ka_model *m, struct ka_gguf *g,
                              void (*done)(void *user, int64_t n, int64_t of), void *user) {
  struct export e = {.m = m, .g = g, .done = done, .user = user};
  ka_arena_init(&e.arena, m->ctx, "gguf");
  ka_status st = run(&e, NULL);
  ka_arena_deinit(&e.arena);
  return st;
}
