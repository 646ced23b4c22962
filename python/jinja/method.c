/* SPDX-License-Identifier: Apache-2.0
 * The methods of str, dict, list, tuple, loop and cycler objects. Names that Python has and that
 * are not here are in the tables without a function: using them is an error, not undefined. */
#include "python/jinja/core.h"

static ka_status need_str(struct jrun *J, struct jv v, const char *what) {
  if (v.t == JV_STR) return KA_STATUS_OK;
  return j_fail(J, "%s: expected a string, got %s", what, jv_type_name(v));
}

static ka_status int_arg(struct jrun *J, struct jv v, int64_t dflt, int64_t *out) {
  *out = dflt;
  if (v.t == JV_MISSING) return KA_STATUS_OK;
  if (!jv_is_int(v)) return j_fail(J, "expected an integer, got %s", jv_type_name(v));
  *out = jv_as_int(v);
  return KA_STATUS_OK;
}

/* A new string; keeps the mark of escaped text. */
static ka_status result(struct jrun *J, struct jv *out, struct jv self, const struct jbuf *b) {
  J_TRY(j_str_buf(J, out, b));
  out->s->markup = self.s->markup;
  return KA_STATUS_OK;
}

#define METHOD(name)                                                                               \
  static ka_status name(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,        \
                        const struct jargs *args)
#define UNUSED(x) ((void)(x))

static ka_status cased(struct jrun *J, struct jv *out, struct jv self, enum ju_case how) {
  struct jbuf b = {0};
  J_TRY(ju_case(J, how, self.s->p, self.s->n, &b));
  return result(J, out, self, &b);
}

METHOD(m_upper) {
  UNUSED(a);
  UNUSED(args);
  return cased(J, out, self, JU_UPPER);
}
METHOD(m_lower) {
  UNUSED(a);
  UNUSED(args);
  return cased(J, out, self, JU_LOWER);
}
METHOD(m_title) {
  UNUSED(a);
  UNUSED(args);
  return cased(J, out, self, JU_TITLE);
}
METHOD(m_capitalize) {
  UNUSED(a);
  UNUSED(args);
  return cased(J, out, self, JU_CAPITALIZE);
}
METHOD(m_swapcase) {
  UNUSED(a);
  UNUSED(args);
  return cased(J, out, self, JU_SWAPCASE);
}

static ka_status strip(struct jrun *J, struct jv *out, struct jv self, struct jv set, bool left,
                       bool right) {
  const char *p = self.s->p;
  size_t n = self.s->n;
  if (set.t != JV_MISSING && set.t != JV_NONE) J_TRY(need_str(J, set, "strip"));
  J_TRY(j_steps(J, n));
  ju_strip(&p, &n, set.t == JV_STR ? set.s : NULL, left, right);
  J_TRY(j_str_view(J, out, p, n));
  out->s->markup = self.s->markup;
  return KA_STATUS_OK;
}

METHOD(m_strip) {
  UNUSED(args);
  return strip(J, out, self, a[0], true, true);
}
METHOD(m_lstrip) {
  UNUSED(args);
  return strip(J, out, self, a[0], true, false);
}
METHOD(m_rstrip) {
  UNUSED(args);
  return strip(J, out, self, a[0], false, true);
}

static ka_status predicate(struct jrun *J, struct jv *out, struct jv self, char what) {
  *out = jv_bool(ju_is(what, self.s->p, self.s->n));
  return j_steps(J, self.s->n);
}

METHOD(m_isupper) {
  UNUSED(a);
  UNUSED(args);
  return predicate(J, out, self, 'u');
}
METHOD(m_islower) {
  UNUSED(a);
  UNUSED(args);
  return predicate(J, out, self, 'l');
}
METHOD(m_istitle) {
  UNUSED(a);
  UNUSED(args);
  return predicate(J, out, self, 't');
}
METHOD(m_isalpha) {
  UNUSED(a);
  UNUSED(args);
  return predicate(J, out, self, 'a');
}
METHOD(m_isalnum) {
  UNUSED(a);
  UNUSED(args);
  return predicate(J, out, self, 'm');
}
METHOD(m_isdigit) {
  UNUSED(a);
  UNUSED(args);
  return predicate(J, out, self, 'd');
}
METHOD(m_isdecimal) {
  UNUSED(a);
  UNUSED(args);
  return predicate(J, out, self, 'c');
}
METHOD(m_isnumeric) {
  UNUSED(a);
  UNUSED(args);
  return predicate(J, out, self, 'n');
}
METHOD(m_isspace) {
  UNUSED(a);
  UNUSED(args);
  return predicate(J, out, self, 's');
}

METHOD(m_isascii) {
  UNUSED(a);
  UNUSED(args);
  *out = jv_bool(j_n_chars(self.s) == (int64_t)self.s->n);
  return j_steps(J, self.s->n);
}

/* --- searching -------------------------------------------------------------------------------- */

/* First occurrence of w at or behind byte `from`, before byte `to`; -1 if there is none. */
static int64_t find_bytes(const struct jstr *s, const struct jstr *w, size_t from, size_t to) {
  if (w->n > to - from) return -1;
  if (w->n == 0) return (int64_t)from;
  const char *p = memmem(s->p + from, to - from, w->p, w->n);
  return p ? p - s->p : -1;
}

static int64_t rfind_bytes(const struct jstr *s, const struct jstr *w, size_t from, size_t to) {
  if (w->n > to - from) return -1;
  for (size_t i = to - w->n + 1; i-- > from;)
    if (w->n == 0 || memcmp(s->p + i, w->p, w->n) == 0) return (int64_t)i;
  return -1;
}

/* Byte range of the characters [a[0], a[1]) as slices count; false when it is empty backwards. */
static ka_status char_range(struct jrun *J, struct jv self, const struct jv *a, size_t *from,
                            size_t *to, bool *valid) {
  int64_t n = j_n_chars(self.s), i = 0, k = n;
  if (a[0].t != JV_NONE) J_TRY(int_arg(J, a[0], 0, &i));
  if (a[1].t != JV_NONE) J_TRY(int_arg(J, a[1], n, &k));
  if (i < 0) i = i < -n ? 0 : i + n;
  if (k < 0) k = k < -n ? 0 : k + n;
  if (k > n) k = n;
  *valid = i <= k;
  *from = *valid ? j_char_offset(self.s, i) : 0;
  *to = *valid ? j_char_offset(self.s, k) : 0;
  return j_steps(J, self.s->n);
}

static ka_status search(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,
                        bool last, bool must) {
  size_t from, to;
  bool valid;
  J_TRY(need_str(J, a[0], "find"));
  J_TRY(char_range(J, self, a + 1, &from, &to, &valid));
  int64_t at = -1;
  if (valid) at = (last ? rfind_bytes : find_bytes)(self.s, a[0].s, from, to);
  if (last) J_TRY(j_steps(J, self.s->n * 8));
  if (at < 0 && must) return j_fail(J, "substring not found");
  struct jstr before = {self.s->p, at < 0 ? 0 : (size_t)at, -1, false};
  *out = jv_int(at < 0 ? -1 : j_n_chars(&before));
  return KA_STATUS_OK;
}

METHOD(m_find) {
  UNUSED(args);
  return search(J, out, self, a, false, false);
}
METHOD(m_rfind) {
  UNUSED(args);
  return search(J, out, self, a, true, false);
}
METHOD(m_index) {
  UNUSED(args);
  return search(J, out, self, a, false, true);
}
METHOD(m_rindex) {
  UNUSED(args);
  return search(J, out, self, a, true, true);
}

METHOD(m_count) {
  UNUSED(args);
  size_t from, to;
  bool valid;
  int64_t n = 0;
  J_TRY(need_str(J, a[0], "count"));
  J_TRY(char_range(J, self, a + 1, &from, &to, &valid));
  if (valid && a[0].s->n == 0) {
    struct jstr part = {self.s->p + from, to - from, -1, false};
    n = j_n_chars(&part) + 1;
  } else if (valid) {
    for (int64_t at; (at = find_bytes(self.s, a[0].s, from, to)) >= 0; n++)
      from = (size_t)at + a[0].s->n;
  }
  *out = jv_int(n);
  return KA_STATUS_OK;
}

static ka_status affix(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,
                       bool end) {
  size_t from, to;
  bool valid, found = false;
  J_TRY(char_range(J, self, a + 1, &from, &to, &valid));
  struct jv one = a[0], *options = &one;
  int64_t n = 1;
  if (a[0].t == JV_TUPLE) {
    options = a[0].q->v;
    n = a[0].q->n;
  }
  for (int64_t i = 0; i < n; i++) {
    J_TRY(need_str(J, options[i], end ? "endswith" : "startswith"));
    const struct jstr *w = options[i].s;
    if (!valid || w->n > to - from) continue;
    if (w->n == 0 || memcmp(self.s->p + (end ? to - w->n : from), w->p, w->n) == 0) found = true;
  }
  *out = jv_bool(found);
  return KA_STATUS_OK;
}

METHOD(m_startswith) {
  UNUSED(args);
  return affix(J, out, self, a, false);
}
METHOD(m_endswith) {
  UNUSED(args);
  return affix(J, out, self, a, true);
}

METHOD(m_removeprefix) {
  UNUSED(args);
  J_TRY(need_str(J, a[0], "removeprefix"));
  const struct jstr *s = self.s, *w = a[0].s;
  bool has = w->n <= s->n && (w->n == 0 || memcmp(s->p, w->p, w->n) == 0);
  size_t cut = has ? w->n : 0;
  return j_str_view(J, out, s->p + cut, s->n - cut);
}

METHOD(m_removesuffix) {
  UNUSED(args);
  J_TRY(need_str(J, a[0], "removesuffix"));
  const struct jstr *s = self.s, *w = a[0].s;
  bool has = w->n > 0 && w->n <= s->n && memcmp(s->p + s->n - w->n, w->p, w->n) == 0;
  return j_str_view(J, out, s->p, s->n - (has ? w->n : 0));
}

METHOD(m_replace) {
  UNUSED(args);
  int64_t left;
  struct jbuf b = {0};
  J_TRY(need_str(J, a[0], "replace"));
  J_TRY(need_str(J, a[1], "replace"));
  J_TRY(int_arg(J, a[2], -1, &left));
  const struct jstr *s = self.s, *w = a[0].s, *r = a[1].s;
  if (s->markup) return j_fail(J, "replace in escaped text is not supported");
  size_t i = 0;
  while (left != 0 && i <= s->n) {
    int64_t at = find_bytes(s, w, i, s->n);
    if (at < 0) break;
    size_t next = (size_t)at + w->n;
    J_TRY(jb_put(J, &b, s->p + i, (size_t)at - i));
    J_TRY(jb_put(J, &b, r->p, r->n));
    if (w->n == 0) { /* between all characters */
      if (next >= s->n) {
        i = s->n;
        break;
      }
      do {
        J_TRY(jb_put(J, &b, s->p + next, 1));
        next++;
      } while (next < s->n && (s->p[next] & 0xc0) == 0x80);
    }
    i = next;
    left--;
  }
  J_TRY(jb_put(J, &b, s->p + i, s->n - i));
  J_TRY(j_steps(J, s->n));
  return result(J, out, self, &b);
}

/* --- splitting and joining ------------------------------------------------------------------- */

static ka_status add_piece(struct jrun *J, struct jv list, const struct jstr *s, size_t from,
                           size_t to) {
  struct jv piece;
  J_TRY(j_str_view(J, &piece, s->p + from, to - from));
  piece.s->markup = s->markup;
  return j_seq_add(J, list, piece);
}

static void reverse(struct jseq *q) {
  for (int64_t i = 0, k = q->n - 1; i < k; i++, k--) {
    struct jv v = q->v[i];
    q->v[i] = q->v[k];
    q->v[k] = v;
  }
}

static ka_status split_space(struct jrun *J, const struct jstr *s, int64_t max, struct jv list) {
  const char *p = s->p;
  size_t n = s->n;
  uint32_t cp;
  for (;; max--) {
    ju_strip(&p, &n, NULL, true, false);
    if (n == 0) return KA_STATUS_OK;
    size_t i = 0;
    while (i < n && max != 0) {
      int len = ka_utf8_decode(p + i, n - i, &cp);
      if (ju_space(cp)) break;
      i += (size_t)len;
    }
    if (max == 0) i = n;
    J_TRY(add_piece(J, list, s, (size_t)(p - s->p), (size_t)(p - s->p) + i));
    p += i;
    n -= i;
  }
}

static ka_status rsplit_space(struct jrun *J, const struct jstr *s, int64_t max, struct jv list) {
  const char *p = s->p;
  size_t n = s->n;
  uint32_t cp;
  for (;; max--) {
    ju_strip(&p, &n, NULL, false, true);
    if (n == 0) break;
    size_t i = n;
    while (i > 0 && max != 0) {
      size_t k = i - 1;
      while (k > 0 && (p[k] & 0xc0) == 0x80) k--;
      ka_utf8_decode(p + k, n - k, &cp);
      if (ju_space(cp)) break;
      i = k;
    }
    if (max == 0) i = 0;
    J_TRY(add_piece(J, list, s, (size_t)(p - s->p) + i, (size_t)(p - s->p) + n));
    n = i;
  }
  reverse(list.q);
  return KA_STATUS_OK;
}

static ka_status split(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,
                       bool from_right) {
  int64_t max;
  J_TRY(int_arg(J, a[1], -1, &max));
  J_TRY(j_seq(J, out, JV_LIST, 0));
  J_TRY(j_steps(J, self.s->n * (from_right ? 8 : 1)));
  const struct jstr *s = self.s;
  if (a[0].t == JV_MISSING || a[0].t == JV_NONE)
    return from_right ? rsplit_space(J, s, max, *out) : split_space(J, s, max, *out);
  J_TRY(need_str(J, a[0], "split"));
  const struct jstr *w = a[0].s;
  if (w->n == 0) return j_fail(J, "split: empty separator");
  size_t from = 0, to = s->n;
  for (; max != 0; max--) {
    int64_t at = (from_right ? rfind_bytes : find_bytes)(s, w, from, to);
    if (at < 0) break;
    J_TRY(
        add_piece(J, *out, s, from_right ? (size_t)at + w->n : from, from_right ? to : (size_t)at));
    if (from_right)
      to = (size_t)at;
    else
      from = (size_t)at + w->n;
  }
  J_TRY(add_piece(J, *out, s, from, to));
  if (from_right) reverse(out->q);
  return KA_STATUS_OK;
}

METHOD(m_split) {
  UNUSED(args);
  return split(J, out, self, a, false);
}
METHOD(m_rsplit) {
  UNUSED(args);
  return split(J, out, self, a, true);
}

static ka_status partition(struct jrun *J, struct jv *out, struct jv self, struct jv sep,
                           bool last) {
  J_TRY(need_str(J, sep, "partition"));
  const struct jstr *s = self.s, *w = sep.s;
  if (w->n == 0) return j_fail(J, "partition: empty separator");
  J_TRY(j_steps(J, s->n * 8));
  int64_t at = (last ? rfind_bytes : find_bytes)(s, w, 0, s->n);
  size_t cut[4] = {0, at < 0 ? (last ? 0 : s->n) : (size_t)at, 0, s->n};
  cut[2] = at < 0 ? cut[1] : (size_t)at + w->n;
  J_TRY(j_seq(J, out, JV_TUPLE, 3));
  for (int i = 0; i < 3; i++) J_TRY(add_piece(J, *out, s, cut[i], cut[i + 1]));
  return KA_STATUS_OK;
}

METHOD(m_partition) {
  UNUSED(args);
  return partition(J, out, self, a[0], false);
}
METHOD(m_rpartition) {
  UNUSED(args);
  return partition(J, out, self, a[0], true);
}

METHOD(m_splitlines) {
  UNUSED(args);
  bool keep = a[0].t != JV_MISSING && j_truth(a[0]);
  const struct jstr *s = self.s;
  J_TRY(j_seq(J, out, JV_LIST, 0));
  J_TRY(j_steps(J, s->n));
  size_t start = 0;
  for (size_t i = 0; i < s->n;) {
    uint32_t cp = 0;
    size_t end = i;
    i += (size_t)ka_utf8_decode(s->p + i, s->n - i, &cp);
    bool line_end = (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 ||
                    cp == 0x2028 || cp == 0x2029;
    if (!line_end) continue;
    if (cp == '\r' && i < s->n && s->p[i] == '\n') i++;
    J_TRY(add_piece(J, *out, s, start, keep ? i : end));
    start = i;
  }
  return start < s->n ? add_piece(J, *out, s, start, s->n) : KA_STATUS_OK;
}

METHOD(m_join) {
  UNUSED(args);
  struct jv items;
  struct jbuf b = {0};
  if (self.s->markup) return j_fail(J, "joining with escaped text is not supported");
  if (a[0].t == JV_UNDEF) return j_str_view(J, out, "", 0);
  J_TRY(j_items(J, a[0], &items));
  for (int64_t i = 0; i < items.q->n; i++) {
    J_TRY(need_str(J, items.q->v[i], "join"));
    if (i > 0) J_TRY(jb_put(J, &b, self.s->p, self.s->n));
    J_TRY(jb_put(J, &b, items.q->v[i].s->p, items.q->v[i].s->n));
  }
  return result(J, out, self, &b);
}

static ka_status justify(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,
                         char how) {
  int64_t width, n = j_n_chars(self.s);
  struct jbuf b = {0};
  const struct jstr space = {" ", 1, 1, false};
  const struct jstr *fill = &space;
  J_TRY(int_arg(J, a[0], 0, &width));
  if (how != 'z' && a[1].t != JV_MISSING) {
    J_TRY(need_str(J, a[1], "fill character"));
    fill = a[1].s;
    if (j_n_chars(a[1].s) != 1) return j_fail(J, "the fill character must be one character");
  }
  int64_t pad = width > n ? width - n : 0, left = pad;
  J_TRY(j_fits(J, pad));
  if (how == 'l') left = 0;
  if (how == 'c') left = pad / 2 + (pad & width & 1);
  size_t sign = how == 'z' && self.s->n > 0 && (*self.s->p == '+' || *self.s->p == '-');
  J_TRY(jb_put(J, &b, self.s->p, sign));
  for (int64_t i = 0; i < left; i++)
    J_TRY(how == 'z' ? jb_puts(J, &b, "0") : jb_put(J, &b, fill->p, fill->n));
  J_TRY(jb_put(J, &b, self.s->p + sign, self.s->n - sign));
  for (int64_t i = left; i < pad; i++) J_TRY(jb_put(J, &b, fill->p, fill->n));
  return result(J, out, self, &b);
}

METHOD(m_ljust) {
  UNUSED(args);
  return justify(J, out, self, a, 'l');
}
METHOD(m_rjust) {
  UNUSED(args);
  return justify(J, out, self, a, 'r');
}
METHOD(m_center) {
  UNUSED(args);
  return justify(J, out, self, a, 'c');
}
METHOD(m_zfill) {
  UNUSED(args);
  return justify(J, out, self, a, 'z');
}

METHOD(m_format) {
  UNUSED(a);
  if (self.s->markup) return j_fail(J, "formatting escaped text is not supported");
  return j_format(J, self, args, out);
}

/* --- containers ------------------------------------------------------------------------------- */

static ka_status view(struct jrun *J, struct jv *out, struct jv self, const char *kind) {
  J_TRY(j_seq(J, out, JV_VIEW, self.d->n));
  out->q->kind = kind;
  J_TRY(j_steps(J, (size_t)self.d->n * 16));
  for (int64_t i = 0; i < self.d->n; i++) {
    struct jv v = kind[5] == 'k' ? self.d->p[i].k : self.d->p[i].v;
    if (kind[5] == 'i') J_TRY(j_tuple2(J, &v, self.d->p[i].k, self.d->p[i].v));
    J_TRY(j_seq_add(J, *out, v));
  }
  return KA_STATUS_OK;
}

METHOD(m_items) {
  UNUSED(a);
  UNUSED(args);
  return view(J, out, self, "dict_items");
}
METHOD(m_keys) {
  UNUSED(a);
  UNUSED(args);
  return view(J, out, self, "dict_keys");
}
METHOD(m_values) {
  UNUSED(a);
  UNUSED(args);
  return view(J, out, self, "dict_values");
}

METHOD(m_get) {
  UNUSED(args);
  struct jpair *found = NULL;
  J_TRY(j_dict_find(J, self.d, a[0], &found));
  *out = found ? found->v : a[1].t == JV_MISSING ? jv_none() : a[1];
  return KA_STATUS_OK;
}

METHOD(m_copy) {
  UNUSED(J);
  UNUSED(a);
  UNUSED(args);
  *out = self; /* nothing can change either of them */
  return KA_STATUS_OK;
}

METHOD(m_seq_index) {
  UNUSED(args);
  int64_t from, to;
  if (a[0].t == JV_MISSING) return j_fail(J, "index: the value is missing");
  J_TRY(int_arg(J, a[1], 0, &from));
  J_TRY(int_arg(J, a[2], INT64_MAX, &to));
  if (from < 0) from = from < -self.q->n ? 0 : from + self.q->n;
  if (to < 0) to += self.q->n;
  J_TRY(j_steps(J, (size_t)self.q->n));
  for (int64_t i = from; i < self.q->n && i < to; i++) {
    bool same = false;
    J_TRY(j_equal(J, self.q->v[i], a[0], &same));
    if (!same) continue;
    *out = jv_int(i);
    return KA_STATUS_OK;
  }
  return j_fail(J, "index: the value is not in the %s", jv_type_name(self));
}

METHOD(m_seq_count) {
  UNUSED(args);
  int64_t n = 0;
  J_TRY(j_steps(J, (size_t)self.q->n));
  for (int64_t i = 0; i < self.q->n; i++) {
    bool same = false;
    J_TRY(j_equal(J, self.q->v[i], a[0], &same));
    n += same;
  }
  *out = jv_int(n);
  return KA_STATUS_OK;
}

METHOD(m_cycle) {
  UNUSED(a);
  if (args->n_pos == 0 || args->n_kw > 0) return j_fail(J, "cycle needs values");
  *out = args->pos[self.loop->index0 % args->n_pos];
  return KA_STATUS_OK;
}

METHOD(m_changed) {
  UNUSED(a);
  struct jv now;
  bool same = false;
  if (args->n_kw > 0) return j_fail(J, "changed takes no keyword arguments");
  J_TRY(j_seq(J, &now, JV_TUPLE, args->n_pos));
  for (int64_t i = 0; i < args->n_pos; i++) J_TRY(j_seq_add(J, now, args->pos[i]));
  if (self.loop->changed.t == JV_TUPLE) J_TRY(j_equal(J, self.loop->changed, now, &same));
  self.loop->changed = now;
  *out = jv_bool(!same);
  return KA_STATUS_OK;
}

METHOD(m_next) {
  UNUSED(a);
  UNUSED(args);
  UNUSED(J);
  *out = self.q->v[self.q->pos];
  self.q->pos = (self.q->pos + 1) % self.q->n;
  return KA_STATUS_OK;
}

METHOD(m_reset) {
  UNUSED(J);
  UNUSED(a);
  UNUSED(args);
  self.q->pos = 0;
  *out = jv_none();
  return KA_STATUS_OK;
}

METHOD(m_is_integer) {
  UNUSED(J);
  UNUSED(a);
  UNUSED(args);
  *out = jv_bool(self.f == (double)(int64_t)self.f);
  return KA_STATUS_OK;
}

/* --- tables ----------------------------------------------------------------------------------- */

/* n_required -1: hidden by the sandbox, so undefined. No function: an error. */
static const struct jfunc str_methods[] = {{"upper", m_upper, "/", 0},
                                           {"lower", m_lower, "/", 0},
                                           {"casefold", NULL, NULL, 0},
                                           {"title", m_title, "/", 0},
                                           {"capitalize", m_capitalize, "/", 0},
                                           {"swapcase", m_swapcase, "/", 0},
                                           {"strip", m_strip, "/chars", 0},
                                           {"lstrip", m_lstrip, "/chars", 0},
                                           {"rstrip", m_rstrip, "/chars", 0},
                                           {"isupper", m_isupper, "/", 0},
                                           {"islower", m_islower, "/", 0},
                                           {"istitle", m_istitle, "/", 0},
                                           {"isalpha", m_isalpha, "/", 0},
                                           {"isalnum", m_isalnum, "/", 0},
                                           {"isdigit", m_isdigit, "/", 0},
                                           {"isdecimal", m_isdecimal, "/", 0},
                                           {"isnumeric", m_isnumeric, "/", 0},
                                           {"isspace", m_isspace, "/", 0},
                                           {"isascii", m_isascii, "/", 0},
                                           {"isidentifier", NULL, NULL, 0},
                                           {"isprintable", NULL, NULL, 0},
                                           {"find", m_find, "/sub start end", 1},
                                           {"rfind", m_rfind, "/sub start end", 1},
                                           {"index", m_index, "/sub start end", 1},
                                           {"rindex", m_rindex, "/sub start end", 1},
                                           {"count", m_count, "/sub start end", 1},
                                           {"startswith", m_startswith, "/prefix start end", 1},
                                           {"endswith", m_endswith, "/suffix start end", 1},
                                           {"removeprefix", m_removeprefix, "/prefix", 1},
                                           {"removesuffix", m_removesuffix, "/suffix", 1},
                                           {"replace", m_replace, "/old new count", 2},
                                           {"split", m_split, "sep maxsplit", 0},
                                           {"rsplit", m_rsplit, "sep maxsplit", 0},
                                           {"partition", m_partition, "/sep", 1},
                                           {"rpartition", m_rpartition, "/sep", 1},
                                           {"splitlines", m_splitlines, "keepends", 0},
                                           {"join", m_join, "/iterable", 1},
                                           {"ljust", m_ljust, "/width fillchar", 1},
                                           {"rjust", m_rjust, "/width fillchar", 1},
                                           {"center", m_center, "/width fillchar", 1},
                                           {"zfill", m_zfill, "/width", 1},
                                           {"format", m_format, NULL, 0},
                                           {"format_map", NULL, NULL, 0},
                                           {"expandtabs", NULL, NULL, 0},
                                           {"encode", NULL, NULL, 0},
                                           {"translate", NULL, NULL, 0},
                                           {"maketrans", NULL, NULL, 0},
                                           {NULL}};
static const struct jfunc dict_methods[] = {
    {"items", m_items, "/", 0},        {"keys", m_keys, "/", 0},   {"values", m_values, "/", 0},
    {"get", m_get, "/key default", 1}, {"copy", m_copy, "/", 0},   {"fromkeys", NULL, NULL, 0},
    {"clear", NULL, NULL, -1},         {"pop", NULL, NULL, -1},    {"popitem", NULL, NULL, -1},
    {"setdefault", NULL, NULL, -1},    {"update", NULL, NULL, -1}, {NULL}};
static const struct jfunc list_methods[] = {{"index", m_seq_index, "/value start stop", 1},
                                            {"count", m_seq_count, "/value", 1},
                                            {"copy", m_copy, "/", 0},
                                            {"append", NULL, NULL, -1},
                                            {"clear", NULL, NULL, -1},
                                            {"pop", NULL, NULL, -1},
                                            {"reverse", NULL, NULL, -1},
                                            {"insert", NULL, NULL, -1},
                                            {"sort", NULL, NULL, -1},
                                            {"extend", NULL, NULL, -1},
                                            {"remove", NULL, NULL, -1},
                                            {NULL}};
static const struct jfunc tuple_methods[] = {
    {"index", m_seq_index, "/value start stop", 1}, {"count", m_seq_count, "/value", 1}, {NULL}};
static const struct jfunc number_methods[] = {{"real", NULL, NULL, 0},
                                              {"imag", NULL, NULL, 0},
                                              {"numerator", NULL, NULL, 0},
                                              {"denominator", NULL, NULL, 0},
                                              {"conjugate", NULL, NULL, 0},
                                              {"bit_length", NULL, NULL, 0},
                                              {"bit_count", NULL, NULL, 0},
                                              {"to_bytes", NULL, NULL, 0},
                                              {"from_bytes", NULL, NULL, 0},
                                              {"as_integer_ratio", NULL, NULL, 0},
                                              {"hex", NULL, NULL, 0},
                                              {"fromhex", NULL, NULL, 0},
                                              {NULL}};
static const struct jfunc float_methods[] = {{"is_integer", m_is_integer, "/", 0}, {NULL}};
static const struct jfunc loop_methods[] = {
    {"cycle", m_cycle, NULL, 0}, {"changed", m_changed, NULL, 0}, {NULL}};
static const struct jfunc cycler_methods[] = {
    {"next", m_next, "/", 0}, {"reset", m_reset, "/", 0}, {"current", NULL, NULL, 0}, {NULL}};
static const struct jfunc other_methods[] = {{"mapping", NULL, NULL, 0},
                                             {"isdisjoint", NULL, NULL, 0},
                                             {"send", NULL, NULL, 0},
                                             {"throw", NULL, NULL, 0},
                                             {"close", NULL, NULL, 0},
                                             {"arguments", NULL, NULL, 0},
                                             {"caller", NULL, NULL, 0},
                                             {"catch_kwargs", NULL, NULL, 0},
                                             {"catch_varargs", NULL, NULL, 0},
                                             {"index", NULL, NULL, 0},
                                             {"count", NULL, NULL, 0},
                                             {"fromkeys", NULL, NULL, 0},
                                             {NULL}};

const struct jfunc *j_find_method(struct jv obj, const struct jstr *name) {
  const struct jfunc *found = NULL;
  switch (obj.t) {
  case JV_STR:
    return j_find_in(str_methods, name->p, name->n);
  case JV_DICT:
    return j_find_in(dict_methods, name->p, name->n);
  case JV_LIST:
    return j_find_in(list_methods, name->p, name->n);
  case JV_TUPLE:
    return j_find_in(tuple_methods, name->p, name->n);
  case JV_FLOAT:
    found = j_find_in(float_methods, name->p, name->n);
    return found ? found : j_find_in(number_methods, name->p, name->n);
  case JV_BOOL:
  case JV_INT:
    return j_find_in(number_methods, name->p, name->n);
  case JV_CYCLER:
    return j_find_in(cycler_methods, name->p, name->n);
  case JV_VIEW:
  case JV_ITER:
  case JV_MACRO:
  case JV_RANGE:
  case JV_GLOBAL:
    return j_find_in(other_methods, name->p, name->n);
  default:
    return NULL;
  }
}

const struct jfunc *j_find_loop_method(const char *name) {
  return j_find_in(loop_methods, name, strlen(name));
}
