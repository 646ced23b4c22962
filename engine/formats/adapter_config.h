/* SPDX-License-Identifier: Apache-2.0
 *
 * adapter_config.json: which LoRA it is, and each module's scale. */
#ifndef KAPPA_ENGINE_FORMATS_ADAPTER_CONFIG_H
#define KAPPA_ENGINE_FORMATS_ADAPTER_CONFIG_H

#include "base/file.h"
#include "base/json.h"

struct ka_adapter_config {
  struct ka_arena arena;
  const char *path; /* of adapter_config.json */
  json_t *root;
  const char *base; /* base_model_name_or_path, "" when absent */
  int64_t r;
  double alpha;
  bool rslora;
  const json_t *rank_pattern, *alpha_pattern; /* {pattern: number} or NULL */
};

/* KA_E_UNSUPPORTED names key and value of what is not plain LoRA: other methods, variants (DoRA,
 * ...), initialisations that change the base, keys unknown to kappa that are set. Close also after
 * a failure. */
ka_status ka_adapter_config_open(struct ka_ctx *ctx, struct ka_adapter_config *c, const char *dir);
void ka_adapter_config_close(struct ka_adapter_config *c);

/* The rank and the scale (alpha / r, with rslora alpha / sqrt(r)) of a module, by its name in the
 * model. */
ka_status ka_adapter_scale(struct ka_ctx *ctx, const struct ka_adapter_config *c,
                           const char *module, int64_t *r, double *scale);

#endif
