/* SPDX-License-Identifier: Apache-2.0
 *
 * Fresh random models of any family, from a config.json. */
#ifndef KAPPA_ENGINE_MODEL_INIT_H
#define KAPPA_ENGINE_MODEL_INIT_H

#include "kernels/tensor.h"

/* Writes model.safetensors, config.json and generation_config.json into out_dir (made if missing).
 * Matrices are normal(0, initializer_range), norms 1, biases 0. A value depends only on the seed,
 * the tensor's name and its place in it, and is rounded to dtype. dtype KA_N_DTYPES: config.json's.
 * KA_E_INPUT when out_dir holds weights already. */
ka_status ka_model_init(struct ka_ctx *ctx, const char *config_path, const char *out_dir,
                        uint64_t seed, enum ka_dtype dtype);

/* What such a model would be; nothing is made. As ka_model_init refuses, so does this. */
struct ka_model_size {
  char family[32];
  int64_t n_tensors, n_elems;
};
ka_status ka_model_measure(struct ka_ctx *ctx, const char *config_path, struct ka_model_size *out);

#endif
