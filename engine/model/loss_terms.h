/* SPDX-License-Identifier: Apache-2.0
 *
 * The terms of the loss: loss_terms.def as an enum and a table. */
#ifndef KAPPA_ENGINE_MODEL_LOSS_TERMS_H
#define KAPPA_ENGINE_MODEL_LOSS_TERMS_H

#include "engine/model/batch.h"

#include <stdbool.h>

enum ka_loss_term {
#define KA_LOSS_TERM(id, ...) KA_TERM_##id,
#include "engine/model/loss_terms.def"
#undef KA_LOSS_TERM
  KA_N_TERMS
};

struct ka_loss_term_facts {
  const char *key; /* of the logs */
  enum ka_batch_rows rows;
  bool reads_base;
  const char *text;
};
extern const struct ka_loss_term_facts ka_loss_terms[KA_N_TERMS];

#endif
