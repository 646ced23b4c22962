/* SPDX-License-Identifier: Apache-2.0
 * Expressions: tokens to tree. The precedences are Jinja's, which are not Python's: filters and
 * tests bind tighter than every operator, ~ stands between + and *, ** groups to the left. */
#include "python/jinja/core.h"

#include <stdio.h>

static ka_status parse_unary(struct jparser *J, struct jnode **out, bool with_filter);

static ka_status binary(struct jparser *J, struct jnode **left, enum jkind kind, int op,
                        struct jnode *right, uint32_t at) {
  struct jnode *n = NULL;
  J_TRY(jp_node(J, &n, kind, at));
  n->op = op;
  n->a = *left;
  n->b = right;
  *left = n;
  return KA_STATUS_OK;
}

static ka_status parse_pow(struct jparser *J, struct jnode **out) {
  J_TRY(parse_unary(J, out, true));
  while (J->tok->type == JOP_POW) {
    uint32_t at = J->tok++->at;
    struct jnode *right = NULL;
    J_TRY(parse_unary(J, &right, true));
    J_TRY(binary(J, out, JN_BIN, JOP_POW, right, at));
  }
  return KA_STATUS_OK;
}

static ka_status parse_product(struct jparser *J, struct jnode **out) {
  J_TRY(parse_pow(J, out));
  for (;;) {
    int op = J->tok->type;
    if (op != JOP_MUL && op != JOP_DIV && op != JOP_FLOORDIV && op != JOP_MOD) return KA_STATUS_OK;
    uint32_t at = J->tok++->at;
    struct jnode *right = NULL;
    J_TRY(parse_pow(J, &right));
    J_TRY(binary(J, out, JN_BIN, op, right, at));
  }
}

static ka_status parse_concat(struct jparser *J, struct jnode **out) {
  J_TRY(parse_product(J, out));
  if (J->tok->type != '~') return KA_STATUS_OK;
  struct jnode *n = NULL;
  J_TRY(jp_node(J, &n, JN_CONCAT, J->tok->at));
  n->list = *out;
  struct jnode **last = &n->list->next;
  while (jp_skip(J, '~')) {
    J_TRY(parse_product(J, last));
    last = &(*last)->next;
  }
  *out = n;
  return KA_STATUS_OK;
}

static ka_status parse_sum(struct jparser *J, struct jnode **out) {
  J_TRY(parse_concat(J, out));
  while (J->tok->type == '+' || J->tok->type == '-') {
    int op = J->tok->type;
    uint32_t at = J->tok++->at;
    struct jnode *right = NULL;
    J_TRY(parse_concat(J, &right));
    J_TRY(binary(J, out, JN_BIN, op, right, at));
  }
  return KA_STATUS_OK;
}

/* The comparison operator that starts here, 0 if none; skips it. */
static int comparison(struct jparser *J) {
  int type = J->tok->type;
  if (type == JOP_EQ || type == JOP_NE || type == '<' || type == '>' || type == JOP_LE ||
      type == JOP_GE) {
    J->tok++;
    return type;
  }
  if (jp_skip_name(J, "in")) return JOP_IN;
  if (!jp_is_name(J, "not")) return 0;
  J->tok++;
  if (jp_skip_name(J, "in")) return JOP_NOTIN;
  J->tok--;
  return 0;
}

static ka_status parse_compare(struct jparser *J, struct jnode **out) {
  J_TRY(parse_sum(J, out));
  struct jnode *n = NULL, **last = NULL;
  for (;;) {
    uint32_t at = J->tok->at;
    int op = comparison(J);
    if (!op) return KA_STATUS_OK;
    if (!n) {
      J_TRY(jp_node(J, &n, JN_COMPARE, at));
      n->a = *out;
      last = &n->list;
      *out = n;
    }
    J_TRY(jp_node(J, last, JN_OPERAND, at));
    (*last)->op = op;
    J_TRY(parse_sum(J, &(*last)->a));
    last = &(*last)->next;
  }
}

static ka_status parse_not(struct jparser *J, struct jnode **out) {
  if (!jp_is_name(J, "not")) return parse_compare(J, out);
  J_TRY(jp_node(J, out, JN_NOT, J->tok++->at));
  J_TRY(jp_enter(J));
  J_TRY(parse_not(J, &(*out)->a));
  J->depth--;
  return KA_STATUS_OK;
}

static ka_status parse_and(struct jparser *J, struct jnode **out) {
  J_TRY(parse_not(J, out));
  while (jp_is_name(J, "and")) {
    uint32_t at = J->tok++->at;
    struct jnode *right = NULL;
    J_TRY(parse_not(J, &right));
    J_TRY(binary(J, out, JN_AND, 0, right, at));
  }
  return KA_STATUS_OK;
}

static ka_status parse_or(struct jparser *J, struct jnode **out) {
  J_TRY(parse_and(J, out));
  while (jp_is_name(J, "or")) {
    uint32_t at = J->tok++->at;
    struct jnode *right = NULL;
    J_TRY(parse_and(J, &right));
    J_TRY(binary(J, out, JN_OR, 0, right, at));
  }
  return KA_STATUS_OK;
}

ka_status jp_expr(struct jparser *J, struct jnode **out, bool with_cond) {
  const struct jnode *unknown_before = J->unknown;
  *out = NULL;
  J_TRY(jp_enter(J));
  J_TRY(parse_or(J, out));
  if (with_cond && jp_is_name(J, "if")) J->unknown = unknown_before; /* not run for certain */
  while (with_cond && jp_is_name(J, "if")) {
    struct jnode *n = NULL;
    J_TRY(jp_node(J, &n, JN_COND, J->tok++->at));
    n->b = *out;
    J->soft++;
    J_TRY(parse_or(J, &n->a));
    if (jp_skip_name(J, "else")) J_TRY(jp_expr(J, &n->c, true));
    J->soft--;
    *out = n;
  }
  J->depth--;
  return KA_STATUS_OK;
}

ka_status jp_tuple(struct jparser *J, struct jnode **out, bool with_cond, const char *end) {
  uint32_t at = J->tok->at;
  struct jnode *first = NULL, **last = &first;
  bool is_tuple = false;
  for (;;) {
    int type = J->tok->type;
    if (type == JT_PRINT_END || type == JT_BLOCK_END || type == ')' || (end && jp_is_name(J, end)))
      break;
    J_TRY(jp_expr(J, last, with_cond));
    last = &(*last)->next;
    if (!jp_skip(J, ',')) break;
    is_tuple = true;
  }
  if (!is_tuple && first) {
    *out = first;
    return KA_STATUS_OK;
  }
  char buf[48];
  if (!is_tuple && J->tok->type != ')')
    return jp_fail(J, J->tok->at, "expected an expression, got %s", jp_describe(J->tok, buf));
  J_TRY(jp_node(J, out, JN_TUPLE, at));
  (*out)->list = first;
  return KA_STATUS_OK;
}

static ka_status parse_list(struct jparser *J, struct jnode **out, enum jkind kind, int end) {
  J_TRY(jp_node(J, out, kind, J->tok++->at));
  struct jnode **last = &(*out)->list;
  while (J->tok->type != end) {
    if (last != &(*out)->list) J_TRY(jp_expect(J, ','));
    if (J->tok->type == end) break;
    if (kind == JN_DICT) {
      J_TRY(jp_node(J, last, JN_PAIR, J->tok->at));
      J_TRY(jp_expr(J, &(*last)->a, true));
      J_TRY(jp_expect(J, ':'));
      J_TRY(jp_expr(J, &(*last)->b, true));
    } else {
      J_TRY(jp_expr(J, last, true));
    }
    last = &(*last)->next;
  }
  J->tok++;
  return KA_STATUS_OK;
}

static ka_status parse_name(struct jparser *J, struct jnode **out) {
  static const struct {
    const char *word;
    struct jv value;
  } constants[] = {{"true", {.t = JV_BOOL, .b = true}},
                   {"True", {.t = JV_BOOL, .b = true}},
                   {"false", {.t = JV_BOOL, .b = false}},
                   {"False", {.t = JV_BOOL, .b = false}},
                   {"none", {.t = JV_NONE}},
                   {"None", {.t = JV_NONE}}};
  for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
    if (!jp_is_name(J, constants[i].word)) continue;
    J_TRY(jp_node(J, out, JN_CONST, J->tok++->at));
    (*out)->value = constants[i].value;
    return KA_STATUS_OK;
  }
  J_TRY(jp_node(J, out, JN_NAME, J->tok->at));
  if (jp_is_name(J, "caller")) J->macro_flags |= JM_CALLER;
  if (jp_is_name(J, "kwargs")) J->macro_flags |= JM_KWARGS;
  if (jp_is_name(J, "varargs")) J->macro_flags |= JM_VARARGS;
  if (jp_is_name(J, "self") || jp_is_name(J, "super"))
    return jp_fail(J, J->tok->at, "'%s' (template blocks) is not supported",
                   J->tok->s[1] == 'e' ? "self" : "super");
  J_TRY(jp_intern(J, &(*out)->id, J->tok->s, J->tok->n));
  J->tok++;
  return KA_STATUS_OK;
}

/* Neighbouring strings are one. */
static ka_status parse_string(struct jparser *J, struct jnode **out) {
  J_TRY(jp_node(J, out, JN_CONST, J->tok->at));
  size_t n = 0, o = 0;
  for (struct jtok *k = J->tok; k->type == JT_STRING; k++) n += k->n;
  void *text;
  J_TRY(jm_alloc(J->ctx, &J->t->mem, &text, n + 1));
  for (; J->tok->type == JT_STRING; o += J->tok->n, J->tok++)
    if (J->tok->n > 0) memcpy((char *)text + o, J->tok->s, J->tok->n);
  return jp_str(J, &(*out)->value, text, n);
}

static ka_status parse_primary(struct jparser *J, struct jnode **out) {
  const struct jtok *k = J->tok;
  char buf[48];
  switch (k->type) {
  case JT_NAME:
    return parse_name(J, out);
  case JT_STRING:
    return parse_string(J, out);
  case JT_INT:
  case JT_FLOAT:
    J_TRY(jp_node(J, out, JN_CONST, k->at));
    (*out)->value = k->type == JT_INT ? jv_int(k->i) : jv_float(k->f);
    J->tok++;
    return KA_STATUS_OK;
  case '(':
    J->tok++;
    J_TRY(jp_tuple(J, out, true, NULL));
    return jp_expect(J, ')');
  case '[':
    return parse_list(J, out, JN_LIST, ']');
  case '{':
    return parse_list(J, out, JN_DICT, '}');
  default:
    return jp_fail(J, k->at, "unexpected %s", jp_describe(k, buf));
  }
}

/* What stands between [ and ]: an expression, or a:b:c with parts left out. */
static ka_status parse_subscript(struct jparser *J, struct jnode **node) {
  uint32_t at = J->tok++->at;
  struct jnode *n = NULL, *part[3] = {NULL, NULL, NULL};
  int n_parts = 0;
  for (;; n_parts++) {
    int type = J->tok->type;
    if (n_parts < 3 && type != ':' && type != ']') J_TRY(jp_expr(J, &part[n_parts], true));
    if (J->tok->type != ':') break;
    if (n_parts == 2) break;
    J->tok++;
  }
  if (J->tok->type == ',') return jp_fail(J, J->tok->at, "several subscripts are not supported");
  if (n_parts == 0 && !part[0]) return jp_fail(J, at, "empty subscript");
  J_TRY(jp_node(J, &n, n_parts > 0 ? JN_SLICE : JN_GETITEM, at));
  n->a = *node;
  n->b = part[0];
  n->c = part[1];
  n->d = part[2];
  *node = n;
  return jp_expect(J, ']');
}

static ka_status parse_dot(struct jparser *J, struct jnode **node) {
  uint32_t at = J->tok++->at;
  struct jnode *n = NULL;
  const struct jtok *k = J->tok;
  if (k->type == JT_NAME) {
    J_TRY(jp_node(J, &n, JN_GETATTR, k->at));
    J_TRY(jp_str(J, &n->value, k->s, k->n));
  } else if (k->type == JT_INT) {
    J_TRY(jp_node(J, &n, JN_GETITEM, at));
    J_TRY(jp_node(J, &n->b, JN_CONST, k->at));
    n->b->value = jv_int(k->i);
  } else {
    return jp_fail(J, k->at, "expected a name or number behind the dot");
  }
  n->a = *node;
  *node = n;
  J->tok++;
  return KA_STATUS_OK;
}

/* "(" arguments ")" as JN_ARG nodes. */
static ka_status parse_args(struct jparser *J, struct jnode **list) {
  J->tok++;
  bool had_kw = false, had_star = false, had_star2 = false;
  for (bool first = true; J->tok->type != ')'; first = false) {
    if (!first) {
      J_TRY(jp_expect(J, ','));
      if (J->tok->type == ')') break;
    }
    struct jnode *n = NULL;
    J_TRY(jp_node(J, &n, JN_ARG, J->tok->at));
    bool bad;
    if (J->tok->type == '*' || J->tok->type == JOP_POW) {
      n->op = J->tok->type == '*' ? JARG_STAR : JARG_STAR2;
      bad = n->op == JARG_STAR ? had_star || had_star2 : had_star2;
      had_star |= n->op == JARG_STAR;
      had_star2 |= n->op == JARG_STAR2;
      J->tok++;
    } else if (J->tok->type == JT_NAME && J->tok[1].type == '=') {
      n->op = JARG_KEYWORD;
      bad = had_star2;
      had_kw = true;
      J_TRY(jp_str(J, &n->value, J->tok->s, J->tok->n));
      J->tok += 2;
    } else {
      n->op = JARG_POS;
      bad = had_kw || had_star || had_star2;
    }
    if (bad) return jp_fail(J, n->at, "wrong order of arguments in a call");
    J_TRY(jp_expr(J, &n->a, true));
    *list = n;
    list = &n->next;
  }
  return jp_expect(J, ')');
}

static ka_status parse_call(struct jparser *J, struct jnode **node) {
  struct jnode *n = NULL;
  J_TRY(jp_node(J, &n, JN_CALL, J->tok->at));
  n->a = *node;
  *node = n;
  return parse_args(J, &n->list);
}

static ka_status parse_postfix(struct jparser *J, struct jnode **node) {
  for (int n = 0;; n++) {
    if (n > 200) return jp_fail(J, J->tok->at, "too many attributes and calls in a row");
    if (J->tok->type == '.')
      J_TRY(parse_dot(J, node));
    else if (J->tok->type == '[')
      J_TRY(parse_subscript(J, node));
    else if (J->tok->type == '(')
      J_TRY(parse_call(J, node));
    else
      return KA_STATUS_OK;
  }
}

/* Filter or test NAME in the current place. Jinja refuses unknown names when it compiles, except
 * inside an if, where it does so when the place is reached. */
static ka_status named_function(struct jparser *J, struct jnode *n, bool is_test) {
  const struct jtok *k = J->tok;
  if (k->type != JT_NAME)
    return jp_fail(J, k->at, "expected the name of a %s", is_test ? "test" : "filter");
  n->at = k->at;
  n->func = is_test ? j_find_test(k->s, k->n) : j_find_filter(J->t, k->s, k->n);
  J_TRY(jp_str(J, &n->value, k->s, k->n));
  if ((!n->func || !n->func->fn) && J->soft == 0 && !J->unknown) J->unknown = n;
  J->tok++;
  if (J->tok->type == '.') return jp_fail(J, J->tok->at, "dotted names are not supported");
  return KA_STATUS_OK;
}

ka_status jp_filters(struct jparser *J, struct jnode **node, bool start_inline) {
  while (start_inline || jp_skip(J, '|')) {
    start_inline = false;
    struct jnode *n = NULL;
    J_TRY(jp_node(J, &n, JN_FILTER, J->tok->at));
    n->a = *node;
    *node = n;
    J_TRY(named_function(J, n, false));
    if (J->tok->type == '(') J_TRY(parse_args(J, &n->list));
  }
  return KA_STATUS_OK;
}

static ka_status parse_test(struct jparser *J, struct jnode **node) {
  struct jnode *n = NULL, *negation = NULL;
  uint32_t at = J->tok++->at;
  if (jp_skip_name(J, "not")) J_TRY(jp_node(J, &negation, JN_NOT, at));
  J_TRY(jp_node(J, &n, JN_TEST, at));
  n->a = *node;
  J_TRY(named_function(J, n, true));
  int type = J->tok->type;
  if (type == '(') {
    J_TRY(parse_args(J, &n->list));
  } else if ((type == JT_NAME || type == JT_STRING || type == JT_INT || type == JT_FLOAT ||
              type == '[' || type == '{') &&
             !jp_is_name(J, "else") && !jp_is_name(J, "or") && !jp_is_name(J, "and")) {
    if (jp_is_name(J, "is")) return jp_fail(J, J->tok->at, "tests cannot be chained with 'is'");
    J_TRY(jp_node(J, &n->list, JN_ARG, J->tok->at));
    J_TRY(parse_primary(J, &n->list->a));
    J_TRY(parse_postfix(J, &n->list->a));
  }
  if (negation) negation->a = n;
  *node = negation ? negation : n;
  return KA_STATUS_OK;
}

static ka_status parse_filter_expr(struct jparser *J, struct jnode **node) {
  for (int n = 0;; n++) {
    if (n > 200) return jp_fail(J, J->tok->at, "too many filters in a row");
    if (J->tok->type == '|')
      J_TRY(jp_filters(J, node, false));
    else if (jp_is_name(J, "is"))
      J_TRY(parse_test(J, node));
    else if (J->tok->type == '(')
      J_TRY(parse_call(J, node));
    else
      return KA_STATUS_OK;
  }
}

static ka_status parse_unary(struct jparser *J, struct jnode **out, bool with_filter) {
  *out = NULL;
  J_TRY(jp_enter(J));
  int type = J->tok->type;
  if (type == '-' || type == '+') {
    J_TRY(jp_node(J, out, type == '-' ? JN_NEG : JN_POS, J->tok++->at));
    J_TRY(parse_unary(J, &(*out)->a, false));
  } else {
    J_TRY(parse_primary(J, out));
  }
  J_TRY(parse_postfix(J, out));
  if (with_filter) J_TRY(parse_filter_expr(J, out));
  J->depth--;
  return KA_STATUS_OK;
}

static ka_status check_target(struct jparser *J, struct jnode *n) {
  if (n->kind == JN_NAME) {
    if (J->n_loops > 0 && strcmp(J->t->names[n->id], "loop") == 0)
      return jp_fail(J, n->at, "the special variable 'loop' cannot be assigned to");
    return KA_STATUS_OK;
  }
  if (n->kind == JN_NSREF) return KA_STATUS_OK;
  if (n->kind != JN_TUPLE) return jp_fail(J, n->at, "cannot assign to this");
  for (struct jnode *part = n->list; part; part = part->next) J_TRY(check_target(J, part));
  return KA_STATUS_OK;
}

static ka_status target_part(struct jparser *J, struct jnode **out, bool with_ns) {
  J_TRY(parse_primary(J, out));
  if (!with_ns || (*out)->kind != JN_NAME || J->tok->type != '.') return KA_STATUS_OK;
  J->tok++;
  if (J->tok->type != JT_NAME) return jp_fail(J, J->tok->at, "expected an attribute name");
  (*out)->kind = JN_NSREF;
  J_TRY(jp_str(J, &(*out)->value, J->tok->s, J->tok->n));
  J->tok++;
  return KA_STATUS_OK;
}

ka_status jp_target(struct jparser *J, struct jnode **out, bool with_ns, const char *end) {
  struct jnode *first = NULL, **last = &first;
  uint32_t at = J->tok->at;
  bool is_tuple = false;
  for (;;) {
    int type = J->tok->type;
    if (type == JT_BLOCK_END || type == JT_PRINT_END || type == ')' || (end && jp_is_name(J, end)))
      break;
    J_TRY(target_part(J, last, with_ns));
    last = &(*last)->next;
    if (!jp_skip(J, ',')) break;
    is_tuple = true;
  }
  if (!first) return jp_fail(J, at, "expected a name to assign to");
  *out = first;
  if (is_tuple) {
    J_TRY(jp_node(J, out, JN_TUPLE, at));
    (*out)->list = first;
  }
  return check_target(J, *out);
}
