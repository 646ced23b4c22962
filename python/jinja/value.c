/* SPDX-License-Identifier: Apache-2.0
 * Values: making them, truth, equality, order, membership, length, iteration. Python's rules. */
#include "python/jinja/core.h"

#include <math.h>

const char *jv_type_name(struct jv v) {
  static const char *const names[] = {
      "missing", "Undefined", "NoneType", "bool",        "int",       "float", "str",
      "list",    "tuple",     "dict",     "view",        "generator", "range", "Namespace",
      "Macro",   "function",  "method",   "LoopContext", "Cycler",    "Joiner"};
  if (v.t == JV_VIEW) return v.q->kind;
  return names[v.t];
}

/* --- strings ---------------------------------------------------------------------------------- */

ka_status j_str_view(struct jrun *J, struct jv *out, const char *p, size_t n) {
  void *s;
  J_TRY(j_alloc(J, &s, sizeof(struct jstr)));
  *out = (struct jv){.t = JV_STR, .s = s};
  *out->s = (struct jstr){p ? p : "", n, -1, false};
  return KA_STATUS_OK;
}

ka_status j_str(struct jrun *J, struct jv *out, const char *p, size_t n) {
  void *copy;
  J_TRY(j_alloc(J, &copy, n + 1));
  if (n > 0) memcpy(copy, p, n);
  return j_str_view(J, out, copy, n);
}

int64_t j_n_chars(struct jstr *s) {
  if (s->n_chars >= 0) return s->n_chars;
  int64_t n = 0;
  for (size_t i = 0; i < s->n; i++) n += (s->p[i] & 0xc0) != 0x80;
  return s->n_chars = n;
}

size_t j_char_offset(struct jstr *s, int64_t i) {
  if (j_n_chars(s) == (int64_t)s->n) return (size_t)i;
  size_t k = 0;
  for (; i > 0; i--) {
    k++;
    while (k < s->n && (s->p[k] & 0xc0) == 0x80) k++;
  }
  return k;
}

/* --- containers ------------------------------------------------------------------------------- */

ka_status j_seq(struct jrun *J, struct jv *out, enum jv_type type, int64_t cap) {
  void *q, *items = NULL;
  J_TRY(j_alloc(J, &q, sizeof(struct jseq)));
  if (cap > 0) J_TRY(j_alloc(J, &items, (size_t)cap * sizeof(struct jv)));
  *out = (struct jv){.t = type, .q = q};
  out->q->v = items;
  out->q->cap = cap;
  return KA_STATUS_OK;
}

ka_status j_seq_add(struct jrun *J, struct jv seq, struct jv item) {
  void *items = seq.q->v;
  J_TRY(j_push(J, &items, seq.q->n, &seq.q->cap, sizeof item));
  seq.q->v = items;
  seq.q->v[seq.q->n++] = item;
  return KA_STATUS_OK;
}

ka_status j_tuple2(struct jrun *J, struct jv *out, struct jv a, struct jv b) {
  J_TRY(j_seq(J, out, JV_TUPLE, 2));
  J_TRY(j_seq_add(J, *out, a));
  return j_seq_add(J, *out, b);
}

ka_status j_dict(struct jrun *J, struct jv *out) {
  void *d;
  J_TRY(j_alloc(J, &d, sizeof(struct jdict)));
  *out = (struct jv){.t = JV_DICT, .d = d};
  return KA_STATUS_OK;
}

ka_status j_hashable(struct jrun *J, struct jv v) {
  bool values = v.t == JV_VIEW && strcmp(v.q->kind, "dict_values") == 0;
  if (v.t == JV_LIST || v.t == JV_DICT || (v.t == JV_VIEW && !values))
    return j_fail(J, "a %s cannot be a dictionary key or member of a set", jv_type_name(v));
  if (v.t != JV_TUPLE) return KA_STATUS_OK;
  J_TRY(j_enter(J));
  for (int64_t i = 0; i < v.q->n; i++) J_TRY(j_hashable(J, v.q->v[i]));
  j_leave(J);
  return KA_STATUS_OK;
}

struct jpair *j_dict_str(struct jdict *d, const char *key, size_t n) {
  for (int64_t i = 0; i < d->n; i++) {
    const struct jv *k = &d->p[i].k;
    if (k->t == JV_STR && k->s->n == n && memcmp(k->s->p, key, n) == 0) return &d->p[i];
  }
  return NULL;
}

ka_status j_dict_find(struct jrun *J, struct jdict *d, struct jv key, struct jpair **out) {
  *out = NULL;
  J_TRY(j_hashable(J, key));
  J_TRY(j_steps(J, (size_t)d->n * 8));
  if (key.t == JV_STR) {
    *out = j_dict_str(d, key.s->p, key.s->n);
    return KA_STATUS_OK;
  }
  for (int64_t i = 0; i < d->n; i++) {
    bool same = false;
    J_TRY(j_equal(J, d->p[i].k, key, &same));
    if (!same) continue;
    *out = &d->p[i];
    break;
  }
  return KA_STATUS_OK;
}

ka_status j_dict_set(struct jrun *J, struct jdict *d, struct jv key, struct jv value) {
  struct jpair *found = NULL;
  J_TRY(j_dict_find(J, d, key, &found));
  if (found) {
    found->v = value;
    return KA_STATUS_OK;
  }
  void *p = d->p;
  J_TRY(j_push(J, &p, d->n, &d->cap, sizeof *d->p));
  d->p = p;
  d->p[d->n++] = (struct jpair){key, value};
  return KA_STATUS_OK;
}

/* --- truth and comparison --------------------------------------------------------------------- */

bool j_truth(struct jv v) {
  switch (v.t) {
  case JV_MISSING:
  case JV_UNDEF:
  case JV_NONE:
    return false;
  case JV_BOOL:
    return v.b;
  case JV_INT:
    return v.i != 0;
  case JV_FLOAT:
    return v.f != 0;
  case JV_STR:
    return v.s->n > 0;
  case JV_LIST:
  case JV_TUPLE:
  case JV_VIEW:
    return v.q->n > 0;
  case JV_DICT:
    return v.d->n > 0;
  case JV_RANGE:
    return v.r->n > 0;
  default:
    return true; /* a loop in progress has at least one item */
  }
}

/* -1, 0, 1; 2 when a NaN is in it. Exact between integers and floats. */
static int compare_numbers(struct jv a, struct jv b) {
  if (a.t != JV_FLOAT && b.t != JV_FLOAT) {
    int64_t x = jv_as_int(a), y = jv_as_int(b);
    return x < y ? -1 : x > y;
  }
  if (a.t == JV_FLOAT && b.t == JV_FLOAT) {
    if (isnan(a.f) || isnan(b.f)) return 2;
    return a.f < b.f ? -1 : a.f > b.f;
  }
  if (a.t != JV_FLOAT) {
    int c = compare_numbers(b, a);
    return c == 2 ? 2 : -c;
  }
  if (isnan(a.f)) return 2;
  if (a.f >= 0x1p63) return 1;
  if (a.f < -0x1p63) return -1;
  double whole = floor(a.f);
  int64_t x = (int64_t)whole, y = jv_as_int(b);
  if (x != y) return x < y ? -1 : 1;
  return a.f > whole;
}

static int compare_strings(const struct jstr *a, const struct jstr *b) {
  size_t n = a->n < b->n ? a->n : b->n;
  int c = n > 0 ? memcmp(a->p, b->p, n) : 0; /* the order of UTF-8 is that of code points */
  if (c != 0) return c < 0 ? -1 : 1;
  return a->n < b->n ? -1 : a->n > b->n;
}

static ka_status equal_dicts(struct jrun *J, struct jdict *a, struct jdict *b, bool *out) {
  *out = false;
  if (a->n != b->n) return KA_STATUS_OK;
  for (int64_t i = 0; i < a->n; i++) {
    struct jpair *other = NULL;
    bool same = false;
    J_TRY(j_dict_find(J, b, a->p[i].k, &other));
    if (other) J_TRY(j_equal(J, a->p[i].v, other->v, &same));
    if (!same) return KA_STATUS_OK;
  }
  *out = true;
  return KA_STATUS_OK;
}

static ka_status equal_items(struct jrun *J, struct jseq *a, struct jseq *b, bool *out) {
  *out = a->n == b->n;
  for (int64_t i = 0; *out && i < a->n; i++) J_TRY(j_equal(J, a->v[i], b->v[i], out));
  return KA_STATUS_OK;
}

static bool equal_ranges(const struct jrange *a, const struct jrange *b) {
  return a->n == b->n && (a->n == 0 || (a->start == b->start && (a->n == 1 || a->step == b->step)));
}

ka_status j_equal(struct jrun *J, struct jv a, struct jv b, bool *out) {
  *out = false;
  if (jv_is_number(a) && jv_is_number(b)) {
    *out = compare_numbers(a, b) == 0;
    return KA_STATUS_OK;
  }
  if (a.t != b.t) return KA_STATUS_OK;
  J_TRY(j_enter(J));
  switch (a.t) {
  case JV_UNDEF:
  case JV_NONE:
    *out = true;
    break;
  case JV_STR:
    *out = compare_strings(a.s, b.s) == 0;
    J_TRY(j_steps(J, a.s->n));
    break;
  case JV_LIST:
  case JV_TUPLE:
    J_TRY(equal_items(J, a.q, b.q, out));
    break;
  case JV_DICT:
    J_TRY(equal_dicts(J, a.d, b.d, out));
    break;
  case JV_RANGE:
    *out = equal_ranges(a.r, b.r);
    break;
  case JV_VIEW:
    if (a.q != b.q) return j_fail(J, "comparing dictionary views is not supported");
    *out = true;
    break;
  case JV_METHOD:
    return j_fail(J, "comparing methods is not supported");
  default:
    *out = a.q == b.q; /* identity: any member of the union */
  }
  j_leave(J);
  return KA_STATUS_OK;
}

static bool order_holds(int op, int c) {
  if (c == 2) return false;
  return op == '<' ? c < 0 : op == '>' ? c > 0 : op == JOP_LE ? c <= 0 : c >= 0;
}

ka_status j_order(struct jrun *J, int op, struct jv a, struct jv b, bool *out) {
  *out = false;
  if (jv_is_number(a) && jv_is_number(b)) {
    *out = order_holds(op, compare_numbers(a, b));
    return KA_STATUS_OK;
  }
  if (a.t == JV_STR && b.t == JV_STR) {
    *out = order_holds(op, compare_strings(a.s, b.s));
    return j_steps(J, a.s->n);
  }
  if (a.t == JV_UNDEF || b.t == JV_UNDEF)
    return j_fail(J, "'%s' is undefined", a.t == JV_UNDEF ? a.undef : b.undef);
  if (a.t != b.t || (a.t != JV_LIST && a.t != JV_TUPLE))
    return j_fail(J, "'%c%s' is not supported between %s and %s", op & 255, op > 255 ? "=" : "",
                  jv_type_name(a), jv_type_name(b));
  J_TRY(j_enter(J));
  for (int64_t i = 0; i < a.q->n && i < b.q->n; i++) {
    bool same = false;
    J_TRY(j_equal(J, a.q->v[i], b.q->v[i], &same));
    if (same) continue;
    J_TRY(j_order(J, op, a.q->v[i], b.q->v[i], out));
    j_leave(J);
    return KA_STATUS_OK;
  }
  *out = order_holds(op, a.q->n < b.q->n ? -1 : a.q->n > b.q->n);
  j_leave(J);
  return KA_STATUS_OK;
}

ka_status j_contains(struct jrun *J, struct jv item, struct jv in, bool *out) {
  *out = false;
  if (in.t == JV_STR) {
    if (item.t != JV_STR)
      return j_fail(J, "'in <string>' requires a string on the left, not %s", jv_type_name(item));
    *out = item.s->n == 0 || (in.s->n > 0 && memmem(in.s->p, in.s->n, item.s->p, item.s->n));
    return j_steps(J, in.s->n);
  }
  if (in.t == JV_DICT) {
    struct jpair *found = NULL;
    J_TRY(j_dict_find(J, in.d, item, &found));
    *out = found != NULL;
    return KA_STATUS_OK;
  }
  if (in.t == JV_VIEW && strcmp(in.q->kind, "dict_keys") == 0) J_TRY(j_hashable(J, item));
  if (in.t == JV_NONE || !j_iterable(in))
    return j_fail(J, "a %s has no members for 'in'", jv_type_name(in));
  if (in.t == JV_ITER) { /* consumed only up to what is found */
    while (!*out && in.q->pos < in.q->n) J_TRY(j_equal(J, in.q->v[in.q->pos++], item, out));
    return KA_STATUS_OK;
  }
  struct jv items;
  J_TRY(j_items(J, in, &items));
  for (int64_t i = 0; !*out && i < items.q->n; i++) J_TRY(j_equal(J, items.q->v[i], item, out));
  return j_steps(J, (size_t)items.q->n * 64);
}

ka_status j_len(struct jrun *J, struct jv v, int64_t *out) {
  *out = 0;
  switch (v.t) {
  case JV_UNDEF:
    return KA_STATUS_OK;
  case JV_STR:
    *out = j_n_chars(v.s);
    return KA_STATUS_OK;
  case JV_LIST:
  case JV_TUPLE:
  case JV_VIEW:
    *out = v.q->n;
    return KA_STATUS_OK;
  case JV_DICT:
    *out = v.d->n;
    return KA_STATUS_OK;
  case JV_RANGE:
    *out = v.r->n;
    return KA_STATUS_OK;
  case JV_LOOP: {
    struct jv length;
    J_TRY(j_loop_attr(J, v.loop, "length", &length));
    *out = length.i;
    return KA_STATUS_OK;
  }
  default:
    return j_fail(J, "a %s has no length", jv_type_name(v));
  }
}

/* --- iteration -------------------------------------------------------------------------------- */

bool j_iterable(struct jv v) {
  return v.t == JV_UNDEF || (v.t >= JV_STR && v.t <= JV_RANGE) || v.t == JV_LOOP;
}

static ka_status chars(struct jrun *J, struct jstr *s, struct jv list) {
  for (size_t i = 0; i < s->n;) {
    size_t k = i + 1;
    while (k < s->n && (s->p[k] & 0xc0) == 0x80) k++;
    struct jv c;
    J_TRY(j_str_view(J, &c, s->p + i, k - i));
    J_TRY(j_seq_add(J, list, c));
    i = k;
  }
  return KA_STATUS_OK;
}

ka_status j_items(struct jrun *J, struct jv v, struct jv *out) {
  *out = v;
  if (v.t == JV_LIST || v.t == JV_TUPLE) return KA_STATUS_OK;
  if (!j_iterable(v) || v.t == JV_LOOP) return j_fail(J, "a %s is not iterable", jv_type_name(v));
  J_TRY(j_seq(J, out, JV_LIST, v.t == JV_RANGE ? v.r->n : 0));
  J_TRY(j_steps(J, (size_t)(v.t == JV_RANGE ? v.r->n : 0)));
  switch (v.t) {
  case JV_STR:
    return chars(J, v.s, *out);
  case JV_VIEW:
    for (int64_t i = 0; i < v.q->n; i++) J_TRY(j_seq_add(J, *out, v.q->v[i]));
    break;
  case JV_ITER:
    while (v.q->pos < v.q->n) J_TRY(j_seq_add(J, *out, v.q->v[v.q->pos++]));
    break;
  case JV_DICT:
    for (int64_t i = 0; i < v.d->n; i++) J_TRY(j_seq_add(J, *out, v.d->p[i].k));
    break;
  case JV_RANGE:
    for (int64_t i = 0; i < v.r->n; i++)
      J_TRY(j_seq_add(J, *out, jv_int(v.r->start + i * v.r->step)));
    break;
  default:
    break; /* undefined: nothing */
  }
  return KA_STATUS_OK;
}

/* --- from JSON -------------------------------------------------------------------------------- */

ka_status j_from_json(struct jrun *J, const json_t *j, struct jv *out) {
  *out = jv_none();
  J_TRY(j_enter(J));
  const char *key;
  json_t *member;
  size_t i;
  struct jv k, v;
  switch (json_typeof(j)) {
  case JSON_NULL:
    break;
  case JSON_TRUE:
  case JSON_FALSE:
    *out = jv_bool(json_is_true(j));
    break;
  case JSON_INTEGER:
    *out = jv_int(json_integer_value(j));
    break;
  case JSON_REAL:
    *out = jv_float(json_real_value(j));
    break;
  case JSON_STRING: /* outlives the rendering */
    J_TRY(j_str_view(J, out, json_string_value(j), json_string_length(j)));
    break;
  case JSON_ARRAY:
    J_TRY(j_seq(J, out, JV_LIST, (int64_t)json_array_size(j)));
    json_array_foreach(j, i, member) {
      J_TRY(j_from_json(J, member, &v));
      J_TRY(j_seq_add(J, *out, v));
    }
    break;
  case JSON_OBJECT:
    J_TRY(j_dict(J, out));
    json_object_foreach((json_t *)(uintptr_t)j, key, member) {
      J_TRY(j_str_view(J, &k, key, strlen(key)));
      J_TRY(j_from_json(J, member, &v));
      void *p = out->d->p;
      J_TRY(j_push(J, &p, out->d->n, &out->d->cap, sizeof *out->d->p));
      out->d->p = p;
      out->d->p[out->d->n++] = (struct jpair){k, v};
    }
    break;
  }
  j_leave(J);
  return KA_STATUS_OK;
}
