/* SPDX-License-Identifier: Apache-2.0
 * `kappa train` from outside, on a tiny random Llama and tokenized rows: same bits, interruption,
 * resume, what is trained and what is not, refusals. */
#include "tests/support/test.h"

#include "base/json.h"
#include "base/rng.h"
#include "engine/formats/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char config_text[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 64,\n"
    " \"hidden_size\": 32, \"num_hidden_layers\": 2, \"num_attention_heads\": 4,\n"
    " \"num_key_value_heads\": 2, \"intermediate_size\": 48, \"max_position_embeddings\": 64,\n"
    " \"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\", \"tie_word_embeddings\": false,\n"
    " \"initializer_range\": 0.1, \"torch_dtype\": \"float32\"}\n";

#define JOB                                                                                        \
  "base_model: base\n"                                                                             \
  "datasets: [{path: rows.jsonl, type: tokenized}]\n"                                              \
  "sequence_len: 32\nmicro_batch_size: 2\ngradient_accumulation_steps: 2\nmax_steps: 12\n"         \
  "learning_rate: 1e-2\nwarmup_steps: 2\nval_set_size: 4\neval_steps: 4\nsave_steps: 5\n"          \
  "logging_steps: 1\nbf16: false\nthreads: 1\n"

struct home {
  struct ka_ctx ctx;
  const char *dir;
};

static void write_text(struct home *h, const char *name, const char *text) {
  struct ka_ctx *ctx = &h->ctx;
  T_OK(ka_write_file(ctx, t_str("%s/%s", h->dir, name), text, strlen(text)));
}

/* 40 rows of 8 to 23 tokens that count upwards, with some noise. */
static void write_rows(struct home *h) {
  struct ka_ctx *ctx = &h->ctx;
  struct ka_str s = {0};
  for (uint64_t row = 0; row < 40; row++) {
    uint64_t n = 8 + ka_rng_below(3, row, 0, 16);
    T_OK(ka_str_puts(ctx, &s, "{\"input_ids\": ["));
    for (uint64_t t = 0; t < n; t++)
      T_OK(ka_str_printf(ctx, &s, "%s%d", t ? ", " : "",
                         (int)((row + t + (ka_rng_below(4, row, t, 8) == 0)) % 64)));
    T_OK(ka_str_puts(ctx, &s, "]}\n"));
  }
  T_OK(ka_write_file(ctx, t_str("%s/rows.jsonl", h->dir), s.data, s.len));
  ka_str_deinit(&s);
}

static int setup(void **state) {
  static struct home h;
  ka_ctx_init(&h.ctx);
  h.dir = t_temp_dir();
  write_text(&h, "config.json", config_text);
  write_rows(&h);
  write_text(&h, "job.yaml", JOB "selection: {metric: kappa, count: 5}\n");
  write_text(&h, "slices.yaml", JOB "selection: {file: slices.json}\n");
  *state = &h;
  return t_kappa(NULL, NULL, "init --config %s/config.json --out %s/base --seed 5", h.dir, h.dir);
}

static int train(struct home *h, const char *out, const char *words) {
  struct ka_str err = {0};
  int rc = t_kappa(NULL, &err, "train %s/job.yaml output_dir=%s/%s %s", h->dir, h->dir, out, words);
  if (rc != 0 && getenv("KAPPA_TEST_VERBOSE")) print_message("%s\n", err.data);
  ka_str_deinit(&err);
  return rc;
}

static void read_all(struct home *h, const char *path, struct ka_str *out) {
  struct ka_ctx *ctx = &h->ctx;
  T_OK(ka_read_file(ctx, t_str("%s/%s", h->dir, path), 0, out));
}

static bool same_file(struct home *h, const char *a, const char *b) {
  struct ka_str x = {0}, y = {0};
  read_all(h, a, &x);
  read_all(h, b, &y);
  bool same = x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
  ka_str_deinit(&x);
  ka_str_deinit(&y);
  return same;
}

/* The rows without what a clock says, one JSON text. */
static char *log_without_times(struct home *h, const char *out) {
  struct ka_ctx *ctx = &h->ctx;
  struct ka_str all = {0}, kept = {0};
  read_all(h, t_str("%s/train_log.jsonl", out), &all);
  for (char *line = strtok(all.data, "\n"); line; line = strtok(NULL, "\n")) {
    json_t *row = NULL;
    T_OK(ka_json_parse(ctx, line, strlen(line), "row", &row));
    json_object_del(row, "time_s");
    json_object_del(row, "tok_per_s");
    T_OK(ka_json_dump_line(ctx, row, &kept));
    json_decref(row);
  }
  ka_str_deinit(&all);
  return kept.data;
}

static void assert_same_run(struct home *h, const char *a, const char *b) {
  char *x = log_without_times(h, a), *y = log_without_times(h, b);
  assert_string_equal(x, y);
  ka_free(x);
  ka_free(y);
  static const char *const files[] = {"model.safetensors", "selection.json",
                                      "checkpoint-12/trained.safetensors",
                                      "checkpoint-12/selection.json"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++)
    if (!same_file(h, t_str("%s/%s", a, files[i]), t_str("%s/%s", b, files[i])))
      fail_msg("%s differs between %s and %s", files[i], a, b);
}

static void same_job_same_bits(void **state) {
  struct home *h = *state;
  assert_int_equal(train(h, "twice-a", ""), 0);
  assert_int_equal(train(h, "twice-b", ""), 0);
  assert_same_run(h, "twice-a", "twice-b");
  assert_int_equal(train(h, "threads", "--threads 3"), 0);
  assert_same_run(h, "twice-a", "threads");
  assert_int_equal(train(h, "again", "gradient_checkpointing=block"), 0);
  assert_same_run(h, "twice-a", "again");
  assert_int_equal(train(h, "seed", "seed=43"), 0);
  assert_false(same_file(h, "twice-a/model.safetensors", "seed/model.safetensors"));
}

static double last_loss(struct home *h, const char *out) {
  char *log = log_without_times(h, out), *row = log, *at;
  double loss = NAN;
  while ((at = strstr(row, "\"loss\":"))) {
    loss = strtod(at + 7, NULL);
    row = at + 1;
  }
  ka_free(log);
  return loss;
}

/* Six tokens of one row and twenty of another weigh alike in either split. */
static void accumulation_does_not_matter(void **state) {
  struct home *h = *state;
  const char *words = "shuffle=false sample_packing=false val_set_size=0 max_steps=6 ";
  assert_int_equal(
      train(h, "acc-1", t_str("%s micro_batch_size=4 gradient_accumulation_steps=1", words)), 0);
  assert_int_equal(
      train(h, "acc-4", t_str("%s micro_batch_size=1 gradient_accumulation_steps=4", words)), 0);
  double a = last_loss(h, "acc-1"), b = last_loss(h, "acc-4");
  if (!(fabs(a - b) < 1e-5)) fail_msg("losses %.9g and %.9g", a, b);
}

static json_t *load(struct home *h, const char *path) {
  struct ka_ctx *ctx = &h->ctx;
  json_t *v = NULL;
  T_OK(ka_json_load(ctx, t_str("%s/%s", h->dir, path), &v));
  return v;
}

static bool selected(const json_t *selection, const char *name) {
  size_t i;
  const json_t *unit;
  json_array_foreach(json_object_get(selection, "units"), i,
                     unit) if (strcmp(json_string_value(json_object_get(unit, "tensor")), name) ==
                               0) return true;
  return false;
}

static void trains_what_it_says(void **state) {
  struct home *h = *state;
  struct ka_ctx *ctx = &h->ctx;
  struct ka_safetensors base, tuned;
  assert_int_equal(train(h, "what", "max_steps=2"), 0);
  T_OK(ka_st_open(ctx, &base, t_str("%s/base", h->dir)));
  T_OK(ka_st_open(ctx, &tuned, t_str("%s/what", h->dir)));
  json_t *selection = load(h, "what/selection.json");
  assert_int_equal(json_array_size(json_object_get(selection, "units")), 5);
  assert_int_equal(base.n_entries, tuned.n_entries);
  int n_changed = 0;
  for (int64_t i = 0; i < base.n_entries; i++) {
    const struct ka_tensor *a = &base.entries[i].t, *b = &tuned.entries[i].t;
    assert_string_equal(base.entries[i].name, tuned.entries[i].name);
    assert_int_equal(base.entries[i].offset_bytes, tuned.entries[i].offset_bytes);
    bool same = memcmp(a->data, b->data, ka_tensor_bytes(a)) == 0;
    if (same == selected(selection, base.entries[i].name)) fail_msg("%s", base.entries[i].name);
    n_changed += !same;
  }
  assert_int_equal(n_changed, 5);
  json_decref(selection);
  ka_st_close(&base);
  ka_st_close(&tuned);
  assert_true(same_file(h, "base/config.json", "what/config.json"));
  assert_true(ka_path_exists(t_str("%s/what/report.html", h->dir)));
}

/* Rows 8 to 16 of q and columns 0 to 8 of o: nothing else of those tensors moves. */
static void trains_slices_alone(void **state) {
  struct home *h = *state;
  struct ka_ctx *ctx = &h->ctx;
  struct ka_safetensors base, tuned;
  const char *q = "model.layers.1.self_attn.q_proj.weight",
             *o = "model.layers.1.self_attn.o_proj.weight";
  write_text(h, "slices.json",
             t_str("{\"version\": 1, \"base\": null, \"metric\": \"kappa\", \"order\": \"lowest\", "
                   "\"seed\": 1, \"units\": [{\"name\": \"%s#head1\", \"unit\": \"head\", "
                   "\"tensor\": \"%s\", \"rows\": [8, 16], \"cols\": null, \"metrics\": {}}, "
                   "{\"name\": \"%s#head0\", \"unit\": \"head\", \"tensor\": \"%s\", \"rows\": "
                   "null, \"cols\": [0, 8], \"metrics\": {}}]}",
                   q, q, o, o));
  int rc =
      t_kappa(NULL, NULL, "train %s/slices.yaml output_dir=%s/slices max_steps=3 weight_decay=0.1",
              h->dir, h->dir);
  assert_int_equal(rc, 0);
  T_OK(ka_st_open(ctx, &base, t_str("%s/base", h->dir)));
  T_OK(ka_st_open(ctx, &tuned, t_str("%s/slices", h->dir)));
  for (int64_t i = 0; i < base.n_entries; i++) {
    const struct ka_tensor *a = &base.entries[i].t, *b = &tuned.entries[i].t;
    bool is_q = strcmp(base.entries[i].name, q) == 0, is_o = strcmp(base.entries[i].name, o) == 0;
    int64_t cols = a->n_dim == 2 ? a->shape[1] : 1, n_changed = 0;
    for (int64_t k = 0; k < ka_tensor_elems(a); k++) {
      int64_t r = k / cols, c = k % cols;
      bool same = ((const float *)a->data)[k] == ((const float *)b->data)[k];
      n_changed += !same;
      if (!same && !(is_q && r >= 8 && r < 16) && !(is_o && c < 8))
        fail_msg("%s [%d,%d] moved", base.entries[i].name, (int)r, (int)c);
    }
    if (is_q || is_o) assert_int_equal(n_changed, 8 * 32);
  }
  ka_st_close(&base);
  ka_st_close(&tuned);
}

/* Waits until the log has n more rows, then sends the signal. The run is slowed by nothing: should
 * it end first, the exit code says so and the comparison still holds. */
static int train_and_signal(struct home *h, const char *out, const char *words, int n_rows,
                            const char *signal) {
  const char *log = t_str("%s/%s/train_log.jsonl", h->dir, out);
  const char *line = t_str("rows() { cat %s 2>/dev/null | wc -l; }\n"
                           "want=$(($(rows) + %d))\n"
                           "$KAPPA_BIN train %s/job.yaml output_dir=%s/%s %s 2>%s/err & p=$!\n"
                           "while kill -0 $p 2>/dev/null && [ $(rows) -lt $want ]; do sleep 0.005; "
                           "done\nkill -%s $p 2>/dev/null; wait $p\n",
                           log, n_rows, h->dir, h->dir, out, words, h->dir, signal);
  write_text(h, "signal.sh", line);
  int rc = system(t_str("bash %s/signal.sh >/dev/null 2>&1", h->dir));
  return rc < 0 ? rc : (rc >> 8) & 255;
}

static void killed_and_resumed(void **state) {
  struct home *h = *state;
  assert_int_equal(train(h, "whole", "save_steps=3"), 0);
  for (int i = 0; i < 3; i++) {
    const char *out = t_str("kill-%d", i);
    train_and_signal(h, out, "save_steps=3 --resume", 1 + 4 * i, "KILL");
    train_and_signal(h, out, "save_steps=3 --resume", 2 + i, "KILL");
    assert_int_equal(train(h, out, "save_steps=3 --resume"), 0);
    assert_same_run(h, "whole", out);
  }
}

/* With a high learning rate the spectra move, so units enter and leave. */
static void selects_again(void **state) {
  struct home *h = *state;
  const char *words = "selection.refresh_steps=4 learning_rate=0.05 save_steps=3";
  struct ka_str err = {0};
  int rc = t_kappa(NULL, &err, "train %s/job.yaml output_dir=%s/fresh-a %s", h->dir, h->dir, words);
  if (rc != 0) fail_msg("exit code %d: %s", rc, err.data);
  assert_non_null(strstr(err.data, "step 4: selected again: "));
  assert_non_null(strstr(err.data, "step 8: selected again: "));
  assert_non_null(strstr(err.data, "  enters: model.layers."));
  ka_str_deinit(&err);
  assert_false(ka_path_exists(t_str("%s/fresh-a/refresh-4", h->dir))); /* no checkpoint needs it */
  assert_true(ka_path_exists(t_str("%s/fresh-a/refresh-8", h->dir)));
  for (int i = 0; i < 3; i++) {
    const char *out = t_str("fresh-%d", i);
    train_and_signal(h, out, t_str("%s --resume", words), 5 + 2 * i, "KILL");
    assert_int_equal(train(h, out, t_str("%s --resume", words)), 0);
    assert_same_run(h, "fresh-a", out);
  }
}

static void term_saves_and_exits_4(void **state) {
  struct home *h = *state;
  const char *words = "save_steps=0 max_steps=2000";
  assert_int_equal(train_and_signal(h, "term", words, 3, "TERM"), 4);
  assert_int_equal(train(h, "term", words), 2); /* not empty */
  assert_int_equal(train_and_signal(h, "term", t_str("%s --resume", words), 8, "INT"), 4);
  assert_false(ka_path_exists(t_str("%s/term/model.safetensors", h->dir)));
  assert_int_equal(train(h, "unsaved", "save_steps=0 max_steps=2"), 0);
  assert_false(ka_path_exists(t_str("%s/unsaved/checkpoint-2", h->dir)));
}

static void old_checkpoints_leave(void **state) {
  struct home *h = *state;
  assert_int_equal(train(h, "limit", "save_steps=2 save_total_limit=2"), 0);
  for (int step = 2; step <= 12; step += 2) {
    bool there = ka_path_exists(t_str("%s/limit/checkpoint-%d", h->dir, step));
    assert_int_equal(there, step >= 10);
  }
}

static void refuses(void **state) {
  struct home *h = *state;
  assert_int_equal(train(h, "base", "max_steps=1"), 2); /* not empty */
  assert_int_equal(train(h, "none", "selection.include=nothing_like_this"), 2);
  assert_int_equal(train(h, "key", "learning_rat=1"), 2);
  assert_false(ka_path_exists(t_str("%s/key", h->dir)));
  assert_int_equal(train(h, "nan",
                         "learning_rate=1000 save_steps=1 adam_beta2=0 max_grad_norm=0 "
                         "selection.metric=all weight_decay=1000"),
                   1);
  assert_false(ka_path_exists(t_str("%s/nan/model.safetensors", h->dir)));
  assert_int_equal(train(h, "change", "max_steps=4 save_steps=2"), 0);
  assert_int_equal(train(h, "change", "max_steps=4 --resume seed=1"), 2);
  assert_int_equal(train(h, "change", "max_steps=6 --resume"), 0); /* a longer run is a choice */
}

/* A file size limit stands for the full disk: the log fits, a checkpoint does not. */
static void full_disk(void **state) {
  struct home *h = *state;
  const char *line = t_str("trap '' XFSZ; ulimit -f 8; exec $KAPPA_BIN train %s/job.yaml "
                           "output_dir=%s/disk report_to=none 2>%s/err",
                           h->dir, h->dir, h->dir);
  write_text(h, "disk.sh", line);
  int rc = system(t_str("bash %s/disk.sh", h->dir));
  struct ka_str err = {0};
  read_all(h, "err", &err);
  assert_int_equal((rc >> 8) & 255, 3);
  assert_non_null(strstr(err.data, "trained.safetensors"));
  assert_false(ka_path_exists(t_str("%s/disk/checkpoint-5", h->dir)));
  assert_int_equal(train(h, "disk", "--resume"), 0);
  assert_int_equal(train(h, "disk-whole", ""), 0);
  assert_same_run(h, "disk-whole", "disk");
  ka_str_deinit(&err);
}

/* Heads chosen by kappa: what selection.json lists is what moves, whole heads of 8 rows or columns,
 * and nothing else. */
static void trains_heads_by_kappa(void **state) {
  struct home *h = *state;
  struct ka_ctx *ctx = &h->ctx;
  struct ka_safetensors base, tuned;
  json_t *root = NULL, *unit;
  size_t at;
  int64_t n_listed = 0, n_changed = 0;
  assert_int_equal(
      train(h, "heads", "selection.unit=head selection.count=3 max_steps=3 weight_decay=0.1"), 0);
  T_OK(ka_json_load(ctx, t_str("%s/heads/selection.json", h->dir), &root));
  json_array_foreach(json_object_get(root, "units"), at, unit) {
    const char *name = json_string_value(json_object_get(unit, "name"));
    assert_string_equal(json_string_value(json_object_get(unit, "unit")), "head");
    assert_non_null(strstr(name, "#head"));
    n_listed += 8 * 32;
  }
  assert_int_equal(n_listed, 3 * 8 * 32);
  T_OK(ka_st_open(ctx, &base, t_str("%s/base", h->dir)));
  T_OK(ka_st_open(ctx, &tuned, t_str("%s/heads", h->dir)));
  for (int64_t i = 0; i < base.n_entries; i++) {
    const struct ka_tensor *a = &base.entries[i].t, *b = &tuned.entries[i].t;
    for (int64_t k = 0; k < ka_tensor_elems(a); k++)
      n_changed += ((const float *)a->data)[k] != ((const float *)b->data)[k];
  }
  assert_int_equal(n_changed, n_listed);
  ka_st_close(&base);
  ka_st_close(&tuned);
  json_decref(root);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(same_job_same_bits),
      cmocka_unit_test(accumulation_does_not_matter),
      cmocka_unit_test(trains_what_it_says),
      cmocka_unit_test(trains_slices_alone),
      cmocka_unit_test(trains_heads_by_kappa),
      cmocka_unit_test(killed_and_resumed),
      cmocka_unit_test(term_saves_and_exits_4),
      cmocka_unit_test(old_checkpoints_leave),
      cmocka_unit_test(selects_again),
      cmocka_unit_test(refuses),
      cmocka_unit_test(full_disk),
  };
  return cmocka_run_group_tests(tests, setup, NULL);
}
