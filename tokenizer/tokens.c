/* SPDX-License-Identifier: Apache-2.0
 * The memory of a text's tokens. */
#include "tokenizer/tokens.h"

#include "base/arena.h"

void ka_tok_tokens_clear(struct ka_tok_tokens *t) { t->n = 0; }

void ka_tok_tokens_deinit(struct ka_tok_tokens *t) {
  ka_free(t->ids);
  ka_free(t->spans);
  *t = (struct ka_tok_tokens){0};
}
