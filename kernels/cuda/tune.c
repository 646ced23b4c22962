/* SPDX-License-Identifier: Apache-2.0
 * See tune.h. An algorithm is 64 opaque bytes that mean the same to the same library version. */
#include "kernels/cuda/tune.h"

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CANDIDATES = 8, REPEATS = 3, CACHE_VERSION = 1, CACHE_BYTES = 64 << 20 };

struct choice {
  struct cuda_product_key key;
  bool none; /* cuBLASLt has no algorithm */
  cublasLtMatmulAlgo_t algo;
};

struct cuda_tuner {
  struct choice *choices;
  int64_t n, cap;
  bool changed; /* since the file was read */
  cublasLtMatmulPreference_t preference;
  cudaEvent_t begin, end;
};

static struct choice *find(const struct cuda_tuner *t, const struct cuda_product_key *key) {
  for (int64_t i = 0; i < t->n; i++)
    if (memcmp(&t->choices[i].key, key, sizeof *key) == 0) return &t->choices[i];
  return NULL;
}

static ka_status remember(struct ka_dev *dev, const struct choice *c) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_tuner *t = cuda_of(dev)->tuner;
  struct choice *old = find(t, &c->key);
  if (!old) {
    void *items = t->choices;
    KA_TRY(ka_grow(ctx, &items, &t->cap, t->n + 1, sizeof *t->choices, "matmul choices"));
    t->choices = items;
    old = &t->choices[t->n++];
  }
  *old = *c;
  return KA_STATUS_OK;
}

/* --- text: whose it is, then the key's and the algorithm's bytes in hexadecimal, a line each --- */

enum { OWNER_BYTES = 320 };

/* An algorithm's bytes mean nothing to another library version, its speed nothing to another
 * device. */
static size_t owner(struct ka_dev *dev, char line[OWNER_BYTES]) {
  return (size_t)snprintf(line, OWNER_BYTES, "cuBLASLt %zu, %s\n", cublasLtGetVersion(),
                          cuda_of(dev)->props.name);
}

static ka_status put_hex(struct ka_ctx *ctx, struct ka_str *text, const void *bytes, size_t n) {
  for (size_t i = 0; i < n; i++)
    KA_TRY(ka_str_printf(ctx, text, "%02x", ((const unsigned char *)bytes)[i]));
  return KA_STATUS_OK;
}

static bool get_hex(const char *text, void *bytes, size_t n) {
  for (size_t i = 0; i < n; i++) {
    unsigned value;
    if (sscanf(text + 2 * i, "%2x", &value) != 1) return false;
    ((unsigned char *)bytes)[i] = (unsigned char)value;
  }
  return true;
}

ka_status cuda_choices_get(struct ka_dev *dev, struct ka_str *text) {
  struct ka_ctx *ctx = dev->ctx;
  const struct cuda_tuner *t = cuda_of(dev)->tuner;
  char line[OWNER_BYTES];
  if (t->n == 0) return KA_STATUS_OK;
  (void)owner(dev, line);
  KA_TRY(ka_str_puts(ctx, text, line));
  for (int64_t i = 0; i < t->n; i++) {
    const struct choice *c = &t->choices[i];
    KA_TRY(put_hex(ctx, text, &c->key, sizeof c->key));
    KA_TRY(ka_str_puts(ctx, text, c->none ? " none" : " "));
    if (!c->none) KA_TRY(put_hex(ctx, text, &c->algo, sizeof c->algo));
    KA_TRY(ka_str_puts(ctx, text, "\n"));
  }
  return KA_STATUS_OK;
}

ka_status cuda_choices_set(struct ka_dev *dev, const char *text) {
  struct ka_ctx *ctx = dev->ctx;
  char mine[OWNER_BYTES];
  size_t n = owner(dev, mine);
  int n_line = (int)strcspn(text, "\n");
  if (strncmp(text, mine, n) != 0) {
    ka_debug(ctx, "cuda", "matmul choices of \"%.*s\" are not for %.*s",
             n_line < 100 ? n_line : 100, text, (int)n - 1, mine);
    return KA_STATUS_OK;
  }
  for (const char *line = text + n; *line;) {
    const char *end = strchr(line, '\n'), *space = strchr(line, ' ');
    struct choice c = {0};
    if (!end || !space || space > end || space - line != (ptrdiff_t)(2 * sizeof c.key) ||
        !get_hex(line, &c.key, sizeof c.key))
      return KA_STATUS_OK; /* cut off: what follows is measured again */
    c.none = strncmp(space + 1, "none", 4) == 0;
    bool whole = end - space - 1 == (ptrdiff_t)(2 * sizeof c.algo);
    if (!c.none && (!whole || !get_hex(space + 1, &c.algo, sizeof c.algo))) return KA_STATUS_OK;
    KA_TRY(remember(dev, &c));
    line = end + 1;
  }
  return KA_STATUS_OK;
}

/* --- disk ------------------------------------------------------------------------------------ */

/* ~/.cache/kappa/matmul-VERSION-LIBRARY-DEVICE.txt; NULL without a home. */
static ka_status cache_path(struct ka_dev *dev, struct ka_arena *a, const char **dir,
                            const char **path) {
  struct ka_ctx *ctx = dev->ctx;
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  char device[256];
  *path = NULL;
  if (!(cache && *cache) && !(home && *home)) return KA_STATUS_OK;
  if (cache && *cache)
    KA_TRY(ka_arena_printf(a, dir, "%s/kappa", cache));
  else
    KA_TRY(ka_arena_printf(a, dir, "%s/.cache/kappa", home));
  snprintf(device, sizeof device, "%s", cuda_of(dev)->props.name);
  for (char *p = device; *p; p++)
    if (*p == ' ' || *p == '/') *p = '-';
  return ka_arena_printf(a, path, "%s/matmul-%d-%zu-%s.txt", *dir, CACHE_VERSION,
                         cublasLtGetVersion(), device);
}

static ka_status read_cache(struct ka_dev *dev, const char *path) {
  struct ka_ctx *ctx = dev->ctx;
  struct ka_str text = {0};
  if (!path || !ka_path_exists(path)) return KA_STATUS_OK;
  ka_status st = ka_read_file(ctx, path, CACHE_BYTES, &text);
  if (ka_ok(st) && text.data) st = cuda_choices_set(dev, text.data);
  ka_str_deinit(&text);
  return st;
}

static ka_status write_cache(struct ka_dev *dev, const char *dir, const char *path) {
  struct ka_ctx *ctx = dev->ctx;
  struct ka_str text = {0};
  ka_status st = KA_STATUS_OK;
  if (!path) return KA_STATUS_OK;
  KA_TRY(read_cache(dev, path)); /* who came first stays, so that runs repeat */
  KA_TRY_GOTO(cuda_choices_get(dev, &text), out);
  KA_TRY_GOTO(ka_make_dirs(ctx, dir), out);
  KA_TRY_GOTO(ka_write_file(ctx, path, text.data, text.len), out);
out:
  ka_str_deinit(&text);
  return st;
}

/* A cache that cannot be read or written costs a measurement, nothing else. */
static void with_cache(struct ka_dev *dev, bool write) {
  struct ka_ctx *ctx = dev->ctx;
  struct ka_arena a;
  const char *dir = NULL, *path = NULL;
  ka_arena_init(&a, ctx, "matmul cache");
  bool clean = ctx->error.code == KA_OK;
  ka_status st = cache_path(dev, &a, &dir, &path);
  if (ka_ok(st)) st = write ? write_cache(dev, dir, path) : read_cache(dev, path);
  if (!ka_ok(st) && clean) {
    ka_warn(ctx, "cuda", "matmul choices are not kept: %s", ctx->error.message);
    ka_error_clear(ctx);
  }
  ka_arena_deinit(&a);
}

/* --- choosing -------------------------------------------------------------------------------- */

ka_status cuda_tuner_open(struct ka_dev *dev) {
  struct ka_ctx *ctx = dev->ctx;
  void *memory = NULL;
  const size_t workspace = CUDA_WORKSPACE_BYTES;
  /* Partial sums in place would be added in the order in which blocks finish. */
  const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK & ~CUBLASLT_REDUCTION_SCHEME_INPLACE;
  KA_TRY(ka_alloc(ctx, &memory, sizeof(struct cuda_tuner), "matmul choices"));
  struct cuda_tuner *t = cuda_of(dev)->tuner = memory;
  CU_TRY(dev, cudaEventCreate(&t->begin));
  CU_TRY(dev, cudaEventCreate(&t->end));
  cublasStatus_t e = cublasLtMatmulPreferenceCreate(&t->preference);
  if (!e)
    e = cublasLtMatmulPreferenceSetAttribute(
        t->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
  if (!e)
    e = cublasLtMatmulPreferenceSetAttribute(
        t->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes);
  if (e) return ka_fail(ctx, KA_E_DEVICE, "cuBLASLt preference: %s", cublasLtGetStatusString(e));
  if (!(cuda_of(dev)->without & CUDA_TUNING)) with_cache(dev, false);
  return KA_STATUS_OK;
}

void cuda_tuner_close(struct ka_dev *dev) {
  struct cuda_tuner *t = cuda_of(dev)->tuner;
  if (!t) return;
  if (t->changed && !(cuda_of(dev)->without & CUDA_TUNING)) with_cache(dev, true);
  if (t->preference) (void)cublasLtMatmulPreferenceDestroy(t->preference);
  if (t->begin) (void)cudaEventDestroy(t->begin);
  if (t->end) (void)cudaEventDestroy(t->end);
  ka_free(t->choices);
  ka_free(t);
  cuda_of(dev)->tuner = NULL;
}

static cublasStatus_t candidates(struct ka_dev *dev, const struct cuda_product *p,
                                 cublasLtMatmulHeuristicResult_t found[CANDIDATES], int *n) {
  struct cuda_state *s = cuda_of(dev);
  const cublasLtMatmulPreferenceAttributes_t names[] = {
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
  const uint32_t values[] = {p->key.align[1], p->key.align[0], p->key.align[2], p->key.align[2]};
  cublasStatus_t e = CUBLAS_STATUS_SUCCESS;
  *n = 0;
  for (int i = 0; i < 4 && !e; i++)
    e = cublasLtMatmulPreferenceSetAttribute(s->tuner->preference, names[i], &values[i],
                                             sizeof values[i]);
  if (!e)
    e = cublasLtMatmulAlgoGetHeuristic(s->lt, p->op, p->first, p->second, p->out, p->out,
                                       s->tuner->preference, CANDIDATES, found, n);
  bool refused = e == CUBLAS_STATUS_INVALID_VALUE && p->key.epilogue != CUBLASLT_EPILOGUE_DEFAULT;
  if (e == CUBLAS_STATUS_NOT_SUPPORTED || refused) {
    *n = 0;
    return CUBLAS_STATUS_SUCCESS;
  }
  int kept = 0;
  for (int i = 0; i < *n; i++)
    if (found[i].state == CUBLAS_STATUS_SUCCESS) found[kept++] = found[i];
  *n = kept;
  return e;
}

/* Milliseconds of one product, the best of a few; negative when it fails. */
static float time_of(struct ka_dev *dev, const struct cuda_product *p,
                     const cublasLtMatmulAlgo_t *algo, void *to) {
  struct cuda_tuner *t = cuda_of(dev)->tuner;
  cudaStream_t stream = cuda_of(dev)->stream;
  float best = -1;
  for (int i = 0; i <= REPEATS; i++) { /* the first warms up */
    float ms = 0;
    if (cudaEventRecord(t->begin, stream) || cuda_product_run(dev, p, algo, to) ||
        cudaEventRecord(t->end, stream) || cudaEventSynchronize(t->end) ||
        cudaEventElapsedTime(&ms, t->begin, t->end))
      return -1;
    if (i > 0 && (best < 0 || ms < best)) best = ms;
  }
  return best;
}

/* The fastest of the candidates. A product that accumulates is measured into memory of its own,
 * where there is some, so that it is not added twice; else the first candidate serves. */
static ka_status measure(struct ka_dev *dev, const struct cuda_product *p,
                         const cublasLtMatmulHeuristicResult_t *found, int n, int *best) {
  const struct ka_tensor *out = &p->args->out;
  size_t n_bytes = (size_t)(out->shape[0] * out->row_stride) * ka_dtype_bytes(out->dtype);
  void *to = out->data, *own = NULL;
  *best = 0;
  if (p->args->accumulate) {
    if (cudaMalloc(&own, n_bytes) != cudaSuccess) {
      (void)cudaGetLastError();
      return KA_STATUS_OK;
    }
    to = own;
  }
  float least = -1;
  for (int i = 0; i < n; i++) {
    float ms = time_of(dev, p, &found[i].algo, to);
    if (ms < 0 || (least >= 0 && ms >= least)) continue;
    least = ms;
    *best = i;
  }
  cudaError_t e = cudaGetLastError();
  (void)cudaFree(own);
  if (e != cudaSuccess) return cuda_fail(dev, e, "measuring matmul algorithms");
  return KA_STATUS_OK;
}

ka_status cuda_tuner_choose(struct ka_dev *dev, const struct cuda_product *p,
                            const cublasLtMatmulAlgo_t **algo) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  const struct choice *known = find(s->tuner, &p->key);
  if (!known) {
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    struct choice c = {.key = p->key};
    int n = 0, best = 0;
    cublasStatus_t e = candidates(dev, p, found, &n);
    if (e) return ka_fail(ctx, KA_E_DEVICE, "cuBLASLt heuristic: %s", cublasLtGetStatusString(e));
    if (n > 1 && !s->capturing && !(s->without & CUDA_TUNING))
      KA_TRY(measure(dev, p, found, n, &best));
    c.none = n == 0;
    if (n > 0) c.algo = found[best].algo;
    KA_TRY(remember(dev, &c));
    s->tuner->changed = true;
    known = find(s->tuner, &p->key);
  }
  *algo = known->none ? NULL : &known->algo;
  return KA_STATUS_OK;
}
