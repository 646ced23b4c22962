/* SPDX-License-Identifier: Apache-2.0
 *
 * YAML values as JSON, with plain words resolved as PyYAML (YAML 1.1) does: yes is true, 010 is 8,
 * 1e5 without a point is a text. Dates and base-60 numbers stay texts. */
#ifndef KAPPA_ENGINE_JOB_YAML_JSON_H
#define KAPPA_ENGINE_JOB_YAML_JSON_H

#include "base/json.h"
#include "engine/job/yaml.h"

/* A new reference. KA_E_INPUT "file:line:column: ..." on a tag such as !function. */
ka_status ka_yaml_json(struct ka_ctx *ctx, const struct ka_yaml *v, json_t **out);

#endif
