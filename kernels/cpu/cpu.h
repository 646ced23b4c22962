/* SPDX-License-Identifier: Apache-2.0
 *
 * The cpu back end: OpenMP over rows, oneDNN or cblas for matrix products. f64 goes to ref. A
 * device is used by one thread at a time; its scratch grows to what was needed and stays, so that
 * the steps after the first allocate nothing. */
#ifndef KAPPA_KERNELS_CPU_CPU_H
#define KAPPA_KERNELS_CPU_CPU_H

#include "kernels/ref/ref.h"

struct cpu_state {
  struct gemm *gemm; /* the matmul library's own */
  void *scratch;
  size_t scratch_bytes;
};

/* At least n_bytes of 64-byte aligned memory that the running op may use until it returns;
 * contents undefined. */
ka_status cpu_scratch(struct ka_dev *dev, size_t n_bytes, void **out);

/* The matmul library: exactly one of matmul_onednn.c, matmul_cblas.c implements these. */
ka_status cpu_gemm_open(struct ka_dev *dev);
void cpu_gemm_close(struct ka_dev *dev);
void cpu_gemm_describe(char *text, size_t n);
/* matmul without epilogue and bias_grad. */
ka_status cpu_product(struct ka_dev *dev, const struct ka_matmul_args *args);
/* matvec.c: the same for few rows of a, from b as it lies: whether it is packed changes no bit. */
bool cpu_matvec_takes(const struct ka_matmul_args *args);
ka_status cpu_matvec(struct ka_dev *dev, const struct ka_matmul_args *args);
size_t cpu_pack_bytes(struct ka_dev *dev, const struct ka_pack_args *args);

#define KA_OP(name, ...)                                                                           \
  ka_status name##_cpu(struct ka_dev *dev, const struct ka_##name##_args *args);
#include "kernels/ops.def"
#undef KA_OP

#endif
