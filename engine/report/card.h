/* SPDX-License-Identifier: Apache-2.0
 *
 * The model card of a trained model: README.md as the Hub has it, a view of the run's report. */
#ifndef KAPPA_ENGINE_REPORT_CARD_H
#define KAPPA_ENGINE_REPORT_CARD_H

#include "base/json.h"

struct ka_report_card {
  const char *dir;      /* of the trained model */
  const char *base_dir; /* whose card, carried over, the new one replaces; its licence stays */
  const char *base;     /* name on the Hub, NULL: it has none that is known */
  const char *const *datasets; /* names on the Hub */
  int64_t n_datasets;
};

/* Writes dir/README.md. root: a run's report, or of what kappa repair chose its "kind" ("repair"),
 * "measures" and "settings". A file that is there and was neither written by kappa nor is the
 * base's own, byte for byte, is the user's and stays (named in a log line). */
ka_status ka_report_card_write(struct ka_ctx *ctx, const json_t *root,
                               const struct ka_report_card *card);

#endif
