/* SPDX-License-Identifier: Apache-2.0
 * Workers of the cuda engine: errors, memory, uploads. */
#include "linalg/cuda/worker.h"

#include "kernels/cuda/cuda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 256 };

/* --- errors ----------------------------------------------------------------------------------- */

ka_status cuda_worker_fail(struct ka_dense_worker *worker, cudaError_t e, const char *what) {
  const struct cuda_worker *c = cuda_worker_of(worker);
  (void)cudaGetLastError(); /* seen */
  return ka_fail(worker->ctx, e == cudaErrorMemoryAllocation ? KA_E_MEMORY : KA_E_DEVICE,
                 "cuda: spectra: %s: %s (%s); the newest work of this worker was %s", what,
                 cudaGetErrorString(e), cudaGetErrorName(e), c && c->newest ? c->newest : "none");
}

ka_status cuda_worker_launched(struct ka_dense_worker *worker, const char *what, cudaError_t e) {
  cuda_worker_of(worker)->newest = what;
  if (e != cudaSuccess) return cuda_worker_fail(worker, e, what);
  return cuda_of(worker->engine.dev)->sync_each ? cuda_worker_sync(worker) : KA_STATUS_OK;
}

ka_status cuda_worker_blas(struct ka_dense_worker *worker, cublasStatus_t e) {
  cuda_worker_of(worker)->newest = "a product";
  if (e == CUBLAS_STATUS_SUCCESS) return KA_STATUS_OK;
  (void)cudaGetLastError();
  return ka_fail(worker->ctx, e == CUBLAS_STATUS_ALLOC_FAILED ? KA_E_MEMORY : KA_E_DEVICE,
                 "cuda: spectra: cuBLAS: %s", cublasGetStatusString(e));
}

ka_status cuda_worker_sync(struct ka_dense_worker *worker) {
  WORKER_TRY(worker, cudaStreamSynchronize(cuda_worker_of(worker)->stream));
  return KA_STATUS_OK;
}

/* --- memory ----------------------------------------------------------------------------------- */

static int64_t padded(int64_t n_bytes) { return (n_bytes + ALIGN - 1) / ALIGN * ALIGN; }

/* Few enough that a worker's memory stays small, enough that a launch is worth it. */
int cuda_worker_units_of(int64_t n, int64_t m) {
  enum { WORK = 1 << 24, STORED = 1 << 27 };
  if (m < 2) return 1;
  int64_t units = WORK / (m * m) < STORED / (n * m) ? WORK / (m * m) : STORED / (n * m);
  return units < 1 ? 1 : units > KA_BATCH ? KA_BATCH : (int)units;
}

/* What `hold` cuts from the block; places are NULL when only counting. */
static int64_t cut(struct cuda_worker *c, const struct ka_dense_size *s) {
  int64_t used = WORKER_BLAS_BYTES;
  int64_t panel = WORKER_PANEL * s->m, d = (int64_t)sizeof(double);
  struct {
    void *place;
    int64_t n_bytes;
  } parts[] = {
      {&c->panels, s->units * panel * d},
      {&c->product, 3 * panel * d},
      {&c->low, s->m * s->m * d},
      {&c->images, s->units * 2 * s->n * d},
      {&c->vector, s->units * s->m * d},
      {&c->dots, s->units * (WORKER_MAX_STEPS + 2) * d},
      {&c->parts, s->units * WORKER_PARTS * d},
      {&c->failed, KA_BATCH * (int64_t)sizeof(int)},
      {&c->scan, 2 * KA_BATCH * (int64_t)sizeof(unsigned long long)},
  };
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    char *at = c->memory ? c->memory + used : NULL;
    memcpy(parts[i].place, &at, sizeof at);
    used += padded(parts[i].n_bytes);
  }
  for (int i = 0; i < s->units; i++) {
    c->raws.of[i].at = c->memory ? c->memory + used : NULL;
    used += padded(s->n * s->m * s->elem_bytes);
  }
  return used;
}

int64_t cuda_worker_bytes(const struct ka_dense_size *size) {
  struct cuda_worker counting = {0};
  return cut(&counting, size) + padded(size->units * size->work_doubles * (int64_t)sizeof(double));
}

ka_status cuda_worker_room(struct ka_ctx *ctx, const struct ka_linalg_engine *engine,
                           int64_t *n_bytes, int *n_workers) {
  enum { LANES = 6, SPARE = 256 << 20 };
  const char *emulate = getenv("CUBLAS_EMULATE_DOUBLE_PRECISION");
  size_t free_bytes = 0, total = 0;
  if (emulate && strcmp(emulate, "0") != 0)
    return ka_fail(
        ctx, KA_E_DEVICE,
        "cuda: spectra: CUBLAS_EMULATE_DOUBLE_PRECISION=%s asks for emulated float64, on "
        "which no bound can rest; unset it, or use --device cpu",
        emulate);
  struct ka_dense_worker worker = {.ctx = ctx, .engine = *engine};
  WORKER_TRY(&worker, cudaSetDevice(cuda_of(engine->dev)->device));
  WORKER_TRY(&worker, cudaMemGetInfo(&free_bytes, &total));
  *n_bytes = free_bytes > SPARE ? (int64_t)(free_bytes - SPARE) : 0;
  *n_workers = LANES;
  return KA_STATUS_OK;
}

ka_status cuda_worker_open(struct ka_dense_worker *worker, int64_t n_bytes) {
  struct ka_ctx *ctx = worker->ctx;
  KA_TRY(ka_alloc(ctx, &worker->state, sizeof(struct cuda_worker), "spectral worker"));
  struct cuda_worker *c = cuda_worker_of(worker);
  void *memory = NULL, *back = NULL;
  WORKER_TRY(worker, cudaSetDevice(cuda_of(worker->engine.dev)->device));
  WORKER_TRY(worker, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking));
  c->n_bytes = n_bytes > WORKER_BLAS_BYTES ? n_bytes : WORKER_BLAS_BYTES;
  WORKER_TRY(worker, cudaMalloc(&memory, (size_t)c->n_bytes));
  c->memory = memory;
  WORKER_TRY(worker, cudaHostAlloc(&back, WORKER_BACK_BYTES, cudaHostAllocPortable));
  c->back = back;
  for (int i = 0; i < WORKER_STAGES; i++) {
    WORKER_TRY(worker, cudaHostAlloc(&c->stages[i], WORKER_STAGE_BYTES, cudaHostAllocPortable));
    WORKER_TRY(worker, cudaEventCreateWithFlags(&c->stage_free[i], cudaEventDisableTiming));
  }
  KA_TRY(cuda_worker_blas(worker, cublasCreate(&c->blas)));
  KA_TRY(cuda_worker_blas(worker, cublasSetStream(c->blas, c->stream)));
  KA_TRY(cuda_worker_blas(worker, cublasSetWorkspace(c->blas, c->memory, WORKER_BLAS_BYTES)));
  /* Whatever the environment says: no emulated float64. */
  return cuda_worker_blas(worker, cublasSetMathMode(c->blas, CUBLAS_DEFAULT_MATH));
}

void cuda_worker_close(struct ka_dense_worker *worker) {
  struct cuda_worker *c = cuda_worker_of(worker);
  if (!c) return;
  if (c->stream) (void)cudaStreamSynchronize(c->stream);
  cuda_worker_solver_close(c);
  if (c->blas) (void)cublasDestroy(c->blas);
  for (int i = 0; i < WORKER_STAGES; i++) {
    if (c->stage_free[i]) (void)cudaEventDestroy(c->stage_free[i]);
    if (c->stages[i]) (void)cudaFreeHost(c->stages[i]);
  }
  if (c->back) (void)cudaFreeHost(c->back);
  (void)cudaFree(c->memory);
  if (c->stream) (void)cudaStreamDestroy(c->stream);
  (void)cudaGetLastError();
  ka_free(c);
  worker->state = NULL;
}

static ka_status no_room(struct ka_dense_worker *worker, int64_t n_bytes) {
  return ka_fail(worker->ctx, KA_E_MEMORY, "cuda: spectra: %.1f MiB wanted of a worker of %.1f MiB",
                 (double)n_bytes / 0x1p20, (double)cuda_worker_of(worker)->n_bytes / 0x1p20);
}

ka_status cuda_worker_take(struct ka_dense_worker *worker, const struct ka_dense_size *size,
                           double **out) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  int64_t need = c->held + size->units * size->work_doubles * (int64_t)sizeof(double);
  KA_NEVER(ctx, size->units > c->units);
  if (need > c->n_bytes) return no_room(worker, need);
  *out = (double *)(void *)(c->memory + c->held);
  return KA_STATUS_OK;
}

void cuda_worker_give(struct ka_dense_worker *worker, double *workspace) {
  (void)worker, (void)workspace;
}

/* --- stored matrices -------------------------------------------------------------------------- */

/* The next stage, no longer in use. */
static ka_status take_stage(struct ka_dense_worker *worker, int *out) {
  struct cuda_worker *c = cuda_worker_of(worker);
  *out = c->stage;
  c->stage = (c->stage + 1) % WORKER_STAGES;
  WORKER_TRY(worker, cudaEventSynchronize(c->stage_free[*out]));
  return KA_STATUS_OK;
}

/* n_bytes of the stage to the device. */
static ka_status send_stage(struct ka_dense_worker *worker, int stage, void *to, int64_t n_bytes) {
  struct cuda_worker *c = cuda_worker_of(worker);
  WORKER_TRY(worker,
             cudaMemcpyAsync(to, c->stages[stage], (size_t)n_bytes, cudaMemcpyDefault, c->stream));
  WORKER_TRY(worker, cudaEventRecord(c->stage_free[stage], c->stream));
  return KA_STATUS_OK;
}

/* Rows of row_bytes, pitch apart, side by side to the device. */
static ka_status send_rows(struct ka_dense_worker *worker, char *to, const char *from,
                           int64_t n_rows, int64_t row_bytes, int64_t pitch) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  int64_t row = 0, at = 0; /* of what is to be sent next */
  while (row < n_rows) {
    int stage;
    int64_t filled = 0;
    KA_TRY(take_stage(worker, &stage));
    while (row < n_rows && filled < WORKER_STAGE_BYTES) {
      int64_t space = WORKER_STAGE_BYTES - filled, left = row_bytes - at;
      int64_t n = left < space ? left : space;
      memcpy((char *)c->stages[stage] + filled, from + row * pitch + at, (size_t)n);
      filled += n;
      at += n;
      if (at == row_bytes) row++, at = 0;
    }
    KA_TRY(send_stage(worker, stage, to, filled));
    to += filled;
  }
  return KA_STATUS_OK;
}

ka_status cuda_worker_send(struct ka_dense_worker *worker, void *to, const void *from,
                           int64_t n_bytes) {
  return send_rows(worker, to, from, 1, n_bytes, n_bytes);
}

static ka_status upload(struct ka_dense_worker *worker, int i, const struct ka_tensor *v) {
  int64_t size = (int64_t)ka_dtype_bytes(v->dtype), rows = v->shape[0], cols = v->shape[1];
  bool whole = ka_tensor_contiguous(v);
  return send_rows(worker, cuda_worker_of(worker)->raws.of[i].at, v->data, whole ? 1 : rows,
                   (whole ? rows : 1) * cols * size, v->row_stride * size);
}

static void describe(struct cuda_worker *c, int i, const struct ka_tensor *view,
                     const unsigned long long *scan, struct ka_panels *p) {
  int64_t rows = view->shape[0], cols = view->shape[1];
  *p = (struct ka_panels){.view = *view, .wide = rows < cols, .bad_index = -1};
  p->n = p->wide ? cols : rows;
  p->m = p->wide ? rows : cols;
  memcpy(&p->max_abs, &scan[0], sizeof p->max_abs);
  if (scan[1] != ~0ull) p->bad_index = (int64_t)scan[1];
  if (p->max_abs > 0) frexp(p->max_abs, &p->exponent);
  /* Two factors, as on the host: 2^-exponent itself may overflow for subnormal float64. */
  c->raws.of[i].scale[0] = ldexp(1, -p->exponent / 2);
  c->raws.of[i].scale[1] = ldexp(1, -p->exponent + p->exponent / 2);
}

ka_status cuda_worker_hold(struct ka_dense_worker *worker, int n_units,
                           const struct ka_tensor *views, struct ka_panels *p) {
  struct ka_ctx *ctx = worker->ctx;
  struct cuda_worker *c = cuda_worker_of(worker);
  int64_t rows = views[0].shape[0], cols = views[0].shape[1];
  struct ka_dense_size size = {.n = rows < cols ? cols : rows, .m = rows < cols ? rows : cols};
  size.units = cuda_worker_units_of(size.n, size.m);
  for (int i = 0; i < n_units; i++) {
    int64_t b = (int64_t)ka_dtype_bytes(views[i].dtype);
    size.elem_bytes = b > size.elem_bytes ? b : size.elem_bytes;
  }
  KA_NEVER(ctx, n_units > size.units);
  WORKER_TRY(worker, cudaSetDevice(cuda_of(worker->engine.dev)->device)); /* of this thread */
  struct cuda_worker counting = {0};
  c->held = cut(&counting, &size);
  if (c->held > c->n_bytes) return no_room(worker, c->held);
  (void)cut(c, &size);
  c->units = size.units;
  c->raws.n = size.n;
  c->raws.m = size.m;
  c->raws.wide = rows < cols;
  for (int i = 0; i < n_units; i++) {
    c->raws.of[i].type = views[i].dtype;
    KA_TRY(upload(worker, i, &views[i]));
  }
  unsigned long long start[2 * KA_BATCH], *scan = (unsigned long long *)c->back;
  for (int i = 0; i < KA_BATCH; i++) start[2 * i] = 0, start[2 * i + 1] = ~0ull;
  KA_TRY(cuda_worker_send(worker, c->scan, start, sizeof start));
  KA_TRY(cuda_worker_launched(worker, "scan", worker_scan(c->stream, n_units, &c->raws, c->scan)));
  WORKER_TRY(worker, cudaMemcpyAsync(scan, c->scan, sizeof start, cudaMemcpyDefault, c->stream));
  KA_TRY(cuda_worker_sync(worker));
  for (int i = 0; i < n_units; i++) describe(c, i, &views[i], scan + 2 * i, &p[i]);
  return KA_STATUS_OK;
}
