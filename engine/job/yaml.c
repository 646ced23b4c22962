/* SPDX-License-Identifier: Apache-2.0
 * Events to a tree. The builder keeps a stack of open collections; a finished node goes to the one
 * on top. Does not interpret scalars. */
#include "engine/job/yaml.h"

#include "base/str.h"

#include <libfyaml.h>
#include <string.h>

struct open_node {
  struct ka_yaml *node;
  int64_t cap;         /* of the node's arrays */
  struct ka_yaml *key; /* map: read, its value is still to come */
};

struct anchor {
  const char *name;
  struct ka_yaml *node;
};

struct builder {
  struct ka_ctx *ctx;
  struct ka_arena *arena;
  const char *what;
  struct fy_diag *diag;
  struct fy_parser *fyp;
  struct open_node stack[KA_YAML_MAX_DEPTH];
  int depth;
  struct anchor *anchors;
  int64_t n_anchors, cap_anchors;
  int64_t n_nodes, n_merged;
  struct ka_yaml *root;
  bool finished; /* the document ended */
};

static ka_status bad(struct builder *b, int line, int column, const char *text) {
  return ka_fail(b->ctx, KA_E_INPUT, "%s:%d:%d: %s", b->what, line, column, text);
}

bool ka_yaml_is_null(const struct ka_yaml *v) {
  static const char *const words[] = {"", "~", "null", "Null", "NULL"};
  if (v->kind != KA_YAML_SCALAR || !v->plain) return false;
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strcmp(v->text, words[i]) == 0) return true;
  return false;
}

struct ka_yaml *ka_yaml_get(const struct ka_yaml *map, const char *key) {
  for (int64_t i = 0; i < map->n && map->kind == KA_YAML_MAP; i++)
    if (strcmp(map->keys[i]->text, key) == 0) return map->values[i];
  return NULL;
}

/* Doubles an array that lives in the arena. */
static ka_status grow(struct builder *b, struct ka_yaml ***list, int64_t n, int64_t cap) {
  struct ka_ctx *ctx = b->ctx;
  void *wider;
  KA_TRY(ka_arena_alloc_n(b->arena, &wider, cap, sizeof **list, "yaml"));
  if (n > 0) memcpy(wider, *list, (size_t)n * sizeof **list);
  *list = wider;
  return KA_STATUS_OK;
}

static ka_status add_pair(struct builder *b, struct open_node *o, struct ka_yaml *key,
                          struct ka_yaml *value) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_yaml *m = o->node;
  if (m->n == o->cap) {
    o->cap = o->cap ? 2 * o->cap : 8;
    KA_TRY(grow(b, &m->keys, m->n, o->cap));
    KA_TRY(grow(b, &m->values, m->n, o->cap));
  }
  m->keys[m->n] = key;
  m->values[m->n++] = value;
  return KA_STATUS_OK;
}

/* The keys of one merged map that the map does not have yet. */
static ka_status merge_map(struct builder *b, struct open_node *o, const struct ka_yaml *from,
                           const struct ka_yaml *at) {
  struct ka_ctx *ctx = b->ctx;
  if (from->kind != KA_YAML_MAP)
    return bad(b, at->line, at->column, "<<: expected a mapping or a list of mappings");
  for (int64_t i = 0; i < from->n; i++) {
    if (++b->n_merged > KA_YAML_MAX_NODES / 10)
      return bad(b, at->line, at->column, "merge keys add too many entries");
    if (!ka_yaml_get(o->node, from->keys[i]->text))
      KA_TRY(add_pair(b, o, from->keys[i], from->values[i]));
  }
  return KA_STATUS_OK;
}

/* Takes << out of a finished map and puts what it stands for behind the map's own keys. */
static ka_status apply_merge(struct builder *b, struct open_node *o) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_yaml *m = o->node, *key = NULL, *value = NULL;
  for (int64_t i = 0; i < m->n; i++)
    if (m->keys[i]->plain && strcmp(m->keys[i]->text, "<<") == 0) {
      key = m->keys[i];
      value = m->values[i];
      m->n--;
      memmove(m->keys + i, m->keys + i + 1, (size_t)(m->n - i) * sizeof *m->keys);
      memmove(m->values + i, m->values + i + 1, (size_t)(m->n - i) * sizeof *m->values);
    }
  if (!key) return KA_STATUS_OK;
  if (value->kind != KA_YAML_LIST) return merge_map(b, o, value, key);
  for (int64_t i = 0; i < value->n; i++) KA_TRY(merge_map(b, o, value->items[i], key));
  return KA_STATUS_OK;
}

/* Gives a node to the collection on top of the stack. */
static ka_status attach(struct builder *b, struct ka_yaml *node) {
  struct ka_ctx *ctx = b->ctx;
  if (b->depth == 0) {
    b->root = node;
    return KA_STATUS_OK;
  }
  struct open_node *o = &b->stack[b->depth - 1];
  struct ka_yaml *parent = o->node;
  if (parent->kind == KA_YAML_LIST) {
    if (parent->n == o->cap) {
      o->cap = o->cap ? 2 * o->cap : 8;
      KA_TRY(grow(b, &parent->items, parent->n, o->cap));
    }
    parent->items[parent->n++] = node;
    return KA_STATUS_OK;
  }
  if (o->key) {
    struct ka_yaml *key = o->key;
    o->key = NULL;
    return add_pair(b, o, key, node);
  }
  if (node->kind != KA_YAML_SCALAR)
    return bad(b, node->line, node->column, "expected a word as the key of a mapping");
  if (ka_yaml_get(parent, node->text))
    return ka_fail(ctx, KA_E_INPUT, "%s:%d:%d: key \"%s\" is given twice", b->what, node->line,
                   node->column, node->text);
  o->key = node;
  return KA_STATUS_OK;
}

static ka_status copy_token(struct builder *b, struct fy_token *token, const char **out) {
  size_t n = 0;
  const char *text = token ? fy_token_get_text(token, &n) : "";
  if (!text) return ka_fail(b->ctx, KA_E_MEMORY, "%s: YAML text: out of memory", b->what);
  return ka_arena_str(b->arena, out, text, n);
}

static ka_status new_node(struct builder *b, struct fy_event *e, enum ka_yaml_kind kind,
                          struct ka_yaml **out) {
  struct ka_ctx *ctx = b->ctx;
  const struct fy_mark *mark = fy_event_start_mark(e);
  void *p;
  *out = NULL;
  int line = mark ? mark->line + 1 : 1, column = mark ? mark->column + 1 : 1;
  if (e->type == FYET_SCALAR && e->scalar.value) { /* the mark of a quoted text is inside it */
    enum fy_scalar_style style = fy_token_scalar_style(e->scalar.value);
    column -= (style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED) && column > 1;
  }
  if (++b->n_nodes > KA_YAML_MAX_NODES) return bad(b, line, column, "more than 100000 values");
  KA_TRY(ka_arena_alloc(b->arena, &p, sizeof **out, "yaml"));
  struct ka_yaml *node = *out = p;
  *node = (struct ka_yaml){.kind = kind, .file = b->what, .line = line, .column = column};
  struct fy_token *tag = fy_event_get_tag_token(e), *anchor = fy_event_get_anchor_token(e);
  if (tag) KA_TRY(copy_token(b, tag, &node->tag));
  if (!anchor || e->type == FYET_ALIAS) return KA_STATUS_OK;
  p = b->anchors;
  KA_TRY(ka_grow(ctx, &p, &b->cap_anchors, b->n_anchors + 1, sizeof *b->anchors, "yaml anchors"));
  b->anchors = p;
  struct anchor *a = &b->anchors[b->n_anchors++];
  a->node = node;
  return copy_token(b, anchor, &a->name);
}

static ka_status on_alias(struct builder *b, struct fy_event *e) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_yaml *at = NULL;
  const char *name;
  KA_TRY(new_node(b, e, KA_YAML_SCALAR, &at));
  KA_TRY(copy_token(b, e->alias.anchor, &name));
  for (int64_t i = b->n_anchors - 1; i >= 0; i--) {
    if (strcmp(b->anchors[i].name, name) != 0) continue;
    struct ka_yaml *node = b->anchors[i].node;
    for (int d = 0; d < b->depth; d++)
      if (b->stack[d].node == node)
        return bad(b, at->line, at->column, "the alias stands inside its own anchor");
    return attach(b, node);
  }
  return ka_fail(ctx, KA_E_INPUT, "%s:%d:%d: alias *%s has no anchor", b->what, at->line,
                 at->column, name);
}

static ka_status on_start(struct builder *b, struct fy_event *e, enum ka_yaml_kind kind) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_yaml *node = NULL;
  KA_TRY(new_node(b, e, kind, &node));
  KA_TRY(attach(b, node));
  if (b->depth == KA_YAML_MAX_DEPTH) return bad(b, node->line, node->column, "nested too deeply");
  b->stack[b->depth++] = (struct open_node){.node = node};
  return KA_STATUS_OK;
}

static ka_status on_event(struct builder *b, struct fy_event *e) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_yaml *node = NULL;
  switch (e->type) {
  case FYET_DOCUMENT_START:
    if (!b->finished) return KA_STATUS_OK;
    KA_TRY(new_node(b, e, KA_YAML_SCALAR, &node));
    return bad(b, node->line, node->column, "a second YAML document; expected one");
  case FYET_DOCUMENT_END:
    b->finished = true;
    return KA_STATUS_OK;
  case FYET_MAPPING_START:
    return on_start(b, e, KA_YAML_MAP);
  case FYET_SEQUENCE_START:
    return on_start(b, e, KA_YAML_LIST);
  case FYET_MAPPING_END:
    KA_TRY(apply_merge(b, &b->stack[b->depth - 1]));
    b->depth--;
    return KA_STATUS_OK;
  case FYET_SEQUENCE_END:
    b->depth--;
    return KA_STATUS_OK;
  case FYET_SCALAR:
    KA_TRY(new_node(b, e, KA_YAML_SCALAR, &node));
    KA_TRY(copy_token(b, e->scalar.value, &node->text));
    node->plain = !e->scalar.value || fy_token_scalar_style(e->scalar.value) == FYSS_PLAIN;
    if (e->scalar.value && strlen(node->text) != fy_token_get_text_length(e->scalar.value))
      return bad(b, node->line, node->column, "the text holds a NUL character");
    return attach(b, node);
  case FYET_ALIAS:
    return on_alias(b, e);
  default:
    return KA_STATUS_OK;
  }
}

/* The first error that libfyaml collected. */
static ka_status syntax_error(struct builder *b) {
  void *iterator = NULL;
  struct fy_diag_error *e = fy_diag_errors_iterate(b->diag, &iterator);
  return e ? bad(b, e->line, e->column, e->msg) : bad(b, 1, 1, "not valid YAML");
}

static ka_status read_events(struct builder *b, const char *text, size_t n) {
  struct ka_ctx *ctx = b->ctx;
  if (fy_parser_set_string(b->fyp, text, n) != 0)
    return ka_fail(ctx, KA_E_MEMORY, "%s: YAML parser: out of memory", b->what);
  for (;;) {
    struct fy_event *e = fy_parser_parse(b->fyp);
    if (!e) break;
    bool end = e->type == FYET_STREAM_END;
    ka_status st = on_event(b, e);
    fy_parser_event_free(b->fyp, e);
    KA_TRY(st);
    if (end) break;
  }
  return fy_parser_get_stream_error(b->fyp) ? syntax_error(b) : KA_STATUS_OK;
}

/* YAML is UTF-8 here, and printable: libfyaml need not see anything else. */
static ka_status check_bytes(struct builder *b, const char *text, size_t n) {
  int line = 1, column = 1;
  for (size_t i = 0; i < n;) {
    int len = ka_utf8_decode(text + i, n - i, NULL);
    unsigned char c = (unsigned char)text[i];
    if (len == 0) return bad(b, line, column, "not valid UTF-8");
    if (c < 0x20 && c != '\t' && c != '\n' && c != '\r')
      return bad(b, line, column, "control character");
    column = c == '\n' ? 1 : column + 1;
    line += c == '\n';
    i += (size_t)len;
  }
  return KA_STATUS_OK;
}

ka_status ka_yaml_parse(struct ka_ctx *ctx, struct ka_arena *arena, const char *text, size_t n,
                        const char *what, struct ka_yaml **root) {
  struct builder b = {.ctx = ctx, .arena = arena, .what = what};
  *root = NULL;
  if (n > KA_YAML_MAX_BYTES)
    return ka_fail(ctx, KA_E_INPUT, "%s: %zu bytes of YAML, the limit is %d", what, n,
                   KA_YAML_MAX_BYTES);
  KA_TRY(check_bytes(&b, text, n));
  struct fy_diag_cfg diag_cfg;
  fy_diag_cfg_default(&diag_cfg);
  b.diag = fy_diag_create(&diag_cfg);
  if (b.diag) fy_diag_set_collect_errors(b.diag, true); /* instead of printing them */
  const struct fy_parse_cfg cfg = {.flags = FYPCF_QUIET, .diag = b.diag};
  b.fyp = b.diag ? fy_parser_create(&cfg) : NULL;
  ka_status st = b.fyp ? read_events(&b, text, n)
                       : ka_fail(ctx, KA_E_MEMORY, "%s: YAML parser: out of memory", what);
  fy_parser_destroy(b.fyp);
  fy_diag_destroy(b.diag);
  ka_free(b.anchors);
  KA_TRY(st);
  if (!b.root) {
    void *p;
    KA_TRY(ka_arena_alloc(arena, &p, sizeof *b.root, "yaml"));
    b.root = p;
    *b.root = (struct ka_yaml){.file = what, .line = 1, .column = 1, .text = "", .plain = true};
  }
  *root = b.root;
  return KA_STATUS_OK;
}
