/* SPDX-License-Identifier: Apache-2.0
 *
 * What a stored tensor is for, and the logical parts it consists of: the pieces of fused
 * projections, attention heads, experts. Names of published models, by suffix; a name that no row
 * knows has its own last word as role and no parts. */
#include "engine/spectral/units.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum layout {
  PLAIN,
  HEADS,     /* rows of query heads */
  KV_HEADS,  /* rows of key/value heads */
  OUT_HEADS, /* columns of query heads */
  QKV_ROWS,  /* q, k, v one below the other */
  QKV_COLS,  /* three equal column blocks (GPT-2 stores [in, out]) */
  GATE_UP,   /* gate and up, halves of the rows; of each expert when three-dimensional */
  EXPERTS,   /* [expert, in, out] */
};

static const struct {
  const char *suffix, *role;
  enum layout layout;
} table[] = {
    {"self_attn.q_proj.weight", "q", HEADS},
    {"self_attn.k_proj.weight", "k", KV_HEADS},
    {"self_attn.v_proj.weight", "v", KV_HEADS},
    {"self_attn.o_proj.weight", "o", OUT_HEADS},
    {"self_attn.qkv_proj.weight", "qkv", QKV_ROWS},
    {"attn.c_attn.weight", "qkv", QKV_COLS},
    {"attn.c_proj.weight", "o", PLAIN},
    {"self_attn.q_b_proj.weight", "q_b", HEADS},
    {"self_attn.kv_b_proj.weight", "kv_b", HEADS},
    {"self_attn.kv_a_proj_with_mqa.weight", "kv_a", PLAIN},
    {"mlp.gate_up_proj.weight", "gate_up", GATE_UP},
    {"experts.gate_up_proj", "expert_gate_up", EXPERTS},
    {"experts.down_proj", "expert_down", EXPERTS},
    {"mlp.c_fc.weight", "up", PLAIN},
    {"mlp.c_proj.weight", "down", PLAIN},
    {"mlp.gate.weight", "router", PLAIN},
    {"block_sparse_moe.gate.weight", "router", PLAIN},
    {"embed_tokens.weight", "embed", PLAIN},
    {"wte.weight", "embed", PLAIN},
    {"wpe.weight", "positions", PLAIN},
    {"lm_head.weight", "head", PLAIN},
};

struct parts {
  struct ka_arena *arena;
  const struct ka_unit *whole;
  struct ka_unit *out; /* NULL: only count */
  int64_t n;
};

/* "model.layers.3.mlp.experts.7.gate_proj.weight" -> "gate": the last word that is not a suffix. */
static ka_status word_role(struct ka_arena *arena, const char *name, const char **role) {
  const char *end = ka_ends_with(name, ".weight") ? name + strlen(name) - 7 : name + strlen(name);
  const char *start = end;
  while (start > name && start[-1] != '.') start--;
  size_t n = (size_t)(end - start);
  if (n > 5 && strncmp(end - 5, "_proj", 5) == 0) n -= 5;
  static const char *const mixtral[][2] = {{"w1", "gate"}, {"w2", "down"}, {"w3", "up"}};
  for (size_t i = 0; i < 3; i++)
    if (n == 2 && strncmp(start, mixtral[i][0], 2) == 0) {
      start = mixtral[i][1];
      n = strlen(start);
    }
  const char *group = strstr(name, "shared_expert") ? "shared_"
                      : strstr(name, ".experts.")   ? "expert_"
                                                    : "";
  return ka_arena_printf(arena, role, "%s%.*s", group, (int)n, start);
}

static int find_row(const char *name) {
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (ka_ends_with(name, table[i].suffix)) return (int)i;
  return -1;
}

/* One part: rows or columns [a,b) of the whole. */
static ka_status add(struct parts *p, const char *part, const char *role, bool columns, int64_t a,
                     int64_t b) {
  struct ka_ctx *ctx = p->arena->ctx;
  if (!p->out) {
    p->n++;
    return KA_STATUS_OK;
  }
  struct ka_unit *u = &p->out[p->n++];
  const struct ka_tensor *t = &p->whole->view;
  *u = *p->whole;
  u->has_parts = false;
  KA_TRY(ka_arena_printf(p->arena, &u->name, "%s#%s", p->whole->tensor, part));
  u->role = role;
  memcpy(columns ? u->cols : u->rows, (int64_t[2]){a, b}, sizeof u->rows);
  u->view = columns ? ka_tensor_slice(*t, 0, t->shape[0], a, b - a)
                    : ka_tensor_slice(*t, a, b - a, 0, t->shape[1]);
  return KA_STATUS_OK;
}

static ka_status add_equal(struct parts *p, const char *prefix, const char *role, bool columns,
                           int64_t n_parts) {
  struct ka_ctx *ctx = p->arena->ctx;
  int64_t side = p->whole->view.shape[columns];
  if (n_parts < 2 || side % n_parts != 0) return KA_STATUS_OK;
  for (int64_t i = 0; i < n_parts; i++) {
    char part[32];
    snprintf(part, sizeof part, "%s%lld", prefix, (long long)i);
    KA_TRY(add(p, part, role, columns, i * (side / n_parts), (i + 1) * (side / n_parts)));
  }
  return KA_STATUS_OK;
}

static ka_status add_fused(struct parts *p, const char *const *names, const int64_t *sizes, int n,
                           bool columns) {
  struct ka_ctx *ctx = p->arena->ctx;
  int64_t at = 0, sum = 0;
  for (int i = 0; i < n; i++) sum += sizes[i];
  if (sum != p->whole->view.shape[columns]) return KA_STATUS_OK;
  for (int i = 0; i < n; i++) {
    KA_TRY(add(p, names[i], names[i], columns, at, at + sizes[i]));
    at += sizes[i];
  }
  return KA_STATUS_OK;
}

/* Expert i is row i of the stored [d0, rest], seen as [d1, d2]. */
static ka_status add_experts(struct parts *p) {
  struct ka_ctx *ctx = p->arena->ctx;
  const struct ka_unit *w = p->whole;
  if (w->n_dim != 3) return KA_STATUS_OK;
  int64_t first = p->n;
  KA_TRY(add_equal(p, "expert", w->role, false, w->shape[0]));
  for (int64_t i = first; p->out && i < p->n; i++)
    p->out[i].view = ka_tensor_2d(p->out[i].view.data, w->view.dtype, w->shape[1], w->shape[2]);
  return KA_STATUS_OK;
}

static ka_status add_parts(struct parts *p, enum layout layout, const struct ka_hf_config *c,
                           enum ka_unit_kind kind) {
  static const char *const qkv[] = {"q", "k", "v"}, *const gate_up[] = {"gate", "up"};
  int64_t rows = p->whole->view.shape[0], cols = p->whole->view.shape[1];
  int64_t H = c->num_attention_heads, K = c->num_key_value_heads, D = c->head_dim;
  bool heads = kind == KA_UNIT_HEAD;
  switch (layout) {
  case HEADS:
    return heads ? add_equal(p, "head", p->whole->role, false, H) : KA_STATUS_OK;
  case KV_HEADS:
    return heads ? add_equal(p, "head", p->whole->role, false, K) : KA_STATUS_OK;
  case OUT_HEADS:
    return heads ? add_equal(p, "head", p->whole->role, true, H) : KA_STATUS_OK;
  case QKV_ROWS:
    return add_fused(p, qkv, (int64_t[]){H * D, K * D, K * D}, 3, false);
  case QKV_COLS:
    return add_fused(p, qkv, (int64_t[]){cols / 3, cols / 3, cols / 3}, 3, true);
  case GATE_UP:
    return add_fused(p, gate_up, (int64_t[]){rows / 2, rows / 2}, 2, false);
  case EXPERTS:
    return add_experts(p);
  default:
    return KA_STATUS_OK;
  }
}

ka_status ka_unit_parts(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_unit *whole,
                        const struct ka_hf_config *config, enum ka_unit_kind kind,
                        struct ka_unit *out, int64_t *n) {
  int row = find_row(whole->tensor);
  *n = 0;
  if (row >= 0)
    whole->role = table[row].role;
  else if (!whole->role)
    KA_TRY(word_role(arena, whole->tensor, &whole->role));
  if (row < 0 || !config || whole->skip || whole->n_dim < 2) return KA_STATUS_OK;
  struct parts p = {.arena = arena, .whole = whole, .out = out};
  KA_TRY(add_parts(&p, table[row].layout, config, kind));
  /* Heads divide a tensor that is a unit itself; the others are units in place of the whole. */
  bool heads = table[row].layout <= OUT_HEADS;
  if (p.n > 0 && !heads) whole->has_parts = true;
  *n = p.n;
  return KA_STATUS_OK;
}
