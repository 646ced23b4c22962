/* SPDX-License-Identifier: Apache-2.0
 * Names by pattern, and the table of roles. */
#include "engine/formats/tensor_map.h"

#include "base/str.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct ka_role_info roles[KA_N_ROLES] = {
#define X(name, field, rows, cols, scope, heads, fresh)                                            \
  [KA_ROLE_##name] = {#field, KA_DIM_##rows, KA_DIM_##cols, KA_SCOPE_##scope, heads, fresh},
    KA_ROLE_TABLE(X)
#undef X
};

const struct ka_role_info *ka_role_info(enum ka_role role) {
  static const struct ka_role_info none = {
      .name = "", .scope = KA_SCOPE_MODEL, .heads = '-', .fresh = '0'};
  return role < KA_N_ROLES ? &roles[role] : &none;
}

/* Reads a number without leading zeros. */
static bool read_index(const char **at, int *out) {
  const char *s = *at;
  char *end;
  if (!isdigit((unsigned char)s[0]) || (s[0] == '0' && isdigit((unsigned char)s[1]))) return false;
  long value = strtol(s, &end, 10);
  if (value > 1 << 20) return false;
  *out = (int)value;
  *at = end;
  return true;
}

bool ka_role_usual(enum ka_role role) {
  return roles[role].scope != KA_SCOPE_MODEL && role != KA_ROLE_ROUTER &&
         role != KA_ROLE_SHARED_SWITCH;
}

static const char layer_hole[] = "{layer}", expert_hole[] = "{expert}";

static bool matches(const char *pattern, const char *name, int *layer, int *expert) {
  *layer = *expert = -1;
  while (*pattern) {
    bool l = ka_starts_with(pattern, layer_hole), e = ka_starts_with(pattern, expert_hole);
    if (l || e) {
      if (!read_index(&name, l ? layer : expert)) return false;
      pattern += strlen(l ? layer_hole : expert_hole);
    } else if (*pattern++ != *name++) {
      return false;
    }
  }
  return *name == '\0';
}

/* The row's name without its dot, at the start of the name or behind any dot. */
static bool ends_in(const char *pattern, const char *name, int *layer, int *expert) {
  for (const char *p = name; p; p = strchr(p, '.') ? strchr(p, '.') + 1 : NULL)
    if (matches(pattern + 1, p, layer, expert)) return true;
  return false;
}

/* Behind the words that others put in front of a decoder's names: models without a head, models in
 * models with other modalities, wrappers that trainers saved along. */
static const char *inner_name(const char *name) {
  static const char *const words[] = {"model.",      "transformer.", "language_model.",
                                      "text_model.", "base_model.",  "backbone.",
                                      "module.",     "_orig_mod."};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (ka_starts_with(name, words[i])) return inner_name(name + strlen(words[i]));
  return name;
}

static bool row_matches(const struct ka_tensor_map *map, const struct ka_tensor_row *row,
                        const char *name, int *layer, int *expert) {
  bool dot = row->name[0] == '.';
  if (matches(row->name + dot, inner_name(name), layer, expert)) return true;
  if (!dot) return matches(row->name, name, layer, expert);
  for (const char *const *p = map->prefixes; *p; p++) {
    size_t n = strlen(*p);
    if (strcmp(*p, "*") == 0 && ends_in(row->name, name, layer, expert)) return true;
    if (strncmp(name, *p, n) == 0 && matches(row->name + (n == 0), name + n, layer, expert))
      return true;
  }
  return false;
}

bool ka_tensor_map_match(const struct ka_tensor_map *map, const char *name,
                         struct ka_tensor_match *out) {
  for (const struct ka_tensor_row *row = map->rows; row->name; row++) {
    if (!row_matches(map, row, name, &out->layer, &out->expert)) continue;
    out->row = row;
    out->n_rows = 1;
    while (row[out->n_rows].name && strcmp(row[out->n_rows].name, row->name) == 0) out->n_rows++;
    return true;
  }
  return false;
}

void ka_tensor_map_name(const struct ka_tensor_map *map, const struct ka_tensor_row *row, int layer,
                        int expert, char name[KA_TENSOR_NAME_MAX]) {
  const char *prefix = row->name[0] == '.' ? map->prefixes[0] : "";
  if (strcmp(prefix, "*") == 0) prefix = "";
  const char *p = row->name + (row->name[0] == '.' && !prefix[0]);
  int at = snprintf(name, KA_TENSOR_NAME_MAX, "%s", prefix);
  while (*p && at < KA_TENSOR_NAME_MAX - 1) {
    size_t room = (size_t)(KA_TENSOR_NAME_MAX - at);
    if (ka_starts_with(p, layer_hole)) {
      at += snprintf(name + at, room, "%d", layer);
      p += strlen(layer_hole);
    } else if (ka_starts_with(p, expert_hole)) {
      at += snprintf(name + at, room, "%d", expert);
      p += strlen(expert_hole);
    } else {
      at += snprintf(name + at, room, "%c", *p++);
    }
  }
}

const struct ka_tensor_row *ka_tensor_map_row(const struct ka_tensor_map *map, enum ka_role role) {
  for (const struct ka_tensor_row *row = map->rows; row->name; row++)
    if (row->role == role) return row;
  return NULL;
}
