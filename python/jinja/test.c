/* SPDX-License-Identifier: Apache-2.0
 * Tests: what stands behind "is". */
#include "python/jinja/core.h"

#define TEST(name)                                                                                 \
  static ka_status name(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,        \
                        const struct jargs *args)
#define UNUSED(x) ((void)(x))
/* A test of the value's type alone. */
#define TYPE_TEST(name, cond)                                                                      \
  TEST(name) {                                                                                     \
    UNUSED(J);                                                                                     \
    UNUSED(a);                                                                                     \
    UNUSED(args);                                                                                  \
    *out = jv_bool(cond);                                                                          \
    return KA_STATUS_OK;                                                                           \
  }

TYPE_TEST(t_defined, self.t != JV_UNDEF)
TYPE_TEST(t_undefined, self.t == JV_UNDEF)
TYPE_TEST(t_none, self.t == JV_NONE)
TYPE_TEST(t_boolean, self.t == JV_BOOL)
TYPE_TEST(t_true, self.t == JV_BOOL && self.b)
TYPE_TEST(t_false, self.t == JV_BOOL && !self.b)
TYPE_TEST(t_integer, self.t == JV_INT)
TYPE_TEST(t_float, self.t == JV_FLOAT)
TYPE_TEST(t_number, jv_is_number(self))
TYPE_TEST(t_string, self.t == JV_STR)
TYPE_TEST(t_mapping, self.t == JV_DICT)
TYPE_TEST(t_iterable, j_iterable(self))
TYPE_TEST(t_sequence, self.t == JV_UNDEF || self.t == JV_STR || self.t == JV_LIST ||
                          self.t == JV_TUPLE || self.t == JV_DICT || self.t == JV_RANGE)
TYPE_TEST(t_callable, self.t == JV_UNDEF || self.t == JV_MACRO || self.t == JV_GLOBAL ||
                          self.t == JV_METHOD || self.t == JV_LOOP || self.t == JV_JOINER)
TYPE_TEST(t_escaped, self.t == JV_STR && self.s->markup)

static ka_status remainder_is(struct jrun *J, struct jv *out, struct jv self, struct jv by,
                              int64_t want) {
  struct jv rest;
  J_TRY(j_binary(J, JOP_MOD, self, by, &rest));
  bool same = false;
  J_TRY(j_equal(J, rest, jv_int(want), &same));
  *out = jv_bool(same);
  return KA_STATUS_OK;
}

TEST(t_odd) {
  UNUSED(a);
  UNUSED(args);
  return remainder_is(J, out, self, jv_int(2), 1);
}
TEST(t_even) {
  UNUSED(a);
  UNUSED(args);
  return remainder_is(J, out, self, jv_int(2), 0);
}
TEST(t_divisibleby) {
  UNUSED(args);
  return remainder_is(J, out, self, a[0], 0);
}

static ka_status case_is(struct jrun *J, struct jv *out, struct jv self, char what) {
  J_TRY(j_to_str(J, self, &self));
  *out = jv_bool(ju_is(what, self.s->p, self.s->n));
  return j_steps(J, self.s->n);
}

TEST(t_lower) {
  UNUSED(a);
  UNUSED(args);
  return case_is(J, out, self, 'l');
}
TEST(t_upper) {
  UNUSED(a);
  UNUSED(args);
  return case_is(J, out, self, 'u');
}

static ka_status ordered(struct jrun *J, struct jv *out, int op, struct jv x, struct jv y) {
  bool holds = false;
  J_TRY(j_order(J, op, x, y, &holds));
  *out = jv_bool(holds);
  return KA_STATUS_OK;
}

TEST(t_lt) {
  UNUSED(args);
  return ordered(J, out, '<', self, a[0]);
}
TEST(t_le) {
  UNUSED(args);
  return ordered(J, out, JOP_LE, self, a[0]);
}
TEST(t_gt) {
  UNUSED(args);
  return ordered(J, out, '>', self, a[0]);
}
TEST(t_ge) {
  UNUSED(args);
  return ordered(J, out, JOP_GE, self, a[0]);
}

TEST(t_eq) {
  UNUSED(args);
  bool same = false;
  J_TRY(j_equal(J, self, a[0], &same));
  *out = jv_bool(same);
  return KA_STATUS_OK;
}

TEST(t_ne) {
  UNUSED(args);
  bool same = false;
  J_TRY(j_equal(J, self, a[0], &same));
  *out = jv_bool(!same);
  return KA_STATUS_OK;
}

TEST(t_in) {
  UNUSED(args);
  bool found = false;
  J_TRY(j_contains(J, self, a[0], &found));
  *out = jv_bool(found);
  return KA_STATUS_OK;
}

/* Identity: of None, True, False and containers; equal strings and numbers may or may not be the
 * same object in Python, so they are an error here. */
TEST(t_sameas) {
  UNUSED(args);
  bool same = self.t == a[0].t;
  if (same && (self.t == JV_STR || self.t == JV_INT || self.t == JV_FLOAT))
    return j_fail(J, "sameas for strings and numbers is not supported");
  if (same && self.t == JV_BOOL)
    same = self.b == a[0].b;
  else if (same && self.t != JV_NONE)
    same = self.q == a[0].q;
  *out = jv_bool(same);
  return KA_STATUS_OK;
}

TEST(t_filter) {
  UNUSED(J);
  UNUSED(a);
  UNUSED(args);
  *out = jv_bool(self.t == JV_STR && j_find_filter(J->t, self.s->p, self.s->n));
  return j_hashable(J, self);
}

TEST(t_test) {
  UNUSED(J);
  UNUSED(a);
  UNUSED(args);
  *out = jv_bool(self.t == JV_STR && j_find_test(self.s->p, self.s->n));
  return j_hashable(J, self);
}

static const struct jfunc tests[] = {{"defined", t_defined, "", 0},
                                     {"undefined", t_undefined, "", 0},
                                     {"none", t_none, "", 0},
                                     {"boolean", t_boolean, "", 0},
                                     {"true", t_true, "", 0},
                                     {"false", t_false, "", 0},
                                     {"integer", t_integer, "", 0},
                                     {"float", t_float, "", 0},
                                     {"number", t_number, "", 0},
                                     {"string", t_string, "", 0},
                                     {"mapping", t_mapping, "", 0},
                                     {"iterable", t_iterable, "", 0},
                                     {"sequence", t_sequence, "", 0},
                                     {"callable", t_callable, "/", 0},
                                     {"escaped", t_escaped, "", 0},
                                     {"odd", t_odd, "", 0},
                                     {"even", t_even, "", 0},
                                     {"divisibleby", t_divisibleby, "num", 1},
                                     {"lower", t_lower, "", 0},
                                     {"upper", t_upper, "", 0},
                                     {"eq", t_eq, "/b", 1},
                                     {"equalto", t_eq, "/b", 1},
                                     {"==", t_eq, "/b", 1},
                                     {"ne", t_ne, "/b", 1},
                                     {"!=", t_ne, "/b", 1},
                                     {"lt", t_lt, "/b", 1},
                                     {"lessthan", t_lt, "/b", 1},
                                     {"<", t_lt, "/b", 1},
                                     {"le", t_le, "/b", 1},
                                     {"<=", t_le, "/b", 1},
                                     {"gt", t_gt, "/b", 1},
                                     {"greaterthan", t_gt, "/b", 1},
                                     {">", t_gt, "/b", 1},
                                     {"ge", t_ge, "/b", 1},
                                     {">=", t_ge, "/b", 1},
                                     {"in", t_in, "seq", 1},
                                     {"sameas", t_sameas, "other", 1},
                                     {"filter", t_filter, "", 0},
                                     {"test", t_test, "", 0},
                                     {NULL}};

const struct jfunc *j_find_test(const char *name, size_t n) { return j_find_in(tests, name, n); }
