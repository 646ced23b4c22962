/* SPDX-License-Identifier: Apache-2.0
 * kappa repair: the arithmetic against torch (tests/forget/repair, made by make_repair.py), and the
 * command from outside. */
#include "base/json.h"
#include "engine/forget/repair.h"
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct ka_ctx context, *ctx = &context;

static const char *fixture(const char *name) {
  const char *home = getenv("KAPPA_SOURCE_DIR");
  return t_str("%s/tests/forget/repair/%s", home ? home : ".", name);
}

static json_t *expected(void) {
  json_t *root = NULL;
  T_OK(ka_json_load(ctx, fixture("expected.json"), &root));
  return root;
}

static double number(const json_t *row, size_t i) {
  return json_number_value(json_array_get(row, i));
}

static enum ka_repair_method method_of(const char *name) {
  for (int m = 0; m < KA_N_REPAIRS; m++)
    if (strcmp(ka_repair_info((enum ka_repair_method)m)->name, name) == 0)
      return (enum ka_repair_method)m;
  fail_msg("%s", name);
  return KA_N_REPAIRS;
}

static void thresholds(void **state) {
  (void)state;
  json_t *root = expected(), *row;
  size_t i;
  json_array_foreach(json_object_get(root, "omega"), i, row) {
    double got = ka_repair_threshold(number(row, 0)), want = number(row, 1);
    if (!(fabs(got - want) < 1e-4 * want))
      fail_msg("%g: got %g, expected %g", number(row, 0), got, want);
  }
  assert_true(fabs(ka_repair_threshold(1) - 2.858) < 1e-3); /* the paper's */
  json_decref(root);
}

static void check(const struct ka_safetensors *got, const struct ka_safetensors *want) {
  assert_int_equal(got->n_entries, want->n_entries);
  for (int64_t i = 0; i < want->n_entries; i++) {
    const struct ka_st_entry *w = &want->entries[i], *g = ka_st_find(got, w->name);
    assert_string_equal(g->dtype_name, w->dtype_name);
    double eps = w->t.dtype == KA_BF16 ? 0x1p-8 : 1e-6;
    for (int64_t k = 0; k < ka_tensor_elems(&w->t); k++) {
      double a = ka_load(g->t.data, g->t.dtype, k), b = ka_load(w->t.data, w->t.dtype, k);
      if (!(fabs(a - b) <= eps * fmax(fabs(b), 0.1)))
        fail_msg("%s[%lld]: got %.9g, expected %.9g", w->name, (long long)k, a, b);
    }
  }
}

static void as_torch_has_it(void **state) {
  (void)state;
  json_t *root = expected(), *row;
  size_t i;
  json_array_foreach(json_object_get(root, "cases"), i, row) {
    struct ka_safetensors base, tuned, want;
    struct ka_repair_counts counts;
    enum ka_repair_method method = method_of(json_string_value(json_array_get(row, 0)));
    T_OK(ka_st_open(ctx, &base, fixture("base.safetensors")));
    T_OK(ka_st_open(ctx, &tuned, fixture("tuned.safetensors")));
    T_OK(ka_st_open(ctx, &want, fixture(t_str("expected%zu.safetensors", i))));
    T_OK(ka_repair_apply(ctx, &base, &tuned, method, number(row, 1), &counts));
    assert_int_equal(counts.n_changed, 8);
    assert_int_equal(counts.n_tensors, 10);
    check(&tuned, &want);
    if (method == KA_REPAIR_DGHARD)
      assert_true(counts.n_kept > 0 && counts.n_kept < counts.n_values);
    ka_st_close(&base);
    ka_st_close(&tuned);
    ka_st_close(&want);
  }
  json_decref(root);
}

/* 0 gives the base, 1 the tuned model, bit for bit. */
static void ends(void **state) {
  (void)state;
  for (int a = 0; a < 2; a++) {
    struct ka_safetensors base, tuned, want;
    struct ka_repair_counts counts;
    T_OK(ka_st_open(ctx, &base, fixture("base.safetensors")));
    T_OK(ka_st_open(ctx, &tuned, fixture("tuned.safetensors")));
    T_OK(ka_st_open(ctx, &want, fixture("tuned.safetensors")));
    T_OK(ka_repair_apply(ctx, &base, &tuned, KA_REPAIR_WISE, a, &counts));
    for (int64_t i = 0; i < tuned.n_entries; i++) {
      const struct ka_st_entry *e = &tuned.entries[i];
      const struct ka_st_entry *w = ka_st_find(a ? &want : &base, e->name);
      if (w) assert_memory_equal(e->t.data, w->t.data, w->n_bytes);
    }
    ka_st_close(&base);
    ka_st_close(&tuned);
    ka_st_close(&want);
  }
}

static void intruders(void **state) {
  (void)state;
  json_t *root = expected(), *row;
  struct ka_safetensors base, tuned;
  size_t i;
  T_OK(ka_st_open(ctx, &base, fixture("base.safetensors")));
  T_OK(ka_st_open(ctx, &tuned, fixture("tuned.safetensors")));
  json_array_foreach(json_object_get(root, "intruders"), i, row) {
    struct ka_repair_intruders got;
    T_OK(ka_repair_find_intruders(ctx, &base, &tuned, 3, number(row, 0), &got));
    assert_int_equal(got.n_intruders, number(row, 1));
    assert_int_equal(got.n_vectors, number(row, 2));
    assert_int_equal(got.n_matrices, number(row, 3));
  }
  ka_st_close(&base);
  ka_st_close(&tuned);
  json_decref(root);
}

static void strangers_are_refused(void **state) {
  (void)state;
  static float a[6], b[8];
  const char *base = t_str("%s/a.safetensors", t_temp_dir());
  const char *tuned = t_str("%s/b.safetensors", t_temp_dir());
  struct ka_st_out x = {"w.weight", ka_tensor_2d(a, KA_F32, 2, 3)};
  struct ka_st_out y = {"w.weight", ka_tensor_2d(b, KA_F32, 2, 4)};
  struct ka_safetensors p, q;
  struct ka_repair_counts counts;
  T_OK(ka_st_write(ctx, base, &x, 1, NULL, 0));
  T_OK(ka_st_write(ctx, tuned, &y, 1, NULL, 0));
  T_OK(ka_st_open(ctx, &p, base));
  T_OK(ka_st_open(ctx, &q, tuned));
  T_FAILS(ka_repair_apply(ctx, &p, &q, KA_REPAIR_WISE, 0.5, &counts), KA_E_INPUT,
          "w.weight: its shape is not the base's");
  ka_st_close(&p);
  ka_st_close(&q);
}

/* --- from outside ----------------------------------------------------------------------------- */

static const char *dir;

static void put(const char *name, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/%s", dir, name), text, strlen(text)));
}

static void run(int code, const char *part, const char *args) {
  struct ka_str out = {0}, err = {0};
  int rc = t_kappa(&out, &err, "%s", args);
  const char *text = code == 0 ? out.data : err.data;
  if (rc != code || !strstr(text ? text : "", part))
    fail_msg("kappa %s: got %d, expected %d with %s\n%s%s", args, rc, code, part,
             out.data ? out.data : "", err.data ? err.data : "");
  ka_str_deinit(&out);
  ka_str_deinit(&err);
}

/* A base that knows the old text, and one that was then taught the new one. */
static void make_models(void) {
  static const char rest[] =
      "sequence_len: 32\nmicro_batch_size: 2\ngradient_accumulation_steps: 1\nlearning_rate: 1e-2\n"
      "val_set_size: 0\nsave_steps: 0\nbf16: false\nthreads: 1\nreport_to: none\n"
      "selection: {metric: all}\n";
  dir = t_temp_dir();
  put("config.json", "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
                     "\"vocab_size\":257,\"hidden_size\":32,\"num_hidden_layers\":2,"
                     "\"num_attention_heads\":2,\"intermediate_size\":40,\"hidden_act\":\"silu\","
                     "\"max_position_embeddings\":128,\"rms_norm_eps\":1e-5,"
                     "\"tie_word_embeddings\":true,\"bos_token_id\":256,\"eos_token_id\":256}");
  put("new.txt", "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabc");
  put("old.txt", "The quick brown fox jumps over the lazy dog, and the dog sleeps on and on.");
  put("base.yaml",
      t_str("base_model: blank\ndatasets: [{path: old.txt}]\nmax_steps: 40\n%s", rest));
  put("tune.yaml", t_str("base_model: base\ndatasets: [{path: new.txt}]\nmax_steps: 8\n%s", rest));
  run(0, "", t_str("init --config %s/config.json --out %s/blank --tokenizer bytes", dir, dir));
  run(0, "", t_str("train %s/base.yaml output_dir=%s/base", dir, dir));
  run(0, "", t_str("train %s/tune.yaml output_dir=%s/tuned", dir, dir));
}

/* Its card tells of the repair, not of the training that came before, and keeps the licence. */
static void card_is_its_own(void) {
  struct ka_str card = {0};
  T_OK(ka_read_file(ctx, t_str("%s/repaired/README.md", dir), 0, &card));
  static const char *const parts[] = {"license: mit\n", "tuned, then repaired by kappa",
                                      "How it was made", " at strength ", "old.txt"};
  for (int i = 0; i < 5; i++)
    if (!strstr(card.data, parts[i])) fail_msg("no \"%s\" in\n%s", parts[i], card.data);
  assert_null(strstr(card.data, "learning rate"));
  ka_str_deinit(&card);
}

static void sweeps_and_writes(void **state) {
  (void)state;
  make_models();
  const char *measures = t_str("--text %s/old.txt --new-text %s/new.txt", dir, dir);
  put("tuned/README.md", "---\nlicense: mit\n---\nA card of the user's own, learning rate 1.\n");
  run(0, "* ",
      t_str("repair %s/base %s/tuned --out %s/repaired --keep 0.5 --json %s/r.json %s", dir, dir,
            dir, dir, measures));
  json_t *r = NULL, *points, *p;
  size_t i, n_chosen = 0;
  T_OK(ka_json_load(ctx, t_str("%s/r.json", dir), &r));
  points = json_object_get(r, "points");
  assert_int_equal(json_array_size(points), 10);
  const json_t *tuned = json_array_get(points, 0);
  double enough = 0.5 * json_number_value(json_object_get(tuned, "learned"));
  double least = json_number_value(json_object_get(tuned, "forgot")), kept = NAN;
  assert_true(enough > 0 && least > 0);
  json_array_foreach(points, i, p) {
    double forgot = json_number_value(json_object_get(p, "forgot"));
    if (json_number_value(json_object_get(p, "learned")) >= enough) least = fmin(least, forgot);
    if (!json_is_true(json_object_get(p, "chosen"))) continue;
    n_chosen++;
    kept = forgot;
    assert_true(json_is_true(json_object_get(p, "front")));
  }
  assert_int_equal(n_chosen, 1);
  assert_true(kept == least && kept < json_number_value(json_object_get(tuned, "forgot")));
  const json_t *seen = json_object_get(json_object_get(r, "intruders"), "tuned");
  assert_int_equal(json_integer_value(json_object_get(seen, "matrices")), 14);
  json_decref(r);
  card_is_its_own();
  /* What was written is what was measured. */
  run(0, "", t_str("forget %s/base a=%s/repaired --json %s/f.json %s", dir, dir, dir, measures));
  T_OK(ka_json_load(ctx, t_str("%s/f.json", dir), &r));
  p = json_object_get(json_array_get(json_object_get(r, "runs"), 0), "scores");
  assert_true(fabs(json_number_value(json_object_get(p, "forgot")) - kept) < 1e-9);
  json_decref(r);
  run(0, "", t_str("generate %s/repaired --prompt The --max-tokens 2", dir));
}

static void wrong_use(void **state) {
  (void)state;
  const char *two = t_str("repair %s/base %s/tuned", dir, dir);
  const char *good = t_str("--text %s/old.txt --new-text %s/new.txt", dir, dir);
  run(2, "measures of both sides", t_str("%s --text %s/old.txt", two, dir));
  run(2, "nothing to measure", two);
  run(2, "--wise: got \"a\"", t_str("%s %s --wise a", two, good));
  run(2, "--lines: got \"-1\"", t_str("%s %s --lines -1", two, good));
  run(2, "--keep: expected 0 to 1", t_str("%s %s --keep 2", two, good));
  run(2, "exists", t_str("%s %s --out %s/base.yaml", two, good, dir));
  run(2, "usage: kappa repair BASE TUNED", "repair one");
  run(0, "dghard", t_str("%s %s --wise none --lines none --intruders 0", two, good));
}

int main(void) {
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  const struct CMUnitTest tests[] = {cmocka_unit_test(thresholds),
                                     cmocka_unit_test(as_torch_has_it),
                                     cmocka_unit_test(ends),
                                     cmocka_unit_test(intruders),
                                     cmocka_unit_test(strangers_are_refused),
                                     cmocka_unit_test(sweeps_and_writes),
                                     cmocka_unit_test(wrong_use)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
