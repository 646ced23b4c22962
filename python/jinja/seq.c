/* SPDX-License-Identifier: Apache-2.0
 * Filters on sequences. Those that are generators in Jinja (map, select, ...) give a JV_ITER, which
 * is consumed by going through it and cannot be printed or indexed; it is filled at once. */
#include "python/jinja/core.h"

#define FILTER(name)                                                                               \
  static ka_status name(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,        \
                        const struct jargs *args)
#define UNUSED(x) ((void)(x))

static bool flag(struct jv v) { return v.t != JV_MISSING && j_truth(v); }

/* What sorting compares: strings without their case unless told otherwise. */
static ka_status fold(struct jrun *J, struct jv v, bool case_sensitive, struct jv *out) {
  *out = v;
  if (case_sensitive || v.t != JV_STR) return KA_STATUS_OK;
  struct jbuf b = {0};
  J_TRY(ju_case(J, JU_LOWER, v.s->p, v.s->n, &b));
  return j_str_buf(J, out, &b);
}

FILTER(f_join) {
  UNUSED(args);
  struct jv items, sep, item;
  struct jbuf b = {0};
  J_TRY(j_items(J, self, &items));
  J_TRY(j_str_view(J, &sep, "", 0));
  if (a[0].t != JV_MISSING) J_TRY(j_to_str(J, a[0], &sep));
  for (int64_t i = 0; i < items.q->n; i++) {
    if (i > 0) J_TRY(jb_put(J, &b, sep.s->p, sep.s->n));
    J_TRY(j_getpath(J, items.q->v[i], a[1], &item));
    J_TRY(j_put_str(J, &b, item));
  }
  return j_str_buf(J, out, &b);
}

FILTER(f_first) {
  UNUSED(a);
  UNUSED(args);
  struct jv items;
  if (self.t == JV_ITER) {
    *out = self.q->pos < self.q->n ? self.q->v[self.q->pos++] : jv_undef("the first item");
    return KA_STATUS_OK;
  }
  if (self.t == JV_STR && self.s->n > 0) return j_getitem(J, self, jv_int(0), out);
  J_TRY(j_items(J, self, &items));
  *out = items.q->n > 0 ? items.q->v[0] : jv_undef("the first item");
  return KA_STATUS_OK;
}

FILTER(f_last) {
  UNUSED(a);
  UNUSED(args);
  struct jv items;
  if (self.t == JV_ITER) return j_fail(J, "last: a generator has no last item; add |list");
  if (self.t == JV_STR && self.s->n > 0) return j_getitem(J, self, jv_int(-1), out);
  J_TRY(j_items(J, self, &items));
  *out = items.q->n > 0 ? items.q->v[items.q->n - 1] : jv_undef("the last item");
  return KA_STATUS_OK;
}

FILTER(f_list) {
  UNUSED(a);
  UNUSED(args);
  struct jv items;
  J_TRY(j_items(J, self, &items));
  *out = items;
  if (self.t != JV_TUPLE) return KA_STATUS_OK;
  J_TRY(j_seq(J, out, JV_LIST, items.q->n));
  for (int64_t i = 0; i < items.q->n; i++) J_TRY(j_seq_add(J, *out, items.q->v[i]));
  return KA_STATUS_OK;
}

FILTER(f_items) {
  UNUSED(a);
  UNUSED(args);
  J_TRY(j_seq(J, out, JV_ITER, 0));
  if (self.t == JV_UNDEF) return KA_STATUS_OK;
  if (self.t != JV_DICT) return j_fail(J, "items: expected a mapping, got %s", jv_type_name(self));
  for (int64_t i = 0; i < self.d->n; i++) {
    struct jv pair;
    J_TRY(j_tuple2(J, &pair, self.d->p[i].k, self.d->p[i].v));
    J_TRY(j_seq_add(J, *out, pair));
  }
  return KA_STATUS_OK;
}

FILTER(f_reverse) {
  UNUSED(a);
  UNUSED(args);
  struct jv items;
  if (self.t == JV_STR) {
    const struct jv back[3] = {{.t = JV_MISSING}, {.t = JV_MISSING}, {.t = JV_INT, .i = -1}};
    return j_slice(J, self, back, out);
  }
  J_TRY(j_items(J, self, &items));
  J_TRY(j_seq(J, out, self.t == JV_ITER ? JV_LIST : JV_ITER, items.q->n));
  for (int64_t i = items.q->n; i-- > 0;) J_TRY(j_seq_add(J, *out, items.q->v[i]));
  return KA_STATUS_OK;
}

/* --- sorting ---------------------------------------------------------------------------------- */

struct keyed {
  struct jv key, item;
};

/* Stable merge sort by key with Python's <; reverse keeps equal items in their order too. */
static ka_status merge_sort(struct jrun *J, struct keyed *from, struct keyed *to, int64_t n,
                            bool reverse, struct keyed **out) {
  for (int64_t width = 1; width < n; width *= 2) {
    for (int64_t lo = 0; lo < n; lo += 2 * width) {
      int64_t mid = lo + width < n ? lo + width : n, hi = mid + width < n ? mid + width : n;
      for (int64_t i = lo, k = mid, o = lo; o < hi; o++) {
        bool second = i >= mid;
        if (!second && k < hi) {
          if (reverse)
            J_TRY(j_order(J, '<', from[i].key, from[k].key, &second));
          else
            J_TRY(j_order(J, '<', from[k].key, from[i].key, &second));
        }
        to[o] = second ? from[k++] : from[i++];
        J_TRY(j_steps(J, 64));
      }
    }
    struct keyed *swap = from;
    from = to;
    to = swap;
  }
  *out = from;
  return KA_STATUS_OK;
}

static ka_status sort_keyed(struct jrun *J, struct keyed *k, int64_t n, bool reverse,
                            struct keyed **out) {
  void *other;
  J_TRY(j_alloc(J, &other, (size_t)n * sizeof *k + 1));
  return merge_sort(J, k, other, n, reverse, out);
}

static ka_status keyed_items(struct jrun *J, struct jv items, struct keyed **out) {
  void *p;
  J_TRY(j_alloc(J, &p, (size_t)items.q->n * sizeof **out + 1));
  *out = p;
  for (int64_t i = 0; i < items.q->n; i++) (*out)[i].item = items.q->v[i];
  return KA_STATUS_OK;
}

/* The list of the attributes named in "a,b.c", as the sort filter compares items. */
static ka_status sort_key(struct jrun *J, struct jv item, struct jv attrs, bool case_sensitive,
                          struct jv *out) {
  struct jv v;
  J_TRY(j_seq(J, out, JV_LIST, 1));
  if (attrs.t != JV_STR) {
    J_TRY(j_getpath(J, item, attrs, &v));
    J_TRY(fold(J, v, case_sensitive, &v));
    return j_seq_add(J, *out, v);
  }
  for (size_t i = 0, start = 0; i <= attrs.s->n; i++) {
    if (i < attrs.s->n && attrs.s->p[i] != ',') continue;
    struct jv path;
    J_TRY(j_str_view(J, &path, attrs.s->p + start, i - start));
    J_TRY(j_getpath(J, item, path, &v));
    J_TRY(fold(J, v, case_sensitive, &v));
    J_TRY(j_seq_add(J, *out, v));
    start = i + 1;
  }
  return KA_STATUS_OK;
}

FILTER(f_sort) {
  UNUSED(args);
  struct jv items;
  struct keyed *k = NULL;
  J_TRY(j_items(J, self, &items));
  J_TRY(keyed_items(J, items, &k));
  for (int64_t i = 0; i < items.q->n; i++)
    J_TRY(sort_key(J, k[i].item, a[2], flag(a[1]), &k[i].key));
  J_TRY(sort_keyed(J, k, items.q->n, flag(a[0]), &k));
  J_TRY(j_seq(J, out, JV_LIST, items.q->n));
  for (int64_t i = 0; i < items.q->n; i++) J_TRY(j_seq_add(J, *out, k[i].item));
  return KA_STATUS_OK;
}

FILTER(f_dictsort) {
  UNUSED(args);
  struct keyed *k = NULL;
  struct jv items;
  bool by_value = a[1].t == JV_STR && a[1].s->n == 5 && memcmp(a[1].s->p, "value", 5) == 0;
  bool by_key = a[1].t == JV_MISSING ||
                (a[1].t == JV_STR && a[1].s->n == 3 && memcmp(a[1].s->p, "key", 3) == 0);
  if (!by_key && !by_value) return j_fail(J, "dictsort: sorts by \"key\" or \"value\"");
  if (self.t != JV_DICT)
    return j_fail(J, "dictsort: expected a mapping, got %s", jv_type_name(self));
  J_TRY(j_seq(J, &items, JV_LIST, self.d->n));
  for (int64_t i = 0; i < self.d->n; i++) {
    struct jv pair;
    J_TRY(j_tuple2(J, &pair, self.d->p[i].k, self.d->p[i].v));
    J_TRY(j_seq_add(J, items, pair));
  }
  J_TRY(keyed_items(J, items, &k));
  for (int64_t i = 0; i < items.q->n; i++)
    J_TRY(fold(J, k[i].item.q->v[by_value], flag(a[0]), &k[i].key));
  J_TRY(sort_keyed(J, k, items.q->n, flag(a[2]), &k));
  for (int64_t i = 0; i < items.q->n; i++) items.q->v[i] = k[i].item;
  *out = items;
  return KA_STATUS_OK;
}

FILTER(f_groupby) {
  UNUSED(args);
  struct jv items, key, pair = {.t = JV_MISSING};
  struct keyed *k = NULL;
  bool exact = flag(a[2]);
  J_TRY(j_items(J, self, &items));
  J_TRY(keyed_items(J, items, &k));
  for (int64_t i = 0; i < items.q->n; i++) {
    J_TRY(j_getpath(J, k[i].item, a[0], &key));
    if (key.t == JV_UNDEF && a[1].t != JV_MISSING && a[1].t != JV_NONE) key = a[1];
    J_TRY(fold(J, key, exact, &k[i].key));
  }
  J_TRY(sort_keyed(J, k, items.q->n, false, &k));
  J_TRY(j_seq(J, out, JV_LIST, 0));
  for (int64_t i = 0; i < items.q->n; i++) {
    bool same = false;
    if (i > 0) J_TRY(j_equal(J, k[i - 1].key, k[i].key, &same));
    if (!same) { /* the group is named as its first item has it */
      J_TRY(j_getpath(J, k[i].item, a[0], &key));
      if (key.t == JV_UNDEF && a[1].t != JV_MISSING && a[1].t != JV_NONE) key = a[1];
      struct jv list;
      J_TRY(j_seq(J, &list, JV_LIST, 0));
      J_TRY(j_tuple2(J, &pair, key, list));
      pair.q->kind = "group";
      J_TRY(j_seq_add(J, *out, pair));
    }
    J_TRY(j_seq_add(J, pair.q->v[1], k[i].item));
  }
  return KA_STATUS_OK;
}

FILTER(f_unique) {
  UNUSED(args);
  struct jv items, seen, key;
  J_TRY(j_items(J, self, &items));
  J_TRY(j_dict(J, &seen));
  J_TRY(j_seq(J, out, JV_ITER, 0));
  for (int64_t i = 0; i < items.q->n; i++) {
    struct jpair *found = NULL;
    J_TRY(j_getpath(J, items.q->v[i], a[1], &key));
    J_TRY(fold(J, key, flag(a[0]), &key));
    J_TRY(j_dict_find(J, seen.d, key, &found));
    if (found) continue;
    J_TRY(j_dict_set(J, seen.d, key, jv_none()));
    J_TRY(j_seq_add(J, *out, items.q->v[i]));
  }
  return KA_STATUS_OK;
}

static ka_status extreme(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,
                         int op) {
  struct jv items, key, best = {.t = JV_MISSING};
  J_TRY(j_items(J, self, &items));
  *out = jv_undef("the extreme of an empty sequence");
  for (int64_t i = 0; i < items.q->n; i++) {
    bool better = i == 0;
    J_TRY(j_getpath(J, items.q->v[i], a[1], &key));
    J_TRY(fold(J, key, flag(a[0]), &key));
    if (i > 0) J_TRY(j_order(J, op, key, best, &better));
    if (!better) continue;
    best = key;
    *out = items.q->v[i];
  }
  return KA_STATUS_OK;
}

FILTER(f_min) {
  UNUSED(args);
  return extreme(J, out, self, a, '<');
}
FILTER(f_max) {
  UNUSED(args);
  return extreme(J, out, self, a, '>');
}

FILTER(f_sum) {
  UNUSED(args);
  struct jv items, item, total = a[1].t == JV_MISSING ? jv_int(0) : a[1];
  if (total.t == JV_STR) return j_fail(J, "sum: cannot sum strings");
  J_TRY(j_items(J, self, &items));
  for (int64_t i = 0; i < items.q->n; i++) {
    J_TRY(j_getpath(J, items.q->v[i], a[0], &item));
    J_TRY(j_binary(J, JOP_ADD, total, item, &total));
  }
  *out = total;
  return KA_STATUS_OK;
}

FILTER(f_batch) {
  UNUSED(args);
  struct jv items, row = {.t = JV_MISSING};
  if (!jv_is_int(a[0])) return j_fail(J, "batch: expected a number of items");
  int64_t size = jv_as_int(a[0]);
  J_TRY(j_items(J, self, &items));
  J_TRY(j_seq(J, out, JV_ITER, 0));
  for (int64_t i = 0; i < items.q->n; i++) {
    if (row.t == JV_MISSING || row.q->n == size) {
      if (i == 0 && size == 0) { /* Jinja starts with an empty row */
        J_TRY(j_seq(J, &row, JV_LIST, 0));
        J_TRY(j_seq_add(J, *out, row));
      }
      J_TRY(j_seq(J, &row, JV_LIST, 0));
      J_TRY(j_seq_add(J, *out, row));
    }
    J_TRY(j_seq_add(J, row, items.q->v[i]));
  }
  bool fill = a[1].t != JV_MISSING && a[1].t != JV_NONE;
  while (fill && row.t == JV_LIST && row.q->n < size) {
    J_TRY(j_seq_add(J, row, a[1]));
    J_TRY(j_steps(J, 64));
  }
  return KA_STATUS_OK;
}

FILTER(f_slice) {
  UNUSED(args);
  struct jv items;
  if (!jv_is_int(a[0]) || jv_as_int(a[0]) == 0)
    return j_fail(J, "slice: expected a number of slices");
  int64_t n = jv_as_int(a[0]), at = 0;
  J_TRY(j_items(J, self, &items));
  J_TRY(j_seq(J, out, JV_ITER, 0));
  for (int64_t i = 0; i < n; i++) {
    struct jv part;
    bool longer = i < items.q->n % n;
    J_TRY(j_seq(J, &part, JV_LIST, 0));
    for (int64_t k = items.q->n / n + longer; k > 0; k--)
      J_TRY(j_seq_add(J, part, items.q->v[at++]));
    if (!longer && a[1].t != JV_MISSING && a[1].t != JV_NONE) J_TRY(j_seq_add(J, part, a[1]));
    J_TRY(j_seq_add(J, *out, part));
    J_TRY(j_steps(J, 64));
  }
  return KA_STATUS_OK;
}

/* --- map and select -------------------------------------------------------------------------- */

/* The arguments behind the first `skip`. */
static struct jargs rest_of(const struct jargs *args, int64_t skip) {
  struct jargs rest = *args;
  if (skip > 0) rest.pos += skip;
  rest.n_pos -= skip;
  return rest;
}

static ka_status named(struct jrun *J, struct jv name, bool test, const struct jfunc **out) {
  *out = NULL;
  if (name.t == JV_STR)
    *out = test ? j_find_test(name.s->p, name.s->n) : j_find_filter(J->t, name.s->p, name.s->n);
  if (*out && (*out)->fn) return KA_STATUS_OK;
  struct jv text;
  J_TRY(j_to_str(J, name, &text));
  return j_fail(J, "%s '%.*s' is not %s", test ? "test" : "filter", (int)text.s->n, text.s->p,
                *out ? "supported" : "known");
}

static struct jv keyword(const struct jargs *args, const char *name) {
  for (int64_t i = 0; i < args->n_kw; i++)
    if (args->kw[i].k->n == strlen(name) && memcmp(args->kw[i].k->p, name, strlen(name)) == 0)
      return args->kw[i].v;
  return (struct jv){.t = JV_MISSING};
}

static ka_status map_attribute(struct jrun *J, struct jv *out, struct jv items,
                               const struct jargs *args) {
  struct jv attr = keyword(args, "attribute"), dflt = keyword(args, "default"), v;
  if (args->n_kw > 1 + (dflt.t != JV_MISSING)) return j_fail(J, "map: unexpected keyword argument");
  for (int64_t i = 0; i < items.q->n; i++) {
    J_TRY(j_getpath(J, items.q->v[i], attr, &v));
    if (v.t == JV_UNDEF && dflt.t != JV_MISSING && dflt.t != JV_NONE) v = dflt;
    J_TRY(j_seq_add(J, *out, v));
  }
  return KA_STATUS_OK;
}

FILTER(f_map) {
  UNUSED(a);
  struct jv items, v;
  const struct jfunc *f = NULL;
  J_TRY(j_seq(J, out, JV_ITER, 0));
  if (!j_truth(self)) return KA_STATUS_OK;
  J_TRY(j_items(J, self, &items));
  if (args->n_pos == 0 && keyword(args, "attribute").t != JV_MISSING)
    return map_attribute(J, out, items, args);
  if (args->n_pos == 0) return j_fail(J, "map: needs a filter's name or attribute=");
  J_TRY(named(J, args->pos[0], false, &f));
  struct jargs rest = rest_of(args, 1);
  for (int64_t i = 0; i < items.q->n; i++) {
    J_TRY(j_call_func(J, f, items.q->v[i], &rest, &v));
    J_TRY(j_seq_add(J, *out, v));
  }
  return KA_STATUS_OK;
}

static ka_status select_items(struct jrun *J, struct jv *out, struct jv self,
                              const struct jargs *args, bool by_attr, bool wanted) {
  struct jv items, v, holds;
  const struct jfunc *f = NULL;
  int64_t skip = by_attr;
  J_TRY(j_seq(J, out, JV_ITER, 0));
  if (!j_truth(self)) return KA_STATUS_OK;
  J_TRY(j_items(J, self, &items));
  if (args->n_pos < skip) return j_fail(J, "the attribute's name is missing");
  if (args->n_pos > skip) J_TRY(named(J, args->pos[skip], true, &f));
  struct jargs rest = rest_of(args, f ? skip + 1 : skip);
  for (int64_t i = 0; i < items.q->n; i++) {
    v = items.q->v[i];
    if (by_attr) J_TRY(j_getpath(J, v, args->pos[0], &v));
    holds = v;
    if (f) J_TRY(j_call_func(J, f, v, &rest, &holds));
    if (j_truth(holds) == wanted) J_TRY(j_seq_add(J, *out, items.q->v[i]));
  }
  return KA_STATUS_OK;
}

FILTER(f_select) {
  UNUSED(a);
  return select_items(J, out, self, args, false, true);
}
FILTER(f_reject) {
  UNUSED(a);
  return select_items(J, out, self, args, false, false);
}
FILTER(f_selectattr) {
  UNUSED(a);
  return select_items(J, out, self, args, true, true);
}
FILTER(f_rejectattr) {
  UNUSED(a);
  return select_items(J, out, self, args, true, false);
}

FILTER(f_attr) {
  UNUSED(args);
  *out = jv_undef("attribute");
  if (a[0].t != JV_STR) return j_fail(J, "attr: expected a name, got %s", jv_type_name(a[0]));
  if (self.t == JV_UNDEF) return j_fail(J, "'%s' is undefined", self.undef);
  if (self.t == JV_DICT && !j_find_method(self, a[0].s)) return KA_STATUS_OK;
  return j_getattr(J, self, a[0].s, out);
}

const struct jfunc j_seq_filters[] = {{"join", f_join, "d attribute", 0},
                                      {"first", f_first, "", 0},
                                      {"last", f_last, "", 0},
                                      {"list", f_list, "", 0},
                                      {"items", f_items, "", 0},
                                      {"reverse", f_reverse, "", 0},
                                      {"sort", f_sort, "reverse case_sensitive attribute", 0},
                                      {"dictsort", f_dictsort, "case_sensitive by reverse", 0},
                                      {"groupby", f_groupby, "attribute default case_sensitive", 1},
                                      {"unique", f_unique, "case_sensitive attribute", 0},
                                      {"min", f_min, "case_sensitive attribute", 0},
                                      {"max", f_max, "case_sensitive attribute", 0},
                                      {"sum", f_sum, "attribute start", 0},
                                      {"batch", f_batch, "linecount fill_with", 1},
                                      {"slice", f_slice, "slices fill_with", 1},
                                      {"map", f_map, NULL, 0},
                                      {"select", f_select, NULL, 0},
                                      {"reject", f_reject, NULL, 0},
                                      {"selectattr", f_selectattr, NULL, 0},
                                      {"rejectattr", f_rejectattr, NULL, 0},
                                      {"attr", f_attr, "name", 1},
                                      {NULL}};
