/* SPDX-License-Identifier: Apache-2.0
 * Added tokens; see added.h. The order of the checks is the library's (added_vocabulary.rs): a
 * match that single_word discards still uses up its text. */
#include "tokenizer/added.h"

#include <string.h>

static ka_status read_one(struct ka_arena *a, const json_t *v, const char *where,
                          struct ka_tok_added *t) {
  struct ka_ctx *ctx = a->ctx;
  static const char *const names[] = {"single_word", "lstrip", "rstrip", "normalized", "special"};
  bool *flags[] = {&t->single_word, &t->lstrip, &t->rstrip, &t->normalized, &t->special};
  const json_t *content = json_object_get(v, "content");
  int64_t id;
  if (!json_is_string(content))
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"content\": expected a string", where);
  KA_TRY(ka_json_i64(ctx, where, v, "id", &id));
  if (id < 0 || id >= KA_MAX_TOKEN_ID)
    return ka_fail(ctx, KA_E_INPUT, "%s: id %lld: expected 0 to %d", where, (long long)id,
                   KA_MAX_TOKEN_ID - 1);
  t->id = (int32_t)id;
  t->content_n = t->pattern_n = json_string_length(content);
  KA_TRY(ka_arena_str(a, &t->content, json_string_value(content), t->content_n));
  t->pattern = t->content;
  for (size_t k = 0; k < 5; k++) {
    if (!json_is_boolean(json_object_get(v, names[k])))
      return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": expected true or false", where, names[k]);
    *flags[k] = json_is_true(json_object_get(v, names[k]));
  }
  return KA_STATUS_OK;
}

ka_status ka_tok_added_load(struct ka_arena *a, const json_t *list, const char *what,
                            struct ka_tok_added_tokens *out) {
  struct ka_ctx *ctx = a->ctx;
  if (!list || json_is_null(list)) return KA_STATUS_OK;
  if (!json_is_array(list))
    return ka_fail(ctx, KA_E_INPUT, "%s: added_tokens: expected a list", what);
  void *p;
  KA_TRY(
      ka_arena_alloc_n(a, &p, (int64_t)json_array_size(list), sizeof *out->items, "added tokens"));
  out->items = p;
  for (size_t i = 0; i < json_array_size(list); i++) {
    struct ka_tok_added t = {0};
    const char *where;
    KA_TRY(ka_arena_printf(a, &where, "%s: added_tokens[%zu]", what, i));
    KA_TRY(read_one(a, json_array_get(list, i), where, &t));
    if (t.content_n > 0) out->items[out->n++] = t; /* the library ignores empty ones */
  }
  return KA_STATUS_OK;
}

static ka_status new_node(struct ka_ctx *ctx, struct ka_tok_added_set *set, unsigned char byte,
                          int32_t *out) {
  void *p = set->nodes;
  if (set->n == 0) set->n = 1; /* index 0 means none */
  KA_TRY(ka_grow(ctx, &p, &set->cap, set->n + 1, sizeof *set->nodes, "added tokens"));
  set->nodes = p;
  *out = (int32_t)set->n++;
  set->nodes[*out] = (struct ka_tok_trie_node){.token = -1, .byte = byte};
  return KA_STATUS_OK;
}

static ka_status insert(struct ka_ctx *ctx, struct ka_tok_added_set *set,
                        const struct ka_tok_added *t, int32_t index, const char *what) {
  int32_t node = set->first[(unsigned char)t->pattern[0]];
  if (!node) {
    KA_TRY(new_node(ctx, set, (unsigned char)t->pattern[0], &node));
    set->first[(unsigned char)t->pattern[0]] = node;
  }
  for (size_t i = 1; i < t->pattern_n; i++) {
    unsigned char byte = (unsigned char)t->pattern[i];
    int32_t child = set->nodes[node].child;
    while (child && set->nodes[child].byte != byte) child = set->nodes[child].sibling;
    if (!child) {
      KA_TRY(new_node(ctx, set, byte, &child));
      set->nodes[child].sibling = set->nodes[node].child;
      set->nodes[node].child = child;
    }
    node = child;
  }
  if (set->nodes[node].token >= 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: added_tokens: two of them look for the same text \"%.80s\"", what,
                   t->pattern);
  set->nodes[node].token = index;
  return KA_STATUS_OK;
}

ka_status ka_tok_added_build(struct ka_ctx *ctx, struct ka_tok_added_tokens *t, const char *what) {
  static const char word[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}]";
  for (int64_t i = 0; i < t->n; i++) {
    const struct ka_tok_added *item = &t->items[i];
    if (item->pattern_n == 0) /* the library would cut the text at every character */
      return ka_fail(ctx, KA_E_INPUT,
                     "%s: added_tokens: the normalizer leaves nothing of \"%.80s\"", what,
                     item->content);
    KA_TRY(insert(ctx, item->normalized ? &t->normal : &t->raw, item, (int32_t)i, what));
    if (item->single_word && !t->word)
      KA_TRY(ka_tok_rx_compile(ctx, &t->word, word, sizeof word - 1, what));
  }
  return KA_STATUS_OK;
}

void ka_tok_added_deinit(struct ka_tok_added_tokens *t) {
  ka_free(t->raw.nodes);
  ka_free(t->normal.nodes);
  ka_tok_rx_free(t->word);
  *t = (struct ka_tok_added_tokens){0};
}

static size_t char_before(const char *s, size_t at) {
  do at--;
  while (at > 0 && ((unsigned char)s[at] & 0xC0) == 0x80);
  return at;
}

/* Whether the character s[b..e) is a word character; failures of the regex count as no. */
static bool is_word(const struct ka_tok_added_tokens *t, struct ka_rx_scan *scan, const char *s,
                    size_t n) {
  struct ka_ctx quiet;
  ka_ctx_init(&quiet);
  bool found = false;
  size_t b, e;
  ka_tok_rx_begin(scan, t->word, s, n);
  return ka_ok(ka_tok_rx_next(&quiet, scan, &found, &b, &e)) && found;
}

static bool stands_alone(const struct ka_tok_added_tokens *t, struct ka_rx_scan *scan,
                         const char *s, size_t n, size_t b, size_t e) {
  uint32_t cp;
  size_t before = b > 0 ? char_before(s, b) : 0;
  if (b > 0 && is_word(t, scan, s + before, b - before)) return false;
  return e >= n || !is_word(t, scan, s + e, (size_t)ka_utf8_next(s + e, &cp));
}

/* The longest pattern that begins at s, as an index, or -1. */
static int32_t match_at(const struct ka_tok_added_set *set, const char *s, size_t n, size_t *len) {
  int32_t best = -1, node = set->first[(unsigned char)s[0]];
  for (size_t i = 1; node; i++) {
    if (set->nodes[node].token >= 0) {
      best = set->nodes[node].token;
      *len = i;
    }
    if (i >= n) break;
    node = set->nodes[node].child;
    while (node && set->nodes[node].byte != (unsigned char)s[i]) node = set->nodes[node].sibling;
  }
  return best;
}

bool ka_tok_added_next(const struct ka_tok_added_tokens *t, const struct ka_tok_added_set *set,
                       const struct ka_tok_unicode *u, struct ka_rx_scan *scan, const char *s,
                       size_t n, size_t *at, size_t from, const struct ka_tok_added **token,
                       size_t *b, size_t *e) {
  if (set->n == 0) return false;
  for (size_t i = *at; i < n;) {
    size_t len = 0;
    int32_t k = set->first[(unsigned char)s[i]] ? match_at(set, s + i, n - i, &len) : -1;
    if (k < 0) {
      i++;
      continue;
    }
    *token = &t->items[k];
    *b = i;
    *e = *at = i + len;
    i = *at;
    if ((*token)->single_word && !stands_alone(t, scan, s, n, *b, *e)) continue;
    uint32_t cp;
    if ((*token)->lstrip) {
      size_t start = *b;
      while (start > 0) {
        size_t before = char_before(s, start);
        ka_utf8_next(s + before, &cp);
        if (!(ka_tok_uc_of(u, cp) & KA_UC_SPACE)) break;
        start = before;
      }
      *b = start > from ? start : from;
    }
    for (size_t w; (*token)->rstrip && *e < n; *e += w) {
      w = (size_t)ka_utf8_next(s + *e, &cp);
      if (!(ka_tok_uc_of(u, cp) & KA_UC_SPACE)) break;
    }
    return true;
  }
  *at = n;
  return false;
}
