/* SPDX-License-Identifier: Apache-2.0
 *
 * Giving back what a tuned model forgot, after training and without data: the difference from the
 * base is shrunk, by a number, by layer or by its spectrum. TUNED may come from any trainer.
 *
 * repair.c has the arithmetic, repair_sweep.c what is tried, scored and chosen. */
#ifndef KAPPA_ENGINE_FORGET_REPAIR_H
#define KAPPA_ENGINE_FORGET_REPAIR_H

#include "base/json.h"
#include "engine/forget/scoring.h"

enum ka_repair_method {
#define KA_REPAIR(id, name, strengths, doc) KA_REPAIR_##id,
#include "engine/forget/repair.def"
#undef KA_REPAIR
  KA_N_REPAIRS
};

struct ka_repair_info {
  const char *name, *strengths, *doc;
};
const struct ka_repair_info *ka_repair_info(enum ka_repair_method method);

struct ka_repair_counts {
  int64_t n_changed, n_tensors; /* tensors that differ from the base's, of all */
  int64_t n_kept, n_values;     /* dghard: singular values of the differences */
};

/* Every tensor of `tuned` that differs from the base's of the same name becomes memory of its
 * arena, in its own dtype, rounded to nearest. Tensors that the base lacks stay. counts is set (+=
 * nothing). KA_E_INPUT: another shape than the base's, a dtype that is not F32, BF16, F16 or
 * F64. */
ka_status ka_repair_apply(struct ka_ctx *ctx, const struct ka_safetensors *base,
                          struct ka_safetensors *tuned, enum ka_repair_method method,
                          double strength, struct ka_repair_counts *counts);

/* omega of Gavish and Donoho: the optimal hard threshold over the median singular value, of
 * matrices whose sides have the ratio beta, 0 < beta <= 1 (2.858 at 1). */
double ka_repair_threshold(double beta);

/* Intruders (arXiv 2410.21228): of the k top left singular vectors of each changed matrix, how many
 * have no vector of the base's matrix with a cosine of `cosine` or more. */
struct ka_repair_intruders {
  int64_t n_intruders, n_vectors, n_matrices;
};
ka_status ka_repair_find_intruders(struct ka_ctx *ctx, const struct ka_safetensors *base,
                                   const struct ka_safetensors *tuned, int64_t k, double cosine,
                                   struct ka_repair_intruders *out);

/* --- the sweep ------------------------------------------------------------------------------- */

enum { KA_REPAIR_STRENGTHS = 32 };

struct ka_repair_options {
  struct ka_forget_scoring_spec spec; /* measures of both sides */
  const char *tuned, *tuned_base;     /* tuned_base: of a delta or adapter; NULL: spec.base */
  double strengths[KA_N_REPAIRS][KA_REPAIR_STRENGTHS];
  int64_t n_strengths[KA_N_REPAIRS];
  double keep;         /* the share of what TUNED learned that the chosen one keeps */
  const char *out;     /* the directory of the chosen one; NULL: not written */
  int64_t n_intruders; /* top vectors looked at; 0: no such check */
};

/* Scores TUNED and every repair, chooses the one that forgot least among those that learned `keep`
 * of what TUNED did, writes it. *report: {"points": [{"method", "strength", "learned", "forgot",
 * "score", "kl", "values", "front", "chosen"}], "base": [values], "measures", "intruders"}; a new
 * reference. */
ka_status ka_repair_sweep(struct ka_ctx *ctx, const struct ka_repair_options *o, json_t **report);

#endif
