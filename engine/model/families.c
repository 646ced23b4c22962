/* SPDX-License-Identifier: Apache-2.0
 * The table of families and what is asked of it. */
#include "engine/model/family.h"

#include "engine/formats/tied_head.h"
#include "engine/model/branch.h"
#include "engine/model/moe.h"

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

const struct ka_family *ka_family_at(int i) { return i < N_FAMILIES ? families[i] : NULL; }

static bool listed(const char *const *names, const char *name) {
  for (; name && *names; names++)
    if (strcmp(*names, name) == 0) return true;
  return false;
}

static const struct ka_family *find(const char *architecture, const char *model_type) {
  for (int i = 0; i < N_FAMILIES; i++)
    if (listed(families[i]->architectures, architecture)) return families[i];
  /* The architecture decides when it is there: a classifier of a known model_type is no language
   * model. */
  for (int i = 0; i < N_FAMILIES && !architecture; i++)
    if (listed(families[i]->model_types, model_type)) return families[i];
  return NULL;
}

const struct ka_tensor_map *ka_tensor_map_of(const struct ka_hf_config *config) {
  const struct ka_family *family = find(config->architecture, config->model_type);
  return family ? &family->map : NULL;
}

const char *ka_hf_defaults_of(const char *architecture, const char *model_type) {
  const struct ka_family *family = find(architecture, model_type);
  return family ? family->defaults : NULL;
}

ka_status ka_family_find(struct ka_ctx *ctx, const struct ka_hf_config *config,
                         const struct ka_family **out) {
  *out = find(config->architecture, config->model_type);
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

ka_status ka_family_recipe(const struct ka_family *family, struct ka_arena *arena,
                           const struct ka_hf_config *config, struct ka_recipe *out) {
  struct ka_ctx *ctx = arena->ctx;
  KA_TRY(ka_family_check_keys(ctx, family, config));
  KA_TRY(family->recipe(arena, config, out));
  out->without[KA_ROLE_HEAD] = ka_head_tied(&family->map, config);
  return KA_STATUS_OK;
}

int64_t ka_recipe_dim(const struct ka_recipe *r, enum ka_dim dim) {
  int64_t value = r->v_width > 0 ? r->v_width : r->D;
  static const struct ka_moe none;
  const struct ka_moe *x = r->moe ? r->moe : &none;
  int64_t widest = 2 * x->EF > r->C ? 2 * x->EF : r->C;
  const int64_t dims[KA_N_DIMS] = {
      [KA_DIM_ONE] = 1,
      [KA_DIM_UNIT] = 1,
      [KA_DIM_TWO] = 2,
      [KA_DIM_V] = r->V,
      [KA_DIM_P] = r->max_positions,
      [KA_DIM_C] = r->C,
      [KA_DIM_H] = r->H,
      [KA_DIM_K] = r->K,
      [KA_DIM_HD] = r->H * r->D,
      [KA_DIM_KD] = r->K * r->D,
      [KA_DIM_OD] = r->H * value,
      [KA_DIM_QN] = r->qk_norm_whole ? r->H * r->D : r->D,
      [KA_DIM_KN] = r->qk_norm_whole ? r->K * r->D : r->D,
      [KA_DIM_F] = r->F,
      [KA_DIM_QR] = r->q_rank,
      [KA_DIM_KVR] = r->kv_rank,
      [KA_DIM_KVP] = r->kv_rank + r->rope_width,
      [KA_DIM_KVH] = r->H * (r->D - r->rope_width + value),
      [KA_DIM_E] = x->E,
      [KA_DIM_EF] = x->EF,
      [KA_DIM_EU] = 2 * x->EF,
      [KA_DIM_EK] = x->k,
      [KA_DIM_EKC] = x->k * r->C,
      [KA_DIM_EKF] = x->k * x->EF,
      [KA_DIM_EKU] = 2 * x->k * x->EF,
      [KA_DIM_EN] = x->E + 1,
      [KA_DIM_EKW] = x->k * widest,
      [KA_DIM_EUE] = x->E * widest,
      [KA_DIM_SF] = x->SF,
  };
  return dims[dim];
}

/* Has one of the layer's branches such a weight? */
static bool branches_have(const struct ka_layer_recipe *l, enum ka_role role) {
  if (ka_branch_norm(role)) return true;
  for (int i = 0; i < KA_BRANCHES; i++)
    for (const enum ka_role *r = l->branch[i]->roles; *r != KA_N_ROLES; r++)
      if (*r == role) return true;
  return false;
}

bool ka_family_has(const struct ka_family *family, const struct ka_recipe *r, enum ka_role role,
                   int layer) {
  if (r->without[role] || !ka_tensor_map_row(&family->map, role)) return false;
  if (ka_role_info(role)->scope == KA_SCOPE_MODEL) return layer < 0;
  return layer >= 0 && layer < r->L && branches_have(&r->layers[layer], role);
}

int ka_family_shape(const struct ka_recipe *r, const struct ka_tensor_row *row, int n_rows,
                    int64_t shape[KA_MAX_DIM]) {
  const struct ka_role_info *info = ka_role_info(row->role);
  int64_t size[2] = {0, ka_recipe_dim(r, info->cols)};
  bool vector = info->rows == KA_DIM_ONE;
  if (vector) size[1] = 0;
  for (int i = 0; i < n_rows; i++) {
    info = ka_role_info(row[i].role);
    size[vector] += ka_recipe_dim(r, vector ? info->cols : info->rows);
  }
  int n = 0;
  if (row->stacked) shape[n++] = ka_recipe_dim(r, KA_DIM_E);
  if (!vector) shape[n++] = size[row->transposed];
  shape[n++] = size[vector || !row->transposed];
  return n;
}
