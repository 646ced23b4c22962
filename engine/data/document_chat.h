/* SPDX-License-Identifier: Apache-2.0
 * Inside data: records of type chat_template. */
#ifndef KAPPA_ENGINE_DATA_DOCUMENT_CHAT_H
#define KAPPA_ENGINE_DATA_DOCUMENT_CHAT_H

#include "engine/data/document.h"

ka_status ka_document_chat(struct ka_ctx *ctx, const struct ka_document_maker *m,
                           const json_t *record, struct ka_document *d);

#endif
