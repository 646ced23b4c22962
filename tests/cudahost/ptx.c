/* SPDX-License-Identifier: Apache-2.0
 *
 * Twins of the warp-wide PTX instructions: matrix products, loads and transposes of 8 x 8 matrices.
 * The comment in kernels/cuda/ptx.cuh says which lane holds which element. Products are summed in
 * double and rounded once, which is at least as exact as the hardware. */
#include "tests/cudahost/internal.h"

#include <math.h>
#include <string.h>

static const unsigned everybody = 0xffffffffu;

static float from_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

/* --- mma -------------------------------------------------------------------------------------- */
struct mma {
  float *d;
  const unsigned *a, *b;
};

static double bf16(unsigned x) { return from_bits(x << 16); }
static double f16(unsigned x) {
  unsigned e = x >> 10 & 31, m = x & 1023;
  double v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, (int)e - 25) : ldexp(m, -24);
  return x & 0x8000 ? -v : v;
}
static double tf32(unsigned x) { return from_bits(x & ~0x1fffu); }

static float *element(void *lane[32], int row, int column) { /* of D */
  struct mma *m = lane[row % 8 * 4 + column / 2];
  return &m->d[row / 8 * 2 + column % 2];
}

/* D += A B over the registers of all lanes: A is 16 x k, B is k x 8; `per` elements to a register.
 */
static void product(void *lane[32], int k, int per, double (*value)(unsigned)) {
  double a[16][16], b[16][8];
  unsigned mask = per == 2 ? 0xffffu : ~0u;
  for (int l = 0; l < 32; l++) {
    const struct mma *m = lane[l];
    int g = l / 4, t = l % 4;
    for (int i = 0; i < 4 * per; i++) /* registers: rows g, g+8, then the same of the right half */
      a[g + i / per % 2 * 8][per * t + i % per + i / per / 2 * (k / 2)] =
          value(m->a[i / per] >> 16 * (i % per) & mask);
    for (int i = 0; i < 2 * per; i++)
      b[per * t + i % per + i / per * (k / 2)][g] = value(m->b[i / per] >> 16 * (i % per) & mask);
  }
  for (int row = 0; row < 16; row++) {
    double sum[8];
    for (int i = 0; i < 8; i++) sum[i] = *element(lane, row, i);
    for (int j = 0; j < k; j++)
      for (int i = 0; i < 8; i++) sum[i] += a[row][j] * b[j][i];
    for (int i = 0; i < 8; i++) *element(lane, row, i) = (float)sum[i];
  }
}

static void run_bf16(void *lane[32], unsigned mask) { (void)mask, product(lane, 16, 2, bf16); }
static void run_f16(void *lane[32], unsigned mask) { (void)mask, product(lane, 16, 2, f16); }
static void run_tf32(void *lane[32], unsigned mask) { (void)mask, product(lane, 8, 1, tf32); }

void cudahost_mma(enum cudahost_mma_kind kind, float d[4], const unsigned a[4], const unsigned b[2],
                  struct cudahost_site site) {
  static const struct cudahost_warp_op ops[] = {{"mma.m16n8k16.bf16", run_bf16, false},
                                                {"mma.m16n8k16.f16", run_f16, false},
                                                {"mma.m16n8k8.tf32", run_tf32, false}};
  cudahost_warp(&ops[kind], everybody, &(struct mma){d, a, b}, site);
}

/* --- 8 x 8 matrices of 16-bit elements -------------------------------------------------------- */
typedef uint16_t matrix[8][8];

static void fragment(unsigned *r, const matrix m, int lane, bool transposed) {
  int g = lane / 4, t = lane % 4;
  unsigned low = transposed ? m[2 * t][g] : m[g][2 * t];
  unsigned high = transposed ? m[2 * t + 1][g] : m[g][2 * t + 1];
  *r = high << 16 | low;
}

struct ldmatrix {
  unsigned *r;
  const void *row;
  int n;
  bool transposed;
};

static void run_ldmatrix(void *lane[32], unsigned mask) {
  const struct ldmatrix *first = lane[0];
  (void)mask;
  for (int i = 0; i < first->n; i++) {
    matrix m;
    for (int j = 0; j < 8; j++)
      memcpy(m[j], ((struct ldmatrix *)lane[8 * i + j])->row, sizeof m[j]);
    for (int l = 0; l < 32; l++)
      fragment(&((struct ldmatrix *)lane[l])->r[i], m, l, first->transposed);
  }
}

/* Rows are checked by the lanes that name them, so that reports blame the right one. */
void cudahost_ldmatrix(unsigned *r, const void *row, int n, bool transposed,
                       struct cudahost_site site) {
  static const struct cudahost_warp_op op = {"ldmatrix", run_ldmatrix, false};
  struct ch_fibre *f = ch_now;
  if ((int)f->lane < 8 * n) {
    if ((uintptr_t)row % 16 || (uintptr_t)row - (uintptr_t)f->worker->arena >= CH_SHARED_ARENA) {
      ch_report(
          "ldmatrix of a row at %p, which is not a multiple of 16 in shared memory\n    at %s:%d\n",
          row, site.file, site.line);
      ch_fault(cudaErrorMisalignedAddress);
    }
    cudahost_touch(row, 16, CUDAHOST_READ, __builtin_return_address(0));
  }
  cudahost_warp(&op, everybody, &(struct ldmatrix){r, row, n, transposed}, site);
}

struct movmatrix {
  unsigned a, r;
};
static void run_movmatrix(void *lane[32], unsigned mask) {
  matrix m;
  (void)mask;
  for (int l = 0; l < 32; l++) memcpy(&m[l / 4][2 * (l % 4)], &((struct movmatrix *)lane[l])->a, 4);
  for (int l = 0; l < 32; l++) fragment(&((struct movmatrix *)lane[l])->r, m, l, true);
}

unsigned cudahost_movmatrix(unsigned a, struct cudahost_site site) {
  static const struct cudahost_warp_op op = {"movmatrix", run_movmatrix, false};
  struct movmatrix lane = {a, 0};
  cudahost_warp(&op, everybody, &lane, site);
  return lane.r;
}
