/* SPDX-License-Identifier: Apache-2.0
 * Matrix products where oneDNN is not built in: f32 by OpenBLAS's sgemm, bf16 and f64 by ref. */
#include "kernels/cpu/cpu.h"

#ifndef KAPPA_HAVE_ONEDNN

#include <stdio.h>

ka_status cpu_gemm_open(struct ka_dev *dev) {
  (void)dev;
  return KA_STATUS_OK;
}

void cpu_gemm_close(struct ka_dev *dev) { (void)dev; }

void cpu_gemm_describe(char *text, size_t n) { snprintf(text, n, "no oneDNN: slow products"); }

size_t cpu_pack_bytes(struct ka_dev *dev, const struct ka_pack_args *args) {
  (void)dev, (void)args;
  return 0;
}

ka_status pack_cpu(struct ka_dev *dev, const struct ka_pack_args *args) {
  return pack_ref(dev, args);
}

ka_status matmul_cpu(struct ka_dev *dev, const struct ka_matmul_args *args) {
  return matmul_ref(dev, args);
}

#endif
