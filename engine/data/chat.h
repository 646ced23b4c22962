/* SPDX-License-Identifier: Apache-2.0
 *
 * Chat templates of a model: where they live, which one is taken, and the variables that
 * transformers' apply_chat_template gives them.
 *
 * Homes: chat_template.jinja (and additional_chat_templates/NAME.jinja) win over the chat_template
 * member of tokenizer_config.json, a string or a list of {name, template}. Of several, "tool_use"
 * is taken when tools are given and there is one, "default" otherwise. bos_token, eos_token and the
 * other named tokens come from tokenizer_config.json and special_tokens_map.json. */
#ifndef KAPPA_ENGINE_DATA_CHAT_H
#define KAPPA_ENGINE_DATA_CHAT_H

#include "python/jinja/jinja.h"

struct ka_chat; /* immutable after loading; render from several threads at once */

/* The templates and tokens of a model directory. Having no template is no error here: see
 * ka_chat_has_template. KA_E_INPUT: unreadable or malformed files, a default template that does not
 * parse (others are refused when asked for); KA_E_MEMORY. Destroy with ka_chat_destroy. */
ka_status ka_chat_load_model(struct ka_ctx *ctx, struct ka_chat **out, const char *model_dir);

/* The one template text[n] (name: for messages), with the tokens of model_dir unless it is NULL. */
ka_status ka_chat_load_text(struct ka_ctx *ctx, struct ka_chat **out, const char *name,
                            const char *text, size_t n, const char *model_dir);
/* From a .jinja file; also the name of a built-in template, or a template itself. */
ka_status ka_chat_load_file(struct ka_ctx *ctx, struct ka_chat **out, const char *jinja_path,
                            const char *model_dir);

/* The text of a built-in template ("chatml"), NULL when there is none of this name. */
const char *ka_chat_builtin(const char *name);

void ka_chat_destroy(struct ka_chat *chat); /* NULL is fine */

bool ka_chat_has_template(const struct ka_chat *chat);
/* The default template as it is written, NULL: there is none. Borrowed. */
const char *ka_chat_text(const struct ka_chat *chat);

/* The named token ("eos_token") as text, NULL when the model names none. Borrowed. */
const char *ka_chat_token(const struct ka_chat *chat, const char *name);

/* Names it otherwise than the model does, for all renderings to come. */
ka_status ka_chat_set_token(struct ka_ctx *ctx, struct ka_chat *chat, const char *name,
                            const char *text);

/* The template that a rendering with (or without) tools uses. name NULL: the choice above.
 * KA_E_INPUT when the model has none or several of which none is the default. Borrowed. */
ka_status ka_chat_template(struct ka_ctx *ctx, const struct ka_chat *chat, const char *name,
                           bool with_tools, const struct ka_jinja **out);

/* Appends the rendering of a conversation to out. vars: an object with `messages` (a non-empty
 * array of objects) and any other variables: tools (array of objects or null), documents,
 * add_generation_prompt (false), token names, whatever the template reads; they win over the
 * model's tokens. As in transformers: null members of messages are dropped, reasoning_content,
 * thinking and reasoning are given under the first two names too, tools and documents are None when
 * absent. spans (may be NULL) receives the byte ranges of {% generation %} blocks in out; opts may
 * be NULL. KA_E_INPUT: what ka_jinja_render reports, or vars of the wrong shape. */
ka_status ka_chat_render(struct ka_ctx *ctx, const struct ka_chat *chat, const json_t *vars,
                         const struct ka_jinja_options *opts, struct ka_str *out,
                         struct ka_jinja_spans *spans);

#endif
