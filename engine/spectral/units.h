/* SPDX-License-Identifier: Apache-2.0
 *
 * The units of a model or a bare file: whole tensors, the logical parts of fused ones, attention
 * heads, experts. What a name means comes from the model family through a small table of parts;
 * a bare file has wholes only. */
#ifndef KAPPA_ENGINE_SPECTRAL_UNITS_H
#define KAPPA_ENGINE_SPECTRAL_UNITS_H

#include "engine/formats/safetensors.h"
#include "engine/spectral/selection.h"

/* The layer in a tensor's name ("model.layers.12.mlp..." -> 12, "h.3.attn" -> 3), -1 without. */
int ka_unit_layer(const char *name);
/* Natural order: runs of digits compare as numbers. */
int ka_name_compare(const char *a, const char *b);

/* Every readable and unreadable tensor of two or more dimensions (and, with `vectors`, of one) as
 * whole units, in natural order of the names (layers.2 before layers.10). In the arena. */
ka_status ka_units_of_file(struct ka_ctx *ctx, struct ka_arena *arena,
                           const struct ka_safetensors *files, bool vectors, struct ka_unit **units,
                           int64_t *n);

#endif
