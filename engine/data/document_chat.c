/* SPDX-License-Identifier: Apache-2.0
 * Rows of messages, rendered by the model's chat template. */
#include "engine/data/document_chat.h"

ka_status ka_document_chat(struct ka_ctx *ctx, const struct ka_document_maker *m, const json_t *row,
                           struct ka_document *d) {
  (void)m;
  (void)row;
  (void)d;
  return ka_fail(ctx, KA_E_UNSUPPORTED, "type chat_template is not supported yet");
}
