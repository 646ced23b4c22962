/* SPDX-License-Identifier: Apache-2.0
 * See repair.h. Differences are taken and shrunk in float64; a matrix is a tensor as [d0, rest]. */
#include "engine/forget/repair.h"

#include "base/str.h"
#include "engine/spectral/units.h"
#include "linalg/blas.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static const struct ka_repair_info infos[KA_N_REPAIRS] = {
#define KA_REPAIR(id, name, strengths, doc) {name, strengths, doc},
#include "engine/forget/repair.def"
#undef KA_REPAIR
};

const struct ka_repair_info *ka_repair_info(enum ka_repair_method method) { return &infos[method]; }

/* --- pairs of tensors ------------------------------------------------------------------------- */

static bool is_float(const struct ka_st_entry *e) {
  enum ka_dtype t = e->t.dtype;
  return !e->unreadable && (t == KA_F32 || t == KA_BF16 || t == KA_F16 || t == KA_F64);
}

static bool same_shape(const struct ka_tensor *a, const struct ka_tensor *b) {
  bool same = a->n_dim == b->n_dim;
  for (int d = 0; same && d < a->n_dim; d++) same = a->shape[d] == b->shape[d];
  return same;
}

static bool same_bytes(const struct ka_st_entry *a, const struct ka_st_entry *b) {
  return a->t.dtype == b->t.dtype && a->n_bytes == b->n_bytes &&
         (a->t.data == b->t.data || memcmp(a->t.data, b->t.data, a->n_bytes) == 0);
}

/* The base's tensor where the tuned one differs from it; NULL: nothing to do. */
static ka_status partner(struct ka_ctx *ctx, const struct ka_safetensors *base,
                         const struct ka_st_entry *e, const struct ka_st_entry **out) {
  const struct ka_st_entry *b = ka_st_find(base, e->name);
  *out = NULL;
  if (!b) return KA_STATUS_OK;
  if (!is_float(e) || !is_float(b)) {
    if (strcmp(e->dtype_name, b->dtype_name) == 0 && !is_float(e)) return KA_STATUS_OK;
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: dtype %s, in the base %s; expected F32, BF16, F16 or F64 in both", e->name,
                   e->dtype_name, b->dtype_name);
  }
  if (!same_shape(&e->t, &b->t))
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: its shape is not the base's; is this the model that was tuned?", e->name);
  if (!same_bytes(e, b)) *out = b;
  return KA_STATUS_OK;
}

/* --- the difference --------------------------------------------------------------------------- */

struct difference {
  const struct ka_st_entry *base, *tuned;
  double *d; /* [n] */
  int64_t n;
};

static ka_status subtract(struct ka_ctx *ctx, struct difference *x) {
  x->n = ka_tensor_elems(&x->tuned->t);
  KA_TRY(KA_NEW_HEAP(ctx, &x->d, x->n, "difference"));
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < x->n; i++)
    x->d[i] = ka_load(x->tuned->t.data, x->tuned->t.dtype, i) -
              ka_load(x->base->t.data, x->base->t.dtype, i);
  return KA_STATUS_OK;
}

/* to = base + scale d, in memory of its own. */
static ka_status add_back(struct ka_safetensors *files, struct ka_st_entry *to,
                          const struct difference *x, double scale) {
  struct ka_ctx *ctx = files->arena.ctx;
  void *mem = NULL;
  KA_TRY(ka_arena_alloc(&files->arena, &mem, to->n_bytes, "repaired tensors"));
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < x->n; i++)
    ka_data_store(mem, to->t.dtype, i,
                  ka_load(x->base->t.data, x->base->t.dtype, i) + scale * x->d[i]);
  to->t.data = mem;
  to->shard = (int)files->n_shards + 1;
  to->offset_bytes = 0;
  return KA_STATUS_OK;
}

/* --- spectra ---------------------------------------------------------------------------------- */

/* A row-major [rows, cols] matrix is the column-major [cols, rows] one: u and v change places. */
struct svd {
  int64_t rows, cols, k;
  double *a, *s, *left, *right; /* left [k, rows] and right [k, cols]: a vector a row */
};

static void svd_free(struct svd *x) {
  ka_free(x->a);
  *x = (struct svd){0};
}

/* Of the matrix in a [rows, cols], which is copied. */
static ka_status svd_of(struct ka_ctx *ctx, struct svd *x, const double *a, int64_t rows,
                        int64_t cols) {
  int64_t k = rows < cols ? rows : cols;
  *x = (struct svd){.rows = rows, .cols = cols, .k = k};
  KA_TRY(KA_NEW_HEAP(ctx, &x->a, rows * cols + k + k * rows + k * cols + 1, "svd"));
  x->s = x->a + rows * cols;
  x->left = x->s + k;
  x->right = x->left + k * rows;
  memcpy(x->a, a, (size_t)(rows * cols) * sizeof *a);
  const struct ka_blas *blas = ka_blas_cpu();
  blas->threads(omp_get_max_threads());
  ka_status st = blas->svd(ctx, cols, rows, x->a, x->s, x->right, x->left);
  if (!ka_ok(st)) svd_free(x);
  return st;
}

/* The part of [0, angle] of the Marchenko-Pastur law of ratio beta, t = low + width
 * sin^2(angle). */
static double law_up_to(double beta, double angle) {
  enum { STEPS = 400 };
  double low = (1 - sqrt(beta)) * (1 - sqrt(beta)), width = 4 * sqrt(beta), sum = 0;
  for (int i = 0; i <= STEPS; i++) {
    double x = angle * i / STEPS, s2 = sin(x) * sin(x), t = low + width * s2;
    double ratio = t > 0 ? s2 / t : 1 / width;
    double f = width * width * ratio * cos(x) * cos(x) / (M_PI * beta);
    sum += f * (i == 0 || i == STEPS ? 1 : i % 2 ? 4 : 2);
  }
  return sum * angle / STEPS / 3; /* Simpson */
}

double ka_repair_threshold(double beta) {
  double a = 0, b = M_PI / 2;
  for (int i = 0; i < 60; i++) {
    double mid = (a + b) / 2;
    *(law_up_to(beta, mid) < 0.5 ? &a : &b) = mid;
  }
  double low = (1 - sqrt(beta)) * (1 - sqrt(beta));
  double median = low + 4 * sqrt(beta) * sin(a) * sin(a);
  double lambda = sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + sqrt(beta * beta + 14 * beta + 1)));
  return lambda / sqrt(median);
}

static double median_of(const double *s, int64_t k) {
  return k % 2 ? s[k / 2] : (s[k / 2 - 1] + s[k / 2]) / 2;
}

/* d [rows, cols] without its small singular values. */
static ka_status threshold(struct ka_ctx *ctx, double *d, int64_t rows, int64_t cols,
                           double strength, struct ka_repair_counts *counts) {
  struct svd x;
  int64_t kept = 0;
  KA_TRY(svd_of(ctx, &x, d, rows, cols));
  double beta = (double)x.k / (double)(rows > cols ? rows : cols);
  double edge = strength * ka_repair_threshold(beta) * median_of(x.s, x.k);
  while (kept < x.k && x.s[kept] > edge) kept++;
  for (int64_t i = 0; i < kept; i++)
    for (int64_t j = 0; j < rows; j++) x.left[i * rows + j] *= x.s[i];
  /* Column-major [cols, rows] = right^T [cols, kept] left [kept, rows]; the vectors are rows, that
   * is columns of column-major matrices with leading dimensions cols and rows. */
  if (kept > 0)
    ka_blas_cpu()->gemm(false, true, cols, rows, kept, x.right, cols, x.left, rows, 0, d, cols);
  else
    memset(d, 0, (size_t)(rows * cols) * sizeof *d);
  counts->n_kept += kept;
  counts->n_values += x.k;
  svd_free(&x);
  return KA_STATUS_OK;
}

/* Every matrix of a stack by itself (fused experts); vectors stay as they are. */
static ka_status threshold_all(struct ka_ctx *ctx, const struct difference *x, double strength,
                               struct ka_repair_counts *counts) {
  const struct ka_tensor *t = &x->tuned->t;
  if (t->n_dim < 2 || x->n == 0) return KA_STATUS_OK;
  int64_t n = t->n_dim == 3 ? t->shape[0] : 1, rows = t->n_dim == 3 ? t->shape[1] : t->shape[0];
  int64_t cols = x->n / n / rows;
  for (int64_t i = 0; i < n; i++)
    KA_TRY(threshold(ctx, x->d + i * rows * cols, rows, cols, strength, counts));
  return KA_STATUS_OK;
}

/* --- all tensors ------------------------------------------------------------------------------ */

static double scale_of(enum ka_repair_method method, double strength, const char *name,
                       int n_layers) {
  double depth = ka_unit_depth(name);
  if (method == KA_REPAIR_WISE) return strength;
  if (method != KA_REPAIR_LINES || n_layers < 2) return 1;
  double part = depth < 0 ? 0 : depth >= n_layers ? 1 : depth / (n_layers - 1);
  return strength + (1 - strength) * part;
}

static int count_layers(const struct ka_safetensors *files) {
  int n = 0;
  for (int64_t i = 0; i < files->n_entries; i++) {
    int layer = ka_unit_layer(files->entries[i].name);
    if (layer >= n) n = layer + 1;
  }
  return n;
}

ka_status ka_repair_apply(struct ka_ctx *ctx, const struct ka_safetensors *base,
                          struct ka_safetensors *tuned, enum ka_repair_method method,
                          double strength, struct ka_repair_counts *counts) {
  int n_layers = count_layers(tuned);
  *counts = (struct ka_repair_counts){.n_tensors = tuned->n_entries};
  for (int64_t i = 0; i < tuned->n_entries; i++) {
    struct ka_st_entry *e = &tuned->entries[i];
    struct difference x = {.tuned = e};
    KA_TRY(ka_check_interrupted(ctx, "repair"));
    KA_TRY(partner(ctx, base, e, &x.base));
    if (!x.base) continue;
    counts->n_changed++;
    KA_TRY(subtract(ctx, &x));
    ka_status st = KA_STATUS_OK;
    if (method == KA_REPAIR_DGHARD) st = threshold_all(ctx, &x, strength, counts);
    if (ka_ok(st)) st = add_back(tuned, e, &x, scale_of(method, strength, e->name, n_layers));
    ka_free(x.d);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}

/* --- intruders -------------------------------------------------------------------------------- */

static ka_status svd_of_entry(struct ka_ctx *ctx, struct svd *x, const struct ka_st_entry *e) {
  void *mem = NULL;
  int64_t n = ka_tensor_elems(&e->t);
  KA_TRY(ka_alloc_n(ctx, &mem, n, sizeof(double), "matrix"));
  double *a = mem;
  for (int64_t i = 0; i < n; i++) a[i] = ka_load(e->t.data, e->t.dtype, i);
  ka_status st = svd_of(ctx, x, a, e->t.shape[0], e->t.shape[1]);
  ka_free(mem);
  return st;
}

/* Vectors of y's top k whose cosine with every vector of x is below the limit. */
static int64_t strangers(const struct svd *x, const struct svd *y, int64_t k, double cosine) {
  int64_t n = 0;
  for (int64_t i = 0; i < k; i++) {
    double most = 0;
    for (int64_t j = 0; j < x->k && most < cosine; j++) {
      double dot = 0;
      for (int64_t r = 0; r < x->rows; r++)
        dot += y->left[i * y->rows + r] * x->left[j * x->rows + r];
      most = fmax(most, fabs(dot));
    }
    n += most < cosine;
  }
  return n;
}

ka_status ka_repair_find_intruders(struct ka_ctx *ctx, const struct ka_safetensors *base,
                                   const struct ka_safetensors *tuned, int64_t k, double cosine,
                                   struct ka_repair_intruders *out) {
  *out = (struct ka_repair_intruders){0};
  for (int64_t i = 0; i < tuned->n_entries; i++) {
    const struct ka_st_entry *e = &tuned->entries[i], *b;
    struct svd x = {0}, y = {0};
    KA_TRY(ka_check_interrupted(ctx, "repair"));
    KA_TRY(partner(ctx, base, e, &b));
    /* Embeddings have a vector a word, and no directions of an output. */
    if (!b || e->t.n_dim != 2 || ka_unit_layer(e->name) < 0) continue;
    ka_status st = svd_of_entry(ctx, &x, b);
    if (ka_ok(st)) st = svd_of_entry(ctx, &y, e);
    if (ka_ok(st)) {
      int64_t n = k < y.k ? k : y.k;
      out->n_vectors += n;
      out->n_intruders += strangers(&x, &y, n, cosine);
      out->n_matrices++;
    }
    svd_free(&x);
    svd_free(&y);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}
