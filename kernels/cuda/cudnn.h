/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention by cuDNN, for the patterns that it takes: training's passes (lse wanted) in bf16 over
 * whole rows (S = T, q_offset 0), without documents. Which way a call goes depends on the device,
 * the library's version and the shape alone, so that a run repeats bit for bit.
 * KAPPA_CUDA_WITHOUT=cudnn: none.
 *
 * A build without cuDNN's headers has none of it. */
#ifndef KAPPA_KERNELS_CUDA_CUDNN_H
#define KAPPA_KERNELS_CUDA_CUDNN_H

#include "kernels/cuda/cuda.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef KAPPA_HAVE_CUDNN

/* Finds the library. *reserved: device memory to leave for it, which is taken when needed. */
ka_status cuda_cudnn_open(struct ka_dev *dev, size_t *reserved);
void cuda_cudnn_close(struct ka_dev *dev);

/* true: done, st says how it went. false: not cuDNN's, nothing is done. */
bool cuda_cudnn_attn_fwd(struct ka_dev *dev, const struct ka_attn_fwd_args *args, ka_status *st);
bool cuda_cudnn_attn_bwd(struct ka_dev *dev, const struct ka_attn_bwd_args *args, ka_status *st);

/* For doctor: "cuDNN 9.19 does attention: forward D 64 ...", or why it does not. */
void cuda_cudnn_describe(struct ka_dev *dev, char *text, size_t n);

#else

static inline ka_status cuda_cudnn_open(struct ka_dev *dev, size_t *reserved) {
  (void)dev;
  *reserved = 0;
  return KA_STATUS_OK;
}
static inline void cuda_cudnn_close(struct ka_dev *dev) { (void)dev; }
static inline bool cuda_cudnn_attn_fwd(struct ka_dev *dev, const struct ka_attn_fwd_args *args,
                                       ka_status *st) {
  (void)dev, (void)args, (void)st;
  return false;
}
static inline bool cuda_cudnn_attn_bwd(struct ka_dev *dev, const struct ka_attn_bwd_args *args,
                                       ka_status *st) {
  (void)dev, (void)args, (void)st;
  return false;
}
static inline void cuda_cudnn_describe(struct ka_dev *dev, char *text, size_t n) {
  (void)dev;
  snprintf(text, n, "built without cuDNN");
}

#endif

#ifdef __cplusplus
}
#endif

#endif
