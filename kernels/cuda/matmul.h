/* SPDX-License-Identifier: Apache-2.0
 *
 * A product as cuBLASLt sees it, between matmul.c and the choice of its algorithm (tune.c). */
#ifndef KAPPA_KERNELS_CUDA_MATMUL_H
#define KAPPA_KERNELS_CUDA_MATMUL_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the best algorithm depends on. No padding: compared and hashed by its bytes. */
struct cuda_product_key {
  int64_t m, n, k;
  int64_t stride[3]; /* a, b, out */
  uint32_t align[4]; /* of a, b, out, bias in bytes, at most 256; 0: no bias */
  uint32_t type[2];  /* ka_dtype of the operands, of out */
  uint32_t trans_a, trans_b, accumulate, epilogue; /* epilogue: cublasLtEpilogue_t */
  int64_t pre_stride;
  uint32_t pre_align, zero;
};

struct cuda_product {
  const struct ka_matmul_args *args;
  struct cuda_product_key key;
  void *bias_grad; /* [M] f32 of scratch: the bias's gradient, to be added; NULL: none wanted */
  cublasLtMatmulDesc_t op;
  cublasLtMatrixLayout_t first, second, out;
};

/* Enqueues the product by this algorithm, to `to` instead of args->out. */
cublasStatus_t cuda_product_run(struct ka_dev *dev, const struct cuda_product *p,
                                const cublasLtMatmulAlgo_t *algo, void *to);

/* matmul_plain.cu: any shape, address and pitch, slowly. */
ka_status cuda_matmul_plain(struct ka_dev *dev, const struct ka_matmul_args *args);

#ifdef __cplusplus
}
#endif

#endif
