/* SPDX-License-Identifier: Apache-2.0
 * Prompt and completion, as texts or as messages. */
#include "engine/data/document_prompt.h"

#include <string.h>

static ka_status text_at(struct ka_ctx *ctx, const json_t *record, const char *key,
                         const json_t **out) {
  *out = json_object_get(record, key);
  if (json_is_string(*out)) return KA_STATUS_OK;
  if (json_is_array(*out))
    return ka_fail(ctx, KA_E_INPUT, "key \"%s\" is a list of messages: the type is chat_template",
                   key);
  return ka_fail(ctx, KA_E_INPUT, "key \"%s\": expected a string", key);
}

ka_status ka_document_prompt(struct ka_ctx *ctx, const struct ka_document_maker *m,
                             const json_t *record, struct ka_document *d) {
  const json_t *prompt, *completion;
  struct ka_str text = {0};
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(text_at(ctx, record, "prompt", &prompt), out);
  KA_TRY_GOTO(text_at(ctx, record, "completion", &completion), out);
  size_t n = json_string_length(prompt);
  KA_TRY_GOTO(ka_str_append(ctx, &text, json_string_value(prompt), n), out);
  KA_TRY_GOTO(ka_document_text(ctx, d, m->tokenizer, text.data, n, true, m->train_on_inputs), out);
  if (d->n > 0 && d->ids[d->n - 1] == m->eos) d->n--; /* the text goes on */
  int64_t n_prompt = m->train_on_inputs ? 0 : d->n;
  KA_TRY_GOTO(
      ka_str_append(ctx, &text, json_string_value(completion), json_string_length(completion)),
      out);
  ka_document_clear(d);
  KA_TRY_GOTO(ka_document_text(ctx, d, m->tokenizer, text.data, text.len, true, true), out);
  for (int64_t i = 0; i < n_prompt && i < d->n; i++) d->labels[i] = KA_LABEL_MASKED;
  bool ended = m->eos < 0 || (d->n > 0 && d->ids[d->n - 1] == m->eos);
  if (m->dataset->add_eos && !ended) st = ka_document_add(ctx, d, &m->eos, 1, true);
out:
  ka_str_deinit(&text);
  return st;
}

ka_status ka_document_join_messages(struct ka_ctx *ctx, const struct ka_document_maker *m,
                                    json_t *record) {
  const char *key = m->dataset->field_messages, *train = m->dataset->message_field_training;
  json_t *prompt = json_object_get(record, "prompt"), *message;
  json_t *completion = json_object_get(record, "completion");
  size_t i;
  if (json_object_get(record, key) || !json_is_array(prompt) || !json_is_array(completion))
    return KA_STATUS_OK;
  json_array_foreach(prompt, i, message) {
    if (json_is_object(message) && !json_object_get(message, train))
      KA_TRY(ka_json_set(ctx, message, train, json_false()));
  }
  if (json_array_extend(prompt, completion) != 0)
    return ka_fail(ctx, KA_E_MEMORY, "messages: out of memory");
  return ka_json_set(ctx, record, key, json_incref(prompt));
}
