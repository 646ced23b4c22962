/* SPDX-License-Identifier: Apache-2.0
 *
 * The report of a run or of a comparison of methods: report.json, and two views of it that compute
 * nothing of their own, report.html and report.md. docs/forgetting.md describes the JSON; a section
 * whose member is absent is left out, members that no section knows do no harm. */
#ifndef KAPPA_ENGINE_REPORT_REPORT_H
#define KAPPA_ENGINE_REPORT_REPORT_H

#include "base/json.h"

/* Each published by rename, report.json last: where it is, the report is whole. */
ka_status ka_report_write(struct ka_ctx *ctx, const json_t *root, const char *dir);

#endif
