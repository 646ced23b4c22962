/* SPDX-License-Identifier: Apache-2.0
 *
 * From many runs to a comparison of methods: means with standard errors, each method's best
 * learning rate, fronts and their areas, differences from a control and from a baseline, a verdict
 * in words. The rules are in docs/forgetting.md. JSON in, JSON out: what goes in is what the runs'
 * reports say. */
#ifndef KAPPA_ENGINE_FORGET_COMPARE_H
#define KAPPA_ENGINE_FORGET_COMPARE_H

#include "base/json.h"

struct ka_compare_options {
  const char *control;  /* the method whose draws say what chance gives: "random" */
  const char *baseline; /* the method that fronts are measured against: "full" */
  double level;         /* of the family of tests: 0.05 */
};

/* runs: [{"method", "budget" (trained parameters that were asked for, or null: all),
 * "learning_rate" (or null), "seed", "draw", "trained_params", "params", "failed", "seconds",
 * "scores": {...}, "values": [of each measure]}]; those of one method and budget are a series,
 * whose seeds and draws must be crossed (KA_E_INPUT otherwise). *out: {"series": [...]
 * (docs/forgetting.md), "reference", "verdict": [text], "rule": text, "control", "baseline"}; a new
 * reference. */
ka_status ka_compare(struct ka_ctx *ctx, const json_t *runs, const struct ka_compare_options *o,
                     json_t **out);

#endif
