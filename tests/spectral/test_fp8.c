/* SPDX-License-Identifier: Apache-2.0
 * Weights in 8 bits with their scales: the spectra are those of the matrix that they stand for. */
#include "engine/formats/safetensors.h"
#include "engine/spectral/fp8.h"
#include "engine/spectral/units.h"
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct ka_ctx the_ctx;

enum { ROWS = 200, COLS = 136, BYTES = ROWS * COLS };

/* A file with a tensor "w.weight" of `dtype` and bytes 1, 2, ..., and a scale `n_scale` floats. */
static const char *make(const char *dtype, const char *shape, const char *scale,
                        const char *scale_shape, int n_scale) {
  struct ka_ctx *ctx = &the_ctx;
  static unsigned char bytes[BYTES];
  struct ka_str file = {0}, header = {0};
  float s[64];
  for (int i = 0; i < BYTES; i++)
    bytes[i] = (unsigned char)(i * 37 % 113 + (i % 3 == 0 ? 128 : 0)); /* no NaN, no Inf */
  for (int i = 0; i < n_scale; i++) s[i] = 0.5f + (float)i;
  T_OK(ka_str_printf(ctx, &header, "{\"w.weight\":{\"dtype\":\"%s\",\"shape\":%s,", dtype, shape));
  T_OK(ka_str_printf(ctx, &header, "\"data_offsets\":[0,%d]}", BYTES));
  if (scale)
    T_OK(ka_str_printf(ctx, &header,
                       ",\"w.weight%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[%d,%d]}",
                       scale, scale_shape, BYTES, BYTES + 4 * n_scale));
  T_OK(ka_str_puts(ctx, &header, "}"));
  while (header.len % 8) T_OK(ka_str_puts(ctx, &header, " "));
  unsigned char size[8] = {(unsigned char)(header.len & 255), (unsigned char)(header.len >> 8)};
  T_OK(ka_str_append(ctx, &file, (const char *)size, 8));
  T_OK(ka_str_append(ctx, &file, header.data, header.len));
  T_OK(ka_str_append(ctx, &file, (const char *)bytes, BYTES));
  T_OK(ka_str_append(ctx, &file, (const char *)s, 4 * (size_t)n_scale));
  const char *path = t_str("%s/fp8.safetensors", t_temp_dir());
  T_OK(ka_write_file(ctx, path, file.data, file.len));
  ka_str_deinit(&file);
  ka_str_deinit(&header);
  return path;
}

/* As the standard's tables have it (OCP 8-bit floating point, 1.0), written another way. */
static double number(unsigned char b, bool e5m2) {
  int m = e5m2 ? 2 : 3, e = (b & 127) >> m, bias = e5m2 ? 15 : 7;
  double fraction = (b & ((1 << m) - 1)) / (double)(1 << m);
  double v = e ? (1 + fraction) * pow(2, e - bias) : fraction * pow(2, 1 - bias);
  return b > 127 ? -v : v;
}

/* Element [r, c] of matrix k is its number times this of the scales. */
typedef int index_of(int k, int r, int c);
static int one(int k, int r, int c) { return (void)k, (void)r, (void)c, 0; }
static int row(int k, int r, int c) { return (void)k, (void)c, r / 4; }
static int block(int k, int r, int c) { return (void)k, r / 128 * 2 + c / 128; }
static int even(int k, int r, int c) { return (void)k, r / 50 * 4 + c / 34; }
static int stack(int k, int r, int c) { return (void)r, (void)c, k; }

static void check(const char *path, int n_matrices, bool e5m2, bool scaled, index_of *at) {
  struct ka_ctx *ctx = &the_ctx;
  struct ka_safetensors files;
  struct ka_arena arena;
  struct ka_unit *units;
  struct ka_spectrum r, want;
  int64_t n;
  static double dense[BYTES];
  ka_arena_init(&arena, ctx, "test");
  T_OK(ka_st_open(ctx, &files, path));
  T_OK(ka_units_of_file(ctx, &arena, &files, NULL, KA_UNIT_TENSOR, false, &units, &n));
  assert_int_equal(n, 1); /* a scale is no weight */
  const unsigned char *bytes = units[0].view.data;
  int rows = ROWS / n_matrices;
  for (int i = 0; i < BYTES; i++) {
    int line = i / COLS;
    double s = scaled ? 0.5 + at(line / rows, line % rows, i % COLS) : 1;
    dense[i] = (float)(number(bytes[i], e5m2) * s);
  }
  struct ka_spectral_options o = {.precision = KA_PRECISION_F64, .full = true};
  T_OK(ka_spectral_analyze(ctx, &arena, &r, units, 1, &o, NULL));
  int64_t lines = n_matrices > 1 ? n_matrices : ROWS; /* a stack is [matrices, rest] */
  struct ka_unit plain = ka_unit_of_tensor("w", ka_tensor_2d(dense, KA_F64, lines, BYTES / lines));
  T_OK(ka_spectral_analyze(ctx, &arena, &want, &plain, 1, &o, NULL));
  assert_null(r.error);
  for (int i = 0; i < KA_N_METRICS; i++)
    if (!(fabs(r.metrics[i] - want.metrics[i]) <= 1e-9 * fabs(want.metrics[i])))
      fail_msg("%s: %s: got %.17g, expected %.17g", path,
               ka_spectral_metric_info((enum ka_spectral_metric)i)->name, r.metrics[i],
               want.metrics[i]);
  assert_ptr_equal(r.unit, &units[0]);
  ka_st_close(&files);
  ka_arena_deinit(&arena);
}

static void test_scales(void **state) {
  (void)state;
  static const char matrix[] = "[200,136]";
  check(make("F8_E4M3", matrix, NULL, NULL, 0), 1, false, false, one);
  check(make("F8_E5M2", matrix, NULL, NULL, 0), 1, true, false, one);
  check(make("F8_E4M3", matrix, "_scale", "[]", 1), 1, false, true, one);
  check(make("F8_E4M3", matrix, "_scale", "[1]", 1), 1, false, true, one);
  check(make("F8_E4M3", matrix, "_scale", "[50,1]", 50), 1, false, true, row);
  check(make("F8_E4M3", matrix, "_scale_inv", "[2,2]", 4), 1, false, true, block);
  check(make("F8_E5M2", matrix, "_scale_inv", "[4,4]", 16), 1, true, true, even);
  check(make("F8_E4M3", "[4,50,136]", "_scale", "[4,1,1]", 4), 4, false, true, stack);
}

/* What cannot be understood is said, by name, and costs nothing else. */
static void test_refusals(void **state) {
  (void)state;
  struct ka_str out = {0};
  const char *path = make("F8_E4M3", "[200,136]", "_scale", "[7,3]", 21);
  assert_int_equal(t_kappa(&out, NULL, "analyze %s --no-cache", path), 0);
  assert_non_null(strstr(out.data, "its scale w.weight_scale (dtype F32) is neither"));
  ka_str_clear(&out);
  path = make("F8_E4M3FNUZ", "[200,136]", NULL, NULL, 0);
  assert_int_equal(t_kappa(&out, NULL, "analyze %s --no-cache", path), 0);
  assert_non_null(strstr(out.data, "kappa does not read dtype F8_E4M3FNUZ"));
  ka_str_deinit(&out);
}

int main(void) {
  ka_ctx_init(&the_ctx);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_scales),
                                     cmocka_unit_test(test_refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
