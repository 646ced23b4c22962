/* SPDX-License-Identifier: Apache-2.0
 *
 * What a stored tensor is for, and the logical parts it consists of: the pieces of fused
 * projections, attention heads, experts, all by the tensor map of its family. A name that no map
 * knows has its own last word as role and no parts. */
#include "engine/formats/tensor_map.h"
#include "engine/spectral/units.h"

#include <stdio.h>
#include <string.h>

struct parts {
  struct ka_arena *arena;
  const struct ka_unit *whole;
  struct ka_unit *out; /* NULL: only count */
  int64_t n;
};

/* "model.vision.3.fc_proj.weight" -> "fc": the last word that is not a suffix. */
static ka_status word_role(struct ka_arena *arena, const char *name, const char **role) {
  const char *end = ka_ends_with(name, ".weight") ? name + strlen(name) - 7 : name + strlen(name);
  const char *start = end;
  while (start > name && start[-1] != '.') start--;
  size_t n = (size_t)(end - start);
  if (n > 5 && strncmp(end - 5, "_proj", 5) == 0) n -= 5;
  return ka_arena_printf(arena, role, "%.*s", (int)n, start);
}

/* The whole of a fused tensor: "qkv", "gate_up", "expert_gate_up". */
static ka_status map_role(struct ka_arena *arena, const struct ka_tensor_match *m,
                          const char **role) {
  struct ka_ctx *ctx = arena->ctx;
  static const char group[] = "expert_";
  *role = ka_role_info(m->row->role)->name;
  for (int i = 1; i < m->n_rows; i++) {
    const char *part = ka_role_info(m->row[i].role)->name;
    if (ka_starts_with(part, group)) part += strlen(group);
    KA_TRY(ka_arena_printf(arena, role, "%s%s%s", *role, part[1] ? "_" : "", part));
  }
  return KA_STATUS_OK;
}

/* By the family's map, else by the names that published models have. */
static bool find(const struct ka_hf_config *config, const char *name,
                 struct ka_tensor_match *match) {
  const struct ka_tensor_map *map = config ? ka_tensor_map_of(config) : NULL;
  return (map && ka_tensor_map_match(map, name, match)) ||
         ka_tensor_map_match(&ka_tensor_map_any, name, match);
}

/* What the model that config.json names does not read as a weight: tensors of other models beside
 * it, layers beyond its own (DeepSeek-V3's for several tokens at once), the bias of a choice. */
static bool fixed(const struct ka_hf_config *config, const char *name) {
  const struct ka_tensor_map *map = config ? ka_tensor_map_of(config) : NULL;
  struct ka_tensor_match m;
  if (!map) return false;
  return !ka_tensor_map_match(map, name, &m) || m.layer >= config->num_hidden_layers ||
         m.row->role == KA_ROLE_ROUTER_CHOICE;
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

/* The parts of a fused tensor: equal ones, but for grouped heads, whose numbers tell their
 * shares. */
static ka_status add_fused(struct parts *p, const struct ka_tensor_match *m,
                           const struct ka_hf_config *c) {
  struct ka_ctx *ctx = p->arena->ctx;
  int64_t all = 0, at = 0, share[8];
  bool columns = m->row->transposed;
  for (int i = 0; i < m->n_rows && i < 8; i++) {
    char heads = ka_role_info(m->row[i].role)->heads;
    share[i] = heads == 'q' ? c->num_attention_heads : heads == 'k' ? c->num_key_value_heads : 1;
    all += share[i];
  }
  int64_t side = p->whole->view.shape[columns];
  if (side % all != 0) return KA_STATUS_OK;
  for (int i = 0; i < m->n_rows && i < 8; i++) {
    const char *name = ka_role_info(m->row[i].role)->name;
    int64_t end = at + side / all * share[i];
    KA_TRY(add(p, name, name, columns, at, end));
    at = end;
  }
  return KA_STATUS_OK;
}

static ka_status add_heads(struct parts *p, const struct ka_tensor_row *row,
                           const struct ka_hf_config *c) {
  char heads = ka_role_info(row->role)->heads;
  if (heads == '-') return KA_STATUS_OK;
  int64_t n = heads == 'k' ? c->num_key_value_heads : c->num_attention_heads;
  return add_equal(p, "head", p->whole->role, (heads == 'o') != row->transposed, n);
}

/* The name that the matrix has where experts are stored apart; NULL: they never are. */
static ka_status apart(struct parts *p, const struct ka_hf_config *c, enum ka_role role, int layer,
                       int expert, const char **out) {
  struct ka_ctx *ctx = p->arena->ctx;
  const struct ka_tensor_map *map = ka_tensor_map_of(c);
  for (const struct ka_tensor_row *row = map ? map->rows : NULL; row && row->name; row++) {
    if (row->role != role || row->stacked) continue;
    char name[KA_TENSOR_NAME_MAX];
    ka_tensor_map_name(map, row, layer, expert, name);
    KA_TRY(ka_arena_str(p->arena, out, name, strlen(name)));
    return KA_STATUS_OK;
  }
  return KA_STATUS_OK;
}

/* A matrix of an expert: rows [at, at + n) of its [d1, d2], which is row `expert` of the stored
 * [d0, d1 d2]; the whole of it where part is "". */
static ka_status add_expert(struct parts *p, const struct ka_hf_config *c,
                            const struct ka_tensor_match *m, int row, int64_t expert, int64_t at,
                            int64_t n) {
  struct ka_ctx *ctx = p->arena->ctx;
  const struct ka_unit *w = p->whole;
  const char *role = ka_role_info(m->row[row].role)->name;
  int64_t d1 = w->shape[1], d2 = w->shape[2];
  char part[48];
  snprintf(part, sizeof part, "expert%lld%s%s", (long long)expert, n < d1 ? "." : "",
           n < d1 ? role + strlen("expert_") : "");
  KA_TRY(add(p, part, n < d1 ? role : w->role, false, expert, expert + 1));
  if (!p->out) return KA_STATUS_OK;
  struct ka_unit *u = &p->out[p->n - 1];
  struct ka_tensor all = ka_tensor_2d(u->view.data, w->view.dtype, d1, d2);
  u->view = ka_tensor_slice(all, at, n, 0, d2);
  u->expert = (int)expert;
  if (n < d1) memcpy(u->cols, (int64_t[2]){at * d2, (at + n) * d2}, sizeof u->cols);
  return n < d1 || m->n_rows == 1 ? apart(p, c, m->row[row].role, m->layer, (int)expert, &u->apart)
                                  : KA_STATUS_OK;
}

/* The experts of a stacked tensor, each its parts (gate, up): what other files hold one by one. */
static ka_status add_experts(struct parts *p, const struct ka_tensor_match *m,
                             const struct ka_hf_config *c) {
  struct ka_ctx *ctx = p->arena->ctx;
  const struct ka_unit *w = p->whole;
  if (w->n_dim != 3 || w->shape[0] < 2) return KA_STATUS_OK;
  bool divides = !m->row->transposed && w->shape[1] % m->n_rows == 0;
  int64_t n = divides ? w->shape[1] / m->n_rows : w->shape[1];
  for (int64_t e = 0; e < w->shape[0]; e++)
    for (int i = 0; i < (divides ? m->n_rows : 1); i++) KA_TRY(add_expert(p, c, m, i, e, i * n, n));
  return KA_STATUS_OK;
}

ka_status ka_unit_parts(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_unit *whole,
                        const struct ka_hf_config *config, int kind, struct ka_unit *out,
                        int64_t *n) {
  struct ka_tensor_match m;
  bool known = find(config, whole->tensor, &m);
  *n = 0;
  whole->fixed = fixed(config, whole->tensor);
  whole->unusual = known && !ka_role_usual(m.row->role);
  whole->expert = known && ka_role_info(m.row->role)->scope == KA_SCOPE_EXPERT ? m.expert : -1;
  if (!whole->role && known) KA_TRY(map_role(arena, &m, &whole->role));
  if (!whole->role) KA_TRY(word_role(arena, whole->tensor, &whole->role));
  if (!known || !config || whole->skip || whole->n_dim < 2) return KA_STATUS_OK;
  struct parts p = {.arena = arena, .whole = whole, .out = out};
  bool heads = !m.row->stacked && m.n_rows == 1;
  if (m.row->stacked)
    KA_TRY(add_experts(&p, &m, config));
  else if (m.n_rows > 1)
    KA_TRY(add_fused(&p, &m, config));
  else if (kind == KA_UNIT_HEAD)
    KA_TRY(add_heads(&p, m.row, config));
  /* Heads divide a tensor that is a unit itself; the others are units in place of the whole. */
  if (p.n > 0 && !heads) whole->has_parts = true;
  *n = p.n;
  return KA_STATUS_OK;
}
