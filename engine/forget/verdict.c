/* SPDX-License-Identifier: Apache-2.0
 * What a comparison says, in words: the rule is `rule` below, docs/forgetting.md has it at length.
 * "Points" are hundredths of the base's value. */
#include "engine/forget/compare_parts.h"

#include "base/str.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char rule[] =
    "At every budget each method is compared with %s selection at the same budget, each at the "
    "learning rate at which it learned most. Tested are the mean differences in what was learned, "
    "in what was forgotten, and in the area below the front over all learning rates, paired by "
    "seed "
    "and over all draws of %s (seeds and draws both random, Satterthwaite's degrees of freedom), "
    "with Holm's correction over all of them at the level %g. A method is better (worse) if one of "
    "learning and forgetting is significantly better (worse) and the other is not the opposite at "
    "that level even before the correction; if they are opposite, the area decides; in every other "
    "case it is no better than %s.";

static const struct { /* by KA_TEST_... */
  const char *name;
  int good; /* the sign that is better */
} tests[KA_N_TESTS] = {{"learned", 1}, {"forgot", -1}, {"area", 1}};

struct pairing {
  const struct ka_forget_series *a, *b;
  json_t *out;                             /* of a, in the list of series */
  struct ka_eval_difference d[KA_N_TESTS]; /* a - b */
  double p[KA_N_TESTS];                    /* adjusted */
};

static double figure_of(const struct ka_forget_series *s, int test, int64_t run) {
  if (test == KA_TEST_AREA) return s->areas[run];
  return ka_run_figure(s->cells[s->best].runs[run],
                       test == KA_TEST_LEARNED ? KA_FIGURE_LEARNED : KA_FIGURE_FORGOT);
}

static double mean_over_draws(const struct ka_forget_series *s, int test, int64_t seed) {
  double sum = 0;
  for (int64_t r = 0; r < s->n_draws; r++) sum += figure_of(s, test, r * s->n_seeds + seed);
  return sum / (double)s->n_draws;
}

/* a - b over the seeds that both have and the draws of b, or of a when b has but one; the other's
 * draws are averaged. */
static struct ka_eval_difference difference(struct ka_forget_comparison *c,
                                            const struct ka_forget_series *a,
                                            const struct ka_forget_series *b, int test) {
  double sign = 1;
  int64_t n = 0;
  if (b->n_draws == 1) {
    const struct ka_forget_series *swap = a;
    a = b;
    b = swap;
    sign = -1;
  }
  for (int64_t r = 0; r < b->n_draws; r++)
    for (int64_t s = 0; s < a->n_seeds; s++)
      for (int64_t t = 0; t < b->n_seeds; t++)
        if (a->seeds[s] == b->seeds[t])
          c->scratch[n++] =
              sign * (mean_over_draws(a, test, s) - figure_of(b, test, r * b->n_seeds + t));
  if (n == 0) return (struct ka_eval_difference){NAN, NAN, NAN, NAN, NAN, NAN};
  return ka_eval_difference_of(c->scratch, b->n_draws, n / b->n_draws);
}

static json_t *difference_json(const struct ka_eval_difference *d, double p) {
  return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "mean", ka_json_real(d->mean), "se",
                   ka_json_real(d->se), "df", ka_json_real(d->df), "low", ka_json_real(d->low),
                   "high", ka_json_real(d->high), "p", ka_json_real(d->p), "p_adjusted",
                   ka_json_real(p));
}

/* +1: significantly better, -1: worse, 0: neither; by p-values that are adjusted or not. */
static int sign_of(const struct ka_forget_comparison *c, const struct pairing *x, int test,
                   double p) {
  if (!(p < c->options->level)) return 0;
  return (x->d[test].mean > 0 ? 1 : -1) * tests[test].good;
}

/* What is gained must stand after correction; that nothing was paid for it, already before. */
static const char *word_of(const struct ka_forget_comparison *c, const struct pairing *x) {
  if (isnan(x->d[KA_TEST_LEARNED].se) || isnan(x->d[KA_TEST_FORGOT].se)) return "unknown";
  int sure[KA_N_TESTS], seems[KA_N_TESTS];
  for (int t = 0; t < KA_N_TESTS; t++) {
    sure[t] = sign_of(c, x, t, x->p[t]);
    seems[t] = sign_of(c, x, t, x->d[t].p);
  }
  int any = sure[KA_TEST_LEARNED] + sure[KA_TEST_FORGOT], area = sure[KA_TEST_AREA];
  bool sign = sure[KA_TEST_LEARNED] || sure[KA_TEST_FORGOT];
  if (sign && seems[KA_TEST_LEARNED] * seems[KA_TEST_FORGOT] < 0)
    return area > 0 ? "better front" : area < 0 ? "worse front" : "trade";
  return any > 0 ? "better" : any < 0 ? "worse" : "no better";
}

/* --- sentences --------------------------------------------------------------- */

static const struct {
  const char *word, *text;
} meanings[] = {
    {"better", "is better than %s selection"},
    {"worse", "is worse than %s selection"},
    {"no better", "is no better than %s selection"},
    {"better front",
     "learned and forgot differently, and at equal learning is better than %s selection"},
    {"worse front", "learned and forgot differently, and at equal learning is worse than %s "
                    "selection"},
    {"trade", "is no better than %s selection: it trades learning for forgetting along the same "
              "front"},
    {"unknown", "cannot be told from %s selection: "},
};

static const char *why_unknown(const struct pairing *x) {
  if (isnan(x->d[KA_TEST_LEARNED].mean)) return "they have no seed in common";
  if (isnan(x->d[KA_TEST_FORGOT].mean)) return "what was forgotten was not measured";
  return "the runs are too few or too alike to tell the spread";
}

/* "learned 1.20 points more"; nothing of what is not known. */
static ka_status clause(struct ka_ctx *ctx, struct ka_str *out, const char *before,
                        const struct ka_eval_difference *d) {
  if (isnan(d->mean)) return KA_STATUS_OK;
  return ka_str_printf(ctx, out, "%s %.2f points %s", before, 100 * fabs(d->mean),
                       d->mean < 0 ? "less" : "more");
}

static ka_status interval(struct ka_ctx *ctx, struct ka_str *out,
                          const struct ka_eval_difference *d) {
  if (isnan(d->se)) return KA_STATUS_OK;
  return ka_str_printf(ctx, out, " [%+.2f, %+.2f]", 100 * d->low, 100 * d->high);
}

static ka_status sentence(struct ka_ctx *ctx, struct ka_str *out, const struct pairing *x,
                          const char *word, const char *control) {
  const struct ka_eval_difference *l = &x->d[KA_TEST_LEARNED], *f = &x->d[KA_TEST_FORGOT];
  double part = x->a->trained / x->a->params;
  KA_TRY(ka_str_puts(ctx, out, x->a->method));
  if (isfinite(part)) KA_TRY(ka_str_printf(ctx, out, " (%.1f %% of the parameters)", 100 * part));
  KA_TRY(ka_str_puts(ctx, out, " "));
  for (size_t i = 0; i < sizeof meanings / sizeof *meanings; i++)
    if (strcmp(meanings[i].word, word) == 0)
      KA_TRY(ka_str_printf(ctx, out, meanings[i].text, control));
  if (strcmp(word, "unknown") == 0) KA_TRY(ka_str_puts(ctx, out, why_unknown(x)));
  KA_TRY(clause(ctx, out, ". It learned", l));
  KA_TRY(interval(ctx, out, l));
  KA_TRY(clause(ctx, out, " and forgot", f));
  KA_TRY(interval(ctx, out, f));
  return ka_str_puts(ctx, out, ".");
}

static ka_status append(struct ka_ctx *ctx, json_t *list, struct ka_str *text) {
  int failed = json_array_append_new(list, json_string(text->data ? text->data : ""));
  ka_str_clear(text);
  return failed ? ka_fail(ctx, KA_E_MEMORY, "verdict: out of memory") : KA_STATUS_OK;
}

/* --- against the control ----------------------------------------------------- */

static const struct ka_forget_series *series_of(const struct ka_forget_comparison *c,
                                                const char *method, double budget,
                                                bool any_budget) {
  for (int64_t i = 0; i < c->n_series; i++) {
    const struct ka_forget_series *s = &c->series[i];
    bool same = s->budget == budget || (isnan(s->budget) && isnan(budget));
    if (strcmp(s->method, method) == 0 && (any_budget || same)) return s;
  }
  return NULL;
}

/* All methods that have a control at their budget. */
static int64_t pair_up(struct ka_forget_comparison *c, json_t *list, struct pairing *x) {
  int64_t n = 0;
  for (int64_t i = 0; i < c->n_series; i++) {
    const struct ka_forget_series *a = &c->series[i];
    const struct ka_forget_series *b = series_of(c, c->options->control, a->budget, false);
    if (!b || a == b || a->best < 0 || b->best < 0) continue;
    x[n] = (struct pairing){.a = a, .b = b, .out = json_array_get(list, (size_t)i)};
    for (int t = 0; t < KA_N_TESTS; t++) x[n].d[t] = difference(c, a, b, t);
    n++;
  }
  return n;
}

/* Holm's correction, over one budget at a time. */
static void adjust(struct ka_forget_comparison *c, struct pairing *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    int64_t m = 0, first = 0;
    while (first < i && x[first].b != x[i].b) first++;
    if (first < i) continue; /* of a budget that is done */
    for (int64_t k = i; k < n; k++)
      for (int t = 0; t < KA_N_TESTS && x[k].b == x[i].b; t++) c->scratch[m++] = x[k].d[t].p;
    ka_eval_holm(c->scratch, m);
    m = 0;
    for (int64_t k = i; k < n; k++)
      for (int t = 0; t < KA_N_TESTS && x[k].b == x[i].b; t++) x[k].p[t] = c->scratch[m++];
  }
}

static ka_status against_control(struct ka_forget_comparison *c, json_t *list, json_t *verdict,
                                 struct pairing *x, struct ka_str *text) {
  struct ka_ctx *ctx = c->arena.ctx;
  int64_t n = pair_up(c, list, x);
  adjust(c, x, n);
  for (int64_t i = 0; i < n; i++) {
    const char *word = word_of(c, &x[i]);
    json_t *row = json_pack("{s:s}", "word", word);
    for (int t = 0; t < KA_N_TESTS; t++)
      json_object_set_new(row, tests[t].name, difference_json(&x[i].d[t], x[i].p[t]));
    if (json_object_set_new(x[i].out, "against_control", row) != 0)
      return ka_fail(ctx, KA_E_MEMORY, "verdict: out of memory");
    KA_TRY(sentence(ctx, text, &x[i], word, c->options->control));
    KA_TRY(append(ctx, verdict, text));
  }
  if (n == 0)
    KA_TRY(
        ka_str_printf(ctx, text,
                      "There is no %s selection at any method's budget to compare with, so there "
                      "is no verdict.",
                      c->options->control));
  return n == 0 ? append(ctx, verdict, text) : KA_STATUS_OK;
}

/* --- against the baseline ---------------------------------------------------- */

static ka_status baseline_sentence(struct ka_ctx *ctx, struct ka_str *out, const char *baseline,
                                   const char *method,
                                   const struct ka_eval_difference d[KA_N_TESTS]) {
  const struct ka_eval_difference *l = &d[KA_TEST_LEARNED], *f = &d[KA_TEST_FORGOT];
  const struct ka_eval_difference *area = &d[KA_TEST_AREA];
  KA_TRY(ka_str_printf(ctx, out, "Against %s: %s", baseline, method));
  if (isnan(l->mean)) return ka_str_puts(ctx, out, " has no seed in common with it.");
  KA_TRY(clause(ctx, out, " learned", l));
  KA_TRY(clause(ctx, out, " and forgot", f));
  if (!isnan(f->mean))
    KA_TRY(ka_str_printf(ctx, out, "; the area below its front is %s by %.1f square points",
                         area->mean < 0 ? "smaller" : "larger", 1e4 * fabs(area->mean)));
  if (!isnan(f->mean) && !isnan(area->se))
    KA_TRY(ka_str_printf(ctx, out, " [%+.1f, %+.1f]", 1e4 * area->low, 1e4 * area->high));
  return ka_str_puts(ctx, out, ".");
}

static ka_status against_baseline(struct ka_forget_comparison *c, json_t *list, json_t *verdict,
                                  struct ka_str *text) {
  struct ka_ctx *ctx = c->arena.ctx;
  const struct ka_forget_series *b = series_of(c, c->options->baseline, NAN, true);
  for (int64_t i = 0; i < c->n_series && b && b->best >= 0; i++) {
    const struct ka_forget_series *a = &c->series[i];
    if (a == b || a->best < 0) continue;
    json_t *row = json_object();
    struct ka_eval_difference d[KA_N_TESTS];
    for (int t = 0; t < KA_N_TESTS; t++) {
      d[t] = difference(c, a, b, t);
      json_object_set_new(row, tests[t].name, difference_json(&d[t], d[t].p));
    }
    if (json_object_set_new(json_array_get(list, (size_t)i), "against_baseline", row) != 0)
      return ka_fail(ctx, KA_E_MEMORY, "verdict: out of memory");
    if (i > 0) continue; /* in words: the first method alone */
    KA_TRY(baseline_sentence(ctx, text, b->method, a->method, d));
    KA_TRY(append(ctx, verdict, text));
  }
  return KA_STATUS_OK;
}

/* What keeps the words from being the last ones. */
static ka_status cautions(struct ka_forget_comparison *c, json_t *verdict, struct ka_str *text) {
  struct ka_ctx *ctx = c->arena.ctx;
  for (int i = 0; i < 2; i++) {
    const char *comma = "";
    for (int64_t k = 0; k < c->n_series; k++) {
      const struct ka_forget_series *s = &c->series[k];
      if (i == 0 ? !s->edge || s->best < 0 : s->best >= 0) continue;
      KA_TRY(ka_str_printf(ctx, text, "%s%s", comma, s->method));
      comma = ", ";
    }
    if (!*comma) continue;
    KA_TRY(ka_str_puts(ctx, text,
                       i == 0
                           ? ": learned most at the end of the sweep; the best learning rate may "
                             "lie outside it."
                           : ": at every learning rate some run diverged."));
    KA_TRY(append(ctx, verdict, text));
  }
  return KA_STATUS_OK;
}

ka_status ka_forget_verdict(struct ka_forget_comparison *c, json_t *out) {
  struct ka_ctx *ctx = c->arena.ctx;
  json_t *list = json_object_get(out, "series"), *verdict = json_array();
  struct ka_str text = {0};
  void *pairs = NULL;
  const char *control = c->options->control;
  ka_status st = KA_STATUS_OK;
  if (json_object_set_new(out, "verdict", verdict) != 0)
    return ka_fail(ctx, KA_E_MEMORY, "verdict: out of memory");
  KA_TRY_GOTO(ka_arena_alloc_n(&c->arena, &pairs, c->n_series + 1, sizeof(struct pairing), "pairs"),
              out);
  KA_TRY_GOTO(against_control(c, list, verdict, pairs, &text), out);
  KA_TRY_GOTO(against_baseline(c, list, verdict, &text), out);
  KA_TRY_GOTO(cautions(c, verdict, &text), out);
  KA_TRY_GOTO(ka_str_printf(ctx, &text, rule, control, control, c->options->level, control), out);
  if (json_object_set_new(out, "rule", json_string(text.data)) != 0)
    st = ka_fail(ctx, KA_E_MEMORY, "verdict: out of memory");
out:
  ka_str_deinit(&text);
  return st;
}
