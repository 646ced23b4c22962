/* SPDX-License-Identifier: Apache-2.0
 *
 * What a table for cuDNN says, computed node by node in double: what cuDNN is asked for can be
 * compared with the op's contract where there is no device. */
#ifndef KAPPA_TESTS_KERNELS_CUDNN_EVALUATE_H
#define KAPPA_TESTS_KERNELS_CUDNN_EVALUATE_H

#include "kernels/cuda/cudnn/graph.h"

/* at[id]: the elements of a tensor in memory as they lie there, or the number. */
void evaluate(const struct cudnn_graph *g, double *const at[CUDNN_TENSORS]);

#endif
