/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the turns of a rendered conversation are: the part of chat_mask.c that finds, apart from
 * the part that labels. See chat_mask.h for the rules. */
#ifndef KAPPA_ENGINE_DATA_CHAT_TURNS_H
#define KAPPA_ENGINE_DATA_CHAT_TURNS_H

#include "base/str.h"
#include "engine/data/chat.h"
#include "tokenizer/tokenizer.h"

enum { KA_CHAT_ENDS = 8 };

struct ka_chat_part { /* of a content given in parts; bytes of the joined content */
  size_t begin, end;
  bool train;
};

struct ka_chat_turn {
  bool train, assistant, flagged; /* flagged: by its own training field */
  bool found, exact;              /* exact: by prefixes, else by differing content */
  bool marked;                    /* found and exact beforehand, by a generation block */
  size_t begin, end;              /* body with its end of turn (exact), or without */
  int64_t end_token;              /* index of the end-of-turn token, -1 = none */
  int64_t text_end;               /* of the last turn: the EOS behind that token, -1 = none */
  struct ka_chat_part *parts;
  int64_t n_parts, parts_cap;
};

struct ka_chat_turns {
  struct ka_ctx *ctx;
  const struct ka_chat *chat;
  const struct ka_tokenizer *tokenizer;
  const struct ka_jinja_options *jinja; /* may be NULL */
  const char *field;                    /* a message's own true or false */
  json_t *vars;                         /* ours: without training fields, parts joined */
  json_t *messages;                     /* borrowed from vars */
  const struct ka_str *text;            /* the rendering */
  const struct ka_tok_tokens *tokens;   /* its tokens with spans */
  bool all_ends;                        /* the ends of turns that are not trained matter too */
  struct ka_chat_turn *turns;
  int64_t n;
  int32_t ends[KA_CHAT_ENDS]; /* ids that end turns */
  int n_ends;
  size_t first_answer;  /* where the first answer begins */
  int32_t eos;          /* the model's, -1 = none */
  bool gen_prompt;      /* the template knows add_generation_prompt */
  struct ka_str header; /* what it adds for it; empty = not known */
};

/* Fills begin, end, end_token and text_end of the turns that are trained, of all with all_ends; the
 * range of a marked turn is as it was given. KA_E_INPUT: a trained turn that the rendering does not
 * show. */
ka_status ka_chat_turns_find(struct ka_chat_turns *m);

/* Renders the first n messages, message `changed` (-1: none) replaced by `other`. A template that
 * refuses them gives *ok false. */
ka_status ka_chat_turns_render(struct ka_chat_turns *m, int64_t n, int64_t changed, json_t *other,
                               bool gen_prompt, struct ka_str *text, bool *ok);

/* First token that begins at byte `at` or behind it. */
int64_t ka_chat_turns_token_at(const struct ka_tok_tokens *t, size_t at);

/* First token that holds something behind byte `at`. */
int64_t ka_chat_turns_token_over(const struct ka_tok_tokens *t, size_t at);

/* The token before i that is not blank, if it ends a turn; first - 1 when there is none. */
int64_t ka_chat_turns_end_before(const struct ka_chat_turns *m, int64_t first, int64_t i);

#endif
