/* SPDX-License-Identifier: Apache-2.0
 * Statements: tokens to tree; creation and destruction of a parsed template. */
#include "python/jinja/core.h"

#include <stdio.h>

enum { MAX_SOURCE_BYTES = 4 << 20, MAX_PARSE_DEPTH = 150, PARSE_MEMORY_BYTES = 1 << 28 };

/* --- helpers ---------------------------------------------------------------------------------- */

ka_status jp_node(struct jparser *J, struct jnode **out, enum jkind kind, uint32_t at) {
  void *p;
  *out = NULL;
  J_TRY(jm_alloc(J->ctx, &J->t->mem, &p, sizeof **out));
  *out = p;
  (*out)->kind = kind;
  (*out)->at = at;
  return KA_STATUS_OK;
}

ka_status jp_str(struct jparser *J, struct jv *out, const char *s, size_t n) {
  void *p;
  J_TRY(jm_alloc(J->ctx, &J->t->mem, &p, sizeof(struct jstr)));
  out->t = JV_STR;
  out->s = p;
  *out->s = (struct jstr){s, n, -1, false};
  out->s->n_chars = j_n_chars(out->s); /* constants are shared between threads: count now */
  return KA_STATUS_OK;
}

static uint32_t hash_bytes(const char *s, size_t n) {
  uint32_t h = 2166136261u;
  for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 16777619u;
  return h;
}

static ka_status grow_names(struct jparser *J) {
  int64_t n = J->n_slots ? J->n_slots * 2 : 128;
  void *slots;
  J_TRY(jm_alloc(J->ctx, &J->t->mem, &slots, (size_t)n * sizeof(int)));
  J->name_slots = slots;
  J->n_slots = n;
  for (int64_t id = 0; id < J->t->n_names; id++) {
    int64_t at = hash_bytes(J->t->names[id], strlen(J->t->names[id])) & (n - 1);
    while (J->name_slots[at]) at = (at + 1) & (n - 1);
    J->name_slots[at] = (int)id + 1;
  }
  return KA_STATUS_OK;
}

ka_status jp_intern(struct jparser *J, int *id, const char *s, size_t n) {
  struct ka_jinja *t = J->t;
  if (2 * (t->n_names + 1) > J->n_slots) J_TRY(grow_names(J));
  int64_t at = hash_bytes(s, n) & (J->n_slots - 1);
  for (; J->name_slots[at]; at = (at + 1) & (J->n_slots - 1)) {
    *id = J->name_slots[at] - 1;
    if (strlen(t->names[*id]) == n && memcmp(t->names[*id], s, n) == 0) return KA_STATUS_OK;
  }
  void *names = t->names, *copy;
  J_TRY(ka_grow(J->ctx, &names, &t->names_cap, t->n_names + 1, sizeof *t->names, "template names"));
  t->names = names;
  J_TRY(jm_alloc(J->ctx, &t->mem, &copy, n + 1));
  memcpy(copy, s, n);
  *id = (int)t->n_names;
  t->names[t->n_names++] = copy;
  J->name_slots[at] = *id + 1;
  return KA_STATUS_OK;
}

const char *jp_describe(const struct jtok *k, char buf[48]) {
  static const char *const names[] = {"the end of the template",
                                      "text",
                                      "{{",
                                      "}}",
                                      "{%",
                                      "%}",
                                      "name",
                                      "string",
                                      "integer",
                                      "float"};
  if (k->type >= JT_EOF && k->type != JT_NAME)
    snprintf(buf, 48, "%s", names[k->type - JT_EOF]);
  else
    snprintf(buf, 48, "'%.*s'", k->n > 40 ? 40 : (int)k->n, k->s);
  return buf;
}

bool jp_is_name(const struct jparser *J, const char *word) {
  size_t n = strlen(word);
  return J->tok->type == JT_NAME && J->tok->n == n && memcmp(J->tok->s, word, n) == 0;
}

bool jp_skip_name(struct jparser *J, const char *word) {
  if (!jp_is_name(J, word)) return false;
  J->tok++;
  return true;
}

bool jp_skip(struct jparser *J, int type) {
  if (J->tok->type != type) return false;
  J->tok++;
  return true;
}

ka_status jp_expect(struct jparser *J, int type) {
  if (jp_skip(J, type)) return KA_STATUS_OK;
  char got[48];
  char want[3] = {(char)(type & 255), (char)(type >> 8 & 255), 0};
  return jp_fail(J, J->tok->at, "expected '%s', got %s",
                 type == JT_BLOCK_END   ? "%}"
                 : type == JT_PRINT_END ? "}}"
                                        : want,
                 jp_describe(J->tok, got));
}

ka_status jp_enter(struct jparser *J) {
  if (++J->depth > MAX_PARSE_DEPTH)
    return jp_fail(J, J->tok->at, "nested more than %d deep", MAX_PARSE_DEPTH);
  return KA_STATUS_OK;
}

/* --- statements ------------------------------------------------------------------------------- */

static ka_status parse_body(struct jparser *J, struct jnode **out, const char *const *ends);

/* "%}" statements "{% end", where end is one of ends (left as the current token). */
static ka_status block_body(struct jparser *J, struct jnode **out, const char *const *ends) {
  jp_skip(J, ':');
  J_TRY(jp_expect(J, JT_BLOCK_END));
  return parse_body(J, out, ends);
}

/* A body whose text is captured: break and continue cannot leave it. */
static ka_status captured_body(struct jparser *J, struct jnode **out, const char *end) {
  int loops = J->n_loops, soft = J->soft;
  J->n_loops = J->soft = 0;
  J_TRY(block_body(J, out, (const char *const[]){end, NULL}));
  J->n_loops = loops;
  J->soft = soft;
  J->tok++;
  return KA_STATUS_OK;
}

static ka_status parse_if(struct jparser *J, struct jnode *n) {
  static const char *const ends[] = {"elif", "else", "endif", NULL};
  J_TRY(jp_tuple(J, &n->a, false, NULL));
  J->soft++;
  J_TRY(block_body(J, &n->list, ends));
  for (struct jnode *last = n;;) {
    uint32_t at = J->tok->at;
    if (jp_skip_name(J, "elif")) {
      J_TRY(jp_node(J, &last->b, JN_IF, at));
      last = last->b;
      last->id = -1; /* tells an elif from an if inside an else */
      J_TRY(jp_tuple(J, &last->a, false, NULL));
      J_TRY(block_body(J, &last->list, ends));
      continue;
    }
    if (jp_skip_name(J, "else"))
      J_TRY(block_body(J, &last->b, (const char *const[]){"endif", NULL}));
    break;
  }
  J->tok++;
  J->soft--;
  return KA_STATUS_OK;
}

static ka_status parse_for(struct jparser *J, struct jnode *n) {
  int soft = J->soft;
  J->soft = 0;
  J_TRY(jp_target(J, &n->a, false, "in"));
  if (n->a->kind == JN_NAME && strcmp(J->t->names[n->a->id], "loop") == 0)
    return jp_fail(J, n->a->at, "the special variable 'loop' cannot be assigned to");
  char buf[48];
  if (!jp_skip_name(J, "in"))
    return jp_fail(J, J->tok->at, "expected 'in', got %s", jp_describe(J->tok, buf));
  J_TRY(jp_tuple(J, &n->b, false, "recursive"));
  if (jp_skip_name(J, "if")) J_TRY(jp_expr(J, &n->c, true));
  n->op = jp_skip_name(J, "recursive");
  J->n_loops++;
  J_TRY(block_body(J, &n->list, (const char *const[]){"endfor", "else", NULL}));
  J->n_loops--;
  if (jp_skip_name(J, "else")) J_TRY(block_body(J, &n->d, (const char *const[]){"endfor", NULL}));
  J->tok++;
  J->soft = soft;
  return KA_STATUS_OK;
}

static ka_status parse_set(struct jparser *J, struct jnode *n) {
  J_TRY(jp_target(J, &n->a, true, NULL));
  if (jp_skip(J, '=')) return jp_tuple(J, &n->b, true, NULL);
  n->kind = JN_SETBLOCK;
  J_TRY(jp_filters(J, &n->b, false));
  return captured_body(J, &n->list, "endset");
}

static ka_status parse_params(struct jparser *J, struct jnode **list) {
  J_TRY(jp_expect(J, '('));
  bool defaults = false;
  for (bool first = true; J->tok->type != ')'; first = false) {
    if (!first) J_TRY(jp_expect(J, ','));
    if (J->tok->type != JT_NAME) return jp_fail(J, J->tok->at, "expected a parameter name");
    J_TRY(jp_node(J, list, JN_PARAM, J->tok->at));
    J_TRY(jp_intern(J, &(*list)->id, J->tok->s, J->tok->n));
    J->tok++;
    if (jp_skip(J, '=')) {
      defaults = true;
      J_TRY(jp_expr(J, &(*list)->a, true));
    } else if (strcmp(J->t->names[(*list)->id], "caller") == 0) {
      return jp_fail(J, (*list)->at, "the special parameter 'caller' needs a default");
    } else if (defaults) {
      return jp_fail(J, J->tok->at, "a parameter without a default follows one with a default");
    }
    list = &(*list)->next;
  }
  J->tok++;
  return KA_STATUS_OK;
}

/* The body of a macro or a call block, noting which special names it uses. */
static ka_status macro_body(struct jparser *J, struct jnode *n, const char *end) {
  int outer = J->macro_flags;
  J->macro_flags = 0;
  J_TRY(captured_body(J, &n->list, end));
  n->op = J->macro_flags;
  J->macro_flags |= outer;
  return KA_STATUS_OK;
}

static ka_status parse_macro(struct jparser *J, struct jnode *n) {
  if (J->tok->type != JT_NAME) return jp_fail(J, J->tok->at, "expected the macro's name");
  J_TRY(jp_intern(J, &n->id, J->tok->s, J->tok->n));
  J->tok++;
  J_TRY(parse_params(J, &n->params));
  return macro_body(J, n, "endmacro");
}

static ka_status parse_call_block(struct jparser *J, struct jnode *n) {
  J_TRY(jp_node(J, &n->c, JN_MACRO, n->at));
  n->c->id = -1;
  if (J->tok->type == '(') J_TRY(parse_params(J, &n->c->params));
  J_TRY(jp_expr(J, &n->b, true));
  if (n->b->kind != JN_CALL) return jp_fail(J, n->at, "a call block needs a call");
  return macro_body(J, n->c, "endcall");
}

static ka_status parse_filter_block(struct jparser *J, struct jnode *n) {
  J_TRY(jp_filters(J, &n->b, true));
  return captured_body(J, &n->list, "endfilter");
}

static ka_status parse_with(struct jparser *J, struct jnode *n) {
  struct jnode **last = &n->params;
  while (J->tok->type != JT_BLOCK_END) {
    if (n->params) J_TRY(jp_expect(J, ','));
    J_TRY(jp_node(J, last, JN_PAIR, J->tok->at));
    J_TRY(jp_target(J, &(*last)->a, false, NULL));
    J_TRY(jp_expect(J, '='));
    J_TRY(jp_expr(J, &(*last)->b, true));
    last = &(*last)->next;
  }
  J_TRY(block_body(J, &n->list, (const char *const[]){"endwith", NULL}));
  J->tok++;
  return KA_STATUS_OK;
}

static ka_status parse_generation(struct jparser *J, struct jnode *n) {
  J->t->has_generation = true;
  return captured_body(J, &n->list, "endgeneration");
}

static ka_status parse_break(struct jparser *J, struct jnode *n) {
  if (J->n_loops > 0) return KA_STATUS_OK;
  return jp_fail(J, n->at, "'%s' outside of a loop", n->kind == JN_BREAK ? "break" : "continue");
}

/* {% print a, b %}: the nodes are chained behind each other. */
static ka_status parse_print(struct jparser *J, struct jnode *n) {
  J_TRY(jp_expr(J, &n->a, true));
  while (jp_skip(J, ',')) {
    J_TRY(jp_node(J, &n->next, JN_PRINT, J->tok->at));
    n = n->next;
    J_TRY(jp_expr(J, &n->a, true));
  }
  return KA_STATUS_OK;
}

static ka_status parse_statement(struct jparser *J, struct jnode **out) {
  static const struct {
    const char *tag;
    enum jkind kind;
    ka_status (*parse)(struct jparser *J, struct jnode *n);
    bool chat_only;
  } tags[] = {{"if", JN_IF, parse_if, false},
              {"for", JN_FOR, parse_for, false},
              {"set", JN_SET, parse_set, false},
              {"macro", JN_MACRO, parse_macro, false},
              {"call", JN_CALLBLOCK, parse_call_block, false},
              {"filter", JN_FILTERBLOCK, parse_filter_block, false},
              {"with", JN_WITH, parse_with, false},
              {"generation", JN_GENERATION, parse_generation, true},
              {"break", JN_BREAK, parse_break, true},
              {"continue", JN_CONTINUE, parse_break, true},
              {"print", JN_PRINT, parse_print, false}};
  static const char *const known[] = {"block", "extends",    "include", "import",
                                      "from",  "autoescape", NULL};
  const struct jtok *k = J->tok;
  char buf[48];
  if (k->type != JT_NAME)
    return jp_fail(J, k->at, "expected a statement, got %s", jp_describe(k, buf));
  for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
    if (tags[i].chat_only && J->t->dialect != KA_JINJA_CHAT) continue;
    if (!jp_skip_name(J, tags[i].tag)) continue;
    J_TRY(jp_node(J, out, tags[i].kind, k->at));
    return tags[i].parse(J, *out);
  }
  for (const char *const *name = known; *name; name++)
    if (jp_is_name(J, *name))
      return jp_fail(J, k->at, "statement '%s' is not supported in templates", *name);
  return jp_fail(J, k->at, "unknown or misplaced statement %s", jp_describe(k, buf));
}

/* Statements until {% and one of ends (NULL: until the end of the template). */
static ka_status parse_body(struct jparser *J, struct jnode **out, const char *const *ends) {
  J_TRY(jp_enter(J));
  for (;;) {
    const struct jtok *k = J->tok;
    if (k->type == JT_EOF) {
      if (ends) return jp_fail(J, k->at, "the template ends before {%% %s %%}", ends[0]);
      break;
    }
    if (k->type == JT_DATA) {
      J_TRY(jp_node(J, out, JN_DATA, k->at));
      J_TRY(jp_str(J, &(*out)->value, k->s, k->n));
      J->tok++;
    } else if (jp_skip(J, JT_PRINT_BEGIN)) {
      J_TRY(jp_node(J, out, JN_PRINT, k->at));
      J_TRY(jp_tuple(J, &(*out)->a, true, NULL));
      J_TRY(jp_expect(J, JT_PRINT_END));
    } else {
      J->tok++;
      for (const char *const *end = ends; end && *end; end++) {
        if (!jp_is_name(J, *end)) continue;
        J->depth--;
        return KA_STATUS_OK;
      }
      J_TRY(parse_statement(J, out));
      J_TRY(jp_expect(J, JT_BLOCK_END));
    }
    while (*out) out = &(*out)->next;
  }
  J->depth--;
  return KA_STATUS_OK;
}

/* --- the template ----------------------------------------------------------------------------- */

/* Copies text with \r\n and \r as \n; of a chat template without one newline at the end. */
static ka_status copy_source(struct ka_ctx *ctx, struct ka_jinja *t, const char *text, size_t n) {
  void *src;
  KA_TRY(jm_alloc(ctx, &t->mem, &src, n + 1));
  t->src = src;
  for (size_t i = 0; i < n; i++) {
    if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n') continue;
    t->src[t->n_src++] = text[i] == '\r' ? '\n' : text[i];
  }
  bool chat = t->dialect == KA_JINJA_CHAT;
  if (chat && t->n_src > 0 && t->src[t->n_src - 1] == '\n') t->n_src--;
  return KA_STATUS_OK;
}

static ka_status parse_source(struct ka_ctx *ctx, struct ka_jinja *t, const char *text, size_t n) {
  if (n > MAX_SOURCE_BYTES)
    return ka_fail(ctx, KA_E_INPUT, "%s: template of %zu bytes, the limit is %d", t->name, n,
                   MAX_SOURCE_BYTES);
  KA_TRY(copy_source(ctx, t, text, n));
  struct jparser parser = {.ctx = ctx, .t = t}, *J = &parser;
  size_t bad = ka_utf8_check(t->src, t->n_src);
  if (bad < t->n_src) return jp_fail(J, (uint32_t)bad, "not valid UTF-8");
  ka_status st = jp_tokens(J);
  if (ka_ok(st)) st = parse_body(J, &t->body, NULL);
  if (ka_ok(st) && J->unknown) {
    const struct jnode *u = J->unknown;
    st = jp_fail(J, u->at, "%s '%.*s' is not %s", u->kind == JN_TEST ? "test" : "filter",
                 (int)u->value.s->n, u->value.s->p, u->func ? "supported" : "known");
  }
  ka_free(J->toks);
  return st;
}

ka_status ka_jinja_parse(struct ka_ctx *ctx, struct ka_jinja **out, enum ka_jinja_dialect dialect,
                         const char *name, const char *text, size_t n) {
  void *copy;
  *out = NULL;
  struct ka_jinja *t;
  KA_TRY(KA_NEW_HEAP(ctx, &t, 1, "template"));
  t->dialect = dialect;
  ka_arena_init(&t->mem.arena, ctx, "template");
  t->mem.limit_bytes = PARSE_MEMORY_BYTES;
  ka_status st = jm_alloc(ctx, &t->mem, &copy, strlen(name) + 1);
  if (ka_ok(st)) {
    memcpy(copy, name, strlen(name));
    t->name = copy;
    st = parse_source(ctx, t, text, n);
  }
  if (!ka_ok(st)) {
    ka_jinja_destroy(t);
    return ka_trace(ctx, st, __FILE__, __LINE__);
  }
  *out = t;
  return st;
}

void ka_jinja_destroy(struct ka_jinja *t) {
  if (!t) return;
  ka_arena_deinit(&t->mem.arena);
  ka_free(t->names);
  ka_free(t);
}

bool ka_jinja_has_generation(const struct ka_jinja *t) { return t->has_generation; }

bool ka_jinja_mentions(const struct ka_jinja *t, const char *variable) {
  for (int64_t i = 0; i < t->n_names; i++)
    if (strcmp(t->names[i], variable) == 0) return true;
  return false;
}
