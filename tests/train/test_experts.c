/* SPDX-License-Identifier: Apache-2.0
 * Choosing and training experts: metric affinity against what transformers' routers do (affinity/,
 * by make_affinity.py); a file that stacks the experts of a layer is as one that holds them
 * apart. */
#include "tests/train/home.h"

#include "engine/model/model.h"

#include <unistd.h>

enum { LAYERS = 2, EXPERTS = 4, C = 16, EF = 12 };

static const char *source(const char *path) {
  const char *root = getenv("KAPPA_SOURCE_DIR");
  char here[4096];
  return t_str("%s/tests/%s", root ? root : getcwd(here, sizeof here), path);
}

/* Three matrices an expert become two tensors a layer, gate and up in one. */
static void stack(struct home *h) {
  struct ka_ctx *ctx = &h->ctx;
  static float gate_up[LAYERS][EXPERTS][2][EF * C], down[LAYERS][EXPERTS][C * EF];
  struct ka_safetensors files;
  struct ka_st_out out[64];
  int64_t n = 0;
  T_OK(ka_make_dirs(ctx, t_str("%s/stacked", h->dir)));
  T_OK(ka_copy_file(ctx, source("model/goldens/olmoe-clip/config.json"),
                    t_str("%s/stacked/config.json", h->dir)));
  T_OK(ka_st_open(ctx, &files, source("model/goldens/olmoe-clip")));
  for (int64_t i = 0; i < files.n_entries; i++) {
    const struct ka_st_entry *e = &files.entries[i];
    int l, x, end = 0;
    char part[16];
    if (sscanf(e->name, "model.layers.%d.mlp.experts.%d.%15[a-z]_proj.weight%n", &l, &x, part,
               &end) == 3 &&
        end > 0) {
      bool is_down = strcmp(part, "down") == 0;
      float *to = is_down ? down[l][x] : gate_up[l][x][strcmp(part, "up") == 0];
      assert_int_equal(e->n_bytes, EF * C * sizeof *to);
      memcpy(to, e->t.data, e->n_bytes);
    } else {
      out[n++] = (struct ka_st_out){.name = e->name, .t = e->t};
    }
  }
  for (int l = 0; l < LAYERS; l++) {
    const int64_t wide[] = {EXPERTS, 2 * EF, C}, narrow[] = {EXPERTS, C, EF};
    out[n++] = (struct ka_st_out){t_str("model.layers.%d.mlp.experts.gate_up_proj", l),
                                  ka_tensor_view(gate_up[l], KA_F32, 3, wide)};
    out[n++] = (struct ka_st_out){t_str("model.layers.%d.mlp.experts.down_proj", l),
                                  ka_tensor_view(down[l], KA_F32, 3, narrow)};
  }
  T_OK(ka_st_write(ctx, t_str("%s/stacked/model.safetensors", h->dir), out, n, NULL, 0));
  ka_st_close(&files);
}

static int home(void **state) {
  static struct home h;
  ka_ctx_init(&h.ctx);
  h.dir = t_temp_dir();
  write_text(&h, "job.yaml",
             t_str("base_model: %s\ndatasets: [{path: %s, type: tokenized}]\nsequence_len: 32\n"
                   "micro_batch_size: 2\nmax_steps: 3\nlearning_rate: 1e-2\nval_set_size: 0\n"
                   "logging_steps: 1\nbf16: false\nthreads: 1\nselection: {metric: affinity}\n",
                   source("model/goldens/olmoe-clip"), source("train/affinity/rows.jsonl")));
  stack(&h);
  *state = &h;
  return 0;
}

/* Of a unit's name as either file has it: layer, expert, matrix. */
static void place_of(const char *name, int *layer, int *expert, const char **part) {
  static const char *const parts[] = {"gate", "up", "down"};
  const char *at = strstr(name, "#expert");
  char word[16] = "";
  if (at) {
    assert_int_equal(sscanf(name, "model.layers.%d.", layer), 1);
    assert_true(sscanf(at, "#expert%d.%15[a-z]", expert, word) >= 1);
    if (!*word) snprintf(word, sizeof word, "down");
  } else {
    assert_int_equal(sscanf(name, "model.layers.%d.mlp.experts.%d.%15[a-z]_", layer, expert, word),
                     3);
  }
  *part = NULL;
  for (int i = 0; i < 3; i++)
    if (strcmp(parts[i], word) == 0) *part = parts[i];
  assert_non_null(*part);
}

static void check_affinity(struct home *h, const char *out, const json_t *want, const char *p) {
  const json_t *share = json_object_get(want, "share");
  const json_t *experts = json_object_get(json_object_get(want, "experts"), p);
  json_t *selection = load(h, t_str("%s/selection.json", out)), *units, *u;
  int chosen[LAYERS][EXPERTS] = {{0}};
  size_t i;
  units = json_object_get(selection, "units");
  json_array_foreach(units, i, u) {
    int l, e;
    const char *part;
    place_of(json_string_value(json_object_get(u, "name")), &l, &e, &part);
    double got = json_real_value(json_object_get(json_object_get(u, "metrics"), "affinity"));
    double wanted = json_real_value(json_array_get(json_array_get(share, (size_t)l), (size_t)e));
    if (fabs(got - wanted) > 1e-6) fail_msg("%s %d %d: %g, expected %g", out, l, e, got, wanted);
    chosen[l][e]++;
  }
  for (int l = 0; l < LAYERS; l++) {
    const json_t *list = json_array_get(experts, (size_t)l);
    size_t n = 0;
    for (int e = 0; e < EXPERTS; e++) {
      if (chosen[l][e] == 0) continue;
      assert_int_equal(chosen[l][e], 3); /* gate, up and down */
      assert_int_equal(json_integer_value(json_array_get(list, n++)), e);
    }
    assert_int_equal(n, json_array_size(list));
  }
  json_decref(selection);
}

static void affinity_as_transformers_routes(void **state) {
  struct home *h = *state;
  static const char *const scores[] = {"token", "gate"}, *const shares[] = {"0.2", "0.5", "0.8",
                                                                            "1.0"};
  json_t *want = NULL;
  struct ka_ctx *ctx = &h->ctx;
  T_OK(ka_json_load(ctx, source("train/affinity/expected.json"), &want));
  for (int i = 0; i < 8; i++) {
    const char *out = t_str("affinity%d", i);
    const char *base = i % 4 == 1 ? t_str("base_model=%s/stacked", h->dir) : "";
    assert_int_equal(
        train(h, out,
              t_str("selection.score=%s selection.p=%s %s", scores[i / 4], shares[i % 4], base)),
        0);
    check_affinity(h, out, json_object_get(want, scores[i / 4]), shares[i % 4]);
    json_t *selection = load(h, t_str("%s/selection.json", out));
    const json_t *how = json_object_get(selection, "affinity");
    assert_string_equal(json_string_value(json_object_get(how, "score")), scores[i / 4]);
    assert_int_equal(json_integer_value(json_object_get(how, "tokens")),
                     json_integer_value(json_object_get(want, "tokens")));
    json_decref(selection);
  }
  json_decref(want);
}

/* A budget takes the most used first; order: lowest the least used. */
static void affinity_with_a_budget(void **state) {
  struct home *h = *state;
  assert_int_equal(train(h, "most", "selection.count=1"), 0);
  assert_int_equal(train(h, "least", "selection.count=1 selection.order=lowest"), 0);
  static const struct {
    const char *out, *unit;
  } want[] = {{"most", "model.layers.1.mlp.experts.1.down_proj.weight"},
              {"least", "model.layers.1.mlp.experts.0.down_proj.weight"}};
  for (int i = 0; i < 2; i++) {
    json_t *s = load(h, t_str("%s/selection.json", want[i].out));
    const json_t *u = json_array_get(json_object_get(s, "units"), 0);
    assert_string_equal(json_string_value(json_object_get(u, "name")), want[i].unit);
    json_decref(s);
  }
}

/* The first tokens in the order of training, to the token; the same on the next run. */
static void affinity_of_a_few_tokens(void **state) {
  struct home *h = *state;
  json_t *s[2];
  for (int i = 0; i < 2; i++) {
    assert_int_equal(train(h, t_str("few%d", i), "selection.score_tokens=50 selection.p=1"), 0);
    s[i] = load(h, t_str("few%d/selection.json", i));
  }
  assert_int_equal(json_integer_value(json_object_get(json_object_get(s[0], "affinity"), "tokens")),
                   50);
  assert_true(json_equal(json_object_get(s[0], "units"), json_object_get(s[1], "units")));
  double sum = 0;
  for (size_t i = 0; i < json_array_size(json_object_get(s[0], "units")); i++) {
    const json_t *u = json_array_get(json_object_get(s[0], "units"), i);
    double share = json_real_value(json_object_get(json_object_get(u, "metrics"), "affinity"));
    assert_true(fabs(share * 100 - round(share * 100)) < 1e-9); /* of 2 choices of 50 tokens */
    if (strstr(json_string_value(json_object_get(u, "name")), "up_proj")) sum += share;
  }
  assert_true(fabs(sum - LAYERS) < 1e-9);
  for (int i = 0; i < 2; i++) json_decref(s[i]);
}

static void affinity_is_refused(void **state) {
  struct home *h = *state;
  static const struct {
    const char *words, *says;
  } cases[] = {{"selection.unit=head", "metric affinity picks experts"},
               {"selection.p=0", "expected above 0"},
               {"selection.p=0.3 selection.fraction=0.1", "exclude each other"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct ka_str err = {0};
    int rc = t_kappa(NULL, &err, "train %s/job.yaml output_dir=%s/no%zu %s", h->dir, h->dir, i,
                     cases[i].words);
    if (rc != 2 || !strstr(err.data, cases[i].says)) fail_msg("%d: %s", rc, err.data);
    ka_str_deinit(&err);
  }
  struct ka_str err = {0};
  write_text(h, "config.json", config_text);
  assert_int_equal(
      t_kappa(NULL, NULL, "init --config %s/config.json --out %s/dense", h->dir, h->dir), 0);
  assert_int_equal(t_kappa(NULL, &err, "train %s/job.yaml output_dir=%s/no base_model=%s/dense",
                           h->dir, h->dir, h->dir),
                   2);
  assert_non_null(strstr(err.data, "has none"));
  ka_str_deinit(&err);
}

/* --- both ways in which files hold experts ---------------------------------------------------- */

static void same_rows(struct home *h, const char *a, const char *b) {
  struct ka_str x = {0}, y = {0};
  struct ka_ctx *ctx = &h->ctx;
  T_OK(ka_read_file(ctx, t_str("%s/%s/train_log.jsonl", h->dir, a), 0, &x));
  T_OK(ka_read_file(ctx, t_str("%s/%s/train_log.jsonl", h->dir, b), 0, &y));
  char *p = x.data, *q = y.data;
  for (int i = 0; i < 3; i++) {
    json_t *r = json_loads(p, JSON_DISABLE_EOF_CHECK, NULL), *s;
    s = json_loads(q, JSON_DISABLE_EOF_CHECK, NULL);
    for (int k = 0; k < 2; k++) {
      const char *key = k ? "grad_norm" : "loss";
      double u = json_real_value(json_object_get(r, key));
      double v = json_real_value(json_object_get(s, key));
      if (u == 0 || fabs(u - v) > 1e-12 * fabs(u)) fail_msg("%s %s: %.17g %.17g", a, key, u, v);
    }
    json_decref(r);
    json_decref(s);
    p = strchr(p, '\n') + 1;
    q = strchr(q, '\n') + 1;
  }
  ka_str_deinit(&x);
  ka_str_deinit(&y);
}

static void same_units(struct home *h, const char *a, const char *b) {
  json_t *x = load(h, t_str("%s/selection.json", a)), *y = load(h, t_str("%s/selection.json", b));
  const json_t *us = json_object_get(x, "units"), *vs = json_object_get(y, "units");
  assert_int_equal(json_array_size(us), json_array_size(vs));
  for (size_t i = 0; i < json_array_size(us); i++) {
    const json_t *u = json_array_get(us, i), *v = json_array_get(vs, i);
    int l[2], e[2];
    const char *part[2];
    place_of(json_string_value(json_object_get(u, "name")), &l[0], &e[0], &part[0]);
    place_of(json_string_value(json_object_get(v, "name")), &l[1], &e[1], &part[1]);
    assert_int_equal(l[0], l[1]);
    assert_int_equal(e[0], e[1]);
    assert_string_equal(part[0], part[1]);
    if (!json_equal(json_object_get(u, "metrics"), json_object_get(v, "metrics")))
      fail_msg("%s: other metrics", json_string_value(json_object_get(u, "name")));
  }
  json_decref(x);
  json_decref(y);
}

static void stacked_is_as_apart(void **state) {
  struct home *h = *state;
  static const char *const words[] = {
      "selection.metric=kappa selection.count=5",
      "selection.metric=kappa selection.unit=expert selection.count=4",
      "selection.metric=kappa_mp selection.unit=expert selection.params=700",
      "selection.metric=random selection.unit=expert selection.fraction=0.4",
      "selection.metric=last_n selection.unit=expert selection.count=5",
      "selection.metric=affinity selection.p=0.4",
  };
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    const char *apart = t_str("apart%zu", i), *together = t_str("together%zu", i);
    const char *only = " 'selection.include=[experts]'";
    assert_int_equal(train(h, apart, t_str("%s%s", words[i], only)), 0);
    assert_int_equal(
        train(h, together, t_str("base_model=%s/stacked %s%s", h->dir, words[i], only)), 0);
    same_units(h, apart, together);
    same_rows(h, apart, together);
  }
}

/* A selection.json of the one serves the other, whole experts and parts of them. */
static void a_selection_serves_both(void **state) {
  struct home *h = *state;
  static const char *const made[] = {"apart", "together"};
  for (int i = 0; i < 8; i++) {
    const char *from = t_str("%s%d", made[i % 2], i / 2), *to = made[1 - i % 2];
    const char *out = t_str("serves%d", i);
    const char *base = i % 2 ? "" : t_str("base_model=%s/stacked", h->dir);
    assert_int_equal(train(h, out,
                           t_str("selection.metric=kappa selection.file=%s/%s/selection.json %s",
                                 h->dir, from, base)),
                     0);
    same_units(h, from, out);
    same_rows(h, t_str("%s%d", to, i / 2), out);
  }
}

/* --- what is counted -------------------------------------------------------------------------- */

static void counted_however_a_step_is_cut(void **state) {
  struct home *h = *state;
  static const int cuts[][2] = {{4, 1}, {2, 2}, {1, 4}};
  json_t *experts[3];
  for (int i = 0; i < 3; i++) {
    const char *out = t_str("cut%d", i);
    assert_int_equal(train(h, out,
                           t_str("micro_batch_size=%d gradient_accumulation_steps=%d shuffle=false "
                                 "sample_packing=false",
                                 cuts[i][0], cuts[i][1])),
                     0);
    json_t *report = load(h, t_str("%s/report.json", out));
    experts[i] = json_incref(json_object_get(report, "experts"));
    assert_non_null(experts[i]);
    json_decref(report);
  }
  assert_true(json_equal(experts[0], experts[1]));
  assert_true(json_equal(experts[0], experts[2]));
  const json_t *layers = json_object_get(experts[0], "layers"), *v;
  json_int_t sum = 0, rows = 0;
  size_t i;
  json_array_foreach(json_object_get(json_array_get(layers, 0), "taken"), i, v) sum +=
      json_integer_value(v);
  char *text = log_without_times(h, "cut0"), *last = strstr(text, "\"step\":3");
  rows = strtol(strstr(last, "\"tok\":") + 6, NULL, 10);
  assert_int_equal(sum, 2 * rows); /* each token takes two */
  ka_free(text);
  for (i = 0; i < 3; i++) json_decref(experts[i]);
}

/* Expert 0 of layer 1 takes no token. */
static void unreached_experts_are_told(void **state) {
  struct home *h = *state;
  struct ka_str err = {0}, page = {0};
  assert_int_equal(t_kappa(NULL, &err,
                           "train %s/job.yaml output_dir=%s/unreached selection.p=~ "
                           "selection.order=lowest selection.count=1",
                           h->dir, h->dir),
                   0);
  assert_non_null(strstr(err.data, "1 of 1 trained experts got no token"));
  assert_non_null(strstr(err.data, "1.0"));
  char *log = log_without_times(h, "unreached");
  assert_non_null(strstr(log, "\"router_unreached\":1"));
  assert_non_null(strstr(log, "\"router_dead\":1"));
  read_all(h, "unreached/report.html", &page);
  assert_non_null(strstr(page.data, "1 experts took no token"));
  assert_non_null(strstr(page.data, "layer 1, expert 0: 0.00 times an even load, trained"));
  ka_free(log);
  ka_str_deinit(&page);
  ka_str_deinit(&err);
}

/* A run that is cut between two rows of its log and resumed has the same rows and counts. */
static void counted_over_a_resume(void **state) {
  struct home *h = *state;
  const char *words = "logging_steps=3 save_steps=2 max_steps=6";
  assert_int_equal(train(h, "whole", words), 0);
  assert_int_equal(train(h, "halves", words), 0);
  char *log = log_without_times(h, "whole");
  struct ka_ctx *ctx = &h->ctx;
  T_OK(ka_remove_tree(ctx, t_str("%s/halves/checkpoint-6", h->dir)));
  assert_int_equal(t_kappa(NULL, NULL, "train --resume %s/job.yaml output_dir=%s/halves %s", h->dir,
                           h->dir, words),
                   0);
  char *again = log_without_times(h, "halves");
  assert_string_equal(log, again);
  json_t *a = load(h, "whole/report.json"), *b = load(h, "halves/report.json");
  assert_true(json_equal(json_object_get(a, "experts"), json_object_get(b, "experts")));
  json_decref(a);
  json_decref(b);
  ka_free(log);
  ka_free(again);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(affinity_as_transformers_routes),
      cmocka_unit_test(affinity_with_a_budget),
      cmocka_unit_test(affinity_of_a_few_tokens),
      cmocka_unit_test(affinity_is_refused),
      cmocka_unit_test(stacked_is_as_apart),
      cmocka_unit_test(a_selection_serves_both),
      cmocka_unit_test(counted_however_a_step_is_cut),
      cmocka_unit_test(unreached_experts_are_told),
      cmocka_unit_test(counted_over_a_resume),
  };
  return cmocka_run_group_tests(tests, home, NULL);
}
