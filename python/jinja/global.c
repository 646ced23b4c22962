/* SPDX-License-Identifier: Apache-2.0
 * The functions that every chat template may call. */
#include "python/jinja/core.h"

#include <stdio.h>

enum { MAX_RANGE = 100000 }; /* Jinja's sandbox has the same limit */

#define GLOBAL(name)                                                                               \
  static ka_status name(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,        \
                        const struct jargs *args)
#define UNUSED(x) ((void)(x))

GLOBAL(g_range) {
  UNUSED(self);
  UNUSED(args);
  int64_t v[3] = {0, 0, 1};
  for (int i = 0; i < 3; i++) {
    if (a[i].t == JV_MISSING) continue;
    if (a[i].t == JV_UNDEF) return j_fail(J, "'%s' is undefined", a[i].undef);
    if (!jv_is_int(a[i])) return j_fail(J, "range: expected integers, got %s", jv_type_name(a[i]));
    v[i] = jv_as_int(a[i]);
  }
  if (a[1].t == JV_MISSING) {
    v[1] = v[0];
    v[0] = 0;
  }
  if (v[2] == 0) return j_fail(J, "range: the step is zero");
  int64_t n = 0, gap = 0;
  bool some = v[2] > 0 ? v[0] < v[1] : v[0] > v[1];
  if (some && (__builtin_sub_overflow(v[1], v[0], &gap) || gap == INT64_MIN || v[2] == INT64_MIN))
    return j_fail(J, "range: more than %d items", MAX_RANGE);
  if (some) n = (gap > 0 ? gap - 1 : -gap - 1) / (v[2] > 0 ? v[2] : -v[2]) + 1;
  if (n > MAX_RANGE) return j_fail(J, "range: more than %d items", MAX_RANGE);
  void *r;
  J_TRY(j_alloc(J, &r, sizeof(struct jrange)));
  *(struct jrange *)r = (struct jrange){v[0], v[1], v[2], n};
  *out = (struct jv){.t = JV_RANGE, .r = r};
  return KA_STATUS_OK;
}

/* dict(mapping or pairs, key=value, ...) */
static ka_status make_dict(struct jrun *J, const struct jargs *args, struct jv *out) {
  J_TRY(j_dict(J, out));
  if (args->n_pos > 1) return j_fail(J, "expected at most one positional argument");
  if (args->n_pos == 1 && args->pos[0].t == JV_DICT) {
    const struct jdict *d = args->pos[0].d;
    for (int64_t i = 0; i < d->n; i++) J_TRY(j_dict_set(J, out->d, d->p[i].k, d->p[i].v));
  } else if (args->n_pos == 1) {
    struct jv items, pair;
    J_TRY(j_items(J, args->pos[0], &items));
    for (int64_t i = 0; i < items.q->n; i++) {
      J_TRY(j_items(J, items.q->v[i], &pair));
      if (pair.q->n != 2) return j_fail(J, "expected pairs of key and value");
      J_TRY(j_dict_set(J, out->d, pair.q->v[0], pair.q->v[1]));
    }
  }
  for (int64_t i = 0; i < args->n_kw; i++)
    J_TRY(j_dict_set(J, out->d, (struct jv){.t = JV_STR, .s = args->kw[i].k}, args->kw[i].v));
  return KA_STATUS_OK;
}

GLOBAL(g_dict) {
  UNUSED(self);
  UNUSED(a);
  return make_dict(J, args, out);
}

GLOBAL(g_namespace) {
  UNUSED(self);
  UNUSED(a);
  J_TRY(make_dict(J, args, out));
  for (int64_t i = 0; i < out->d->n; i++) {
    struct jv k = out->d->p[i].k;
    if (k.t == JV_STR && k.s->n > 0 && k.s->p[0] == '_')
      return j_fail(J, "namespace attributes may not start with '_'");
  }
  out->t = JV_NS;
  return KA_STATUS_OK;
}

GLOBAL(g_raise_exception) {
  UNUSED(self);
  UNUSED(out);
  UNUSED(args);
  struct jv text;
  J_TRY(j_to_str(J, a[0], &text));
  return j_fail(J, "the template refuses this conversation: %.*s", (int)text.s->n, text.s->p);
}

GLOBAL(g_strftime_now) {
  UNUSED(self);
  UNUSED(args);
  if (a[0].t != JV_STR) return j_fail(J, "strftime_now: expected a format string");
  time_t seconds = time(NULL);
  struct tm local;
  if (J->now)
    local = *J->now;
  else if (!localtime_r(&seconds, &local))
    return j_fail(J, "strftime_now: the clock cannot be read");
  struct jbuf b = {0};
  for (size_t i = 0; i < a[0].s->n; i++) {
    char c = a[0].s->p[i], next = i + 1 < a[0].s->n ? a[0].s->p[i + 1] : 0, text[128];
    if (c != '%' || next == 0) {
      J_TRY(jb_put(J, &b, &c, 1));
      continue;
    }
    i++;
    if (next == 'f') { /* microseconds: Python's own */
      J_TRY(jb_puts(J, &b, "000000"));
      continue;
    }
    if (next == '-' && i + 1 < a[0].s->n) {
      char directive[] = {'%', '-', a[0].s->p[++i], 0};
      size_t n = strftime(text, sizeof text, directive, &local);
      J_TRY(jb_put(J, &b, text, n));
      continue;
    }
    if (!strchr("aAbBcCdDeFGgHIjklmMnpPrRSstTuUVwWxXyYzZ%h", next))
      return j_fail(J, "strftime_now: directive '%%%c' is not supported", next);
    char directive[] = {'%', next, 0};
    size_t n = next == 'z' || next == 'Z' ? 0 : strftime(text, sizeof text, directive, &local);
    J_TRY(jb_put(J, &b, text, n)); /* Python's clock without a zone prints none */
  }
  return j_str_buf(J, out, &b);
}

GLOBAL(g_cycler) {
  UNUSED(self);
  UNUSED(a);
  if (args->n_pos == 0 || args->n_kw > 0) return j_fail(J, "cycler needs values");
  J_TRY(j_seq(J, out, JV_CYCLER, args->n_pos));
  for (int64_t i = 0; i < args->n_pos; i++) J_TRY(j_seq_add(J, *out, args->pos[i]));
  return KA_STATUS_OK;
}

GLOBAL(g_joiner) {
  UNUSED(self);
  UNUSED(args);
  void *p;
  J_TRY(j_alloc(J, &p, sizeof(struct jjoiner)));
  *out = (struct jv){.t = JV_JOINER, .joiner = p};
  if (a[0].t == JV_MISSING) return j_str_view(J, &out->joiner->sep, ", ", 2);
  out->joiner->sep = a[0];
  return KA_STATUS_OK;
}

GLOBAL(g_lipsum) {
  UNUSED(self);
  UNUSED(a);
  UNUSED(args);
  UNUSED(out);
  return j_fail(J, "lipsum is not supported: a prompt must not be random");
}

static const struct jfunc globals[] = {{"range", g_range, "/start stop step", 1},
                                       {"dict", g_dict, NULL, 0},
                                       {"namespace", g_namespace, NULL, 0},
                                       {"raise_exception", g_raise_exception, "message", 1},
                                       {"strftime_now", g_strftime_now, "format", 1},
                                       {"cycler", g_cycler, NULL, 0},
                                       {"joiner", g_joiner, "sep", 0},
                                       {"lipsum", g_lipsum, NULL, 0},
                                       {NULL}};

const struct jfunc *j_find_global(const char *name) {
  return j_find_in(globals, name, strlen(name));
}
