/* SPDX-License-Identifier: Apache-2.0
 *
 * From a record to a document: token ids and the label of each. The types of a job's datasets. */
#ifndef KAPPA_ENGINE_DATA_DOCUMENT_H
#define KAPPA_ENGINE_DATA_DOCUMENT_H

#include "engine/data/chat.h"
#include "engine/data/records.h"
#include "engine/data/speech.h"
#include "engine/model/batch.h"
#include "tokenizer/tokenizer.h"

/* What is worth saying and no error: bits of a document's `notes`; of sound they are no
 * warnings. */
enum ka_document_note {
  KA_NOTE_NO_EOS,    /* EOS was wanted, and the model names none */
  KA_NOTE_ENDLESS,   /* the chat template writes no special token behind a trained answer */
  KA_NOTE_HISTORY,   /* an alpaca record's "history", which is not read */
  KA_NOTE_RESAMPLED, /* sound of another rate */
  KA_NOTE_MIXED,     /* several channels, averaged */
  KA_N_NOTES
};

enum { KA_ROLES_MAX = 128 };

/* Growing; zero-initialise. labels[t] is ids[t] or -100 (tokenized records may say anything). */
struct ka_document {
  int32_t *ids, *labels;
  int64_t n, ids_cap, labels_cap;
  struct ka_tok_tokens scratch;
  uint32_t notes;             /* 1 << enum ka_document_note */
  char roles[KA_ROLES_MAX];   /* of a conversation: "user, assistant" */
  struct ka_speech_clip clip; /* its path is clip_path; n_places 0: none */
  struct ka_str clip_path;
  const char *data_file; /* of the record at hand; borrowed */
};
void ka_document_clear(struct ka_document *d); /* keeps the memory */
void ka_document_deinit(struct ka_document *d);
/* Room for n more tokens. */
ka_status ka_document_reserve(struct ka_ctx *ctx, struct ka_document *d, int64_t n);
/* Appends n ids, trained or not. */
ka_status ka_document_add(struct ka_ctx *ctx, struct ka_document *d, const int32_t *ids, int64_t n,
                          bool train);
/* Adds a name to such a list unless it is there or the list is full. */
void ka_document_add_role(char roles[KA_ROLES_MAX], const char *name, size_t n);
/* KA_E_INPUT: the key is not in the record; says which are. */
ka_status ka_document_no_key(struct ka_ctx *ctx, const json_t *record, const char *key);
/* Appends the ids of a text. special: also those that the tokenizer puts around a text; a BOS that
 * the text has itself is not doubled. */
ka_status ka_document_text(struct ka_ctx *ctx, struct ka_document *d, const struct ka_tokenizer *t,
                           const char *text, size_t n, bool special, bool train);

/* What the records of one dataset entry have in common; read-only while documents are made. */
struct ka_document_maker {
  const struct ka_job_dataset *dataset;
  const struct ka_tokenizer *tokenizer; /* NULL: type tokenized only */
  int32_t eos;                          /* -1: none */
  bool train_on_inputs;
  int64_t V;                      /* ids are in [0, V) */
  const struct ka_chat *chat;     /* type chat_template */
  const struct ka_speech *speech; /* type speech */
};

#endif
