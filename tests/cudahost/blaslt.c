/* SPDX-License-Identifier: Apache-2.0
 * cuBLASLt on the processor. Three algorithms, which differ in the order of the sum and so in the
 * last bits, as real ones do, and where the caller allows that reduction the one that rounds its
 * partial sums to the output's type, offered first; what an algorithm was promised (alignments,
 * workspace) is checked when it is used. Products of addresses that are not even aligned to 4 bytes
 * are not supported, so that callers need another way for them. */
#include "cublasLt.h"

#include "tests/cudahost/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_ALGOS = 3, BY_OUTPUT_TYPE = 3, WORKSPACE = 1 << 16 };

struct matmul {
  cublasComputeType_t compute;
  cublasOperation_t trans[2];
  cublasLtEpilogue_t epilogue;
  void *bias, *aux;
  cudaDataType_t bias_type, aux_type;
  int64_t aux_ld;
};
enum { BIAS = 4, GELU = 32, DGELU = 64, AUX = 128 }; /* bits of an epilogue */
struct layout {
  cudaDataType_t type;
  int64_t rows, cols, ld;
};
struct preference {
  uint64_t workspace;
  uint32_t schemes, align[4]; /* of A, B, C, D */
};
struct algo { /* in the opaque bytes */
  uint32_t magic, id, align[4];
};
_Static_assert(sizeof(struct algo) <= sizeof(cublasLtMatmulAlgo_t), "an algorithm is 64 bytes");
enum { MAGIC = 0x6b61 };

const char *cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
  case CUBLAS_STATUS_SUCCESS:
    return "success";
  case CUBLAS_STATUS_NOT_SUPPORTED:
    return "not supported";
  case CUBLAS_STATUS_INVALID_VALUE:
    return "an invalid value";
  case CUBLAS_STATUS_ALLOC_FAILED:
    return "allocation failed";
  default:
    return "failed";
  }
}

size_t cublasLtGetVersion(void) { return 130000; }

static cublasStatus_t create(void **out, size_t n_bytes) {
  *out = calloc(1, n_bytes);
  return *out ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}
static cublasStatus_t destroy(void *p) {
  free(p);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) { return create((void **)handle, 8); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return destroy(handle); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  cublasStatus_t e = create((void **)desc, sizeof **desc);
  if (e) return e;
  *(struct matmul *)(void *)*desc =
      (struct matmul){.compute = compute, .epilogue = CUBLASLT_EPILOGUE_DEFAULT};
  return scale == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) { return destroy(desc); }

static cublasStatus_t set(void *field, size_t size, const void *buf, size_t n_bytes) {
  if (size != n_bytes) return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(field, buf, size);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attr, const void *buf,
                                              size_t n_bytes) {
  struct matmul *m = (void *)desc;
  switch (attr) {
  case CUBLASLT_MATMUL_DESC_TRANSA:
    return set(&m->trans[0], sizeof m->trans[0], buf, n_bytes);
  case CUBLASLT_MATMUL_DESC_TRANSB:
    return set(&m->trans[1], sizeof m->trans[1], buf, n_bytes);
  case CUBLASLT_MATMUL_DESC_EPILOGUE:
    return set(&m->epilogue, sizeof m->epilogue, buf, n_bytes);
  case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
    return set(&m->bias, sizeof m->bias, buf, n_bytes);
  case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
    return set(&m->bias_type, sizeof m->bias_type, buf, n_bytes);
  case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
    return set(&m->aux, sizeof m->aux, buf, n_bytes);
  case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
    return set(&m->aux_ld, sizeof m->aux_ld, buf, n_bytes);
  case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE:
    return set(&m->aux_type, sizeof m->aux_type, buf, n_bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  cublasStatus_t e = create((void **)layout, sizeof **layout);
  if (e) return e;
  *(struct layout *)(void *)*layout = (struct layout){type, (int64_t)rows, (int64_t)cols, ld};
  return rows > 0 && cols > 0 && ld >= (int64_t)rows ? CUBLAS_STATUS_SUCCESS
                                                     : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return destroy(layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *pref) {
  cublasStatus_t e = create((void **)pref, sizeof **pref);
  if (e) return e;
  *(struct preference *)(void *)*pref =
      (struct preference){0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t pref) {
  return destroy(pref);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
                                                    cublasLtMatmulPreferenceAttributes_t attr,
                                                    const void *buf, size_t n_bytes) {
  struct preference *p = (void *)pref;
  if (attr == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
    return set(&p->workspace, sizeof p->workspace, buf, n_bytes);
  if (attr == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
    return set(&p->schemes, sizeof p->schemes, buf, n_bytes);
  int i = (int)attr - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
  return i >= 0 && i < 4 ? set(&p->align[i], sizeof p->align[i], buf, n_bytes)
                         : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t pref, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int *got) {
  const struct preference *p = (const void *)pref;
  const struct matmul *m = (const void *)desc;
  const struct layout *out = (const void *)d;
  (void)handle, (void)a, (void)b, (void)c;
  *got = 0;
  bool grad = m->epilogue == CUBLASLT_EPILOGUE_BGRADB;
  if ((m->epilogue & BIAS || grad) && m->bias_type != out->type) return CUBLAS_STATUS_INVALID_VALUE;
  if (grad && p->align[1] < 16) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (m->epilogue & AUX && (m->aux_ld % 8 || (uintptr_t)m->aux % 16))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  for (int i = 0; i < 4; i++)
    if (p->align[i] < 4) return CUBLAS_STATUS_NOT_SUPPORTED;
  bool rounds = p->schemes & CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
  for (uint32_t i = rounds ? 0 : 1; i <= N_ALGOS && *got < wanted; i++) {
    struct algo algo = {
        MAGIC, i ? i - 1 : BY_OUTPUT_TYPE, {p->align[0], p->align[1], p->align[2], p->align[3]}};
    cublasLtMatmulHeuristicResult_t *r = &results[(*got)++];
    *r = (cublasLtMatmulHeuristicResult_t){
        .workspaceSize = p->workspace < WORKSPACE ? (size_t)p->workspace : WORKSPACE};
    memcpy(&r->algo, &algo, sizeof algo);
  }
  return CUBLAS_STATUS_SUCCESS;
}

static bool known(const struct algo *a) { return a->magic == MAGIC && a->id <= BY_OUTPUT_TYPE; }

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result) {
  struct algo chosen;
  (void)handle, (void)desc, (void)a, (void)b, (void)c, (void)d;
  memcpy(&chosen, algo, sizeof chosen);
  *result = (cublasLtMatmulHeuristicResult_t){.algo = *algo, .workspaceSize = WORKSPACE};
  return known(&chosen) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

/* --- the product ----------------------------------------------------------------------------- */

struct product {
  struct matmul op;
  struct layout a, b, c, d;
  const void *A, *B, *C;
  void *D;
  float alpha, beta;
  uint32_t algo;
};

static size_t size_of(cudaDataType_t t) { return t == CUDA_R_16BF ? 2 : 4; }

static float get(const void *p, cudaDataType_t type, int64_t i) {
  union {
    uint32_t u;
    float f;
  } v;
  if (type == CUDA_R_32F) return ((const float *)p)[i];
  v.u = (uint32_t)((const uint16_t *)p)[i] << 16;
  return v.f;
}

static void put(void *p, cudaDataType_t type, int64_t i, float x) {
  union {
    float f;
    uint32_t u;
  } v = {x};
  if (type == CUDA_R_32F)
    ((float *)p)[i] = x;
  else if (x != x)
    ((uint16_t *)p)[i] = 0x7fff;
  else
    ((uint16_t *)p)[i] = (uint16_t)((v.u + 0x7fffu + (v.u >> 16 & 1u)) >> 16);
}

/* op(X) [rows, cols], column-major, as floats. */
static float *unpacked(const void *x, const struct layout *l, cublasOperation_t op) {
  float *to = malloc((size_t)(l->rows * l->cols) * sizeof *to);
  int64_t rows = op == CUBLAS_OP_N ? l->rows : l->cols;
  for (int64_t j = 0; j < l->cols && to; j++)
    for (int64_t i = 0; i < l->rows; i++)
      to[op == CUBLAS_OP_N ? i + j * rows : j + i * rows] = get(x, l->type, i + j * l->ld);
  return to;
}

/* Which term of the sum comes at place i: forwards, backwards, or the two halves in turn. */
static int64_t term(uint32_t algo, int64_t i, int64_t n) {
  if (algo == 0 || algo == BY_OUTPUT_TYPE) return i;
  if (algo == 1) return n - 1 - i;
  return i % 2 ? (n + 1) / 2 + i / 2 : i / 2;
}

static void gelu(float x, float *y, float *slope) {
  float c = 0.7978845608f, d = 0.044715f, t = tanhf(c * (x + d * x * x * x));
  *y = 0.5f * x * (1 + t);
  *slope = 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * c * (1 + 3 * d * x * x);
}

static float epilogue(const struct matmul *m, int64_t i, int64_t j, float x) {
  float y, slope;
  if (m->epilogue & BIAS) x += get(m->bias, m->bias_type, i);
  if (m->epilogue & DGELU) {
    gelu(get(m->aux, m->aux_type, i + j * m->aux_ld), &y, &slope);
    return x * slope;
  }
  if (!(m->epilogue & GELU)) return x;
  if (m->epilogue & AUX) put(m->aux, m->aux_type, i + j * m->aux_ld, x);
  gelu(x, &y, &slope);
  return y;
}

static cudaError_t run(void *user) {
  const struct product *p = user;
  int64_t m = p->d.rows, n = p->d.cols;
  int64_t inner = p->op.trans[0] == CUBLAS_OP_N ? p->a.cols : p->a.rows;
  float *a = unpacked(p->A, &p->a, p->op.trans[0]), *b = unpacked(p->B, &p->b, p->op.trans[1]);
  float *sum = malloc((size_t)m * sizeof *sum), rounded;
  for (int64_t j = 0; j < n && a && b && sum; j++) {
    memset(sum, 0, (size_t)m * sizeof *sum);
    for (int64_t t = 0; t < inner; t++) {
      int64_t k = term(p->algo, t, inner);
      float x = b[k + j * inner];
      for (int64_t i = 0; i < m; i++) sum[i] += a[i + k * m] * x;
      for (int64_t i = 0; i < m && p->algo == BY_OUTPUT_TYPE && t == inner / 2; i++) {
        put(&rounded, p->d.type, 0, sum[i]);
        sum[i] = get(&rounded, p->d.type, 0);
      }
    }
    for (int64_t i = 0; i < m; i++) {
      float x = p->alpha * sum[i];
      if (p->beta != 0) x += p->beta * get(p->C, p->c.type, i + j * p->c.ld);
      put(p->D, p->d.type, i + j * p->d.ld, epilogue(&p->op, i, j, x));
    }
    if (p->op.epilogue == CUBLASLT_EPILOGUE_BGRADB) {
      float total = 0;
      for (int64_t k = 0; k < inner; k++) total += b[k + j * inner];
      put(p->op.bias, p->op.bias_type, j, total);
    }
  }
  cudaError_t e = a && b && sum ? cudaSuccess : cudaErrorMemoryAllocation;
  free(a);
  free(b);
  free(sum);
  return e;
}

static struct cudahost_range range(const void *p, const struct layout *l) {
  return (struct cudahost_range){p, (size_t)l->rows * size_of(l->type), (size_t)l->cols,
                                 (size_t)l->ld * size_of(l->type)};
}

static bool aligned(const void *p, uint32_t to) { return (uintptr_t)p % to == 0; }

static bool shapes_fit(const struct product *p) {
  bool ta = p->op.trans[0] != CUBLAS_OP_N, tb = p->op.trans[1] != CUBLAS_OP_N;
  int64_t m = ta ? p->a.cols : p->a.rows, ka = ta ? p->a.rows : p->a.cols;
  int64_t n = tb ? p->b.rows : p->b.cols, kb = tb ? p->b.cols : p->b.rows;
  return m == p->d.rows && n == p->d.cols && ka == kb && p->c.rows == m && p->c.cols == n &&
         p->a.type == p->b.type && p->c.type == p->d.type;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t a, const void *B,
                              cublasLtMatrixLayout_t b, const void *beta, const void *C,
                              cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  struct product p = {.A = A, .B = B, .C = C, .D = D};
  struct algo chosen;
  if (!handle || !algo || (workspace_bytes && !workspace)) return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(&p.op, desc, sizeof p.op);
  memcpy(&p.a, a, sizeof p.a);
  memcpy(&p.b, b, sizeof p.b);
  memcpy(&p.c, c, sizeof p.c);
  memcpy(&p.d, d, sizeof p.d);
  memcpy(&p.alpha, alpha, sizeof p.alpha);
  memcpy(&p.beta, beta, sizeof p.beta);
  memcpy(&chosen, algo, sizeof chosen);
  p.algo = chosen.id;
  const void *at[] = {A, B, C, D};
  for (int i = 0; i < 4; i++)
    if (!aligned(at[i], chosen.align[i])) return CUBLAS_STATUS_INVALID_VALUE;
  if (!known(&chosen) || !shapes_fit(&p)) return CUBLAS_STATUS_INVALID_VALUE;
  if (chosen.id < ch_setting(CH_BAD_MATMULS)) {
    ch_counters.injected++;
    return CUBLAS_STATUS_EXECUTION_FAILED;
  }
  struct cudahost_range reads[5] = {range(A, &p.a), range(B, &p.b)}, writes[3] = {range(D, &p.d)};
  int n_reads = 2, n_writes = 1;
  if (p.beta != 0) reads[n_reads++] = range(C, &p.c);
  if (p.op.epilogue & BIAS)
    reads[n_reads++] =
        (struct cudahost_range){p.op.bias, (size_t)p.d.rows * size_of(p.op.bias_type)};
  struct layout aux = {p.op.aux_type, p.d.rows, p.d.cols, p.op.aux_ld};
  if (p.op.epilogue & DGELU)
    reads[n_reads++] = range(p.op.aux, &aux);
  else if (p.op.epilogue & AUX)
    writes[n_writes++] = range(p.op.aux, &aux);
  if (p.op.epilogue == CUBLASLT_EPILOGUE_BGRADB)
    writes[n_writes++] =
        (struct cudahost_range){p.op.bias, (size_t)p.d.cols * size_of(p.op.bias_type)};
  cudaError_t e = cudahost_enqueue(stream, "cublasLtMatmul", run, &p, sizeof p, reads, n_reads,
                                   writes, n_writes);
  return e == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
