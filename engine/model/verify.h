/* SPDX-License-Identifier: Apache-2.0
 *
 * A model against a reference file made elsewhere: input_ids [B,T] i64, labels [B,T] i64 (-100
 * masked, unshifted), and any of logits [B,T,V], loss, hidden.I [B,T,C], grad.NAME, f32. */
#ifndef KAPPA_ENGINE_MODEL_VERIFY_H
#define KAPPA_ENGINE_MODEL_VERIFY_H

#include "engine/model/model.h"

struct ka_verify_row {
  const char *name;
  double max_abs; /* max |a-b| */
  double rel_l2;  /* ||a-b|| / ||b||; with an all-zero reference max |a| */
  double tolerance;
  bool pass; /* rel_l2 <= tolerance */
};

/* model, base: as ka_model_source_open takes them. Rows in the file's order of names, from the
 * arena. f32 tolerances: 1e-5, gradients 1e-4. bf16: 2e-2, loss 1e-3, gradients 5e-2, about twice
 * what transformers' own bf16 differs from its f32 on models of 64 channels
 * (1.2e-2, 1.4e-4, 2.7e-2). KA_E_INPUT: a tensor missing, unknown, of the wrong shape or dtype; an
 * id out of range. */
ka_status ka_verify(struct ka_arena *arena, struct ka_dev *dev, const char *model, const char *base,
                    const char *against, enum ka_dtype compute, struct ka_verify_row **rows,
                    int64_t *n_rows);

#endif
