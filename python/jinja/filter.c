/* SPDX-License-Identifier: Apache-2.0
 * Filters on one value: text, numbers, JSON. Those on sequences are in seq.c. */
#include "python/jinja/core.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define FILTER(name)                                                                               \
  static ka_status name(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,        \
                        const struct jargs *args)
#define UNUSED(x) ((void)(x))

static ka_status cased(struct jrun *J, struct jv *out, struct jv self, enum ju_case how) {
  struct jbuf b = {0};
  J_TRY(j_to_str(J, self, &self));
  J_TRY(ju_case(J, how, self.s->p, self.s->n, &b));
  J_TRY(j_str_buf(J, out, &b));
  out->s->markup = self.s->markup;
  return KA_STATUS_OK;
}

FILTER(f_upper) {
  UNUSED(a);
  UNUSED(args);
  return cased(J, out, self, JU_UPPER);
}
FILTER(f_lower) {
  UNUSED(a);
  UNUSED(args);
  return cased(J, out, self, JU_LOWER);
}
FILTER(f_capitalize) {
  UNUSED(a);
  UNUSED(args);
  return cased(J, out, self, JU_CAPITALIZE);
}

/* Words start behind blanks and the characters - ( { [ < ; not Python's str.title. */
FILTER(f_title) {
  UNUSED(a);
  UNUSED(args);
  struct jbuf b = {0};
  J_TRY(j_to_str(J, self, &self));
  const struct jstr *s = self.s;
  bool first = true;
  for (size_t i = 0; i < s->n;) {
    uint32_t cp = 0;
    size_t len = (size_t)ka_utf8_decode(s->p + i, s->n - i, &cp), end = i + len;
    bool gap = ju_space(cp) || (cp < 128 && cp && strchr("-({[<", (int)cp));
    while (!first && !gap && end < s->n) { /* the rest of the word as one: sigma looks around */
      size_t more = (size_t)ka_utf8_decode(s->p + end, s->n - end, &cp);
      if (ju_space(cp) || (cp < 128 && cp && strchr("-({[<", (int)cp))) break;
      end += more;
    }
    if (gap)
      J_TRY(jb_put(J, &b, s->p + i, len));
    else
      J_TRY(ju_case(J, first ? JU_UPPER : JU_LOWER, s->p + i, end - i, &b));
    first = gap;
    i = end;
  }
  return j_str_buf(J, out, &b);
}

FILTER(f_trim) {
  UNUSED(args);
  J_TRY(j_to_str(J, self, &self));
  if (a[0].t != JV_MISSING && a[0].t != JV_NONE && a[0].t != JV_STR)
    return j_fail(J, "trim: expected a string, got %s", jv_type_name(a[0]));
  const char *p = self.s->p;
  size_t n = self.s->n;
  J_TRY(j_steps(J, n));
  ju_strip(&p, &n, a[0].t == JV_STR ? a[0].s : NULL, true, true);
  J_TRY(j_str_view(J, out, p, n));
  out->s->markup = self.s->markup;
  return KA_STATUS_OK;
}

FILTER(f_replace) {
  UNUSED(args);
  struct jv parts[4];
  struct jargs call = {.pos = parts, .n_pos = 2};
  const struct jstr name = {"replace", 7, 7, false};
  J_TRY(j_to_str(J, self, &self));
  if (self.s->markup) J_TRY(j_str_view(J, &self, self.s->p, self.s->n));
  J_TRY(j_to_str(J, a[0], &parts[0]));
  J_TRY(j_to_str(J, a[1], &parts[1]));
  parts[2] = a[2];
  call.n_pos = a[2].t == JV_MISSING || a[2].t == JV_NONE ? 2 : 3;
  return j_call_func(J, j_find_method(self, &name), self, &call, out);
}

FILTER(f_string) {
  UNUSED(a);
  UNUSED(args);
  return j_to_str(J, self, out);
}

FILTER(f_safe) {
  UNUSED(a);
  UNUSED(args);
  J_TRY(j_to_str(J, self, &self));
  J_TRY(j_str_view(J, out, self.s->p, self.s->n));
  out->s->markup = true;
  return KA_STATUS_OK;
}

FILTER(f_escape) {
  UNUSED(a);
  UNUSED(args);
  return j_escape(J, self, out);
}

FILTER(f_forceescape) {
  UNUSED(a);
  UNUSED(args);
  J_TRY(j_to_str(J, self, &self));
  J_TRY(j_str_view(J, &self, self.s->p, self.s->n));
  return j_escape(J, self, out);
}

FILTER(f_tojson) {
  UNUSED(args);
  struct jbuf b = {0};
  J_TRY(j_put_json(J, &b, self, a));
  return j_str_buf(J, out, &b);
}

FILTER(f_default) {
  UNUSED(args);
  bool missing = self.t == JV_UNDEF || (a[1].t != JV_MISSING && j_truth(a[1]) && !j_truth(self));
  *out = self;
  if (!missing) return KA_STATUS_OK;
  if (a[0].t == JV_MISSING) return j_str_view(J, out, "", 0);
  *out = a[0];
  return KA_STATUS_OK;
}

FILTER(f_length) {
  UNUSED(a);
  UNUSED(args);
  int64_t n = 0;
  J_TRY(j_len(J, self, &n));
  *out = jv_int(n);
  return KA_STATUS_OK;
}

/* --- numbers ---------------------------------------------------------------------------------- */

/* text without blanks around it and without underscores between digits, in buf; false if it
 * cannot be a number. */
static bool number_text(const struct jstr *s, char buf[512]) {
  const char *p = s->p;
  size_t n = s->n, o = 0;
  ju_strip(&p, &n, NULL, true, true);
  if (n == 0 || n > 500) return false;
  for (size_t i = 0; i < n; i++) {
    if (p[i] == '_') {
      bool between = i > 0 && i + 1 < n && p[i - 1] != '_' && p[i + 1] != '_' &&
                     strchr("+-.", p[i - 1]) == NULL && strchr("+-.", p[i + 1]) == NULL;
      if (!between) return false;
      continue;
    }
    if (p[i] <= ' ' || p[i] & 0x80) return false;
    buf[o++] = p[i];
  }
  buf[o] = 0;
  return true;
}

static bool parse_float(const struct jstr *s, double *out) {
  char buf[512];
  if (!number_text(s, buf) || strpbrk(buf, "xXpP(")) return false;
  char *end;
  *out = strtod(buf, &end);
  return *end == 0;
}

/* 1: an integer, 0: none, -1: does not fit. */
static int parse_int(const struct jstr *s, int base, int64_t *out) {
  char buf[512];
  if (!number_text(s, buf)) return 0;
  const char *p = buf;
  bool negative = *p == '-';
  if (*p == '-' || *p == '+') p++;
  int prefix = p[0] != '0'          ? 0
               : (p[1] | 32) == 'x' ? 16
               : (p[1] | 32) == 'o' ? 8
               : (p[1] | 32) == 'b' ? 2
                                    : 0;
  if (prefix && (base == prefix || base == 0) && p[2]) {
    p += 2;
    base = prefix;
  }
  if (base == 0) base = 10;
  if (!*p) return 0;
  int fits = 1;
  for (*out = 0; *p; p++) {
    int v = *p >= '0' && *p <= '9' ? *p - '0' : (*p | 32) >= 'a' ? (*p | 32) - 'a' + 10 : 99;
    if (v >= base) return 0;
    if (__builtin_mul_overflow(*out, (int64_t)base, out) ||
        __builtin_add_overflow(*out, (int64_t)(negative ? -v : v), out))
      fits = -1;
  }
  return fits;
}

static ka_status float_to_int(struct jrun *J, double f, struct jv *out) {
  if (!(fabs(f) < 0x1p63)) return j_fail(J, "the float does not fit into 64 bits");
  *out = jv_int((int64_t)f);
  return KA_STATUS_OK;
}

FILTER(f_int) {
  UNUSED(args);
  int64_t i = 0, base = 10;
  double f;
  *out = a[0].t == JV_MISSING ? jv_int(0) : a[0];
  if (self.t == JV_UNDEF) return j_fail(J, "'%s' is undefined", self.undef);
  if (a[1].t != JV_MISSING) {
    if (!jv_is_int(a[1])) return j_fail(J, "int: the base must be an integer");
    base = jv_as_int(a[1]);
  }
  if (jv_is_int(self)) *out = jv_int(jv_as_int(self));
  if (self.t == JV_FLOAT && !isnan(self.f)) return float_to_int(J, self.f, out);
  if (self.t != JV_STR) return KA_STATUS_OK;
  if (base < 0 || base > 36 || base == 1) base = 0;
  int kind = parse_int(self.s, (int)base, &i);
  if (kind < 0) return j_fail(J, "integers above 64 bits are not supported");
  if (kind > 0)
    *out = jv_int(i);
  else if (parse_float(self.s, &f) && isfinite(f))
    return float_to_int(J, f, out);
  return KA_STATUS_OK;
}

FILTER(f_float) {
  UNUSED(args);
  double f;
  *out = a[0].t == JV_MISSING ? jv_float(0) : a[0];
  if (self.t == JV_UNDEF) return j_fail(J, "'%s' is undefined", self.undef);
  if (jv_is_number(self)) *out = jv_float(jv_as_float(self));
  if (self.t == JV_STR && parse_float(self.s, &f)) *out = jv_float(f);
  return KA_STATUS_OK;
}

FILTER(f_abs) {
  UNUSED(a);
  UNUSED(args);
  if (!jv_is_number(self)) return j_fail(J, "abs: expected a number, got %s", jv_type_name(self));
  if (self.t == JV_FLOAT) {
    *out = jv_float(fabs(self.f));
    return KA_STATUS_OK;
  }
  int64_t i = jv_as_int(self);
  if (i < 0) return j_binary(J, JOP_SUB, jv_int(0), self, out);
  *out = jv_int(i);
  return KA_STATUS_OK;
}

/* Half to even, on the decimal digits of the exact value. */
static double round_float(double f, int digits) {
  if (!isfinite(f) || digits > 330) return f;
  if (digits < 0) {
    double scale = pow(10, -digits);
    return isfinite(scale) ? nearbyint(f / scale) * scale : copysign(0, f);
  }
  char text[1100];
  snprintf(text, sizeof text, "%.*f", digits, f);
  return strtod(text, NULL);
}

static int64_t round_int(int64_t i, int digits) {
  int64_t scale = 1;
  for (; digits < 0; digits++)
    if (__builtin_mul_overflow(scale, (int64_t)10, &scale)) return 0;
  int64_t low = i % scale, base = i - low, half = llabs(low) * 2;
  if (half > scale || (half == scale && base / scale % 2 != 0)) base += i < 0 ? -scale : scale;
  return base;
}

FILTER(f_round) {
  UNUSED(args);
  int64_t digits = 0;
  if (a[0].t != JV_MISSING) {
    if (!jv_is_int(a[0])) return j_fail(J, "round: the precision must be an integer");
    digits = jv_as_int(a[0]);
  }
  const char *method = "common";
  if (a[1].t == JV_STR) {
    struct jv copy;
    J_TRY(j_str(J, &copy, a[1].s->p, a[1].s->n));
    method = copy.s->p;
  } else if (a[1].t != JV_MISSING) {
    method = "";
  }
  bool up = strcmp(method, "ceil") == 0, common = strcmp(method, "common") == 0;
  if (!up && !common && strcmp(method, "floor") != 0)
    return j_fail(J, "round: the method must be common, ceil or floor");
  if (!jv_is_number(self)) return j_fail(J, "round: expected a number, got %s", jv_type_name(self));
  if (digits < -400 || digits > 400) return j_fail(J, "round: precision out of range");
  if (common) {
    if (self.t == JV_FLOAT)
      *out = jv_float(round_float(self.f, (int)digits));
    else
      *out = jv_int(round_int(jv_as_int(self), (int)digits));
    return KA_STATUS_OK;
  }
  double scale = pow(10, (double)digits), v = jv_as_float(self) * scale;
  if (!isfinite(v)) return j_fail(J, "round: the number is too large");
  *out = jv_float(((up ? ceil(v) : floor(v)) + 0.0) / scale); /* + 0.0: no minus zero */
  return KA_STATUS_OK;
}

/* --- lines and words -------------------------------------------------------------------------- */

FILTER(f_indent) {
  UNUSED(args);
  struct jbuf indent = {0}, b = {0};
  if (self.t != JV_STR) return j_fail(J, "indent: expected a string, got %s", jv_type_name(self));
  if (a[0].t == JV_STR) {
    J_TRY(jb_put(J, &indent, a[0].s->p, a[0].s->n));
  } else if (a[0].t == JV_MISSING || jv_is_int(a[0])) {
    for (int64_t i = a[0].t == JV_MISSING ? 4 : jv_as_int(a[0]); i > 0; i--)
      J_TRY(jb_puts(J, &indent, " "));
  } else {
    return j_fail(J, "indent: expected a number or string, got %s", jv_type_name(a[0]));
  }
  bool first = a[1].t != JV_MISSING && j_truth(a[1]), blank = a[2].t != JV_MISSING && j_truth(a[2]);
  struct jv with_end, lines;
  const struct jstr splitlines = {"splitlines", 10, 10, false};
  struct jargs none = {0};
  struct jbuf text = {0};
  J_TRY(jb_put(J, &text, self.s->p, self.s->n));
  J_TRY(jb_puts(J, &text, "\n"));
  J_TRY(j_str_buf(J, &with_end, &text));
  J_TRY(j_call_func(J, j_find_method(with_end, &splitlines), with_end, &none, &lines));
  if (first) J_TRY(jb_put(J, &b, indent.p, indent.n));
  for (int64_t i = 0; i < lines.q->n; i++) {
    const struct jstr *line = lines.q->v[i].s;
    if (i > 0) J_TRY(jb_puts(J, &b, "\n"));
    if (i > 0 && (blank || line->n > 0)) J_TRY(jb_put(J, &b, indent.p, indent.n));
    J_TRY(jb_put(J, &b, line->p, line->n));
  }
  return j_str_buf(J, out, &b);
}

FILTER(f_wordcount) {
  UNUSED(a);
  UNUSED(args);
  J_TRY(j_to_str(J, self, &self));
  int64_t n = 0;
  bool in_word = false;
  for (size_t i = 0; i < self.s->n;) {
    uint32_t cp = 0;
    i += (size_t)ka_utf8_decode(self.s->p + i, self.s->n - i, &cp);
    if (ju_word(cp) && !in_word) n++;
    in_word = ju_word(cp);
  }
  *out = jv_int(n);
  return j_steps(J, self.s->n * 8);
}

FILTER(f_center) {
  UNUSED(args);
  struct jv width = a[0].t == JV_MISSING ? jv_int(80) : a[0];
  struct jargs call = {.pos = &width, .n_pos = 1};
  const struct jstr name = {"center", 6, 6, false};
  J_TRY(j_to_str(J, self, &self));
  return j_call_func(J, j_find_method(self, &name), self, &call, out);
}

FILTER(f_truncate) {
  UNUSED(args);
  int64_t length = 255, leeway = 5;
  struct jv end;
  if (self.t != JV_STR) return j_fail(J, "truncate: expected a string, got %s", jv_type_name(self));
  if ((a[0].t != JV_MISSING && !jv_is_int(a[0])) ||
      (a[3].t != JV_MISSING && a[3].t != JV_NONE && !jv_is_int(a[3])) ||
      (a[2].t != JV_MISSING && a[2].t != JV_STR))
    return j_fail(J, "truncate: wrong type of argument");
  if (a[0].t != JV_MISSING) length = jv_as_int(a[0]);
  if (jv_is_int(a[3])) leeway = jv_as_int(a[3]);
  J_TRY(j_str_view(J, &end, "...", 3));
  if (a[2].t == JV_STR) end = a[2];
  int64_t n_end = j_n_chars(end.s);
  if (length < n_end || leeway < 0) return j_fail(J, "truncate: the length is too small");
  *out = self;
  if (j_n_chars(self.s) <= length || j_n_chars(self.s) - length <= leeway) return KA_STATUS_OK;
  size_t cut = j_char_offset(self.s, length - n_end);
  bool kill = a[1].t != JV_MISSING && j_truth(a[1]);
  const char *blank = kill || cut == 0 ? NULL : memrchr(self.s->p, ' ', cut);
  struct jbuf b = {0};
  J_TRY(jb_put(J, &b, self.s->p, blank ? (size_t)(blank - self.s->p) : cut));
  J_TRY(jb_put(J, &b, end.s->p, end.s->n));
  return j_str_buf(J, out, &b);
}

FILTER(f_format) {
  UNUSED(a);
  struct jv values;
  J_TRY(j_to_str(J, self, &self));
  if (args->n_pos > 0 && args->n_kw > 0)
    return j_fail(J, "format: positional and keyword arguments at the same time");
  if (args->n_kw > 0) {
    J_TRY(j_dict(J, &values));
    for (int64_t i = 0; i < args->n_kw; i++)
      J_TRY(j_dict_set(J, values.d, (struct jv){.t = JV_STR, .s = args->kw[i].k}, args->kw[i].v));
  } else {
    J_TRY(j_seq(J, &values, JV_TUPLE, args->n_pos));
    for (int64_t i = 0; i < args->n_pos; i++) J_TRY(j_seq_add(J, values, args->pos[i]));
  }
  return j_percent(J, self, values, out);
}

static ka_status url_quote(struct jrun *J, struct jbuf *b, struct jv v, bool query) {
  J_TRY(j_to_str(J, v, &v));
  for (size_t i = 0; i < v.s->n; i++) {
    char c = v.s->p[i];
    bool plain = ((c | 32) >= 'a' && (c | 32) <= 'z') || (c >= '0' && c <= '9') ||
                 (c && strchr("_.-~", c)) || (c == '/' && !query);
    if (query && c == ' ')
      J_TRY(jb_puts(J, b, "+"));
    else
      J_TRY(jb_printf(J, b, plain ? "%c" : "%%%02X", (unsigned char)c));
  }
  return KA_STATUS_OK;
}

FILTER(f_urlencode) {
  UNUSED(a);
  UNUSED(args);
  struct jbuf b = {0};
  struct jv items;
  if (self.t == JV_STR || !j_iterable(self)) {
    J_TRY(url_quote(J, &b, self, false));
    return j_str_buf(J, out, &b);
  }
  if (self.t == JV_DICT) {
    const struct jstr name = {"items", 5, 5, false};
    struct jargs none = {0};
    J_TRY(j_call_func(J, j_find_method(self, &name), self, &none, &self));
  }
  J_TRY(j_items(J, self, &items));
  for (int64_t i = 0; i < items.q->n; i++) {
    struct jv pair;
    J_TRY(j_items(J, items.q->v[i], &pair));
    if (pair.q->n != 2) return j_fail(J, "urlencode: expected pairs");
    if (i > 0) J_TRY(jb_puts(J, &b, "&"));
    J_TRY(url_quote(J, &b, pair.q->v[0], true));
    J_TRY(jb_puts(J, &b, "="));
    J_TRY(url_quote(J, &b, pair.q->v[1], true));
  }
  return j_str_buf(J, out, &b);
}

const struct jfunc j_text_filters[] = {
    {"tojson", f_tojson, "ensure_ascii indent separators sort_keys", 0},
    {"trim", f_trim, "chars", 0},
    {"length", f_length, "/", 0},
    {"count", f_length, "/", 0},
    {"default", f_default, "default_value boolean", 0},
    {"d", f_default, "default_value boolean", 0},
    {"upper", f_upper, "", 0},
    {"lower", f_lower, "", 0},
    {"capitalize", f_capitalize, "", 0},
    {"title", f_title, "", 0},
    {"replace", f_replace, "old new count", 2},
    {"string", f_string, "/", 0},
    {"safe", f_safe, "", 0},
    {"escape", f_escape, "/", 0},
    {"e", f_escape, "/", 0},
    {"forceescape", f_forceescape, "", 0},
    {"int", f_int, "default base", 0},
    {"float", f_float, "default", 0},
    {"abs", f_abs, "/", 0},
    {"round", f_round, "precision method", 0},
    {"indent", f_indent, "width first blank", 0},
    {"wordcount", f_wordcount, "", 0},
    {"center", f_center, "width", 0},
    {"truncate", f_truncate, "length killwords end leeway", 0},
    {"format", f_format, NULL, 0},
    {"urlencode", f_urlencode, "", 0},
    {"filesizeformat", NULL, NULL, 0},
    {"pprint", NULL, NULL, 0},
    {"random", NULL, NULL, 0},
    {"striptags", NULL, NULL, 0},
    {"urlize", NULL, NULL, 0},
    {"wordwrap", NULL, NULL, 0},
    {"xmlattr", NULL, NULL, 0},
    {NULL}};

const struct jfunc *j_find_filter(const struct ka_jinja *t, const char *name, size_t n) {
  bool task = t->dialect == KA_JINJA_TASK;
  const struct jfunc *f = task ? j_find_in(j_task_filters, name, n) : NULL;
  if (!f) f = j_find_in(j_text_filters, name, n);
  return f ? f : j_find_in(j_seq_filters, name, n);
}
