/* SPDX-License-Identifier: Apache-2.0
 *
 * The tuned model as a Hugging Face directory: the base's files, with the trained slices replaced.
 * Everything else stays byte for byte, also inside the tensors that were trained in part. */
#ifndef KAPPA_ENGINE_TRAIN_OUTPUT_H
#define KAPPA_ENGINE_TRAIN_OUTPUT_H

#include "engine/train/optim.h"

/* Writes weights (in the base's dtypes, names and shards) and carries over the other files of
 * base_dir. Existing files of the same names are replaced, each by rename. */
ka_status ka_train_output_write(struct ka_ctx *ctx, const struct ka_optim *o, const char *base_dir,
                                const char *out_dir);

#endif
