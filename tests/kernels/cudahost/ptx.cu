/* SPDX-License-Identifier: Apache-2.0
 * The twins of the PTX instructions, element by element against plain products and copies. The
 * kernels write fragments by the layouts that kernels/cuda/ptx.cuh states; on a GPU the same test
 * checks the instructions themselves. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "tests/kernels/cudahost/cases.cuh"
#include "tests/kernels/cudahost/cases.h"

#include <cuda_bf16.h>

#include <math.h>
#include <string.h>

static __host__ __device__ unsigned pair(const unsigned short *p, const unsigned short *q) {
  return static_cast<unsigned>(*q) << 16 | *p;
}

/* D [16,8] = C + A [16,16] B [16,8], all row-major. */
template <bool BF16>
static __global__ void k_mma_16816(float *d, const unsigned short *a, const unsigned short *b) {
  int g = static_cast<int>(threadIdx.x / 4), t = static_cast<int>(threadIdx.x % 4);
  float acc[4] = {d[g * 8 + 2 * t], d[g * 8 + 2 * t + 1], d[(g + 8) * 8 + 2 * t],
                  d[(g + 8) * 8 + 2 * t + 1]};
  unsigned ra[4], rb[2];
  for (int i = 0; i < 4; i++) {
    const unsigned short *p = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
    ra[i] = pair(p, p + 1);
  }
  for (int i = 0; i < 2; i++) {
    const unsigned short *p = b + (2 * t + 8 * i) * 8 + g;
    rb[i] = pair(p, p + 8);
  }
  if (BF16)
    mma_bf16_16816(acc, ra, rb);
  else
    mma_f16_16816(acc, ra, rb);
  for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = acc[i];
}

static __global__ void k_mma_1688(float *d, const float *a, const float *b) {
  int g = static_cast<int>(threadIdx.x / 4), t = static_cast<int>(threadIdx.x % 4);
  float acc[4] = {d[g * 8 + 2 * t], d[g * 8 + 2 * t + 1], d[(g + 8) * 8 + 2 * t],
                  d[(g + 8) * 8 + 2 * t + 1]};
  unsigned ra[4], rb[2];
  for (int i = 0; i < 4; i++) ra[i] = tf32(a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
  for (int i = 0; i < 2; i++) rb[i] = tf32(b[(t + 4 * i) * 8 + g]);
  mma_tf32_1688(acc, ra, rb);
  for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = acc[i];
}

static float small(int i) { return static_cast<float>(i * 37 % 17 - 8) / 4; }

static int check_product(const float *d, int k, const float *a, const float *b) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++) {
      float want = static_cast<float>(i - j);
      for (int l = 0; l < k; l++) want += a[i * k + l] * b[l * 8 + j];
      CHECK(d[i * 8 + j] == want); /* exact: small multiples of a power of two */
    }
  return 0;
}

/* f16 bits of a small multiple of 1/4. */
static unsigned short f16_bits(float f) {
  unsigned u, sign;
  memcpy(&u, &f, sizeof u);
  sign = u >> 16 & 0x8000;
  if (f == 0) return static_cast<unsigned short>(sign);
  return static_cast<unsigned short>(sign | ((u >> 23 & 255) - 112) << 10 | (u >> 13 & 1023));
}

static int product_16816(bool bf16) {
  device<unsigned short> a(256), b(128);
  device<float> d(128);
  float fa[256], fb[128];
  for (int i = 0; i < 256; i++) {
    fa[i] = small(i);
    a.host[i] = bf16 ? __bfloat16_as_ushort(__float2bfloat16(fa[i])) : f16_bits(fa[i]);
  }
  for (int i = 0; i < 128; i++) {
    fb[i] = small(3 * i + 1);
    b.host[i] = bf16 ? __bfloat16_as_ushort(__float2bfloat16(fb[i])) : f16_bits(fb[i]);
    d.host[i] = static_cast<float>(i / 8 - i % 8);
  }
  OK(a.upload());
  OK(b.upload());
  OK(d.upload());
  if (bf16)
    OK(KA_LAUNCH(k_mma_16816<true>, 1, 32, 0, nullptr, d.at, a.at, b.at));
  else
    OK(KA_LAUNCH(k_mma_16816<false>, 1, 32, 0, nullptr, d.at, a.at, b.at));
  OK(d.download());
  return check_product(d.host, 16, fa, fb);
}
static int mma_bf16() { return product_16816(true); }
static int mma_f16() { return product_16816(false); }

static int mma_tf32() {
  device<float> a(128), b(64), d(128);
  for (int i = 0; i < 128; i++) a.host[i] = small(i), d.host[i] = static_cast<float>(i / 8 - i % 8);
  for (int i = 0; i < 64; i++) b.host[i] = small(5 * i + 2);
  OK(a.upload());
  OK(b.upload());
  OK(d.upload());
  OK(KA_LAUNCH(k_mma_1688, 1, 32, 0, nullptr, d.at, a.at, b.at));
  OK(d.download());
  return check_product(d.host, 8, a.host, b.host);
}

/* Four 8 x 8 matrices of 16-bit elements, rows 16 bytes apart from each other by `pitch`. */
enum { PITCH = 24 }; /* elements: 48 bytes, a multiple of 16 */
template <int N, bool TRANS>
static __global__ void k_ldmatrix(unsigned *out, const unsigned short *in) {
  KA_SHARED(unsigned short[PITCH], m, 32);
  unsigned lane = threadIdx.x, r[N];
  for (int i = 0; i < 8; i++) m[lane][i] = in[lane * 8 + static_cast<unsigned>(i)];
  __syncthreads();
  const void *row = lane < 8 * N ? m[lane] : nullptr; /* the other lanes' addresses do not count */
  if constexpr (N == 1 && !TRANS) ldmatrix_x1(r, row);
  if constexpr (N == 1 && TRANS) ldmatrix_x1_trans(r, row);
  if constexpr (N == 2 && !TRANS) ldmatrix_x2(r, row);
  if constexpr (N == 2 && TRANS) ldmatrix_x2_trans(r, row);
  if constexpr (N == 4 && !TRANS) ldmatrix_x4(r, row);
  if constexpr (N == 4 && TRANS) ldmatrix_x4_trans(r, row);
  for (int i = 0; i < N; i++) out[i * 32 + static_cast<int>(lane)] = r[i];
}

template <int N, bool TRANS> static int load() {
  device<unsigned short> in(256);
  device<unsigned> out(N * 32);
  for (int i = 0; i < 256; i++) in.host[i] = static_cast<unsigned short>(1000 + i);
  OK(in.upload());
  OK(KA_LAUNCH((k_ldmatrix<N, TRANS>), 1, 32, 0, nullptr, out.at, in.at));
  OK(out.download());
  for (int i = 0; i < N * 32; i++) {
    int g = i % 32 / 4, t = i % 4;
    const unsigned short *m = in.host + i / 32 * 64;
    unsigned want = TRANS ? pair(&m[2 * t * 8 + g], &m[(2 * t + 1) * 8 + g])
                          : pair(&m[g * 8 + 2 * t], &m[g * 8 + 2 * t + 1]);
    CHECK(out.host[i] == want);
  }
  return 0;
}

static int ldmatrix() {
  int line = load<1, false>();
  line = line ? line : load<1, true>();
  line = line ? line : load<2, false>();
  line = line ? line : load<2, true>();
  line = line ? line : load<4, false>();
  return line ? line : load<4, true>();
}

static __global__ void k_movmatrix(unsigned *out) {
  unsigned g = threadIdx.x / 4, t = threadIdx.x % 4, first = g * 8 + 2 * t; /* M[i][j] = 8 i + j */
  out[threadIdx.x] = movmatrix_trans((first + 1) << 16 | first);
}

static int movmatrix() {
  device<unsigned> out(32);
  OK(KA_LAUNCH(k_movmatrix, 1, 32, 0, nullptr, out.at));
  OK(out.download());
  for (unsigned l = 0; l < 32; l++) {
    unsigned g = l / 4, t = l % 4;
    CHECK(out.host[l] == (((2 * t + 1) * 8 + g) << 16 | (2 * t * 8 + g)));
  }
  return 0;
}

/* Sums tiles of 128 floats; the next tile is on its way while one is added. */
static __global__ void k_double_buffer(float *out, const float *in, int n_tiles, int n) {
  KA_SHARED(float[128], tile, 2);
  int i = static_cast<int>(threadIdx.x) * 4;
  float sum = 0;
  auto fetch = [&](int k) {
    int left = n - k * 128 - i; /* elements that this thread's 16 bytes still have */
    unsigned bytes = left >= 4 ? 16 : left > 0 ? static_cast<unsigned>(left) * 4 : 0;
    if (k < n_tiles) cp_async_16(&tile[k % 2][i], in + (bytes ? k * 128 + i : 0), bytes);
    cp_async_commit();
  };
  fetch(0);
  for (int k = 0; k < n_tiles; k++) {
    fetch(k + 1);
    cp_async_wait<1>();
    __syncthreads();
    for (int j = 0; j < 4; j++) sum += tile[k % 2][static_cast<int>(threadIdx.x) + 32 * j];
    __syncthreads();
  }
  out[threadIdx.x] = sum;
}

static int double_buffer() {
  const int n_tiles = 5, n = n_tiles * 128 - 27; /* the last tile is filled up with zeros */
  device<float> in(n), out(32);
  float want = 0, sum = 0;
  for (int i = 0; i < n; i++) want += in.host[i] = static_cast<float>(i % 100);
  OK(in.upload());
  OK(KA_LAUNCH(k_double_buffer, 1, 32, 0, nullptr, out.at, in.at, n_tiles, n));
  OK(out.download());
  for (int i = 0; i < 32; i++) sum += out.host[i];
  CHECK(sum == want);
  return 0;
}

static __global__ void k_small_copies(int *out, const int *in) {
  KA_SHARED(int, part, 96);
  unsigned i = threadIdx.x;
  cp_async_4(&part[i], in + i);
  cp_async_8(&part[32 + 2 * i], in + 32 + 2 * i, i < 16 ? 8 : 0);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  for (unsigned j = 0; j < 3; j++) out[3 * i + j] = part[3 * i + j];
}

static int small_copies() {
  device<int> in(96), out(96);
  for (int i = 0; i < 96; i++) in.host[i] = i + 1;
  OK(in.upload());
  OK(KA_LAUNCH(k_small_copies, 1, 32, 0, nullptr, out.at, in.at));
  OK(out.download());
  for (int i = 0; i < 96; i++) CHECK(out.host[i] == (i < 64 ? i + 1 : 0));
  return 0;
}

static __global__ void k_approximations(float *out, const float *in) {
  float x = in[threadIdx.x], *row = out + threadIdx.x * 8;
  row[0] = exp2_approx(x);
  row[1] = log2_approx(fabsf(x));
  row[2] = rcp_approx(x);
  row[3] = rsqrt_approx(fabsf(x));
  row[4] = tanh_approx(x);
  row[5] = __expf(x);
  row[6] = __logf(fabsf(x));
  row[7] = __fdividef(x, 3.0f);
}

static int approximations() {
  device<float> in(32), out(32 * 8);
  for (int i = 0; i < 32; i++) in.host[i] = static_cast<float>(i - 16) * 0.7f + 0.1f;
  OK(in.upload());
  OK(KA_LAUNCH(k_approximations, 1, 32, 0, nullptr, out.at, in.at));
  OK(out.download());
  for (int i = 0; i < 32; i++) {
    double x = in.host[i], y = fabs(x);
    const float *row = out.host + i * 8;
    const double want[] = {exp2(x), log2(y), 1 / x, 1 / sqrt(y), tanh(x), exp(x), log(y), x / 3};
    for (int j = 0; j < 8; j++) {
      double bound = j == 4 ? 1e-3 : 4e-6; /* tanh.approx is good to 11 bits */
      CHECK(fabs(row[j] - want[j]) <= bound * fabs(want[j]) + (j == 1 || j == 6 ? 1e-6 : 0));
    }
  }
  return 0;
}

const struct cudahost_case cudahost_ptx_cases[] = {
    {"mma_bf16", mma_bf16, nullptr, 0},
    {"mma_f16", mma_f16, nullptr, 0},
    {"mma_tf32", mma_tf32, nullptr, 0},
    {"ldmatrix", ldmatrix, nullptr, 0},
    {"movmatrix", movmatrix, nullptr, 0},
    {"double_buffer", double_buffer, nullptr, 0},
    {"small_copies", small_copies, nullptr, 0},
    {"approximations", approximations, nullptr, 0},
    {nullptr, nullptr, nullptr, 0},
};
