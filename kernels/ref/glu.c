/* SPDX-License-Identifier: Apache-2.0
 * Gated feed-forward activations (Shazeer 2020): act(gate) * up. */
#include "kernels/ref/ref.h"

#include <math.h>

void ref_activate(enum ka_act act, double x, double *y, double *dy) {
  if (act == KA_ACT_SILU) {
    double s = 1 / (1 + exp(-x));
    *y = x * s;
    *dy = s + x * s * (1 - s);
  } else if (act == KA_ACT_GELU_TANH) { /* Hendrycks and Gimpel 2016, section 2 */
    double c = sqrt(2 / M_PI), t = tanh(c * (x + 0.044715 * x * x * x));
    *y = 0.5 * x * (1 + t);
    *dy = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
  } else {
    double phi = 0.5 * (1 + erf(x * M_SQRT1_2));
    *y = x * phi;
    *dy = phi + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
  }
}

ka_status glu_fwd_ref(struct ka_dev *dev, const struct ka_glu_fwd_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->out);
#pragma omp parallel for
  for (int64_t i = 0; i < n; i++) {
    double y, dy;
    ref_activate(args->act, get(&args->gate, i), &y, &dy);
    put(&args->out, i, y * get(&args->up, i));
  }
  return KA_STATUS_OK;
}

ka_status glu_bwd_ref(struct ka_dev *dev, const struct ka_glu_bwd_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->dgate);
#pragma omp parallel for
  for (int64_t i = 0; i < n; i++) {
    double y, dy, up = get(&args->up, i), dout = get(&args->dout, i);
    ref_activate(args->act, get(&args->gate, i), &y, &dy);
    put(&args->dgate, i, dout * up * dy);
    put(&args->dup, i, dout * y);
    if (args->out.data) put(&args->out, i, y * up);
  }
  return KA_STATUS_OK;
}
