/* SPDX-License-Identifier: Apache-2.0
 * Orders, budgets, patterns, controls, and selection.json there and back. */
#include "engine/spectral/selection.h"
#include "engine/spectral/units.h"
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

static struct ka_ctx the_ctx;

/* Six tensors of 2x2: diag(1, 1/kappa). */
static const struct {
  const char *name;
  double kappa; /* 0: singular */
  const char *role;
} table[] = {
    {"model.embed_tokens.weight", 2, "embed"}, {"model.layers.0.q.weight", 8, "q"},
    {"model.layers.0.k.weight", 4, "k"},       {"model.layers.2.q.weight", 4, "q"},
    {"model.layers.10.q.weight", 0, "q"},      {"model.layers.10.k.weight", 3, "k"},
};
enum { N = sizeof table / sizeof *table };

struct world {
  double data[N][4];
  struct ka_unit units[N];
  struct ka_spectrum results[N];
  struct ka_arena arena;
};

static void make(struct world *w) {
  struct ka_ctx *ctx = &the_ctx;
  ka_arena_init(&w->arena, ctx, "test");
  for (int i = 0; i < N; i++) {
    double *a = w->data[i];
    a[0] = 1;
    a[1] = a[2] = 0;
    a[3] = table[i].kappa > 0 ? 1 / table[i].kappa : 0;
    w->units[i] = ka_unit_of_tensor(table[i].name, ka_tensor_2d(a, KA_F64, 2, 2));
    w->units[i].role = table[i].role;
    w->units[i].layer = ka_unit_layer(table[i].name);
    w->units[i].unusual = strcmp(table[i].role, "embed") == 0;
  }
  struct ka_spectral_options o = {.precision = KA_PRECISION_F64};
  T_OK(ka_spectral_analyze(ctx, &w->arena, w->results, w->units, N, &o, NULL));
}

static const char *choose(struct world *w, struct ka_select_spec s) {
  struct ka_ctx *ctx = &the_ctx;
  struct ka_selection out;
  static char text[512];
  T_OK(ka_select(ctx, &w->arena, &out, &s, w->results, N));
  text[0] = 0;
  for (int64_t i = 0; i < out.n_units; i++) {
    const char *short_name = strchr(out.units[i].name, '.') + 1;
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%.*s", i ? " " : "",
             (int)(strlen(short_name) - strlen(".weight")), short_name);
  }
  return text;
}

static struct ka_select_spec spec(const char *words) {
  static struct ka_arena a;
  struct ka_ctx *ctx = &the_ctx;
  struct ka_select_spec s;
  if (!a.ctx) ka_arena_init(&a, ctx, "spec");
  T_OK(ka_select_parse(ctx, &a, words, &s));
  return s;
}

static void test_orders(void **state) {
  (void)state;
  struct world w;
  make(&w);
  assert_string_equal(choose(&w, spec("kappa lowest 3")),
                      "layers.10.k layers.0.k layers.2.q"); /* 4 = 4: by name */
  assert_string_equal(choose(&w, spec("kappa highest 2")), "layers.0.q layers.0.k");
  assert_string_equal(choose(&w, spec("kappa lowest 99")),
                      "layers.10.k layers.0.k layers.2.q layers.0.q layers.10.q");
  assert_string_equal(choose(&w, spec("first_n 2")), "layers.0.k layers.0.q");
  assert_string_equal(choose(&w, spec("last_n 2")), "layers.10.q layers.10.k");
  assert_string_equal(choose(&w, spec("kappa 40%")), "layers.10.k layers.0.k");
  struct ka_select_spec s = spec("all");
  assert_string_equal(choose(&w, s), "embed_tokens layers.0.k layers.0.q layers.2.q layers.10.k "
                                     "layers.10.q");
  s.count = 1; /* all means all, whatever the budget */
  assert_string_equal(choose(&w, s), "embed_tokens layers.0.k layers.0.q layers.2.q layers.10.k "
                                     "layers.10.q");
  ka_arena_deinit(&w.arena);
}

static int64_t n_elems_of(const int64_t r[2], int64_t all) { return r[0] < 0 ? all : r[1] - r[0]; }

/* A budget of parameters is met whatever is chosen: the last unit is cut. */
static void test_budget(void **state) {
  (void)state;
  struct ka_ctx *ctx = &the_ctx;
  struct world w;
  struct ka_selection out;
  make(&w);
  struct ka_select_spec s = spec("kappa lowest 1");
  s.count = -1;
  for (s.params = 1; s.params <= 20; s.params++)
    for (s.seed = 0; s.seed < 8; s.seed++) {
      int64_t n = 0;
      s.metric = s.seed < 4 ? "random" : "kappa";
      T_OK(ka_select(ctx, &w.arena, &out, &s, w.results, N));
      for (int64_t i = 0; i < out.n_units; i++)
        n += n_elems_of(out.units[i].rows, 2) * n_elems_of(out.units[i].cols, 2);
      assert_int_equal(n, s.params);
      assert_int_equal(out.n_elems, s.params);
    }
  s.params = 11; /* 4 and 4, then a row, then a half */
  T_OK(ka_select(ctx, &w.arena, &out, &s, w.results, N));
  assert_int_equal(out.n_units, 4);
  assert_string_equal(out.units[2].name, "model.layers.2.q.weight");
  assert_string_equal(out.units[3].name, "model.layers.2.q.weight#rest");
  assert_memory_equal(out.units[2].rows, ((int64_t[]){0, 1}), sizeof(int64_t[2]));
  assert_memory_equal(out.units[2].cols, ((int64_t[]){-1, -1}), sizeof(int64_t[2]));
  assert_memory_equal(out.units[3].rows, ((int64_t[]){1, 2}), sizeof(int64_t[2]));
  assert_memory_equal(out.units[3].cols, ((int64_t[]){0, 1}), sizeof(int64_t[2]));
  const char *path = t_str("%s/cut.json", t_temp_dir());
  T_OK(ka_selection_write(ctx, &out, path));
  T_OK(ka_selection_read(ctx, &w.arena, &out, path)); /* they do not overlap */
  assert_int_equal(out.n_units, 4);
  ka_arena_deinit(&w.arena);
}

/* Of a head, an expert or a fused part only its own rows and columns are cut. */
static void test_budget_of_parts(void **state) {
  (void)state;
  struct ka_ctx *ctx = &the_ctx;
  struct ka_arena arena;
  struct ka_selection out;
  static float data[6 * 8];
  ka_arena_init(&arena, ctx, "test");
  struct ka_tensor t = ka_tensor_2d(data, KA_F32, 6, 8);
  struct ka_unit u = ka_unit_of_tensor("layers.0.o.weight#head1", ka_tensor_slice(t, 0, 6, 4, 4));
  struct ka_spectrum r;
  memcpy(u.cols, ((int64_t[]){4, 8}), sizeof u.cols);
  struct ka_select_spec s = spec("random 1");
  s.unit = KA_UNIT_HEAD;
  s.count = -1;
  s.params = 9;
  ka_spectrum_clear(&r, &u);
  T_OK(ka_select(ctx, &arena, &out, &s, &r, 1));
  assert_int_equal(out.n_units, 2);
  assert_memory_equal(out.units[0].rows, ((int64_t[]){0, 2}), sizeof u.rows);
  assert_memory_equal(out.units[0].cols, ((int64_t[]){4, 8}), sizeof u.cols);
  assert_memory_equal(out.units[1].rows, ((int64_t[]){2, 3}), sizeof u.rows);
  assert_memory_equal(out.units[1].cols, ((int64_t[]){4, 5}), sizeof u.cols);
  u = ka_unit_of_tensor("layers.0.mlp.experts.down_proj#expert3", ka_tensor_2d(data, KA_F32, 4, 8));
  u.role = "expert_down";
  u.n_dim = 3; /* rows of an expert lie in one row of the stack */
  u.expert = 3;
  memcpy(u.rows, ((int64_t[]){3, 4}), sizeof u.rows);
  s.unit = KA_UNIT_EXPERT;
  ka_spectrum_clear(&r, &u);
  T_OK(ka_select(ctx, &arena, &out, &s, &r, 1));
  assert_int_equal(out.n_units, 2);
  assert_memory_equal(out.units[0].rows, ((int64_t[]){3, 4}), sizeof u.rows);
  assert_memory_equal(out.units[0].cols, ((int64_t[]){0, 8}), sizeof u.cols);
  assert_memory_equal(out.units[1].rows, ((int64_t[]){3, 4}), sizeof u.rows);
  assert_memory_equal(out.units[1].cols, ((int64_t[]){8, 9}), sizeof u.cols);
  ka_arena_deinit(&arena);
}

static void test_filters(void **state) {
  (void)state;
  struct world w;
  make(&w);
  struct ka_select_spec s = spec("kappa lowest 99");
  const char *q[] = {"\\.q\\."}, *ten[] = {"layers\\.10", "embed"};
  s.include = q;
  s.n_include = 1;
  assert_string_equal(choose(&w, s), "layers.2.q layers.0.q layers.10.q");
  s.exclude = ten;
  s.n_exclude = 2;
  assert_string_equal(choose(&w, s), "layers.2.q layers.0.q");
  s.min_layer = 1;
  assert_string_equal(choose(&w, s), "layers.2.q");
  s = spec("kappa lowest 99"); /* what is left out by default comes when it is asked for by name */
  const char *every[] = {"."}, *embed[] = {"\\.q\\.", "embed"};
  s.include = every;
  s.n_include = 1;
  assert_null(strstr(choose(&w, s), "embed_tokens"));
  s.include = embed;
  s.n_include = 2;
  assert_string_equal(choose(&w, s), "embed_tokens layers.2.q layers.0.q layers.10.q");
  s = spec("kappa lowest 99");
  s.n_exclude = 0;
  struct ka_select_quota quota[] = {{"q", 1}, {"k", 1}};
  s.quotas = quota;
  s.n_quotas = 2;
  assert_string_equal(choose(&w, s), "embed_tokens layers.10.k layers.2.q");
  s = spec("kappa lowest 99 q:1 k:0");
  assert_string_equal(choose(&w, s), "layers.2.q");
  s = spec("random 3");
  s.seed = 5;
  char first[512];
  snprintf(first, sizeof first, "%s", choose(&w, s));
  assert_string_equal(choose(&w, s), first);
  ka_arena_deinit(&w.arena);
}

/* Everything that the filters leave, at (first kappa / kappa)^power; the singular one not at all.
 */
static void test_soft(void **state) {
  (void)state;
  struct ka_ctx *ctx = &the_ctx;
  struct world w;
  struct ka_selection out;
  static const double lowest[] = {1, 3. / 4, 3. / 4, 3. / 8}, highest[] = {1, 0.5, 0.5, 3. / 8};
  make(&w);
  struct ka_select_spec s = ka_select_spec_default();
  s.soft = true;
  s.power = 1;
  assert_string_equal(choose(&w, s), "layers.10.k layers.0.k layers.2.q layers.0.q");
  for (int way = 0; way < 2; way++) {
    s.highest = way;
    T_OK(ka_select(ctx, &w.arena, &out, &s, w.results, N));
    assert_int_equal(out.n_units, 4);
    assert_int_equal(out.n_elems, 16);
    for (int i = 0; i < 4; i++)
      assert_true(fabs(out.units[i].lr_scale - (way ? highest : lowest)[i]) < 1e-12);
  }
  s.power = 0.5;
  T_OK(ka_select(ctx, &w.arena, &out, &s, w.results, N));
  assert_true(fabs(out.units[1].lr_scale - sqrt(0.5)) < 1e-12);
  s.count = 3;
  T_FAILS(ka_select_check(ctx, &s), KA_E_INPUT, "no budget");
  s.count = -1;
  s.metric = "random";
  T_FAILS(ka_select_check(ctx, &s), KA_E_INPUT, "kappa or kappa_mp");
  ka_arena_deinit(&w.arena);
}

static void test_refusals(void **state) {
  (void)state;
  struct ka_ctx *ctx = &the_ctx;
  struct world w;
  struct ka_selection out;
  make(&w);
  struct ka_select_spec s = spec("kappa lowest 3");
  s.fraction = 0.5;
  T_FAILS(ka_select_check(ctx, &s), KA_E_INPUT, "exclude each other");
  s = spec("kappa lowest 3 qq:1");
  T_FAILS(ka_select(ctx, &w.arena, &out, &s, w.results, N), KA_E_INPUT, "did you mean q?");
  const char *word[] = {"q:x"};
  T_FAILS(ka_select_quotas(ctx, &w.arena, word, 1, &s), KA_E_INPUT, "expected ROLE:COUNT");
  s = spec("kappa lowest 3");
  s.metric = "kapa";
  T_FAILS(ka_select_check(ctx, &s), KA_E_INPUT, "did you mean kappa");
  s = spec("kappa lowest 3");
  const char *bad[] = {"okay", "a(b"};
  s.include = bad;
  s.n_include = 2;
  T_FAILS(ka_select_check(ctx, &s), KA_E_INPUT, "\"a(b\", character 4");
  s.n_include = 1;
  T_FAILS(ka_select(ctx, &w.arena, &out, &s, w.results, N), KA_E_INPUT, "none of 6 tensors");
  w.data[1][2] = NAN;
  struct ka_spectral_options o = {.precision = KA_PRECISION_F64};
  T_OK(ka_spectral_analyze(ctx, &w.arena, w.results, w.units, N, &o, NULL));
  assert_string_equal(w.results[1].error, "NaN at [1,0]");
  assert_int_equal(w.results[1].bad_index, 2);
  s = spec("kappa lowest 3");
  T_FAILS(ka_select(ctx, &w.arena, &out, &s, w.results, N), KA_E_INPUT,
          "layers.0.q.weight: NaN at [1,0]");
  ka_arena_deinit(&w.arena);
}

static void test_file(void **state) {
  (void)state;
  struct ka_ctx *ctx = &the_ctx;
  struct world w;
  struct ka_selection out, back;
  make(&w);
  w.units[1].rows[0] = 0;
  w.units[1].rows[1] = 1;
  w.units[1].name = "model.layers.0.q.weight#head0";
  w.units[1].tensor = "model.layers.0.q.weight";
  struct ka_select_spec s = spec("kappa lowest 3");
  T_OK(ka_select(ctx, &w.arena, &out, &s, w.results, N));
  out.units[0] = (struct ka_selected){.name = w.units[1].name,
                                      .tensor = w.units[1].tensor,
                                      .rows = {0, 1},
                                      .cols = {-1, -1},
                                      .metrics = {8},
                                      .lr_scale = 0.25};
  out.base = "base \"dir\"";
  const char *path = t_str("%s/selection.json", t_temp_dir());
  T_OK(ka_selection_write(ctx, &out, path));
  T_OK(ka_selection_read(ctx, &w.arena, &back, path));
  assert_int_equal(back.n_units, 3);
  assert_string_equal(back.base, out.base);
  assert_string_equal(back.metric, "kappa");
  for (int i = 0; i < 3; i++) {
    assert_string_equal(back.units[i].name, out.units[i].name);
    assert_string_equal(back.units[i].tensor, out.units[i].tensor);
    assert_memory_equal(back.units[i].rows, out.units[i].rows, sizeof out.units[i].rows);
    assert_memory_equal(back.units[i].cols, out.units[i].cols, sizeof out.units[i].cols);
    assert_true(back.units[i].metrics[0] == out.units[i].metrics[0]);
    assert_true(back.units[i].lr_scale == (i == 0 ? 0.25 : 1));
  }
  static const char *const bad[][2] = {
      {"{}", "units: expected a list"},
      {"{\"units\": [{}]}", "needs a name"},
      {"{\"units\": [{\"name\": \"a\", \"rows\": [3, 3]}]}", "units[0].rows"},
      {"{\"units\": [{\"name\": \"a#q\"}]}", "needs rows or cols"},
      {"{\"version\": 2, \"units\": []}", "version: got 2"},
      {"{\"units\": [{\"name\": \"a\"}, {\"tensor\": \"a\", \"rows\": [0, 2]}]}", "overlap"},
      {"{\"order\": \"up\", \"units\": [{\"name\": \"a\"}]}", "lowest|highest"},
      {"{\"units\": [{\"name\": \"a\", \"lr_scale\": 0}]}", "units[0].lr_scale: got 0"},
      {"{\"units\": [{\"name\": \"a\", \"lr_scale\": \"1\"}]}", "lr_scale"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    T_OK(ka_write_file(ctx, path, bad[i][0], strlen(bad[i][0])));
    T_FAILS(ka_selection_read(ctx, &w.arena, &back, path), KA_E_INPUT, bad[i][1]);
  }
  ka_arena_deinit(&w.arena);
}

/* What was chosen, as plan, report and model card say it. */
static void chosen_in_words(void **state) {
  (void)state;
  static const struct {
    struct ka_selection s;
    const char *words;
  } cases[] = {{{.metric = "kappa", .n_units = 20}, "20 units by kappa, lowest first"},
               {{.metric = "snr", .highest = true, .n_units = 3}, "3 units by snr, highest first"},
               {{.metric = "all", .n_units = 56}, "56 units, all there are"},
               {{.metric = "random", .n_units = 12}, "12 units drawn at random"},
               {{.metric = "last_n", .n_units = 4}, "the last 4 units"},
               {{.n_units = 5}, "5 units of a file"}};
  char text[128];
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_string_equal(ka_selection_words(&cases[i].s, text), cases[i].words);
}

int main(void) {
  ka_ctx_init(&the_ctx);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_orders),
                                     cmocka_unit_test(test_budget),
                                     cmocka_unit_test(test_budget_of_parts),
                                     cmocka_unit_test(test_filters),
                                     cmocka_unit_test(test_soft),
                                     cmocka_unit_test(test_refusals),
                                     cmocka_unit_test(test_file),
                                     cmocka_unit_test(chosen_in_words)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
