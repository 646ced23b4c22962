/* SPDX-License-Identifier: Apache-2.0
 * The numbers of forgetting: Student's t against SciPy's, differences by hand, fronts, scores, and
 * what a comparison says of runs that are made up. */
#include "engine/eval/divergence.h"
#include "engine/eval/forgetting.h"
#include "engine/eval/statistics.h"
#include "engine/forget/compare.h"
#include "engine/forget/front.h"
#include "tests/support/fresh.h"

#include "base/rng.h"

#include <math.h>
#include <string.h>

static void near(double got, double want, double eps) {
  if (!(fabs(got - want) <= eps)) fail_msg("got %.17g, expected %.17g", got, want);
}

/* --- statistics -------------------------------------------------------------- */

static void students_t(void **state) {
  (void)state;
  near(ka_eval_student_cdf(1.3, 2.7), 0.8532736781480773, 1e-13);
  near(ka_eval_student_cdf(-4, 1), 0.07797913037736932, 1e-13);
  near(ka_eval_student_quantile(0.975, 2), 4.302652729749462, 1e-11);
  near(ka_eval_student_quantile(0.975, 7.3), 2.345066736547703, 1e-11);
  near(ka_eval_student_quantile(0.975, 40), 2.021075390306273, 1e-11);
  near(ka_eval_student_cdf(INFINITY, 3), 1, 0);
  assert_true(isnan(ka_eval_student_cdf(NAN, 3)) && isnan(ka_eval_student_quantile(1, 3)));
}

static void differences(void **state) {
  (void)state;
  /* One draw: the paired t-test (scipy.stats.ttest_1samp). */
  struct ka_eval_difference d = ka_eval_difference_of((double[]){0.3, 0.5, 0.1}, 1, 3);
  near(d.mean, 0.3, 1e-15);
  near(d.p, 0.12168993434632016, 1e-12);
  near(d.low, -0.19682754235006605, 1e-12);
  near(d.df, 2, 1e-12);
  /* Draws that differ and seeds that do not: the draws alone are what was sampled. */
  d = ka_eval_difference_of((double[]){1, 1, 1, 2, 2, 2, 6, 6, 6}, 3, 3);
  near(d.mean, 3, 1e-15);
  near(d.se, sqrt(7.0 / 3), 1e-12); /* of 1, 2, 6 */
  near(d.df, 2, 1e-12);
  /* Nothing repeated or all the same to rounding: nothing known. No difference at all: p is 1. */
  d = ka_eval_difference_of((double[]){1}, 1, 1);
  assert_true(isnan(d.se) && isnan(d.p));
  d = ka_eval_difference_of((double[]){.1, .1, .1, .1, .1, .1, .1, .1, .1, .1, .1, .1}, 4, 3);
  near(d.mean, 0.1, 1e-15);
  assert_true(isnan(d.se) && isnan(d.df) && isnan(d.low) && isnan(d.high) && isnan(d.p));
  assert_true(isnan(ka_eval_difference_of((double[]){2, 2}, 1, 2).p));
  near(ka_eval_difference_of((double[]){0, 0}, 1, 2).p, 1, 0);
  assert_true(isnan(ka_eval_difference_of((double[]){NAN, 1}, 1, 2).mean));
}

/* Of true nulls with random draws and seeds, 5 % should be called significant; the design errs on
 * the careful side. */
static void differences_are_honest(void **state) {
  (void)state;
  int n = 0, wrong = 0;
  for (uint64_t i = 0; i < 2000; i++) {
    double d[12];
    for (uint64_t r = 0; r < 4; r++)
      for (uint64_t s = 0; s < 3; s++)
        d[r * 3 + s] = ka_rng_normal(11, 1, i * 64 + r) + 0.7 * ka_rng_normal(11, 2, i * 64 + s) +
                       0.5 * ka_rng_normal(11, 3, i * 64 + r * 3 + s);
    struct ka_eval_difference x = ka_eval_difference_of(d, 4, 3);
    wrong += x.p < 0.05;
    n++;
  }
  if (wrong > 0.065 * n || wrong == 0) fail_msg("%d of %d", wrong, n);
}

static void holm(void **state) {
  (void)state;
  double p[] = {0.01, NAN, 0.04, 0.03, 0.6};
  ka_eval_holm(p, 5);
  near(p[0], 0.04, 1e-12);
  assert_true(isnan(p[1]));
  near(p[3], 0.09, 1e-12);
  near(p[2], 0.09, 1e-12); /* never below an earlier one */
  near(p[4], 0.6, 1e-12);
}

/* --- fronts, scores ---------------------------------------------------------- */

static void fronts(void **state) {
  (void)state;
  const struct ka_forget_point p[] = {{1, 0.5}, {3, 2}, {2, 2.5}, {1, 0.5}, {NAN, 0}, {0.5, 0.5}};
  int64_t order[6];
  assert_int_equal(ka_forget_front(p, 6, order), 2);
  assert_int_equal(order[0], 0);
  assert_int_equal(order[1], 1);
  /* 1 x 3.5 and then 2 x 2 */
  near(ka_forget_front_area(p, 6, (struct ka_forget_point){0, 4}), 3.5 + 4, 1e-12);
  near(ka_forget_front_area(p, 0, (struct ka_forget_point){0, 4}), 0, 0);
  near(ka_forget_front_area(p, 6, (struct ka_forget_point){5, 4}), 0, 0);
  struct ka_forget_point q[] = {{0.4, -0.1}, {0.8, 0.3}, {0.6, 0.5}, {0, 0}};
  near(ka_forget_front_at(q, 3, order, 0.2), -0.1, 0); /* it learned more and forgot less */
  near(ka_forget_front_at(q, 3, order, 0.6), 0.1, 1e-12);
  near(ka_forget_front_at(q, 3, order, 0.8), 0.3, 1e-12);
  assert_true(isnan(ka_forget_front_at(q, 3, order, 0.81)));
}

static void scores(void **state) {
  (void)state;
  const struct ka_measure m[] = {
      {.name = "n", .metric = "loss", .is_new = true, .chance = NAN},
      {.name = "a", .metric = "acc", .higher_is_better = true, .chance = 0.25},
      {.name = "b", .metric = "acc", .higher_is_better = true, .chance = 0.5},
  };
  const double base[] = {4, 0.75, 0.5}, now[] = {3, 0.5, 0.6};
  struct ka_eval_scores s = ka_eval_scores_of(m, 3, base, now, 2);
  near(s.learned, 0.25, 1e-12);
  near(s.forgot, (1.0 / 3 - 0.2) / 2, 1e-12);
  near(s.score, s.learned - 2 * s.forgot, 1e-12);
  near(s.beyond_chance, 0.5, 1e-12); /* b only guessed */
  const double stages[] = {4, 0.75, 0.5, 3.5, 0.8, 0.4, 3, 0.5, 0.6};
  near(ka_eval_backward_transfer(m, 3, stages, 3), (-0.25 + 0.1) / 2, 1e-12);
  near(ka_eval_average_forgetting(m, 3, stages, 3), (0.3 - 0.1) / 2, 1e-12);
  assert_true(isnan(ka_eval_backward_transfer(m, 1, stages, 3)));
  /* A perplexity gives what its loss gives. */
  const struct ka_measure ppl = {.metric = "word_perplexity", .chance = NAN};
  const struct ka_measure loss = {.metric = "loss", .chance = NAN};
  near(ka_eval_gain(&ppl, exp(2), exp(2.5)), ka_eval_gain(&loss, 2, 2.5), 1e-12);
  assert_true(isnan(ka_eval_gain(&loss, 0, 1)));
}

static void divergence_of_rows(void **state) {
  (void)state;
  const float p[] = {0, 0, 0, 0}, q[] = {1000, 1000, 0, 0};
  near(ka_eval_divergence_row(p, p, 4), 0, 0);
  /* Half of p's mass lies where q has e^-1000 / 2. */
  near(ka_eval_divergence_row(p, q, 4), 500 - log(2), 1e-9);
  const float a[] = {0, logf(3)}, b[] = {5, 5};
  near(ka_eval_divergence_row(a, b, 2), 0.25 * log(0.5) + 0.75 * log(1.5), 1e-7);
  /* What p excludes costs nothing; what is no number is not 0. */
  const float never[] = {-INFINITY, 0}, broken[] = {NAN, 0};
  near(ka_eval_divergence_row(never, b, 2), log(2), 1e-12);
  assert_true(isnan(ka_eval_divergence_row(broken, b, 2)) &&
              isnan(ka_eval_divergence_row(b, broken, 2)));
}

/* --- comparisons ------------------------------------------------------------- */

static void add(json_t *runs, const char *method, double budget, double lr, int seed, int draw,
                double learned, double forgot) {
  json_t *run =
      json_pack("{s:s, s:f, s:i, s:i, s:b, s:i, s:i, s:{s:f, s:f}, s:[f]}", "method", method,
                "learning_rate", lr, "seed", seed, "draw", draw, "failed", isnan(learned), "params",
                100, "trained_params", isnan(budget) ? 100 : 10, "scores", "learned",
                isnan(learned) ? 0 : learned, "forgot", isnan(forgot) ? 0 : forgot, "values", 1.5);
  json_object_set_new(run, "budget", isnan(budget) ? json_null() : json_real(budget));
  json_array_append_new(runs, run);
}

static double noise(int a, int b) { return 0.001 * ka_rng_normal(5, (uint64_t)a, (uint64_t)b); }

/* The control, and a method that learns and forgets so much more than it; three rates, the middle
 * one best. */
static json_t *made_up(double learned, double forgot) {
  json_t *runs = json_array();
  static const double rates[] = {1e-4, 1e-3, 1e-2}, gain[] = {0.1, 0.2, 0.15},
                      loss[] = {0.05, 0.1, 0.3};
  for (int l = 0; l < 3; l++)
    for (int s = 0; s < 3; s++) {
      add(runs, "kappa_lowest", 10, rates[l], s, 1, gain[l] + learned + noise(l, s),
          loss[l] + forgot + noise(l, s + 10));
      for (int d = 1; d <= 4; d++)
        add(runs, "random", 10, rates[l], s, d, gain[l] + noise(l + 10 * d, s),
            loss[l] + noise(l + 10 * d, s + 10));
    }
  return runs;
}

static const struct ka_compare_options rules = {"random", "full", 0.05};

static json_t *series(const json_t *comparison, size_t i) {
  return json_array_get(json_object_get(comparison, "series"), i);
}

static void verdict_is(double learned, double forgot, const char *word, const char *sentence) {
  json_t *runs = made_up(learned, forgot), *out = NULL;
  T_OK(ka_compare(ctx, runs, &rules, &out));
  const json_t *against = json_object_get(series(out, 0), "against_control");
  assert_string_equal(json_string_value(json_object_get(against, "word")), word);
  const char *text = json_string_value(json_array_get(json_object_get(out, "verdict"), 0));
  if (!strstr(text, sentence)) fail_msg("%s", text);
  assert_int_equal(json_integer_value(json_object_get(series(out, 0), "best")), 1);
  assert_false(json_is_true(json_object_get(series(out, 0), "edge")));
  json_decref(out);
  json_decref(runs);
}

static void verdicts(void **state) {
  (void)state;
  verdict_is(0, 0, "no better", "is no better than random selection");
  verdict_is(0.05, 0, "better", "is better than random selection. At equal learning (");
  verdict_is(0, -0.04, "better", "points less [");
  verdict_is(-0.05, 0, "worse", "is worse than random selection");
  verdict_is(0, 0.05, "worse", "is worse");
  verdict_is(0.1, 0.02, "better", "is better"); /* forgets more, but far less for as much */
  verdict_is(0.01, 0.2, "worse", "is worse");
}

static double at_equal(const json_t *against, const char *key) {
  return json_number_value(json_object_get(against, key));
}

/* At equal learning: 0.1 is the most that both learned; the base is on every front. */
static void equal_learning(void **state) {
  (void)state;
  json_t *runs = json_array(), *out = NULL;
  for (int s = 0; s < 2; s++) {
    add(runs, "other", 10, 1e-4, s, 1, 0.05, 0.01 + 0.001 * s);
    add(runs, "other", 10, 1e-3, s, 1, 0.1, 0.03 + 0.001 * s);
    add(runs, "full", NAN, 1e-4, s, 1, 0.2, 0.4);
    add(runs, "full", NAN, 1e-3, s, 1, 0.3, 0.9);
  }
  T_OK(ka_compare(ctx, runs, &rules, &out));
  const json_t *against = json_object_get(series(out, 0), "against_baseline");
  near(at_equal(against, "learned_where_equal"), 0.1, 1e-12);
  near(at_equal(against, "forgot_there"), 0.0305, 1e-12);
  near(at_equal(against, "other_forgot_there"), 0.2, 1e-12); /* halfway from the base to 1e-4 */
  const json_t *curve = json_object_get(series(out, 1), "curve"), *last = json_array_get(curve, 8);
  assert_int_equal(json_array_size(curve), 9);
  near(at_equal(last, "learned"), 0.3, 1e-12);
  near(at_equal(json_object_get(last, "forgot"), "mean"), 0.9, 1e-12);
  near(at_equal(json_object_get(json_array_get(curve, 2), "forgot"), "mean"), 0.15, 1e-12);
  json_decref(out);
  json_decref(runs);
}

/* One seed is one order of the data: four draws of the control make no verdict of it. Who trains
 * more than the control is told. */
static void one_seed_is_no_verdict(void **state) {
  (void)state;
  json_t *runs = json_array(), *out = NULL;
  for (int d = 1; d <= 4; d++) add(runs, "random", 10, 1e-3, 0, d, 0.2, 0.5 + noise(d, 0));
  add(runs, "kappa_lowest", 10, 1e-3, 0, 1, 0.4, 0.1);
  json_object_set_new(json_array_get(runs, 4), "trained_params", json_integer(11));
  T_OK(ka_compare(ctx, runs, &rules, &out));
  const json_t *against = json_object_get(series(out, 1), "against_control");
  assert_string_equal(json_string_value(json_object_get(against, "word")), "unknown");
  const char *text = json_string_value(json_array_get(json_object_get(out, "verdict"), 0));
  if (!strstr(text, "one seed says nothing") || !strstr(text, "it trains 11, random 10"))
    fail_msg("%s", text);
  json_decref(out);
  json_decref(runs);
}

static void runs_that_do_not_compare(void **state) {
  (void)state;
  json_t *runs = json_array(), *out = NULL;
  /* No control: no verdict, but means; one run: no errors. */
  add(runs, "a", NAN, 1e-3, 1, 1, 0.2, 0.1);
  T_OK(ka_compare(ctx, runs, &rules, &out));
  assert_non_null(strstr(json_string_value(json_array_get(json_object_get(out, "verdict"), 0)),
                         "there is no verdict"));
  const json_t *cell = json_array_get(json_object_get(series(out, 0), "cells"), 0);
  near(json_number_value(json_object_get(json_object_get(cell, "learned"), "mean")), 0.2, 1e-12);
  assert_true(json_is_null(json_object_get(json_object_get(cell, "learned"), "se")));
  json_decref(out);
  /* A rate at which a run diverged is never the best; without any other there is none. */
  add(runs, "a", NAN, 1e-2, 1, 1, NAN, NAN);
  add(runs, "b", NAN, 1e-2, 1, 1, NAN, NAN);
  T_OK(ka_compare(ctx, runs, &rules, &out));
  assert_int_equal(json_integer_value(json_object_get(series(out, 0), "best")), 0);
  assert_true(json_is_null(json_object_get(series(out, 1), "best")));
  json_decref(out);
  add(runs, "a", NAN, 1e-2, 2, 1, 0.1, 0.1);
  T_FAILS(ka_compare(ctx, runs, &rules, &out), KA_E_INPUT, "not every learning rate has a run");
  add(runs, "a", NAN, 1e-2, 2, 1, 0.1, 0.1);
  T_FAILS(ka_compare(ctx, runs, &rules, &out), KA_E_INPUT, "two runs of a");
  json_decref(runs);
}

/* One run of each: the words do not claim what is not known. */
static void one_run_each(void **state) {
  (void)state;
  json_t *runs = json_array(), *out = NULL;
  add(runs, "kappa_lowest", 10, 1e-3, 1, 1, 0.5, 0.0);
  add(runs, "random", 10, 1e-3, 1, 1, 0.1, 0.5);
  T_OK(ka_compare(ctx, runs, &rules, &out));
  assert_non_null(strstr(json_string_value(json_array_get(json_object_get(out, "verdict"), 0)),
                         "cannot be told from random selection"));
  json_decref(out);
  json_decref(runs);
}

/* A baseline of one draw against a method of three: the draws are what was sampled. */
static void draws_count_against_the_baseline(void **state) {
  (void)state;
  static const double of_draw[] = {0.1, 0.2, 0.6};
  json_t *runs = json_array(), *out = NULL;
  for (int s = 0; s < 3; s++) {
    add(runs, "full", NAN, 1e-3, s, 1, 0, 0.5);
    for (int d = 0; d < 3; d++) add(runs, "random", 10, 1e-3, s, d, of_draw[d], 0.5);
  }
  T_OK(ka_compare(ctx, runs, &rules, &out));
  const json_t *d = json_object_get(json_object_get(series(out, 1), "against_baseline"), "learned");
  near(json_number_value(json_object_get(d, "mean")), 0.3, 1e-12);
  near(json_number_value(json_object_get(d, "se")), 0.1 * sqrt(7.0 / 3), 1e-12);
  assert_true(json_number_value(json_object_get(d, "low")) < 0.3);
  assert_true(json_number_value(json_object_get(d, "high")) > 0.3);
  json_decref(out);
  json_decref(runs);
}

/* The verdict of two methods' runs, after a member of every run was taken away. */
static void says(json_t *runs, const char *object, const char *member, const char *sentence) {
  json_t *out = NULL, *run;
  size_t i;
  json_array_foreach(runs, i, run)
      json_object_del(object ? json_object_get(run, object) : run, member);
  T_OK(ka_compare(ctx, runs, &rules, &out));
  assert_string_equal(json_string_value(json_array_get(json_object_get(out, "verdict"), 0)),
                      sentence);
  assert_true(json_is_null(json_object_get(series(out, 0), "trained_params")) ==
              (strcmp(member, "trained_params") == 0));
  json_decref(out);
  json_decref(runs);
}

/* What is not known is left out, and why nothing can be told is true. */
static void the_unknown_is_left_out(void **state) {
  (void)state;
  json_t *runs[4];
  for (int i = 0; i < 4; i++) {
    runs[i] = json_array();
    for (int s = 0; s < 3; s++) {
      add(runs[i], "kappa_lowest", 10, 1e-3, s, 1, 0.5, 0.0);
      add(runs[i], "random", 10, 1e-3, s + (i == 2) * 3, 1, 0.25, 0.5);
    }
  }
  says(runs[0], NULL, "trained_params",
       "kappa_lowest cannot be told from random selection: the runs are too few or too alike to "
       "tell the spread. At equal learning (25.00 %) it forgot 50.00 points less. At its best rate "
       "it learned 25.00 points more and forgot 50.00 points less.");
  says(runs[1], "scores", "forgot",
       "kappa_lowest (10.0 % of the parameters) cannot be told from random selection: what was "
       "forgotten was not measured. At its best rate it learned 25.00 points more.");
  says(runs[2], NULL, "none",
       "kappa_lowest (10.0 % of the parameters) cannot be told from random selection: they have no "
       "seed in common.");
  says(runs[3], "scores", "learned",
       "kappa_lowest, random: what was learned was not measured, for want of a new text or task; "
       "only what was forgotten is shown, and there is no verdict.");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(students_t, fresh),
      cmocka_unit_test_setup(differences, fresh),
      cmocka_unit_test_setup(differences_are_honest, fresh),
      cmocka_unit_test_setup(holm, fresh),
      cmocka_unit_test_setup(fronts, fresh),
      cmocka_unit_test_setup(scores, fresh),
      cmocka_unit_test_setup(divergence_of_rows, fresh),
      cmocka_unit_test_setup(verdicts, fresh),
      cmocka_unit_test_setup(equal_learning, fresh),
      cmocka_unit_test_setup(one_seed_is_no_verdict, fresh),
      cmocka_unit_test_setup(runs_that_do_not_compare, fresh),
      cmocka_unit_test_setup(one_run_each, fresh),
      cmocka_unit_test_setup(draws_count_against_the_baseline, fresh),
      cmocka_unit_test_setup(the_unknown_is_left_out, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
