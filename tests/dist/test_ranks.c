/* SPDX-License-Identifier: Apache-2.0
 * `kappa train` by several ranks on a tiny random Llama: the numbers of one rank, the same bits at
 * the same count, resume at another, one voice. Root and oversubscription are for test machines
 * alone. */
#include "tests/train/home.h"

static char alone[1024];

/* Runs what follows on n ranks. */
static void use_ranks(size_t n) {
  if (n == 1)
    setenv("KAPPA_BIN", alone, 1);
  else
    setenv("KAPPA_BIN", t_str("mpirun --allow-run-as-root --oversubscribe -q -np %zu %s", n, alone),
           1);
}

static int setup_ranks(void **state) {
  const char *bin = getenv("KAPPA_BIN");
  snprintf(alone, sizeof alone, "%s", bin ? bin : "build/kappa");
  if (setup(state) != 0) return 1;
  struct home *h = *state;
  return system(t_str("sed s/float32/bfloat16/ %s/config.json >%s/half.json && %s init --config "
                      "%s/half.json --out %s/half --seed 5 2>%s/err",
                      h->dir, h->dir, alone, h->dir, h->dir, h->dir));
}

#define NEEDS_MPIRUN                                                                               \
  if (system("command -v mpirun >/dev/null 2>&1") != 0) {                                          \
    print_message("skipped: no mpirun\n");                                                         \
    skip();                                                                                        \
  }

/* Every number of the two logs within summation order. */
static void assert_close_logs(struct home *h, const char *a, const char *b) {
  char *x = log_without_times(h, a), *y = log_without_times(h, b);
  const char *p = x, *q = y;
  while (*p && *q) {
    char *after_p, *after_q;
    double u = strtod(p, &after_p), v = strtod(q, &after_q);
    if (after_p == p || after_q == q) {
      assert_int_equal(*p, *q);
      p++, q++;
      continue;
    }
    if (!(fabs(u - v) <= 2e-5 * fmax(1, fabs(u)))) fail_msg("%s, %s: %.9g and %.9g", a, b, u, v);
    p = after_p;
    q = after_q;
  }
  assert_true(*p == 0 && *q == 0);
  ka_free(x);
  ka_free(y);
}

static void any_number_of_ranks(void **state) {
  NEEDS_MPIRUN
  struct home *h = *state;
  static const char *const jobs[] = {"", "gradient_checkpointing=block selection.unit=head",
                                     "anchor.kind=kl anchor.weight=0.3 anchor.on=both",
                                     "gradient_accumulation_steps=5 selection.metric=all"};
  for (int j = 0; j < 4; j++)
    for (size_t n = 1; n <= (j == 0 ? 4 : 2); n++) {
      use_ranks(n);
      assert_int_equal(train(h, t_str("job%d-%zu", j, n), jobs[j]), 0);
      if (n > 1) assert_close_logs(h, t_str("job%d-1", j), t_str("job%d-%zu", j, n));
    }
}

/* The files of a run of n ranks with split state against those of one rank, tensor by tensor. */
static void assert_close_weights(struct home *h, const char *a, const char *b, double bound) {
  struct ka_ctx *ctx = &h->ctx;
  struct ka_safetensors x, y;
  T_OK(ka_st_open(ctx, &x, t_str("%s/%s", h->dir, a)));
  T_OK(ka_st_open(ctx, &y, t_str("%s/%s", h->dir, b)));
  assert_int_equal(x.n_entries, y.n_entries);
  for (int64_t i = 0; i < x.n_entries; i++) {
    struct ka_tensor u = x.entries[i].t, v = y.entries[i].t;
    assert_string_equal(x.entries[i].name, y.entries[i].name);
    assert_int_equal(ka_tensor_bytes(&u), ka_tensor_bytes(&v));
    for (int64_t k = 0; k < ka_tensor_elems(&u); k++) {
      double p = ka_load(u.data, u.dtype, k), q = ka_load(v.data, v.dtype, k);
      if (!(fabs(p - q) <= bound)) fail_msg("%s, %s: %g and %g", b, x.entries[i].name, p, q);
    }
  }
  ka_st_close(&x);
  ka_st_close(&y);
}

/* Heads are columns of o and rows of q: units that lie in pieces; 3 ranks divide nothing evenly. A
 * moment of 0 and one of 1e-8 are steps of 0 and 1, so weights agree to a small multiple of the
 * learning rate. */
static void split_states(void **state) {
  NEEDS_MPIRUN
  struct home *h = *state;
  static const char *const jobs[] = {
      "selection.metric=all",
      "selection.unit=head gradient_checkpointing=block",
      "anchor.kind=kl anchor.weight=0.3",
      "anchor.kind=l2 anchor.weight=5 selection.unit=head gradient_accumulation_steps=5",
      "optimizer_dtype=bf16 bf16=true selection.metric=all max_steps=3",
      "selection.refresh_steps=4 selection.metric=random",
      "forgetting.keep=best forgetting.every=4",
  };
  for (size_t j = 0; j < sizeof jobs / sizeof *jobs; j++) {
    bool rounds = strstr(jobs[j], "bf16") != NULL;
    use_ranks(1);
    assert_int_equal(train(h, t_str("split%zu-1", j), jobs[j]), 0);
    use_ranks(2 + j % 2);
    assert_int_equal(train(h, t_str("split%zu", j), t_str("%s shard=optimizer", jobs[j])), 0);
    if (!rounds) assert_close_logs(h, t_str("split%zu-1", j), t_str("split%zu", j));
    assert_close_weights(h, t_str("split%zu-1/model.safetensors", j),
                         t_str("split%zu/model.safetensors", j), rounds ? 0.05 : 2e-3);
  }
}

/* Weights and gradients too. The job trains all, or some heads of frozen bf16 tensors that are
 * computed in f32; 3 micro-batches leave a rank without one in some rounds. */
static void split_weights(void **state) {
  NEEDS_MPIRUN
  struct home *h = *state;
  static const char *const jobs[] = {
      "selection.metric=all gradient_accumulation_steps=3",
      "selection.metric=all gradient_checkpointing=block",
      "selection.unit=head anchor.kind=kl anchor.weight=0.3",
      "selection.unit=head  gradient_checkpointing=block forgetting.every=4 "
      "forgetting.keep=best",
      "selection.refresh_steps=4 selection.metric=random ",
  };
  for (size_t j = 0; j < sizeof jobs / sizeof *jobs; j++) {
    const char *words = t_str("%s base_model=%s/%s", jobs[j], h->dir, j < 2 ? "base" : "half");
    use_ranks(1);
    assert_int_equal(train(h, t_str("all%zu-1", j), words), 0);
    for (size_t n = 2; n <= (j == 0 ? 4 : 2 + j % 2); n++) {
      use_ranks(n);
      assert_int_equal(train(h, t_str("all%zu-%zu", j, n), t_str("%s shard=all", words)), 0);
      assert_close_logs(h, t_str("all%zu-1", j), t_str("all%zu-%zu", j, n));
      assert_close_weights(h, t_str("all%zu-1/model.safetensors", j),
                           t_str("all%zu-%zu/model.safetensors", j, n), 2e-3);
    }
  }
}

/* A checkpoint does not know how many ranks split what it holds, nor whether they did. */
static void split_resumed(void **state) {
  NEEDS_MPIRUN
  struct home *h = *state;
  use_ranks(3);
  const char *first = "selection.metric=all shard=optimizer";
  assert_int_equal(train(h, "split-a", first), 0);
  assert_int_equal(train(h, "split-b", first), 0);
  assert_same_run(h, "split-a", "split-b");
  for (size_t n = 1; n <= 4; n++) {
    assert_int_equal(
        system(t_str("rm -rf %s/again && cp -r %s/split-a %s/again && rm -r %s/again/*-12", h->dir,
                     h->dir, h->dir, h->dir)),
        0);
    use_ranks(n);
    assert_int_equal(train(h, "again",
                           t_str("selection.metric=all shard=%s --resume", n == 2   ? "none"
                                                                           : n == 4 ? "all"
                                                                                    : "optimizer")),
                     0);
    if (n == 3) assert_same_run(h, "split-a", "again");
    assert_close_logs(h, "split-a", "again");
    assert_close_weights(h, "split-a/model.safetensors", "again/model.safetensors", 2e-3);
  }
}

/* The base's held-out losses: each text is one rank's, so they are the same bits at any count. */
static void texts_are_shared(void **state) {
  NEEDS_MPIRUN
  struct home *h = *state;
  char first[256] = "";
  assert_int_equal(system(t_str("sed 's/\"vocab_size\": 64/\"vocab_size\": 320/' "
                                "%s/config.json >%s/bytes.json && %s init --config %s/bytes.json "
                                "--out %s/bytes --tokenizer bytes --seed 5 2>%s/err",
                                h->dir, h->dir, alone, h->dir, h->dir, h->dir)),
                   0);
  write_text(h, "a.txt", "What one rank reads, the other need not.\n");
  write_text(h, "b.txt", "A text of its own, and longer than the first one is.\n");
  write_text(h, "c.txt", "The third.\n");
  for (size_t n = 1; n <= 3; n++) {
    struct ka_str log = {0};
    use_ranks(n);
    assert_int_equal(
        train(h, t_str("texts%zu", n),
              t_str("base_model=%s/bytes max_steps=2 'held_out=[{name: a, path: %s/a.txt}, {name: "
                    "b, path: %s/b.txt}, {name: c, path: %s/c.txt}]'",
                    h->dir, h->dir, h->dir, h->dir)),
        0);
    read_all(h, t_str("texts%zu/train_log.jsonl", n), &log);
    const char *row = strstr(log.data, "\"measures\"");
    assert_non_null(row);
    if (n == 1) snprintf(first, sizeof first, "%.*s", (int)(strchr(row, '}') - row), row);
    assert_memory_equal(first, row, strlen(first));
    ka_str_deinit(&log);
  }
}

static void same_count_same_bits(void **state) {
  NEEDS_MPIRUN
  struct home *h = *state;
  use_ranks(3);
  assert_int_equal(train(h, "bits-a", ""), 0);
  assert_int_equal(train(h, "bits-b", ""), 0);
  assert_same_run(h, "bits-a", "bits-b");
}

/* The launcher ends its ranks with a signal and little patience: whether they saved or were killed,
 * the resumed run is the uninterrupted one. */
static void stopped_and_resumed(void **state) {
  NEEDS_MPIRUN
  struct home *h = *state;
  use_ranks(2);
  assert_int_equal(train(h, "whole", "max_steps=60"), 0);
  assert_int_not_equal(train_and_signal(h, "parts", "max_steps=60", 6, "INT"), -1);
  assert_int_equal(train(h, "parts", "max_steps=60 --resume"), 0);
  assert_true(same_file(h, "whole/model.safetensors", "parts/model.safetensors"));
  use_ranks(1);
  int rc = train_and_signal(h, "other", "max_steps=60", 6, "TERM");
  assert_true(rc == 4 || rc == 0);
  use_ranks(3);
  assert_int_equal(train(h, "other", "max_steps=60 --resume"), 0);
  assert_close_logs(h, "whole", "other");
}

static double at(const json_t *v, const char *a, const char *b, const char *c) {
  v = json_object_get(json_object_get(v, a), b);
  return json_number_value(c ? json_object_get(v, c) : v);
}

/* 4 ranks, planned by one process: a quarter of what is split; bytes by the formulas of
 * docs/ranks.md. */
static void plan_for_ranks(void **state) {
  struct home *h = *state;
  static const char *const shards[] = {"none", "optimizer", "all"};
  double masters[3], gradients[3], sent[3];
  setenv("KAPPA_BIN", alone, 1);
  for (int i = 0; i < 3; i++) {
    assert_int_equal(t_kappa(NULL, NULL,
                             "plan %s/job.yaml selection.metric=all base_model=%s/half shard=%s "
                             "gradient_accumulation_steps=8 --ranks 4 --link 1 --json %s/plan.json",
                             h->dir, h->dir, shards[i], h->dir),
                     0);
    json_t *plan = load(h, "plan.json");
    const double n = at(plan, "selection", "trained_parameters", NULL);
    masters[i] = at(plan, "memory", "arenas", "first moments") / n;
    gradients[i] = at(plan, "memory", "arenas", "gradients") / n;
    sent[i] = at(plan, "ranks", "sent_bytes", NULL) / n;
    assert_true(at(plan, "ranks", "efficiency_least", NULL) <=
                at(plan, "ranks", "efficiency_most", NULL));
    json_decref(plan);
  }
  assert_true(masters[0] >= 4 && masters[1] < 1.1 && masters[2] < 1.1);
  assert_true(gradients[0] >= 4 && gradients[1] >= 4 && gradients[2] < 2.1);
  assert_true(sent[0] == 0.75 * 8 && sent[1] == 0.75 * 8 && sent[2] > 0.75 * 8);
  struct ka_str err = {0};
  assert_int_equal(t_kappa(NULL, &err, "plan %s/job.yaml --link 3", h->dir), 2);
  assert_non_null(strstr(err.data, "--ranks"));
  ka_str_deinit(&err);
}

static void refusals_have_one_voice(void **state) {
  NEEDS_MPIRUN
  struct home *h = *state;
  struct ka_str err = {0};
  use_ranks(3);
  assert_int_equal(t_kappa(NULL, &err, "train %s/nothing.yaml", h->dir), 2);
  assert_non_null(strstr(err.data, "nothing.yaml"));
  assert_null(strstr(strstr(err.data, "kappa: ") + 1, "kappa: "));
  ka_str_clear(&err);
  assert_int_equal(t_kappa(NULL, &err, "tokenize %s/base", h->dir), 2);
  assert_non_null(strstr(err.data, "runs in one process"));
  ka_str_clear(&err);
  /* one rank with another job */
  write_text(h, "differs.sh",
             t_str("if [ \"$OMPI_COMM_WORLD_RANK\" = 1 ]; then s=3; else s=4; fi\n"
                   "exec %s train %s/job.yaml output_dir=%s/differs max_steps=$s\n",
                   alone, h->dir, h->dir));
  setenv("KAPPA_BIN", "mpirun --allow-run-as-root --oversubscribe -q -np 2 sh", 1);
  assert_int_equal(t_kappa(NULL, &err, "%s/differs.sh", h->dir), 2);
  assert_non_null(strstr(err.data, "the job with its files differs between ranks"));
  assert_false(ka_path_exists(t_str("%s/differs", h->dir)));
  ka_str_deinit(&err);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(any_number_of_ranks),     cmocka_unit_test(split_states),
      cmocka_unit_test(split_weights),           cmocka_unit_test(split_resumed),
      cmocka_unit_test(texts_are_shared),        cmocka_unit_test(same_count_same_bits),
      cmocka_unit_test(stopped_and_resumed),     cmocka_unit_test(plan_for_ranks),
      cmocka_unit_test(refusals_have_one_voice),
  };
  return cmocka_run_group_tests(tests, setup_ranks, NULL);
}
