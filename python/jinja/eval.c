/* SPDX-License-Identifier: Apache-2.0
 * Expressions: tree to value. */
#include "python/jinja/core.h"

/* The undefined value of an inline if without an else, which no dialect minds. */
static const char no_else[] = "the inline if without an else";

static ka_status eval_name(struct jrun *J, int id, struct jscope *sc, struct jv *out) {
  for (; sc; sc = sc->parent) {
    for (int64_t i = 0; i < sc->n; i++) {
      if (sc->vars[i].id != id) continue;
      *out = sc->vars[i].v;
      return KA_STATUS_OK;
    }
    J->steps += sc->n / 16;
  }
  *out = J->globals[id];
  return KA_STATUS_OK;
}

static ka_status eval_seq(struct jrun *J, const struct jnode *n, struct jscope *sc,
                          struct jv *out) {
  struct jv seq, v;
  J_TRY(j_seq(J, &seq, n->kind == JN_LIST ? JV_LIST : JV_TUPLE, 0));
  for (const struct jnode *part = n->list; part; part = part->next) {
    J_TRY(j_eval(J, part, sc, &v));
    J_TRY(j_seq_add(J, seq, v));
  }
  *out = seq;
  return KA_STATUS_OK;
}

static ka_status eval_dict(struct jrun *J, const struct jnode *n, struct jscope *sc,
                           struct jv *out) {
  struct jv dict, k, v;
  J_TRY(j_dict(J, &dict));
  for (const struct jnode *pair = n->list; pair; pair = pair->next) {
    J_TRY(j_eval(J, pair->a, sc, &k));
    J_TRY(j_eval(J, pair->b, sc, &v));
    J->at = pair->at;
    J_TRY(j_dict_set(J, dict.d, k, v));
  }
  *out = dict;
  return KA_STATUS_OK;
}

static ka_status eval_slice(struct jrun *J, const struct jnode *n, struct jscope *sc,
                            struct jv *out) {
  struct jv obj, bounds[3] = {{.t = JV_MISSING}, {.t = JV_MISSING}, {.t = JV_MISSING}};
  const struct jnode *parts[3] = {n->b, n->c, n->d};
  J_TRY(j_eval(J, n->a, sc, &obj));
  for (int i = 0; i < 3; i++)
    if (parts[i]) J_TRY(j_eval(J, parts[i], sc, &bounds[i]));
  J->at = n->at;
  return j_slice(J, obj, bounds, out);
}

/* `is defined`, `is undefined` and `default` look at undefined values. */
static bool takes_undef(const struct jnode *n) {
  static const char *const names[] = {"defined", "undefined", "default", "d"};
  for (size_t i = 0; n->func && i < sizeof names / sizeof *names; i++)
    if (strcmp(n->func->name, names[i]) == 0) return true;
  return false;
}

static ka_status eval_function(struct jrun *J, const struct jnode *n, struct jscope *sc,
                               struct jv *out) {
  struct jv self = J->captured;
  struct jargs args;
  J->may_be_undef = n->a && takes_undef(n);
  if (n->a) J_TRY(j_eval(J, n->a, sc, &self));
  J_TRY(j_args(J, n->list, sc, &args));
  J->at = n->at;
  if (!n->func || !n->func->fn)
    return j_fail(J, "%s '%.*s' is not %s", n->kind == JN_TEST ? "test" : "filter",
                  (int)n->value.s->n, n->value.s->p, n->func ? "supported" : "known");
  return j_call_func(J, n->func, self, &args, out);
}

static ka_status eval_call(struct jrun *J, const struct jnode *n, struct jscope *sc,
                           struct jv *out) {
  struct jv callee;
  struct jargs args;
  J_TRY(j_eval(J, n->a, sc, &callee));
  J_TRY(j_args(J, n->list, sc, &args));
  J->at = n->at;
  return j_call(J, callee, &args, out);
}

static ka_status compare(struct jrun *J, int op, struct jv a, struct jv b, bool *out) {
  switch (op) {
  case JOP_EQ:
    return j_equal(J, a, b, out);
  case JOP_NE:
    J_TRY(j_equal(J, a, b, out));
    *out = !*out;
    return KA_STATUS_OK;
  case JOP_IN:
    return j_contains(J, a, b, out);
  case JOP_NOTIN:
    J_TRY(j_contains(J, a, b, out));
    *out = !*out;
    return KA_STATUS_OK;
  default:
    return j_order(J, op, a, b, out);
  }
}

static ka_status eval_compare(struct jrun *J, const struct jnode *n, struct jscope *sc,
                              struct jv *out) {
  struct jv left, right;
  J_TRY(j_eval(J, n->a, sc, &left));
  bool holds = true;
  for (const struct jnode *part = n->list; part && holds; part = part->next) {
    J_TRY(j_eval(J, part->a, sc, &right));
    J->at = part->at;
    J_TRY(compare(J, part->op, left, right, &holds));
    left = right;
  }
  *out = jv_bool(holds);
  return KA_STATUS_OK;
}

static ka_status eval_concat(struct jrun *J, const struct jnode *n, struct jscope *sc,
                             struct jv *out) {
  struct jbuf b = {0};
  struct jv v;
  for (const struct jnode *part = n->list; part; part = part->next) {
    J_TRY(j_eval(J, part, sc, &v));
    J->at = part->at;
    J_TRY(j_put_str(J, &b, v));
  }
  return j_str_buf(J, out, &b);
}

static ka_status eval_sign(struct jrun *J, const struct jnode *n, struct jscope *sc,
                           struct jv *out) {
  struct jv v;
  J_TRY(j_eval(J, n->a, sc, &v));
  J->at = n->at;
  if (v.t == JV_UNDEF) return j_fail(J, "'%s' is undefined", v.undef);
  if (!jv_is_number(v)) return j_fail(J, "a %s has no sign", jv_type_name(v));
  if (v.t == JV_FLOAT)
    *out = jv_float(n->kind == JN_NEG ? -v.f : v.f);
  else if (n->kind == JN_NEG)
    return j_binary(J, JOP_SUB, jv_int(0), v, out);
  else
    *out = jv_int(jv_as_int(v));
  return KA_STATUS_OK;
}

static ka_status eval_choice(struct jrun *J, const struct jnode *n, struct jscope *sc,
                             struct jv *out) {
  struct jv v;
  J_TRY(j_eval(J, n->a, sc, &v));
  bool yes = j_truth(v);
  switch (n->kind) {
  case JN_NOT:
    *out = jv_bool(!yes);
    return KA_STATUS_OK;
  case JN_AND:
  case JN_OR:
    if (yes == (n->kind == JN_AND)) return j_eval(J, n->b, sc, out);
    *out = v;
    return KA_STATUS_OK;
  default: /* JN_COND */
    if (yes) return j_eval(J, n->b, sc, out);
    *out = jv_undef(no_else);
    return n->c ? j_eval(J, n->c, sc, out) : KA_STATUS_OK;
  }
}

static ka_status eval_node(struct jrun *J, const struct jnode *n, struct jscope *sc,
                           struct jv *out) {
  struct jv a, b;
  switch (n->kind) {
  case JN_CONST:
    *out = n->value;
    return KA_STATUS_OK;
  case JN_NAME:
    return eval_name(J, n->id, sc, out);
  case JN_LIST:
  case JN_TUPLE:
    return eval_seq(J, n, sc, out);
  case JN_DICT:
    return eval_dict(J, n, sc, out);
  case JN_GETATTR:
    J_TRY(j_eval(J, n->a, sc, &a));
    J->at = n->at;
    return j_getattr(J, a, n->value.s, out);
  case JN_GETITEM:
    J_TRY(j_eval(J, n->a, sc, &a));
    J_TRY(j_eval(J, n->b, sc, &b));
    J->at = n->at;
    return j_getitem(J, a, b, out);
  case JN_SLICE:
    return eval_slice(J, n, sc, out);
  case JN_CALL:
    return eval_call(J, n, sc, out);
  case JN_FILTER:
  case JN_TEST:
    return eval_function(J, n, sc, out);
  case JN_NOT:
  case JN_AND:
  case JN_OR:
  case JN_COND:
    return eval_choice(J, n, sc, out);
  case JN_NEG:
  case JN_POS:
    return eval_sign(J, n, sc, out);
  case JN_BIN:
    J_TRY(j_eval(J, n->a, sc, &a));
    J_TRY(j_eval(J, n->b, sc, &b));
    J->at = n->at;
    return j_binary(J, n->op, a, b, out);
  case JN_CONCAT:
    return eval_concat(J, n, sc, out);
  case JN_COMPARE:
    return eval_compare(J, n, sc, out);
  default:
    return j_fail(J, "this is no expression");
  }
}

bool j_forbidden(const struct jrun *J, struct jv v) {
  return v.t == JV_UNDEF && v.undef != no_else && J->t && J->t->dialect == KA_JINJA_TASK;
}

ka_status j_eval(struct jrun *J, const struct jnode *n, struct jscope *sc, struct jv *out) {
  bool strict = !J->may_be_undef;
  *out = jv_none();
  J->may_be_undef = false;
  J->at = n->at;
  J_TRY(j_enter(J));
  J_TRY(eval_node(J, n, sc, out));
  j_leave(J);
  if (strict && j_forbidden(J, *out)) {
    J->at = n->at;
    return j_fail(J, "'%s' is undefined", out->undef);
  }
  return KA_STATUS_OK;
}
