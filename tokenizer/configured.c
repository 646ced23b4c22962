/* SPDX-License-Identifier: Apache-2.0
 * What tokenizer_config.json and special_tokens_map.json add to tokenizer.json; see added.h. */
#include "base/file.h"
#include "tokenizer/added.h"

#include <stdlib.h>
#include <string.h>

ka_status ka_tok_load_config(struct ka_arena *a, const char *dir, json_t **out) {
  struct ka_ctx *ctx = a->ctx;
  const char *path;
  json_t *map = NULL, *v;
  const char *key;
  *out = NULL;
  KA_TRY(ka_path_join(a, &path, dir, "tokenizer_config.json"));
  if (ka_path_exists(path)) KA_TRY(ka_json_load(ctx, path, out));
  KA_TRY(ka_path_join(a, &path, dir, "special_tokens_map.json"));
  if (json_object_get(*out, "added_tokens_decoder") || !ka_path_exists(path)) return KA_STATUS_OK;
  ka_status st = ka_json_load(ctx, path, &map);
  if (ka_ok(st) && !*out && !(*out = json_object()))
    st = ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", path);
  json_object_foreach(map, key, v) {
    if (ka_ok(st) && json_is_object(*out) && !json_object_get(*out, key))
      st = ka_json_set(ctx, *out, key, json_incref(v));
  }
  json_decref(map);
  if (!ka_ok(st)) {
    json_decref(*out);
    *out = NULL;
  }
  return ka_ok(st) ? st : ka_trace(ctx, st, __FILE__, __LINE__);
}

static int by_id(const void *a, const void *b) {
  const char *x = *(const char *const *)a, *y = *(const char *const *)b;
  size_t m = strlen(x), n = strlen(y);
  return m != n ? (m < n ? -1 : 1) : strcmp(x, y);
}

/* The list that grows. */
struct added {
  struct ka_ctx *ctx;
  json_t *list, *known; /* known: its contents as keys, for there are thousands of them */
  const json_t *vocab;
  int64_t next; /* the next id that neither has */
};

static ka_status know(struct added *x, const char *content) {
  x->next += !json_object_get(x->vocab, content);
  return ka_json_set(x->ctx, x->known, content, json_true());
}

/* A token as tokenizer.json writes it, unless the list has it; entry: its flags, or a text. */
static ka_status append_token(struct added *x, int64_t id, const json_t *entry, bool special) {
  enum { NORMALIZED = 3, SPECIAL = 4 };
  static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized", "special"};
  struct ka_ctx *ctx = x->ctx;
  json_t *content =
      json_is_object(entry) ? json_object_get(entry, "content") : (json_t *)(uintptr_t)entry;
  if (!json_is_string(content) || json_object_get(x->known, json_string_value(content)))
    return KA_STATUS_OK;
  json_t *token = json_object();
  KA_TRY(ka_json_append(ctx, x->list, token));
  KA_TRY(ka_json_set(ctx, token, "id", json_integer(id)));
  KA_TRY(ka_json_set(ctx, token, "content", json_incref(content)));
  special |= json_is_true(json_object_get(entry, "special"));
  for (size_t k = 0; k < sizeof flags / sizeof *flags; k++) {
    const json_t *flag = json_object_get(entry, flags[k]);
    bool on = json_is_true(flag) || (k == SPECIAL && special) ||
              (k == NORMALIZED && !flag && !special); /* AddedToken's own default */
    KA_TRY(ka_json_set(ctx, token, flags[k], json_boolean(on)));
  }
  return know(x, json_string_value(content));
}

/* Tokens of added_tokens_decoder, {"ID": {"content": ...}}, in the order of their ids. */
static ka_status add_decoder(struct ka_arena *a, struct added *x, const json_t *decoder_) {
  struct ka_ctx *ctx = a->ctx;
  json_t *decoder = (json_t *)(uintptr_t)decoder_, *entry;
  const char *id;
  int64_t n = 0;
  if (json_object_size(decoder) == 0) return KA_STATUS_OK;
  const char **ids;
  KA_TRY(KA_NEW(a, &ids, (int64_t)json_object_size(decoder), "added tokens"));
  json_object_foreach(decoder, id, entry) ids[n++] = id;
  qsort(ids, (size_t)n, sizeof *ids, by_id);
  for (int64_t i = 0, value; i < n; i++)
    if (ka_parse_i64(ids[i], &value))
      KA_TRY(append_token(x, value, json_object_get(decoder, ids[i]), false));
  return KA_STATUS_OK;
}

/* A special token of the config: with the id that the vocabulary has for it, else the next free. */
static ka_status add_special(struct added *x, const json_t *token) {
  const char *text =
      json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
  if (!text || !*text || !json_is_object(x->vocab)) return KA_STATUS_OK;
  const json_t *known = json_object_get(x->vocab, text);
  return append_token(x, known ? json_integer_value(known) : x->next, token, true);
}

static ka_status add_all(struct ka_arena *a, struct added *x, const json_t *config) {
  static const char *const named[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                      "pad_token", "cls_token", "mask_token"};
  static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};
  struct ka_ctx *ctx = a->ctx;
  json_t *v;
  size_t i;
  json_array_foreach(x->list, i, v) {
    const char *content = json_string_value(json_object_get(v, "content"));
    if (content) KA_TRY(know(x, content));
  }
  KA_TRY(add_decoder(a, x, json_object_get(config, "added_tokens_decoder")));
  for (size_t k = 0; k < sizeof named / sizeof *named; k++)
    KA_TRY(add_special(x, json_object_get(config, named[k])));
  for (size_t k = 0; k < sizeof lists / sizeof *lists; k++) {
    json_t *more = json_object_get(config, lists[k]);
    const char *key;
    json_array_foreach(more, i, v) KA_TRY(add_special(x, v));
    json_object_foreach(more, key, v) KA_TRY(add_special(x, v));
  }
  return KA_STATUS_OK;
}

ka_status ka_tok_add_configured(struct ka_arena *a, json_t *root, const json_t *config) {
  struct ka_ctx *ctx = a->ctx;
  if (!json_is_object(config) || !json_is_object(root)) return KA_STATUS_OK;
  if (!json_is_array(json_object_get(root, "added_tokens")))
    KA_TRY(ka_json_set(ctx, root, "added_tokens", json_array()));
  struct added x = {.ctx = ctx,
                    .list = json_object_get(root, "added_tokens"),
                    .known = json_object(),
                    .vocab = json_object_get(json_object_get(root, "model"), "vocab")};
  x.next = (int64_t)json_object_size(x.vocab);
  ka_status st = add_all(a, &x, config);
  json_decref(x.known);
  return st;
}
