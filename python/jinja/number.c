/* SPDX-License-Identifier: Apache-2.0
 * Binary operators on values: arithmetic, concatenation, repetition. Python's rules, except that
 * integers have 64 bits and overflow is an error. */
#include "python/jinja/core.h"

#include <math.h>

static ka_status overflow(struct jrun *J) {
  return j_fail(J, "the result does not fit into 64 bits, which is not supported");
}

static int64_t floor_div(int64_t a, int64_t b) {
  int64_t q = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static ka_status int_pow(struct jrun *J, int64_t a, int64_t b, struct jv *out) {
  if (b < 0) {
    if (a == 0) return j_fail(J, "0 to a negative power");
    *out = jv_float(pow((double)a, (double)b));
    return KA_STATUS_OK;
  }
  int64_t r = 1;
  while (b > 0) {
    if (b & 1 && __builtin_mul_overflow(r, a, &r)) return overflow(J);
    b >>= 1;
    if (b > 0 && __builtin_mul_overflow(a, a, &a)) return overflow(J);
  }
  *out = jv_int(r);
  return KA_STATUS_OK;
}

static ka_status int_op(struct jrun *J, int op, int64_t a, int64_t b, struct jv *out) {
  int64_t r = 0;
  if ((op == JOP_FLOORDIV || op == JOP_MOD || op == JOP_DIV) && b == 0)
    return j_fail(J, "division by zero");
  if ((op == JOP_FLOORDIV || op == JOP_MOD) && b == -1) {
    if (op == JOP_FLOORDIV && __builtin_sub_overflow((int64_t)0, a, &r)) return overflow(J);
    *out = jv_int(r);
    return KA_STATUS_OK;
  }
  bool over = false;
  switch (op) {
  case JOP_ADD:
    over = __builtin_add_overflow(a, b, &r);
    break;
  case JOP_SUB:
    over = __builtin_sub_overflow(a, b, &r);
    break;
  case JOP_MUL:
    over = __builtin_mul_overflow(a, b, &r);
    break;
  case JOP_FLOORDIV:
    r = floor_div(a, b);
    break;
  case JOP_MOD:
    r = a - floor_div(a, b) * b;
    break;
  case JOP_DIV:
    *out = jv_float((double)a / (double)b);
    return KA_STATUS_OK;
  default:
    return int_pow(J, a, b, out);
  }
  if (over) return overflow(J);
  *out = jv_int(r);
  return KA_STATUS_OK;
}

static double float_mod(double a, double b) {
  double r = fmod(a, b);
  if (r != 0) return (r < 0) != (b < 0) ? r + b : r;
  return copysign(0, b);
}

static double float_floor_div(double a, double b) {
  double mod = fmod(a, b), div = (a - mod) / b;
  if (mod != 0 && (mod < 0) != (b < 0)) div -= 1;
  if (div == 0) return copysign(0, a / b);
  double whole = floor(div);
  return div - whole > 0.5 ? whole + 1 : whole;
}

static ka_status float_op(struct jrun *J, int op, double a, double b, struct jv *out) {
  if ((op == JOP_FLOORDIV || op == JOP_MOD || op == JOP_DIV) && b == 0)
    return j_fail(J, "float division by zero");
  double r;
  switch (op) {
  case JOP_ADD:
    r = a + b;
    break;
  case JOP_SUB:
    r = a - b;
    break;
  case JOP_MUL:
    r = a * b;
    break;
  case JOP_DIV:
    r = a / b;
    break;
  case JOP_FLOORDIV:
    r = float_floor_div(a, b);
    break;
  case JOP_MOD:
    r = float_mod(a, b);
    break;
  default:
    if (a == 0 && b < 0) return j_fail(J, "0.0 to a negative power");
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
      return j_fail(J, "complex numbers are not supported");
    r = pow(a, b);
    if (isinf(r) && isfinite(a) && isfinite(b)) return j_fail(J, "result too large");
  }
  *out = jv_float(r);
  return KA_STATUS_OK;
}

static ka_status join_strings(struct jrun *J, struct jv a, struct jv b, struct jv *out) {
  if (a.s->markup || b.s->markup) {
    if (!a.s->markup) J_TRY(j_escape(J, a, &a));
    if (!b.s->markup) J_TRY(j_escape(J, b, &b));
  }
  size_t n = a.s->n + b.s->n;
  if (n > J->limits.max_out_bytes)
    return j_fail(J, "the text is longer than %zu MiB", J->limits.max_out_bytes >> 20);
  void *text; /* not a jbuf: templates build long texts piece by piece */
  J_TRY(j_alloc(J, &text, n + 1));
  memcpy(text, a.s->p, a.s->n);
  memcpy((char *)text + a.s->n, b.s->p, b.s->n);
  J_TRY(j_steps(J, n));
  J_TRY(j_str_view(J, out, text, n));
  out->s->markup = a.s->markup || b.s->markup;
  return KA_STATUS_OK;
}

static ka_status join_seqs(struct jrun *J, struct jv a, struct jv b, struct jv *out) {
  J_TRY(j_seq(J, out, a.t, a.q->n + b.q->n));
  for (int64_t i = 0; i < a.q->n; i++) J_TRY(j_seq_add(J, *out, a.q->v[i]));
  for (int64_t i = 0; i < b.q->n; i++) J_TRY(j_seq_add(J, *out, b.q->v[i]));
  return j_steps(J, (size_t)out->q->n * 16);
}

static ka_status repeat(struct jrun *J, struct jv v, int64_t times, struct jv *out) {
  if (times < 0) times = 0;
  if (v.t == JV_STR) {
    struct jbuf buf = {0};
    size_t total = 0;
    if (__builtin_mul_overflow(v.s->n, (size_t)times, &total) || total > J->limits.max_out_bytes)
      return j_fail(J, "the text is longer than %zu MiB", J->limits.max_out_bytes >> 20);
    for (int64_t i = 0; i < times && v.s->n > 0; i++) J_TRY(jb_put(J, &buf, v.s->p, v.s->n));
    J_TRY(j_str_buf(J, out, &buf));
    out->s->markup = v.s->markup;
    return KA_STATUS_OK;
  }
  int64_t n = 0;
  if (__builtin_mul_overflow(v.q->n, times, &n) || n > (int64_t)(J->mem.limit_bytes / 32))
    return j_fail(J, "the list has too many items");
  J_TRY(j_seq(J, out, v.t, n));
  for (int64_t i = 0; i < n; i++) J_TRY(j_seq_add(J, *out, v.q->v[i % v.q->n]));
  return j_steps(J, (size_t)n * 16);
}

static bool repeatable(struct jv v) { return v.t == JV_STR || v.t == JV_LIST || v.t == JV_TUPLE; }

ka_status j_binary(struct jrun *J, int op, struct jv a, struct jv b, struct jv *out) {
  *out = jv_none();
  if (a.t == JV_UNDEF) return j_fail(J, "'%s' is undefined", a.undef);
  if (op == JOP_MOD && a.t == JV_STR) return j_percent(J, a, b, out);
  if (b.t == JV_UNDEF) return j_fail(J, "'%s' is undefined", b.undef);
  if (jv_is_int(a) && jv_is_int(b)) return int_op(J, op, jv_as_int(a), jv_as_int(b), out);
  if (jv_is_number(a) && jv_is_number(b))
    return float_op(J, op, jv_as_float(a), jv_as_float(b), out);
  if (op == JOP_ADD && a.t == JV_STR && b.t == JV_STR) return join_strings(J, a, b, out);
  if (op == JOP_ADD && a.t == b.t && (a.t == JV_LIST || a.t == JV_TUPLE))
    return join_seqs(J, a, b, out);
  if (op == JOP_MUL && repeatable(a) && jv_is_int(b)) return repeat(J, a, jv_as_int(b), out);
  if (op == JOP_MUL && repeatable(b) && jv_is_int(a)) return repeat(J, b, jv_as_int(a), out);
  return j_fail(J, "'%c%s' is not supported between %s and %s", op & 255,
                op > 255 ? (op == JOP_POW ? "*" : "/") : "", jv_type_name(a), jv_type_name(b));
}
