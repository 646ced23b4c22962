/* SPDX-License-Identifier: Apache-2.0
 * Python's two format languages: "%5.2f" % x and "{:>5}".format(x), for strings, integers and
 * floats. What is rare (%a, *, n) is an error. */
#include "python/jinja/core.h"

#include <math.h>
#include <stdio.h>

struct spec {
  char fill[4];
  int n_fill;
  char align, sign, type, group;
  bool alternate, zero;
  int64_t width, precision; /* precision -1: none */
};

/* text as wide as spec->width asks; with align '=' the fill goes behind the sign. */
static ka_status put_padded(struct jrun *J, struct jbuf *b, const struct spec *s, const char *p,
                            size_t n, int64_t n_chars, char align) {
  int64_t pad = s->width > n_chars ? s->width - n_chars : 0;
  J_TRY(j_fits(J, pad));
  int64_t left = align == '>' || align == '=' ? pad : align == '^' ? pad / 2 : 0;
  if (align == '=' && n > 0 && (*p == '-' || *p == '+' || *p == ' ')) {
    J_TRY(jb_put(J, b, p++, 1));
    n--;
  }
  if (align == '=' && n > 1 && p[0] == '0' && strchr("xXob", p[1]) && p[1]) {
    J_TRY(jb_put(J, b, p, 2));
    p += 2;
    n -= 2;
  }
  for (int64_t i = 0; i < left; i++) J_TRY(jb_put(J, b, s->fill, (size_t)s->n_fill));
  J_TRY(jb_put(J, b, p, n));
  for (int64_t i = left; i < pad; i++) J_TRY(jb_put(J, b, s->fill, (size_t)s->n_fill));
  return KA_STATUS_OK;
}

/* digits[n] with a separator every three, from the right end of the whole part. */
static size_t group_digits(const char *digits, size_t n, char sep, char *out) {
  size_t whole = 0, o = 0;
  while (whole < n && digits[whole] >= '0' && digits[whole] <= '9') whole++;
  for (size_t i = 0; i < n; i++) {
    if (i > 0 && i < whole && (whole - i) % 3 == 0) out[o++] = sep;
    out[o++] = digits[i];
  }
  return o;
}

static ka_status put_number(struct jrun *J, struct jbuf *b, const struct spec *s, bool negative,
                            const char *digits) {
  char text[1400];
  size_t n = 0;
  if (negative || s->sign == '+' || s->sign == ' ') text[n++] = negative ? '-' : s->sign;
  size_t len = strlen(digits);
  if (len > 700) return j_fail(J, "a number is too long to print");
  if (s->group)
    n += group_digits(digits, len, s->group, text + n);
  else {
    memcpy(text + n, digits, len);
    n += len;
  }
  return put_padded(J, b, s, text, n, (int64_t)n, s->align ? s->align : '>');
}

static ka_status put_int(struct jrun *J, struct jbuf *b, struct spec s, int64_t v) {
  char digits[80];
  uint64_t u = v < 0 ? -(uint64_t)v : (uint64_t)v;
  int base = s.type == 'x' || s.type == 'X' ? 16 : s.type == 'o' ? 8 : s.type == 'b' ? 2 : 10;
  char reversed[70];
  int n = 0, o = 0;
  do {
    reversed[n++] = (s.type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[u % (unsigned)base];
    u /= (unsigned)base;
  } while (u > 0);
  if (s.alternate && base != 10) {
    digits[o++] = '0';
    digits[o++] = s.type;
  }
  if (s.group && base != 10) return j_fail(J, "digit groups in base %d are not supported", base);
  while (n > 0) digits[o++] = reversed[--n];
  digits[o] = 0;
  return put_number(J, b, &s, v < 0, digits);
}

static ka_status put_float(struct jrun *J, struct jbuf *b, struct spec s, double v,
                           bool new_style) {
  char digits[800], shape[16];
  double m = fabs(v);
  if (s.precision > 300) return j_fail(J, "precision above 300 is not supported");
  if (!isfinite(v)) {
    bool up = s.type == 'F' || s.type == 'E' || s.type == 'G';
    snprintf(digits, sizeof digits, "%s", isnan(v) ? (up ? "NAN" : "nan") : up ? "INF" : "inf");
    if (s.zero) s.fill[0] = '0';
  } else if (!s.type && s.precision < 0) {
    j_float_repr(m, digits);
  } else if (!s.type) { /* like g, but at least one digit behind the point */
    return j_fail(J, "a precision without a type is not supported for floats");
  } else {
    snprintf(shape, sizeof shape, "%%%s.*%c", s.alternate ? "#" : "", s.type == '%' ? 'f' : s.type);
    int precision = s.precision < 0 ? 6 : (int)s.precision;
    snprintf(digits, sizeof digits - 1, shape, precision, s.type == '%' ? m * 100 : m);
    if (s.type == '%' && new_style) strcat(digits, "%");
  }
  return put_number(J, b, &s, signbit(v) && !isnan(v), digits);
}

static ka_status put_text(struct jrun *J, struct jbuf *b, const struct spec *s, struct jv v,
                          char align) {
  struct jstr text = *v.s;
  int64_t n_chars = j_n_chars(&text);
  if (s->precision >= 0 && s->precision < n_chars) {
    text.n = j_char_offset(&text, s->precision);
    n_chars = s->precision;
  }
  return put_padded(J, b, s, text.p, text.n, n_chars, align);
}

/* The number at p[*i]; one that is beyond every limit of a text stays so. */
static bool digits_at(const char *p, size_t n, size_t *i, int64_t *out) {
  size_t start = *i;
  int64_t v = 0;
  for (; *i < n && p[*i] >= '0' && p[*i] <= '9'; ++*i)
    v = v > INT64_MAX / 10 - 1 ? v : v * 10 + (p[*i] - '0');
  if (*i > start) *out = v;
  return *i > start;
}

/* --- "%" -------------------------------------------------------------------------------------- */

static ka_status percent_value(struct jrun *J, struct jbuf *b, struct spec *s, struct jv v) {
  char align = s->align == '<' ? '<' : '>';
  struct jbuf text = {0};
  struct jv str;
  switch (s->type) {
  case 's':
  case 'r':
    J_TRY(s->type == 's' ? j_put_str(J, &text, v) : j_put_repr(J, &text, v));
    J_TRY(j_str_buf(J, &str, &text));
    s->fill[0] = ' ';
    return put_text(J, b, s, str, align);
  case 'd':
  case 'i':
  case 'u':
  case 'x':
  case 'X':
  case 'o':
    if (!jv_is_int(v) && !(v.t == JV_FLOAT && strchr("diu", s->type)))
      return j_fail(J, "%%%c format: a number is required, not %s", s->type, jv_type_name(v));
    if (v.t == JV_FLOAT && !(fabs(v.f) < 0x1p63))
      return j_fail(J, "cannot convert the float to an integer of 64 bits");
    if (s->precision >= 0) return j_fail(J, "a precision for integers is not supported");
    return put_int(J, b, *s, v.t == JV_FLOAT ? (int64_t)v.f : jv_as_int(v));
  case 'c':
    if (v.t == JV_STR && j_n_chars(v.s) == 1) return put_text(J, b, s, v, align);
    if (!jv_is_int(v) || jv_as_int(v) < 0 || jv_as_int(v) > 0x10ffff)
      return j_fail(J, "%%c requires a character");
    J_TRY(jb_cp(J, &text, (uint32_t)jv_as_int(v)));
    J_TRY(j_str_buf(J, &str, &text));
    return put_text(J, b, s, str, align);
  default:
    if (!strchr("eEfFgG", s->type) || !s->type)
      return j_fail(J, "unsupported format character '%c'", s->type);
    if (!jv_is_number(v)) return j_fail(J, "a number is required, not %s", jv_type_name(v));
    return put_float(J, b, *s, jv_as_float(v), false);
  }
}

/* "%(name)" at p[*i]: the value of that key. */
static ka_status percent_key(struct jrun *J, const struct jstr *f, size_t *i, struct jv args,
                             struct jv *out) {
  size_t start = ++*i;
  while (*i < f->n && f->p[*i] != ')') ++*i;
  if (*i >= f->n) return j_fail(J, "incomplete format key");
  if (args.t != JV_DICT) return j_fail(J, "%%(name) needs a mapping");
  struct jpair *found = j_dict_str(args.d, f->p + start, *i - start);
  if (!found) return j_fail(J, "format key '%.*s' is missing", (int)(*i - start), f->p + start);
  ++*i;
  *out = found->v;
  return KA_STATUS_OK;
}

ka_status j_percent(struct jrun *J, struct jv fmt, struct jv args, struct jv *out) {
  const struct jstr *f = fmt.s;
  struct jbuf b = {0};
  int64_t next = 0;
  bool tuple = args.t == JV_TUPLE, keyed = false;
  if (f->markup) return j_fail(J, "formatting escaped text is not supported");
  for (size_t i = 0; i < f->n; i++) {
    if (f->p[i] != '%') {
      J_TRY(jb_put(J, &b, f->p + i, 1));
      continue;
    }
    struct spec s = {.fill = " ", .n_fill = 1, .precision = -1};
    struct jv v = args;
    if (++i < f->n && f->p[i] == '(') {
      J_TRY(percent_key(J, f, &i, args, &v));
      keyed = true;
    }
    for (; i < f->n && f->p[i] && strchr("-+ #0", f->p[i]); i++) {
      if (f->p[i] == '-') s.align = '<';
      if (f->p[i] == '+' || (f->p[i] == ' ' && !s.sign)) s.sign = f->p[i];
      if (f->p[i] == '#') s.alternate = true;
      if (f->p[i] == '0') s.zero = true;
    }
    if (s.zero && s.align != '<') {
      s.align = '=';
      s.fill[0] = '0';
    }
    digits_at(f->p, f->n, &i, &s.width);
    if (i < f->n && f->p[i] == '.') {
      i++;
      s.precision = 0;
      digits_at(f->p, f->n, &i, &s.precision);
    }
    if (i >= f->n) return j_fail(J, "incomplete format");
    s.type = f->p[i];
    if (s.type == '%') {
      J_TRY(jb_puts(J, &b, "%"));
      continue;
    }
    if (!keyed) {
      if (next >= (tuple ? args.q->n : 1)) return j_fail(J, "not enough arguments for the format");
      if (tuple) v = args.q->v[next];
      next++;
    }
    J_TRY(percent_value(J, &b, &s, v));
  }
  bool spare = tuple ? next < args.q->n : next < 1 && args.t != JV_DICT && args.t != JV_LIST;
  if (!keyed && spare && !(args.t == JV_UNDEF || args.t == JV_RANGE))
    return j_fail(J, "not all arguments were converted by the format");
  return j_str_buf(J, out, &b);
}

/* --- "{}" ------------------------------------------------------------------------------------- */

static ka_status parse_spec(struct jrun *J, const char *p, size_t n, struct spec *s) {
  *s = (struct spec){.fill = " ", .n_fill = 1, .precision = -1};
  size_t i = 0;
  int first = n > 0 ? ka_utf8_decode(p, n, NULL) : 0;
  if (first > 0 && (size_t)first < n && strchr("<>=^", p[first]) && p[first]) {
    memcpy(s->fill, p, (size_t)first);
    s->n_fill = first;
    s->align = p[first];
    i = (size_t)first + 1;
  } else if (n > 0 && p[0] && strchr("<>=^", p[0])) {
    s->align = p[i++];
  }
  if (i < n && p[i] && strchr("+- ", p[i])) s->sign = p[i++];
  if (i < n && p[i] == '#') s->alternate = p[i++] != 0;
  if (i < n && p[i] == '0') {
    s->zero = true;
    i++;
    if (!s->align) {
      s->align = '=';
      s->fill[0] = '0';
      s->n_fill = 1;
    }
  }
  digits_at(p, n, &i, &s->width);
  if (i < n && (p[i] == ',' || p[i] == '_')) s->group = p[i++];
  if (i < n && p[i] == '.') {
    i++;
    if (!digits_at(p, n, &i, &s->precision)) return j_fail(J, "format: precision is missing");
  }
  if (i < n) s->type = p[i++];
  if (i < n) return j_fail(J, "format '%.*s' is not valid", (int)n, p);
  return KA_STATUS_OK;
}

static ka_status format_value(struct jrun *J, struct jbuf *b, struct jv v, const char *p,
                              size_t n) {
  if (n == 0) return j_put_str(J, b, v);
  struct spec s;
  J_TRY(parse_spec(J, p, n, &s));
  if (v.t == JV_STR) {
    bool zero_padded = s.align == '=' && s.zero && s.fill[0] == '0';
    if ((s.type && s.type != 's') || s.sign || s.alternate || s.group ||
        (s.align == '=' && !zero_padded))
      return j_fail(J, "format '%.*s' does not fit a string", (int)n, p);
    if (zero_padded) s.align = '<';
    return put_text(J, b, &s, v, s.align ? s.align : '<');
  }
  if (s.group && s.align == '=') return j_fail(J, "zero padding of digit groups is not supported");
  bool as_float = s.type && strchr("eEfFgG%", s.type);
  if (jv_is_number(v) && (v.t == JV_FLOAT || as_float)) {
    if (s.type && !as_float) return j_fail(J, "format code '%c' for a float", s.type);
    return put_float(J, b, s, jv_as_float(v), true);
  }
  if (jv_is_int(v)) {
    if (s.precision >= 0 || (s.type && !strchr("dxXob", s.type)))
      return j_fail(J, "format '%.*s' does not fit an integer", (int)n, p);
    return put_int(J, b, s, jv_as_int(v));
  }
  return j_fail(J, "format '%.*s' does not fit a %s", (int)n, p, jv_type_name(v));
}

/* The field "0.name[key]!r" of a replacement. */
static ka_status field_value(struct jrun *J, const char *p, size_t n, int64_t *next,
                             const struct jargs *args, struct jv *out) {
  size_t i = 0;
  while (i < n && p[i] != '.' && p[i] != '[') i++;
  int64_t index = *next;
  size_t k = 0;
  bool number = i == 0 || (digits_at(p, i, &k, &index) && k == i);
  if (number && (i == 0 ? *next < 0 : *next > 0))
    return j_fail(J, "format: numbered and automatic fields are mixed");
  if (number) *next = i == 0 ? *next + 1 : -1;
  if (number) {
    if (index < 0 || index >= args->n_pos) return j_fail(J, "format: too few arguments");
    *out = args->pos[index];
  } else {
    int64_t w = 0;
    while (w < args->n_kw && !(args->kw[w].k->n == i && memcmp(args->kw[w].k->p, p, i) == 0)) w++;
    if (w == args->n_kw) return j_fail(J, "format: no argument '%.*s'", (int)i, p);
    *out = args->kw[w].v;
  }
  while (i < n) {
    bool attr = p[i] == '.';
    size_t start = ++i;
    while (i < n && (attr ? p[i] != '.' && p[i] != '[' : p[i] != ']')) i++;
    struct jv key;
    int64_t idx = 0;
    J_TRY(j_str(J, &key, p + start, i - start));
    k = start;
    if (!attr && digits_at(p, i, &k, &idx) && k == i) key = jv_int(idx);
    J_TRY(attr ? j_getattr(J, *out, key.s, out) : j_getitem(J, *out, key, out));
    if (!attr) i++;
  }
  return KA_STATUS_OK;
}

static ka_status replacement(struct jrun *J, struct jbuf *b, const char *p, size_t n, int64_t *next,
                             const struct jargs *args) {
  size_t name = 0;
  int brackets = 0;
  for (; name < n && (brackets || (p[name] != '!' && p[name] != ':')); name++) {
    brackets += p[name] == '[';
    brackets -= p[name] == ']';
  }
  struct jv v;
  J_TRY(field_value(J, p, name, next, args, &v));
  size_t i = name;
  if (i < n && p[i] == '!') {
    char how = i + 1 < n ? p[i + 1] : 0;
    if (how != 'r' && how != 's') return j_fail(J, "format: conversion '%c' is not known", how);
    struct jbuf text = {0};
    J_TRY(how == 'r' ? j_put_repr(J, &text, v) : j_put_str(J, &text, v));
    J_TRY(j_str_buf(J, &v, &text));
    i += 2;
    if (i < n && p[i] != ':') return j_fail(J, "format: expected ':' behind the conversion");
  }
  if (i < n) i++;
  if (memchr(p + i, '{', n - i)) return j_fail(J, "format: nested fields are not supported");
  return format_value(J, b, v, p + i, n - i);
}

ka_status j_format(struct jrun *J, struct jv fmt, const struct jargs *args, struct jv *out) {
  const struct jstr *f = fmt.s;
  struct jbuf b = {0};
  int64_t next = 0;
  for (size_t i = 0; i < f->n; i++) {
    char c = f->p[i];
    if ((c == '{' || c == '}') && i + 1 < f->n && f->p[i + 1] == c) {
      J_TRY(jb_put(J, &b, f->p + i++, 1));
    } else if (c == '}') {
      return j_fail(J, "format: single '}'");
    } else if (c == '{') {
      size_t start = i + 1;
      int open = 1;
      while (open > 0 && ++i < f->n) open += f->p[i] == '{' ? 1 : f->p[i] == '}' ? -1 : 0;
      if (i >= f->n) return j_fail(J, "format: '{' without '}'");
      J_TRY(replacement(J, &b, f->p + start, i - start, &next, args));
    } else {
      J_TRY(jb_put(J, &b, f->p + i, 1));
    }
  }
  return j_str_buf(J, out, &b);
}
