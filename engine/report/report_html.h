/* SPDX-License-Identifier: Apache-2.0
 *
 * report.html: one self-contained page about a finished run (no script, no network), readable in
 * light and dark. What it shows is handed over as plain values; it computes nothing. */
#ifndef KAPPA_ENGINE_REPORT_REPORT_HTML_H
#define KAPPA_ENGINE_REPORT_REPORT_HTML_H

#include "base/json.h"

struct ka_report_fact {
  const char *name, *value;
};

/* Mean loss of a text before and after training, nats a token. */
struct ka_report_held_out {
  const char *name;
  double before, after;
  int64_t n_tokens;
};

/* One trained unit. kappa NaN: not known (not a spectral selection, or singular). */
struct ka_report_unit {
  const char *name, *part; /* part: "rows 0 to 64", or "" for a whole tensor */
  int64_t n_elems;
  double lr_scale; /* of the learning rate */
  double kappa_before, kappa_after;
};

struct ka_report {
  const char *title, *subtitle;
  const struct ka_report_fact *facts;
  int64_t n_facts;
  const json_t *log; /* rows of train_log.jsonl */
  const struct ka_report_held_out *held_out;
  int64_t n_held_out;
  const struct ka_report_unit *units;
  int64_t n_units;
};

/* Published by rename. Rows without the wanted numbers are left out of the charts. */
ka_status ka_report_write(struct ka_ctx *ctx, const struct ka_report *r, const char *path);

#endif
