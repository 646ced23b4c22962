/* SPDX-License-Identifier: Apache-2.0
 *
 * The arithmetic of a merge: W + scale B A. */
#ifndef KAPPA_ENGINE_FORMATS_LORA_H
#define KAPPA_ENGINE_FORMATS_LORA_H

#include "kernels/tensor.h"

struct ka_lora {
  struct ka_tensor a, b; /* [r, in], [out, r], any float dtype */
  double scale;
  bool transposed; /* w is [in, out]: embeddings, GPT-2's layers */
};

/* w [out, in] = round(w + scale B A), contiguous, F32, BF16 or F16. B A is summed in double,
 * rounded to f32 and scaled there, and added in f32: as PEFT does, whose sums are f32's. Several
 * threads; the result does not depend on their number. *bad_row: the first row with a value that is
 * not finite, -1: none. */
ka_status ka_lora_merge(struct ka_ctx *ctx, struct ka_tensor *w, const struct ka_lora *l,
                        int64_t *bad_row);

#endif
