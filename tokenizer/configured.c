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

static bool lists_token(const json_t *list, const char *content) {
  const json_t *one;
  size_t i;
  json_array_foreach(list, i, one) {
    const char *text = json_string_value(json_object_get(one, "content"));
    if (text && strcmp(text, content) == 0) return true;
  }
  return false;
}

/* A token as tokenizer.json writes it, unless the list has it; entry: its flags, or a text. */
static ka_status append_token(struct ka_ctx *ctx, json_t *list, int64_t id, const json_t *entry,
                              bool special) {
  enum { NORMALIZED = 3, SPECIAL = 4 };
  static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized", "special"};
  json_t *content =
      json_is_object(entry) ? json_object_get(entry, "content") : (json_t *)(uintptr_t)entry;
  if (!json_is_string(content) || lists_token(list, json_string_value(content)))
    return KA_STATUS_OK;
  json_t *token = json_object();
  KA_TRY(ka_json_set(ctx, token, "id", json_integer(id)));
  KA_TRY(ka_json_set(ctx, token, "content", json_incref(content)));
  special |= json_is_true(json_object_get(entry, "special"));
  for (size_t k = 0; k < sizeof flags / sizeof *flags; k++) {
    const json_t *flag = json_object_get(entry, flags[k]);
    bool on = json_is_true(flag) || (k == SPECIAL && special) ||
              (k == NORMALIZED && !flag && !special); /* AddedToken's own default */
    KA_TRY(ka_json_set(ctx, token, flags[k], json_boolean(on)));
  }
  return json_array_append_new(list, token) == 0
             ? KA_STATUS_OK
             : ka_fail(ctx, KA_E_MEMORY, "added tokens: out of memory");
}

/* Tokens of added_tokens_decoder, {"ID": {"content": ...}}, in the order of their ids. */
static ka_status add_decoder(struct ka_arena *a, json_t *list, const json_t *decoder_) {
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
      KA_TRY(append_token(ctx, list, value, json_object_get(decoder, ids[i]), false));
  return KA_STATUS_OK;
}

/* A special token of the config: with the id that the vocabulary has for it, else the next free. */
static ka_status add_special(struct ka_ctx *ctx, json_t *root, json_t *list, const json_t *token) {
  const json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab"), *one, *known;
  const char *text =
      json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
  int64_t next = (int64_t)json_object_size(vocab);
  size_t i;
  if (!text || !*text || !json_is_object(vocab)) return KA_STATUS_OK;
  json_array_foreach(list, i, one) {
    const char *content = json_string_value(json_object_get(one, "content"));
    next += content && !json_object_get(vocab, content);
  }
  known = json_object_get(vocab, text);
  return append_token(ctx, list, known ? json_integer_value(known) : next, token, true);
}

ka_status ka_tok_add_configured(struct ka_arena *a, json_t *root, const json_t *config) {
  static const char *const named[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                      "pad_token", "cls_token", "mask_token"};
  static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};
  struct ka_ctx *ctx = a->ctx;
  if (!json_is_object(config) || !json_is_object(root)) return KA_STATUS_OK;
  if (!json_is_array(json_object_get(root, "added_tokens")))
    KA_TRY(ka_json_set(ctx, root, "added_tokens", json_array()));
  json_t *list = json_object_get(root, "added_tokens"), *v;
  KA_TRY(add_decoder(a, list, json_object_get(config, "added_tokens_decoder")));
  for (size_t k = 0; k < sizeof named / sizeof *named; k++)
    KA_TRY(add_special(ctx, root, list, json_object_get(config, named[k])));
  for (size_t k = 0; k < sizeof lists / sizeof *lists; k++) {
    json_t *more = json_object_get(config, lists[k]);
    const char *key;
    size_t i;
    json_array_foreach(more, i, v) KA_TRY(add_special(ctx, root, list, v));
    json_object_foreach(more, key, v) KA_TRY(add_special(ctx, root, list, v));
  }
  return KA_STATUS_OK;
}
