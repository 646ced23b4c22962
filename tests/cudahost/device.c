/* SPDX-License-Identifier: Apache-2.0
 *
 * The device as the interface describes it, the error state, and what every call does first and
 * last. */
#include "tests/cudahost/stream.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static pthread_mutex_t lock;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static cudaError_t sticky; /* a kernel failed: every call says so until the device is reset */
static _Thread_local cudaError_t last;
static _Thread_local int device;
static _Thread_local int host_function; /* one is running on this thread */

int ch_device(void) { return device; }
void ch_host_function(bool runs) { host_function += runs ? 1 : -1; }
cudaError_t ch_sticky(void) { return sticky; }
void ch_make_sticky(cudaError_t error) {
  if (!sticky) sticky = error;
}

static void create_lock(void) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE); /* host functions may call us */
  pthread_mutex_init(&lock, &attributes);
  pthread_mutexattr_destroy(&attributes);
}

cudaError_t ch_enter(enum ch_call kind) {
  long long driver = ch_setting(CH_DRIVER);
  pthread_once(&once, create_lock);
  pthread_mutex_lock(&lock);
  if (ch_now) {
    ch_report("a kernel calls the CUDA runtime\n");
    ch_fault(cudaErrorNotPermitted);
  }
  if (kind == CH_ALWAYS) return cudaSuccess;
  if (host_function) return cudaErrorNotPermitted;
  if (driver == CH_DRIVER_NONE || driver == CH_DRIVER_OLD) return cudaErrorInsufficientDriver;
  if (driver == CH_DRIVER_NO_DEVICE || !ch_setting(CH_DEVICES)) return cudaErrorNoDevice;
  if (sticky) return sticky;
  return kind == CH_UNSAFE ? ch_capture_unsafe() : cudaSuccess;
}

cudaError_t ch_leave(cudaError_t error) {
  if (!host_function) ch_phase(CH_HOST);
  ch_arm();
  if (error) last = error;
  pthread_mutex_unlock(&lock);
  return error;
}

/* --- errors ----------------------------------------------------------------------------------- */
cudaError_t cudaPeekAtLastError(void) {
  ch_enter(CH_ALWAYS);
  cudaError_t e = sticky ? sticky : last;
  ch_leave(cudaSuccess);
  return e;
}

cudaError_t cudaGetLastError(void) {
  cudaError_t e = cudaPeekAtLastError();
  last = cudaSuccess;
  return e;
}

static const struct {
  cudaError_t error;
  const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
#define X(name, value, text) {cudaError##name, "cudaError" #name, text},
#include "cudahost_errors.def"
#undef X
};
enum { N_ERRORS = sizeof errors / sizeof *errors };

static int error_row(cudaError_t error) {
  int i = 0;
  while (i < N_ERRORS && errors[i].error != error) i++;
  return i;
}
const char *cudaGetErrorName(cudaError_t error) {
  int i = error_row(error);
  return i < N_ERRORS ? errors[i].name : "unrecognized error code";
}
const char *cudaGetErrorString(cudaError_t error) {
  int i = error_row(error);
  return i < N_ERRORS ? errors[i].text : "unrecognized error code";
}

/* --- devices ---------------------------------------------------------------------------------- */
static cudaError_t known(int d) {
  return d >= 0 && d < ch_setting(CH_DEVICES) && d < CH_MAX_DEVICES ? cudaSuccess
                                                                    : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceCount(int *count) {
  cudaError_t e = ch_enter(CH_NORMAL);
  *count = e ? 0 : (int)ch_setting(CH_DEVICES);
  return ch_leave(e);
}
cudaError_t cudaGetDevice(int *d) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e) *d = device;
  return ch_leave(e);
}
cudaError_t cudaSetDevice(int d) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e) e = known(d);
  if (!e) device = d;
  return ch_leave(e);
}
cudaError_t cudaSetDeviceFlags(unsigned int flags) {
  (void)flags;
  return ch_leave(ch_enter(CH_NORMAL));
}

/* Of an A100 the limits, of an H100 the shared memory; few multiprocessors, so that grids that are
 * sized by them stay small. */
enum { N_SM = 4, SM_THREADS = 2048, SM_BLOCKS = 32, SM_SHARED = 228 << 10, REGISTERS = 65536 };
enum { BUS_BITS = 64, L2_BYTES = 4 << 20, CLOCK_KHZ = 1000000, RESERVED_SHARED = 1024 };

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
  cudaError_t e = ch_enter(CH_NORMAL);
  int arch = (int)ch_setting(CH_ARCH);
  if (!e) e = known(d);
  if (!e)
    *p = (struct cudaDeviceProp){.name = "cudahost",
                                 .totalGlobalMem = (size_t)ch_setting(CH_MEMORY),
                                 .sharedMemPerBlock = CH_STATIC_SHARED,
                                 .regsPerBlock = REGISTERS,
                                 .warpSize = CH_WARP,
                                 .memPitch = INT32_MAX,
                                 .maxThreadsPerBlock = CH_MAX_THREADS,
                                 .maxThreadsDim = {1024, 1024, 64},
                                 .maxGridSize = {INT32_MAX, 65535, 65535},
                                 .totalConstMem = 65536,
                                 .major = arch / 10,
                                 .minor = arch % 10,
                                 .multiProcessorCount = N_SM,
                                 .canMapHostMemory = 1,
                                 .concurrentKernels = 1,
                                 .pciBusID = d + 1,
                                 .asyncEngineCount = 2,
                                 .unifiedAddressing = 1,
                                 .memoryBusWidth = BUS_BITS,
                                 .l2CacheSize = L2_BYTES,
                                 .maxThreadsPerMultiProcessor = SM_THREADS,
                                 .streamPrioritiesSupported = 1,
                                 .sharedMemPerMultiprocessor = SM_SHARED,
                                 .regsPerMultiprocessor = REGISTERS,
                                 .sharedMemPerBlockOptin = CH_OPTIN_SHARED,
                                 .maxBlocksPerMultiProcessor = SM_BLOCKS,
                                 .reservedSharedMemPerBlock = RESERVED_SHARED,
                                 .hostRegisterSupported = 1};
  if (!e) p->uuid.bytes[0] = (char)(d + 1);
  return ch_leave(e);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int d) {
  const int arch = (int)ch_setting(CH_ARCH);
  const struct {
    enum cudaDeviceAttr attr;
    int value;
  } rows[] = {{cudaDevAttrMaxThreadsPerBlock, CH_MAX_THREADS},
              {cudaDevAttrMaxBlockDimX, 1024},
              {cudaDevAttrMaxBlockDimY, 1024},
              {cudaDevAttrMaxBlockDimZ, 64},
              {cudaDevAttrMaxGridDimX, INT32_MAX},
              {cudaDevAttrMaxGridDimY, 65535},
              {cudaDevAttrMaxGridDimZ, 65535},
              {cudaDevAttrMaxSharedMemoryPerBlock, CH_STATIC_SHARED},
              {cudaDevAttrTotalConstantMemory, 65536},
              {cudaDevAttrWarpSize, CH_WARP},
              {cudaDevAttrMaxRegistersPerBlock, REGISTERS},
              {cudaDevAttrClockRate, CLOCK_KHZ},
              {cudaDevAttrMultiProcessorCount, N_SM},
              {cudaDevAttrIntegrated, 0},
              {cudaDevAttrCanMapHostMemory, 1},
              {cudaDevAttrComputeMode, 0},
              {cudaDevAttrConcurrentKernels, 1},
              {cudaDevAttrEccEnabled, 0},
              {cudaDevAttrPciBusId, d + 1},
              {cudaDevAttrPciDeviceId, 0},
              {cudaDevAttrPciDomainId, 0},
              {cudaDevAttrMemoryClockRate, CLOCK_KHZ},
              {cudaDevAttrGlobalMemoryBusWidth, BUS_BITS},
              {cudaDevAttrL2CacheSize, L2_BYTES},
              {cudaDevAttrMaxThreadsPerMultiProcessor, SM_THREADS},
              {cudaDevAttrAsyncEngineCount, 2},
              {cudaDevAttrUnifiedAddressing, 1},
              {cudaDevAttrComputeCapabilityMajor, arch / 10},
              {cudaDevAttrComputeCapabilityMinor, arch % 10},
              {cudaDevAttrStreamPrioritiesSupported, 1},
              {cudaDevAttrMaxSharedMemoryPerMultiprocessor, SM_SHARED},
              {cudaDevAttrMaxRegistersPerMultiprocessor, REGISTERS},
              {cudaDevAttrManagedMemory, 0},
              {cudaDevAttrCooperativeLaunch, 0},
              {cudaDevAttrMaxSharedMemoryPerBlockOptin, CH_OPTIN_SHARED},
              {cudaDevAttrHostRegisterSupported, 1},
              {cudaDevAttrMaxBlocksPerMultiprocessor, SM_BLOCKS},
              {cudaDevAttrReservedSharedMemoryPerBlock, RESERVED_SHARED},
              {cudaDevAttrMemoryPoolsSupported, 0}};
  size_t i = 0, n = sizeof rows / sizeof *rows;
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e) e = known(d);
  while (i < n && rows[i].attr != attr) i++;
  if (!e && i == n) e = cudaErrorInvalidValue;
  if (!e) *value = rows[i].value;
  return ch_leave(e);
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int len, int d) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e) e = known(d);
  if (!e && len < 13) e = cudaErrorInvalidValue;
  if (!e) snprintf(id, (size_t)len, "0000:%02X:00.0", d + 1);
  return ch_leave(e);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e && least) *least = 0;
  if (!e && greatest) *greatest = -5;
  return ch_leave(e);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
  cudaError_t e = ch_enter(CH_NORMAL);
  size_t total = (size_t)ch_setting(CH_MEMORY), used = ch_memory_used(device);
  if (!e && free_bytes) *free_bytes = total > used ? total - used : 0;
  if (!e && total_bytes) *total_bytes = total;
  return ch_leave(e);
}

cudaError_t cudaDriverGetVersion(int *version) {
  long long driver = ch_setting(CH_DRIVER);
  *version = driver == CH_DRIVER_NONE ? 0 : driver == CH_DRIVER_OLD ? 11000 : CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
  cudaError_t e = ch_enter(CH_UNSAFE);
  if (!e) ch_counters.syncs++, e = ch_drain();
  return ch_leave(e);
}

cudaError_t cudaDeviceReset(void) {
  ch_enter(CH_ALWAYS);
  ch_phase(CH_HOST);
  ch_holds_protect(false);
  ch_graph_reset();
  ch_stream_reset();
  ch_event_reset();
  ch_pinned_reset();
  ch_memory_reset();
  sticky = last = cudaSuccess;
  return ch_leave(cudaSuccess);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *p) {
  cudaError_t e = ch_enter(CH_NORMAL);
  enum ch_kind kind = ch_kind_of(p);
  const struct ch_alloc *a =
      kind == CH_DEVICE ? ch_alloc_near((uintptr_t)p) : ch_pinned_find((uintptr_t)p);
  bool live = a && a->live && ch_in_alloc(a, (uintptr_t)p, 0);
  if (!e)
    *attributes = (struct cudaPointerAttributes){
        .type = !live               ? cudaMemoryTypeUnregistered
                : kind == CH_DEVICE ? cudaMemoryTypeDevice
                                    : cudaMemoryTypeHost,
        .device = live ? a->device : -2,
        .devicePointer = live ? (void *)(uintptr_t)p : NULL,
        .hostPointer = live && kind == CH_DEVICE ? NULL : (void *)(uintptr_t)p};
  return ch_leave(e);
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
  cudaError_t e = ch_enter(CH_UNSAFE);
  if (!e && !p) e = cudaErrorInvalidValue;
  if (!e && !bytes) return *p = NULL, ch_leave(cudaSuccess);
  if (!e) e = ch_inject(CH_FAIL_ALLOC, cudaErrorMemoryAllocation);
  if (!e) e = ch_device_alloc(p, bytes, CH_CALLER);
  return ch_leave(e);
}

cudaError_t cudaFree(void *p) {
  cudaError_t e = ch_enter(CH_UNSAFE);
  if (!e && p) ch_counters.syncs++, e = ch_drain();
  if (!e && p) e = ch_device_free(p);
  return ch_leave(e);
}
