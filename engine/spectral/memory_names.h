/* SPDX-License-Identifier: Apache-2.0
 *
 * What a stored tensor is called in a model that transformers 5 has loaded, which is what tools
 * around it ask for: most names are the same; experts that lie in the file one by one become one
 * parameter of three dimensions. */
#ifndef KAPPA_ENGINE_SPECTRAL_MEMORY_NAMES_H
#define KAPPA_ENGINE_SPECTRAL_MEMORY_NAMES_H

#include "base/arena.h"

enum ka_expert_part { KA_EXPERT_WHOLE, KA_EXPERT_GATE, KA_EXPERT_UP };

struct ka_memory_name {
  const char *name;         /* in the arena */
  int64_t expert;           /* the first index of the parameter that the tensor is; -1: all of it */
  enum ka_expert_part part; /* of that expert: gate above up, or all */
};

ka_status ka_memory_name_of(struct ka_arena *arena, const char *tensor, struct ka_memory_name *out);

/* A router: its weight is no Linear there, but a parameter of a module of its own kind. */
bool ka_memory_is_router(const char *name);

#endif
