/* SPDX-License-Identifier: Apache-2.0
 * Results as JSON: {"tensors": {NAME: {...}}}. */
#ifndef KAPPA_ENGINE_SPECTRAL_SPECTRAL_JSON_H
#define KAPPA_ENGINE_SPECTRAL_SPECTRAL_JSON_H

#include "base/json.h"
#include "engine/spectral/spectral.h"

/* One result: "shape", every metric by name (null when not known), bounds, "method", "singular",
 * "time_s", "error" where there is one, "singular_values" with full. Infinite values are null. A
 * new reference; NULL when memory is out. */
json_t *ka_spectrum_json(const struct ka_spectrum *r);

/* All of them; `extra` (stolen, may be NULL) gives further members of the root. */
ka_status ka_spectral_write_json(struct ka_ctx *ctx, const struct ka_spectrum *results, int64_t n,
                                 json_t *extra, const char *path);

#endif
