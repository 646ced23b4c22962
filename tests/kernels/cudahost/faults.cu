/* SPDX-License-Identifier: Apache-2.0
 * Wrong programs: each must be reported, with the words that its row has. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "tests/cudahost/cudahost.h"
#include "tests/kernels/cudahost/cases.cuh"
#include "tests/kernels/cudahost/cases.h"

enum { N = 3000 };
static const unsigned ALL = 0xffffffffu;

static __global__ void k_copy(float *y, const float *x, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) y[i] = x[i];
}
static __global__ void k_fill(float *x, float value, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    x[i] = value;
}

/* Runs a kernel that takes an output of 64 floats. */
#define RUN(kernel, block)                                                                         \
  device<float> out(64);                                                                           \
  OK(KA_LAUNCH(kernel, 1, block, 0, nullptr, out.at));                                             \
  OK(cudaDeviceSynchronize());                                                                     \
  return 0

/* --- shared memory ---------------------------------------------------------------------------- */
static __global__ void k_read_too_early(float *out) {
  KA_SHARED(float, part, 64);
  part[threadIdx.x] = 1;
  out[threadIdx.x] = part[63 - threadIdx.x]; /* no barrier before */
}
static int read_too_early() { RUN(k_read_too_early, 64); }

static __global__ void k_write_read(float *out) {
  KA_SHARED(float, part, 64);
  part[threadIdx.x] = 0;
  __syncthreads();
  part[threadIdx.x] = 1;
  out[threadIdx.x] = part[(threadIdx.x + 32) % 64];
}
static int write_read() { RUN(k_write_read, 64); }

static __global__ void k_read_write(float *out) {
  KA_SHARED(float, part, 64);
  part[threadIdx.x] = 0;
  __syncthreads();
  out[threadIdx.x] = part[63 - threadIdx.x];
  part[threadIdx.x] = 2; /* others may still read */
}
static int read_write() { RUN(k_read_write, 64); }

static __global__ void k_write_write(float *out) {
  KA_SHARED(float, part, 1);
  part[0] = static_cast<float>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = part[0];
}
static int write_write() { RUN(k_write_write, 64); }

/* Shuffles do not order memory, and lanes of a warp do not run in step. */
static __global__ void k_shuffle_is_no_barrier(float *out) {
  KA_SHARED(float, part, 32);
  part[threadIdx.x] = 1;
  __syncwarp();
  part[threadIdx.x] = __shfl_sync(ALL, 1.0f, 3);
  __shfl_sync(ALL, 1.0f, 3);
  out[threadIdx.x] = part[31 - threadIdx.x];
}
static int shuffle_is_no_barrier() { RUN(k_shuffle_is_no_barrier, 32); }

static __global__ void k_half_a_syncwarp(float *out) {
  KA_SHARED(float, part, 32);
  part[threadIdx.x] = 0;
  __syncwarp();
  part[threadIdx.x] = 1;
  if (threadIdx.x < 16)
    __syncwarp(0xffffu);
  else
    __syncwarp(0xffff0000u);
  out[threadIdx.x] = part[31 - threadIdx.x]; /* of the other half */
}
static int half_a_syncwarp() { RUN(k_half_a_syncwarp, 32); }

static __global__ void k_atomic_and_plain(float *out) {
  KA_SHARED(int, count, 1);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  atomicAdd(count, 1);
  out[threadIdx.x] = static_cast<float>(count[0]);
}
static int atomic_and_plain() { RUN(k_atomic_and_plain, 64); }

static __global__ void k_never_written(float *out) {
  KA_SHARED(float, part, 64);
  if (threadIdx.x < 63) part[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = part[threadIdx.x];
}
static int never_written() { RUN(k_never_written, 64); }

static __global__ void k_beyond_shared(float *out, int n) {
  KA_SHARED(float, part, 64);
  KA_SHARED(float, other, 64);
  for (int i = static_cast<int>(threadIdx.x); i <= n; i += 64) part[i] = 1;
  other[threadIdx.x] = 2;
  __syncthreads();
  out[threadIdx.x] = part[threadIdx.x] + other[threadIdx.x];
}
static int beyond_shared() {
  device<float> out(64);
  OK(KA_LAUNCH(k_beyond_shared, 1, 64, 0, nullptr, out.at, 64));
  OK(cudaDeviceSynchronize());
  return 0;
}

static __global__ void k_beyond_dynamic(float *out, int n) {
  KA_SHARED_DYNAMIC(float, part);
  part[n] = 1;
  out[0] = part[n];
}
static int beyond_dynamic() {
  device<float> out(64);
  OK(KA_LAUNCH(k_beyond_dynamic, 1, 1, 128, nullptr, out.at, 32));
  OK(cudaDeviceSynchronize());
  return 0;
}

static __global__ void k_too_much_shared(float *out) {
  KA_SHARED(float, a, 6000);
  KA_SHARED(float, b, 6500);
  a[0] = b[0] = 1;
  out[0] = a[0] + b[0];
}
static int too_much_shared() { RUN(k_too_much_shared, 1); }

/* --- cp.async --------------------------------------------------------------------------------- */
template <int KIND> static __global__ void k_async(float *out, const float *in) {
  KA_SHARED(float, part, 64);
  unsigned i = threadIdx.x;
  if (KIND == 2) { /* issued while others still read the last round */
    part[i] = 0;
    __syncthreads();
    if (i == 63) out[i] = part[0];
  }
  cp_async_4(&part[i], in + i + (KIND == 3 ? 64 : 0));
  cp_async_commit();
  if (KIND != 0) cp_async_wait<0>();
  if (KIND != 1) __syncthreads();
  out[i] = part[63 - i];
}
template <int KIND> static int async() {
  device<float> in(64), out(64);
  OK(in.upload());
  OK(KA_LAUNCH(k_async<KIND>, 1, 64, 0, nullptr, out.at, in.at));
  OK(cudaDeviceSynchronize());
  return 0;
}

static __global__ void k_async_misaligned(float *out, const float *in) {
  KA_SHARED(float, part, 64);
  cp_async_16(&part[4 * threadIdx.x], in + 1 + threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = part[threadIdx.x];
}
static int async_misaligned() {
  device<float> in(64), out(64);
  OK(in.upload());
  OK(KA_LAUNCH(k_async_misaligned, 1, 8, 0, nullptr, out.at, in.at));
  OK(cudaDeviceSynchronize());
  return 0;
}

/* --- divergence ------------------------------------------------------------------------------- */
static __global__ void k_divergent_shuffle(float *out) {
  float v = 1;
  if (threadIdx.x % 32 < 16) v = __shfl_xor_sync(ALL, v, 1);
  out[threadIdx.x] = v;
}
static int divergent_shuffle() { RUN(k_divergent_shuffle, 64); }

static __global__ void k_two_shuffles(float *out) {
  float v = static_cast<float>(threadIdx.x);
  if (threadIdx.x % 32 < 16)
    v = __shfl_xor_sync(ALL, v, 1);
  else
    v = __shfl_xor_sync(ALL, v, 2);
  out[threadIdx.x] = v;
}
static int two_shuffles() { RUN(k_two_shuffles, 64); }

static __global__ void k_wrong_mask(float *out) {
  out[threadIdx.x] = __shfl_sync(threadIdx.x < 16 ? 0xffffu : ALL, 1.0f, 0);
}
static int wrong_mask() { RUN(k_wrong_mask, 32); }

static __global__ void k_inactive_source(float *out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 20);
}
static int inactive_source() { RUN(k_inactive_source, 32); }

static __global__ void k_part_of_a_warp(float *out) {
  out[threadIdx.x] = __shfl_sync(ALL, 1.0f, 0);
}
static int part_of_a_warp() { RUN(k_part_of_a_warp, 40); }

static __global__ void k_exit_before_barrier(float *out) {
  if (threadIdx.x >= 60) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
static int exit_before_barrier() { RUN(k_exit_before_barrier, 64); }

static __global__ void k_two_barriers(float *out) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}
static int two_barriers() { RUN(k_two_barriers, 64); }

static __global__ void k_barrier_and_shuffle(float *out) {
  float v = 1;
  if (threadIdx.x == 0)
    __syncthreads();
  else
    v = __shfl_sync(ALL, v, 0);
  out[threadIdx.x] = v;
}
static int barrier_and_shuffle() { RUN(k_barrier_and_shuffle, 32); }

/* --- device memory ---------------------------------------------------------------------------- */
static __global__ void k_read_at(float *out, const float *in, int i) { *out = in[i]; }
static int read_at(const float *in, int i) {
  device<float> out(1);
  OK(KA_LAUNCH(k_read_at, 1, 1, 0, nullptr, out.at, in, i));
  OK(cudaDeviceSynchronize());
  return 0;
}
static int read_beyond() {
  device<float> x(100);
  OK(x.upload());
  return read_at(x.at, 100);
}
static int read_before() {
  device<float> x(100);
  OK(x.upload());
  return read_at(x.at, -1);
}
static int read_unwritten() {
  device<float> x(100);
  OK(cudaMemset(x.at, 0, 99 * sizeof(float)));
  return read_at(x.at, 99);
}
static int read_freed() {
  float *p;
  OK(cudaMalloc(&p, 400));
  OK(cudaMemset(p, 0, 400));
  OK(cudaFree(p));
  return read_at(p, 3);
}
static int read_host_heap() {
  float *p = static_cast<float *>(calloc(10, sizeof(float)));
  return read_at(p, 3);
}
static float host_global[4];
static int read_host_global() { return read_at(host_global, 1); }
static int read_null() { return read_at(nullptr, 1); }

static __global__ void k_write_constant(float *out) { *out = 1; }
static const float read_only[4] = {1, 2, 3, 4};
static int write_read_only() {
  OK(KA_LAUNCH(k_write_constant, 1, 1, 0, nullptr, const_cast<float *>(read_only)));
  OK(cudaDeviceSynchronize());
  return 0;
}

static __global__ void k_misaligned(float4 *out, const float *in) {
  *out = *reinterpret_cast<const float4 *>(in + 1);
}
static int misaligned() {
  device<float> x(100);
  device<float4> out(1);
  OK(x.upload());
  OK(KA_LAUNCH(k_misaligned, 1, 1, 0, nullptr, out.at, x.at));
  OK(cudaDeviceSynchronize());
  return 0;
}

static __global__ void k_local_array(float *out, int i) {
  float local[8];
  for (int j = 0; j < 8; j++) local[j] = out[j];
  out[0] = local[i];
}
static int local_array() {
  device<float> x(100);
  OK(x.upload());
  OK(KA_LAUNCH(k_local_array, 1, 1, 0, nullptr, x.at, 8));
  OK(cudaDeviceSynchronize());
  return 0;
}

/* A thread's local memory is its own. */
static __global__ void k_borrowed(float *out) {
  KA_SHARED(float *, shared, 1);
  float mine = static_cast<float>(threadIdx.x);
  if (threadIdx.x == 0) shared[0] = &mine;
  __syncthreads();
  out[threadIdx.x] = *shared[0] + mine;
  __syncthreads();
}
static int borrowed() { RUN(k_borrowed, 32); }

static __device__ __noinline__ int deep(int n, volatile int *x) {
  volatile int local[1000];
  local[n % 1000] = *x;
  return n ? deep(n - 1, local + n % 1000) + local[n % 1000] : 0;
}
static __global__ void k_deep(float *out) {
  int start = 1;
  out[0] = static_cast<float>(deep(100, &start));
}
static int too_deep() { RUN(k_deep, 1); }

/* Blocks run in any order and at the same time. */
static __global__ void k_blocks_write(float *out) {
  out[threadIdx.x] = static_cast<float>(blockIdx.x);
}
static int blocks_write() {
  device<float> out(32);
  OK(KA_LAUNCH(k_blocks_write, 4, 32, 0, nullptr, out.at));
  OK(cudaDeviceSynchronize());
  return 0;
}
static __global__ void k_blocks_read(float *x) { x[blockIdx.x] = x[(blockIdx.x + 1) % gridDim.x]; }
static int blocks_read() {
  device<float> x(8);
  OK(x.upload());
  OK(KA_LAUNCH(k_blocks_read, 8, 1, 0, nullptr, x.at));
  OK(cudaDeviceSynchronize());
  return 0;
}

static __global__ void k_endless(int *flag) {
  while (atomicAdd(flag, 0) == 0) {
  }
}
static int endless() {
  device<int> flag(1);
  if (!cudahost_set("timeout", "1")) return __LINE__;
  OK(flag.upload());
  OK(KA_LAUNCH(k_endless, 1, 32, 0, nullptr, flag.at));
  OK(cudaDeviceSynchronize());
  return 0;
}

static __global__ void k_assert(float *out, int n) {
  assert(n < 3);
  out[0] = 1;
}
static int failed_assert() {
  device<float> out(1);
  OK(KA_LAUNCH(k_assert, 1, 1, 0, nullptr, out.at, 3));
  OK(cudaDeviceSynchronize());
  return 0;
}

static __global__ void k_trap(float *out) {
  out[threadIdx.x] = 1;
  if (threadIdx.x == 3) __trap();
}
static int trap() { RUN(k_trap, 32); }

/* --- host code -------------------------------------------------------------------------------- */
static int host_reads_device() {
  device<float> x(100);
  return x.at[3] > 0;
}
static int host_writes_device() {
  device<float> x(100);
  OK(cudaDeviceSynchronize());
  x.at[3] = 1;
  return 0;
}

static int host_reads_too_early() {
  device<float> x(N);
  float *to;
  OK(cudaMallocHost(&to, x.bytes));
  OK(KA_LAUNCH(k_fill, 1, 64, 0, nullptr, x.at, 1, N));
  OK(cudaMemcpyAsync(to, x.at, x.bytes, cudaMemcpyDeviceToHost, nullptr));
  return to[N - 1] > 0;
}

static int host_writes_source() {
  device<float> x(N);
  float *from;
  OK(cudaMallocHost(&from, x.bytes));
  from[0] = 1;
  OK(cudaMemcpyAsync(x.at, from, x.bytes, cudaMemcpyHostToDevice, nullptr));
  from[0] = 2;
  return 0;
}

static int host_writes_small_source() { /* a part of a page: found when the copy runs */
  device<float> x(10);
  float *from;
  OK(cudaMallocHost(&from, 2 * x.bytes));
  for (int i = 0; i < 20; i++) from[i] = 1;
  OK(cudaMemcpyAsync(x.at, from, x.bytes, cudaMemcpyHostToDevice, nullptr));
  from[3] = 2;
  OK(cudaDeviceSynchronize());
  return 0;
}

static int missing_stream_wait() {
  cudaStream_t a, b;
  device<float> x(N), y(N);
  OK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
  OK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
  OK(KA_LAUNCH(k_fill, 1, 64, 0, a, x.at, 1, N));
  OK(KA_LAUNCH(k_copy, 1, 64, 0, b, y.at, x.at, N));
  OK(cudaStreamSynchronize(b));
  return 0;
}

/* The event was recorded before the work that it should stand for. */
static int event_too_early() {
  cudaStream_t a, b;
  cudaEvent_t e;
  device<float> x(N), y(N);
  OK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
  OK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
  OK(cudaEventCreate(&e));
  OK(cudaEventRecord(e, a));
  OK(KA_LAUNCH(k_fill, 1, 64, 0, a, x.at, 1, N));
  OK(cudaStreamWaitEvent(b, e, 0));
  OK(KA_LAUNCH(k_copy, 1, 64, 0, b, y.at, x.at, N));
  OK(cudaStreamSynchronize(b));
  return 0;
}

/* A graph whose second branch does not wait for the first. */
static int missing_graph_edge() {
  cudaStream_t a, b;
  cudaEvent_t fork, join;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  device<float> x(N), y(N);
  OK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
  OK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
  OK(cudaEventCreate(&fork));
  OK(cudaEventCreate(&join));
  OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
  OK(cudaEventRecord(fork, a));
  OK(KA_LAUNCH(k_fill, 1, 64, 0, a, x.at, 1, N));
  OK(cudaStreamWaitEvent(b, fork, 0));
  OK(KA_LAUNCH(k_copy, 1, 64, 0, b, y.at, x.at, N));
  OK(cudaEventRecord(join, b));
  OK(cudaStreamWaitEvent(a, join, 0));
  OK(cudaStreamEndCapture(a, &graph));
  OK(cudaGraphInstantiate(&exec, graph, 0));
  OK(cudaGraphLaunch(exec, a));
  OK(cudaStreamSynchronize(a));
  return 0;
}

static int copy_unwritten() {
  device<float> x(N);
  OK(cudaMemset(x.at, 0, x.bytes - 4));
  OK(x.download());
  return 0;
}
static int copy_beyond() {
  device<float> x(N);
  OK(cudaMemset(x.at, 0, x.bytes + 1));
  OK(cudaDeviceSynchronize());
  return 0;
}
static int copy_after_free() {
  device<float> x(N), y(N);
  cudaStream_t a, b;
  OK(x.upload());
  OK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
  OK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
  OK(cudaMemcpyAsync(y.at, x.at, x.bytes, cudaMemcpyDeviceToDevice, a));
  OK(cudaFreeAsync(x.at, b)); /* on a stream that does not wait for the copy */
  OK(cudaStreamSynchronize(b));
  OK(cudaStreamSynchronize(a));
  return 0;
}

static cudaError_t nothing(void *) { return cudaSuccess; }
static int library_reads_unwritten() {
  device<float> x(N), y(N);
  cudahost_range read = {x.at, x.bytes, 1, 0}, write = {y.at, y.bytes, 1, 0};
  OK(cudahost_enqueue(nullptr, "gemm", nothing, nullptr, 0, &read, 1, &write, 1));
  OK(cudaDeviceSynchronize());
  return 0;
}

const struct cudahost_case cudahost_fault_cases[] = {
    {"read_too_early", read_too_early,
     "read before it was written|k_read_too_early|of part|faults.cu", CASE_CHECKED},
    {"write_read", write_read,
     "race on shared|k_write_read|faults.cu|read it|faults.cu|__syncthreads must", CASE_CHECKED},
    {"read_write", read_write, "race on shared|k_read_write|reads|faults.cu|wrote it|faults.cu",
     CASE_CHECKED},
    {"write_write", write_write, "race on shared|writes|wrote it|one warp", CASE_CHECKED},
    {"shuffle_is_no_barrier", shuffle_is_no_barrier, "race on shared|__syncwarp", CASE_CHECKED},
    {"half_a_syncwarp", half_a_syncwarp, "race on shared|__syncwarp", CASE_CHECKED},
    {"atomic_and_plain", atomic_and_plain, "race on shared|atomically|read it", CASE_CHECKED},
    {"never_written", never_written, "read before it was written|thread (63,0,0)", CASE_CHECKED},
    {"beyond_shared", beyond_shared, "k_beyond_shared", CASE_ASAN},
    {"beyond_dynamic", beyond_dynamic, "k_beyond_dynamic", CASE_ASAN},
    {"too_much_shared", too_much_shared, "too much shared memory|k_too_much_shared", 0},
    {"async_no_wait", async<0>, "race on shared|has not waited for", CASE_CHECKED},
    {"async_no_barrier", async<1>, "read before it was written|k_async", CASE_CHECKED},
    {"async_too_soon", async<2>, "race on shared|starts a cp.async|read it", CASE_CHECKED},
    {"async_beyond", async<3>, "beyond device memory|reads 4 bytes", CASE_CHECKED},
    {"async_misaligned", async_misaligned, "cp.async of a misaligned address", 0},
    {"divergent_shuffle", divergent_shuffle, "divergence|k_divergent_shuffle|a shuffle|returned",
     0},
    {"two_shuffles", two_shuffles,
     "divergence: lanes of a warp wait at different|a shuffle|a shuffle", 0},
    {"wrong_mask", wrong_mask, "divergence|returned|a shuffle", 0},
    {"inactive_source", inactive_source, "a shuffle reads lane 20|0000ffff", 0},
    {"part_of_a_warp", part_of_a_warp, "divergence|lanes that the block does not have", 0},
    {"exit_before_barrier", exit_before_barrier, "divergence|returned|__syncthreads", 0},
    {"two_barriers", two_barriers, "divergence|different barriers|__syncthreads|__syncthreads", 0},
    {"barrier_and_shuffle", barrier_and_shuffle, "divergence: no thread|__syncthreads|a shuffle",
     0},
    {"read_beyond", read_beyond, "beyond device memory|k_read_at|faults.cu|byte 400|of 400 bytes",
     CASE_ASAN},
    {"read_before", read_before, "beyond device memory|k_read_at", CASE_ASAN},
    {"read_unwritten", read_unwritten, "read before it was written|k_read_at|byte 396",
     CASE_CHECKED},
    {"read_freed", read_freed, "freed device memory|k_read_at|freed", CASE_ASAN},
    {"read_host_heap", read_host_heap, "device code touches host memory|k_read_at", CASE_CHECKED},
    {"read_host_global", read_host_global, "device code touches host memory|k_read_at",
     CASE_CHECKED},
    {"read_null", read_null, "null pointer|k_read_at", CASE_CHECKED},
    {"write_read_only", write_read_only, "device code touches", CASE_CHECKED},
    {"misaligned", misaligned, "misaligned access|k_misaligned|float4|faults.cu",
     CASE_ASAN | CASE_GCC},
    {"local_array", local_array, "out of bounds|k_local_array|index 8|faults.cu", CASE_ASAN},
    {"borrowed", borrowed, "device code touches|k_borrowed", CASE_CHECKED},
    {"too_deep", too_deep, "bytes of local memory", CASE_CHECKED},
    {"blocks_write", blocks_write, "blocks of one launch|k_blocks_write|writes|wrote it",
     CASE_CHECKED},
    {"blocks_read", blocks_read, "blocks of one launch|k_blocks_read|wrote it", CASE_CHECKED},
    {"endless", endless, "k_endless has run for 1 s", 0},
    {"failed_assert", failed_assert, "assert|n < 3|k_assert|faults.cu", 0},
    {"trap", trap, "trapped|k_trap|thread (3,0,0)|faults.cu", 0},
    {"host_reads_device", host_reads_device, "host code reads device memory|faults.cu|byte 12", 0},
    {"host_writes_device", host_writes_device, "host code writes device memory|faults.cu", 0},
    {"host_reads_too_early", host_reads_too_early,
     "host code reads pinned|cudaMemcpyAsync|faults.cu", 0},
    {"host_writes_source", host_writes_source, "host code writes pinned|has yet to read|faults.cu",
     0},
    {"host_writes_small_source", host_writes_small_source,
     "host changed pinned memory|cudaMemcpyAsync|faults.cu", 0},
    {"missing_stream_wait", missing_stream_wait, "read before it was written|k_copy", CASE_CHECKED},
    {"event_too_early", event_too_early, "read before it was written|k_copy", CASE_CHECKED},
    {"missing_graph_edge", missing_graph_edge, "read before it was written|k_copy", CASE_CHECKED},
    {"copy_unwritten", copy_unwritten, "cudaMemcpy|never written|cases.cuh", CASE_CHECKED},
    {"copy_beyond", copy_beyond, "cudaMemset|beyond the allocation|faults.cu", 0},
    {"copy_after_free", copy_after_free, "cudaMemcpyAsync|freed memory", 0},
    {"library_reads_unwritten", library_reads_unwritten, "gemm|never written", CASE_CHECKED},
    {nullptr, nullptr, nullptr, 0},
};
