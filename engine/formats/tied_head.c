/* SPDX-License-Identifier: Apache-2.0
 * See tied_head.h. */
#include "engine/formats/tied_head.h"

#include <string.h>

bool ka_head_tied(const struct ka_tensor_map *map, const struct ka_hf_config *config) {
  return config->has_tie_word_embeddings ? config->tie_word_embeddings : map->tied;
}

const struct ka_st_entry *ka_head_find(const struct ka_tensor_map *map,
                                       const struct ka_safetensors *files, enum ka_role role) {
  struct ka_tensor_match match;
  for (int64_t i = 0; i < files->n_entries; i++)
    if (ka_tensor_map_match(map, files->entries[i].name, &match) && match.row->role == role)
      return &files->entries[i];
  return NULL;
}

static bool same_values(const struct ka_st_entry *a, const struct ka_st_entry *b) {
  bool same = !a->unreadable && !b->unreadable && a->t.dtype == b->t.dtype &&
              a->t.n_dim == b->t.n_dim && a->n_bytes == b->n_bytes;
  for (int d = 0; same && d < a->t.n_dim; d++) same = a->t.shape[d] == b->t.shape[d];
  return same && (a->t.data == b->t.data || memcmp(a->t.data, b->t.data, a->n_bytes) == 0);
}

bool ka_head_is_embedding(const struct ka_tensor_map *map, const struct ka_hf_config *config,
                          const struct ka_safetensors *files, const struct ka_st_entry **copy) {
  *copy = NULL;
  if (!ka_head_tied(map, config)) return false;
  const struct ka_st_entry *head = ka_head_find(map, files, KA_ROLE_HEAD);
  const struct ka_st_entry *embed = ka_head_find(map, files, KA_ROLE_EMBED);
  if (!head || !embed) return true;
  bool same = same_values(head, embed);
  if (head->shard < files->n_shards && files->shards[head->shard].map.len > 0)
    ka_map_forget(&files->shards[head->shard].map, head->offset_bytes, head->n_bytes);
  if (same) *copy = head;
  return same;
}
