/* SPDX-License-Identifier: Apache-2.0
 *
 * The documents of a job as one long array of tokens: in memory while it is small, in a file
 * without a name (gone with the process) once it is not. A masked token is stored as -1 - id;
 * documents whose labels differ from their ids have their labels behind the ids. */
#ifndef KAPPA_ENGINE_DATA_STORE_H
#define KAPPA_ENGINE_DATA_STORE_H

#include "engine/data/document.h"

#include <stdio.h>

struct ka_data_stored {
  int64_t at; /* index of its first token */
  int64_t n;
  int64_t n_targets; /* labels other than -100 behind the first token */
  bool own_labels;   /* n labels follow the n ids */
};

struct ka_data_clip {
  int64_t doc;
  struct ka_speech_clip clip;
};

struct ka_data_store {
  struct ka_ctx *ctx;
  const char *spill_dir; /* where the nameless file goes; borrowed */
  size_t memory_bytes;   /* what may stay in memory */
  struct ka_data_stored *docs;
  int64_t n_docs, docs_cap;
  struct ka_data_clip *clips; /* of documents that have one, in order */
  int64_t n_clips, clips_cap;
  struct ka_arena texts; /* their paths */
  int32_t *tokens;       /* in memory, or while filling a file NULL */
  int64_t n_tokens, tokens_cap;
  FILE *file; /* once spilled */
  struct ka_map map;
};

void ka_data_store_init(struct ka_data_store *s, struct ka_ctx *ctx, const char *spill_dir,
                        size_t memory_bytes);
ka_status ka_data_store_add(struct ka_data_store *s, const struct ka_document *d);
/* The clip of document i, NULL: it has none. */
const struct ka_speech_clip *ka_data_store_clip(const struct ka_data_store *s, int64_t i);
/* No more documents: reading may start. */
ka_status ka_data_store_seal(struct ka_data_store *s);
void ka_data_store_deinit(struct ka_data_store *s);

/* Tokens [start, start+n) of document i; ids or labels may be NULL. */
void ka_data_store_read(const struct ka_data_store *s, int64_t i, int64_t start, int64_t n,
                        int32_t *ids, int32_t *labels);
/* Gives back the memory that reading a mapped store has filled; it is read again when needed. */
void ka_data_store_forget(const struct ka_data_store *s);
/* Labels other than -100 at start+1 .. start+n-1. */
int64_t ka_data_store_targets(const struct ka_data_store *s, int64_t i, int64_t start, int64_t n);

#endif
