/* SPDX-License-Identifier: Apache-2.0
 *
 * What ranks exchange in a step: sums of gradients and statistics, and, where they split the
 * optimizer's state, each one's part of the new weights. No-ops in a process that is alone. */
#ifndef KAPPA_ENGINE_TRAIN_EXCHANGE_H
#define KAPPA_ENGINE_TRAIN_EXCHANGE_H

#include "engine/model/model.h"

/* Starts the sum of x, which lies on the model's device, over ranks; what: for errors. */
ka_status ka_train_exchange_sum(struct ka_model *m, const char *what, struct ka_tensor x);

/* Starts the sum of slice i's gradient; of a split one this rank's part alone is then right. */
ka_status ka_train_exchange_gradient(struct ka_model *m, int64_t i);

/* After every rank has written its parts of the split weights: all of them to all ranks. Waits;
 * gradients are lost. */
ka_status ka_train_exchange_weights(struct ka_model *m);

#endif
