/* SPDX-License-Identifier: Apache-2.0
 *
 * Thousands of random shapes and spectra against one-sided Jacobi in long double (64-bit
 * mantissa, high relative accuracy): the true kappa always inside its bound, the bound always
 * within what is promised, singular exactly where it should be. KAPPA_PROPERTY_CASES sets how
 * many, KAPPA_PROPERTY_SEED where they start. */
#include "base/rng.h"
#include "engine/spectral/spectral.h"
#include "tests/spectral/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct ka_ctx the_ctx;
enum { MAX_SIDE = 72 };

struct sample {
  int64_t rows, cols;
  enum ka_dtype dtype;
  double a[MAX_SIDE * MAX_SIDE];
  unsigned char stored[MAX_SIDE * MAX_SIDE * 8];
  const char *kind;
};

static uint64_t seed, drawn;
static double uniform(void) { return ka_rng_uniform(seed, 1, drawn++); }
static double normal(void) { return ka_rng_normal(seed, 2, drawn++); }
static int64_t below(int64_t n) { return (int64_t)(uniform() * (double)n); }

/* --- the oracle ------------------------------------------------------------------------------- */

static bool turn(int64_t n, long double *x, long double *y) {
  long double a = 0, b = 0, c = 0;
  for (int64_t i = 0; i < n; i++) {
    a += x[i] * x[i];
    b += y[i] * y[i];
    c += x[i] * y[i];
  }
  if (c == 0 || fabsl(c) <= 1e-19L * sqrtl(a) * sqrtl(b)) return false;
  long double z = (b - a) / (2 * c);
  long double t = (z >= 0 ? 1 : -1) / (fabsl(z) + sqrtl(1 + z * z));
  long double cs = 1 / sqrtl(1 + t * t), sn = cs * t;
  for (int64_t i = 0; i < n; i++) {
    long double u = x[i];
    x[i] = cs * u - sn * y[i];
    y[i] = sn * u + cs * y[i];
  }
  return true;
}

/* Extreme singular values of the stored matrix. */
static void oracle(const struct sample *s, long double *max, long double *min) {
  static long double w[MAX_SIDE * MAX_SIDE];
  int64_t n = s->rows > s->cols ? s->rows : s->cols, m = s->rows + s->cols - n;
  for (int64_t j = 0; j < m; j++)
    for (int64_t i = 0; i < n; i++)
      w[i + j * n] =
          (long double)(s->rows >= s->cols ? s->a[i * s->cols + j] : s->a[j * s->cols + i]);
  bool turned = true;
  for (int sweep = 0; sweep < 80 && turned; sweep++) {
    turned = false;
    for (int64_t p = 0; p < m; p++)
      for (int64_t q = p + 1; q < m; q++) turned |= turn(n, w + p * n, w + q * n);
  }
  *max = 0;
  *min = INFINITY;
  for (int64_t j = 0; j < m; j++) {
    long double q = 0;
    for (int64_t i = 0; i < n; i++) q += w[i + j * n] * w[i + j * n];
    q = sqrtl(q);
    *max = q > *max ? q : *max;
    *min = q < *min ? q : *min;
  }
}

/* --- samples ---------------------------------------------------------------------------------- */

/* Reflects the columns (or rows) of a by random Householder vectors: an orthogonal mix. */
static void mix(double *a, int64_t rows, int64_t cols, bool left) {
  double v[MAX_SIDE];
  for (int pass = 0; pass < 3; pass++) {
    int64_t n = left ? rows : cols, other = left ? cols : rows;
    double vv = 0;
    for (int64_t i = 0; i < n; i++) {
      v[i] = normal();
      vv += v[i] * v[i];
    }
    for (int64_t k = 0; k < other; k++) {
      double d = 0;
      for (int64_t i = 0; i < n; i++) d += v[i] * (left ? a[i * cols + k] : a[k * cols + i]);
      for (int64_t i = 0; i < n; i++)
        *(left ? &a[i * cols + k] : &a[k * cols + i]) -= 2 * d / vv * v[i];
    }
  }
}

/* A matrix with singular values s [m] in the diagonal, mixed from both sides. */
static void with_values(struct sample *p, const double *s) {
  int64_t m = p->rows < p->cols ? p->rows : p->cols;
  memset(p->a, 0, sizeof p->a);
  for (int64_t i = 0; i < m; i++) p->a[i * p->cols + i] = s[i];
  mix(p->a, p->rows, p->cols, true);
  mix(p->a, p->rows, p->cols, false);
}

static void make_gauss(struct sample *p, double kappa) {
  (void)kappa;
  for (int64_t i = 0; i < p->rows * p->cols; i++) p->a[i] = normal();
}
static void make_geometric(struct sample *p, double kappa) {
  int64_t m = p->rows < p->cols ? p->rows : p->cols;
  double s[MAX_SIDE];
  for (int64_t i = 0; i < m; i++) s[i] = pow(kappa, -(double)i / (double)(m > 1 ? m - 1 : 1));
  with_values(p, s);
}
static void make_one_tiny(struct sample *p, double kappa) {
  int64_t m = p->rows < p->cols ? p->rows : p->cols;
  double s[MAX_SIDE];
  for (int64_t i = 0; i < m; i++) s[i] = i == m - 1 ? 1 / kappa : 1 - 0.5 * uniform();
  with_values(p, s);
}
static void make_two_clusters(struct sample *p, double kappa) {
  int64_t m = p->rows < p->cols ? p->rows : p->cols;
  double s[MAX_SIDE];
  for (int64_t i = 0; i < m; i++) s[i] = i < (m + 1) / 2 ? 1 : 1 / kappa;
  with_values(p, s);
}
static void make_one_large(struct sample *p, double kappa) {
  int64_t m = p->rows < p->cols ? p->rows : p->cols;
  double s[MAX_SIDE];
  for (int64_t i = 0; i < m; i++) s[i] = i == 0 ? kappa : 1 + 0.1 * uniform();
  with_values(p, s);
}
static void make_low_rank(struct sample *p, double kappa) {
  int64_t m = p->rows < p->cols ? p->rows : p->cols;
  double s[MAX_SIDE];
  (void)kappa;
  for (int64_t i = 0; i < m; i++) s[i] = i < 1 + m / 3 ? 1 : 0;
  with_values(p, s);
}
static void make_twin_rows(struct sample *p, double kappa) {
  make_gauss(p, kappa);
  if (p->rows > 1) memcpy(p->a + p->cols * (p->rows - 1), p->a, (size_t)p->cols * sizeof *p->a);
}
static void make_graded(struct sample *p, double kappa) {
  make_gauss(p, kappa);
  for (int64_t i = 0; i < p->rows; i++)
    for (int64_t j = 0; j < p->cols; j++)
      p->a[i * p->cols + j] *= pow(kappa, -(double)i / (double)p->rows);
}
static void make_hilbert(struct sample *p, double kappa) {
  (void)kappa;
  for (int64_t i = 0; i < p->rows; i++)
    for (int64_t j = 0; j < p->cols; j++) p->a[i * p->cols + j] = 1 / (double)(i + j + 1);
}
static void make_sparse(struct sample *p, double kappa) {
  (void)kappa;
  for (int64_t i = 0; i < p->rows * p->cols; i++) p->a[i] = uniform() < 0.3 ? normal() : 0;
}
static void make_integers(struct sample *p, double kappa) {
  (void)kappa;
  for (int64_t i = 0; i < p->rows * p->cols; i++) p->a[i] = (double)below(5) - 2;
}

static const struct {
  const char *name;
  void (*make)(struct sample *, double kappa);
} kinds[] = {
    {"gauss", make_gauss},         {"geometric", make_geometric},
    {"one tiny", make_one_tiny},   {"two clusters", make_two_clusters},
    {"one large", make_one_large}, {"low rank", make_low_rank},
    {"twin rows", make_twin_rows}, {"graded", make_graded},
    {"hilbert", make_hilbert},     {"sparse", make_sparse},
    {"integers", make_integers},
};

static void draw(struct sample *p, uint64_t n) {
  static const enum ka_dtype dtypes[] = {KA_F32, KA_BF16, KA_F32, KA_F64};
  seed = n;
  drawn = 0;
  int64_t top = n % 16 == 0 ? MAX_SIDE : n % 4 == 0 ? 33 : 12;
  p->rows = 1 + below(top);
  p->cols = uniform() < 0.3 ? p->rows : 1 + below(top);
  p->dtype = dtypes[below(4)];
  size_t kind = (size_t)below((int64_t)(sizeof kinds / sizeof *kinds));
  p->kind = kinds[kind].name;
  kinds[kind].make(p, pow(10, 8.5 * uniform()));
  double scales[] = {1, 1, 1e-30, 1e30, 1e-4, 1e-36}, scale = scales[below(6)];
  for (int64_t i = 0; i < p->rows * p->cols; i++) {
    ka_data_store(p->stored, p->dtype, i, p->a[i] * scale);
    p->a[i] = ka_load(p->stored, p->dtype, i);
  }
}

/* --- the property ----------------------------------------------------------------------------- */

static double promised(double kappa, int64_t n, double stable_rank) {
  if (kappa <= 1e4) return 1e-8;
  if (kappa <= 1e6) return 1e-5;
  return 8 * (double)n * 0x1p-53 * kappa * sqrt(stable_rank);
}

static void check(const struct sample *p, const struct ka_spectrum *r, uint64_t n) {
  long double max, min;
  int64_t longer = p->rows > p->cols ? p->rows : p->cols;
  oracle(p, &max, &min);
  const double *x = r->metrics;
  if (r->error) fail_msg("case %llu: %s", (unsigned long long)n, r->error);
  if (max == 0) {
    assert_true(r->zero && r->singular);
    return;
  }
  long double kappa = max / min, slop = kappa * 2e-19L * (long double)longer + 1e-18L;
  bool wrong = false;
  if (kappa > 0x1p24L * (1 + 1e-3L)) wrong = !r->singular;
  if (kappa < 0x1p24L * (1 - 1e-3L)) wrong = r->singular;
  long double off_max = fabsl((long double)x[KA_METRIC_SIGMA_MAX] / max - 1);
  wrong |= !(off_max <= (long double)r->sigma_max_rel_bound * (1 + off_max) + slop);
  wrong |= (long double)r->kappa_low > kappa * (1 + slop);
  if (!r->singular) {
    long double off = fabsl((long double)x[KA_METRIC_KAPPA] / kappa - 1);
    long double off_min = fabsl((long double)x[KA_METRIC_SIGMA_MIN] / min - 1);
    wrong |= !(off <= (long double)r->kappa_rel_bound * (1 + off) + slop);
    wrong |= !(off_min <= (long double)r->sigma_min_rel_bound * (1 + off_min) + slop);
    wrong |= (long double)r->kappa_high < kappa * (1 - slop);
    wrong |= r->kappa_rel_bound > promised((double)kappa, longer, x[KA_METRIC_STABLE_RANK]);
  }
  if (wrong)
    fail_msg("case %llu: %s %lldx%lld %s: true kappa %.12Lg sigma %.6Lg %.6Lg; got %.12g +- %g "
             "[%.12g, %.12g] sigma %.12g +- %g, %.12g +- %g, %s%s",
             (unsigned long long)n, p->kind, (long long)p->rows, (long long)p->cols,
             ka_dtype_name(p->dtype), kappa, max, min, x[KA_METRIC_KAPPA], r->kappa_rel_bound,
             r->kappa_low, r->kappa_high, x[KA_METRIC_SIGMA_MAX], r->sigma_max_rel_bound,
             x[KA_METRIC_SIGMA_MIN], r->sigma_min_rel_bound, ka_spectral_method_name(r->method),
             r->singular ? " singular" : "");
}

static uint64_t env_or(const char *name, uint64_t dflt) {
  const char *text = getenv(name);
  return text ? strtoull(text, NULL, 10) : dflt;
}

static void test_property(void **state) {
  (void)state;
  struct ka_ctx *ctx = &the_ctx;
  struct ka_linalg_engine engine = t_engine(ctx);
  uint64_t n = env_or("KAPPA_PROPERTY_CASES", engine.blas ? 1200 : 60);
  uint64_t first = env_or("KAPPA_PROPERTY_SEED", 0);
  int counts[8] = {0};
  for (uint64_t i = first; i < first + n; i++) {
    static struct sample p;
    draw(&p, i);
    struct ka_unit u = ka_unit_of_tensor("sample", ka_tensor_2d(p.stored, p.dtype, p.rows, p.cols));
    struct ka_spectrum r;
    struct ka_arena arena;
    ka_arena_init(&arena, ctx, "test");
    const struct ka_linalg_engine ref = {&ka_dense_host, &ka_blas_ref, NULL};
    struct ka_spectral_options o = {.precision = KA_PRECISION_F64,
                                    .engine = engine.blas && i % 2 ? ref : engine};
    T_OK(ka_spectral_analyze(ctx, &arena, &r, &u, 1, &o, NULL));
    check(&p, &r, i);
    counts[r.method]++;
    ka_arena_deinit(&arena);
  }
  print_message("exact %d, gram %d, inverse %d, svd %d, singular %d\n", counts[KA_SPECTRAL_EXACT],
                counts[KA_SPECTRAL_GRAM], counts[KA_SPECTRAL_INVERSE], counts[KA_SPECTRAL_SVD],
                counts[KA_SPECTRAL_TESTED]);
  assert_true(n < 1000 || (counts[KA_SPECTRAL_GRAM] > 0 && counts[KA_SPECTRAL_INVERSE] > 0 &&
                           counts[KA_SPECTRAL_TESTED] > 0));
}

int main(void) {
  ka_ctx_init(&the_ctx);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_property)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
