/* SPDX-License-Identifier: Apache-2.0
 * A selection that was made where experts are stored the other way; see units.h. */
#include "engine/formats/tensor_map.h"
#include "engine/spectral/units.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A part of an expert's matrix [n_rows, width]. */
struct part {
  int64_t row, n_rows, col, n_cols;
};

/* The name that a unit of a stack ("NAME#expert3.gate") has apart, and which of the matrices that
 * lie in an expert it is; false: it is no such unit. */
static bool name_apart(const struct ka_tensor_map *map, const struct ka_selected *u,
                       char name[KA_TENSOR_NAME_MAX], int *number) {
  const char *at = strstr(u->name, "#expert");
  struct ka_tensor_match m;
  char *end;
  if (!at || !ka_tensor_map_match(map, u->tensor, &m) || !m.row->stacked) return false;
  long expert = strtol(at + strlen("#expert"), &end, 10);
  size_t n = *end == '.' ? strcspn(end + 1, "#") : 0;
  for (*number = 0; *number < m.n_rows; ++*number) {
    const char *role = ka_role_info(m.row[*number].role)->name + strlen("expert_");
    if (n == 0 ? m.n_rows == 1 : strlen(role) == n && strncmp(role, end + 1, n) == 0) break;
  }
  if (*number == m.n_rows) return false;
  for (const struct ka_tensor_row *row = map->rows; row->name; row++) {
    if (row->role != m.row[*number].role || row->stacked) continue;
    ka_tensor_map_name(map, row, m.layer, (int)expert, name);
    return true;
  }
  return false;
}

/* What of the matrix is selected, of a unit in a stack (number of the matrix) or apart (-1). */
static struct part part_of(const struct ka_selected *u, const struct ka_unit *t, int number) {
  int64_t n_rows = t->view.shape[0], width = t->view.shape[1];
  struct part p = {0, n_rows, 0, width};
  if (number >= 0 && u->cols[0] >= 0) {
    int64_t first = u->cols[0] - number * n_rows * width, n = u->cols[1] - u->cols[0];
    bool whole = first % width == 0 && n % width == 0;
    p = (struct part){first / width, whole ? n / width : 1, first % width, whole ? width : n};
  }
  if (number < 0 && u->rows[0] >= 0) {
    p.row = u->rows[0];
    p.n_rows = u->rows[1] - u->rows[0];
  }
  if (number < 0 && u->cols[0] >= 0) {
    p.col = u->cols[0];
    p.n_cols = u->cols[1] - u->cols[0];
  }
  return p;
}

/* The part where the unit t stores it; false: a stack cannot say it. */
static bool place(struct ka_selected *u, const struct ka_unit *t, struct part p) {
  int64_t n_rows = t->view.shape[0], width = t->view.shape[1];
  bool all_rows = p.row == 0 && p.n_rows == n_rows, all_cols = p.col == 0 && p.n_cols == width;
  if (p.row < 0 || p.n_rows < 1 || p.row + p.n_rows > n_rows || p.col + p.n_cols > width)
    return false;
  memcpy(u->rows, t->rows, sizeof u->rows);
  memcpy(u->cols, t->cols, sizeof u->cols);
  if (all_rows && all_cols) return true;
  if (t->apart) {
    int64_t at = (t->cols[0] >= 0 ? t->cols[0] : 0) + p.row * width + p.col;
    u->cols[0] = at;
    u->cols[1] = at + (p.n_rows - 1) * width + p.n_cols;
    return all_cols || p.n_rows == 1;
  }
  if (!all_rows) memcpy(u->rows, (int64_t[2]){p.row, p.row + p.n_rows}, sizeof u->rows);
  if (!all_cols) memcpy(u->cols, (int64_t[2]){p.col, p.col + p.n_cols}, sizeof u->cols);
  return true;
}

static const struct ka_unit *find(const struct ka_unit *units, int64_t n, const char *name) {
  for (int64_t i = 0; i < n; i++)
    if (units[i].expert >= 0 && strcmp(ka_unit_logical_name(&units[i]), name) == 0)
      return &units[i];
  return NULL;
}

ka_status ka_selection_adopt(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_selection *s,
                             const struct ka_safetensors *files, const struct ka_unit *units,
                             int64_t n, const struct ka_hf_config *config) {
  const struct ka_tensor_map *map = ka_tensor_map_of(config);
  for (int64_t i = 0; map && i < s->n_units; i++) {
    struct ka_selected *u = &s->units[i];
    char name[KA_TENSOR_NAME_MAX];
    int number = -1;
    if (ka_st_find(files, u->tensor)) continue;
    bool stack = name_apart(map, u, name, &number);
    if (!stack) number = -1;
    const struct ka_unit *t = find(units, n, stack ? name : u->tensor);
    if (!t) continue;
    if (!place(u, t, part_of(u, t, number)))
      return ka_fail(ctx, KA_E_INPUT, "%s: this part of an expert cannot be had in %s", u->name,
                     t->tensor);
    bool rest = ka_ends_with(u->name, "#rest");
    KA_TRY(ka_arena_printf(arena, &u->name, "%s%s", t->name, rest ? "#rest" : ""));
    u->tensor = t->tensor;
  }
  return KA_STATUS_OK;
}
