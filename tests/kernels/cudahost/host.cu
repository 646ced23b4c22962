/* SPDX-License-Identifier: Apache-2.0
 * Correct host code: streams, events, copies, graphs, planted failures, counters. */
#include "kernels/cuda/launch.cuh"
#include "tests/cudahost/cudahost.h"
#include "tests/kernels/cudahost/cases.cuh"
#include "tests/kernels/cudahost/cases.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { N = 3000 }; /* floats: more than two pages */

static __global__ void k_fill(float *x, float value, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    x[i] = value;
}
static __global__ void k_add(float *y, const float *a, const float *b, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    y[i] = a[i] + b[i];
}
static __global__ void k_scale(float *x, float by, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) x[i] *= by;
}

struct streams {
  cudaStream_t a, b;
  cudaEvent_t event, other;
  streams() {
    if (cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking) ||
        cudaStreamCreateWithPriority(&b, cudaStreamNonBlocking, -1) ||
        cudaEventCreateWithFlags(&event, cudaEventDisableTiming) || cudaEventCreate(&other))
      abort();
  }
  ~streams() {
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
    cudaEventDestroy(event);
    cudaEventDestroy(other);
  }
};

/* Produced on one stream, used on the other, copied back by the first. */
static int two_streams() {
  streams s;
  device<float> x(N), y(N), z(N);
  OK(KA_LAUNCH(k_fill, 1, 128, 0, s.a, x.at, 3, N));
  OK(cudaEventRecord(s.event, s.a));
  OK(KA_LAUNCH(k_fill, 1, 128, 0, s.b, y.at, 4, N));
  OK(cudaStreamWaitEvent(s.b, s.event, 0));
  OK(KA_LAUNCH(k_add, 1, 128, 0, s.b, z.at, x.at, y.at, N));
  OK(cudaEventRecord(s.event, s.b));
  OK(cudaStreamWaitEvent(s.a, s.event, 0));
  OK(KA_LAUNCH(k_scale, 1, 128, 0, s.a, z.at, 2, N));
  OK(cudaMemcpyAsync(z.host, z.at, z.bytes, cudaMemcpyDeviceToHost, s.a)); /* pageable: waits */
  for (int i = 0; i < N; i++) CHECK(z.host[i] == 14);
  return 0;
}

static int pinned_copies() {
  streams s;
  device<float> x(N);
  float *from, *to, ms = -1;
  OK(cudaMallocHost(&from, N * sizeof(float)));
  OK(cudaHostAlloc(&to, N * sizeof(float), cudaHostAllocDefault));
  for (int i = 0; i < N; i++) from[i] = static_cast<float>(i), to[i] = -1;
  OK(cudaEventRecord(s.other, s.a));
  OK(cudaMemcpyAsync(x.at, from, x.bytes, cudaMemcpyHostToDevice, s.a));
  OK(KA_LAUNCH(k_scale, 1, 64, 0, s.a, x.at, 2, N));
  OK(cudaMemcpyAsync(to, x.at, x.bytes, cudaMemcpyDeviceToHost, s.a));
  cudaEvent_t end;
  OK(cudaEventCreate(&end));
  OK(cudaEventRecord(end, s.a));
  CHECK(from[7] == 7); /* reading the source is allowed all the time */
  int polls = 0;
  for (cudaError_t e; (e = cudaEventQuery(end)) != cudaSuccess; polls++)
    CHECK(e == cudaErrorNotReady);
  for (int i = 0; i < N; i++) CHECK(to[i] == static_cast<float>(2 * i));
  OK(cudaEventElapsedTime(&ms, s.other, end));
  CHECK(ms >= 0);
  from[0] = 1;                                            /* and writing it now */
  OK(KA_LAUNCH(k_add, 1, 64, 0, s.a, x.at, from, to, N)); /* kernels may use pinned memory */
  OK(cudaStreamSynchronize(s.a));
  OK(x.download());
  CHECK(x.host[0] == 1 && x.host[N - 1] == 3 * (N - 1));
  OK(cudaFreeHost(from));
  OK(cudaFreeHost(to));
  OK(cudaEventDestroy(end));
  return 0;
}

/* A small destination shares its page with other things: read too early it is NaN, not old. */
static int early_read_is_nan() {
  device<float> x(4);
  float *pinned;
  OK(cudaMallocHost(&pinned, 64));
  for (int i = 0; i < 16; i++) pinned[i] = 7;
  OK(x.upload());
  OK(cudaMemcpyAsync(pinned + 4, x.at, x.bytes, cudaMemcpyDeviceToHost, nullptr));
  float early = pinned[4];
  OK(cudaDeviceSynchronize());
  CHECK(pinned[3] == 7 && pinned[4] == 0 && pinned[7] == 0 && pinned[8] == 7);
  CHECK(early != early || early == 0); /* eager: it is there already; never the old 7 */
  OK(cudaMemcpyAsync(pinned + 8, pinned, 16, cudaMemcpyHostToHost, nullptr)); /* pinned both ways */
  OK(cudaDeviceSynchronize());
  pinned[8] = pinned[0] = 1;
  OK(cudaDeviceSynchronize());
  OK(cudaFreeHost(pinned));
  return 0;
}

static int registered_memory() {
  float *x = static_cast<float *>(calloc(N, sizeof(float)));
  void *same;
  cudaPointerAttributes at;
  OK(cudaPointerGetAttributes(&at, x));
  CHECK(at.type == cudaMemoryTypeUnregistered);
  OK(cudaHostRegister(x, N * sizeof(float), cudaHostRegisterDefault));
  CHECK(cudaHostRegister(x, 4, 0) == cudaErrorHostMemoryAlreadyRegistered);
  OK(cudaHostGetDevicePointer(&same, x, 0));
  CHECK(same == x);
  OK(cudaPointerGetAttributes(&at, x));
  CHECK(at.type == cudaMemoryTypeHost);
  OK(KA_LAUNCH(k_fill, 1, 64, 0, nullptr, x, 5, N));
  OK(cudaDeviceSynchronize());
  CHECK(x[0] == 5 && x[N - 1] == 5);
  OK(cudaHostUnregister(x));
  CHECK(cudaHostUnregister(x) == cudaErrorHostMemoryNotRegistered);
  free(x);
  return 0;
}

static int copies_2d() {
  device<int> x(10 * 8);
  int in[6 * 5], out[6 * 5] = {0};
  for (int i = 0; i < 30; i++) in[i] = i;
  OK(cudaMemset2DAsync(x.at, 8 * sizeof(int), 0, 8 * sizeof(int), 10, nullptr));
  OK(cudaMemcpy2DAsync(x.at + 8 + 1, 8 * sizeof(int), in, 5 * sizeof(int), 5 * sizeof(int), 6,
                       cudaMemcpyHostToDevice, nullptr));
  for (int i = 0; i < 30; i++) in[i] = -1; /* pageable: taken at the call */
  OK(x.download());
  for (int i = 0; i < 80; i++) {
    int row = i / 8 - 1, column = i % 8 - 1;
    bool inside = row >= 0 && row < 6 && column >= 0 && column < 5;
    CHECK(x.host[i] == (inside ? row * 5 + column : 0));
  }
  OK(cudaMemcpy2D(out, 5 * sizeof(int), x.at + 9, 8 * sizeof(int), 5 * sizeof(int), 6,
                  cudaMemcpyDefault));
  for (int i = 0; i < 30; i++) CHECK(out[i] == i);
  CHECK(cudaMemcpy2D(out, 4, x.at, 8, 8, 1, cudaMemcpyDefault) == cudaErrorInvalidPitchValue);
  CHECK(cudaMemcpy(out, x.at, 8, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  return 0;
}

static void add_ten(void *user) { *static_cast<int *>(user) += 10; }
static void call_back(void *user) { *static_cast<cudaError_t *>(user) = cudaDeviceSynchronize(); }

static int host_functions() {
  streams s;
  int n = 1;
  cudaError_t inside = cudaSuccess;
  OK(cudaLaunchHostFunc(s.a, add_ten, &n));
  OK(cudaLaunchHostFunc(s.a, call_back, &inside));
  OK(cudaStreamSynchronize(s.a));
  CHECK(n == 11 && inside == cudaErrorNotPermitted);
  return 0;
}

/* The legacy stream waits for blocking streams, and they for it. */
static int legacy_stream() {
  cudaStream_t blocking;
  device<float> x(N);
  OK(cudaStreamCreate(&blocking));
  OK(KA_LAUNCH(k_fill, 1, 64, 0, blocking, x.at, 1, N));
  OK(KA_LAUNCH(k_scale, 1, 64, 0, nullptr, x.at, 3, N));
  OK(KA_LAUNCH(k_scale, 1, 64, 0, blocking, x.at, 5, N));
  OK(cudaMemcpy(x.host, x.at, x.bytes, cudaMemcpyDeviceToHost));
  CHECK(x.host[0] == 15 && x.host[N - 1] == 15);
  OK(cudaStreamDestroy(blocking));
  CHECK(cudaStreamSynchronize(blocking) == cudaErrorInvalidResourceHandle);
  CHECK(cudaGetLastError() == cudaErrorInvalidResourceHandle && cudaGetLastError() == cudaSuccess);
  return 0;
}

/* --- graphs ----------------------------------------------------------------------------------- */
/* x = 3 on a; y = 4 on b; z = x + y on a after both; captured from a. */
static int capture(const streams &s, cudaGraph_t *graph, float *x, float *y, float *z,
                   float value) {
  cudaStreamCaptureStatus status;
  OK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal));
  OK(KA_LAUNCH(k_fill, 1, 64, 0, s.a, x, value, N));
  OK(cudaEventRecord(s.event, s.a));
  OK(cudaStreamWaitEvent(s.b, s.event, 0));
  OK(cudaStreamIsCapturing(s.b, &status));
  CHECK(status == cudaStreamCaptureStatusActive);
  OK(KA_LAUNCH(k_fill, 1, 64, 0, s.b, y, 4, N));
  OK(cudaEventRecord(s.other, s.b));
  OK(cudaStreamWaitEvent(s.a, s.other, 0));
  OK(KA_LAUNCH(k_add, 1, 64, 0, s.a, z, x, y, N));
  OK(cudaMemsetAsync(y, 0, 4, s.a));
  OK(cudaStreamEndCapture(s.a, graph));
  return 0;
}

static int graphs() {
  streams s;
  device<float> x(N), y(N), z(N);
  cudaGraph_t graph, second;
  cudaGraphExec_t exec;
  cudaGraphExecUpdateResultInfo info;
  cudahost_counters before, after;
  size_t n_nodes = 0;
  CHECK(capture(s, &graph, x.at, y.at, z.at, 3) == 0);
  OK(cudaGraphGetNodes(graph, nullptr, &n_nodes));
  CHECK(n_nodes == 4);
  OK(cudaGraphInstantiate(&exec, graph, 0));
  OK(cudaGraphDestroy(graph)); /* the instance lives on */
  cudahost_count(&before);
  for (int i = 0; i < 2; i++) {
    OK(cudaGraphLaunch(exec, s.a));
    OK(cudaStreamSynchronize(s.a));
    OK(z.download());
    for (int j = 0; j < N; j++) CHECK(z.host[j] == 7);
  }
  cudahost_count(&after);
  CHECK(after.graph_launches - before.graph_launches == 2 && after.launches == before.launches);
  CHECK(capture(s, &second, x.at, y.at, z.at, 5) == 0);
  OK(cudaGraphExecUpdate(exec, second, &info));
  OK(cudaGraphDestroy(second));
  OK(cudaGraphLaunch(exec, s.b));
  OK(cudaStreamSynchronize(s.b));
  OK(z.download());
  CHECK(z.host[0] == 9);
  OK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal));
  OK(KA_LAUNCH(k_fill, 1, 64, 0, s.a, x.at, 1, N));
  OK(cudaStreamEndCapture(s.a, &second));
  CHECK(cudaGraphExecUpdate(exec, second, &info) == cudaErrorGraphExecUpdateFailure);
  CHECK(info.result == cudaGraphExecUpdateErrorTopologyChanged);
  OK(cudaGraphDestroy(second));
  OK(cudaGraphExecDestroy(exec));
  return 0;
}

/* A pinned source may change between launches of a graph, not while one is in flight. */
static int graph_copies() {
  streams s;
  device<float> x(N);
  float *pinned;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  OK(cudaMallocHost(&pinned, x.bytes));
  OK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeThreadLocal));
  OK(cudaMemcpyAsync(x.at, pinned, x.bytes, cudaMemcpyHostToDevice, s.a));
  OK(KA_LAUNCH(k_scale, 1, 64, 0, s.a, x.at, 2, N));
  OK(cudaMemcpyAsync(pinned, x.at, x.bytes, cudaMemcpyDeviceToHost, s.a));
  OK(cudaStreamEndCapture(s.a, &graph));
  OK(cudaGraphInstantiate(&exec, graph, 0));
  for (int round = 1; round < 4; round++) {
    for (int i = 0; i < N; i++) pinned[i] = static_cast<float>(round);
    OK(cudaGraphLaunch(exec, s.a));
    OK(cudaStreamSynchronize(s.a));
    CHECK(pinned[0] == static_cast<float>(2 * round) && pinned[N - 1] == pinned[0]);
  }
  OK(cudaGraphExecDestroy(exec));
  OK(cudaGraphDestroy(graph));
  OK(cudaFreeHost(pinned));
  return 0;
}

/* What a capture forbids gives its error and spoils the capture; afterwards all is well again. */
static int spoiled(const streams &s, cudaError_t got, cudaError_t wanted) {
  cudaGraph_t graph;
  cudaStreamCaptureStatus status;
  CHECK(got == wanted);
  OK(cudaStreamIsCapturing(s.a, &status));
  CHECK(status == cudaStreamCaptureStatusInvalidated);
  CHECK(cudaStreamEndCapture(s.a, &graph) == cudaErrorStreamCaptureInvalidated && !graph);
  OK(cudaStreamIsCapturing(s.a, &status));
  CHECK(status == cudaStreamCaptureStatusNone);
  return 0;
}

static int capture_violations() {
  streams s;
  cudaStream_t blocking;
  cudaEvent_t outside;
  cudaGraph_t graph;
  device<float> x(N);
  void *p;
  const cudaStreamCaptureMode global = cudaStreamCaptureModeGlobal;
  OK(cudaEventCreate(&outside));
  OK(cudaEventRecord(outside, s.b));
  const cudaError_t unsupported = cudaErrorStreamCaptureUnsupported;
  OK(cudaStreamBeginCapture(s.a, global));
  CHECK(spoiled(s, cudaStreamSynchronize(s.a), unsupported) == 0);
  OK(cudaStreamBeginCapture(s.a, global));
  CHECK(spoiled(s, cudaStreamQuery(s.a), unsupported) == 0);
  OK(cudaStreamBeginCapture(s.a, global));
  CHECK(spoiled(s, cudaStreamSynchronize(s.b), unsupported) == 0); /* any wait */
  OK(cudaStreamBeginCapture(s.a, global));
  CHECK(spoiled(s, cudaEventQuery(outside), unsupported) == 0);
  OK(cudaStreamBeginCapture(s.a, global));
  CHECK(spoiled(s, cudaMalloc(&p, 16), unsupported) == 0);
  OK(cudaStreamBeginCapture(s.a, global));
  CHECK(spoiled(s, cudaFree(x.at), unsupported) == 0);
  OK(cudaStreamBeginCapture(s.a, global));
  CHECK(spoiled(s, cudaDeviceSynchronize(), unsupported) == 0);
  OK(cudaStreamBeginCapture(s.a, global));
  CHECK(spoiled(s, cudaMemcpyAsync(x.at, x.host, 16, cudaMemcpyHostToDevice, s.a), unsupported) ==
        0);
  OK(cudaStreamBeginCapture(s.a, global));
  OK(cudaEventRecord(s.event, s.a));
  CHECK(spoiled(s, cudaEventSynchronize(s.event), cudaErrorCapturedEvent) == 0);
  OK(cudaStreamBeginCapture(s.a, global));
  CHECK(spoiled(s, cudaStreamWaitEvent(s.a, outside, 0), cudaErrorStreamCaptureIsolation) == 0);
  OK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeRelaxed));
  OK(cudaMalloc(&p, 16)); /* allowed in this mode */
  OK(cudaStreamEndCapture(s.a, &graph));
  OK(cudaFree(p));
  OK(cudaGraphDestroy(graph));
  OK(cudaStreamBeginCapture(s.a, global)); /* a branch that does not come back */
  OK(cudaEventRecord(s.event, s.a));
  OK(cudaStreamWaitEvent(s.b, s.event, 0));
  OK(KA_LAUNCH(k_fill, 1, 32, 0, s.b, x.at, 1, N));
  CHECK(cudaStreamEndCapture(s.b, &graph) == cudaErrorStreamCaptureUnmatched);
  CHECK(cudaStreamEndCapture(s.a, &graph) == cudaErrorStreamCaptureInvalidated);
  OK(cudaStreamBeginCapture(s.a, global));
  OK(cudaEventRecord(s.event, s.a));
  OK(cudaStreamWaitEvent(s.b, s.event, 0));
  OK(KA_LAUNCH(k_fill, 1, 32, 0, s.b, x.at, 1, N));
  CHECK(cudaStreamEndCapture(s.a, &graph) == cudaErrorStreamCaptureUnjoined);
  CHECK(cudaStreamBeginCapture(nullptr, global) == unsupported);
  OK(cudaStreamCreate(&blocking));
  OK(cudaStreamBeginCapture(blocking, global));
  CHECK(KA_LAUNCH(k_fill, 1, 32, 0, nullptr, x.at, 1, N) == cudaErrorStreamCaptureImplicit);
  CHECK(cudaStreamEndCapture(blocking, &graph) == cudaErrorStreamCaptureInvalidated);
  OK(cudaStreamDestroy(blocking));
  OK(cudaEventDestroy(outside));
  OK(KA_LAUNCH(k_fill, 1, 32, 0, s.a, x.at, 1, N));
  OK(cudaStreamSynchronize(s.a));
  return 0;
}

/* --- failures --------------------------------------------------------------------------------- */
static int out_of_memory() {
  void *p, *q;
  size_t left, total;
  CHECK(cudahost_set("memory", "1m"));
  OK(cudaMemGetInfo(&left, &total));
  CHECK(left == 1 << 20 && total == 1 << 20);
  OK(cudaMalloc(&p, 700000));
  CHECK(cudaMalloc(&q, 700000) == cudaErrorMemoryAllocation);
  CHECK(cudaMalloc(&q, SIZE_MAX / 2) == cudaErrorMemoryAllocation);
  OK(cudaMemGetInfo(&left, &total));
  CHECK(left == (1 << 20) - 700000);
  OK(cudaFree(p));
  CHECK(cudaFree(p) == cudaErrorInvalidValue);
  OK(cudaMalloc(&p, 700000));
  OK(cudaFree(p));
  return 0;
}

static int planted_failures() {
  void *p, *q;
  cudaStream_t stream;
  cudahost_counters c;
  device<float> x(N);
  CHECK(cudahost_set("fail_alloc", "2"));
  OK(cudaMalloc(&p, 16));
  CHECK(cudaMalloc(&q, 16) == cudaErrorMemoryAllocation);
  OK(cudaMalloc(&q, 16));
  CHECK(cudahost_set("fail_pinned", "1"));
  void *pinned;
  CHECK(cudaMallocHost(&pinned, 16) == cudaErrorMemoryAllocation);
  CHECK(cudahost_set("fail_launch", "1:719"));
  CHECK(KA_LAUNCH(k_fill, 1, 32, 0, nullptr, x.at, 1, N) == cudaErrorLaunchFailure);
  CHECK(cudahost_set("fail_copy", "1:EccUncorrectable"));
  CHECK(x.upload() == cudaErrorECCUncorrectable);
  CHECK(cudahost_set("fail_create", "1"));
  CHECK(cudaStreamCreate(&stream) == cudaErrorMemoryAllocation);
  cudahost_count(&c);
  CHECK(c.injected == 5);
  CHECK(!strcmp(cudaGetErrorName(cudaErrorECCUncorrectable), "cudaErrorECCUncorrectable"));
  CHECK(!strcmp(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory"));
  OK(cudaFree(p));
  OK(cudaFree(q));
  OK(x.upload());
  return 0;
}

static int sticky_error() {
  cudaStream_t stream;
  float *x;
  OK(cudaMalloc(&x, N * sizeof(float)));
  OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CHECK(cudahost_set("fail_kernel", "2:IllegalAddress"));
  OK(KA_LAUNCH(k_fill, 1, 32, 0, stream, x, 1, N));
  cudaError_t second = KA_LAUNCH(k_fill, 1, 32, 0, stream, x, 1, N);
  CHECK(second == cudaSuccess); /* it fails when it runs */
  CHECK(cudaStreamSynchronize(stream) == cudaErrorIllegalAddress);
  CHECK(cudaMemset(x, 0, 4) == cudaErrorIllegalAddress);
  CHECK(cudaGetLastError() == cudaErrorIllegalAddress);
  CHECK(cudaPeekAtLastError() == cudaErrorIllegalAddress); /* it stays */
  CHECK(cudaFree(x) == cudaErrorIllegalAddress);
  OK(cudaDeviceReset());
  OK(cudaGetLastError());
  OK(cudaMalloc(&x, 16));
  OK(cudaFree(x));
  return 0;
}

static __global__ void k_beyond(float *x, int n) { x[n] = 1; }

/* With on_fault=sticky a report ends the kernel, not the process. The report goes to stderr, which
 * this case must leave empty. */
static int sticky_fault() {
  device<float> x(8);
  CHECK(cudahost_set("on_fault", "sticky"));
  FILE *saved = stderr, *nowhere = fopen("/dev/null", "w");
  CHECK(nowhere);
  stderr = nowhere;
  OK(KA_LAUNCH(k_beyond, 2, 64, 0, nullptr, x.at, 8));
  cudaError_t e = cudaDeviceSynchronize();
  stderr = saved;
  fclose(nowhere);
  CHECK(e == cudaErrorIllegalAddress);
  CHECK(strstr(cudahost_last_report(), "beyond device memory"));
  OK(cudaDeviceReset());
  x.at = nullptr;
  return 0;
}

static int drivers() {
  int n = -1, version = -1;
  device<float> x(N);
  CHECK(cudahost_set("driver", "none"));
  CHECK(cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver && n == 0);
  OK(cudaDriverGetVersion(&version));
  CHECK(version == 0);
  CHECK(cudahost_set("driver", "old"));
  OK(cudaDriverGetVersion(&version));
  CHECK(version > 0 && version < CUDART_VERSION);
  CHECK(cudahost_set("driver", "nodevice"));
  CHECK(cudaGetDeviceCount(&n) == cudaErrorNoDevice);
  CHECK(cudahost_set("driver", "wrongarch"));
  OK(cudaGetDeviceCount(&n));
  CHECK(n == 1);
  CHECK(KA_LAUNCH(k_fill, 1, 32, 0, nullptr, x.at, 1, N) == cudaErrorNoKernelImageForDevice);
  CHECK(cudahost_set("driver", "ok") && cudahost_set("devices", "2") && cudahost_set("arch", "90"));
  cudaDeviceProp prop;
  int major = 0;
  OK(cudaGetDeviceProperties(&prop, 1));
  OK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 1));
  CHECK(prop.major == 9 && major == 9 && prop.warpSize == 32);
  CHECK(cudaSetDevice(2) == cudaErrorInvalidDevice);
  OK(cudaSetDevice(1));
  OK(cudaSetDevice(0));
  CHECK(!cudahost_set("order", "sideways") && !cudahost_set("colour", "red"));
  return 0;
}

static int bad_launches() {
  device<float> x(N);
  const cudaError_t wrong = cudaErrorInvalidConfiguration;
  CHECK(KA_LAUNCH(k_fill, 0, 32, 0, nullptr, x.at, 1, N) == wrong);
  CHECK(KA_LAUNCH(k_fill, 1, 1025, 0, nullptr, x.at, 1, N) == wrong);
  CHECK(KA_LAUNCH(k_fill, dim3(1, 65536), 32, 0, nullptr, x.at, 1, N) == wrong);
  CHECK(KA_LAUNCH(k_fill, 1, dim3(1, 1, 65), 0, nullptr, x.at, 1, N) == wrong);
  CHECK(KA_LAUNCH(k_fill, 1, 32, 49 << 10, nullptr, x.at, 1, N) == cudaErrorInvalidValue);
  int blocks = -1;
  OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, k_fill, 256, 0));
  CHECK(blocks == 8);
  OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, k_fill, 256, 48 << 10));
  CHECK(blocks == 4);
  return 0;
}

struct copy_job {
  float *to;
  const float *from;
  int n;
};
static cudaError_t copy_now(void *user) {
  copy_job *job = static_cast<copy_job *>(user);
  for (int i = 0; i < job->n; i++) job->to[i] = job->from[i] + 1;
  return cudaSuccess;
}

static cudaError_t refuse(void *) { return cudaErrorECCUncorrectable; }

/* Work of a library, in stream order. */
static int library_work() {
  streams s;
  device<float> x(N), y(N);
  copy_job job = {y.at, x.at, N};
  cudahost_range read = {x.at, x.bytes, 1, 0}, write = {y.at, y.bytes, 1, 0};
  cudahost_counters before, after;
  OK(KA_LAUNCH(k_fill, 1, 64, 0, s.a, x.at, 1, N));
  OK(cudahost_enqueue(s.a, "copy_now", copy_now, &job, sizeof job, &read, 1, &write, 1));
  job.n = 0; /* it has its own copy */
  OK(KA_LAUNCH(k_scale, 1, 64, 0, s.a, y.at, 4, N));
  cudahost_count(&before);
  OK(cudaStreamSynchronize(s.a));
  cudahost_count(&after);
  CHECK(after.syncs == before.syncs + 1);
  OK(y.download());
  for (int i = 0; i < N; i++) CHECK(y.host[i] == 8);
  device<int> z(4 * 8); /* a matrix of 4 x 5 in rows of 8: the rest was never written */
  cudahost_range matrix = {z.at, 5 * sizeof(int), 4, 8 * sizeof(int)};
  OK(cudaMemset2DAsync(z.at, 8 * sizeof(int), 0, 5 * sizeof(int), 4, s.a));
  OK(cudahost_enqueue(s.a, "refuse", refuse, nullptr, 0, &matrix, 1, nullptr, 0));
  CHECK(cudaStreamSynchronize(s.a) == cudaErrorECCUncorrectable);
  CHECK(cudaMemset(z.at, 0, 4) == cudaErrorECCUncorrectable);
  OK(cudaDeviceReset());
  return 0;
}

static int counters() {
  cudahost_counters a, b;
  void *p;
  cudahost_count(&a);
  OK(cudaMalloc(&p, 1000));
  OK(cudaMemsetAsync(p, 0, 1000, nullptr));
  cudahost_count(&b);
  CHECK(b.allocations == a.allocations + 1 && b.live_bytes == a.live_bytes + 1000);
  CHECK(b.copies == a.copies + 1 && b.syncs == a.syncs);
  OK(cudaFree(p));
  cudahost_count(&b);
  CHECK(b.frees == a.frees + 1 && b.live_bytes == a.live_bytes &&
        b.peak_bytes >= a.live_bytes + 1000);
  return 0;
}

const struct cudahost_case cudahost_host_cases[] = {
    {"two_streams", two_streams, nullptr, 0},
    {"pinned_copies", pinned_copies, nullptr, 0},
    {"early_read_is_nan", early_read_is_nan, nullptr, 0},
    {"registered_memory", registered_memory, nullptr, 0},
    {"copies_2d", copies_2d, nullptr, 0},
    {"host_functions", host_functions, nullptr, 0},
    {"legacy_stream", legacy_stream, nullptr, 0},
    {"graphs", graphs, nullptr, 0},
    {"graph_copies", graph_copies, nullptr, 0},
    {"capture_violations", capture_violations, nullptr, 0},
    {"out_of_memory", out_of_memory, nullptr, 0},
    {"planted_failures", planted_failures, nullptr, 0},
    {"sticky_error", sticky_error, nullptr, 0},
    {"sticky_fault", sticky_fault, nullptr, CASE_CHECKED},
    {"drivers", drivers, nullptr, CASE_PRINTS},
    {"bad_launches", bad_launches, nullptr, 0},
    {"library_work", library_work, nullptr, 0},
    {"counters", counters, nullptr, 0},
    {nullptr, nullptr, nullptr, 0},
};
