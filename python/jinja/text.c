/* SPDX-License-Identifier: Apache-2.0
 * Values as text: Python's str() and repr(), JSON as json.dumps writes it, HTML escaping. */
#include "python/jinja/core.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* The shortest digits that read back as f, laid out as Python's repr does. */
void j_float_repr(double f, char buf[32]) {
  if (!isfinite(f)) {
    snprintf(buf, 32, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
    return;
  }
  char digits[26];
  for (int p = 1; p <= 17; p++) {
    snprintf(digits, sizeof digits, "%.*e", p - 1, f);
    if (strtod(digits, NULL) == f) break;
  }
  char *e = strchr(digits, 'e');
  int exponent = atoi(e + 1);
  if (exponent >= -4 && exponent < 16) {
    int n_digits = (int)(e - digits) - (digits[0] == '-');
    int decimals = n_digits <= 2 ? 1 - exponent : n_digits - 2 - exponent;
    if (n_digits == 1) decimals = -exponent;
    snprintf(buf, 32, "%.*f", decimals < 1 ? 1 : decimals, f);
    return;
  }
  *e = 0;
  snprintf(buf, 32, "%.24se%c%02u", digits, exponent < 0 ? '-' : '+',
           (unsigned)abs(exponent) % 1000u);
}

static ka_status put_str_repr(struct jrun *J, struct jbuf *b, const struct jstr *s) {
  bool single = s->n > 0 && memchr(s->p, '\'', s->n), twice = s->n > 0 && memchr(s->p, '"', s->n);
  char quote = single && !twice ? '"' : '\'';
  if (s->markup) J_TRY(jb_puts(J, b, "Markup("));
  J_TRY(jb_put(J, b, &quote, 1));
  for (size_t i = 0; i < s->n;) {
    uint32_t cp = 0;
    int len = ka_utf8_decode(s->p + i, s->n - i, &cp);
    if (cp == (uint32_t)quote || cp == '\\')
      J_TRY(jb_printf(J, b, "\\%c", (char)cp));
    else if (cp == '\n' || cp == '\r' || cp == '\t')
      J_TRY(jb_puts(J, b, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t"));
    else if (ju_printable(cp))
      J_TRY(jb_put(J, b, s->p + i, (size_t)len));
    else
      J_TRY(jb_printf(J, b, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp));
    i += (size_t)(len > 0 ? len : 1);
  }
  J_TRY(jb_put(J, b, &quote, 1));
  return s->markup ? jb_puts(J, b, ")") : KA_STATUS_OK;
}

static ka_status put_items(struct jrun *J, struct jbuf *b, const struct jseq *q) {
  for (int64_t i = 0; i < q->n; i++) {
    if (i > 0) J_TRY(jb_puts(J, b, ", "));
    J_TRY(j_put_repr(J, b, q->v[i]));
  }
  return KA_STATUS_OK;
}

static ka_status put_dict(struct jrun *J, struct jbuf *b, const struct jdict *d) {
  J_TRY(jb_puts(J, b, "{"));
  for (int64_t i = 0; i < d->n; i++) {
    if (i > 0) J_TRY(jb_puts(J, b, ", "));
    J_TRY(j_put_repr(J, b, d->p[i].k));
    J_TRY(jb_puts(J, b, ": "));
    J_TRY(j_put_repr(J, b, d->p[i].v));
  }
  return jb_puts(J, b, "}");
}

static ka_status put_compound(struct jrun *J, struct jbuf *b, struct jv v) {
  switch (v.t) {
  case JV_LIST:
    J_TRY(jb_puts(J, b, "["));
    J_TRY(put_items(J, b, v.q));
    return jb_puts(J, b, "]");
  case JV_TUPLE:
    J_TRY(jb_puts(J, b, "("));
    J_TRY(put_items(J, b, v.q));
    return jb_puts(J, b, v.q->n == 1 ? ",)" : ")");
  case JV_VIEW:
    J_TRY(jb_printf(J, b, "%s([", v.q->kind));
    J_TRY(put_items(J, b, v.q));
    return jb_puts(J, b, "])");
  case JV_DICT:
    return put_dict(J, b, v.d);
  case JV_NS:
    J_TRY(jb_puts(J, b, "<Namespace "));
    J_TRY(put_dict(J, b, v.d));
    return jb_puts(J, b, ">");
  case JV_RANGE:
    J_TRY(jb_printf(J, b, "range(%lld, %lld", (long long)v.r->start, (long long)v.r->stop));
    if (v.r->step != 1) J_TRY(jb_printf(J, b, ", %lld", (long long)v.r->step));
    return jb_puts(J, b, ")");
  case JV_MACRO:
    if (v.m->node->id < 0) return jb_puts(J, b, "<Macro anonymous>");
    return jb_printf(J, b, "<Macro '%.400s'>", J->t->names[v.m->node->id]);
  default: /* Python prints an address here, which no prompt can want */
    return j_fail(J, "a %s cannot be printed%s", jv_type_name(v),
                  v.t == JV_ITER     ? "; add |list"
                  : v.t == JV_METHOD ? "; call it with ()"
                                     : "");
  }
}

ka_status j_put_repr(struct jrun *J, struct jbuf *b, struct jv v) {
  char number[32];
  switch (v.t) {
  case JV_MISSING:
  case JV_UNDEF:
    return jb_puts(J, b, "Undefined");
  case JV_NONE:
    return jb_puts(J, b, "None");
  case JV_BOOL:
    return jb_puts(J, b, v.b ? "True" : "False");
  case JV_INT:
    return jb_printf(J, b, "%lld", (long long)v.i);
  case JV_FLOAT:
    j_float_repr(v.f, number);
    return jb_puts(J, b, number);
  case JV_STR:
    return put_str_repr(J, b, v.s);
  default:
    J_TRY(j_enter(J));
    J_TRY(put_compound(J, b, v));
    j_leave(J);
    return KA_STATUS_OK;
  }
}

ka_status j_put_str(struct jrun *J, struct jbuf *b, struct jv v) {
  if (v.t == JV_STR) return jb_put(J, b, v.s->p, v.s->n);
  if (j_forbidden(J, v)) return j_fail(J, "'%s' is undefined", v.undef);
  if (v.t == JV_UNDEF) return KA_STATUS_OK;
  if (v.t == JV_JOINER || v.t == JV_CYCLER) return put_compound(J, b, v);
  return j_put_repr(J, b, v);
}

ka_status j_to_str(struct jrun *J, struct jv v, struct jv *out) {
  *out = v;
  if (v.t == JV_STR) return KA_STATUS_OK;
  struct jbuf b = {0};
  J_TRY(j_put_str(J, &b, v));
  return j_str_buf(J, out, &b);
}

ka_status j_escape(struct jrun *J, struct jv v, struct jv *out) {
  *out = v;
  if (v.t == JV_STR && v.s->markup) return KA_STATUS_OK;
  J_TRY(j_to_str(J, v, &v));
  struct jbuf b = {0};
  for (size_t i = 0; i < v.s->n; i++) {
    const char *entity = v.s->p[i] == '&'    ? "&amp;"
                         : v.s->p[i] == '<'  ? "&lt;"
                         : v.s->p[i] == '>'  ? "&gt;"
                         : v.s->p[i] == '\'' ? "&#39;"
                         : v.s->p[i] == '"'  ? "&#34;"
                                             : NULL;
    if (entity)
      J_TRY(jb_puts(J, &b, entity));
    else
      J_TRY(jb_put(J, &b, v.s->p + i, 1));
  }
  J_TRY(j_str_buf(J, out, &b));
  out->s->markup = true;
  return KA_STATUS_OK;
}

/* --- JSON ------------------------------------------------------------------------------------- */

struct json_style {
  bool ascii, sort, lines; /* lines: one member a line */
  struct jstr item, colon, indent;
};

static ka_status json_str(struct jrun *J, struct jbuf *b, const struct jstr *s, bool ascii) {
  J_TRY(jb_puts(J, b, "\""));
  for (size_t i = 0; i < s->n;) {
    uint32_t cp = 0;
    int len = ka_utf8_decode(s->p + i, s->n - i, &cp);
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const char *simple = cp > 0 && cp < 128 ? strchr(from, (int)cp) : NULL;
    if (simple)
      J_TRY(jb_printf(J, b, "\\%c", to[simple - from]));
    else if (cp < 32 || (ascii && cp > 126 && cp < 0x10000))
      J_TRY(jb_printf(J, b, "\\u%04x", cp));
    else if (ascii && cp >= 0x10000)
      J_TRY(jb_printf(J, b, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                      0xdc00 + ((cp - 0x10000) & 0x3ff)));
    else
      J_TRY(jb_put(J, b, s->p + i, (size_t)len));
    i += (size_t)(len > 0 ? len : 1);
  }
  return jb_puts(J, b, "\"");
}

static ka_status json_scalar(struct jrun *J, struct jbuf *b, struct jv v) {
  char number[32];
  switch (v.t) {
  case JV_NONE:
    return jb_puts(J, b, "null");
  case JV_BOOL:
    return jb_puts(J, b, v.b ? "true" : "false");
  case JV_INT:
    return jb_printf(J, b, "%lld", (long long)v.i);
  case JV_FLOAT:
    if (!isfinite(v.f))
      return jb_puts(J, b, isnan(v.f) ? "NaN" : v.f > 0 ? "Infinity" : "-Infinity");
    j_float_repr(v.f, number);
    return jb_puts(J, b, number);
  default:
    if (v.t == JV_UNDEF) return j_fail(J, "'%s' is undefined and has no JSON form", v.undef);
    return j_fail(J, "a %s has no JSON form", jv_type_name(v));
  }
}

static ka_status json_newline(struct jrun *J, struct jbuf *b, const struct json_style *style,
                              int level) {
  if (!style->lines) return KA_STATUS_OK;
  J_TRY(jb_puts(J, b, "\n"));
  for (int i = 0; i < level; i++) J_TRY(jb_put(J, b, style->indent.p, style->indent.n));
  return KA_STATUS_OK;
}

/* A stable insertion sort would be quadratic; this is the merge sort of the sort filter. */
static ka_status sorted_pairs(struct jrun *J, const struct jdict *d, struct jpair **out) {
  void *p, *q;
  size_t bytes = (size_t)d->n * sizeof(struct jpair);
  J_TRY(j_alloc(J, &p, bytes + 1));
  J_TRY(j_alloc(J, &q, bytes + 1));
  struct jpair *from = p, *to = q;
  if (d->n > 0) memcpy(from, d->p, bytes);
  for (int64_t width = 1; width < d->n; width *= 2) {
    for (int64_t lo = 0; lo < d->n; lo += 2 * width) {
      int64_t mid = lo + width < d->n ? lo + width : d->n;
      int64_t hi = mid + width < d->n ? mid + width : d->n;
      for (int64_t i = lo, j = mid, k = lo; k < hi; k++) {
        bool second = i >= mid;
        if (!second && j < hi) J_TRY(j_order(J, '<', from[j].k, from[i].k, &second));
        to[k] = second ? from[j++] : from[i++];
      }
    }
    struct jpair *swap = from;
    from = to;
    to = swap;
  }
  *out = from;
  return KA_STATUS_OK;
}

static ka_status json_value(struct jrun *J, struct jbuf *b, struct jv v,
                            const struct json_style *style, int level);

static ka_status json_dict(struct jrun *J, struct jbuf *b, const struct jdict *d,
                           const struct json_style *style, int level) {
  struct jpair *p = d->p;
  if (style->sort) J_TRY(sorted_pairs(J, d, &p));
  J_TRY(jb_puts(J, b, "{"));
  for (int64_t i = 0; i < d->n; i++) {
    if (i > 0) J_TRY(jb_put(J, b, style->item.p, style->item.n));
    J_TRY(json_newline(J, b, style, level + 1));
    if (p[i].k.t == JV_STR) {
      J_TRY(json_str(J, b, p[i].k.s, style->ascii));
    } else if (p[i].k.t == JV_NONE || jv_is_number(p[i].k)) {
      J_TRY(jb_puts(J, b, "\""));
      J_TRY(json_scalar(J, b, p[i].k));
      J_TRY(jb_puts(J, b, "\""));
    } else {
      return j_fail(J, "a %s cannot be a key in JSON", jv_type_name(p[i].k));
    }
    J_TRY(jb_put(J, b, style->colon.p, style->colon.n));
    J_TRY(json_value(J, b, p[i].v, style, level + 1));
  }
  if (d->n > 0) J_TRY(json_newline(J, b, style, level));
  return jb_puts(J, b, "}");
}

static ka_status json_value(struct jrun *J, struct jbuf *b, struct jv v,
                            const struct json_style *style, int level) {
  if (v.t == JV_STR) return json_str(J, b, v.s, style->ascii);
  if (v.t != JV_LIST && v.t != JV_TUPLE && v.t != JV_DICT) return json_scalar(J, b, v);
  J_TRY(j_enter(J));
  if (v.t == JV_DICT) {
    J_TRY(json_dict(J, b, v.d, style, level));
  } else {
    J_TRY(jb_puts(J, b, "["));
    for (int64_t i = 0; i < v.q->n; i++) {
      if (i > 0) J_TRY(jb_put(J, b, style->item.p, style->item.n));
      J_TRY(json_newline(J, b, style, level + 1));
      J_TRY(json_value(J, b, v.q->v[i], style, level + 1));
    }
    if (v.q->n > 0) J_TRY(json_newline(J, b, style, level));
    J_TRY(jb_puts(J, b, "]"));
  }
  j_leave(J);
  return KA_STATUS_OK;
}

/* a: ensure_ascii, indent, separators, sort_keys. */
ka_status j_put_json(struct jrun *J, struct jbuf *b, struct jv v, const struct jv *a) {
  struct json_style style = {.ascii = j_truth(a[0]),
                             .sort = j_truth(a[3]),
                             .item = {", ", 2, 2, false},
                             .colon = {": ", 2, 2, false}};
  struct jbuf spaces = {0};
  if (a[1].t == JV_STR) {
    style.lines = true;
    style.indent = *a[1].s;
  } else if (jv_is_int(a[1])) {
    style.lines = true;
    for (int64_t i = jv_as_int(a[1]); i > 0; i--) J_TRY(jb_puts(J, &spaces, " "));
    style.indent = (struct jstr){spaces.p, spaces.n, -1, false};
  } else if (a[1].t != JV_MISSING && a[1].t != JV_NONE) {
    return j_fail(J, "indent: got a %s, expected a number or a string", jv_type_name(a[1]));
  }
  if (style.lines) style.item.n = 1;
  if (a[2].t != JV_MISSING && a[2].t != JV_NONE) {
    bool pair = (a[2].t == JV_LIST || a[2].t == JV_TUPLE) && a[2].q->n == 2 &&
                a[2].q->v[0].t == JV_STR && a[2].q->v[1].t == JV_STR;
    if (!pair) return j_fail(J, "separators: expected two strings");
    style.item = *a[2].q->v[0].s;
    style.colon = *a[2].q->v[1].s;
  }
  return json_value(J, b, v, &style, 0);
}
