/* SPDX-License-Identifier: Apache-2.0
 * A document that grows; what makes one of a record stands in document_make.c. */
#include "engine/data/document.h"

#include <stdio.h>
#include <string.h>

void ka_document_clear(struct ka_document *d) {
  d->n = 0;
  d->notes = 0;
  d->roles[0] = 0;
  d->clip = (struct ka_speech_clip){0};
}

void ka_document_deinit(struct ka_document *d) {
  ka_free(d->ids);
  ka_free(d->labels);
  ka_tok_tokens_deinit(&d->scratch);
  ka_str_deinit(&d->clip_path);
  *d = (struct ka_document){0};
}

ka_status ka_document_reserve(struct ka_ctx *ctx, struct ka_document *d, int64_t n) {
  void *ids = d->ids, *labels = d->labels;
  ka_status st = ka_grow(ctx, &ids, &d->ids_cap, d->n + n, sizeof(int32_t), "document");
  d->ids = ids;
  KA_TRY(st);
  st = ka_grow(ctx, &labels, &d->labels_cap, d->n + n, sizeof(int32_t), "document");
  d->labels = labels;
  return st;
}

ka_status ka_document_add(struct ka_ctx *ctx, struct ka_document *d, const int32_t *ids, int64_t n,
                          bool train) {
  KA_TRY(ka_document_reserve(ctx, d, n));
  for (int64_t i = 0; i < n; i++) {
    d->ids[d->n] = ids[i];
    d->labels[d->n++] = train ? ids[i] : KA_LABEL_MASKED;
  }
  return KA_STATUS_OK;
}

ka_status ka_document_text(struct ka_ctx *ctx, struct ka_document *d, const struct ka_tokenizer *t,
                           const char *text, size_t n, bool special, bool train) {
  ka_tok_tokens_clear(&d->scratch);
  KA_TRY(ka_tokenizer_encode(ctx, t, text, n, special, &d->scratch));
  const int32_t *ids = d->scratch.ids;
  int64_t n_ids = d->scratch.n;
  bool twice = special && n_ids > 1 && ids[0] == ka_tokenizer_bos(t) && ids[1] == ids[0];
  return ka_document_add(ctx, d, ids + twice, n_ids - twice, train);
}

void ka_document_add_role(char roles[KA_ROLES_MAX], const char *name, size_t n) {
  size_t used = strlen(roles);
  for (const char *p = roles; *p;) {
    size_t len = strcspn(p, ",");
    if (len == n && memcmp(p, name, n) == 0) return;
    p += p[len] ? len + 2 : len;
  }
  if (used + n + 3 > KA_ROLES_MAX || memchr(name, ',', n)) return;
  snprintf(roles + used, KA_ROLES_MAX - used, "%s%.*s", used ? ", " : "", (int)n, name);
}

ka_status ka_document_no_key(struct ka_ctx *ctx, const json_t *record, const char *key) {
  char there[300] = "";
  size_t used = 0;
  const char *name;
  json_t *v;
  json_object_foreach((json_t *)(uintptr_t)record, name, v) {
    if (used >= sizeof there) break;
    used += (size_t)snprintf(there + used, sizeof there - used, "%s%s", used ? ", " : "", name);
  }
  if (used == 0) return ka_fail(ctx, KA_E_INPUT, "key \"%s\" is missing: there is none", key);
  return ka_fail(ctx, KA_E_INPUT, "key \"%s\" is missing; there are: %s", key, there);
}
