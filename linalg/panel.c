/* SPDX-License-Identifier: Apache-2.0
 * See panel.h. */
#include "linalg/panel.h"

#include <math.h>
#include <string.h>

enum { LANES = 16, STRIP = 4096 };

static const void *row_of(const struct ka_tensor *t, int64_t row, int64_t col) {
  return (const char *)t->data + (size_t)(row * t->row_stride + col) * ka_dtype_bytes(t->dtype);
}

/* n elements to float64, exactly. */
static void widen(double *out, const void *from, enum ka_dtype type, int64_t n) {
  switch (type) {
  case KA_BF16:
    for (int64_t i = 0; i < n; i++) out[i] = (double)ka_bf16_to_f32(((const uint16_t *)from)[i]);
    break;
  case KA_F32:
    for (int64_t i = 0; i < n; i++) out[i] = (double)((const float *)from)[i];
    break;
  case KA_F64:
    memcpy(out, from, (size_t)n * sizeof *out);
    break;
  default:
    for (int64_t i = 0; i < n; i++) out[i] = ka_load(from, type, i);
  }
}

/* Largest magnitude of n values; NaN or Inf makes the result not finite. */
static double strip_max(const double *x, int64_t n) {
  double max[LANES] = {0}, odd[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++) {
      double a = fabs(x[i + l]);
      max[l] = a > max[l] ? a : max[l];
      odd[l] += x[i + l] - x[i + l]; /* NaN for NaN and Inf */
    }
  double best = 0, bad = 0;
  for (; i < n; i++) {
    best = fabs(x[i]) > best ? fabs(x[i]) : best;
    bad += x[i] - x[i];
  }
  for (int l = 0; l < LANES; l++) {
    best = max[l] > best ? max[l] : best;
    bad += odd[l];
  }
  return best + bad;
}

void ka_panels_scan(struct ka_panels *p, struct ka_tensor view) {
  *p = (struct ka_panels){.view = view, .bad_index = -1};
  int64_t rows = view.shape[0], cols = view.shape[1];
  p->wide = rows < cols;
  p->n = p->wide ? cols : rows;
  p->m = p->wide ? rows : cols;
  double strip[STRIP];
  for (int64_t r = 0; r < rows && p->bad_index < 0; r++)
    for (int64_t c = 0; c < cols; c += STRIP) {
      int64_t n = cols - c < STRIP ? cols - c : STRIP;
      widen(strip, row_of(&view, r, c), view.dtype, n);
      double max = strip_max(strip, n);
      if (isfinite(max)) {
        p->max_abs = max > p->max_abs ? max : p->max_abs;
        continue;
      }
      for (int64_t i = 0; i < n && p->bad_index < 0; i++)
        if (!isfinite(strip[i])) p->bad_index = r * cols + c + i;
      break;
    }
  if (p->max_abs > 0) frexp(p->max_abs, &p->exponent);
}

static void scale(const struct ka_panels *p, double *x, int64_t n) {
  if (p->exponent == 0) return;
  /* Two factors, because 2^-exponent itself may overflow for subnormal float64. */
  double a = ldexp(1, -p->exponent / 2), b = ldexp(1, -p->exponent + p->exponent / 2);
  for (int64_t i = 0; i < n; i++) x[i] = x[i] * a * b;
}

void ka_panels_load(const struct ka_panels *p, int64_t k0, int64_t kb, double *out) {
  for (int64_t r = 0; r < (p->wide ? p->m : kb); r++) {
    double *to = out + r * (p->wide ? kb : p->m);
    int64_t n = p->wide ? kb : p->m;
    widen(to, p->wide ? row_of(&p->view, r, k0) : row_of(&p->view, k0 + r, 0), p->view.dtype, n);
    scale(p, to, n);
  }
}

static double dot(const double *a, const double *b, int64_t n) {
  double sum[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++) sum[l] += a[i + l] * b[i + l];
  for (int l = 0; i < n; i++, l++) sum[l] += a[i] * b[i];
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int l = 0; l < half; l++) sum[l] += sum[l + half];
  return sum[0];
}

/* Short chains matter where 1e-8 is promised; beyond, the library's product is much faster. */
enum { LONG_ROW = 512 };

int64_t ka_panels_norm_chain(int64_t m) { return m > LONG_ROW ? m + 1 : m / LANES + 8; }

/* y[kb] = rows of the panel times x. In the wide layout rows are strided: sum columns into y, a
 * block of LANES-fold shorter chains at a time, so that the chain is the same in both. */
static void panel_times(const struct ka_panels *p, const double *panel, int64_t kb, const double *x,
                        double *y) {
  if (!p->wide) {
    for (int64_t k = 0; k < kb; k++) y[k] = dot(panel + k * p->m, x, p->m);
    return;
  }
  double part[LANES][KA_PANEL];
  memset(part, 0, sizeof part);
  for (int64_t j = 0; j < p->m; j++) {
    double *to = part[j % LANES], xj = x[j];
    const double *from = panel + j * kb;
    for (int64_t k = 0; k < kb; k++) to[k] += from[k] * xj;
  }
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int l = 0; l < half; l++)
      for (int64_t k = 0; k < kb; k++) part[l][k] += part[l + half][k];
  memcpy(y, part[0], (size_t)kb * sizeof *y);
}

void ka_panels_norms(const struct ka_panels *p, const struct ka_blas *blas, const double *x,
                     int n_x, double *panel, double *norms) {
  double y[4 * KA_PANEL];
  long double sums[4] = {0};
  for (int64_t k0 = 0; k0 < p->n; k0 += KA_PANEL) {
    int64_t kb = p->n - k0 < KA_PANEL ? p->n - k0 : KA_PANEL;
    ka_panels_load(p, k0, kb, panel);
    if (p->m > LONG_ROW)
      blas->gemm(!p->wide, false, kb, n_x, p->m, panel, p->wide ? kb : p->m, x, p->m, 0, y, kb);
    else
      for (int j = 0; j < n_x; j++) panel_times(p, panel, kb, x + j * p->m, y + j * kb);
    for (int j = 0; j < n_x; j++)
      for (int64_t k = 0; k < kb; k++) sums[j] += (long double)y[j * kb + k] * y[j * kb + k];
  }
  for (int j = 0; j < n_x; j++) norms[j] = (double)sqrtl(sums[j]);
}
