/* SPDX-License-Identifier: Apache-2.0
 *
 * Which units are trained: chosen from spectra by a spec, written to and read from selection.json.
 * Ties break by name; the same spec, units and seed choose the same. */
#ifndef KAPPA_ENGINE_SPECTRAL_SELECTION_H
#define KAPPA_ENGINE_SPECTRAL_SELECTION_H

#include "engine/job/job.h"
#include "engine/spectral/spectral.h"

/* A quota: at most `count` units of a role. */
struct ka_select_quota {
  const char *role;
  int64_t count;
};

/* How experts were measured for metric affinity: an expert's affinity is its share of what the
 * tokens of a task gave to the experts of its layer, by "token" their choices, by "gate" the
 * weights of these. */
struct ka_affinity {
  const char *score;
  double p; /* of what was chosen by; 0: by a budget */
  int64_t n_tok;
};

/* Mirrors the job's `selection:` keys. Zero-initialise through ka_select_spec_default. */
struct ka_select_spec {
  const char *metric; /* a metric's name, or "all", "random", "first_n", "last_n", "affinity" */
  bool highest;       /* order: highest first */
  int64_t count;      /* at most one of count, fraction and params is given; -1: absent */
  double fraction;    /* of the candidates' parameters */
  int64_t params;     /* both are met by slicing the last unit */
  int unit;           /* KA_UNIT_TENSOR, HEAD or EXPERT: selection.unit in job.def */
  /* PCRE2, searched anywhere in the stored tensor's name. n_exclude -1: nothing, but
   * units that their role makes unusual (embeddings, heads, routers) are candidates of "all", or
   * where a pattern of include matches none but such. */
  const char *const *include;
  int64_t n_include;
  const char *const *exclude;
  int64_t n_exclude;
  int64_t max_dim;                      /* candidates have no side above this; 0: no limit */
  int64_t min_layer;                    /* candidates inside layers are at this layer or above */
  double p;                             /* affinity without a budget: of each layer the fewest
                                           experts whose shares sum to it */
  const struct ka_select_quota *quotas; /* may be NULL */
  int64_t n_quotas;
  uint64_t seed; /* random */
  /* Instead of a budget, for kappa and kappa_mp: all candidates, each with lr_scale = (first /
   * its value)^power (highest: the inverse), those without a value left out. */
  bool soft;
  double power;
};

/* kappa, lowest, nothing given for the budget, max_dim 16384. */
struct ka_select_spec ka_select_spec_default(void);

/* Does the choice depend on spectra at all, and on all singular values? */
bool ka_select_needs_spectra(const struct ka_select_spec *spec);
bool ka_select_needs_full(const struct ka_select_spec *spec);

/* KA_E_INPUT on unknown metrics, bad patterns (with the position), two budgets, ranges. */
ka_status ka_select_check(struct ka_ctx *ctx, const struct ka_select_spec *spec);

/* "METRIC [lowest|highest] BUDGET [ROLE:COUNT...]": BUDGET a count (20), a share (5% or 0.05) or
 * parameters (50M); ROLE:COUNT are quotas.
 * Words are copied to the arena. KA_E_USAGE, KA_E_INPUT. */
ka_status ka_select_parse(struct ka_ctx *ctx, struct ka_arena *arena, const char *text,
                          struct ka_select_spec *out);

/* Words "ROLE:COUNT" into spec->quotas, in the arena. KA_E_INPUT with the word otherwise. */
ka_status ka_select_quotas(struct ka_ctx *ctx, struct ka_arena *arena, const char *const *words,
                           int64_t n, struct ka_select_spec *spec);

struct ka_selected {
  const char *name, *tensor, *role;
  int64_t rows[2], cols[2]; /* [a,b) of the stored matrix [d0, rest]; {-1,-1}: all */
  int64_t n_elems;          /* 0 after reading a file */
  double metrics[KA_N_METRICS];
  double kappa_rel_bound; /* NaN: none */
  double affinity;        /* NaN: not measured */
  double lr_scale;        /* of its learning rate, above 0; 1 but for soft choices */
};

/* Analysed and found singular: it has its ends, but no kappa. */
bool ka_selected_singular(const struct ka_selected *u);

struct ka_selection {
  const char *base; /* the model it was made from; may be NULL */
  const char *metric;
  bool highest;
  uint64_t seed;
  struct ka_affinity affinity; /* of metric affinity; score NULL: not known */
  int64_t n_units, n_elems, n_candidates;
  struct ka_selected *units; /* in the order of the choice */
};

/* "20 units by kappa, lowest first", "56 units, all there are", "12 units drawn at random": what
 * was chosen, for people; written into text and returned. */
const char *ka_selection_words(const struct ka_selection *s, char text[128]);

/* Sets candidate[i] for the units that the patterns, max_dim, min_layer and the unit kind leave;
 * what need not be analysed need not be read. */
ka_status ka_select_candidates(struct ka_ctx *ctx, const struct ka_select_spec *spec,
                               const struct ka_unit *units, int64_t n, bool *candidate);

/* Chooses among n results (results[i].unit set; for metrics without spectra nothing else). A budget
 * of parameters is met to 0.05 %: of the first unit that exceeds what is left only the first rows
 * are taken, and as NAME#rest a part of the next row. Failed candidates (NaN, Inf) are KA_E_INPUT;
 * singular ones sort last. No candidate left is KA_E_INPUT. The selection lives in the arena, its
 * strings in the units. */
ka_status ka_select(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_selection *out,
                    const struct ka_select_spec *spec, const struct ka_spectrum *results,
                    int64_t n);

/* selection.json (docs/spectra.md). Published by rename. */
ka_status ka_selection_write(struct ka_ctx *ctx, const struct ka_selection *selection,
                             const char *path);
/* Strings in the arena. Wrong types, ranges and repeated or overlapping parts are KA_E_INPUT. */
ka_status ka_selection_read(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_selection *out,
                            const char *path);

#endif
