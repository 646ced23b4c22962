/* SPDX-License-Identifier: Apache-2.0
 *
 * The units of a model or a bare file: whole tensors, the logical parts of fused ones, attention
 * heads, experts. What a name means stands in the table of parts.c; how many heads there are comes
 * from config.json, so a bare file has wholes only. */
#ifndef KAPPA_ENGINE_SPECTRAL_UNITS_H
#define KAPPA_ENGINE_SPECTRAL_UNITS_H

#include "engine/formats/config.h"
#include "engine/formats/safetensors.h"
#include "engine/spectral/selection.h"

/* The layer in a tensor's name ("model.layers.12.mlp..." -> 12, "h.3.attn" -> 3), -1 without. */
int ka_unit_layer(const char *name);
/* The layer, or where a tensor outside the layers stands: the embedding at -1, the rest above
 * all. */
double ka_unit_depth(const char *name);
/* The name that a unit has whichever way its file stores it: what draws and ties go by. */
const char *ka_unit_logical_name(const struct ka_unit *unit);
/* Natural order: runs of digits compare as numbers. */
int ka_spectral_name_compare(const char *a, const char *b);

/* Every tensor of two or more dimensions (and, with `vectors`, of one) as whole units with their
 * roles, each followed by its parts: those of fused tensors, experts and, for kind KA_UNIT_HEAD,
 * heads; but a tied head that repeats the embedding. config NULL (a bare file): wholes only.
 * Natural order of the names (layers.2 before layers.10). In the arena; views into the files. */
ka_status ka_units_of_file(struct ka_ctx *ctx, struct ka_arena *arena,
                           const struct ka_safetensors *files, const struct ka_hf_config *config,
                           int kind, bool vectors, struct ka_unit **units, int64_t *n);

/* Gives `whole` its role; out (NULL: only counts) receives its n parts. */
ka_status ka_unit_parts(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_unit *whole,
                        const struct ka_hf_config *config, int kind, struct ka_unit *out,
                        int64_t *n);

/* Units of experts in a selection that was made from files that store experts the other way (apart,
 * or in a stack) become those of these units, all of the files' (ka_units_of_file). What none of
 * them is, stays. Strings in the arena or the units'. KA_E_INPUT: a part that a stack cannot
 * say. */
ka_status ka_selection_adopt(struct ka_ctx *ctx, struct ka_arena *arena, struct ka_selection *s,
                             const struct ka_safetensors *files, const struct ka_unit *units,
                             int64_t n, const struct ka_hf_config *config);

#endif
