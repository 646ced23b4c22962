/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.json into an open tokenizer; see tokenizer.h. Warnings say where the library would go
 * on in silence; contradictions that it would tokenize wrongly are errors. */
#include "tokenizer/open.h"

#include "base/file.h"
#include "base/log.h"
#include "tokenizer/convert.h"
#include "tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

/* --- added tokens ---------------------------------------------------------------------------- */

/* The library ignores the file's ids: a content that the vocabulary has keeps its id there, others
 * are numbered from the vocabulary's size on. */
static ka_status number_added(struct ka_ctx *ctx, struct ka_tokenizer *t, const char *what) {
  int64_t next = t->bpe.n_vocab, kept = 0;
  void *p;
  KA_TRY(ka_arena_alloc_n(&t->arena, &p, t->bpe.n_ids + t->added.n, sizeof(int64_t), "added ids"));
  int64_t *seen = p; /* by id: index + 1 of the item that has it */
  for (int64_t i = 0; i < t->added.n; i++) {
    struct ka_tok_added item = t->added.items[i];
    int64_t id = ka_tok_bpe_find(&t->bpe, item.content, item.content_n);
    bool known = id >= 0;
    if (!known) id = next++;
    if (id != item.id)
      ka_warn(ctx, "tokenizer",
              "%s: added token \"%.60s\" has id %d in the file and gets %lld, as in "
              "the tokenizers library",
              what, item.content, item.id, (long long)id);
    if (!known && t->bpe.tokens[id].s)
      return ka_fail(ctx, KA_E_INPUT,
                     "%s: added token \"%.60s\" would get id %lld, which token \"%.60s\" has; the "
                     "vocabulary has holes",
                     what, item.content, (long long)id, t->bpe.tokens[id].s);
    if (!known) ka_tok_bpe_add(&t->bpe, (int32_t)id, item.content, item.content_n, true);
    item.id = (int32_t)id;
    if (seen[id] == 0) seen[id] = ++kept;
    t->added.items[seen[id] - 1] = item;
  }
  t->added.n = kept;
  return KA_STATUS_OK;
}

/* Normal forms of the tokens that are looked for in normalized text. */
static ka_status normalize_added(struct ka_tokenizer *t, struct ka_tok_work *w) {
  struct ka_ctx *ctx = t->arena.ctx;
  for (int64_t i = 0; i < t->added.n; i++) {
    struct ka_tok_added *item = &t->added.items[i];
    struct ka_tok_view v = {item->content, item->content_n, 0, NULL, NULL};
    t->special[item->id] = item->special;
    if (!item->normalized) continue;
    KA_TRY(ka_tok_normalize(ctx, &t->unicode, &t->normalizers, w, &v));
    if (v.n == item->content_n && memcmp(v.s, item->content, v.n) == 0) continue;
    KA_TRY(ka_arena_str(&t->arena, &item->pattern, v.s, v.n));
    item->pattern_n = v.n;
    t->decoded[item->id] = (struct ka_tok_token_text){item->pattern, (uint32_t)v.n, true};
  }
  /* Decoding compares what it starts from with the special tokens' contents. */
  for (int64_t i = 0; i < t->bpe.n_ids; i++) {
    struct ka_tok_token_text text = t->decoded[i].s ? t->decoded[i] : t->bpe.tokens[i];
    int32_t id = text.s ? ka_tok_bpe_find(&t->bpe, text.s, text.n) : -1;
    t->skipped[i] = id >= 0 && t->special[id];
  }
  return KA_STATUS_OK;
}

static ka_status finish_added(struct ka_tokenizer *t, const char *what) {
  struct ka_ctx *ctx = t->arena.ctx;
  struct ka_tok_work *w;
  KA_TRY(number_added(ctx, t, what));
  KA_TRY(KA_NEW(&t->arena, &t->decoded, t->bpe.n_ids, "decoded forms"));
  KA_TRY(KA_NEW(&t->arena, &t->special, t->bpe.n_ids, "special flags"));
  KA_TRY(KA_NEW(&t->arena, &t->skipped, t->bpe.n_ids, "special flags"));
  KA_TRY(ka_tok_work_take(ctx, t, &w));
  w->aligned = false;
  ka_status st = normalize_added(t, w);
  ka_tok_work_give(t, w);
  KA_TRY(st);
  return ka_tok_added_build(ctx, &t->added, what);
}

/* --- post-processor -------------------------------------------------------------------------- */

static ka_status insert_id(struct ka_tokenizer *t, bool front, int64_t at, int64_t id,
                           const char *where) {
  struct ka_ctx *ctx = t->arena.ctx;
  int32_t **ids = front ? &t->before : &t->after;
  int64_t *n = front ? &t->n_before : &t->n_after;
  if (id < 0 || id >= KA_MAX_TOKEN_ID)
    return ka_fail(ctx, KA_E_INPUT, "%s: token id %lld is out of range", where, (long long)id);
  if (*n == 64) return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: more than 64 special tokens", where);
  memmove(*ids + at + 1, *ids + at, (size_t)(*n - at) * sizeof **ids);
  (*ids)[at] = (int32_t)id;
  ++*n;
  return KA_STATUS_OK;
}

/* One {"SpecialToken": {"id": NAME}}: the ids that special_tokens gives it. */
static ka_status insert_special(struct ka_tokenizer *t, const json_t *tokens, const json_t *piece,
                                bool front, int64_t *at, const char *where) {
  struct ka_ctx *ctx = t->arena.ctx;
  const char *name = json_string_value(json_object_get(piece, "id"));
  const json_t *ids = name ? json_object_get(json_object_get(tokens, name), "ids") : NULL;
  if (!json_is_array(ids))
    return ka_fail(ctx, KA_E_INPUT, "%s: special token \"%.60s\" has no ids in special_tokens",
                   where, name ? name : "");
  for (size_t i = 0; i < json_array_size(ids); i++) {
    const json_t *id = json_array_get(ids, i);
    int64_t value = json_is_integer(id) ? json_integer_value(id) : -1;
    KA_TRY(insert_id(t, front, (*at)++, value, where));
    if (value < t->bpe.n_ids && t->bpe.tokens[value].s &&
        ka_tok_bpe_find(&t->bpe, name, strlen(name)) != value)
      ka_warn(ctx, "tokenizer", "%s: special token \"%.60s\" adds id %lld, which is \"%.60s\"",
              where, name, (long long)value, t->bpe.tokens[value].s);
  }
  return KA_STATUS_OK;
}

static ka_status load_template(struct ka_tokenizer *t, const json_t *v, const char *where) {
  struct ka_ctx *ctx = t->arena.ctx;
  const json_t *single = json_object_get(v, "single"),
               *tokens = json_object_get(v, "special_tokens");
  bool front = true;
  int64_t at = 0;
  if (!json_is_array(single) || !json_is_object(tokens))
    return ka_fail(ctx, KA_E_INPUT, "%s: expected \"single\" and \"special_tokens\"", where);
  for (size_t i = 0; i < json_array_size(single); i++) {
    const json_t *piece = json_array_get(single, i);
    const json_t *special = json_object_get(piece, "SpecialToken");
    const char *sequence =
        json_string_value(json_object_get(json_object_get(piece, "Sequence"), "id"));
    if (special) {
      KA_TRY(insert_special(t, tokens, special, front, &at, where));
    } else if (front && sequence && strcmp(sequence, "A") == 0) {
      front = false;
      at = t->n_after;
    } else {
      return ka_fail(ctx, KA_E_UNSUPPORTED,
                     "%s: single[%zu]: expected special tokens round one Sequence A", where, i);
    }
  }
  if (front) return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: \"single\" has no Sequence A", where);
  return KA_STATUS_OK;
}

/* {"cls": [TOKEN, ID], "sep": [TOKEN, ID]} */
static ka_status load_cls_sep(struct ka_tokenizer *t, const json_t *v, const char *where) {
  struct ka_ctx *ctx = t->arena.ctx;
  const json_t *cls = json_array_get(json_object_get(v, "cls"), 1);
  const json_t *sep = json_array_get(json_object_get(v, "sep"), 1);
  if (!json_is_integer(cls) || !json_is_integer(sep))
    return ka_fail(ctx, KA_E_INPUT, "%s: expected cls and sep as [token, id]", where);
  KA_TRY(insert_id(t, true, 0, json_integer_value(cls), where));
  return insert_id(t, false, t->n_after, json_integer_value(sep), where);
}

static ka_status load_processor(struct ka_tokenizer *t, const json_t *v, const char *where) {
  struct ka_ctx *ctx = t->arena.ctx;
  if (!v || json_is_null(v)) return KA_STATUS_OK;
  const char *type = json_string_value(json_object_get(v, "type"));
  if (!type) return ka_fail(ctx, KA_E_INPUT, "%s: expected an object with a \"type\"", where);
  if (strcmp(type, "ByteLevel") == 0) return KA_STATUS_OK; /* trims offsets only */
  if (t->n_before + t->n_after > 0) /* the library takes the first one's parts for a pair */
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: a second processor that may add tokens", where);
  if (strcmp(type, "TemplateProcessing") == 0) return load_template(t, v, where);
  if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
    return load_cls_sep(t, v, where);
  if (strcmp(type, "Sequence") != 0)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: unknown type \"%.60s\"", where, type);
  const json_t *list = json_object_get(v, "processors");
  if (!json_is_array(list))
    return ka_fail(ctx, KA_E_INPUT, "%s: Sequence without a list \"processors\"", where);
  for (size_t i = 0; i < json_array_size(list); i++) {
    const char *inner;
    KA_TRY(ka_arena_printf(&t->arena, &inner, "%.300s.processors[%zu]", where, i));
    KA_TRY(load_processor(t, json_array_get(list, i), inner));
  }
  return KA_STATUS_OK;
}

/* --- the whole file -------------------------------------------------------------------------- */

static ka_status check_model(struct ka_ctx *ctx, const json_t *root, const char *what) {
  const json_t *model = json_object_get(root, "model");
  const char *version = json_string_value(json_object_get(root, "version"));
  const char *type = json_string_value(json_object_get(model, "type"));
  if (!json_is_object(root) || !json_is_object(model))
    return ka_fail(ctx, KA_E_INPUT, "%s: expected an object with a \"model\"", what);
  if (version && strcmp(version, "1.0") != 0)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: version \"%.40s\", expected \"1.0\"", what, version);
  if (type && strcmp(type, "BPE") != 0)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: model type %.40s is not supported; kappa reads BPE",
                   what, type);
  if (!type && !json_object_get(model, "merges"))
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: the model has no type and no merges; kappa reads BPE", what);
  if (json_is_object(json_object_get(root, "truncation")))
    ka_warn(ctx, "tokenizer", "%s: its truncation is ignored: sequence_len decides", what);
  if (json_is_object(json_object_get(root, "padding")))
    ka_warn(ctx, "tokenizer", "%s: its padding is ignored: batches are padded by kappa", what);
  return KA_STATUS_OK;
}

static ka_status load_root(struct ka_tokenizer *t, const json_t *root, bool nul_marks,
                           const char *what) {
  struct ka_ctx *ctx = t->arena.ctx;
  const char *where;
  KA_TRY(check_model(ctx, root, what));
  KA_TRY(ka_tok_added_load(&t->arena, json_object_get(root, "added_tokens"), what, &t->added));
  KA_TRY(ka_tok_bpe_load(&t->bpe, &t->arena, json_object_get(root, "model"), t->added.n, nul_marks,
                         what));
  KA_TRY(ka_tok_unicode_init(&t->unicode, &t->arena));
  KA_TRY(ka_arena_printf(&t->arena, &where, "%s: normalizer", what));
  KA_TRY(ka_tok_load_normalizer(&t->arena, json_object_get(root, "normalizer"), where,
                                &t->normalizers));
  KA_TRY(ka_arena_printf(&t->arena, &where, "%s: pre_tokenizer", what));
  KA_TRY(ka_tok_load_pretokenizer(&t->arena, json_object_get(root, "pre_tokenizer"), where,
                                  &t->pretokenizers));
  KA_TRY(ka_arena_printf(&t->arena, &where, "%s: decoder", what));
  KA_TRY(ka_tok_load_decoder(&t->arena, json_object_get(root, "decoder"), where, &t->decoders));
  KA_TRY(finish_added(t, what));
  KA_TRY(KA_NEW(&t->arena, &t->before, 2 * 64, "special tokens"));
  t->after = t->before + 64;
  KA_TRY(ka_arena_printf(&t->arena, &where, "%s: post_processor", what));
  KA_TRY(load_processor(t, json_object_get(root, "post_processor"), where));
  t->raw_bytes = !t->bpe.prefix && !t->bpe.suffix;
  for (int64_t i = 0; i < t->pretokenizers.n; i++)
    t->needs_alignment |= t->pretokenizers.items[i].kind == KA_PRE_METASPACE &&
                          t->pretokenizers.items[i].scheme == KA_PREPEND_FIRST;
  KA_TRY(ka_arena_str(&t->arena, &t->what, what, strlen(what)));
  return KA_STATUS_OK;
}

static ka_status unmark_values(struct ka_ctx *ctx, json_t *v) {
  const char *key;
  json_t *item;
  size_t i;
  if (json_is_object(v)) json_object_foreach(v, key, item) KA_TRY(unmark_values(ctx, item));
  if (json_is_array(v)) json_array_foreach(v, i, item) KA_TRY(unmark_values(ctx, item));
  if (!json_is_string(v) || !strstr(json_string_value(v), KA_NUL_MARK)) return KA_STATUS_OK;
  struct ka_str s = {0};
  ka_status st = ka_str_append(ctx, &s, json_string_value(v), json_string_length(v));
  if (st.code == KA_OK) s.len = ka_tok_unmark_nul(s.data, s.len);
  if (st.code == KA_OK && json_string_setn(v, s.data, s.len) != 0)
    st = ka_fail(ctx, KA_E_MEMORY, "tokenizer: out of memory");
  ka_str_deinit(&s);
  return st;
}

/* A file in which "\u0000" stands for a token's NUL: parsed with a noncharacter in its place. */
static ka_status parse_marked(struct ka_ctx *ctx, const struct ka_map *m, const char *path,
                              json_t **root) {
  struct ka_str text = {0};
  ka_status st = KA_STATUS_OK;
  const char *s = (const char *)m->data;
  if (memmem(s, m->len, KA_NUL_MARK, 3) || memmem(s, m->len, "\\ufdd0", 6) ||
      memmem(s, m->len, "\\uFDD0", 6))
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: holds both NUL and U+FDD0 in its strings", path);
  KA_TRY_GOTO(ka_str_append(ctx, &text, s, m->len), out);
  for (size_t i = 0; i + 6 <= text.len; i++) {
    if (text.data[i] != '\\') continue;
    if (memcmp(text.data + i, "\\u0000", 6) == 0) memcpy(text.data + i, "\\ufdd0", 6);
    i++; /* what a backslash escapes begins nothing */
  }
  KA_TRY_GOTO(ka_json_parse(ctx, text.data, text.len, path, root), out);
  st = unmark_values(ctx, *root);
out:
  ka_str_deinit(&text);
  return st;
}

/* What tokenizer.json at `path` says, or would say; *marked: with NUL marks in its keys. */
static ka_status read_root(struct ka_arena *a, const char *path, const json_t *config,
                           json_t **root, bool *marked) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_map m;
  *marked = false;
  if (!ka_path_exists(path) && strcmp(ka_path_base(path), "tokenizer.json") == 0) {
    const char *dir;
    KA_TRY(ka_path_dir(a, &dir, path));
    return ka_tok_convert(ctx, dir, root);
  }
  KA_TRY(ka_map_file(ctx, path, &m));
  *marked = memmem(m.data, m.len, "\\u0000", 6) != NULL;
  ka_status st = *marked ? parse_marked(ctx, &m, path, root)
                         : ka_json_parse(ctx, (const char *)m.data, m.len, path, root);
  ka_map_drop(&m);
  if (st.code == KA_OK) st = ka_tok_add_configured(a, *root, config);
  return st;
}

static ka_status load_file(struct ka_tokenizer *t, const char *path, const json_t *config) {
  json_t *root = NULL;
  bool marked;
  ka_status st = read_root(&t->arena, path, config, &root, &marked);
  if (st.code == KA_OK) st = load_root(t, root, marked, path);
  json_decref(root);
  return st;
}

ka_status ka_tok_read(struct ka_ctx *ctx, const char *dir, json_t **root) {
  struct ka_arena a;
  json_t *config = NULL;
  const char *path;
  bool marked;
  *root = NULL;
  ka_arena_init(&a, ctx, "tokenizer files");
  ka_status st = ka_path_join(&a, &path, dir, "tokenizer.json");
  if (st.code == KA_OK) st = ka_tok_load_config(&a, dir, &config);
  if (st.code == KA_OK) st = read_root(&a, path, config, root, &marked);
  json_decref(config);
  ka_arena_deinit(&a);
  if (ka_ok(st)) return st;
  json_decref(*root);
  *root = NULL;
  return ka_trace(ctx, st, __FILE__, __LINE__);
}

/* bos_token and eos_token of tokenizer_config.json: a string or {"content": string}. */
static void read_named(struct ka_tokenizer *t, const char *path, const json_t *config) {
  const char *const keys[] = {"bos_token", "eos_token"};
  int32_t *const ids[] = {&t->bos, &t->eos};
  for (int k = 0; k < 2; k++) {
    const json_t *v = json_object_get(config, keys[k]);
    if (json_is_object(v)) v = json_object_get(v, "content");
    if (!json_is_string(v)) continue;
    *ids[k] = ka_tok_bpe_find(&t->bpe, json_string_value(v), json_string_length(v));
    if (*ids[k] < 0)
      ka_warn(t->arena.ctx, "tokenizer", "%s: %s \"%.60s\" is not in the vocabulary", path, keys[k],
              json_string_value(v));
  }
}

static ka_status open_at(struct ka_tokenizer *t, const char *path) {
  struct ka_ctx *ctx = t->arena.ctx;
  const char *dir = path, *file = path, *config_path;
  json_t *config = NULL;
  if (ka_path_is_dir(path))
    KA_TRY(ka_path_join(&t->arena, &file, path, "tokenizer.json"));
  else
    KA_TRY(ka_path_dir(&t->arena, &dir, path));
  KA_TRY(ka_path_join(&t->arena, &config_path, dir, "tokenizer_config.json"));
  KA_TRY(ka_tok_load_config(&t->arena, dir, &config));
  ka_status st = load_file(t, file, config);
  if (st.code == KA_OK) {
    t->bos = t->n_before > 0 ? t->before[0] : -1;
    t->eos = t->n_after > 0 ? t->after[t->n_after - 1] : -1;
    read_named(t, config_path, config);
  }
  json_decref(config);
  return st;
}

bool ka_tokenizer_is_in(const char *dir) {
  static const char *const names[] = {"tokenizer.json", "vocab.json", "tokenizer.model"};
  char path[4096];
  for (int i = 0; i < 3; i++)
    if (snprintf(path, sizeof path, "%s/%s", dir, names[i]) < (int)sizeof path &&
        ka_path_exists(path))
      return true;
  return false;
}

ka_status ka_tokenizer_open(struct ka_ctx *ctx, struct ka_tokenizer **out, const char *path) {
  void *p;
  *out = NULL;
  struct ka_tokenizer *t;
  KA_TRY(KA_NEW_HEAP(ctx, &t, 1, "tokenizer"));
  ka_arena_init(&t->arena, ctx, "tokenizer");
  ka_status st = ka_alloc(ctx, &p, sizeof *t->pool, "tokenizer");
  if (st.code == KA_OK) {
    t->pool = p;
    pthread_mutex_init(&t->pool->lock, NULL);
    st = open_at(t, path);
  }
  if (st.code == KA_OK)
    *out = t;
  else
    ka_tokenizer_close(t);
  return ka_ok(st) ? st : ka_trace(ctx, st, __FILE__, __LINE__);
}

void ka_tokenizer_close(struct ka_tokenizer *t) {
  if (!t) return;
  while (t->pool && t->pool->free) {
    struct ka_tok_work *next = t->pool->free->next;
    ka_tok_work_free(t->pool->free);
    t->pool->free = next;
  }
  if (t->pool) pthread_mutex_destroy(&t->pool->lock);
  ka_free(t->pool);
  ka_tok_parts_deinit(&t->normalizers);
  ka_tok_parts_deinit(&t->pretokenizers);
  ka_tok_parts_deinit(&t->decoders);
  ka_tok_added_deinit(&t->added);
  ka_arena_deinit(&t->arena);
  ka_free(t);
}
