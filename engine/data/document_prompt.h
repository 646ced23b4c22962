/* SPDX-License-Identifier: Apache-2.0
 * Inside data: records of a prompt and its completion. */
#ifndef KAPPA_ENGINE_DATA_DOCUMENT_PROMPT_H
#define KAPPA_ENGINE_DATA_DOCUMENT_PROMPT_H

#include "engine/data/document.h"

/* {"prompt": text, "completion": text}: tokenised together, as TRL does, and trained from where the
 * prompt's own tokens end; EOS is added (add_eos). */
ka_status ka_document_prompt(struct ka_ctx *ctx, const struct ka_document_maker *m,
                             const json_t *record, struct ka_document *d);
/* A chat record without messages whose prompt and completion are lists of them: both become its
 * messages, and those of the prompt are not trained unless they say so. */
ka_status ka_document_join_messages(struct ka_ctx *ctx, const struct ka_document_maker *m,
                                    json_t *record);

#endif
