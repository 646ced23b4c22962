/* SPDX-License-Identifier: Apache-2.0
 * See gguf_vocab.h. Which tokens there are, the open tokenizer says; merges, flags and parts are
 * read from its JSON. Does not write chat templates. */
#include "engine/formats/gguf_vocab.h"

#include "base/log.h"
#include "tokenizer/convert.h"

#include <string.h>

/* Kinds of tokens, by the format's numbers. */
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };

struct vocab {
  struct ka_gguf *g;
  struct ka_arena *arena;
  const struct ka_tokenizer *t;
  const struct ka_hf_config *config;
  json_t *root, *named; /* tokenizer.json; tokenizer_config.json, NULL: none */
  int64_t n_tokens, n_ids;
  int32_t *kinds;
  struct ka_str parts; /* of the pre-tokenizer, as describe() has them */
  bool bytes;          /* byte-level */
};

/* --- how text becomes words ------------------------------------------------------------------- */

#define CL100K(digits)                                                                             \
  "split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                       \
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+;bytes;"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(suffix, digits)                                                                      \
  "split [^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER        \
  "+" LOWER "*" suffix "|" digits                                                                  \
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+;bytes;"

/* The parts of a pre-tokenizer as text, and llama.cpp's name for them. */
static const struct {
  const char *parts, *name,
      *name_if_whole; /* the latter where words in the vocabulary stay whole */
} splits[] = {
    {"words;", "gpt-2", NULL},
    {"digits;words;", "smollm", NULL},
    {CL100K("\\p{N}{1,3}"), "dbrx", "llama-bpe"},
    {CL100K("\\p{N}"), "qwen2", NULL},
    {CASED("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "\\p{N}{1,3}"), "gpt-4o", NULL},
    {CASED("", "\\p{N}"), NULL, "tekken"},
    {"split [\r\n];split \\s?\\p{L}+;split \\s?\\p{P}+;split "
     "[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+;digits;bytes;",
     "deepseek-coder", NULL},
};

static ka_status describe(struct ka_ctx *ctx, const json_t *part, struct ka_str *out) {
  const char *type = json_string_value(json_object_get(part, "type"));
  const json_t *list = json_object_get(part, "pretokenizers"), *one;
  size_t i;
  if (!type) return KA_STATUS_OK;
  json_array_foreach(list, i, one) KA_TRY(describe(ctx, one, out));
  if (list) return KA_STATUS_OK;
  if (strcmp(type, "ByteLevel") == 0)
    return ka_str_puts(ctx, out,
                       json_is_false(json_object_get(part, "use_regex")) ? "bytes;" : "words;");
  if (strcmp(type, "Digits") == 0 && json_is_true(json_object_get(part, "individual_digits")))
    return ka_str_puts(ctx, out, "digits;");
  const json_t *pattern = json_object_get(part, "pattern");
  const char *regex = json_string_value(json_object_get(pattern, "Regex"));
  return ka_str_printf(ctx, out, "%s %s;", strcmp(type, "Split") == 0 && regex ? "split" : type,
                       regex ? regex : "");
}

static ka_status set_pre(struct vocab *v, const char *given) {
  struct ka_ctx *ctx = v->arena->ctx;
  const char *name = given, *parts = v->parts.data ? v->parts.data : "none";
  bool whole = json_is_true(json_object_get(json_object_get(v->root, "model"), "ignore_merges"));
  for (size_t i = 0; !name && i < sizeof splits / sizeof *splits; i++)
    if (strcmp(parts, splits[i].parts) == 0)
      name = whole && splits[i].name_if_whole ? splits[i].name_if_whole : splits[i].name;
  if (!name)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "tokenizer: its pre-tokenizer (%.200s) has no name in llama.cpp that is known "
                   "here; give it by --pre NAME, or without: --pre default",
                   parts);
  return ka_gguf_set_text(v->g, "tokenizer.ggml.pre", name, strlen(name));
}

/* --- tokens ----------------------------------------------------------------------------------- */

static int32_t id_of(const struct vocab *v, const json_t *token) {
  if (json_is_object(token)) token = json_object_get(token, "content");
  const char *text = json_string_value(token);
  return text ? ka_tokenizer_token_id(v->t, text, json_string_length(token)) : -1;
}

static bool is_byte(const char *s, size_t n) {
  return n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>';
}

static ka_status find_kinds(struct vocab *v) {
  struct ka_ctx *ctx = v->arena->ctx;
  const json_t *one;
  size_t i, n;
  KA_TRY(KA_NEW(v->arena, &v->kinds, v->n_ids, "kinds of tokens"));
  for (int32_t id = 0; id < v->n_ids; id++) {
    const char *text = id < v->n_tokens ? ka_tokenizer_token_text(v->t, id, &n) : NULL;
    v->kinds[id] = !text ? UNUSED : !v->bytes && is_byte(text, n) ? BYTE : NORMAL;
  }
  json_array_foreach(json_object_get(v->root, "added_tokens"), i, one) {
    int32_t id = id_of(v, one);
    bool special = json_is_true(json_object_get(one, "special"));
    if (id >= 0 && id < v->n_ids) v->kinds[id] = special ? CONTROL : USER_DEFINED;
  }
  int32_t unk = id_of(v, json_object_get(json_object_get(v->root, "model"), "unk_token"));
  if (unk >= 0 && !v->bytes) v->kinds[unk] = UNKNOWN;
  return KA_STATUS_OK;
}

static ka_status set_tokens(struct vocab *v) {
  struct ka_ctx *ctx = v->arena->ctx;
  KA_TRY(ka_gguf_list_text(v->g, "tokenizer.ggml.tokens", v->n_ids));
  for (int32_t id = 0; id < v->n_ids; id++) {
    char unused[32];
    size_t n;
    const char *text = id < v->n_tokens ? ka_tokenizer_token_text(v->t, id, &n) : NULL;
    if (!text) {
      n = (size_t)snprintf(unused, sizeof unused, "[PAD%d]", id);
      text = unused;
    }
    KA_TRY(ka_gguf_put_text(v->g, text, n));
  }
  return ka_gguf_set_i32_list(v->g, "tokenizer.ggml.token_type", v->kinds, v->n_ids);
}

/* The piece that a merge makes; apart: "a b", where a space inside of a half, which only other
 * alphabets than the byte-level one have, is written as U+0120. */
static ka_status spell(struct ka_ctx *ctx, const json_t *merges, int64_t i, bool apart,
                       struct ka_str *out) {
  const char *half[2];
  size_t n[2];
  KA_TRY(ka_tok_merge_halves(ctx, merges, i, "tokenizer", half, n));
  ka_str_clear(out);
  for (int k = 0; k < 2; k++) {
    if (apart && k > 0) KA_TRY(ka_str_puts(ctx, out, " "));
    for (size_t at = 0; at < n[k]; at++)
      KA_TRY(apart && half[k][at] == ' ' ? ka_str_puts(ctx, out, "\xc4\xa0")
                                         : ka_str_append(ctx, out, half[k] + at, 1));
  }
  return KA_STATUS_OK;
}

static ka_status set_merges(struct vocab *v, const json_t *merges) {
  struct ka_ctx *ctx = v->arena->ctx;
  struct ka_str text = {0};
  int64_t n = (int64_t)json_array_size(merges);
  ka_status st = ka_gguf_list_text(v->g, "tokenizer.ggml.merges", n);
  for (int64_t i = 0; i < n && ka_ok(st); i++) {
    st = spell(ctx, merges, i, true, &text);
    if (ka_ok(st)) st = ka_gguf_put_text(v->g, text.data, text.len);
  }
  ka_str_deinit(&text);
  return st;
}

/* Pieces that no merge makes have the lowest score: characters, and tokens that only are added. */
static ka_status set_scores(struct vocab *v, const json_t *merges) {
  struct ka_ctx *ctx = v->arena->ctx;
  struct ka_str text = {0};
  float *scores;
  KA_TRY(KA_NEW(v->arena, &scores, v->n_ids, "scores"));
  for (int64_t id = 0; id < v->n_ids; id++)
    scores[id] = v->kinds[id] == NORMAL ? -1e9f : v->kinds[id] == UNUSED ? -1e4f : 0;
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < (int64_t)json_array_size(merges) && ka_ok(st); i++) {
    st = spell(ctx, merges, i, false, &text);
    int32_t id = ka_ok(st) ? ka_tokenizer_token_id(v->t, text.data, text.len) : -1;
    if (id >= 0 && scores[id] <= -1e9f) scores[id] = -(float)(i + 1);
  }
  ka_str_deinit(&text);
  if (!ka_ok(st)) return st;
  return ka_gguf_set_f32_list(v->g, "tokenizer.ggml.scores", scores, v->n_ids);
}

/* --- special tokens --------------------------------------------------------------------------- */

static ka_status set_id(struct vocab *v, const char *key, int64_t id) {
  return id >= 0 && id < v->n_ids ? ka_gguf_set_u32(v->g, key, id) : KA_STATUS_OK;
}

/* An end of the turn besides the end of the text: what the model's config stops at too. */
static int64_t end_of_turn(const struct vocab *v, int64_t eos) {
  for (int i = 0; i < v->config->n_eos; i++)
    if (v->config->eos_token_ids[i] != eos) return v->config->eos_token_ids[i];
  return -1;
}

static ka_status set_specials(struct vocab *v) {
  struct ka_ctx *ctx = v->arena->ctx;
  struct ka_tok_tokens around = {0};
  int64_t bos = ka_tokenizer_bos(v->t), eos = ka_tokenizer_eos(v->t);
  int64_t pad = id_of(v, json_object_get(v->named, "pad_token"));
  int32_t unk = id_of(v, json_object_get(json_object_get(v->root, "model"), "unk_token"));
  if (bos < 0) bos = v->config->bos_token_id;
  if (eos < 0 && v->config->n_eos > 0) eos = v->config->eos_token_ids[0];
  if (pad < 0) pad = v->config->pad_token_id;
  KA_TRY(ka_tokenizer_encode(ctx, v->t, "", 0, true, &around));
  bool first = bos >= 0 && around.n > 0 && around.ids[0] == bos;
  bool last = eos >= 0 && around.n > first && around.ids[around.n - 1] == eos;
  ka_tok_tokens_deinit(&around);
  KA_TRY(set_id(v, "tokenizer.ggml.bos_token_id", bos));
  KA_TRY(set_id(v, "tokenizer.ggml.eos_token_id", eos));
  KA_TRY(set_id(v, "tokenizer.ggml.eot_token_id", end_of_turn(v, eos)));
  KA_TRY(set_id(v, "tokenizer.ggml.unknown_token_id", unk));
  KA_TRY(set_id(v, "tokenizer.ggml.padding_token_id", pad));
  KA_TRY(ka_gguf_set_bool(v->g, "tokenizer.ggml.add_bos_token", first));
  return ka_gguf_set_bool(v->g, "tokenizer.ggml.add_eos_token", last);
}

/* Does a text begin with a space that it has not? By a normalizer, or by Metaspace. */
static bool prepends(const json_t *v) {
  const json_t *one;
  size_t i;
  bool found = false;
  const char *type = json_string_value(json_object_get(v, "type"));
  const char *scheme = json_string_value(json_object_get(v, "prepend_scheme"));
  if (type && strcmp(type, "Prepend") == 0) return true;
  if (type && strcmp(type, "Metaspace") == 0)
    return scheme ? strcmp(scheme, "never") != 0
                  : !json_is_false(json_object_get(v, "add_prefix_space"));
  json_array_foreach(json_object_get(v, "normalizers"), i, one) found |= prepends(one);
  json_array_foreach(json_object_get(v, "pretokenizers"), i, one) found |= prepends(one);
  return found;
}

static ka_status set_all(struct vocab *v, const char *pre) {
  struct ka_ctx *ctx = v->arena->ctx;
  const json_t *model = json_object_get(v->root, "model");
  bool fallback = json_is_true(json_object_get(model, "byte_fallback"));
  const json_t *splitter = json_object_get(v->root, "pre_tokenizer");
  KA_TRY(describe(ctx, splitter, &v->parts));
  const char *parts = v->parts.data;
  v->bytes = parts && (strstr(parts, "bytes;") || strstr(parts, "words;"));
  if (!v->bytes && !fallback)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "tokenizer: neither byte-level nor with bytes for what it cannot spell: a GGUF "
                   "file has no name for it");
  const char *kind = v->bytes ? "gpt2" : "llama";
  KA_TRY(ka_gguf_set_text(v->g, "tokenizer.ggml.model", kind, strlen(kind)));
  if (v->bytes || pre) KA_TRY(set_pre(v, pre));
  KA_TRY(find_kinds(v));
  KA_TRY(set_tokens(v));
  const json_t *merges = json_object_get(model, "merges");
  KA_TRY(v->bytes ? set_merges(v, merges) : set_scores(v, merges));
  KA_TRY(set_specials(v));
  if (v->bytes) return KA_STATUS_OK;
  bool space = prepends(json_object_get(v->root, "normalizer")) || prepends(splitter);
  return ka_gguf_set_bool(v->g, "tokenizer.ggml.add_space_prefix", space);
}

ka_status ka_gguf_vocab(struct ka_gguf *g, const struct ka_tokenizer *t, const char *dir,
                        const struct ka_hf_config *config, const char *pre) {
  struct ka_ctx *ctx = g->arena.ctx;
  struct vocab v = {.g = g,
                    .arena = &g->arena,
                    .t = t,
                    .config = config,
                    .n_tokens = ka_tokenizer_vocab_size(t),
                    .n_ids = config->vocab_size};
  const char *path;
  if (v.n_tokens > v.n_ids)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "tokenizer of %s: %lld tokens, but the embedding has %lld rows: a GGUF file has "
                   "a row for each token",
                   dir, (long long)v.n_tokens, (long long)v.n_ids);
  KA_TRY(ka_path_join(&g->arena, &path, dir, "tokenizer_config.json"));
  ka_status st = ka_tok_read(ctx, dir, &v.root);
  if (ka_ok(st) && ka_path_exists(path)) st = ka_json_load(ctx, path, &v.named);
  if (ka_ok(st)) st = set_all(&v, pre);
  json_decref(v.root);
  json_decref(v.named);
  ka_str_deinit(&v.parts);
  return ka_ok(st) ? st : ka_trace(ctx, st, __FILE__, __LINE__);
}
