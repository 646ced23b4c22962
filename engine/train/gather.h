/* SPDX-License-Identifier: Apache-2.0
 *
 * An optimizer's state that ranks have split, for the one that writes it: rank 0 asks for pieces
 * while the others serve, so nobody holds all of it. Where nothing is split the same calls read
 * this rank's own. */
#ifndef KAPPA_ENGINE_TRAIN_GATHER_H
#define KAPPA_ENGINE_TRAIN_GATHER_H

#include "engine/train/optim.h"

/* Rank 0: elements [first, first + n) of part 0 (w), 1 (m) or 2 (v) of slice i, in its rows' order
 * and the state's dtype, into host memory. While nothing else is exchanged. */
ka_status ka_optim_fetch(const struct ka_optim *o, int64_t i, int part, int64_t first, int64_t n,
                         void *to);
/* For ka_st_out: part `part` of slice i as it stands, read piece by piece. */
struct ka_optim_reader {
  const struct ka_optim *optim;
  int64_t i;
  int part;
};
ka_status ka_optim_read(void *reader, int64_t first, int64_t n, void *to);

/* Rank 0: passes that it makes alone gather split weights from the others, which serve. */
void ka_optim_ask_layers(struct ka_optim *o);

/* Rank 0: it asks for no more. The others: answer until then. Called where rank 0 has the state
 * written alone; it returns at once where nothing is split. */
ka_status ka_optim_serve(const struct ka_optim *o);

#endif
