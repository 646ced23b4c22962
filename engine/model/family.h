/* SPDX-License-Identifier: Apache-2.0
 *
 * A model family: which architectures it serves, how its tensors are called, how its config.json
 * becomes a recipe. One const struct in family_x.c, one row in families.def, one golden test. */
#ifndef KAPPA_ENGINE_MODEL_FAMILY_H
#define KAPPA_ENGINE_MODEL_FAMILY_H

#include "engine/model/recipe.h"

struct ka_family_tensor {
  enum ka_role role;
  const char *name; /* "model.layers.{}.self_attn.q_proj.weight"; {} is the layer */
};

struct ka_family {
  const char *name;
  const char *const *architectures;       /* NULL-terminated: "LlamaForCausalLM" */
  const char *const *model_types;         /* NULL-terminated: "llama" */
  const struct ka_family_tensor *tensors; /* NULL name ends */
  /* Fills the recipe; the arena holds its arrays. Refuses what the family cannot do, by key. */
  ka_status (*recipe)(struct ka_arena *arena, const struct ka_hf_config *config,
                      struct ka_recipe *out);
};

/* By architecture, then by model_type; NULL when none. The error lists the known ones. */
ka_status ka_family_find(struct ka_ctx *ctx, const struct ka_hf_config *config,
                         const struct ka_family **out);

/* Role and layer of a tensor name; false when the family has no such tensor. */
bool ka_family_role(const struct ka_family *family, const char *name, enum ka_role *role,
                    int *layer);

enum { KA_TENSOR_NAME_MAX = 256 };
/* The tensor's name in this layer (ignored outside layers). */
void ka_family_tensor_name(const struct ka_family_tensor *t, int layer,
                           char name[KA_TENSOR_NAME_MAX]);

/* Rows and columns the recipe gives a role ([1, n] for vectors). 0 x 0: the recipe has none. */
void ka_recipe_shape(const struct ka_recipe *r, enum ka_role role, int64_t *rows, int64_t *cols);

#endif
