/* SPDX-License-Identifier: Apache-2.0
 *
 * A directory with a tiny random Llama, tokenized rows and a job, and `kappa train` on it. */
#ifndef KAPPA_TESTS_TRAIN_HOME_H
#define KAPPA_TESTS_TRAIN_HOME_H

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
    " \"bos_token_id\": 7,\n"
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

static inline void write_text(struct home *h, const char *name, const char *text) {
  struct ka_ctx *ctx = &h->ctx;
  T_OK(ka_write_file(ctx, t_str("%s/%s", h->dir, name), text, strlen(text)));
}

/* 40 rows of 8 to 23 tokens that count upwards, with some noise. */
static inline void write_rows(struct home *h) {
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

static inline int setup(void **state) {
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

static inline int train(struct home *h, const char *out, const char *words) {
  struct ka_str err = {0};
  int rc = t_kappa(NULL, &err, "train %s/job.yaml output_dir=%s/%s %s", h->dir, h->dir, out, words);
  if (rc != 0 && getenv("KAPPA_TEST_VERBOSE")) print_message("%s\n", err.data);
  ka_str_deinit(&err);
  return rc;
}

static inline void read_all(struct home *h, const char *path, struct ka_str *out) {
  struct ka_ctx *ctx = &h->ctx;
  T_OK(ka_read_file(ctx, t_str("%s/%s", h->dir, path), 0, out));
}

static inline bool same_file(struct home *h, const char *a, const char *b) {
  struct ka_str x = {0}, y = {0};
  read_all(h, a, &x);
  read_all(h, b, &y);
  bool same = x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
  ka_str_deinit(&x);
  ka_str_deinit(&y);
  return same;
}

/* The rows without what a clock says, one JSON text. */
static inline char *log_without_times(struct home *h, const char *out) {
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

static inline void assert_same_run(struct home *h, const char *a, const char *b) {
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

static inline double last_loss(struct home *h, const char *out) {
  char *log = log_without_times(h, out), *row = log, *at;
  double loss = NAN;
  while ((at = strstr(row, "\"loss\":"))) {
    loss = strtod(at + 7, NULL);
    row = at + 1;
  }
  ka_free(log);
  return loss;
}

static inline json_t *load(struct home *h, const char *path) {
  struct ka_ctx *ctx = &h->ctx;
  json_t *v = NULL;
  T_OK(ka_json_load(ctx, t_str("%s/%s", h->dir, path), &v));
  return v;
}

/* Waits until the log has n more rows, then sends the signal. The run is slowed by nothing: should
 * it end first, the exit code says so and the comparison still holds. */
static inline int train_and_signal(struct home *h, const char *out, const char *words, int n_rows,
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

#endif
