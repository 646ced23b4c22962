/* SPDX-License-Identifier: Apache-2.0
 * Filters that only evaluation tasks have. */
#include "python/jinja/core.h"
#include "python/regex.h"

#include <stdio.h>

/* JSON with sorted keys and nothing that HTML would read: \u003c for <. */
static ka_status f_tojson(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,
                          const struct jargs *args) {
  (void)args;
  static const struct {
    char c;
    const char *text;
  } unsafe[] = {{'<', "\\u003c"}, {'>', "\\u003e"}, {'&', "\\u0026"}, {'\'', "\\u0027"}};
  const struct jv style[] = {jv_bool(true), a[0], {.t = JV_MISSING}, jv_bool(true)};
  struct jbuf plain = {0}, safe = {0};
  J_TRY(j_put_json(J, &plain, self, style));
  for (size_t i = 0; i < plain.n; i++) {
    const char *text = NULL;
    for (size_t k = 0; k < sizeof unsafe / sizeof *unsafe; k++)
      if (unsafe[k].c == plain.p[i]) text = unsafe[k].text;
    if (text)
      J_TRY(jb_puts(J, &safe, text));
    else
      J_TRY(jb_put(J, &safe, plain.p + i, 1));
  }
  J_TRY(j_str_buf(J, out, &safe));
  out->s->markup = true;
  return KA_STATUS_OK;
}

static ka_status replace(struct jrun *J, struct jv self, const struct jv *a, int64_t count,
                         struct ka_str *text) {
  struct ka_py_regex *re = NULL;
  ka_status st = ka_py_regex_open(J->ctx, &re, a[0].s->p, a[0].s->n);
  if (ka_ok(st))
    st = ka_py_regex_sub(J->ctx, re, a[1].s->p, a[1].s->n, self.s->p, self.s->n, count, text);
  ka_py_regex_close(re);
  return st;
}

static ka_status f_regex_replace(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,
                                 const struct jargs *args) {
  (void)args;
  struct ka_str text = {0};
  if (self.t != JV_STR || a[0].t != JV_STR || a[1].t != JV_STR)
    return j_fail(J, "regex_replace: expected strings, got %s, %s and %s", jv_type_name(self),
                  jv_type_name(a[0]), jv_type_name(a[1]));
  if (a[2].t != JV_MISSING && (!jv_is_int(a[2]) || jv_as_int(a[2]) < 0))
    return j_fail(J, "regex_replace: expected a count of 0 or more");
  J_TRY(j_steps(J, self.s->n));
  ka_status st = replace(J, self, a, a[2].t == JV_MISSING ? 0 : jv_as_int(a[2]), &text);
  if (st.code == KA_E_INPUT) {
    char why[256];
    snprintf(why, sizeof why, "%.255s", J->ctx->error.message);
    ka_error_clear(J->ctx);
    st = j_fail(J, "regex_replace: %s", why);
  }
  if (ka_ok(st)) st = j_str(J, out, text.data ? text.data : "", text.len);
  ka_str_deinit(&text);
  return st;
}

const struct jfunc j_task_filters[] = {{"tojson", f_tojson, "indent", 0},
                                       {"regex_replace", f_regex_replace, "pattern repl count", 2},
                                       {NULL}};
