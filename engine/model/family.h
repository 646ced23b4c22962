/* SPDX-License-Identifier: Apache-2.0
 *
 * A model family: which architectures it serves, its tensor map, how its config.json becomes a
 * recipe. One const struct in family_x.c, one row in families.def, one golden test. */
#ifndef KAPPA_ENGINE_MODEL_FAMILY_H
#define KAPPA_ENGINE_MODEL_FAMILY_H

#include "base/str.h"
#include "engine/model/recipe.h"

struct ka_family {
  const char *name;
  const char *const *architectures; /* NULL-terminated: "LlamaForCausalLM" */
  const char *const *model_types;   /* NULL-terminated: "llama" */
  struct ka_tensor_map map;
  const char *defaults;    /* ka_hf_defaults_of */
  bool init_by_depth;      /* a new model's o and down are narrower by sqrt(2 L), as GPT-2's */
  const char *const *keys; /* NULL-terminated: keys of the table in family_keys.c that the family
                              knows; NULL: none */
  /* Fills the recipe; the arena holds its arrays. Refuses what the family cannot do, by key. */
  ka_status (*recipe)(struct ka_arena *arena, const struct ka_hf_config *config,
                      struct ka_recipe *out);
};

/* The i-th of the table, NULL behind the last. */
const struct ka_family *ka_family_at(int i);
/* docs/families.md: what each family has, as its tensor map and the kinds of its branches say. */
ka_status ka_family_doc_markdown(struct ka_ctx *ctx, struct ka_str *out);

/* By architecture, then by model_type; NULL when none. The error lists the known ones. */
ka_status ka_family_find(struct ka_ctx *ctx, const struct ka_hf_config *config,
                         const struct ka_family **out);

/* Refuses what the family does not know of the keys that change results, by name. */
ka_status ka_family_check_keys(struct ka_ctx *ctx, const struct ka_family *family,
                               const struct ka_hf_config *config);
/* The family's recipe, with or without a head of its own as config.json has it. */
ka_status ka_family_recipe(const struct ka_family *family, struct ka_arena *arena,
                           const struct ka_hf_config *config, struct ka_recipe *out);

/* Has the model this weight (in this layer)? */
bool ka_family_has(const struct ka_family *family, const struct ka_recipe *r, enum ka_role role,
                   int layer);
/* Shape of a stored tensor that holds n_rows parts: the number of dimensions. */
int ka_family_shape(const struct ka_recipe *r, const struct ka_tensor_row *row, int n_rows,
                    int64_t shape[KA_MAX_DIM]);

#endif
