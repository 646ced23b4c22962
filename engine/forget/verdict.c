/* SPDX-License-Identifier: Apache-2.0
 * What a comparison says, in words: the rule is `rule` below, docs/forgetting.md has it at length.
 * "Points" are hundredths of the base's value. */
#include "engine/forget/compare_parts.h"

#include "base/str.h"
#include "engine/eval/forgetting.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char rule[] =
    "At every budget each method is compared with %s selection at the same budget, at equal "
    "learning: the most that both learned in every run, at whichever of their learning rates; what "
    "was forgotten there is read from each run's front, straight between neighbouring rates and "
    "the "
    "untouched base. The mean difference, paired by seed and over all draws of %s (seeds and draws "
    "both random, Satterthwaite's degrees of freedom), is tested with Holm's correction over the "
    "methods at the level %g. A method is better (worse) if it forgot significantly less (more), "
    "and "
    "in every other case no better than %s; nothing is said of fewer than two seeds. The other "
    "differences are shown and not tested.";

static const struct { /* by KA_TEST_... */
  const char *name;
  int good; /* the sign that is better */
} tests[KA_N_TESTS] = {{"at_equal_learning", -1}, {"learned", 1}, {"forgot", -1}, {"area", 1}};

struct pairing {
  const struct ka_forget_series *a, *b;
  json_t *out;                             /* of a, in the list of series */
  double level;                            /* what is learned where they are compared */
  int64_t n_seeds;                         /* in common */
  double forgot_a, forgot_b;               /* there, means over all */
  struct ka_eval_difference d[KA_N_TESTS]; /* a - b */
  double p;                                /* of the first, adjusted */
};

static double figure_of(struct ka_forget_comparison *c, const struct ka_forget_series *s,
                        const struct pairing *x, int test, int64_t run) {
  if (test == KA_TEST_EQUAL) return ka_forget_at(c, s, run, x->level);
  if (test == KA_TEST_AREA) return s->areas[run];
  return ka_run_figure(s->cells[s->best].runs[run],
                       test == KA_TEST_LEARNED ? KA_FIGURE_LEARNED : KA_FIGURE_FORGOT);
}

static double mean_over_draws(struct ka_forget_comparison *c, const struct ka_forget_series *s,
                              const struct pairing *x, int test, int64_t seed) {
  double sum = 0;
  for (int64_t r = 0; r < s->n_draws; r++) sum += figure_of(c, s, x, test, r * s->n_seeds + seed);
  return sum / (double)s->n_draws;
}

static double mean_over_all(struct ka_forget_comparison *c, const struct ka_forget_series *s,
                            const struct pairing *x) {
  double sum = 0;
  for (int64_t i = 0; i < s->n_seeds; i++) sum += mean_over_draws(c, s, x, KA_TEST_EQUAL, i);
  return sum / (double)s->n_seeds;
}

/* a - b over the seeds that both have and the draws of b, or of a when b has but one; the other's
 * draws are averaged. */
static struct ka_eval_difference difference(struct ka_forget_comparison *c, const struct pairing *x,
                                            int test) {
  bool swap = x->b->n_draws == 1;
  const struct ka_forget_series *a = swap ? x->b : x->a, *b = swap ? x->a : x->b;
  double sign = swap ? -1 : 1;
  int64_t n = 0;
  for (int64_t r = 0; r < b->n_draws; r++)
    for (int64_t s = 0; s < a->n_seeds; s++)
      for (int64_t t = 0; t < b->n_seeds; t++)
        if (a->seeds[s] == b->seeds[t])
          c->scratch[n++] = sign * (mean_over_draws(c, a, x, test, s) -
                                    figure_of(c, b, x, test, r * b->n_seeds + t));
  if (n == 0) return (struct ka_eval_difference){NAN, NAN, NAN, NAN, NAN, NAN};
  return ka_eval_difference_of(c->scratch, b->n_draws, n / b->n_draws);
}

static struct pairing pair_of(struct ka_forget_comparison *c, const struct ka_forget_series *a,
                              const struct ka_forget_series *b, json_t *out) {
  struct pairing x = {.a = a, .b = b, .out = out, .level = fmin(a->reach, b->reach)};
  for (int64_t s = 0; s < a->n_seeds; s++)
    for (int64_t t = 0; t < b->n_seeds; t++) x.n_seeds += a->seeds[s] == b->seeds[t];
  x.forgot_a = mean_over_all(c, a, &x);
  x.forgot_b = mean_over_all(c, b, &x);
  for (int t = 0; t < KA_N_TESTS; t++) x.d[t] = difference(c, &x, t);
  x.p = x.d[KA_TEST_EQUAL].p;
  return x;
}

static json_t *difference_json(const struct ka_eval_difference *d) {
  return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "mean", ka_json_real(d->mean), "se",
                   ka_json_real(d->se), "df", ka_json_real(d->df), "low", ka_json_real(d->low),
                   "high", ka_json_real(d->high), "p", ka_json_real(d->p));
}

/* word: NULL against the baseline, where nothing is corrected. */
static json_t *pairing_json(const struct pairing *x, const char *word) {
  json_t *row =
      json_pack("{s:o, s:o, s:o}", "learned_where_equal", ka_json_real(x->level), "forgot_there",
                ka_json_real(x->forgot_a), "other_forgot_there", ka_json_real(x->forgot_b));
  for (int t = 0; t < KA_N_TESTS; t++)
    json_object_set_new(row, tests[t].name, difference_json(&x->d[t]));
  if (!word) return row;
  json_object_set_new(json_object_get(row, tests[KA_TEST_EQUAL].name), "p_adjusted",
                      ka_json_real(x->p));
  json_object_set_new(row, "word", json_string(word));
  return row;
}

static const char *word_of(const struct ka_forget_comparison *c, const struct pairing *x) {
  const struct ka_eval_difference *d = &x->d[KA_TEST_EQUAL];
  if (x->n_seeds < 2 || isnan(d->se)) return "unknown";
  if (!(x->p < c->options->level)) return "no better";
  return d->mean * tests[KA_TEST_EQUAL].good > 0 ? "better" : "worse";
}

/* --- sentences --------------------------------------------------------------- */

static const struct {
  const char *word, *text;
} meanings[] = {
    {"better", "is better than %s selection"},
    {"worse", "is worse than %s selection"},
    {"no better", "is no better than %s selection"},
    {"unknown", "cannot be told from %s selection: "},
};

static const char *why_unknown(const struct pairing *x) {
  if (x->n_seeds == 0) return "they have no seed in common";
  if (x->n_seeds == 1) return "one seed says nothing of how much is chance";
  if (isnan(x->d[KA_TEST_EQUAL].mean)) return "what was forgotten was not measured";
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

/* Equal budgets are equal; a method tuned elsewhere may have another. */
static ka_status unequal(struct ka_ctx *ctx, struct ka_str *out, const struct pairing *x) {
  char a[32], b[32];
  double mine = x->a->trained, its = x->b->trained;
  if (!(fabs(mine - its) > 1e-3 * its)) return KA_STATUS_OK;
  return ka_str_printf(ctx, out, " Not at equal numbers of parameters: it trains %s, %s %s.",
                       ka_fmt_count(mine, a), x->b->method, ka_fmt_count(its, b));
}

/* ". At equal learning (37.41 %) it forgot 4.55 points less [-10.73, +1.62]". */
static ka_status at_equal(struct ka_ctx *ctx, struct ka_str *out, const struct pairing *x) {
  const struct ka_eval_difference *d = &x->d[KA_TEST_EQUAL];
  if (isnan(d->mean)) return KA_STATUS_OK;
  KA_TRY(ka_str_printf(ctx, out, ". At equal learning (%.2f %%) it", 100 * x->level));
  KA_TRY(clause(ctx, out, " forgot", d));
  return interval(ctx, out, d);
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
  KA_TRY(at_equal(ctx, out, x));
  KA_TRY(clause(ctx, out, ". At its best rate it learned", l));
  KA_TRY(interval(ctx, out, l));
  KA_TRY(clause(ctx, out, " and forgot", f));
  KA_TRY(interval(ctx, out, f));
  KA_TRY(ka_str_puts(ctx, out, "."));
  return unequal(ctx, out, x);
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

/* At equal learning, so learning must have been measured. */
static bool comparable(const struct ka_forget_series *s) {
  return s->best >= 0 && !isnan(s->cells[s->best].figures[KA_FIGURE_LEARNED].mean);
}

static bool any_comparable(const struct ka_forget_comparison *c) {
  for (int64_t i = 0; i < c->n_series; i++)
    if (comparable(&c->series[i])) return true;
  return false;
}

static bool all_failed(const struct ka_forget_series *s) {
  for (int64_t l = 0; l < s->n_cells; l++)
    if (s->cells[l].n_failed == 0) return false;
  return true;
}

/* All methods that have a control at their budget. */
static int64_t pair_up(struct ka_forget_comparison *c, json_t *list, struct pairing *x) {
  int64_t n = 0;
  for (int64_t i = 0; i < c->n_series; i++) {
    const struct ka_forget_series *a = &c->series[i];
    const struct ka_forget_series *b = series_of(c, c->options->control, a->budget, false);
    if (!b || a == b || !comparable(a) || !comparable(b)) continue;
    x[n++] = pair_of(c, a, b, json_array_get(list, (size_t)i));
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
      if (x[k].b == x[i].b) c->scratch[m++] = x[k].p;
    ka_eval_holm(c->scratch, m);
    m = 0;
    for (int64_t k = i; k < n; k++)
      if (x[k].b == x[i].b) x[k].p = c->scratch[m++];
  }
}

static ka_status against_control(struct ka_forget_comparison *c, json_t *list, json_t *verdict,
                                 struct pairing *x, struct ka_str *text) {
  struct ka_ctx *ctx = c->arena.ctx;
  int64_t n = pair_up(c, list, x);
  adjust(c, x, n);
  for (int64_t i = 0; i < n; i++) {
    const char *word = word_of(c, &x[i]);
    KA_TRY(ka_json_set(ctx, x[i].out, "against_control", pairing_json(&x[i], word)));
    KA_TRY(sentence(ctx, text, &x[i], word, c->options->control));
    KA_TRY(append(ctx, verdict, text));
  }
  if (n > 0 || !any_comparable(c)) return KA_STATUS_OK; /* cautions() says why */
  KA_TRY(ka_str_printf(ctx, text,
                       "There is no %s selection at any method's budget to compare with, so there "
                       "is no verdict.",
                       c->options->control));
  return append(ctx, verdict, text);
}

/* --- against the baseline ---------------------------------------------------- */

static ka_status baseline_sentence(struct ka_ctx *ctx, struct ka_str *out,
                                   const struct pairing *x) {
  const struct ka_eval_difference *d = &x->d[KA_TEST_EQUAL];
  KA_TRY(ka_str_printf(ctx, out, "Against %s: %s", x->b->method, x->a->method));
  if (x->n_seeds == 0) return ka_str_puts(ctx, out, " has no seed in common with it.");
  if (isnan(d->mean)) return ka_str_puts(ctx, out, ": what was forgotten was not measured.");
  char mine[64], its[64];
  KA_TRY(ka_str_printf(ctx, out, " %s where both learned %.2f %%, and %s %s",
                       ka_eval_forgot_text(x->forgot_a, mine), 100 * x->level, x->b->method,
                       ka_eval_forgot_text(x->forgot_b, its)));
  KA_TRY(interval(ctx, out, d));
  KA_TRY(clause(ctx, out, "; at its best rate it learned", &x->d[KA_TEST_LEARNED]));
  KA_TRY(clause(ctx, out, " and forgot", &x->d[KA_TEST_FORGOT]));
  return ka_str_puts(ctx, out, ".");
}

static ka_status against_baseline(struct ka_forget_comparison *c, json_t *list, json_t *verdict,
                                  struct ka_str *text) {
  struct ka_ctx *ctx = c->arena.ctx;
  const struct ka_forget_series *b = series_of(c, c->options->baseline, NAN, true);
  for (int64_t i = 0; i < c->n_series && b && comparable(b); i++) {
    const struct ka_forget_series *a = &c->series[i];
    json_t *out = json_array_get(list, (size_t)i);
    if (a == b || !comparable(a)) continue;
    struct pairing x = pair_of(c, a, b, out);
    KA_TRY(ka_json_set(ctx, out, "against_baseline", pairing_json(&x, NULL)));
    KA_TRY(baseline_sentence(ctx, text, &x));
    KA_TRY(append(ctx, verdict, text));
  }
  return KA_STATUS_OK;
}

/* What keeps the words from being the last ones. */
static ka_status cautions(struct ka_forget_comparison *c, json_t *verdict, struct ka_str *text) {
  struct ka_ctx *ctx = c->arena.ctx;
  static const char *const words[] = {
      ": learned most at the end of the sweep; the best learning rate may lie outside it.",
      ": at every learning rate some run diverged.",
      ": what was learned was not measured, for want of a new text or task; only what was "
      "forgotten "
      "is shown, and there is no verdict."};
  for (int i = 0; i < 3; i++) {
    const char *comma = "";
    for (int64_t k = 0; k < c->n_series; k++) {
      const struct ka_forget_series *s = &c->series[k];
      int which = all_failed(s) ? 1 : !comparable(s) ? 2 : s->edge ? 0 : -1;
      if (which != i) continue;
      KA_TRY(ka_str_printf(ctx, text, "%s%s", comma, s->method));
      comma = ", ";
    }
    if (!*comma) continue;
    KA_TRY(ka_str_puts(ctx, text, words[i]));
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
  KA_TRY(ka_json_set(ctx, out, "verdict", verdict));
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
