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

/* The two factors of the product and their derivatives: y of the gate, u of up. */
struct factors {
  double y, dy, u, du;
};

static struct factors factors_of(enum ka_act act, double gate, double up) {
  struct factors f = {.u = up, .du = 1};
  if (act != KA_ACT_SILU_CLAMPED) {
    ref_activate(act, gate, &f.y, &f.dy);
    return f;
  }
  double g = gate > 7 ? 7 : gate, s = 1 / (1 + exp(-1.702 * g));
  f.y = g * s;
  f.dy = gate > 7 ? 0 : s + 1.702 * g * s * (1 - s);
  f.u = (up > 7 ? 7 : up < -7 ? -7 : up) + 1;
  f.du = up > 7 || up < -7 ? 0 : 1;
  return f;
}

ka_status glu_fwd_ref(struct ka_dev *dev, const struct ka_glu_fwd_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->out);
#pragma omp parallel for
  for (int64_t i = 0; i < n; i++) {
    struct factors f = factors_of(args->act, get(&args->gate, i), get(&args->up, i));
    put(&args->out, i, f.y * f.u);
  }
  return KA_STATUS_OK;
}

ka_status glu_bwd_ref(struct ka_dev *dev, const struct ka_glu_bwd_args *args) {
  (void)dev;
  int64_t n = ka_tensor_elems(&args->dgate);
#pragma omp parallel for
  for (int64_t i = 0; i < n; i++) {
    struct factors f = factors_of(args->act, get(&args->gate, i), get(&args->up, i));
    double dout = get(&args->dout, i);
    put(&args->dgate, i, dout * f.u * f.dy);
    put(&args->dup, i, dout * f.y * f.du);
    if (args->out.data) put(&args->out, i, f.y * f.u);
  }
  return KA_STATUS_OK;
}
