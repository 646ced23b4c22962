/* SPDX-License-Identifier: Apache-2.0
 * Rows sorted by expert, each expert's products, and the way back to the tokens. */
#include "kernels/ref/ref.h"

ka_status expert_sort_ref(struct ka_dev *dev, const struct ka_expert_sort_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->index), n_experts = args->offsets.shape[0] - 1;
  int32_t *offsets = args->offsets.data, *token = args->token.data, *place = args->place.data;
  int32_t next[1024];
  for (int64_t e = 0; e <= n_experts; e++) offsets[e] = 0;
  for (int64_t i = 0; i < n; i++) offsets[get_id(&args->index, i) + 1]++;
  for (int64_t e = 0; e < n_experts; e++) {
    offsets[e + 1] += offsets[e];
    next[e] = offsets[e];
  }
  for (int64_t i = 0; i < n; i++) {
    place[i] = next[get_id(&args->index, i)]++;
    token[place[i]] = (int32_t)(i / args->index.shape[1]);
  }
  return KA_STATUS_OK;
}

static struct ka_tensor matrix_of(const struct ka_tensor *all, void *own, int64_t e) {
  int64_t rows = all->shape[1], cols = all->shape[2];
  size_t skip = (size_t)(e * rows * cols) * ka_dtype_bytes(all->dtype);
  return ka_tensor_2d(own ? own : (char *)all->data + skip, all->dtype, rows, cols);
}

ka_status expert_matmul_ref(struct ka_dev *dev, const struct ka_expert_matmul_args *args) {
  (void)dev;
  int64_t n_cols = args->out.shape[1], n_inner = args->a.shape[1];
  for (int64_t e = 0; e + 1 < args->offsets.shape[0]; e++) {
    struct ka_tensor b =
        matrix_of(&args->b, args->b_of ? (void *)(uintptr_t)args->b_of[e] : NULL, e);
#pragma omp parallel for
    for (int64_t p = get_id(&args->offsets, e); p < get_id(&args->offsets, e + 1); p++)
      for (int64_t n = 0; n < n_cols; n++) {
        double sum = args->bias.data ? get2(&args->bias, e, n) : 0;
        for (int64_t k = 0; k < n_inner; k++)
          sum += get2(&args->a, p, k) * (args->trans_b ? get2(&b, n, k) : get2(&b, k, n));
        put2(&args->out, p, n, args->accumulate ? get2(&args->out, p, n) + sum : sum);
      }
  }
  return KA_STATUS_OK;
}

ka_status expert_grad_ref(struct ka_dev *dev, const struct ka_expert_grad_args *args) {
  (void)dev;
  for (int64_t e = 0; e + 1 < args->offsets.shape[0]; e++) {
    if (args->dw_of && !args->dw_of[e]) continue;
    struct ka_tensor dw = matrix_of(&args->dw, args->dw_of ? args->dw_of[e] : NULL, e);
#pragma omp parallel for
    for (int64_t m = 0; m < dw.shape[0]; m++)
      for (int64_t n = 0; n < dw.shape[1]; n++) {
        double sum = get2(&dw, m, n);
        for (int64_t p = get_id(&args->offsets, e); p < get_id(&args->offsets, e + 1); p++)
          sum += get2(&args->a, p, m) * get2(&args->b, p, n);
        put2(&dw, m, n, sum);
      }
  }
  return KA_STATUS_OK;
}

ka_status expert_bias_bwd_ref(struct ka_dev *dev, const struct ka_expert_bias_bwd_args *args) {
  (void)dev;
#pragma omp parallel for
  for (int64_t n = 0; n < args->dout.shape[1]; n++)
    for (int64_t e = 0; e + 1 < args->offsets.shape[0]; e++) {
      double sum = get2(&args->dbias, e, n);
      for (int64_t p = get_id(&args->offsets, e); p < get_id(&args->offsets, e + 1); p++)
        sum += get2(&args->dout, p, n);
      put2(&args->dbias, e, n, sum);
    }
  return KA_STATUS_OK;
}

ka_status expert_combine_fwd_ref(struct ka_dev *dev,
                                 const struct ka_expert_combine_fwd_args *args) {
  (void)dev;
  int64_t n_top = args->place.shape[1];
#pragma omp parallel for
  for (int64_t t = 0; t < args->out.shape[0]; t++)
    for (int64_t c = 0; c < args->out.shape[1]; c++) {
      double sum = args->accumulate ? get2(&args->out, t, c) : 0;
      for (int64_t j = 0; j < n_top; j++)
        sum += (args->weight.data ? get2(&args->weight, t, j) : 1) *
               get2(&args->x, get_id(&args->place, t * n_top + j), c);
      put2(&args->out, t, c, sum);
    }
  return KA_STATUS_OK;
}

ka_status expert_combine_bwd_ref(struct ka_dev *dev,
                                 const struct ka_expert_combine_bwd_args *args) {
  (void)dev;
  int64_t n_top = args->place.shape[1];
#pragma omp parallel for
  for (int64_t i = 0; i < ka_tensor_elems(&args->place); i++) {
    int64_t p = get_id(&args->place, i), t = i / n_top;
    double sum = 0, w = get(&args->weight, i);
    for (int64_t c = 0; c < args->dout.shape[1]; c++) {
      double d = get2(&args->dout, t, c);
      if (args->dweight.data) sum += get2(&args->x, p, c) * d;
      put2(&args->dx, p, c, w * d);
    }
    if (args->dweight.data) put(&args->dweight, i, sum);
  }
  return KA_STATUS_OK;
}
