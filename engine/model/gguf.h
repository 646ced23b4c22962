/* SPDX-License-Identifier: Apache-2.0
 *
 * A model in a GGUF file, as llama.cpp names and lays out its weights. What llama.cpp fixes in its
 * code for an architecture (activations, which layers slide, how scores are scaled) is compared
 * with the recipe: a model that it would compute otherwise is refused by the key, not written. */
#ifndef KAPPA_ENGINE_MODEL_GGUF_H
#define KAPPA_ENGINE_MODEL_GGUF_H

#include "engine/formats/gguf.h"
#include "engine/model/model.h"

/* Announces the facts and tensors of an open model; vectors, routers and learned positions stay
 * F32, the rest gets `type`. `name`: general.name. KA_E_UNSUPPORTED: a family or an option that
 * llama.cpp has not. */
ka_status ka_model_gguf_plan(struct ka_model *m, struct ka_gguf *g, enum ka_gguf_type type,
                             const char *name);
/* Behind ka_gguf_begin: the data of the same tensors. `done` (may be NULL) hears how many of them
 * are written. */
ka_status ka_model_gguf_write(struct ka_model *m, struct ka_gguf *g,
                              void (*done)(void *user, int64_t n, int64_t of), void *user);

#endif
