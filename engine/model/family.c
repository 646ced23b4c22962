/* SPDX-License-Identifier: Apache-2.0
 * The table of families and what is asked of it. */
#include "engine/model/family.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KA_FAMILY(name) extern const struct ka_family ka_family_##name;
#include "engine/model/families.def"
#undef KA_FAMILY

static const struct ka_family *const families[] = {
#define KA_FAMILY(name) &ka_family_##name,
#include "engine/model/families.def"
#undef KA_FAMILY
};
enum { N_FAMILIES = sizeof families / sizeof *families };

static const struct {
  const char *name;
  bool per_layer;
  char heads;
} roles[KA_N_ROLES] = {
#define X(name, text, per_layer, heads) [KA_ROLE_##name] = {text, per_layer, heads},
    KA_ROLE_TABLE(X)
#undef X
};

const char *ka_role_name(enum ka_role role) { return roles[role].name; }
bool ka_role_per_layer(enum ka_role role) { return roles[role].per_layer; }
char ka_role_heads(enum ka_role role) { return roles[role].heads; }

static bool listed(const char *const *names, const char *name) {
  for (; name && *names; names++)
    if (strcmp(*names, name) == 0) return true;
  return false;
}

ka_status ka_family_find(struct ka_ctx *ctx, const struct ka_hf_config *config,
                         const struct ka_family **out) {
  *out = NULL;
  for (int i = 0; i < N_FAMILIES; i++)
    if (listed(families[i]->architectures, config->architecture)) *out = families[i];
  if (*out) return KA_STATUS_OK;
  /* The architecture decides when it is there: a classifier of a known model_type is no language
   * model. */
  for (int i = 0; i < N_FAMILIES && !config->architecture; i++)
    if (listed(families[i]->model_types, config->model_type)) *out = families[i];
  if (*out) return KA_STATUS_OK;
  char known[512] = "";
  for (int i = 0; i < N_FAMILIES; i++)
    for (const char *const *a = families[i]->architectures; *a; a++) {
      strncat(known, known[0] ? ", " : "", sizeof known - strlen(known) - 1);
      strncat(known, *a, sizeof known - strlen(known) - 1);
    }
  return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: %s: got \"%s\", expected one of %s", config->path,
                 config->architecture ? "architectures" : "model_type",
                 config->architecture ? config->architecture : config->model_type, known);
}

/* Does `name` read as `pattern`, whose {} is a number without leading zeros? */
static bool matches(const char *pattern, const char *name, int *layer) {
  const char *hole = strstr(pattern, "{}");
  *layer = -1;
  if (!hole) return strcmp(pattern, name) == 0;
  size_t n = (size_t)(hole - pattern);
  if (strncmp(pattern, name, n) != 0 || !isdigit((unsigned char)name[n])) return false;
  if (name[n] == '0' && isdigit((unsigned char)name[n + 1])) return false;
  char *end;
  long value = strtol(name + n, &end, 10);
  if (value < 0 || value > 1 << 20 || strcmp(end, hole + 2) != 0) return false;
  *layer = (int)value;
  return true;
}

bool ka_family_role(const struct ka_family *family, const char *name, enum ka_role *role,
                    int *layer) {
  for (const struct ka_family_tensor *t = family->tensors; t->name; t++)
    if (matches(t->name, name, layer)) {
      *role = t->role;
      return true;
    }
  *layer = -1;
  return false;
}

void ka_family_tensor_name(const struct ka_family_tensor *t, int layer,
                           char name[KA_TENSOR_NAME_MAX]) {
  const char *hole = strstr(t->name, "{}");
  int before = hole ? (int)(hole - t->name) : (int)strlen(t->name);
  if (hole)
    snprintf(name, KA_TENSOR_NAME_MAX, "%.*s%d%s", before, t->name, layer, hole + 2);
  else
    snprintf(name, KA_TENSOR_NAME_MAX, "%s", t->name);
}

void ka_recipe_shape(const struct ka_recipe *r, enum ka_role role, int64_t *rows, int64_t *cols) {
  int64_t q = r->H * r->D, kv = r->K * r->D;
  const struct {
    bool there;
    int64_t rows, cols;
  } shapes[KA_N_ROLES] = {
      [KA_ROLE_EMBED] = {true, r->V, r->C},
      [KA_ROLE_FINAL_NORM] = {true, 1, r->C},
      [KA_ROLE_HEAD] = {!r->tied, r->V, r->C},
      [KA_ROLE_ATTN_NORM] = {true, 1, r->C},
      [KA_ROLE_Q] = {true, q, r->C},
      [KA_ROLE_K] = {true, kv, r->C},
      [KA_ROLE_V] = {true, kv, r->C},
      [KA_ROLE_O] = {true, r->C, q},
      [KA_ROLE_Q_BIAS] = {r->qkv_bias, 1, q},
      [KA_ROLE_K_BIAS] = {r->qkv_bias, 1, kv},
      [KA_ROLE_V_BIAS] = {r->qkv_bias, 1, kv},
      [KA_ROLE_O_BIAS] = {r->o_bias, 1, r->C},
      [KA_ROLE_Q_NORM] = {r->qk_norm, 1, r->D},
      [KA_ROLE_K_NORM] = {r->qk_norm, 1, r->D},
      [KA_ROLE_FFN_NORM] = {true, 1, r->C},
      [KA_ROLE_GATE] = {true, r->F, r->C},
      [KA_ROLE_UP] = {true, r->F, r->C},
      [KA_ROLE_DOWN] = {true, r->C, r->F},
      [KA_ROLE_GATE_BIAS] = {r->mlp_bias, 1, r->F},
      [KA_ROLE_UP_BIAS] = {r->mlp_bias, 1, r->F},
      [KA_ROLE_DOWN_BIAS] = {r->mlp_bias, 1, r->C},
  };
  *rows = shapes[role].there ? shapes[role].rows : 0;
  *cols = shapes[role].there ? shapes[role].cols : 0;
}
