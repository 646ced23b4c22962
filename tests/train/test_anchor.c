/* SPDX-License-Identifier: Apache-2.0
 * Anchors and soft selection by `kappa train` from outside: what the log tells, the same bits under
 * every switch that must not change them, how far the weights go. */
#include "engine/train/run.h"
#include "tests/train/home.h"

#define KL "anchor.kind=kl anchor.weight=0.5 "
#define SELF "anchor.kind=kl anchor.on=self anchor.weight=2 "
#define BOTH "anchor.kind=kl anchor.on=both anchor.share=0.5 "
#define L2 "anchor.kind=l2 anchor.weight=20 "
#define SOFT "selection.count= selection.mode=soft "

/* The value of a key in the row of a step, NaN where it has none. */
static double logged(struct home *h, const char *out, int step, const char *key) {
  struct ka_ctx *ctx = &h->ctx;
  struct ka_str all = {0};
  double value = NAN;
  read_all(h, t_str("%s/train_log.jsonl", out), &all);
  for (char *line = strtok(all.data, "\n"); line; line = strtok(NULL, "\n")) {
    json_t *row = NULL;
    T_OK(ka_json_parse(ctx, line, strlen(line), "row", &row));
    const json_t *v = json_object_get(row, key);
    if (json_integer_value(json_object_get(row, "step")) == step && json_is_number(v))
      value = json_number_value(v);
    json_decref(row);
  }
  ka_str_deinit(&all);
  return value;
}

/* Largest change of a weight of the tuned model. */
static double distance(struct home *h, const char *out) {
  struct ka_ctx *ctx = &h->ctx;
  struct ka_safetensors base, tuned;
  double most = 0;
  T_OK(ka_st_open(ctx, &base, t_str("%s/base", h->dir)));
  T_OK(ka_st_open(ctx, &tuned, t_str("%s/%s", h->dir, out)));
  for (int64_t i = 0; i < base.n_entries; i++)
    for (int64_t k = 0; k < ka_tensor_elems(&base.entries[i].t); k++)
      most = fmax(most, fabs((double)((const float *)base.entries[i].t.data)[k] -
                             (double)((const float *)tuned.entries[i].t.data)[k]));
  ka_st_close(&base);
  ka_st_close(&tuned);
  return most;
}

/* The first update has rate 0 (warm-up), so the first two steps see the base itself. */
static void divergence_is_logged(void **state) {
  struct home *h = *state;
  assert_int_equal(train(h, "plain", ""), 0);
  assert_int_equal(train(h, "kl", KL), 0);
  assert_true(isnan(logged(h, "plain", 12, "kl")));
  assert_true(logged(h, "kl", 1, "kl") == 0 && logged(h, "kl", 2, "kl") == 0);
  assert_true(logged(h, "kl", 1, "loss") == logged(h, "plain", 1, "loss"));
  assert_true(logged(h, "kl", 2, "grad_norm") == logged(h, "plain", 2, "grad_norm"));
  assert_true(logged(h, "kl", 12, "kl") > 1e-3);
  assert_int_equal(train(h, "kl-much", "anchor.kind=kl anchor.weight=20"), 0);
  assert_true(logged(h, "kl-much", 12, "kl") < 0.5 * logged(h, "kl", 12, "kl"));
  assert_true(logged(h, "kl-much", 12, "eval_loss") > logged(h, "plain", 12, "eval_loss"));
}

/* Adam's update is at most about three times the rate; a pull that reaches the base each step
 * undoes all but the last. */
static void decay_holds_the_weights(void **state) {
  struct home *h = *state;
  assert_int_equal(train(h, "far", "lr_scheduler=constant"), 0);
  assert_int_equal(train(h, "near", L2 "lr_scheduler=constant"), 0);
  assert_int_equal(train(h, "at", "anchor.kind=l2 anchor.weight=1e6 lr_scheduler=constant"), 0);
  double far = distance(h, "far"), near = distance(h, "near"), at = distance(h, "at");
  if (!(at < near && near < 0.9 * far && at <= 0.032 && at > 0))
    fail_msg("changes of %g, %g, %g", far, near, at);
}

static void no_switch_changes_a_bit(void **state) {
  struct home *h = *state;
  static const char *const words[] = {
      KL,      L2 "anchor.by=kappa ",     KL SOFT,
      L2 SOFT, SELF "token_weight=eaft ", BOTH "selection.metric=all token_weight=talr "};
  for (int i = 0; i < 6; i++) {
    const char *whole = t_str("whole-%d", i), *out = t_str("other-%d", i);
    assert_int_equal(train(h, whole, t_str("%s save_steps=3", words[i])), 0);
    assert_int_equal(train(h, out, t_str("%s save_steps=3 --threads 3", words[i])), 0);
    assert_same_run(h, whole, out);
    out = t_str("again-%d", i);
    assert_int_equal(train(h, out, t_str("%s save_steps=3 gradient_checkpointing=block", words[i])),
                     0);
    assert_same_run(h, whole, out);
    out = t_str("kill-%d", i);
    train_and_signal(h, out, t_str("%s save_steps=3 --resume", words[i]), 2 + 2 * i, "KILL");
    assert_int_equal(train(h, out, t_str("%s save_steps=3 --resume", words[i])), 0);
    assert_same_run(h, whole, out);
  }
}

/* With everything trained a new selection changes nothing, unless it took another base. */
static void base_stays_the_base(void **state) {
  struct home *h = *state;
  static const char *const words[] = {KL, L2};
  for (int i = 0; i < 2; i++) {
    const char *once = t_str("once-%d", i), *anew = t_str("anew-%d", i), *out = t_str("late-%d", i);
    const char *all = t_str("%s selection.metric=all save_steps=3", words[i]);
    assert_int_equal(train(h, once, all), 0);
    assert_int_equal(train(h, anew, t_str("%s selection.refresh_steps=4", all)), 0);
    assert_same_run(h, once, anew);
    train_and_signal(h, out, t_str("%s selection.refresh_steps=4 --resume", all), 7, "KILL");
    assert_int_equal(train(h, out, t_str("%s selection.refresh_steps=4 --resume", all)), 0);
    assert_same_run(h, once, out);
  }
}

/* Units leave: what they changed stays in the model and is part of the divergence. */
static void frozen_again_is_not_the_base(void **state) {
  struct home *h = *state;
  const char *words = KL "selection.refresh_steps=4 learning_rate=0.05 save_steps=3";
  assert_int_equal(train(h, "moves", words), 0);
  train_and_signal(h, "moves-kill", t_str("%s --resume", words), 8, "KILL");
  assert_int_equal(train(h, "moves-kill", t_str("%s --resume", words)), 0);
  assert_same_run(h, "moves", "moves-kill");
  for (int step = 5; step <= 9; step += 4) /* right after a new selection */
    assert_true(logged(h, "moves", step, "kl") > 0.3 * logged(h, "moves", step - 1, "kl"));
}

static void soft_trains_all_at_their_rates(void **state) {
  struct home *h = *state;
  json_t *unit, *selection;
  double first = 0;
  size_t i, n_scaled = 0;
  assert_int_equal(train(h, "soft", SOFT "selection.power=2"), 0);
  selection = load(h, "soft/selection.json");
  assert_int_equal(json_array_size(json_object_get(selection, "units")), 14); /* 7 a layer */
  json_array_foreach(json_object_get(selection, "units"), i, unit) {
    const json_t *metrics = json_object_get(unit, "metrics");
    double kappa = json_number_value(json_object_get(metrics, "kappa"));
    if (i == 0) first = kappa;
    const json_t *scale = json_object_get(unit, "lr_scale");
    double got = scale ? json_number_value(scale) : 1, want = pow(first / kappa, 2);
    assert_true(fabs(got / want - 1) < 1e-12);
    n_scaled += got < 1;
  }
  assert_int_equal(n_scaled, 13);
  json_decref(selection);
  /* the file says all of it */
  assert_int_equal(train(h, "soft-file", t_str("selection.file=%s/soft/selection.json", h->dir)),
                   0);
  assert_same_run(h, "soft", "soft-file");
  /* at one rate it is the cut that takes all */
  assert_int_equal(train(h, "flat", SOFT "selection.power=0"), 0);
  assert_int_equal(train(h, "cut", "selection.count=14"), 0);
  assert_same_run(h, "flat", "cut");
}

/* Pulls by kappa: their geometric mean is 1, their ratios are those of kappa. */
static void pulls_go_by_kappa(void **state) {
  struct home *h = *state;
  struct ka_ctx *ctx = &h->ctx;
  static const char *const selections[] = {"selection.count=5", "selection.metric=all"};
  for (int way = 0; way < 2; way++) {
    struct ka_job job;
    struct ka_run run;
    struct ka_run_options options = {.plan = true};
    const char *words[] = {t_str("output_dir=%s/none", h->dir), "anchor.kind=l2", "anchor.by=kappa",
                           selections[way]};
    double sum = 0;
    int64_t n = 0;
    T_OK(ka_job_load(ctx, &job, t_str("%s/job.yaml", h->dir), words, 4));
    T_OK(ka_run_open(ctx, &run, &job, &options));
    const struct ka_train_selection *s = &run.selection;
    assert_int_equal(run.optim.n, way == 0 ? 5 : run.open.model.n_params);
    for (int64_t i = 0; i < run.optim.n; i++) {
      const struct ka_selected *u = &s->chosen.units[run.open.model.slices[i].part];
      const struct ka_optim_part *p = &run.optim.slices[i].part;
      double kappa = u->metrics[KA_METRIC_KAPPA], kappa0 = s->chosen.units[0].metrics[0];
      assert_string_equal(u->tensor, run.optim.slices[i].tensor);
      assert_true(p->lr_scale == 1);
      if (run.open.model.params[run.open.model.slices[i].param].stored.n_dim < 2) {
        assert_true(p->pull == 1);
        continue;
      }
      assert_true(fabs(p->pull / s->optim_parts[0].pull / (kappa / kappa0) - 1) < 1e-12);
      sum += log(p->pull);
      n++;
    }
    assert_true(n >= 5 && fabs(sum) < 1e-9);
    ka_run_close(&run);
    ka_job_close(&job);
  }
}

static void plan_tells(void **state) {
  struct home *h = *state;
  struct ka_str out = {0};
  assert_int_equal(t_kappa(&out, NULL, "plan %s/job.yaml " KL, h->dir), 0);
  assert_non_null(strstr(out.data, "anchor: KL(base || tuned), weight 0.5"));
  assert_non_null(strstr(out.data, "base logits of a chunk"));
  ka_str_deinit(&out);
  out = (struct ka_str){0};
  assert_int_equal(t_kappa(&out, NULL, "plan %s/job.yaml --device cuda:1GB " L2 SOFT, h->dir), 0);
  assert_non_null(strstr(out.data, "anchor: decay towards the base's weights, weight 20"));
  assert_non_null(strstr(out.data, "learning rate x 0."));
  assert_non_null(strstr(out.data, "base weights"));
  ka_str_deinit(&out);
}

/* Of 4 rows a step 0.125 are less than one: it is one; 0.5 are as many as the task's. */
static void text_of_the_base_holds(void **state) {
  struct home *h = *state;
  struct ka_str out = {0};
  assert_int_equal(train(h, "self", SELF), 0);
  assert_true(logged(h, "self", 1, "kl_self") == 0 && isnan(logged(h, "self", 1, "kl")));
  assert_true(logged(h, "self", 2, "grad_norm") == logged(h, "plain", 2, "grad_norm"));
  assert_true(logged(h, "self", 12, "kl_self") > 1e-4);
  assert_int_equal(train(h, "self-much", "anchor.kind=kl anchor.on=self anchor.weight=30"), 0);
  assert_true(logged(h, "self-much", 12, "kl_self") < 0.75 * logged(h, "self", 12, "kl_self"));
  assert_int_equal(train(h, "both", BOTH), 0);
  assert_true(logged(h, "both", 12, "kl") > 0 && logged(h, "both", 12, "kl_self") > 0);
  assert_int_equal(t_kappa(&out, NULL, "plan %s/job.yaml " BOTH, h->dir), 0);
  assert_non_null(strstr(out.data, "every step has 4 rows of 32 tokens beside them"));
  assert_non_null(strstr(out.data, "48 in all, from BOS"));
  ka_str_deinit(&out);
}

/* No BOS: what ends a text separates it from the next one. Nothing of the kind: a message. */
static void text_starts_somewhere(void **state) {
  struct home *h = *state;
  static const struct {
    const char *key, *says;
    int rc;
  } ways[] = {{"\"eos_token_id\": 3,", "from EOS, as the model names no BOS", 0},
              {"", "names neither bos_token_id nor eos_token_id", 2}};
  const char *at = strstr(config_text, "\"bos_token_id\""), *rest = strchr(at, ',') + 1;
  for (size_t i = 0; i < 2; i++) {
    struct ka_str err = {0};
    const char *name = t_str("start-%d", (int)i);
    write_text(h, t_str("%s.json", name),
               t_str("%.*s%s%s", (int)(at - config_text), config_text, ways[i].key, rest));
    if (t_kappa(NULL, &err, "init --config %s/%s.json --out %s/%s --seed 5", h->dir, name, h->dir,
                name) != 0)
      fail_msg("%s", err.data);
    ka_str_deinit(&err);
    int rc =
        t_kappa(NULL, &err,
                "train %s/job.yaml base_model=%s/start-%d output_dir=%s/from-%d max_steps=2 " SELF,
                h->dir, h->dir, (int)i, h->dir, (int)i);
    if (rc != ways[i].rc) fail_msg("%s", err.data);
    if (!strstr(err.data, ways[i].says)) fail_msg("%s", err.data);
    ka_str_deinit(&err);
  }
}

static void resume_keeps_the_anchor(void **state) {
  struct home *h = *state;
  assert_int_equal(train(h, "change", KL "max_steps=4 save_steps=2"), 0);
  assert_int_equal(train(h, "change", "max_steps=6 --resume"), 2);
  assert_int_equal(train(h, "change", L2 "max_steps=6 --resume"), 2);
  assert_int_equal(train(h, "change", SELF "max_steps=6 --resume"), 2);
  assert_int_equal(train(h, "change", "anchor.kind=kl anchor.weight=2 max_steps=6 --resume"), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(divergence_is_logged),
      cmocka_unit_test(decay_holds_the_weights),
      cmocka_unit_test(no_switch_changes_a_bit),
      cmocka_unit_test(base_stays_the_base),
      cmocka_unit_test(frozen_again_is_not_the_base),
      cmocka_unit_test(soft_trains_all_at_their_rates),
      cmocka_unit_test(pulls_go_by_kappa),
      cmocka_unit_test(plan_tells),
      cmocka_unit_test(text_of_the_base_holds),
      cmocka_unit_test(text_starts_somewhere),
      cmocka_unit_test(resume_keeps_the_anchor),
  };
  return cmocka_run_group_tests(tests, setup, NULL);
}
