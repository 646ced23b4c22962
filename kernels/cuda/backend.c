/* SPDX-License-Identifier: Apache-2.0
 * The cuda back end's table, opening, errors and scratch; the plug-in's one export. */
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/tune.h"

#include "base/log.h"
#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <plugin_api.h> /* made by CMake from the headers that program and plug-in share */

/* --- errors ----------------------------------------------------------------------------------- */

bool cuda_sticky(cudaError_t e) {
  enum {
    CONTAINED = 226,
    TENSOR_MEMORY_LEAK = 721,
    EXTERNAL_DEVICE = 911
  }; /* not every toolkit names them */
  static const int list[] = {cudaErrorIllegalAddress,
                             cudaErrorLaunchTimeout,
                             cudaErrorHardwareStackError,
                             cudaErrorIllegalInstruction,
                             cudaErrorMisalignedAddress,
                             cudaErrorInvalidAddressSpace,
                             cudaErrorInvalidPc,
                             cudaErrorLaunchFailure,
                             cudaErrorAssert,
                             cudaErrorECCUncorrectable,
                             cudaErrorNvlinkUncorrectable,
                             cudaErrorMpsClientTerminated,
                             CONTAINED,
                             TENSOR_MEMORY_LEAK,
                             EXTERNAL_DEVICE};
  for (size_t i = 0; i < sizeof list / sizeof *list; i++)
    if (list[i] == (int)e) return true;
  return false;
}

ka_status cuda_fail(struct ka_dev *dev, cudaError_t e, const char *what) {
  struct cuda_state *s = cuda_of(dev);
  if (!cuda_sticky(e)) {
    (void)cudaGetLastError(); /* seen; the next call starts clean */
    return ka_fail(dev->ctx, e == cudaErrorMemoryAllocation ? KA_E_MEMORY : KA_E_DEVICE,
                   "cuda: %s: %s (%s)", what, cudaGetErrorString(e), cudaGetErrorName(e));
  }
  return ka_fail(dev->ctx, KA_E_DEVICE,
                 "cuda: %s (%s) in one of the %lld ops since the device was last waited for, the "
                 "newest being %s; set KAPPA_CUDA_SYNC=1 to have the op itself named",
                 cudaGetErrorString(e), cudaGetErrorName(e), s ? (long long)s->n_ops : 0LL,
                 s && s->last_op ? s->last_op : "none");
}

ka_status cuda_launched(struct ka_dev *dev, const char *op, cudaError_t e) {
  struct cuda_state *s = cuda_of(dev);
  s->last_op = op;
  s->n_ops++;
  if (e != cudaSuccess) return cuda_fail(dev, e, op);
  return s->sync_each && !s->capturing ? cuda_sync(dev) : KA_STATUS_OK;
}

ka_status cuda_unsupported(struct ka_dev *dev, const char *op, enum ka_dtype t) {
  return ka_fail(dev->ctx, KA_E_UNSUPPORTED, "%s: cuda does not compute in %s; use f32 or bf16", op,
                 ka_dtype_name(t));
}

ka_status cuda_scratch(struct ka_dev *dev, size_t n_bytes, void **out) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  if (n_bytes > s->scratch_bytes) {
    KA_NEVER(ctx, s->capturing); /* the unrecorded run before has grown it */
    void *larger = NULL, *items = s->outgrown;
    KA_TRY(ka_grow(ctx, &items, &s->max_outgrown, s->n_outgrown + 1, sizeof *s->outgrown,
                   "cuda scratch"));
    s->outgrown = items;
    KA_TRY(cuda_alloc(dev, KA_PLACE_DEVICE, &larger, n_bytes, "cuda scratch"));
    s->outgrown[s->n_outgrown++] = s->scratch;
    s->scratch = larger;
    s->scratch_bytes = n_bytes;
  }
  *out = s->scratch;
  return KA_STATUS_OK;
}

cudaError_t cuda_allow_shared(struct ka_dev *dev, const void *kernel, int n_bytes) {
  enum { ALWAYS_BYTES = 40 << 10 }; /* every kernel has 48 KiB, static ones with it */
  struct cuda_state *s = cuda_of(dev);
  int i = 0;
  if (n_bytes <= ALWAYS_BYTES) return cudaSuccess;
  while (i < s->n_shared && s->shared[i].kernel != kernel) i++;
  if (i < s->n_shared && s->shared[i].n_bytes >= n_bytes) return cudaSuccess;
  cudaError_t e =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, n_bytes);
  if (!e)
    e = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared);
  if (e || i == CUDA_SHARED_KERNELS) return e;
  s->shared[i].kernel = kernel;
  s->shared[i].n_bytes = n_bytes;
  if (i == s->n_shared) s->n_shared++;
  return cudaSuccess;
}

/* --- opening ---------------------------------------------------------------------------------- */

/* "13.0" of 13000 */
static const char *version(int v, char text[16]) {
  snprintf(text, 16, "%d.%d", v / 1000, v % 1000 / 10);
  return text;
}

static ka_status find_device(struct ka_dev *dev) {
  struct ka_ctx *ctx = dev->ctx;
  int driver = 0, runtime = 0, n = 0;
  char a[16], b[16];
  (void)cudaDriverGetVersion(&driver);
  (void)cudaRuntimeGetVersion(&runtime);
  if (driver == 0)
    return ka_fail(ctx, KA_E_DEVICE, "device cuda: no NVIDIA driver on this machine");
  if (driver / 1000 < runtime / 1000)
    return ka_fail(ctx, KA_E_DEVICE,
                   "device cuda: the driver is too old: it serves CUDA %s, kappa_cuda.so was built "
                   "with %s; update the driver",
                   version(driver, a), version(runtime, b));
  cudaError_t e = cudaGetDeviceCount(&n);
  if (e == cudaErrorNoDevice || (e == cudaSuccess && n == 0)) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    (void)cudaGetLastError();
    return ka_fail(ctx, KA_E_DEVICE, "device cuda: the driver shows no GPU%s%s",
                   visible ? "; CUDA_VISIBLE_DEVICES is " : "", visible ? visible : "");
  }
  CU_TRY(dev, e);
  return KA_STATUS_OK;
}

static ka_status open_device(struct ka_dev *dev) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  CU_TRY(dev, cudaGetDevice(&s->device));
  CU_TRY(dev, cudaGetDeviceProperties(&s->props, s->device));
  s->n_sm = s->props.multiProcessorCount;
  CU_TRY(dev, cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking));
  CU_TRY(dev, cudaStreamCreateWithFlags(&s->copy, cudaStreamNonBlocking));
  cudaError_t e = cuda_probe(s->stream);
  if (e == cudaErrorNoKernelImageForDevice)
    return ka_fail(ctx, KA_E_DEVICE,
                   "device cuda: %s is of architecture sm_%d%d, this kappa_cuda.so was built for "
                   "%s; build with -DKAPPA_CUDA_ARCHS=%d%d",
                   s->props.name, s->props.major, s->props.minor, KAPPA_CUDA_BUILT, s->props.major,
                   s->props.minor);
  CU_TRY(dev, e);
  CU_TRY(dev, cudaStreamSynchronize(s->stream));
  return KA_STATUS_OK;
}

static ka_status read_without(struct ka_dev *dev) {
  static const struct {
    const char *word;
    unsigned bit;
  } known[] = {{"cudnn", CUDA_CUDNN},
               {"graphs", CUDA_GRAPHS},
               {"tuning", CUDA_TUNING},
               {"tiles", CUDA_TILES}};
  const char *at = getenv("KAPPA_CUDA_WITHOUT");
  while (at && *at) {
    size_t n = strcspn(at, ","), i = 0;
    while (i < 4 && (strlen(known[i].word) != n || memcmp(known[i].word, at, n) != 0)) i++;
    if (i == 4)
      return ka_fail(dev->ctx, KA_E_USAGE,
                     "KAPPA_CUDA_WITHOUT: got \"%.*s\", expected words of cudnn, graphs, tuning, "
                     "tiles with commas between",
                     (int)(n < 40 ? n : 40), at);
    cuda_of(dev)->without |= known[i].bit;
    at += n + (at[n] == ',');
  }
  dev->no_replays = (cuda_of(dev)->without & CUDA_GRAPHS) != 0;
  return KA_STATUS_OK;
}

static ka_status open(struct ka_dev *dev) {
  struct ka_ctx *ctx = dev->ctx;
  KA_TRY(find_device(dev));
  KA_TRY(ka_alloc(ctx, &dev->state, sizeof(struct cuda_state), "cuda device"));
  struct cuda_state *s = cuda_of(dev);
  s->sync_each = getenv("KAPPA_CUDA_SYNC") != NULL;
  KA_TRY(read_without(dev));
  KA_TRY(open_device(dev));
  size_t total = 0, before = 0, reserved = 0;
  CU_TRY(dev, cudaMemGetInfo(&before, &total));
  KA_TRY(cuda_memory_open(dev));
  KA_TRY(cuda_alloc(dev, KA_PLACE_DEVICE, &s->scratch, CUDA_SCRATCH_BYTES, "cuda scratch"));
  s->scratch_bytes = CUDA_SCRATCH_BYTES;
  KA_TRY(cuda_matmul_open(dev));
  KA_TRY(cuda_cudnn_open(dev, &reserved));
  CU_TRY(dev, cudaMemGetInfo(&dev->free_bytes, &total));
  dev->own_bytes = before - dev->free_bytes + reserved;
  reserved += total / CUDA_SPARE_PART;
  dev->free_bytes -= reserved < dev->free_bytes ? reserved : dev->free_bytes;
  dev->has_bf16 = true;
  return KA_STATUS_OK;
}

static void close(struct ka_dev *dev) {
  struct cuda_state *s = cuda_of(dev);
  if (!s) return;
  if (s->stream) (void)cudaStreamSynchronize(s->stream);
  cuda_cudnn_close(dev);
  cuda_matmul_close(dev);
  cuda_memory_close(dev);
  for (int64_t i = 0; i < s->n_outgrown; i++) (void)cudaFree(s->outgrown[i]);
  ka_free(s->outgrown);
  (void)cudaFree(s->scratch);
  if (s->copy) (void)cudaStreamDestroy(s->copy);
  if (s->stream) (void)cudaStreamDestroy(s->stream);
  ka_free(s);
}

/* The driver's own switch, which takes f32 products from f32 to TF32 without a word. */
static const char *tf32_override(void) {
  const char *value = getenv("NVIDIA_TF32_OVERRIDE");
  return value && *value && strcmp(value, "0") != 0 ? value : NULL;
}

static void describe(struct ka_dev *dev, char *text, size_t n) {
  const struct cuda_state *s = cuda_of(dev);
  char memory[32], driver_text[16];
  int driver = 0;
  (void)cudaDriverGetVersion(&driver);
  snprintf(text, n, "%s, sm_%d%d, %s; built with %s, driver for CUDA %s, cuBLASLt %zu",
           s->props.name, s->props.major, s->props.minor,
           ka_fmt_bytes((double)s->props.totalGlobalMem, memory), KAPPA_CUDA_BUILT,
           version(driver, driver_text), cublasLtGetVersion());
  size_t len = strlen(text);
  if (tf32_override() && len < n)
    snprintf(text + len, n - len,
             "; NVIDIA_TF32_OVERRIDE=%s: f32 products are of 10 bits (unset it)", tf32_override());
}

static ka_status pack_nothing(struct ka_dev *dev, const struct ka_pack_args *args) {
  (void)dev, (void)args; /* pack_bytes is 0: there is no layout of our own */
  return KA_STATUS_OK;
}

static const struct ka_backend backend = {
    .name = "cuda",
    .ops = {.fill = fill_cuda,
            .copy = copy_cuda,
            .add = add_cuda,
            .scale = scale_cuda,
            .clamp_fwd = clamp_fwd_cuda,
            .clamp_bwd = clamp_bwd_cuda,
            .embed_fwd = embed_fwd_cuda,
            .embed_bwd = embed_bwd_cuda,
            .gather_rows = gather_rows_cuda,
            .scatter_rows = scatter_rows_cuda,
            .put_rows = put_rows_cuda,
            .sum_rows = sum_rows_cuda,
            .rmsnorm_fwd = rmsnorm_fwd_cuda,
            .rmsnorm_bwd = rmsnorm_bwd_cuda,
            .layernorm_fwd = layernorm_fwd_cuda,
            .layernorm_bwd = layernorm_bwd_cuda,
            .rope = rope_cuda,
            .pack = pack_nothing,
            .matmul = matmul_cuda,
            .bias_bwd = bias_bwd_cuda,
            .attn_fwd = attn_fwd_cuda,
            .attn_bwd = attn_bwd_cuda,
            .glu_fwd = glu_fwd_cuda,
            .glu_bwd = glu_bwd_cuda,
            .router_fwd = router_fwd_cuda,
            .router_bwd = router_bwd_cuda,
            .router_load = router_load_cuda,
            .router_loss = router_loss_cuda,
            .expert_sort = expert_sort_cuda,
            .expert_matmul = expert_matmul_cuda,
            .expert_grad = expert_grad_cuda,
            .expert_bias_bwd = expert_bias_bwd_cuda,
            .expert_combine_fwd = expert_combine_fwd_cuda,
            .expert_combine_bwd = expert_combine_bwd_cuda,
            .attn_sink_fwd = attn_sink_fwd_cuda,
            .attn_sink_bwd = attn_sink_bwd_cuda,
            .latent_kv_fwd = latent_kv_fwd_cuda,
            .latent_kv_bwd = latent_kv_bwd_cuda,
            .xent = xent_cuda,
            .sum = sum_cuda,
            .sumsq = sumsq_cuda,
            .adamw = adamw_cuda},
    .find = find_device,
    .open = open,
    .close = close,
    .sync = cuda_sync,
    .describe = describe,
    .details = cuda_cudnn_describe,
    .adamw_list = adamw_list_cuda,
    .sumsq_list = sumsq_list_cuda,
    .few_shapes = true,
    .queues = true,
    .big = true,
    .own_memory = true,
    .alloc = cuda_alloc,
    .release = cuda_release,
    .upload = cuda_upload,
    .download = cuda_download,
    .record_begin = cuda_record_begin,
    .record_end = cuda_record_end,
    .replay = cuda_replay,
    .record_free = cuda_record_free,
    .choices_get = cuda_choices_get,
    .choices_set = cuda_choices_set,
    .dense = &cuda_dense,
};

extern const struct ka_plugin ka_plugin;
__attribute__((visibility("default"))) const struct ka_plugin ka_plugin = {
    .api = KA_PLUGIN_API,
    .version = KAPPA_VERSION,
    .built = KAPPA_CUDA_BUILT,
    .backend = &backend,
};
