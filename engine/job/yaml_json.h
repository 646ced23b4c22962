/* SPDX-License-Identifier: Apache-2.0
 *
 * YAML values as JSON, with plain words resolved as PyYAML (YAML 1.1) does: yes is true, 010 is 8,
 * 12:30 is 750, 1e5 without a point is a text. Dates stay texts; inf and nan, which JSON does not
 * have, are the texts that Python prints. */
#ifndef KAPPA_ENGINE_JOB_YAML_JSON_H
#define KAPPA_ENGINE_JOB_YAML_JSON_H

#include "base/json.h"
#include "engine/job/yaml.h"

/* Is the scalar a truth value, an integer, a real to PyYAML? */
bool ka_yaml_bool(const struct ka_yaml *v, bool *out);
bool ka_yaml_int(const struct ka_yaml *v, int64_t *out);
bool ka_yaml_real(const struct ka_yaml *v, double *out);

/* A new reference. KA_E_INPUT "file:line:column: ..." on a tag such as !function. */
ka_status ka_yaml_json(struct ka_ctx *ctx, const struct ka_yaml *v, json_t **out);

#endif
