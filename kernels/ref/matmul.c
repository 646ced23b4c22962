/* SPDX-License-Identifier: Apache-2.0
 * Matrix product and the bias gradient. There is no packed layout here: pack writes nothing and
 * matmul reads b. */
#include "kernels/ref/ref.h"

ka_status pack_ref(struct ka_dev *dev, const struct ka_pack_args *args) {
  (void)dev, (void)args;
  return KA_STATUS_OK;
}

ka_status matmul_ref(struct ka_dev *dev, const struct ka_matmul_args *args) {
  (void)dev;
  const struct ka_tensor *a = &args->a, *b = &args->b, *out = &args->out;
  int64_t n_rows = out->shape[0], n_cols = out->shape[1], n_inner = a->shape[args->trans_a ? 0 : 1];
#pragma omp parallel for
  for (int64_t m = 0; m < n_rows; m++)
    for (int64_t n = 0; n < n_cols; n++) {
      double sum = 0;
      for (int64_t k = 0; k < n_inner; k++)
        sum += (args->trans_a ? get2(a, k, m) : get2(a, m, k)) *
               (args->trans_b ? get2(b, n, k) : get2(b, k, n));
      if (args->bias.data) sum += get(&args->bias, n);
      if (args->accumulate) sum += get2(out, m, n);
      put2(out, m, n, sum);
    }
  return KA_STATUS_OK;
}

ka_status bias_bwd_ref(struct ka_dev *dev, const struct ka_bias_bwd_args *args) {
  (void)dev;
  int64_t n_rows = args->dout.shape[0], n_cols = args->dout.shape[1];
#pragma omp parallel for
  for (int64_t n = 0; n < n_cols; n++) {
    double sum = 0;
    for (int64_t m = 0; m < n_rows; m++) sum += get2(&args->dout, m, n);
    inc(&args->dbias, n, sum);
  }
  return KA_STATUS_OK;
}
