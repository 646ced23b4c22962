/* SPDX-License-Identifier: Apache-2.0
 * Logical weights from stored tensors by the family's map; which of them a stored slice trains;
 * which the base model has to itself. */
#include "engine/model/buffers.h"

#include <string.h>

/* The field of a role, in the struct of its scope. */
static const size_t fields[KA_N_ROLES] = {
#define KA_STRUCT_MODEL ka_outer_weights
#define KA_STRUCT_LAYER ka_layer_weights
#define KA_STRUCT_EXPERT ka_expert_weights
#define X(name, field, rows, cols, scope, heads, fresh)                                            \
  [KA_ROLE_##name] = offsetof(struct KA_STRUCT_##scope, field),
    KA_ROLE_TABLE(X)
#undef X
};

static void link_weight(struct ka_weights *ws, enum ka_which which, const struct ka_weight *w) {
  enum ka_scope scope = ka_role_info(w->role)->scope;
  char *place = (char *)&ws->outer[which];
  if (scope == KA_SCOPE_LAYER) place = (char *)&ws->layers[which][w->layer];
  if (scope == KA_SCOPE_EXPERT) place = (char *)&ws->layers[which][w->layer].experts[w->expert];
  memcpy(place + fields[w->role], &w, sizeof w);
}

static void link_all(struct ka_model *m, enum ka_which which) {
  struct ka_weights *ws = m->weights;
  for (int64_t i = 0; i < ws->n; i++) {
    const struct ka_weight *w = &ws->all[which][i];
    link_weight(ws, which, w->param ? w : &ws->all[KA_TUNED][i]);
  }
  if (m->recipe.without[KA_ROLE_HEAD]) ws->outer[which].head = ws->outer[which].embed;
}

/* The parts of one stored tensor, of each of its experts; out NULL: counts. */
static int64_t parts_of(const struct ka_model *m, struct ka_param *p, struct ka_weight *out) {
  struct ka_tensor_match match;
  int64_t n = 0;
  ka_tensor_map_match(&m->family->map, p->name, &match);
  int64_t n_experts = match.row->stacked ? p->stored.shape[0] : 1;
  for (int64_t e = 0; e < n_experts; e++)
    for (int64_t i = 0, at = 0; i < match.n_rows; i++, n++) {
      const struct ka_tensor_row *row = &match.row[i];
      const struct ka_role_info *info = ka_role_info(row->role);
      int64_t rows = ka_recipe_dim(&m->recipe, info->rows);
      int64_t cols = ka_recipe_dim(&m->recipe, info->cols);
      bool beside = row->transposed || info->rows == KA_DIM_ONE; /* parts lie side by side */
      struct ka_weight w = {
          .param = p,
          .role = match.n_rows == 1 ? p->role /* a head may be the embedding */ : row->role,
          .layer = match.layer,
          .expert = match.row->stacked ? (int)e : match.expert,
          .row = !beside                                    ? at
                 : info->rows == KA_DIM_ONE && row->stacked ? e
                                                            : 0,
          .col = beside ? at : 0,
          .n_rows = row->transposed ? cols : rows,
          .n_cols = row->transposed ? rows : cols,
          .transposed = row->transposed};
      at += beside ? w.n_cols : w.n_rows;
      if (out) out[n] = w;
    }
  return n;
}

static ka_status alloc_tables(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  void *memory;
  struct ka_weights *ws;
  KA_TRY(ka_arena_alloc(&m->meta, &memory, sizeof *m->weights, "weights"));
  ws = m->weights = memory;
  for (int64_t i = 0; i < m->n_params; i++) ws->n += parts_of(m, &m->params[i], NULL);
  KA_TRY(KA_NEW(&m->meta, &ws->base, m->n_params, "weights"));
  KA_TRY(KA_NEW(&m->meta, &ws->slots.used, m->recipe.L, "weights"));
  int64_t L = m->recipe.L, E = ka_recipe_dim(&m->recipe, KA_DIM_E);
  for (int which = 0; which < KA_N_WHICH; which++) {
    KA_TRY(KA_NEW(&m->meta, &ws->all[which], ws->n, "weights"));
    KA_TRY(KA_NEW(&m->meta, &ws->layers[which], L, "weights"));
    KA_TRY(ka_arena_alloc_n(&m->meta, &memory, L * E, sizeof(struct ka_expert_weights), "weights"));
    for (int64_t l = 0; l < L; l++) {
      ws->layers[which][l].n_experts = E;
      ws->layers[which][l].experts = (struct ka_expert_weights *)memory + l * E;
    }
  }
  return KA_STATUS_OK;
}

ka_status ka_weights_open(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(alloc_tables(m));
  struct ka_weights *ws = m->weights;
  int64_t n = 0;
  for (int64_t i = 0; i < m->n_params; i++) n += parts_of(m, &m->params[i], &ws->all[KA_TUNED][n]);
  link_all(m, KA_TUNED);
  link_all(m, KA_BASE);
  return KA_STATUS_OK;
}

const struct ka_weight *ka_weights_find(const struct ka_model *m, enum ka_role role, int layer,
                                        int expert) {
  const struct ka_weights *ws = m->weights;
  if (role == KA_ROLE_HEAD && m->recipe.without[role]) role = KA_ROLE_EMBED;
  enum ka_scope scope = ka_role_info(role)->scope;
  if ((scope == KA_SCOPE_MODEL) != (layer < 0) || layer >= m->recipe.L) return NULL;
  const struct ka_layer_weights *l = layer < 0 ? NULL : &ws->layers[KA_TUNED][layer];
  const char *place = (const char *)&ws->outer[KA_TUNED];
  const struct ka_weight *w;
  if (scope == KA_SCOPE_EXPERT && expert >= l->n_experts) return NULL;
  if (scope == KA_SCOPE_LAYER) place = (const char *)l;
  if (scope == KA_SCOPE_EXPERT) place = (const char *)&l->experts[expert < 0 ? 0 : expert];
  memcpy(&w, place + fields[role], sizeof w);
  return w;
}

/* --- what is trained -------------------------------------------------------------------------- */

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* What of the weight the slice covers; false: nothing. */
static bool cover(const struct ka_weight *w, const struct ka_slice *s, struct ka_piece *p) {
  const struct ka_tensor *t = &w->param->stored;
  int64_t row = s->row, row_end = s->row + s->n_rows, col = s->col, col_end = s->col + s->n_cols;
  if (t->n_dim == 3) { /* [experts, d1 d2] */
    if (w->expert < row || w->expert >= row_end) return false;
    int64_t d2 = t->shape[2];
    bool whole = s->n_cols % d2 == 0; /* rows, or a part of one */
    row = s->col / d2;
    row_end = whole ? col_end / d2 : row + 1;
    col = whole ? 0 : s->col % d2;
    col_end = whole ? d2 : col + s->n_cols;
  }
  row = most(row, w->row) - w->row;
  col = most(col, w->col) - w->col;
  *p = (struct ka_piece){.row = row,
                         .n_rows = least(row_end - w->row, w->n_rows) - row,
                         .col = col,
                         .n_cols = least(col_end - w->col, w->n_cols) - col};
  return p->n_rows > 0 && p->n_cols > 0;
}

/* The pieces of all weights, in order; out NULL: counts. */
static int64_t list_pieces(struct ka_model *m, struct ka_piece *out) {
  int64_t n = 0, first = 0;
  for (int64_t i = 0; i < m->weights->n; i++) {
    struct ka_weight *w = &m->weights->all[KA_TUNED][i];
    int64_t param = w->param - m->params, begin = n;
    while (first < m->n_slices && m->slices[first].param < param) first++;
    for (int64_t s = first; s < m->n_slices && m->slices[s].param == param; s++) {
      struct ka_piece piece;
      if (!cover(w, &m->slices[s], &piece)) continue;
      piece.slice = s;
      if (out) out[n] = piece;
      n++;
    }
    w->n_pieces = n - begin;
    w->pieces = out ? out + begin : NULL;
  }
  return n;
}

ka_status ka_weights_train(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  void *memory;
  KA_TRY(
      ka_arena_alloc_n(&m->meta, &memory, list_pieces(m, NULL), sizeof(struct ka_piece), "slices"));
  list_pieces(m, memory);
  return KA_STATUS_OK;
}

/* --- the base model --------------------------------------------------------------------------- */

int64_t ka_weights_base(struct ka_model *m) {
  struct ka_weights *ws = m->weights;
  int64_t lowest = m->recipe.L;
  ws->n_base = 0;
  memset(ws->all[KA_BASE], 0, (size_t)ws->n * sizeof *ws->all[KA_BASE]);
  for (int64_t i = 0, k = 0; i < m->n_params; i++) {
    const struct ka_param *p = &m->params[i];
    bool own = ka_model_reads_base(m) && (p->trained || p->moved);
    struct ka_param *copy = NULL;
    if (own) {
      copy = &ws->base[ws->n_base++];
      *copy = *p;
      copy->stored = p->base;
      copy->trained = false;
      bool input = p->role == KA_ROLE_EMBED || p->role == KA_ROLE_POSITIONS;
      int64_t layer = p->layer >= 0 ? p->layer : input ? -1 : m->recipe.L;
      lowest = least(lowest, layer);
    }
    for (; k < ws->n && ws->all[KA_TUNED][k].param == p; k++)
      if (own) {
        ws->all[KA_BASE][k] = ws->all[KA_TUNED][k];
        ws->all[KA_BASE][k].param = copy;
        ws->all[KA_BASE][k].n_pieces = 0;
      }
  }
  link_all(m, KA_BASE);
  return lowest;
}
