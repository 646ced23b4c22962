/* SPDX-License-Identifier: Apache-2.0
 * What transformers' classes build out of vocab.json and merges.txt; convert.h. */
#include "tokenizer/convert.h"

#include "base/file.h"

#include <stdlib.h>
#include <string.h>

static const char gpt2_parts[] =
    "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
    "\"trim_offsets\": true, \"use_regex\": true}, "
    "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
    "\"use_regex\": true}}";
static const char qwen2_parts[] =
    "{\"normalizer\": {\"type\": \"NFC\"}, \"pre_tokenizer\": {\"type\": \"Sequence\", "
    "\"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": "
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| "
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, "
    "\"behavior\": \"Isolated\", \"invert\": false}, {\"type\": \"ByteLevel\", "
    "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}]}, "
    "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
    "\"use_regex\": true}}";

/* class: without "Fast". model_type: config.json's, which wins where it begins like this. */
static const struct kind {
  const char *class, *model_type, *parts;
  const char *bos, *eos, *unk, *pad; /* where tokenizer_config.json says nothing */
} kinds[] = {
    {"Qwen2Tokenizer", "qwen", qwen2_parts, NULL, "<|endoftext|>", "<|endoftext|>",
     "<|endoftext|>"},
    {"GPT2Tokenizer", "gpt2", gpt2_parts, "<|endoftext|>", "<|endoftext|>", "<|endoftext|>", NULL}};

struct files {
  struct ka_arena arena;
  const char *dir;
  json_t *vocab, *config, *map; /* tokenizer_config.json, special_tokens_map.json; may be NULL */
  json_t *list;                 /* added_tokens, borrowed from the root */
  int64_t next;                 /* the id of the next token that the vocabulary lacks */
};

static ka_status path_of(struct files *f, const char *name, const char **path, bool *there) {
  struct ka_ctx *ctx = f->arena.ctx;
  KA_TRY(ka_path_join(&f->arena, path, f->dir, name));
  *there = ka_path_exists(*path);
  return KA_STATUS_OK;
}

static ka_status load(struct files *f, const char *name, json_t **out) {
  struct ka_ctx *ctx = f->arena.ctx;
  const char *path;
  bool there = false;
  KA_TRY(path_of(f, name, &path, &there));
  if (!there) return KA_STATUS_OK;
  bool big = strcmp(name, "tokenizer_config.json") == 0; /* model_max_length: 10^30 */
  return big ? ka_json_load(ctx, path, out) : ka_json_load(ctx, path, out);
}

/* --- which class ------------------------------------------------------------- */

static ka_status refuse(struct files *f, const char *what) {
  return ka_fail(f->arena.ctx, KA_E_UNSUPPORTED,
                 "%s: no tokenizer.json, but %s, which is not read; write a tokenizer.json once: "
                 "python -c \"from transformers import AutoTokenizer as A; "
                 "A.from_pretrained('%s').save_pretrained('%s')\"",
                 f->dir, what, f->dir, f->dir);
}

static ka_status find_kind(struct files *f, const struct kind **out) {
  struct ka_ctx *ctx = f->arena.ctx;
  json_t *model = NULL;
  const char *class = json_string_value(json_object_get(f->config, "tokenizer_class")), *what;
  KA_TRY(load(f, "config.json", &model));
  const char *type = json_string_value(json_object_get(model, "model_type"));
  *out = NULL;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    const struct kind *k = &kinds[i];
    size_t n = strlen(k->class);
    bool named =
        class && strncmp(class, k->class, n) == 0 && (!class[n] || strcmp(class + n, "Fast") == 0);
    if (type && ka_starts_with(type, k->model_type)) *out = k;
    if (named && !*out) *out = k;
  }
  json_decref(model);
  if (*out) return KA_STATUS_OK;
  KA_TRY(ka_arena_printf(&f->arena, &what, "vocab.json and merges.txt of tokenizer_class %.80s",
                         class ? class : "(none is named)"));
  return refuse(f, what);
}

/* --- added tokens ------------------------------------------------------------ */

static bool listed(const struct files *f, const char *content) {
  const json_t *one;
  size_t i;
  json_array_foreach(f->list, i, one) {
    const char *s = json_string_value(json_object_get(one, "content"));
    if (s && strcmp(s, content) == 0) return true;
  }
  return false;
}

/* entry: {"content": ..., flags} or NULL for a special token without any. */
static ka_status add(struct files *f, const char *content, const json_t *entry) {
  static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized", "special"};
  struct ka_ctx *ctx = f->arena.ctx;
  const json_t *id = json_object_get(f->vocab, content);
  if (!*content || listed(f, content)) return KA_STATUS_OK;
  json_t *token = json_object();
  KA_TRY(ka_json_append(ctx, f->list, token));
  KA_TRY(ka_json_set(ctx, token, "id",
                     json_integer(json_is_integer(id) ? json_integer_value(id) : f->next++)));
  KA_TRY(ka_json_set(ctx, token, "content", json_string(content)));
  for (int k = 0; k < 5; k++)
    KA_TRY(
        ka_json_set(ctx, token, flags[k],
                    json_boolean(entry ? json_is_true(json_object_get(entry, flags[k])) : k == 4)));
  return KA_STATUS_OK;
}

static int by_number(const void *a, const void *b) {
  long long x = atoll(*(const char *const *)a), y = atoll(*(const char *const *)b);
  return x < y ? -1 : x > y;
}

/* added_tokens_decoder, {"ID": {"content": ...}}, by id. */
static ka_status add_decoder(struct files *f) {
  struct ka_ctx *ctx = f->arena.ctx;
  json_t *decoder = json_object_get(f->config, "added_tokens_decoder"), *v;
  const char *key, **keys;
  int64_t n = 0;
  KA_TRY(KA_NEW(&f->arena, &keys, (int64_t)json_object_size(decoder), "ids"));
  json_object_foreach(decoder, key, v) keys[n++] = key;
  if (n > 1) qsort(keys, (size_t)n, sizeof *keys, by_number);
  for (int64_t i = 0; i < n; i++) {
    v = json_object_get(decoder, keys[i]);
    const char *content = json_string_value(json_object_get(v, "content"));
    if (content) KA_TRY(add(f, content, v));
  }
  return KA_STATUS_OK;
}

/* A special token: of tokenizer_config.json, else special_tokens_map.json, else the class's own. */
static ka_status add_special(struct files *f, const char *key, const char *dflt) {
  const json_t *v = json_object_get(f->config, key);
  if (!v) v = json_object_get(f->map, key);
  const json_t *content = json_is_object(v) ? json_object_get(v, "content") : v;
  const char *text = v ? json_string_value(content) : dflt;
  return text ? add(f, text, NULL) : KA_STATUS_OK;
}

static ka_status add_list(struct files *f, const json_t *list) {
  struct ka_ctx *ctx = f->arena.ctx;
  const json_t *v;
  size_t i;
  json_array_foreach(list, i, v) {
    const char *text = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
    if (text) KA_TRY(add(f, text, NULL));
  }
  return KA_STATUS_OK;
}

static ka_status add_all(struct files *f, const struct kind *k) {
  struct ka_ctx *ctx = f->arena.ctx;
  KA_TRY(add_decoder(f));
  KA_TRY(add_special(f, "bos_token", k->bos));
  KA_TRY(add_special(f, "eos_token", k->eos));
  KA_TRY(add_special(f, "unk_token", k->unk));
  KA_TRY(add_special(f, "sep_token", NULL));
  KA_TRY(add_special(f, "pad_token", k->pad));
  KA_TRY(add_special(f, "cls_token", NULL));
  KA_TRY(add_special(f, "mask_token", NULL));
  const json_t *more = json_object_get(f->config, "additional_special_tokens");
  return add_list(f, more ? more : json_object_get(f->map, "additional_special_tokens"));
}

/* --- the model --------------------------------------------------------------- */

/* merges.txt: "a b" a line. */
static ka_status read_merges(struct files *f, const char *path, json_t *merges) {
  struct ka_ctx *ctx = f->arena.ctx;
  struct ka_str text = {0};
  ka_status st = ka_read_file(ctx, path, 0, &text);
  const char *p = text.data, *end = p ? p + text.len : NULL;
  for (int64_t line = 1; ka_ok(st) && p && p < end; line++) {
    size_t n = strcspn(p, "\r\n");
    if (n > 0 && !ka_starts_with(p, "#version")) {
      json_t *one = json_stringn(p, n);
      if (!one)
        st = ka_fail(ctx, KA_E_INPUT, "%s:%lld: not UTF-8", path, (long long)line);
      else
        st = ka_json_append(ctx, merges, one);
    }
    p += n + (p + n < end && p[n] == '\r');
    p += p < end && *p == '\n';
  }
  ka_str_deinit(&text);
  return st;
}

static ka_status build(struct files *f, const struct kind *k, const char *merges, json_t *root) {
  struct ka_ctx *ctx = f->arena.ctx;
  json_t *model = json_object(), *list = json_array(), *added = json_array();
  KA_TRY(ka_json_set(ctx, root, "model", model));
  KA_TRY(ka_json_set(ctx, model, "merges", list));
  KA_TRY(ka_json_set(ctx, root, "added_tokens", added));
  KA_TRY(ka_json_set(ctx, model, "type", json_string("BPE")));
  KA_TRY(ka_json_set(ctx, model, "vocab", json_incref(f->vocab)));
  KA_TRY(read_merges(f, merges, list));
  json_t *pre = json_object_get(root, "pre_tokenizer");
  json_t *chain = json_object_get(pre, "pretokenizers");
  json_t *bytes = chain ? json_array_get(chain, 1) : pre;
  if (json_is_true(json_object_get(f->config, "add_prefix_space")))
    KA_TRY(ka_json_set(ctx, bytes, "add_prefix_space", json_true()));
  f->list = added;
  f->next = (int64_t)json_object_size(f->vocab);
  return add_all(f, k);
}

static ka_status convert(struct files *f, json_t **root) {
  struct ka_ctx *ctx = f->arena.ctx;
  const char *merges, *path;
  bool has_merges = false, has_model = false;
  const struct kind *k;
  KA_TRY(path_of(f, "tokenizer.model", &path, &has_model));
  KA_TRY(path_of(f, "merges.txt", &merges, &has_merges));
  KA_TRY(load(f, "vocab.json", &f->vocab));
  if (!f->vocab || !has_merges) {
    if (has_model) return refuse(f, "tokenizer.model (SentencePiece)");
    return ka_fail(ctx, KA_E_INPUT,
                   "%s/tokenizer.json: no such file, nor vocab.json with merges.txt", f->dir);
  }
  KA_TRY(load(f, "tokenizer_config.json", &f->config));
  KA_TRY(load(f, "special_tokens_map.json", &f->map));
  KA_TRY(find_kind(f, &k));
  KA_TRY(ka_json_parse(ctx, k->parts, strlen(k->parts), k->class, root));
  return build(f, k, merges, *root);
}

ka_status ka_tok_convert(struct ka_ctx *ctx, const char *dir, json_t **root) {
  struct files f = {.dir = dir};
  *root = NULL;
  ka_arena_init(&f.arena, ctx, "tokenizer files");
  ka_status st = convert(&f, root);
  json_decref(f.vocab);
  json_decref(f.config);
  json_decref(f.map);
  ka_arena_deinit(&f.arena);
  if (ka_ok(st)) return st;
  json_decref(*root);
  *root = NULL;
  return st;
}
