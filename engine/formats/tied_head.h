/* SPDX-License-Identifier: Apache-2.0
 *
 * Heads that are the embedding. config.json says so; but files may hold a head all the same
 * (Qwen1.5, saves of sharded trainers), and there its values decide. */
#ifndef KAPPA_ENGINE_FORMATS_TIED_HEAD_H
#define KAPPA_ENGINE_FORMATS_TIED_HEAD_H

#include "engine/formats/safetensors.h"
#include "engine/formats/tensor_map.h"

/* By config.json, or else by what its family is used to. */
bool ka_head_tied(const struct ka_tensor_map *map, const struct ka_hf_config *config);

/* Is the head of these files the embedding? What config.json says, but for files with a head of
 * other values: that is a weight of its own, as transformers 5 loads it. *copy: the stored head
 * that repeats the embedding, which whoever writes the embedding writes too; NULL: none. */
bool ka_head_is_embedding(const struct ka_tensor_map *map, const struct ka_hf_config *config,
                          const struct ka_safetensors *files, const struct ka_st_entry **copy);

/* The stored head or embedding, NULL: the files have none. */
const struct ka_st_entry *ka_head_find(const struct ka_tensor_map *map,
                                       const struct ka_safetensors *files, enum ka_role role);

#endif
