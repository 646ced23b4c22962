/* SPDX-License-Identifier: Apache-2.0
 * Inside data: the two forms in which clients log a conversation, and the one its template
 * reads. */
#ifndef KAPPA_ENGINE_DATA_CHAT_FIT_H
#define KAPPA_ENGINE_DATA_CHAT_FIT_H

#include "engine/data/chat.h"

/* Changes the messages of vars where the template would otherwise print a data structure or a text
 * encoded twice:
 *   content: [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]  ->  "Hi you"
 *   tool_calls[].function.arguments: "{\"city\": \"X\"}"  ->  {"city": "X"}
 * A template that reads the given form keeps it, so that the text is what transformers renders.
 * Conversations without either cost nothing. KA_E_INPUT: a part that is no text, in a content of
 * any role but a tool's; a content that is neither a text nor a list. */
ka_status ka_chat_fit(struct ka_ctx *ctx, const struct ka_chat *chat,
                      const struct ka_jinja_options *opts, json_t *vars);

#endif
