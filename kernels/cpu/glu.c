/* SPDX-License-Identifier: Apache-2.0
 * Gated feed-forward activations (Shazeer 2020): act(gate) * up. */
#include "kernels/cpu/vec.h"

void cpu_activate(enum ka_act act, const float *x, int64_t n, float *restrict y,
                  float *restrict dy) {
  if (act == KA_ACT_SILU) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      float s = fast_sigmoid(x[i]);
      y[i] = x[i] * s;
      dy[i] = s + x[i] * s * (1.0f - s);
    }
  } else if (act == KA_ACT_GELU_TANH) { /* Hendrycks and Gimpel 2016, section 2 */
    const float c = 0.79788456f, k = 0.044715f;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      float t = fast_tanh(c * (x[i] + k * x[i] * x[i] * x[i]));
      y[i] = 0.5f * x[i] * (1.0f + t);
      dy[i] =
          0.5f * (1.0f + t) + 0.5f * x[i] * (1.0f - t * t) * c * (1.0f + 3.0f * k * x[i] * x[i]);
    }
  } else {
    for (int64_t i = 0; i < n; i++) {
      float phi = 0.5f * (1.0f + erff(x[i] * 0.70710678f));
      y[i] = x[i] * phi;
      dy[i] = phi + x[i] * fast_exp(-0.5f * x[i] * x[i]) * 0.39894228f;
    }
  }
}

/* The two factors of the product and their derivatives, of a block: y of the gate, u of up. */
static void factors(enum ka_act act, const float *gate, const float *up, int64_t n,
                    float *restrict y, float *restrict dy, float *restrict u, float *restrict du) {
  if (act != KA_ACT_SILU_CLAMPED) {
    cpu_activate(act, gate, n, y, dy);
    for (int64_t i = 0; i < n; i++) {
      u[i] = up[i];
      du[i] = 1;
    }
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    float g = gate[i] > 7.0f ? 7.0f : gate[i], s = fast_sigmoid(1.702f * g);
    y[i] = g * s;
    dy[i] = gate[i] > 7.0f ? 0.0f : s + 1.702f * g * s * (1.0f - s);
    u[i] = (up[i] > 7.0f ? 7.0f : up[i] < -7.0f ? -7.0f : up[i]) + 1.0f;
    du[i] = up[i] > 7.0f || up[i] < -7.0f ? 0.0f : 1.0f;
  }
}

ka_status glu_fwd_cpu(struct ka_dev *dev, const struct ka_glu_fwd_args *args) {
  int64_t n = ka_tensor_elems(&args->out);
  if (args->out.dtype == KA_F64) return glu_fwd_ref(dev, args);
#pragma omp parallel for if (n > CPU_PARALLEL)
  for (int64_t i = 0; i < n; i += CPU_BLOCK) {
    float buf_g[CPU_BLOCK], buf_u[CPU_BLOCK], buf_o[CPU_BLOCK], y[CPU_BLOCK], dy[CPU_BLOCK];
    float u[CPU_BLOCK], du[CPU_BLOCK];
    int64_t len = min64(CPU_BLOCK, n - i);
    const float *gate = load_block(&args->gate, i, len, buf_g);
    const float *up = load_block(&args->up, i, len, buf_u);
    float *out = open_block(&args->out, i, buf_o);
    factors(args->act, gate, up, len, y, dy, u, du);
#pragma omp simd
    for (int64_t k = 0; k < len; k++) out[k] = y[k] * u[k];
    store_block(&args->out, i, len, out);
  }
  return KA_STATUS_OK;
}

/* All inputs are in registers or buffers before the first output is stored: any of the outputs may
 * be any of the inputs. */
ka_status glu_bwd_cpu(struct ka_dev *dev, const struct ka_glu_bwd_args *args) {
  int64_t n = ka_tensor_elems(&args->dgate);
  if (args->dgate.dtype == KA_F64) return glu_bwd_ref(dev, args);
#pragma omp parallel for if (n > CPU_PARALLEL)
  for (int64_t i = 0; i < n; i += CPU_BLOCK) {
    float buf[6][CPU_BLOCK], y[CPU_BLOCK], dy[CPU_BLOCK], u[CPU_BLOCK], du[CPU_BLOCK];
    int64_t len = min64(CPU_BLOCK, n - i);
    const float *gate = load_block(&args->gate, i, len, buf[0]);
    const float *up = load_block(&args->up, i, len, buf[1]);
    const float *dout = load_block(&args->dout, i, len, buf[2]);
    float *dgate = open_block(&args->dgate, i, buf[3]), *dup = open_block(&args->dup, i, buf[4]);
    float *out = args->out.data ? open_block(&args->out, i, buf[5]) : buf[5];
    factors(args->act, gate, up, len, y, dy, u, du);
#pragma omp simd
    for (int64_t k = 0; k < len; k++) {
      float d = dout[k];
      dgate[k] = d * u[k] * dy[k];
      dup[k] = d * y[k] * du[k];
      out[k] = y[k] * u[k];
    }
    store_block(&args->dgate, i, len, dgate);
    store_block(&args->dup, i, len, dup);
    if (args->out.data) store_block(&args->out, i, len, out);
  }
  return KA_STATUS_OK;
}
