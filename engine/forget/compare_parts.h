/* SPDX-License-Identifier: Apache-2.0
 * Inside forget: what compare.c and verdict.c share. */
#ifndef KAPPA_ENGINE_FORGET_COMPARE_PARTS_H
#define KAPPA_ENGINE_FORGET_COMPARE_PARTS_H

#include "base/arena.h"
#include "engine/eval/statistics.h"
#include "engine/forget/compare.h"
#include "engine/forget/front.h"

/* Members of a run's "scores". */
enum ka_forget_figure {
  KA_FIGURE_LEARNED,
  KA_FIGURE_FORGOT,
  KA_FIGURE_SCORE,
  KA_FIGURE_KL,
  KA_FIGURE_KL_NEW,
  KA_FIGURE_TRANSFER,
  KA_FIGURE_FORGETTING,
  KA_FIGURE_BEYOND,
  KA_N_FIGURES
};

/* Differences between two series: of forgetting at equal learning, which is what the verdict is
 * about, and what goes with it. */
enum { KA_TEST_EQUAL, KA_TEST_LEARNED, KA_TEST_FORGOT, KA_TEST_AREA, KA_N_TESTS };

struct ka_forget_cell { /* a learning rate */
  double lr;            /* NaN: unknown */
  const json_t **runs;  /* [n_draws, n_seeds] of its series */
  int64_t n_failed;
  struct ka_eval_difference figures[KA_N_FIGURES]; /* means; NaN with a failed run */
};

struct ka_forget_series {
  const char *method;
  double budget;          /* NaN: everything */
  double trained, params; /* trained: mean of the n_trained runs that say it; NaN: unknown */
  int64_t n_trained;
  int64_t n_seeds, n_draws, *seeds, *draws;
  int64_t n_cells, best;        /* best: the cell that learned most; -1: none is without failures */
  struct ka_forget_cell *cells; /* by ascending rate */
  bool edge;                    /* best is the first or last of several */
  double *areas;                /* [n_draws, n_seeds]: below the front over the cells */
  double reach;                 /* what every run learned at one of its rates, at least 0 */
  struct ka_eval_difference area;
};

struct ka_forget_comparison {
  struct ka_arena arena;
  const struct ka_compare_options *options;
  int64_t n_series;
  struct ka_forget_series *series;
  struct ka_forget_point reference;
  struct ka_forget_point *points; /* scratch, [n_runs + 1] */
  int64_t *order;                 /* scratch, [n_runs + 1] */
  double *scratch;                /* [KA_N_TESTS * n_runs + 1] */
};

double ka_run_figure(const json_t *run, enum ka_forget_figure f);

/* What run [draw * n_seeds + seed] of the series forgot where it learned so much, between its
 * rates; NaN beyond them. */
double ka_forget_at(struct ka_forget_comparison *c, const struct ka_forget_series *s, int64_t run,
                    double learned);

/* verdict.c: adds "against_control" and "against_baseline" to the series in out, and "verdict" and
 * "rule" to out. */
ka_status ka_forget_verdict(struct ka_forget_comparison *c, json_t *out);

#endif
