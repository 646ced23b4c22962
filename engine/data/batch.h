/* SPDX-License-Identifier: Apache-2.0
 *
 * struct ka_batch is engine/model/batch.h: the model may not look up at data. What makes batches
 * (datasets, packing) is declared in this room. */
#ifndef KAPPA_ENGINE_DATA_BATCH_H
#define KAPPA_ENGINE_DATA_BATCH_H

#include "engine/model/batch.h"

enum { KA_LABEL_MASKED = -100 };

#endif
