/* SPDX-License-Identifier: Apache-2.0
 * Events to a tree. The builder keeps a stack of open collections; a finished node goes to the one
 * on top. Does not interpret scalars. */
#include "engine/job/yaml.h"

#include "base/index.h"
#include "base/str.h"

#include <string.h>
#include <yaml.h>

enum { MANY_KEYS = 16 };

struct open_node {
  struct ka_yaml *node;
  int64_t cap;           /* of the node's arrays */
  struct ka_yaml *key;   /* map: read, its value is still to come */
  struct ka_index index; /* of a map that has many keys */
};

struct anchor {
  const char *name;
  struct ka_yaml *node;
};

struct builder {
  struct ka_ctx *ctx;
  struct ka_arena *arena;
  const char *what;
  yaml_parser_t parser;
  struct open_node stack[KA_YAML_MAX_DEPTH];
  int depth;
  struct anchor *anchors;
  int64_t n_anchors, cap_anchors;
  int64_t n_nodes, n_merged;
  struct ka_yaml *root;
  bool finished;  /* the document ended */
  bool last_wins; /* of a key that is given twice */
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

static const char *key_text(const void *map, int64_t i) {
  return ((const struct ka_yaml *)map)->keys[i]->text;
}

/* The place of the key in an open map, or -1. */
static int64_t find_key(const struct open_node *o, const char *key) {
  if (o->node->n >= MANY_KEYS) return ka_index_find(&o->index, key, key_text, o->node);
  for (int64_t i = 0; i < o->node->n; i++)
    if (strcmp(o->node->keys[i]->text, key) == 0) return i;
  return -1;
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
  if (m->n < MANY_KEYS) return KA_STATUS_OK;
  for (int64_t i = o->index.n; i < m->n; i++) KA_TRY(ka_index_add(ctx, &o->index, i, key_text, m));
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
    if (find_key(o, from->keys[i]->text) < 0)
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
  ka_index_deinit(&o->index); /* places have moved */
  for (int64_t i = 0; i < m->n && m->n >= MANY_KEYS; i++)
    KA_TRY(ka_index_add(ctx, &o->index, i, key_text, m));
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
    int64_t at = b->last_wins ? find_key(o, key->text) : -1;
    if (at < 0) return add_pair(b, o, key, node);
    parent->keys[at] = key;
    parent->values[at] = node;
    return KA_STATUS_OK;
  }
  if (node->kind != KA_YAML_SCALAR)
    return bad(b, node->line, node->column, "expected a word as the key of a mapping");
  if (!b->last_wins && find_key(o, node->text) >= 0)
    return ka_fail(ctx, KA_E_INPUT, "%s:%d:%d: key \"%s\" is given twice", b->what, node->line,
                   node->column, node->text);
  o->key = node;
  return KA_STATUS_OK;
}

static ka_status copy_text(struct builder *b, const yaml_char_t *text, const char **out) {
  return ka_arena_str(b->arena, out, (const char *)text, strlen((const char *)text));
}

static ka_status new_node(struct builder *b, const yaml_event_t *e, enum ka_yaml_kind kind,
                          struct ka_yaml **out) {
  struct ka_ctx *ctx = b->ctx;
  *out = NULL;
  int line = (int)e->start_mark.line + 1, column = (int)e->start_mark.column + 1;
  if (++b->n_nodes > KA_YAML_MAX_NODES) return bad(b, line, column, "more than 100000 values");
  KA_TRY(KA_NEW(b->arena, out, 1, "yaml"));
  **out = (struct ka_yaml){.kind = kind, .file = b->what, .line = line, .column = column};
  return KA_STATUS_OK;
}

/* The tag and the name of a node; either may be NULL. */
static ka_status mark_node(struct builder *b, struct ka_yaml *node, const yaml_char_t *tag,
                           const yaml_char_t *anchor) {
  struct ka_ctx *ctx = b->ctx;
  void *p = b->anchors;
  if (tag) KA_TRY(copy_text(b, tag, &node->tag));
  if (!anchor) return KA_STATUS_OK;
  KA_TRY(ka_grow(ctx, &p, &b->cap_anchors, b->n_anchors + 1, sizeof *b->anchors, "yaml anchors"));
  b->anchors = p;
  struct anchor *a = &b->anchors[b->n_anchors++];
  a->node = node;
  return copy_text(b, anchor, &a->name);
}

static ka_status on_alias(struct builder *b, const yaml_event_t *e) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_yaml *at = NULL;
  const char *name;
  KA_TRY(new_node(b, e, KA_YAML_SCALAR, &at));
  KA_TRY(copy_text(b, e->data.alias.anchor, &name));
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

static ka_status on_start(struct builder *b, const yaml_event_t *e) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_yaml *node = NULL;
  if (e->type == YAML_MAPPING_START_EVENT) {
    KA_TRY(new_node(b, e, KA_YAML_MAP, &node));
    KA_TRY(mark_node(b, node, e->data.mapping_start.tag, e->data.mapping_start.anchor));
  } else {
    KA_TRY(new_node(b, e, KA_YAML_LIST, &node));
    KA_TRY(mark_node(b, node, e->data.sequence_start.tag, e->data.sequence_start.anchor));
  }
  KA_TRY(attach(b, node));
  if (b->depth == KA_YAML_MAX_DEPTH) return bad(b, node->line, node->column, "nested too deeply");
  b->stack[b->depth++] = (struct open_node){.node = node};
  return KA_STATUS_OK;
}

/* A tag of YAML's own says how a scalar is read; what is left is plain or not. */
static void apply_tag(struct ka_yaml *v) {
  static const char core[] = "tag:yaml.org,2002:";
  if (!v->tag) return;
  const char *type = ka_starts_with(v->tag, core) ? v->tag + sizeof core - 1 : "";
  if (strcmp(v->tag, "!") == 0)
    ; /* says nothing */
  else if (strcmp(type, "str") == 0)
    v->plain = false;
  else if (strcmp(type, "int") == 0 || strcmp(type, "float") == 0 || strcmp(type, "bool") == 0)
    v->plain = true;
  else if (strcmp(type, "null") == 0)
    v->plain = true, v->text = "";
  else
    return;
  v->tag = NULL;
}

static ka_status on_scalar(struct builder *b, const yaml_event_t *e) {
  struct ka_ctx *ctx = b->ctx;
  struct ka_yaml *node = NULL;
  KA_TRY(new_node(b, e, KA_YAML_SCALAR, &node));
  KA_TRY(mark_node(b, node, e->data.scalar.tag, e->data.scalar.anchor));
  KA_TRY(copy_text(b, e->data.scalar.value, &node->text));
  node->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
  if (strlen(node->text) != e->data.scalar.length)
    return bad(b, node->line, node->column, "the text holds a NUL character");
  apply_tag(node);
  return attach(b, node);
}

static ka_status on_event(struct builder *b, const yaml_event_t *e) {
  struct ka_ctx *ctx = b->ctx;
  switch (e->type) {
  case YAML_DOCUMENT_START_EVENT:
    if (!b->finished) return KA_STATUS_OK;
    return bad(b, (int)e->start_mark.line + 1, (int)e->start_mark.column + 1,
               "a second YAML document; expected one");
  case YAML_DOCUMENT_END_EVENT:
    b->finished = true;
    return KA_STATUS_OK;
  case YAML_MAPPING_START_EVENT:
  case YAML_SEQUENCE_START_EVENT:
    return on_start(b, e);
  case YAML_MAPPING_END_EVENT:
    KA_TRY(apply_merge(b, &b->stack[b->depth - 1]));
    ka_index_deinit(&b->stack[--b->depth].index);
    return KA_STATUS_OK;
  case YAML_SEQUENCE_END_EVENT:
    b->depth--;
    return KA_STATUS_OK;
  case YAML_SCALAR_EVENT:
    return on_scalar(b, e);
  case YAML_ALIAS_EVENT:
    return on_alias(b, e);
  default:
    return KA_STATUS_OK;
  }
}

static ka_status syntax_error(struct builder *b) {
  const yaml_parser_t *p = &b->parser;
  if (p->error == YAML_MEMORY_ERROR)
    return ka_fail(b->ctx, KA_E_MEMORY, "%s: YAML parser: out of memory", b->what);
  /* where a quote without an end begins says more than where the file ends */
  bool open_quote = p->context && strstr(p->context, "quoted scalar") && p->problem &&
                    strstr(p->problem, "end of stream");
  const yaml_mark_t *at = open_quote ? &p->context_mark : &p->problem_mark;
  return ka_fail(b->ctx, KA_E_INPUT, "%s:%d:%d: %s%s%s", b->what, (int)at->line + 1,
                 (int)at->column + 1, p->problem ? p->problem : "not valid YAML",
                 p->context ? ", " : "", p->context ? p->context : "");
}

static ka_status read_events(struct builder *b) {
  struct ka_ctx *ctx = b->ctx;
  for (bool end = false; !end;) {
    yaml_event_t e;
    KA_TRY(ka_check_interrupted(ctx, b->what));
    if (!yaml_parser_parse(&b->parser, &e)) return syntax_error(b);
    end = e.type == YAML_STREAM_END_EVENT;
    ka_status st = on_event(b, &e);
    yaml_event_delete(&e);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}

/* YAML is UTF-8 here, and printable: libyaml need not see anything else. */
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
                        const char *what, bool last_wins, struct ka_yaml **root) {
  struct builder b = {.ctx = ctx, .arena = arena, .what = what, .last_wins = last_wins};
  *root = NULL;
  if (n > KA_YAML_MAX_BYTES)
    return ka_fail(ctx, KA_E_INPUT, "%s: %zu bytes of YAML, the limit is %d", what, n,
                   KA_YAML_MAX_BYTES);
  KA_TRY(check_bytes(&b, text, n));
  if (!yaml_parser_initialize(&b.parser))
    return ka_fail(ctx, KA_E_MEMORY, "%s: YAML parser: out of memory", what);
  yaml_parser_set_encoding(&b.parser, YAML_UTF8_ENCODING);
  yaml_parser_set_input_string(&b.parser, (const unsigned char *)text, n);
  ka_status st = read_events(&b);
  yaml_parser_delete(&b.parser);
  ka_free(b.anchors);
  while (b.depth > 0) ka_index_deinit(&b.stack[--b.depth].index);
  KA_TRY(st);
  if (!b.root) {
    KA_TRY(KA_NEW(arena, &b.root, 1, "yaml"));
    *b.root = (struct ka_yaml){.file = what, .line = 1, .column = 1, .text = "", .plain = true};
  }
  *root = b.root;
  return KA_STATUS_OK;
}
