/* SPDX-License-Identifier: Apache-2.0
 * Lanes of the cuda engine: errors, memory, uploads. */
#include "linalg/cuda/lane.h"

#include "kernels/cuda/cuda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 256 };

/* --- errors ----------------------------------------------------------------------------------- */

ka_status cuda_lane_fail(struct ka_lane *lane, cudaError_t e, const char *what) {
  const struct cuda_lane *c = cuda_lane_of(lane);
  (void)cudaGetLastError(); /* seen */
  return ka_fail(lane->ctx, e == cudaErrorMemoryAllocation ? KA_E_MEMORY : KA_E_DEVICE,
                 "cuda: spectra: %s: %s (%s); the newest work of this lane was %s", what,
                 cudaGetErrorString(e), cudaGetErrorName(e), c && c->newest ? c->newest : "none");
}

ka_status cuda_lane_launched(struct ka_lane *lane, const char *what, cudaError_t e) {
  cuda_lane_of(lane)->newest = what;
  if (e != cudaSuccess) return cuda_lane_fail(lane, e, what);
  return cuda_of(lane->engine.dev)->sync_each ? cuda_lane_sync(lane) : KA_STATUS_OK;
}

ka_status cuda_lane_blas(struct ka_lane *lane, cublasStatus_t e) {
  cuda_lane_of(lane)->newest = "a product";
  if (e == CUBLAS_STATUS_SUCCESS) return KA_STATUS_OK;
  (void)cudaGetLastError();
  return ka_fail(lane->ctx, e == CUBLAS_STATUS_ALLOC_FAILED ? KA_E_MEMORY : KA_E_DEVICE,
                 "cuda: spectra: cuBLAS: %s", cublasGetStatusString(e));
}

ka_status cuda_lane_sync(struct ka_lane *lane) {
  LANE_TRY(lane, cudaStreamSynchronize(cuda_lane_of(lane)->stream));
  return KA_STATUS_OK;
}

/* --- memory ----------------------------------------------------------------------------------- */

static int64_t padded(int64_t n_bytes) { return (n_bytes + ALIGN - 1) / ALIGN * ALIGN; }

/* Few enough that a lane's memory stays small, enough that a launch is worth it. */
int cuda_lane_units_of(int64_t n, int64_t m) {
  enum { WORK = 1 << 24, STORED = 1 << 27 };
  if (m < 2) return 1;
  int64_t units = WORK / (m * m) < STORED / (n * m) ? WORK / (m * m) : STORED / (n * m);
  return units < 1 ? 1 : units > KA_BATCH ? KA_BATCH : (int)units;
}

/* What `hold` cuts from the block; places are NULL when only counting. */
static int64_t cut(struct cuda_lane *c, const struct ka_lane_size *s) {
  int64_t used = LANE_BLAS_BYTES;
  int64_t panel = LANE_PANEL * s->m, d = (int64_t)sizeof(double);
  struct {
    void *place;
    int64_t n_bytes;
  } parts[] = {
      {&c->panels, s->units * panel * d},
      {&c->product, 3 * panel * d},
      {&c->low, s->m * s->m * d},
      {&c->images, s->units * 2 * s->n * d},
      {&c->vector, s->units * s->m * d},
      {&c->dots, s->units * (LANE_MAX_STEPS + 2) * d},
      {&c->parts, s->units * LANE_PARTS * d},
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

int64_t cuda_lane_bytes(const struct ka_lane_size *size) {
  struct cuda_lane counting = {0};
  return cut(&counting, size) + padded(size->units * size->work_doubles * (int64_t)sizeof(double));
}

ka_status cuda_lane_room(struct ka_ctx *ctx, const struct ka_linalg_engine *engine,
                         int64_t *n_bytes, int *n_lanes) {
  enum { LANES = 6, SPARE = 256 << 20 };
  const char *emulate = getenv("CUBLAS_EMULATE_DOUBLE_PRECISION");
  size_t free_bytes = 0, total = 0;
  if (emulate && strcmp(emulate, "0") != 0)
    return ka_fail(
        ctx, KA_E_DEVICE,
        "cuda: spectra: CUBLAS_EMULATE_DOUBLE_PRECISION=%s asks for emulated float64, on "
        "which no bound can rest; unset it, or use --device cpu",
        emulate);
  struct ka_lane lane = {.ctx = ctx, .engine = *engine};
  LANE_TRY(&lane, cudaSetDevice(cuda_of(engine->dev)->device));
  LANE_TRY(&lane, cudaMemGetInfo(&free_bytes, &total));
  *n_bytes = free_bytes > SPARE ? (int64_t)(free_bytes - SPARE) : 0;
  *n_lanes = LANES;
  return KA_STATUS_OK;
}

ka_status cuda_lane_open(struct ka_lane *lane, int64_t n_bytes) {
  struct ka_ctx *ctx = lane->ctx;
  KA_TRY(ka_alloc(ctx, &lane->state, sizeof(struct cuda_lane), "spectral lane"));
  struct cuda_lane *c = cuda_lane_of(lane);
  void *memory = NULL, *back = NULL;
  LANE_TRY(lane, cudaSetDevice(cuda_of(lane->engine.dev)->device));
  LANE_TRY(lane, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking));
  c->n_bytes = n_bytes > LANE_BLAS_BYTES ? n_bytes : LANE_BLAS_BYTES;
  LANE_TRY(lane, cudaMalloc(&memory, (size_t)c->n_bytes));
  c->memory = memory;
  LANE_TRY(lane, cudaHostAlloc(&back, LANE_BACK_BYTES, cudaHostAllocPortable));
  c->back = back;
  for (int i = 0; i < LANE_STAGES; i++) {
    LANE_TRY(lane, cudaHostAlloc(&c->stages[i], LANE_STAGE_BYTES, cudaHostAllocPortable));
    LANE_TRY(lane, cudaEventCreateWithFlags(&c->stage_free[i], cudaEventDisableTiming));
  }
  KA_TRY(cuda_lane_blas(lane, cublasCreate(&c->blas)));
  KA_TRY(cuda_lane_blas(lane, cublasSetStream(c->blas, c->stream)));
  KA_TRY(cuda_lane_blas(lane, cublasSetWorkspace(c->blas, c->memory, LANE_BLAS_BYTES)));
  /* Whatever the environment says: no emulated float64. */
  return cuda_lane_blas(lane, cublasSetMathMode(c->blas, CUBLAS_DEFAULT_MATH));
}

void cuda_lane_close(struct ka_lane *lane) {
  struct cuda_lane *c = cuda_lane_of(lane);
  if (!c) return;
  if (c->stream) (void)cudaStreamSynchronize(c->stream);
  cuda_lane_solver_close(c);
  if (c->blas) (void)cublasDestroy(c->blas);
  for (int i = 0; i < LANE_STAGES; i++) {
    if (c->stage_free[i]) (void)cudaEventDestroy(c->stage_free[i]);
    if (c->stages[i]) (void)cudaFreeHost(c->stages[i]);
  }
  if (c->back) (void)cudaFreeHost(c->back);
  (void)cudaFree(c->memory);
  if (c->stream) (void)cudaStreamDestroy(c->stream);
  (void)cudaGetLastError();
  ka_free(c);
  lane->state = NULL;
}

static ka_status no_room(struct ka_lane *lane, int64_t n_bytes) {
  return ka_fail(lane->ctx, KA_E_MEMORY, "cuda: spectra: %.1f MiB wanted of a lane of %.1f MiB",
                 (double)n_bytes / 0x1p20, (double)cuda_lane_of(lane)->n_bytes / 0x1p20);
}

ka_status cuda_lane_take(struct ka_lane *lane, const struct ka_lane_size *size, double **out) {
  struct ka_ctx *ctx = lane->ctx;
  struct cuda_lane *c = cuda_lane_of(lane);
  int64_t need = c->held + size->units * size->work_doubles * (int64_t)sizeof(double);
  KA_NEVER(ctx, size->units > c->units);
  if (need > c->n_bytes) return no_room(lane, need);
  *out = (double *)(void *)(c->memory + c->held);
  return KA_STATUS_OK;
}

void cuda_lane_give(struct ka_lane *lane, double *workspace) { (void)lane, (void)workspace; }

/* --- stored matrices -------------------------------------------------------------------------- */

/* The next stage, no longer in use. */
static ka_status take_stage(struct ka_lane *lane, int *out) {
  struct cuda_lane *c = cuda_lane_of(lane);
  *out = c->stage;
  c->stage = (c->stage + 1) % LANE_STAGES;
  LANE_TRY(lane, cudaEventSynchronize(c->stage_free[*out]));
  return KA_STATUS_OK;
}

/* n_bytes of the stage to the device. */
static ka_status send_stage(struct ka_lane *lane, int stage, void *to, int64_t n_bytes) {
  struct cuda_lane *c = cuda_lane_of(lane);
  LANE_TRY(lane,
           cudaMemcpyAsync(to, c->stages[stage], (size_t)n_bytes, cudaMemcpyDefault, c->stream));
  LANE_TRY(lane, cudaEventRecord(c->stage_free[stage], c->stream));
  return KA_STATUS_OK;
}

/* Rows of row_bytes, pitch apart, side by side to the device. */
static ka_status send_rows(struct ka_lane *lane, char *to, const char *from, int64_t n_rows,
                           int64_t row_bytes, int64_t pitch) {
  struct ka_ctx *ctx = lane->ctx;
  struct cuda_lane *c = cuda_lane_of(lane);
  int64_t row = 0, at = 0; /* of what is to be sent next */
  while (row < n_rows) {
    int stage;
    int64_t filled = 0;
    KA_TRY(take_stage(lane, &stage));
    while (row < n_rows && filled < LANE_STAGE_BYTES) {
      int64_t space = LANE_STAGE_BYTES - filled, left = row_bytes - at;
      int64_t n = left < space ? left : space;
      memcpy((char *)c->stages[stage] + filled, from + row * pitch + at, (size_t)n);
      filled += n;
      at += n;
      if (at == row_bytes) row++, at = 0;
    }
    KA_TRY(send_stage(lane, stage, to, filled));
    to += filled;
  }
  return KA_STATUS_OK;
}

ka_status cuda_lane_send(struct ka_lane *lane, void *to, const void *from, int64_t n_bytes) {
  return send_rows(lane, to, from, 1, n_bytes, n_bytes);
}

static ka_status upload(struct ka_lane *lane, int i, const struct ka_tensor *v) {
  int64_t size = (int64_t)ka_dtype_bytes(v->dtype), rows = v->shape[0], cols = v->shape[1];
  bool whole = ka_tensor_contiguous(v);
  return send_rows(lane, cuda_lane_of(lane)->raws.of[i].at, v->data, whole ? 1 : rows,
                   (whole ? rows : 1) * cols * size, v->row_stride * size);
}

static void describe(struct cuda_lane *c, int i, const struct ka_tensor *view,
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

ka_status cuda_lane_hold(struct ka_lane *lane, int n_units, const struct ka_tensor *views,
                         struct ka_panels *p) {
  struct ka_ctx *ctx = lane->ctx;
  struct cuda_lane *c = cuda_lane_of(lane);
  int64_t rows = views[0].shape[0], cols = views[0].shape[1];
  struct ka_lane_size size = {.n = rows < cols ? cols : rows, .m = rows < cols ? rows : cols};
  size.units = cuda_lane_units_of(size.n, size.m);
  for (int i = 0; i < n_units; i++) {
    int64_t b = (int64_t)ka_dtype_bytes(views[i].dtype);
    size.elem_bytes = b > size.elem_bytes ? b : size.elem_bytes;
  }
  KA_NEVER(ctx, n_units > size.units);
  LANE_TRY(lane, cudaSetDevice(cuda_of(lane->engine.dev)->device)); /* of this thread */
  struct cuda_lane counting = {0};
  c->held = cut(&counting, &size);
  if (c->held > c->n_bytes) return no_room(lane, c->held);
  (void)cut(c, &size);
  c->units = size.units;
  c->raws.n = size.n;
  c->raws.m = size.m;
  c->raws.wide = rows < cols;
  for (int i = 0; i < n_units; i++) {
    c->raws.of[i].type = views[i].dtype;
    KA_TRY(upload(lane, i, &views[i]));
  }
  unsigned long long start[2 * KA_BATCH], *scan = (unsigned long long *)c->back;
  for (int i = 0; i < KA_BATCH; i++) start[2 * i] = 0, start[2 * i + 1] = ~0ull;
  KA_TRY(cuda_lane_send(lane, c->scan, start, sizeof start));
  KA_TRY(cuda_lane_launched(lane, "scan", lane_scan(c->stream, n_units, &c->raws, c->scan)));
  LANE_TRY(lane, cudaMemcpyAsync(scan, c->scan, sizeof start, cudaMemcpyDefault, c->stream));
  KA_TRY(cuda_lane_sync(lane));
  for (int i = 0; i < n_units; i++) describe(c, i, &views[i], scan + 2 * i, &p[i]);
  return KA_STATUS_OK;
}
