/* SPDX-License-Identifier: Apache-2.0
 * Statements: tree to output; macros, loops, and the rendering of a whole template.
 *
 * Scopes are Jinja's: if shares its surroundings, a for body has a fresh scope for each item, and
 * macro, call, filter, with, generation and captured set blocks have their own. A macro sees where
 * it was defined, not where it is called. */
#include "python/jinja/core.h"

enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

static ka_status exec_list(struct jrun *J, const struct jnode *body, struct jscope *sc,
                           enum flow *flow);

static ka_status exec_body(struct jrun *J, const struct jnode *body, struct jscope *sc) {
  enum flow flow = FLOW_ON;
  return exec_list(J, body, sc, &flow);
}

/* Runs body in a new scope under parent with its output as a string. */
static ka_status capture(struct jrun *J, const struct jnode *body, struct jscope *parent,
                         struct jv *out) {
  struct jscope *sc = NULL;
  struct jbuf text = {0}, *outer = J->out;
  J_TRY(j_scope(J, parent, &sc));
  J->out = &text;
  J->n_captures++;
  J_TRY(exec_body(J, body, sc));
  J->n_captures--;
  J->out = outer;
  return j_str_buf(J, out, &text);
}

/* --- assignment ------------------------------------------------------------------------------- */

static ka_status assign(struct jrun *J, const struct jnode *target, struct jscope *sc,
                        struct jv v) {
  J->at = target->at;
  if (target->kind == JN_NAME) return j_scope_set(J, sc, target->id, v);
  if (target->kind == JN_NSREF) {
    struct jnode name = {.kind = JN_NAME, .id = target->id, .at = target->at};
    struct jv ns;
    J_TRY(j_eval(J, &name, sc, &ns));
    if (ns.t != JV_NS) return j_fail(J, "cannot assign an attribute to something not a namespace");
    const struct jstr *attr = target->value.s;
    if (attr->p[0] == '_') return j_fail(J, "namespace attributes may not start with '_'");
    return j_dict_set(J, ns.d, target->value, v);
  }
  struct jv items;
  J_TRY(j_items(J, v, &items));
  int64_t i = 0, n = 0;
  for (const struct jnode *part = target->list; part; part = part->next) n++;
  if (items.q->n != n)
    return j_fail(J, "cannot unpack %lld values into %lld names", (long long)items.q->n,
                  (long long)n);
  for (const struct jnode *part = target->list; part; part = part->next)
    J_TRY(assign(J, part, sc, items.q->v[i++]));
  return KA_STATUS_OK;
}

static ka_status filtered(struct jrun *J, const struct jnode *filters, struct jscope *sc,
                          struct jv *text) {
  if (!filters) return KA_STATUS_OK;
  struct jv outer = J->captured;
  J->captured = *text;
  J_TRY(j_eval(J, filters, sc, text));
  J->captured = outer;
  return KA_STATUS_OK;
}

static ka_status exec_set_block(struct jrun *J, const struct jnode *n, struct jscope *sc) {
  struct jv text;
  J_TRY(capture(J, n->list, sc, &text));
  J_TRY(filtered(J, n->b, sc, &text));
  return assign(J, n->a, sc, text);
}

static ka_status exec_with(struct jrun *J, const struct jnode *n, struct jscope *sc,
                           enum flow *flow) {
  struct jscope *inner = NULL;
  struct jv v;
  J_TRY(j_scope(J, sc, &inner));
  for (const struct jnode *pair = n->params; pair; pair = pair->next) {
    J_TRY(j_eval(J, pair->b, sc, &v));
    J_TRY(assign(J, pair->a, inner, v));
  }
  return exec_list(J, n->list, inner, flow);
}

/* --- loops ------------------------------------------------------------------------------------ */

/* The next item that the loop's filter lets through. */
static ka_status fetch(struct jrun *J, struct jloop *l, struct jv *out) {
  *out = (struct jv){.t = JV_MISSING};
  while (l->next < l->iterable.q->n) {
    J_TRY(j_steps(J, 64));
    struct jv item = l->iterable.q->v[l->next++];
    if (l->node->c) {
      struct jscope *sc = NULL;
      struct jv yes;
      J_TRY(j_scope(J, l->closure, &sc));
      J_TRY(assign(J, l->node->a, sc, item));
      J_TRY(j_eval(J, l->node->c, sc, &yes));
      if (!j_truth(yes)) continue;
    }
    *out = item;
    return KA_STATUS_OK;
  }
  l->drained = true;
  return KA_STATUS_OK;
}

static ka_status peek(struct jrun *J, struct jloop *l) {
  if (l->after.t == JV_MISSING && !l->drained) J_TRY(fetch(J, l, &l->after));
  return KA_STATUS_OK;
}

static ka_status advance(struct jrun *J, struct jloop *l, struct jv *out) {
  J_TRY(peek(J, l));
  *out = l->after;
  if (out->t == JV_MISSING) return KA_STATUS_OK;
  l->after = (struct jv){.t = JV_MISSING};
  l->before = l->current;
  l->current = *out;
  l->index0++;
  return KA_STATUS_OK;
}

/* Runs the filter over all that is left and keeps what it lets through. */
static ka_status loop_length(struct jrun *J, struct jloop *l) {
  if (l->length >= 0) return KA_STATUS_OK;
  struct jv rest, item;
  J_TRY(j_seq(J, &rest, JV_LIST, 0));
  J_TRY(peek(J, l));
  for (item = l->after; item.t != JV_MISSING;) {
    J_TRY(j_seq_add(J, rest, item));
    J_TRY(fetch(J, l, &item));
  }
  l->length = l->index0 + 1 + rest.q->n;
  struct jnode *plain;
  void *copy;
  J_TRY(j_alloc(J, &copy, sizeof *plain));
  plain = copy;
  *plain = *l->node;
  plain->c = NULL;
  l->node = plain;
  l->iterable = rest;
  l->next = 0;
  l->after = (struct jv){.t = JV_MISSING};
  l->drained = false;
  return KA_STATUS_OK;
}

ka_status j_loop_attr(struct jrun *J, struct jloop *l, const char *name, struct jv *out) {
  static const char *const names[] = {"index",  "index0",   "first",     "depth",
                                      "depth0", "last",     "nextitem",  "previtem",
                                      "length", "revindex", "revindex0", NULL};
  int which = 0;
  while (names[which] && strcmp(names[which], name) != 0) which++;
  *out = (struct jv){.t = JV_MISSING};
  if (which >= 8) J_TRY(loop_length(J, l));
  if (which == 5 || which == 6) J_TRY(peek(J, l));
  switch (which) {
  case 0:
    *out = jv_int(l->index0 + 1);
    break;
  case 1:
    *out = jv_int(l->index0);
    break;
  case 2:
    *out = jv_bool(l->index0 == 0);
    break;
  case 3:
  case 4:
    *out = jv_int(l->depth0 + (which == 3));
    break;
  case 5:
    *out = jv_bool(l->after.t == JV_MISSING);
    break;
  case 6:
    *out = l->after.t == JV_MISSING ? jv_undef("loop.nextitem") : l->after;
    break;
  case 7:
    *out = l->index0 == 0 ? jv_undef("loop.previtem") : l->before;
    break;
  case 8:
    *out = jv_int(l->length);
    break;
  case 9:
  case 10:
    *out = jv_int(l->length - l->index0 - (which == 10));
    break;
  default: {
    const struct jfunc *f = j_find_loop_method(name);
    if (!f) return KA_STATUS_OK;
    void *m;
    J_TRY(j_alloc(J, &m, sizeof(struct jmethod)));
    *(struct jmethod *)m = (struct jmethod){{.t = JV_LOOP, .loop = l}, f};
    *out = (struct jv){.t = JV_METHOD, .bound = m};
  }
  }
  return KA_STATUS_OK;
}

static int name_id(struct jrun *J, const char *name) {
  for (int64_t i = 0; i < J->t->n_names; i++)
    if (strcmp(J->t->names[i], name) == 0) return (int)i;
  return -1;
}

static ka_status run_loop(struct jrun *J, const struct jnode *n, struct jscope *sc,
                          struct jv iterable, int64_t depth0) {
  void *p;
  J_TRY(j_alloc(J, &p, sizeof(struct jloop)));
  struct jloop *l = p;
  *l = (struct jloop){.node = n, .closure = sc, .index0 = -1, .depth0 = depth0, .length = -1};
  J->at = n->b->at;
  J_TRY(j_items(J, iterable, &l->iterable));
  if (!n->c && iterable.t != JV_ITER) l->length = l->iterable.q->n;
  int loop_name = name_id(J, "loop");
  bool finished = false; /* a body that ran to its end; Jinja's else is for loops without one */
  for (;;) {
    struct jv item;
    struct jscope *inner = NULL;
    enum flow flow = FLOW_ON;
    J_TRY(advance(J, l, &item));
    if (item.t == JV_MISSING) break;
    J_TRY(j_scope(J, sc, &inner));
    J_TRY(assign(J, n->a, inner, item));
    if (loop_name >= 0)
      J_TRY(j_scope_set(J, inner, loop_name, (struct jv){.t = JV_LOOP, .loop = l}));
    J_TRY(exec_list(J, n->list, inner, &flow));
    finished |= flow == FLOW_ON;
    if (flow == FLOW_BREAK) break;
  }
  if (finished || !n->d) return KA_STATUS_OK;
  struct jscope *inner = NULL;
  J_TRY(j_scope(J, sc, &inner));
  return exec_body(J, n->d, inner);
}

ka_status j_loop_call(struct jrun *J, struct jloop *l, struct jv iterable, struct jv *out) {
  if (!l->node->op) return j_fail(J, "the loop is not marked 'recursive'");
  struct jbuf text = {0}, *outer = J->out;
  J->out = &text;
  J->n_captures++;
  J_TRY(run_loop(J, l->node, l->closure, iterable, l->depth0 + 1));
  J->n_captures--;
  J->out = outer;
  return j_str_buf(J, out, &text);
}

/* --- macros ----------------------------------------------------------------------------------- */

/* Takes the keyword argument of that name; MISSING when it is not there. */
static struct jv take_keyword(const struct jargs *args, bool *used, const char *name) {
  for (int64_t i = 0; i < args->n_kw; i++) {
    const struct jstr *k = args->kw[i].k;
    if (used[i] || k->n != strlen(name) || memcmp(k->p, name, k->n) != 0) continue;
    used[i] = true;
    return args->kw[i].v;
  }
  return (struct jv){.t = JV_MISSING};
}

static ka_status bind_macro(struct jrun *J, struct jmacro *m, const struct jargs *args, bool *used,
                            struct jscope *sc) {
  int64_t i = 0;
  bool found_caller = false;
  for (const struct jnode *p = m->node->params; p; p = p->next, i++) {
    const char *name = J->t->names[p->id];
    struct jv v = i < args->n_pos ? args->pos[i] : take_keyword(args, used, name);
    if (strcmp(name, "caller") == 0) found_caller = true;
    if (v.t == JV_MISSING) {
      v = jv_undef(name);
      if (p->a) J_TRY(j_eval(J, p->a, sc, &v));
    }
    J_TRY(j_scope_set(J, sc, p->id, v));
  }
  if ((m->node->op & JM_CALLER) && !found_caller) {
    struct jv caller = take_keyword(args, used, "caller");
    if (caller.t == JV_MISSING) caller = jv_undef("caller");
    J_TRY(j_scope_set(J, sc, name_id(J, "caller"), caller));
  }
  if (m->node->op & JM_VARARGS) {
    struct jv rest;
    J_TRY(j_seq(J, &rest, JV_TUPLE, 0));
    for (; i < args->n_pos; i++) J_TRY(j_seq_add(J, rest, args->pos[i]));
    J_TRY(j_scope_set(J, sc, name_id(J, "varargs"), rest));
  } else if (i < args->n_pos) {
    return j_fail(J, "the macro takes at most %lld arguments", (long long)i);
  }
  struct jv kwargs;
  J_TRY(j_dict(J, &kwargs));
  for (int64_t k = 0; k < args->n_kw; k++) {
    if (used[k]) continue;
    if (!(m->node->op & JM_KWARGS))
      return j_fail(J, "the macro takes no keyword argument '%.*s'", (int)args->kw[k].k->n,
                    args->kw[k].k->p);
    J_TRY(j_dict_set(J, kwargs.d, (struct jv){.t = JV_STR, .s = args->kw[k].k}, args->kw[k].v));
  }
  if (!(m->node->op & JM_KWARGS)) return KA_STATUS_OK;
  return j_scope_set(J, sc, name_id(J, "kwargs"), kwargs);
}

ka_status j_macro_call(struct jrun *J, struct jmacro *m, const struct jargs *args, struct jv *out) {
  struct jscope *sc = NULL;
  void *used;
  J_TRY(j_enter(J));
  J_TRY(j_scope(J, m->closure, &sc));
  J_TRY(j_alloc(J, &used, (size_t)args->n_kw + 1));
  J_TRY(bind_macro(J, m, args, used, sc));
  J_TRY(capture(J, m->node->list, sc, out));
  j_leave(J);
  return KA_STATUS_OK;
}

static ka_status make_macro(struct jrun *J, const struct jnode *n, struct jscope *sc,
                            struct jv *out) {
  void *m;
  J_TRY(j_alloc(J, &m, sizeof(struct jmacro)));
  *(struct jmacro *)m = (struct jmacro){n, sc};
  *out = (struct jv){.t = JV_MACRO, .m = m};
  return KA_STATUS_OK;
}

/* What a filter or call block gives must be text. */
static ka_status put_text(struct jrun *J, struct jv v) {
  if (v.t != JV_STR) return j_fail(J, "a block gave a %s instead of text", jv_type_name(v));
  return j_put_str(J, J->out, v);
}

/* {% call(x) name(args) %}: the call with one more keyword argument, caller. */
static ka_status exec_call_block(struct jrun *J, const struct jnode *n, struct jscope *sc) {
  struct jv callee, caller, text;
  struct jargs args;
  void *name, *kw;
  J_TRY(j_eval(J, n->b->a, sc, &callee));
  J_TRY(j_args(J, n->b->list, sc, &args));
  J_TRY(make_macro(J, n->c, sc, &caller));
  J_TRY(j_alloc(J, &name, sizeof(struct jstr)));
  *(struct jstr *)name = (struct jstr){"caller", 6, 6, false};
  J_TRY(j_alloc(J, &kw, (size_t)(args.n_kw + 1) * sizeof *args.kw));
  if (args.n_kw > 0) memcpy(kw, args.kw, (size_t)args.n_kw * sizeof *args.kw);
  args.kw = kw;
  args.kw[args.n_kw++] = (struct jkw){name, caller};
  J->at = n->at;
  J_TRY(j_call(J, callee, &args, &text));
  return put_text(J, text);
}

static ka_status exec_generation(struct jrun *J, const struct jnode *n, struct jscope *sc) {
  struct jscope *inner = NULL;
  size_t begin = J->out->n;
  if (J->spans && J->n_captures > 0)
    return j_fail_code(J, KA_E_UNSUPPORTED,
                       "a generation block inside a macro or captured block has no known place");
  J_TRY(j_scope(J, sc, &inner));
  J->n_generating++;
  J_TRY(exec_body(J, n->list, inner));
  J->n_generating--;
  if (!J->spans || J->n_generating > 0) return KA_STATUS_OK;
  void *at = J->spans->at;
  J_TRY(ka_grow(J->ctx, &at, &J->spans->cap, J->spans->n + 1, sizeof *J->spans->at, "spans"));
  J->spans->at = at;
  J->spans->at[J->spans->n++] = (struct ka_jinja_span){begin, J->out->n};
  return KA_STATUS_OK;
}

/* --- statements ------------------------------------------------------------------------------- */

static ka_status exec_if(struct jrun *J, const struct jnode *n, struct jscope *sc,
                         enum flow *flow) {
  struct jv test;
  for (;;) {
    J_TRY(j_eval(J, n->a, sc, &test));
    if (j_truth(test)) return exec_list(J, n->list, sc, flow);
    const struct jnode *other = n->b;
    /* an elif is the only node of its list and stands where the chain goes on */
    if (!other || other->kind != JN_IF || other->id != -1)
      return other ? exec_list(J, other, sc, flow) : KA_STATUS_OK;
    n = other;
  }
}

static ka_status exec(struct jrun *J, const struct jnode *n, struct jscope *sc, enum flow *flow) {
  struct jv v;
  switch (n->kind) {
  case JN_DATA:
    return jb_put(J, J->out, n->value.s->p, n->value.s->n);
  case JN_PRINT:
    J_TRY(j_eval(J, n->a, sc, &v));
    J->at = n->a->at;
    return j_put_str(J, J->out, v);
  case JN_IF:
    return exec_if(J, n, sc, flow);
  case JN_FOR:
    J_TRY(j_eval(J, n->b, sc, &v));
    return run_loop(J, n, sc, v, 0);
  case JN_SET:
    J_TRY(j_eval(J, n->b, sc, &v));
    return assign(J, n->a, sc, v);
  case JN_SETBLOCK:
    return exec_set_block(J, n, sc);
  case JN_MACRO:
    J_TRY(make_macro(J, n, sc, &v));
    return j_scope_set(J, sc, n->id, v);
  case JN_CALLBLOCK:
    return exec_call_block(J, n, sc);
  case JN_FILTERBLOCK:
    J_TRY(capture(J, n->list, sc, &v));
    J_TRY(filtered(J, n->b, sc, &v));
    return put_text(J, v);
  case JN_WITH:
    return exec_with(J, n, sc, flow);
  case JN_GENERATION:
    return exec_generation(J, n, sc);
  case JN_BREAK:
  case JN_CONTINUE:
    *flow = n->kind == JN_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
    return KA_STATUS_OK;
  default:
    return j_fail(J, "this is no statement");
  }
}

static ka_status exec_list(struct jrun *J, const struct jnode *body, struct jscope *sc,
                           enum flow *flow) {
  for (const struct jnode *n = body; n && *flow == FLOW_ON; n = n->next) {
    J->at = n->at;
    J_TRY(j_enter(J));
    J_TRY(exec(J, n, sc, flow));
    j_leave(J);
  }
  return KA_STATUS_OK;
}

/* --- rendering -------------------------------------------------------------------------------- */

/* The variables and functions that the template mentions, by name id. */
static ka_status load_globals(struct jrun *J, const json_t *vars) {
  void *p;
  J_TRY(j_alloc(J, &p, (size_t)J->t->n_names * sizeof(struct jv) + 1));
  J->globals = p;
  for (int64_t i = 0; i < J->t->n_names; i++) {
    const char *name = J->t->names[i];
    const json_t *v = json_object_get(vars, name);
    const struct jfunc *f = v ? NULL : j_find_global(name);
    J->globals[i] = jv_undef(name);
    if (v)
      J_TRY(j_from_json(J, v, &J->globals[i]));
    else if (f)
      J->globals[i] = (struct jv){.t = JV_GLOBAL, .g = f};
  }
  return KA_STATUS_OK;
}

static void set_limits(struct jrun *J, const struct ka_jinja_options *opts) {
  if (opts) J->limits = opts->limits;
  if (J->limits.max_steps <= 0) J->limits.max_steps = 50000000;
  if (J->limits.max_depth <= 0) J->limits.max_depth = 400;
  if (J->limits.max_out_bytes == 0) J->limits.max_out_bytes = (size_t)64 << 20;
  if (J->limits.max_total_bytes == 0) J->limits.max_total_bytes = (size_t)512 << 20;
  J->mem.limit_bytes = J->limits.max_total_bytes;
}

static ka_status render(struct jrun *J, const json_t *vars, struct ka_str *out) {
  struct jscope *top = NULL;
  struct jbuf text = {0};
  J->out = &text;
  J_TRY(load_globals(J, vars));
  J_TRY(j_scope(J, NULL, &top));
  J_TRY(exec_body(J, J->t->body, top));
  return ka_str_append(J->ctx, out, text.p, text.n);
}

ka_status ka_jinja_render(struct ka_ctx *ctx, const struct ka_jinja *t, const json_t *vars,
                          const struct ka_jinja_options *opts, struct ka_str *out,
                          struct ka_jinja_spans *spans) {
  struct jrun run = {.ctx = ctx, .t = t, .spans = spans, .now = opts ? opts->now : NULL};
  if (!json_is_object(vars))
    return ka_fail(ctx, KA_E_INPUT, "%s: the template's variables are not a JSON object", t->name);
  set_limits(&run, opts);
  ka_arena_init(&run.mem.arena, ctx, "template run");
  size_t base = out->len;
  int64_t old = spans ? spans->n : 0;
  ka_status st = render(&run, vars, out);
  for (int64_t i = old; ka_ok(st) && spans && i < spans->n; i++) {
    spans->at[i].begin += base;
    spans->at[i].end += base;
  }
  ka_arena_deinit(&run.mem.arena);
  return st;
}
