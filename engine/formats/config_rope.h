/* SPDX-License-Identifier: Apache-2.0
 * Inside formats: fills rope, rope_local of a config whose other fields are resolved. */
#ifndef KAPPA_ENGINE_FORMATS_CONFIG_ROPE_H
#define KAPPA_ENGINE_FORMATS_CONFIG_ROPE_H

#include "engine/formats/config.h"

ka_status ka_hf_config_rope(struct ka_ctx *ctx, struct ka_hf_config *c);

#endif
