/* SPDX-License-Identifier: Apache-2.0
 * Attributes, items, slices, argument binding and calls. Jinja's order: x.name looks for an
 * attribute first and for an item second, x["name"] the other way round; what is not there is
 * undefined. The sandbox hides names with a leading underscore and every mutating method. */
#include "python/jinja/core.h"

const struct jfunc *j_find_in(const struct jfunc *table, const char *name, size_t n) {
  for (; table->name; table++)
    if (strlen(table->name) == n && memcmp(table->name, name, n) == 0) return table;
  return NULL;
}

static ka_status undefined_name(struct jrun *J, const struct jstr *name, struct jv *out) {
  void *copy;
  J_TRY(j_alloc(J, &copy, name->n + 1));
  memcpy(copy, name->p, name->n);
  *out = jv_undef(copy);
  return KA_STATUS_OK;
}

/* What hasattr finds; MISSING when there is no such attribute. */
static ka_status attribute(struct jrun *J, struct jv obj, const struct jstr *name, struct jv *out) {
  *out = (struct jv){.t = JV_MISSING};
  if (obj.t == JV_NS) {
    struct jpair *found = j_dict_str(obj.d, name->p, name->n);
    if (found) *out = found->v;
    return KA_STATUS_OK;
  }
  if (name->n > 0 && name->p[0] == '_') {
    /* Python objects have many such names; the sandbox makes them undefined. */
    return KA_STATUS_OK;
  }
  if (obj.t == JV_LOOP) {
    char text[32] = {0};
    if (name->n < sizeof text) memcpy(text, name->p, name->n);
    return j_loop_attr(J, obj.loop, text, out);
  }
  if (obj.t == JV_TUPLE && obj.q->kind) { /* groupby's pairs */
    bool list = name->n == 4 && memcmp(name->p, "list", 4) == 0;
    if (list || (name->n == 7 && memcmp(name->p, "grouper", 7) == 0)) *out = obj.q->v[list];
    if (out->t != JV_MISSING) return KA_STATUS_OK;
  }
  if (obj.t == JV_MACRO && name->n == 4 && memcmp(name->p, "name", 4) == 0) {
    if (obj.m->node->id < 0)
      *out = jv_none();
    else
      J_TRY(j_str(J, out, J->t->names[obj.m->node->id], strlen(J->t->names[obj.m->node->id])));
    return KA_STATUS_OK;
  }
  if (obj.t == JV_RANGE && (name->n == 4 || name->n == 5)) {
    if (memcmp(name->p, "start", name->n) == 0) *out = jv_int(obj.r->start);
    if (memcmp(name->p, "stop", name->n) == 0) *out = jv_int(obj.r->stop);
    if (memcmp(name->p, "step", name->n) == 0) *out = jv_int(obj.r->step);
    if (out->t != JV_MISSING) return KA_STATUS_OK;
  }
  const struct jfunc *f = j_find_method(obj, name);
  if (!f) return KA_STATUS_OK;
  if (!f->fn && f->n_required < 0) return undefined_name(J, name, out); /* mutates: hidden */
  if (!f->fn)
    return j_fail(J, "attribute '%.*s' of %s is not supported", (int)name->n, name->p,
                  jv_type_name(obj));
  void *m;
  J_TRY(j_alloc(J, &m, sizeof(struct jmethod)));
  *(struct jmethod *)m = (struct jmethod){obj, f};
  *out = (struct jv){.t = JV_METHOD, .bound = m};
  return KA_STATUS_OK;
}

/* obj[key]; MISSING where Python raises TypeError or LookupError. */
static ka_status item(struct jrun *J, struct jv obj, struct jv key, struct jv *out) {
  *out = (struct jv){.t = JV_MISSING};
  if (obj.t == JV_DICT) {
    struct jpair *found = NULL;
    if (key.t == JV_LIST || key.t == JV_DICT) return KA_STATUS_OK;
    J_TRY(j_dict_find(J, obj.d, key, &found));
    if (found) *out = found->v;
    return KA_STATUS_OK;
  }
  bool indexable = obj.t == JV_STR || obj.t == JV_LIST || obj.t == JV_TUPLE || obj.t == JV_RANGE;
  if (!indexable || !jv_is_int(key)) return KA_STATUS_OK;
  int64_t i = jv_as_int(key), n = 0;
  J_TRY(j_len(J, obj, &n));
  if (i < 0) i += n;
  if (i < 0 || i >= n) return KA_STATUS_OK;
  if (obj.t == JV_RANGE) {
    *out = jv_int(obj.r->start + i * obj.r->step);
  } else if (obj.t == JV_STR) {
    size_t from = j_char_offset(obj.s, i), to = from + 1;
    while (to < obj.s->n && (obj.s->p[to] & 0xc0) == 0x80) to++;
    J_TRY(j_steps(J, from));
    J_TRY(j_str_view(J, out, obj.s->p + from, to - from));
    out->s->markup = obj.s->markup;
  } else {
    *out = obj.q->v[i];
  }
  return KA_STATUS_OK;
}

ka_status j_getattr(struct jrun *J, struct jv obj, const struct jstr *name, struct jv *out) {
  if (obj.t == JV_UNDEF)
    return j_fail(J, "'%s' is undefined, so it has no attribute '%.*s'", obj.undef, (int)name->n,
                  name->p);
  struct jv self = obj;
  J_TRY(attribute(J, self, name, out));
  if (out->t != JV_MISSING) return KA_STATUS_OK;
  struct jstr copy = *name;
  J_TRY(item(J, self, (struct jv){.t = JV_STR, .s = &copy}, out));
  if (out->t != JV_MISSING) return KA_STATUS_OK;
  return undefined_name(J, name, out);
}

ka_status j_getitem(struct jrun *J, struct jv obj, struct jv key, struct jv *out) {
  if (obj.t == JV_UNDEF) return j_fail(J, "'%s' is undefined, so it has no items", obj.undef);
  struct jv self = obj;
  J_TRY(item(J, self, key, out));
  if (out->t != JV_MISSING) return KA_STATUS_OK;
  if (key.t == JV_STR) {
    J_TRY(attribute(J, self, key.s, out));
    return out->t != JV_MISSING ? KA_STATUS_OK : undefined_name(J, key.s, out);
  }
  *out = jv_undef("an item");
  return KA_STATUS_OK;
}

ka_status j_getpath(struct jrun *J, struct jv obj, struct jv path, struct jv *out) {
  *out = obj;
  if (path.t == JV_NONE || path.t == JV_MISSING) return KA_STATUS_OK;
  if (path.t != JV_STR) return j_getitem(J, obj, path, out);
  const char *p = path.s->p;
  for (size_t i = 0, start = 0; i <= path.s->n; i++) {
    if (i < path.s->n && p[i] != '.') continue;
    struct jv key;
    J_TRY(j_str(J, &key, p + start, i - start));
    if (ju_is('d', key.s->p, key.s->n)) {
      int64_t index;
      if (!ka_parse_i64(key.s->p, &index)) return j_fail(J, "this index is not supported");
      key = jv_int(index);
    }
    J_TRY(j_getitem(J, *out, key, out));
    start = i + 1;
  }
  return KA_STATUS_OK;
}

/* --- slices ----------------------------------------------------------------------------------- */

static ka_status slice_bound(struct jrun *J, struct jv v, int64_t dflt, int64_t *out) {
  *out = dflt;
  if (v.t == JV_NONE || v.t == JV_MISSING) return KA_STATUS_OK;
  if (!jv_is_int(v)) return j_fail(J, "slice bounds are integers, got %s", jv_type_name(v));
  *out = jv_as_int(v);
  return KA_STATUS_OK;
}

static int64_t clip(int64_t i, int64_t n, int64_t lo, int64_t hi) {
  if (i < 0) i = i < -n ? -n - 1 + n : i + n;
  return i < lo ? lo : i > hi ? hi : i;
}

/* Every step-th item from start towards stop: `count` of them. */
static ka_status take(struct jrun *J, struct jv obj, int64_t start, int64_t stop, int64_t step,
                      int64_t count, struct jv *out) {
  if (obj.t == JV_RANGE) {
    void *r;
    J_TRY(j_alloc(J, &r, sizeof(struct jrange)));
    int64_t s = 0;
    if (__builtin_mul_overflow(obj.r->step, step, &s))
      return j_fail(J, "the step does not fit into 64 bits");
    *(struct jrange *)r = (struct jrange){obj.r->start + start * obj.r->step,
                                          obj.r->start + stop * obj.r->step, s, count};
    *out = (struct jv){.t = JV_RANGE, .r = r};
    return KA_STATUS_OK;
  }
  if (obj.t == JV_STR && step == 1) {
    size_t from = j_char_offset(obj.s, start), to = j_char_offset(obj.s, start + count);
    J_TRY(j_steps(J, to));
    J_TRY(j_str_view(J, out, obj.s->p + from, to - from));
    out->s->markup = obj.s->markup;
    return KA_STATUS_OK;
  }
  struct jv list = obj;
  if (obj.t == JV_STR) J_TRY(j_items(J, obj, &list));
  J_TRY(j_seq(J, out, obj.t == JV_TUPLE ? JV_TUPLE : JV_LIST, count));
  for (int64_t i = 0; i < count; i++) J_TRY(j_seq_add(J, *out, list.q->v[start + i * step]));
  J_TRY(j_steps(J, (size_t)count * 16));
  if (obj.t != JV_STR) return KA_STATUS_OK;
  struct jbuf b = {0};
  for (int64_t i = 0; i < count; i++) J_TRY(j_put_str(J, &b, out->q->v[i]));
  return j_str_buf(J, out, &b);
}

ka_status j_slice(struct jrun *J, struct jv obj, const struct jv bounds[3], struct jv *out) {
  if (obj.t == JV_UNDEF) return j_fail(J, "'%s' is undefined", obj.undef);
  if (obj.t != JV_STR && obj.t != JV_LIST && obj.t != JV_TUPLE && obj.t != JV_RANGE)
    return j_fail(J, "a %s cannot be sliced", jv_type_name(obj));
  int64_t n = 0, start = 0, stop = 0, step = 1;
  J_TRY(j_len(J, obj, &n));
  J_TRY(slice_bound(J, bounds[2], 1, &step));
  if (step == 0) return j_fail(J, "slice step cannot be zero");
  bool down = step < 0;
  J_TRY(slice_bound(J, bounds[0], down ? INT64_MAX : 0, &start));
  J_TRY(slice_bound(J, bounds[1], down ? INT64_MIN : INT64_MAX, &stop));
  start = clip(start, n, down ? -1 : 0, down ? n - 1 : n);
  bool open = down && (bounds[1].t == JV_NONE || bounds[1].t == JV_MISSING);
  stop = open ? -1 : clip(stop, n, down ? -1 : 0, down ? n - 1 : n);
  int64_t count = 0;
  if (!down && stop > start) count = (stop - start - 1) / step + 1;
  if (down && stop < start) count = step == INT64_MIN ? 1 : (start - stop - 1) / -step + 1;
  return take(J, obj, start, stop, step, count, out);
}

/* --- calls ------------------------------------------------------------------------------------ */

static ka_status add_pos(struct jrun *J, struct jargs *args, struct jv v) {
  void *p = args->pos;
  J_TRY(j_push(J, &p, args->n_pos, &args->pos_cap, sizeof v));
  args->pos = p;
  args->pos[args->n_pos++] = v;
  return KA_STATUS_OK;
}

static ka_status add_kw(struct jrun *J, struct jargs *args, struct jstr *k, struct jv v) {
  for (int64_t i = 0; i < args->n_kw; i++)
    if (args->kw[i].k->n == k->n && memcmp(args->kw[i].k->p, k->p, k->n) == 0)
      return j_fail(J, "argument '%.*s' is given twice", (int)k->n, k->p);
  void *p = args->kw;
  J_TRY(j_push(J, &p, args->n_kw, &args->kw_cap, sizeof *args->kw));
  args->kw = p;
  args->kw[args->n_kw++] = (struct jkw){k, v};
  return KA_STATUS_OK;
}

ka_status j_args(struct jrun *J, const struct jnode *list, struct jscope *sc, struct jargs *out) {
  *out = (struct jargs){0};
  for (const struct jnode *n = list; n; n = n->next) {
    struct jv v, items;
    J_TRY(j_eval(J, n->a, sc, &v));
    J->at = n->at;
    if (n->op == JARG_POS) {
      J_TRY(add_pos(J, out, v));
    } else if (n->op == JARG_KEYWORD) {
      J_TRY(add_kw(J, out, n->value.s, v));
    } else if (n->op == JARG_STAR) {
      J_TRY(j_items(J, v, &items));
      for (int64_t i = 0; i < items.q->n; i++) J_TRY(add_pos(J, out, items.q->v[i]));
    } else {
      if (v.t != JV_DICT) return j_fail(J, "** needs a mapping, got %s", jv_type_name(v));
      for (int64_t i = 0; i < v.d->n; i++) {
        if (v.d->p[i].k.t != JV_STR) return j_fail(J, "keywords must be strings");
        J_TRY(add_kw(J, out, v.d->p[i].k.s, v.d->p[i].v));
      }
    }
  }
  return KA_STATUS_OK;
}

static ka_status bind(struct jrun *J, const struct jfunc *f, const struct jargs *args,
                      struct jv *a) {
  const char *p = f->params;
  bool positional_only = *p == '/';
  if (positional_only) p++;
  int n = 0;
  int64_t used = 0;
  while (*p) {
    size_t len = strcspn(p, " ");
    a[n] = (struct jv){.t = JV_MISSING};
    if (n < args->n_pos) a[n] = args->pos[n];
    for (int64_t k = 0; k < args->n_kw && !positional_only; k++) {
      const struct jkw *kw = &args->kw[k];
      if (kw->k->n != len || memcmp(kw->k->p, p, len) != 0) continue;
      if (n < args->n_pos)
        return j_fail(J, "%s: argument '%.*s' is given twice", f->name, (int)len, p);
      a[n] = kw->v;
      used++;
    }
    if (n < f->n_required && a[n].t == JV_MISSING)
      return j_fail(J, "%s: argument '%.*s' is missing", f->name, (int)len, p);
    n++;
    p += len;
    if (*p == ' ') p++;
  }
  if (args->n_pos > n)
    return j_fail(J, "%s: takes at most %d arguments, got %lld", f->name, n,
                  (long long)args->n_pos);
  if (used < args->n_kw) return j_fail(J, "%s: unknown keyword argument", f->name);
  return KA_STATUS_OK;
}

ka_status j_call_func(struct jrun *J, const struct jfunc *f, struct jv self,
                      const struct jargs *args, struct jv *out) {
  struct jv a[J_MAX_PARAMS];
  *out = jv_none();
  if (f->params) J_TRY(bind(J, f, args, a));
  J_TRY(j_enter(J));
  J_TRY(f->fn(J, out, self, f->params ? a : NULL, args));
  j_leave(J);
  return KA_STATUS_OK;
}

ka_status j_call(struct jrun *J, struct jv callee, const struct jargs *args, struct jv *out) {
  switch (callee.t) {
  case JV_UNDEF:
    return j_fail(J, "'%s' is undefined and cannot be called", callee.undef);
  case JV_MACRO:
    return j_macro_call(J, callee.m, args, out);
  case JV_GLOBAL:
    return j_call_func(J, callee.g, callee, args, out);
  case JV_METHOD:
    return j_call_func(J, callee.bound->f, callee.bound->self, args, out);
  case JV_LOOP:
    if (args->n_pos != 1 || args->n_kw > 0) return j_fail(J, "loop() takes one argument");
    return j_loop_call(J, callee.loop, args->pos[0], out);
  case JV_JOINER:
    if (args->n_pos + args->n_kw > 0) return j_fail(J, "a joiner takes no arguments");
    if (!callee.joiner->used)
      J_TRY(j_str_view(J, out, "", 0));
    else
      *out = callee.joiner->sep;
    callee.joiner->used = true;
    return KA_STATUS_OK;
  default:
    return j_fail(J, "a %s cannot be called", jv_type_name(callee));
  }
}

/* --- scopes ----------------------------------------------------------------------------------- */

ka_status j_scope(struct jrun *J, struct jscope *parent, struct jscope **out) {
  void *p;
  J_TRY(j_alloc(J, &p, sizeof **out));
  *out = p;
  (*out)->parent = parent;
  return KA_STATUS_OK;
}

ka_status j_scope_set(struct jrun *J, struct jscope *sc, int id, struct jv v) {
  for (int64_t i = 0; i < sc->n; i++) {
    if (sc->vars[i].id != id) continue;
    sc->vars[i].v = v;
    return KA_STATUS_OK;
  }
  void *vars = sc->vars;
  J_TRY(j_push(J, &vars, sc->n, &sc->cap, sizeof *sc->vars));
  sc->vars = vars;
  sc->vars[sc->n++] = (struct jvar){id, v};
  return KA_STATUS_OK;
}
