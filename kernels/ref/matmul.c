/* SPDX-License-Identifier: Apache-2.0
 * Matrix product and the bias gradient. There is no packed layout here: pack writes nothing and
 * matmul reads b. */
#include "kernels/ref/ref.h"

#include <math.h>

ka_status pack_ref(struct ka_dev *dev, const struct ka_pack_args *args) {
  (void)dev, (void)args;
  return KA_STATUS_OK;
}

static double epilogue(const struct ka_matmul_args *args, int64_t m, int64_t n, double sum) {
  double pre, y, dy;
  if (args->epilogue == KA_EPILOGUE_NONE) return sum;
  pre =
      args->epilogue == KA_EPILOGUE_GELU ? ref_round(args->out.dtype, sum) : get2(&args->pre, m, n);
  ref_activate(KA_ACT_GELU_TANH, pre, &y, &dy);
  if (args->epilogue == KA_EPILOGUE_DGELU) return sum * dy;
  if (args->pre.data) put2(&args->pre, m, n, pre);
  return y;
}

/* out[n] += sum over rows of x[m,n] */
static void column_sums(const struct ka_tensor *out, const struct ka_tensor *x) {
#pragma omp parallel for
  for (int64_t n = 0; n < x->shape[1]; n++) {
    double sum = 0;
    for (int64_t m = 0; m < x->shape[0]; m++) sum += get2(x, m, n);
    inc(out, n, sum);
  }
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
      put2(out, m, n, epilogue(args, m, n, sum));
    }
  if (args->bias_grad.data) column_sums(&args->bias_grad, a);
  return KA_STATUS_OK;
}

ka_status bias_bwd_ref(struct ka_dev *dev, const struct ka_bias_bwd_args *args) {
  (void)dev;
  column_sums(&args->dbias, &args->dout);
  return KA_STATUS_OK;
}
