/* SPDX-License-Identifier: Apache-2.0
 * `kappa train` from outside, on a tiny random Llama and tokenized rows: same bits, interruption,
 * resume, what is trained and what is not, refusals. */
#include "tests/train/home.h"

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

/* Six tokens of one row and twenty of another weigh alike in either split. */
/* 36 rows in 18 micro-batches, 4 a step: the fifth step has two, and the run is one epoch. Warm-up
 * that is as long as the run gets a warning in plan and train. */
static void an_epoch_is_an_epoch(void **state) {
  struct home *h = *state;
  struct ka_ctx *ctx = &h->ctx;
  struct ka_str out = {0}, err = {0};
  write_text(
      h, "epoch.yaml",
      "base_model: base\ndatasets: [{path: rows.jsonl, type: tokenized}]\noutput_dir: epoch\n"
      "sequence_len: 32\nmicro_batch_size: 2\ngradient_accumulation_steps: 4\nnum_epochs: 1\n"
      "sample_packing: false\nval_set_size: 4\nwarmup_steps: 5\nbf16: false\nthreads: 1\n"
      "selection: {metric: last_n, count: 1}\nlogging_steps: 1\n");
  const char *warning = "warm-up has 5 steps, the run 5";
  assert_int_equal(t_kappa(&out, &err, "plan %s/epoch.yaml", h->dir), 0);
  assert_non_null(strstr(out.data, "1.00 epochs of 18 micro-batches"));
  assert_non_null(strstr(out.data, "the last step has 2 of its 4 micro-batches"));
  assert_non_null(strstr(err.data, warning));
  ka_str_clear(&err);
  assert_int_equal(t_kappa(NULL, &err, "train %s/epoch.yaml", h->dir), 0);
  assert_non_null(strstr(err.data, warning));
  ka_str_clear(&out);
  T_OK(ka_read_file(ctx, t_str("%s/epoch/train_log.jsonl", h->dir), 0, &out));
  assert_non_null(strstr(out.data, "{\"step\":5,\"epoch\":1.0,"));
  assert_null(strstr(out.data, "\"step\":6,"));
  /* Every document of the data, in the order of the file. */
  ka_str_clear(&out);
  assert_int_equal(t_kappa(&out, NULL, "plan %s/epoch.yaml --jsonl -", h->dir), 0);
  int n = 0;
  for (const char *p = out.data; *p; p = strchr(p, '\n') + 1) n++;
  assert_int_equal(n, 40);
  assert_int_equal(strncmp(out.data, "{\"ids\": [0, ", 12), 0);
  ka_str_deinit(&out);
  ka_str_deinit(&err);
}

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

/* What programs read: the plan, the result, and the log under Hugging Face's names. */
static void programs_can_read_it(void **state) {
  struct home *h = *state;
  struct ka_str out = {0};
  assert_int_equal(t_kappa(&out, NULL, "plan %s/job.yaml max_steps=3 --json -", h->dir), 0);
  assert_int_equal(out.data[0], '{'); /* and nothing else on stdout */
  ka_str_deinit(&out);
  assert_int_equal(
      train(h, "read", t_str("max_steps=3 logging_steps=1 --json %s/end.json", h->dir)), 0);
  assert_int_equal(
      t_kappa(NULL, NULL, "plan %s/job.yaml max_steps=3 --json %s/plan.json", h->dir, h->dir), 0);
  json_t *plan = load(h, "plan.json"), *end = load(h, "end.json"),
         *theirs = load(h, "read/trainer_state.json");
  assert_int_equal(json_integer_value(json_object_get(json_object_get(plan, "steps"), "n")), 3);
  assert_int_equal(json_integer_value(json_object_get(end, "steps")), 3);
  assert_int_equal(json_integer_value(json_object_get(theirs, "global_step")), 3);
  const json_t *history = json_object_get(theirs, "log_history"), *row = json_array_get(history, 0);
  assert_true(json_array_size(history) >= 3);
  if (!json_object_get(row, "loss")) row = json_array_get(history, 1);
  assert_true(json_is_number(json_object_get(row, "learning_rate")));
  assert_null(json_object_get(row, "lr"));
#ifndef __SANITIZE_ADDRESS__
  double said = json_number_value(json_object_get(json_object_get(plan, "memory"), "peak_bytes")),
         was = json_number_value(json_object_get(end, "peak_bytes"));
  bool host = !getenv("KAPPA_TEST_DEVICE"); /* a device's stand-in lives in the same process */
  if (host && !(said > 0.93 * was && said < 1.07 * was)) fail_msg("plan %g, peak %g", said, was);
#endif
  json_decref(plan);
  json_decref(end);
  json_decref(theirs);
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

/* Steps of a fifth of what bf16 can tell apart: rounded to nearest nothing would move. Rounded
 * stochastically the loss falls as with f32 masters, and a resumed run draws the same bits. */
static void state_in_bf16(void **state) {
  struct home *h = *state;
  const char *words = "bf16=true learning_rate=1e-4 lr_scheduler=constant max_steps=30 "
                      "selection.metric=all save_steps=12";
  assert_int_equal(train(h, "start", t_str("%s max_steps=1", words)), 0);
  assert_int_equal(train(h, "f32-state", words), 0);
  words = t_str("%s optimizer_dtype=bf16", words);
  assert_int_equal(train(h, "bf16-state", words), 0);
  double first = last_loss(h, "start"), f32 = last_loss(h, "f32-state");
  double bf16 = last_loss(h, "bf16-state"), gained = first - f32;
  if (!(gained > 0 && fabs(bf16 - f32) < 0.05 * gained))
    fail_msg("loss %g at first; at last %g with f32 state, %g with bf16", first, f32, bf16);
  train_and_signal(h, "bf16-kill", t_str("%s --resume", words), 14, "KILL");
  assert_int_equal(train(h, "bf16-kill", t_str("%s --resume", words)), 0);
  assert_true(same_file(h, "bf16-state/model.safetensors", "bf16-kill/model.safetensors"));
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
  /* one that a kill left between writing the newest and removing the oldest */
  assert_int_equal(
      system(t_str("cp -r %s/limit/checkpoint-10 %s/limit/checkpoint-8", h->dir, h->dir)), 0);
  assert_int_equal(train(h, "limit", "save_steps=2 save_total_limit=2 --resume"), 0);
  assert_false(ka_path_exists(t_str("%s/limit/checkpoint-8", h->dir)));
  assert_true(ka_path_exists(t_str("%s/limit/checkpoint-10", h->dir)));
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
      cmocka_unit_test(an_epoch_is_an_epoch),
      cmocka_unit_test(accumulation_does_not_matter),
      cmocka_unit_test(trains_what_it_says),
      cmocka_unit_test(programs_can_read_it),
      cmocka_unit_test(trains_slices_alone),
      cmocka_unit_test(trains_heads_by_kappa),
      cmocka_unit_test(killed_and_resumed),
      cmocka_unit_test(state_in_bf16),
      cmocka_unit_test(term_saves_and_exits_4),
      cmocka_unit_test(old_checkpoints_leave),
      cmocka_unit_test(selects_again),
      cmocka_unit_test(refuses),
      cmocka_unit_test(full_disk),
  };
  return cmocka_run_group_tests(tests, setup, NULL);
}
