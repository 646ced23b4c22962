/* SPDX-License-Identifier: Apache-2.0
 *
 * Which cuBLASLt algorithm a product takes: measured once per key, remembered for the process, on
 * disk per device, its number of SMs and library version, and in checkpoints (ka_dev_choices),
 * because another algorithm may sum in another order. */
#ifndef KAPPA_KERNELS_CUDA_TUNE_H
#define KAPPA_KERNELS_CUDA_TUNE_H

#include "base/str.h"
#include "kernels/cuda/matmul.h"

#ifdef __cplusplus
extern "C" {
#endif

ka_status cuda_tuner_open(struct ka_dev *dev);
/* Writes what is new to disk. */
void cuda_tuner_close(struct ka_dev *dev);

/* The algorithm for p; NULL: cuBLASLt has none that works. Measures the first few candidates of its
 * heuristic on the product's own operands when the key is new, which waits for the device. While a
 * pass is recorded nothing can be measured: a new key then takes the first candidate. What was
 * remembered by another process is first checked by cuBLASLt. */
ka_status cuda_tuner_choose(struct ka_dev *dev, const struct cuda_product *p,
                            const cublasLtMatmulAlgo_t **algo);

/* *algo, which came from here, failed to run: the next one of the heuristic, or NULL. Not on disk.
 * An error after which the device answers nothing else is returned. */
ka_status cuda_tuner_refuse(struct ka_dev *dev, const struct cuda_product *p, cublasStatus_t why,
                            const cublasLtMatmulAlgo_t **algo);

/* See ka_dev_choices_get; a line for library version and device, then a line each. */
ka_status cuda_choices_get(struct ka_dev *dev, struct ka_str *text);
ka_status cuda_choices_set(struct ka_dev *dev, const char *text);

#ifdef __cplusplus
}
#endif

#endif
