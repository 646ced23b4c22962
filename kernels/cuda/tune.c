/* SPDX-License-Identifier: Apache-2.0
 * See tune.h. An algorithm is 64 opaque bytes that mean the same to the same library version. */
#include "kernels/cuda/tune.h"

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CANDIDATES = 8, ROUNDS = 2, REPEATS = 3, CACHE_VERSION = 2, CACHE_BYTES = 64 << 20 };

struct choice {
  struct cuda_product_key key;
  bool none;     /* cuBLASLt has no algorithm */
  bool checked;  /* by this process: it fits the product, or comes from the heuristic */
  bool not_kept; /* on disk: what was chosen in need is chosen anew by the next process */
  cublasLtMatmulAlgo_t algo;
};

struct cuda_tuner {
  struct choice *choices;
  int64_t n, cap;
  int64_t *slots; /* places in choices + 1 by the key's hash; 0: free */
  int64_t n_slots, max_slots;
  bool changed; /* since the file was read */
  bool said;    /* that an algorithm failed */
  cublasLtMatmulPreference_t preference;
  cudaEvent_t begin, end;
};

/* The slot of the key, or the free one where it belongs. */
static int64_t *slot_of(const struct cuda_tuner *t, const struct cuda_product_key *key) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < sizeof *key; i++)
    hash = (hash ^ ((const unsigned char *)key)[i]) * 0x100000001b3u;
  for (int64_t i = (int64_t)(hash % (uint64_t)t->n_slots);; i = (i + 1) % t->n_slots)
    if (!t->slots[i] || memcmp(&t->choices[t->slots[i] - 1].key, key, sizeof *key) == 0)
      return &t->slots[i];
}

static struct choice *find(const struct cuda_tuner *t, const struct cuda_product_key *key) {
  int64_t place = t->n_slots ? *slot_of(t, key) : 0;
  return place ? &t->choices[place - 1] : NULL;
}

/* At least half of the slots stay free. */
static ka_status grow_slots(struct ka_ctx *ctx, struct cuda_tuner *t) {
  if (2 * (t->n + 1) <= t->n_slots) return KA_STATUS_OK;
  int64_t n = t->n_slots ? 2 * t->n_slots : 64;
  void *slots = t->slots;
  KA_TRY(ka_grow(ctx, &slots, &t->max_slots, n, sizeof *t->slots, "matmul choices"));
  t->slots = slots;
  t->n_slots = n;
  memset(t->slots, 0, (size_t)n * sizeof *t->slots);
  for (int64_t i = 0; i < t->n; i++) *slot_of(t, &t->choices[i].key) = i + 1;
  return KA_STATUS_OK;
}

static ka_status remember(struct ka_dev *dev, const struct choice *c) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_tuner *t = cuda_of(dev)->tuner;
  struct choice *old = find(t, &c->key);
  if (!old) {
    void *items = t->choices;
    KA_TRY(ka_grow(ctx, &items, &t->cap, t->n + 1, sizeof *t->choices, "matmul choices"));
    t->choices = items;
    KA_TRY(grow_slots(ctx, t));
    *slot_of(t, &c->key) = t->n + 1;
    old = &t->choices[t->n++];
  }
  *old = *c;
  return KA_STATUS_OK;
}

/* --- text: whose it is, then the key's and the algorithm's bytes in hexadecimal, a line each -- */

enum { OWNER_BYTES = 320 };

/* An algorithm's bytes mean nothing to another library version, its speed nothing to another
 * device or to another part of one (MIG). */
static size_t owner(struct ka_dev *dev, char line[OWNER_BYTES]) {
  return (size_t)snprintf(line, OWNER_BYTES, "cuBLASLt %zu, %s, %d SMs\n", cublasLtGetVersion(),
                          cuda_of(dev)->props.name, cuda_of(dev)->n_sm);
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

static ka_status choices_text(struct ka_dev *dev, struct ka_str *text, bool disk) {
  struct ka_ctx *ctx = dev->ctx;
  const struct cuda_tuner *t = cuda_of(dev)->tuner;
  char line[OWNER_BYTES];
  if (t->n == 0) return KA_STATUS_OK;
  (void)owner(dev, line);
  KA_TRY(ka_str_puts(ctx, text, line));
  for (int64_t i = 0; i < t->n; i++) {
    const struct choice *c = &t->choices[i];
    if (disk && c->not_kept) continue;
    KA_TRY(put_hex(ctx, text, &c->key, sizeof c->key));
    KA_TRY(ka_str_puts(ctx, text, c->none ? " none" : " "));
    if (!c->none) KA_TRY(put_hex(ctx, text, &c->algo, sizeof c->algo));
    KA_TRY(ka_str_puts(ctx, text, "\n"));
  }
  return KA_STATUS_OK;
}

ka_status cuda_choices_get(struct ka_dev *dev, struct ka_str *text) {
  return choices_text(dev, text, false);
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

/* matmul-VERSION-LIBRARY-DEVICE-SMS.txt in the cache; NULL without one. */
static ka_status cache_path(struct ka_dev *dev, struct ka_arena *a, const char **dir,
                            const char **path) {
  struct ka_ctx *ctx = dev->ctx;
  char device[256];
  *path = NULL;
  KA_TRY(ka_cache_dir(a, dir));
  if (!*dir) return KA_STATUS_OK;
  snprintf(device, sizeof device, "%s", cuda_of(dev)->props.name);
  for (char *p = device; *p; p++)
    if (*p == ' ' || *p == '/') *p = '-';
  return ka_arena_printf(a, path, "%s/matmul-%d-%zu-%s-%d.txt", *dir, CACHE_VERSION,
                         cublasLtGetVersion(), device, cuda_of(dev)->n_sm);
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
  KA_TRY_GOTO(choices_text(dev, &text, true), out);
  if (text.len == 0) goto out;
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
  /* Partial sums in place would be added in the order in which blocks finish, those of the output's
   * type would be rounded to bf16, and a race of timings would decide on it. */
  const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
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
  ka_free(t->slots);
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

/* Milliseconds of one product, the best of a few; negative when it fails, and nothing of that
 * stays. */
static float time_of(struct ka_dev *dev, const struct cuda_product *p,
                     const cublasLtMatmulAlgo_t *algo, void *to) {
  struct cuda_tuner *t = cuda_of(dev)->tuner;
  cudaStream_t stream = cuda_of(dev)->stream;
  float best = -1;
  for (int i = 0; i < REPEATS; i++) {
    float ms = 0;
    if (cudaEventRecord(t->begin, stream) || cuda_product_run(dev, p, algo, to) ||
        cudaEventRecord(t->end, stream) || cudaEventSynchronize(t->end) ||
        cudaEventElapsedTime(&ms, t->begin, t->end))
      return -1;
    if (best < 0 || ms < best) best = ms;
  }
  return best;
}

/* The fastest that works, into memory at `to`; -1: none works. All of them run once before any is
 * timed, so that none is measured on cold clocks, and then in turns. */
static ka_status race(struct ka_dev *dev, const struct cuda_product *p,
                      const cublasLtMatmulHeuristicResult_t *found, int n, void *to, int *best) {
  float least[CANDIDATES];
  *best = -1;
  for (int i = 0; i < n; i++) least[i] = INFINITY;
  for (int round = 0; round <= ROUNDS; round++)
    for (int i = 0; i < n; i++) {
      if (least[i] < 0) continue;
      float ms = time_of(dev, p, &found[i].algo, to);
      cudaError_t e = ms < 0 ? cudaGetLastError() : cudaSuccess;
      if (cuda_sticky(e)) return cuda_fail(dev, e, "measuring matmul algorithms");
      if (ms < 0 || (round > 0 && ms < least[i])) least[i] = ms;
    }
  for (int i = 0; i < n; i++)
    if (least[i] >= 0 && (*best < 0 || least[i] < least[*best])) *best = i;
  return KA_STATUS_OK;
}

/* The same for a product that accumulates, so that it is not added many times: into memory of its
 * own, or where the device has none left, in place, from where the sum went to the host's
 * memory meanwhile. */
static ka_status race_beside(struct ka_dev *dev, const struct cuda_product *p,
                             const cublasLtMatmulHeuristicResult_t *found, int n, int *best) {
  struct ka_ctx *ctx = dev->ctx;
  const struct ka_tensor *out = &p->args->out;
  size_t elem = ka_dtype_bytes(out->dtype);
  size_t n_bytes = (size_t)((out->shape[0] - 1) * out->row_stride + out->shape[1]) * elem;
  void *own = NULL, *kept = NULL;
  if (cudaMalloc(&own, n_bytes) == cudaSuccess) {
    ka_status st = race(dev, p, found, n, own, best);
    (void)cudaFree(own);
    return st;
  }
  (void)cudaGetLastError();
  KA_TRY(ka_alloc(ctx, &kept, n_bytes, "sum beside which matmul algorithms are measured"));
  ka_status st = cuda_download(dev, kept, out->data, n_bytes);
  if (ka_ok(st)) {
    st = race(dev, p, found, n, out->data, best);
    ka_status back = cuda_upload(dev, out->data, kept, n_bytes);
    if (ka_ok(st)) st = back;
  }
  ka_free(kept);
  return st;
}

/* The fastest of what the heuristic has; its first where nothing can be measured. */
static ka_status choose(struct ka_dev *dev, const struct cuda_product *p, struct choice *c) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  cublasLtMatmulHeuristicResult_t found[CANDIDATES];
  int n = 0, best = 0;
  cublasStatus_t e = candidates(dev, p, found, &n);
  if (e) return ka_fail(ctx, KA_E_DEVICE, "cuBLASLt heuristic: %s", cublasLtGetStatusString(e));
  if (n > 1 && !s->capturing && !(s->without & CUDA_TUNING)) {
    if (p->args->accumulate)
      KA_TRY(race_beside(dev, p, found, n, &best));
    else
      KA_TRY(race(dev, p, found, n, p->args->out.data, &best));
  }
  c->none = n == 0 || best < 0;
  c->not_kept = best < 0 || s->capturing;
  if (!c->none) c->algo = found[best].algo;
  return KA_STATUS_OK;
}

/* Does a remembered algorithm fit this product and the workspace? */
static bool serves(struct ka_dev *dev, const struct cuda_product *p, const struct choice *c) {
  cublasLtMatmulHeuristicResult_t r = {0};
  if (c->none || c->checked) return true;
  return cublasLtMatmulAlgoCheck(cuda_of(dev)->lt, p->op, p->first, p->second, p->out, p->out,
                                 &c->algo, &r) == CUBLAS_STATUS_SUCCESS &&
         r.workspaceSize <= CUDA_WORKSPACE_BYTES;
}

ka_status cuda_tuner_choose(struct ka_dev *dev, const struct cuda_product *p,
                            const cublasLtMatmulAlgo_t **algo) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_tuner *t = cuda_of(dev)->tuner;
  struct choice *known = find(t, &p->key);
  if (!known || !serves(dev, p, known)) {
    struct choice c = {.key = p->key};
    KA_TRY(choose(dev, p, &c));
    KA_TRY(remember(dev, &c));
    t->changed = true;
    known = find(t, &p->key);
  }
  known->checked = true;
  *algo = known->none ? NULL : &known->algo;
  return KA_STATUS_OK;
}

ka_status cuda_tuner_refuse(struct ka_dev *dev, const struct cuda_product *p, cublasStatus_t why,
                            const cublasLtMatmulAlgo_t **algo) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_tuner *t = cuda_of(dev)->tuner;
  struct choice c = {.key = p->key, .checked = true, .not_kept = true};
  cublasLtMatmulHeuristicResult_t found[CANDIDATES];
  int n = 0, next = 0;
  cudaError_t e = cudaGetLastError();
  if (cuda_sticky(e)) return cuda_fail(dev, e, "matmul");
  if (!t->said)
    ka_warn(ctx, "cuda",
            "an algorithm of cuBLASLt for matmul [%lld,%lld] x [%lld,%lld] fails (%s): another one "
            "takes its place, here and wherever that happens again",
            (long long)p->key.m, (long long)p->key.k, (long long)p->key.k, (long long)p->key.n,
            cublasLtGetStatusString(why));
  t->said = true;
  if (candidates(dev, p, found, &n)) n = 0;
  for (int i = 0; i < n; i++)
    if (memcmp(&found[i].algo, *algo, sizeof **algo) == 0) next = i + 1;
  c.none = next >= n;
  if (!c.none) c.algo = found[next].algo;
  KA_TRY(remember(dev, &c));
  *algo = c.none ? NULL : &find(t, &p->key)->algo;
  return KA_STATUS_OK;
}
