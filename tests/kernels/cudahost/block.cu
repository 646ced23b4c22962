/* SPDX-License-Identifier: Apache-2.0
 * Correct kernels: barriers, warp operations, shared memory, atomics, types. They must give the
 * right results in every order, and no report. */
#include "kernels/cuda/launch.cuh"
#include "tests/kernels/cudahost/cases.cuh"
#include "tests/kernels/cudahost/cases.h"

#include <cuda_bf16.h>

enum { N = 1000 };
static const unsigned ALL = 0xffffffffu;

template <typename T> static __global__ void k_axpy(T *y, const T *x, T a, int n) {
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x * blockDim.x))
    y[i] = a * x[i] + y[i];
}

static int grid_stride() {
  device<float> x(N), y(N);
  for (int i = 0; i < N; i++) x.host[i] = static_cast<float>(i), y.host[i] = 1;
  OK(x.upload());
  OK(y.upload());
  OK(KA_LAUNCH((k_axpy<float>), 3, 64, 0, nullptr, y.at, x.at, 2, N)); /* 2 becomes a float */
  OK(y.download());
  for (int i = 0; i < N; i++) CHECK(y.host[i] == 2 * x.host[i] + 1);
  return 0;
}

static __device__ float warp_sum(float v) {
  for (int by = 16; by; by /= 2) v += __shfl_xor_sync(ALL, v, by);
  return v;
}

static __global__ void k_sum(float *out, const __nv_bfloat16 *x, int n) {
  KA_SHARED(float, part, 32);
  float v = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    v += __bfloat162float(x[i]);
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x < 32) {
    v = warp_sum(threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0);
    if (threadIdx.x == 0) atomicAdd(out, v);
  }
}

static int reduction() {
  device<__nv_bfloat16> x(256);
  device<float> out(1);
  for (int i = 0; i < 256; i++) x.host[i] = __float2bfloat16_rn(static_cast<float>(i));
  OK(x.upload());
  OK(cudaMemset(out.at, 0, sizeof(float)));
  OK(KA_LAUNCH(k_sum, 4, 128, 0, nullptr, out.at, x.at, 256));
  OK(out.download());
  CHECK(out.host[0] == 4 * 255 * 128);
  return 0;
}

/* C = A B, tiles of 16 x 16; a row of padding against bank conflicts. */
static __global__ void k_matmul(float *c, const float *a, const float *b, int n) {
  KA_SHARED(float[17], ta, 16);
  KA_SHARED(float[17], tb, 16);
  unsigned x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 16 + y,
           column = blockIdx.x * 16 + x;
  unsigned size = static_cast<unsigned>(n);
  float sum = 0;
  for (unsigned k = 0; k < size; k += 16) {
    ta[y][x] = a[row * size + k + x];
    tb[y][x] = b[(k + y) * size + column];
    __syncthreads();
    for (int i = 0; i < 16; i++) sum += ta[y][i] * tb[i][x];
    __syncthreads();
  }
  c[row * size + column] = sum;
}

static int tiled_matmul() {
  const int n = 48;
  device<float> a(n * n), b(n * n), c(n * n);
  for (int i = 0; i < n * n; i++) {
    a.host[i] = static_cast<float>(i % 7 - 3);
    b.host[i] = static_cast<float>(i % 5 - 2);
  }
  OK(a.upload());
  OK(b.upload());
  OK(KA_LAUNCH(k_matmul, dim3(3, 3), dim3(16, 16), 0, nullptr, c.at, a.at, b.at, n));
  OK(c.download());
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) {
      float want = 0;
      for (int k = 0; k < n; k++) want += a.host[i * n + k] * b.host[k * n + j];
      CHECK(c.host[i * n + j] == want);
    }
  return 0;
}

/* One row of out a lane: what each kind of shuffle brought it. */
enum { N_SHUFFLES = 12 };
static __global__ void k_shuffles(int *out) {
  int lane = static_cast<int>(threadIdx.x % 32), *row = out + threadIdx.x * N_SHUFFLES;
  row[0] = __shfl_sync(ALL, lane, 5);
  row[1] = __shfl_sync(ALL, lane, 37);   /* modulo the width */
  row[2] = __shfl_sync(ALL, lane, 3, 8); /* in segments of 8 */
  row[3] = __shfl_up_sync(ALL, lane, 1);
  row[4] = __shfl_up_sync(ALL, lane, 2, 4);
  row[5] = __shfl_down_sync(ALL, lane, 3);
  row[6] = __shfl_down_sync(ALL, lane, 3, 8);
  row[7] = __shfl_xor_sync(ALL, lane, 1);
  row[8] = __shfl_xor_sync(ALL, lane, 8, 8); /* beyond the segment above: itself; below: allowed */
  row[9] = static_cast<int>(__shfl_sync(ALL, 1e10 * lane, 7) / 1e10);
  row[10] = static_cast<int>(__shfl_sync(ALL, 1ull << lane, 20) >> 16);
  row[11] = static_cast<int>(
      __bfloat162float(__shfl_sync(ALL, __float2bfloat16(static_cast<float>(lane) + 0.5f), 9)) * 2);
}

static int shuffles() {
  device<int> out(64 * N_SHUFFLES);
  OK(KA_LAUNCH(k_shuffles, 1, 64, 0, nullptr, out.at));
  OK(out.download());
  for (int thread = 0; thread < 64; thread++) {
    const int l = thread % 32, *row = out.host + thread * N_SHUFFLES;
    CHECK(row[0] == 5 && row[1] == 5 && row[2] == l / 8 * 8 + 3);
    CHECK(row[3] == (l ? l - 1 : 0) && row[4] == (l % 4 < 2 ? l : l - 2));
    CHECK(row[5] == (l + 3 > 31 ? l : l + 3) && row[6] == (l % 8 + 3 > 7 ? l : l + 3));
    CHECK(row[7] == (l ^ 1) && row[8] == ((l ^ 8) > l / 8 * 8 + 7 ? l : (l ^ 8)));
    CHECK(row[9] == 7 && row[10] == 16 && row[11] == 19);
  }
  return 0;
}

static __global__ void k_votes(unsigned *out) {
  int lane = static_cast<int>(threadIdx.x);
  unsigned low = 0x0000ffffu, *row = out + threadIdx.x * 12;
  row[0] = __ballot_sync(ALL, lane % 3 == 0);
  row[1] = static_cast<unsigned>(__any_sync(ALL, lane == 31));
  row[2] = static_cast<unsigned>(__all_sync(ALL, lane < 31));
  row[3] = __match_any_sync(ALL, lane / 4);
  row[4] = static_cast<unsigned>(__reduce_add_sync(ALL, lane));
  row[5] = __reduce_max_sync(ALL, threadIdx.x ^ 21u);
  row[6] = __reduce_or_sync(ALL, 1u << lane);
  row[7] = static_cast<unsigned>(__reduce_min_sync(ALL, 5 - lane) + 100);
  row[8] = 0;
  if (lane < 16) row[8] = __ballot_sync(low, lane & 1); /* half a warp by itself */
  row[9] = static_cast<unsigned>(__syncthreads_count(lane < 7));
  row[10] = static_cast<unsigned>(__syncthreads_or(lane == 40) * 2 + __syncthreads_and(lane < 32));
  row[11] = static_cast<unsigned>(__popc(__ballot_sync(ALL, 1)) + __clz(1) + __ffs(8));
}

static int votes() {
  device<unsigned> out(32 * 12);
  OK(KA_LAUNCH(k_votes, 1, 32, 0, nullptr, out.at));
  OK(out.download());
  for (unsigned l = 0; l < 32; l++) {
    const unsigned *row = out.host + l * 12;
    CHECK(row[0] == 0x49249249u && row[1] == 1 && row[2] == 0 && row[3] == 0xfu << l / 4 * 4);
    CHECK(row[4] == 496 && row[5] == 31 && row[6] == ALL && row[7] == 74);
    CHECK(row[8] == (l < 16 ? 0xaaaau : 0) && row[9] == 7 && row[10] == 1 &&
          row[11] == 32 + 31 + 4);
  }
  return 0;
}

/* Each warp for itself, ordered by __syncwarp only: a transpose through shared memory. */
static __global__ void k_syncwarp(int *out) {
  KA_SHARED(int[32], tile, 4);
  unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int round = 0; round < 3; round++) {
    tile[warp][lane] = static_cast<int>(lane) * (round + 1);
    __syncwarp();
    out[threadIdx.x] = tile[warp][31 - lane];
    __syncwarp();
  }
  if (lane < 8) { /* a part of a warp */
    tile[warp][lane] = 7;
    __syncwarp(0xffu);
    out[threadIdx.x] += tile[warp][lane ^ 1];
  }
}

static int syncwarp() {
  device<int> out(128);
  OK(KA_LAUNCH(k_syncwarp, 1, 128, 0, nullptr, out.at));
  OK(out.download());
  for (int i = 0; i < 128; i++) CHECK(out.host[i] == (31 - i % 32) * 3 + (i % 32 < 8 ? 7 : 0));
  return 0;
}

struct totals {
  int add, max, min, last, cas;
  unsigned bits, wrapped;
  unsigned long long big;
  float f;
  double d;
  __nv_bfloat16 half;
};
static __global__ void k_atomics(totals *t) {
  KA_SHARED(int, count, 1);
  int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  atomicAdd(count, 1);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(&t->add, count[0]);
  atomicMax(&t->max, i);
  atomicMin(&t->min, -i);
  atomicExch(&t->last, 5);
  atomicOr(&t->bits, 1u << i % 32);
  atomicInc(&t->wrapped, 99);
  atomicAdd(&t->big, 1ull << 33);
  atomicAdd(&t->f, 0.5f);
  atomicAdd(&t->d, 0.25);
  if (i < 4) atomicAdd(&t->half, __float2bfloat16(1));
  for (int old = 0, seen; (seen = atomicCAS(&t->cas, old, old + 1)) != old;) old = seen;
}

static int atomics() {
  device<totals> t(1);
  OK(cudaMemset(t.at, 0, sizeof(totals)));
  OK(KA_LAUNCH(k_atomics, 4, 96, 0, nullptr, t.at));
  OK(t.download());
  const totals &h = *t.host;
  CHECK(h.add == 384 && h.max == 383 && h.min == -383 && h.last == 5 && h.cas == 384);
  CHECK(h.bits == ALL && h.wrapped == 84 && h.big == 384ull << 33);
  CHECK(h.f == 192 && h.d == 96 && __bfloat162float(h.half) == 4);
  return 0;
}

/* The last block to arrive adds up what the others left. */
static __global__ void k_last_block(float *total, float *part, unsigned *arrived) {
  KA_SHARED(bool, last, 1);
  if (threadIdx.x == 0) {
    part[blockIdx.x] = static_cast<float>(blockIdx.x);
    __threadfence();
    last[0] = atomicAdd(arrived, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last[0] && threadIdx.x == 0) {
    float sum = 0;
    for (unsigned i = 0; i < gridDim.x; i++) sum += part[i];
    *total = sum;
  }
}

static int last_block() {
  device<float> total(1), part(40);
  device<unsigned> arrived(1);
  OK(cudaMemset(arrived.at, 0, 4));
  OK(KA_LAUNCH(k_last_block, 40, 64, 0, nullptr, total.at, part.at, arrived.at));
  OK(total.download());
  CHECK(total.host[0] == 39 * 20);
  return 0;
}

static __global__ void k_dynamic(int *out, int n) {
  KA_SHARED_DYNAMIC(int, space);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 32) space[i] = i;
  __syncthreads();
  if (threadIdx.x == 0) *out = space[n - 1] + space[0];
}

static int dynamic_shared() {
  device<int> out(1);
  const int n = 40000; /* 160,000 bytes */
  OK(KA_LAUNCH(k_dynamic, 1, 32, 400, nullptr, out.at, 100));
  OK(out.download());
  CHECK(out.host[0] == 99);
  CHECK(KA_LAUNCH(k_dynamic, 1, 32, n * 4, nullptr, out.at, n) == cudaErrorInvalidValue);
  OK(cudaFuncSetAttribute(k_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, n * 4));
  OK(KA_LAUNCH(k_dynamic, 1, 32, n * 4, nullptr, out.at, n));
  OK(out.download());
  CHECK(out.host[0] == n - 1);
  CHECK(cudaFuncSetAttribute(k_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10) ==
        cudaErrorInvalidValue);
  return 0;
}

__constant__ float coefficients[4] = {1, 2, 3, 4};
static __device__ const float table[3] = {10, 20, 30};
struct by_value {
  float f[9];
  int n;
};
static __global__ void k_constants(float *out, by_value v) {
  int i = static_cast<int>(threadIdx.x);
  float local[9];
  for (int j = 0; j < v.n; j++) local[j] = v.f[j] * 2;
  out[i] = coefficients[i % 4] + table[i % 3] + local[i % 9];
}

static int constants() {
  device<float> out(32);
  by_value v = {{0, 1, 2, 3, 4, 5, 6, 7, 8}, 9};
  float more[2] = {5, 6};
  OK(cudaMemcpyToSymbol(coefficients, more, sizeof more, 2 * sizeof(float)));
  OK(KA_LAUNCH(k_constants, 1, 32, 0, nullptr, out.at, v));
  v.f[0] = 99; /* the launch has its own copy */
  OK(out.download());
  const float c[] = {1, 2, 5, 6};
  for (int i = 0; i < 32; i++)
    CHECK(out.host[i] == c[i % 4] + static_cast<float>(10 * (i % 3 + 1) + 2 * (i % 9)));
  return 0;
}

static __global__ void k_vectors(float4 *out, const float4 *a, const double2 *b, const ushort4 *c) {
  unsigned i = threadIdx.x;
  float4 v = a[i];
  double2 d = b[i];
  ushort4 u = c[i];
  out[i] =
      make_float4(v.x + u.w, v.y + static_cast<float>(d.x), v.z * 2, v.w + static_cast<float>(d.y));
}

static int vectors() {
  device<float4> a(32), out(32);
  device<double2> b(32);
  device<ushort4> c(32);
  CHECK(alignof(float4) == 16 && alignof(float2) == 8 && alignof(ushort4) == 8 &&
        sizeof(float3) == 12);
  for (int i = 0; i < 32; i++) {
    float f = static_cast<float>(i);
    a.host[i] = make_float4(f, f, f, f);
    b.host[i] = make_double2(i, -i);
    c.host[i] = make_ushort4(0, 0, 0, 7);
  }
  OK(a.upload());
  OK(b.upload());
  OK(c.upload());
  OK(KA_LAUNCH(k_vectors, 1, 32, 0, nullptr, out.at, a.at, b.at, c.at));
  OK(out.download());
  for (int i = 0; i < 32; i++) {
    float f = static_cast<float>(i);
    float4 o = out.host[i];
    CHECK(o.x == f + 7 && o.y == 2 * f && o.z == 2 * f && o.w == 0);
  }
  return 0;
}

/* Threads of a block wait for each other through an atomic: allowed, if slow. */
static __global__ void k_spin(int *flag, int *out) {
  if (threadIdx.x == 0)
    while (atomicAdd(flag, 0) == 0) {
    }
  if (threadIdx.x == 63) atomicExch(flag, 1);
  out[threadIdx.x] = 1;
}

static int spinning() {
  device<int> flag(1), out(64);
  OK(cudaMemset(flag.at, 0, 4));
  OK(KA_LAUNCH(k_spin, 1, 64, 0, nullptr, flag.at, out.at));
  OK(out.download());
  for (int i = 0; i < 64; i++) CHECK(out.host[i] == 1);
  return 0;
}

static __global__ void k_where(uint4 *out) {
  unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] =
      make_uint4(thread, block, threads, gridDim.x * gridDim.y * gridDim.z);
}

static int indices() {
  device<uint4> out(24 * 30);
  OK(KA_LAUNCH(k_where, dim3(5, 3, 2), dim3(4, 3, 2), 0, nullptr, out.at));
  OK(out.download());
  for (unsigned i = 0; i < 24 * 30; i++) {
    uint4 o = out.host[i];
    CHECK(o.x == i % 24 && o.y == i / 24 && o.z == 24 && o.w == 30);
  }
  return 0;
}

static __global__ void k_bf16(float2 *out) {
  *out = __bfloat1622float2(
      __hfma2(__floats2bfloat162_rn(1, 2), __float2bfloat162_rn(3), __float2bfloat162_rn(0.5f)));
}

static int bf16() {
  for (unsigned u = 0; u < 0x10000; u++) { /* through float and back */
    __nv_bfloat16 h = __ushort_as_bfloat16(static_cast<unsigned short>(u));
    float f = __bfloat162float(h);
    CHECK(f != f || __bfloat16_as_ushort(__float2bfloat16_rn(f)) == u);
  }
  CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(0x1.01p0f)) == 0x3f80); /* a tie goes to even */
  CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(0x1.03p0f)) == 0x3f82);
  CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(0x1.010002p0f)) == 0x3f81);
  CHECK(__bfloat16_as_ushort(__float2bfloat16_rz(0x1.01fffep0f)) == 0x3f80);
  CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(3.4e38f)) == 0x7f80);
  CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(nanf(""))) == 0x7fff);
  CHECK(__bfloat16_as_ushort(__double2bfloat16(0x1.0100000001p0)) == 0x3f81); /* rounds once */
  device<float2> out(1);
  OK(KA_LAUNCH(k_bf16, 1, 1, 0, nullptr, out.at));
  OK(out.download());
  CHECK(out.host[0].x == 3.5f && out.host[0].y == 6.5f);
  return 0;
}

const struct cudahost_case cudahost_block_cases[] = {
    {"grid_stride", grid_stride, nullptr, 0},
    {"reduction", reduction, nullptr, 0},
    {"tiled_matmul", tiled_matmul, nullptr, 0},
    {"shuffles", shuffles, nullptr, 0},
    {"votes", votes, nullptr, 0},
    {"syncwarp", syncwarp, nullptr, 0},
    {"atomics", atomics, nullptr, 0},
    {"last_block", last_block, nullptr, 0},
    {"dynamic_shared", dynamic_shared, nullptr, 0},
    {"constants", constants, nullptr, 0},
    {"vectors", vectors, nullptr, 0},
    {"spinning", spinning, nullptr, CASE_CHECKED},
    {"indices", indices, nullptr, 0},
    {"bf16", bf16, nullptr, 0},
    {nullptr, nullptr, nullptr, 0},
};
