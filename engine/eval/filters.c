/* SPDX-License-Identifier: Apache-2.0
 * See filters.h. */
#include "engine/eval/filters.h"

#include "engine/job/yaml_json.h"
#include "python/regex.h"

#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

struct context {
  struct ka_ctx *ctx;
  const struct ka_py *py;
  const struct ka_filter_step *step;
  const json_t *doc;
};
typedef ka_status step_function(const struct context *c, struct ka_eval_filtered *f);

struct ka_filter_step {
  const struct ka_task_step *config;
  step_function *run;
  struct ka_py_regex *pattern;
  json_t *map;
  struct ka_py_regex **ignore; /* [config->regexes_to_ignore.n] */
};

void ka_eval_filtered_deinit(struct ka_eval_filtered *f) {
  for (int64_t i = 0; i < f->cap; i++) ka_str_deinit(&f->texts[i]);
  ka_free(f->texts);
  *f = (struct ka_eval_filtered){0};
}

ka_status ka_eval_filtered_add(struct ka_ctx *ctx, struct ka_eval_filtered *f, const char *text,
                               size_t n) {
  void *texts = f->texts;
  KA_TRY(ka_grow(ctx, &texts, &f->cap, f->n + 1, sizeof *f->texts, "answers"));
  f->texts = texts;
  struct ka_str *s = &f->texts[f->n++];
  ka_str_clear(s);
  return ka_str_append(ctx, s, text, n);
}

/* --- steps ------------------------------------------------------------------- */

static ka_status step_take_first(const struct context *c, struct ka_eval_filtered *f) {
  (void)c;
  f->n = f->n > 0 ? 1 : 0;
  f->one = true;
  return KA_STATUS_OK;
}

static ka_status step_take_first_k(const struct context *c, struct ka_eval_filtered *f) {
  int64_t k = c->step->config->k;
  if (f->n < k)
    return ka_fail(c->ctx, KA_E_INPUT, "take_first_k: %lld answers, expected %lld; raise repeats",
                   (long long)f->n, (long long)k);
  f->n = k;
  return KA_STATUS_OK;
}

static bool same(const struct ka_str *a, const struct ka_str *b) {
  return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static ka_status step_majority_vote(const struct context *c, struct ka_eval_filtered *f) {
  (void)c;
  int64_t best = 0, most = 0;
  for (int64_t i = 0; i < f->n; i++) {
    int64_t votes = 0;
    for (int64_t j = 0; j < f->n; j++) votes += same(&f->texts[i], &f->texts[j]);
    if (votes > most) {
      most = votes;
      best = i;
    }
  }
  if (f->n == 0) return KA_STATUS_OK;
  struct ka_str swap = f->texts[0];
  f->texts[0] = f->texts[best];
  f->texts[best] = swap;
  f->n = 1;
  return KA_STATUS_OK;
}

struct piece {
  size_t begin, end;
};

/* What findall gives for one match: all of it, its only group, or the first group with text. */
static struct piece piece_of(const struct ka_py_match *m) {
  for (int g = 1; g <= m->n_groups; g++) {
    struct piece p = {m->span[2 * g], m->span[2 * g + 1]};
    bool text = p.begin != SIZE_MAX && p.end > p.begin;
    if (text || m->n_groups == 1) return p.begin == SIZE_MAX ? (struct piece){0} : p;
  }
  if (m->n_groups == 0) return (struct piece){m->span[0], m->span[1]};
  return (struct piece){1, 0}; /* no group has text */
}

static ka_status find(const struct context *c, struct ka_py_regex *pattern,
                      const struct ka_str *text, struct piece *out) {
  struct ka_ctx *ctx = c->ctx;
  struct piece *all = NULL;
  int64_t n = 0, cap = 0, select = c->step->config->group_select;
  struct ka_py_match m = {0};
  ka_status st = KA_STATUS_OK;
  *out = (struct piece){1, 0};
  for (bool found = true;;) {
    KA_TRY_GOTO(ka_py_regex_next(ctx, pattern, text->data, text->len, &m, &found), out);
    if (!found) break;
    void *grown = all;
    KA_TRY_GOTO(ka_grow(ctx, &grown, &cap, n + 1, sizeof *all, "matches"), out);
    all = grown;
    all[n++] = piece_of(&m);
  }
  if (select < 0) select += n;
  if (select >= 0 && select < n) *out = all[select];
out:
  ka_free(all);
  return st;
}

static ka_status strip(const struct context *c, struct ka_str *text, const char *from, size_t n) {
  struct ka_ctx *ctx = c->ctx;
  json_t *s = json_stringn(from, n);
  if (!s) return ka_fail(ctx, KA_E_MEMORY, "filter: out of memory");
  ka_str_clear(text);
  ka_status st = ka_py_call(ctx, c->py, KA_PY_STRIP, s, text);
  json_decref(s);
  return st;
}

static ka_status step_regex(const struct context *c, struct ka_eval_filtered *f) {
  struct ka_ctx *ctx = c->ctx;
  for (int64_t i = 0; i < f->n; i++) {
    struct ka_str *text = &f->texts[i];
    struct piece p;
    KA_TRY(find(c, c->step->pattern, text, &p));
    const char *fallback = c->step->config->fallback;
    bool none = p.begin > p.end;
    KA_TRY(strip(c, text, none ? fallback : text->data + p.begin,
                 none ? strlen(fallback) : p.end - p.begin));
  }
  return KA_STATUS_OK;
}

/* --- choices in an answer ---------------------------------------------------- */

static ka_status through(const struct context *c, struct ka_str *text, enum ka_py_function g) {
  struct ka_ctx *ctx = c->ctx;
  json_t *s = json_stringn(text->data ? text->data : "", text->len);
  if (!s) return ka_fail(ctx, KA_E_MEMORY, "filter: out of memory");
  ka_str_clear(text);
  ka_status st = ka_py_call(ctx, c->py, g, s, text);
  json_decref(s);
  return st;
}

static void remove_punctuation(struct ka_str *s) {
  size_t n = 0;
  for (size_t i = 0; i < s->len;) {
    uint32_t point = 0;
    size_t len = (size_t)ka_utf8_decode(s->data + i, s->len - i, &point);
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)point);
    if (k < UTF8PROC_CATEGORY_PC || k > UTF8PROC_CATEGORY_PO) {
      memmove(s->data + n, s->data + i, len);
      n += len;
    }
    i += len;
  }
  s->len = n;
}

/* What is looked for, and in what: without what is to be ignored. */
static ka_status without_ignored(const struct context *c, struct ka_str *text) {
  struct ka_ctx *ctx = c->ctx;
  const struct ka_task_step *config = c->step->config;
  for (int64_t i = 0; i < config->regexes_to_ignore.n; i++) {
    struct ka_str left = {0};
    ka_status st = ka_py_regex_sub(ctx, c->step->ignore[i], "", 0, text->data ? text->data : "",
                                   text->len, 0, &left);
    ka_str_deinit(text);
    *text = left;
    KA_TRY(st);
  }
  if (config->ignore_case) KA_TRY(through(c, text, KA_PY_LOWER));
  if (config->ignore_punctuation) remove_punctuation(text);
  return KA_STATUS_OK;
}

/* The choice that starts at p, the longest of several, the last of equals; -1: none. */
static int64_t choice_at(const struct ka_str *choices, int64_t n, const char *p, size_t left) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; i++)
    if (choices[i].len <= left &&
        (choices[i].len == 0 || memcmp(choices[i].data, p, choices[i].len) == 0) &&
        (best < 0 || choices[i].len >= choices[best].len))
      best = i;
  return best;
}

/* Which choice is the group_select-th that text has; -1: none. */
static int64_t choice_in(const struct context *c, const struct ka_str *choices, int64_t n,
                         const struct ka_str *text) {
  int64_t select = c->step->config->group_select, count = 0;
  for (int pass = 0; pass < 2; pass++) { /* first they are counted, for a selection from the end */
    int64_t seen = 0;
    for (size_t i = 0; i <= text->len;) {
      int64_t at = choice_at(choices, n, text->data ? text->data + i : "", text->len - i);
      if (pass == 1 && at >= 0 && seen == select) return choices[at].len > 0 ? at : -1;
      seen += at >= 0;
      i += at >= 0 && choices[at].len > 0 ? choices[at].len : 1;
    }
    count = seen;
    if (pass == 0 && select < 0) select += count;
  }
  return -1;
}

/* A letter behind a colon. */
static ka_status letter_in(const struct context *c, int64_t n, const struct ka_str *text,
                           int64_t *out) {
  struct ka_ctx *ctx = c->ctx;
  struct ka_py_regex *pattern = NULL;
  struct piece p;
  char letters[160] = ":[\\s]*(";
  size_t len = strlen(letters);
  *out = -1;
  for (int64_t i = 0; i < n && i < 26; i++)
    len += (size_t)snprintf(letters + len, sizeof letters - len, "%s%c", i ? "|" : "",
                            (char)('A' + i));
  len += (size_t)snprintf(letters + len, sizeof letters - len, ")");
  KA_TRY(ka_py_regex_open(ctx, &pattern, letters, len));
  ka_status st = find(c, pattern, text, &p);
  if (ka_ok(st) && p.begin < p.end) *out = text->data[p.begin] - 'A';
  ka_py_regex_close(pattern);
  return st;
}

static ka_status choose(const struct context *c, const struct ka_str *choices, int64_t n,
                        struct ka_str *text) {
  struct ka_ctx *ctx = c->ctx;
  struct ka_str plain = {0};
  struct piece p;
  int64_t at = -1;
  KA_TRY(find(c, c->step->pattern, text, &p));
  if (p.begin < p.end) {
    KA_TRY(ka_str_append(ctx, &plain, text->data + p.begin, p.end - p.begin));
    ka_status st = through(c, &plain, KA_PY_STRIP);
    if (ka_ok(st) && plain.len > 0) {
      ka_str_deinit(text);
      *text = plain;
      return KA_STATUS_OK;
    }
    ka_str_clear(&plain);
    KA_TRY(st);
  }
  ka_status st = ka_str_append(ctx, &plain, text->data ? text->data : "", text->len);
  if (ka_ok(st)) st = without_ignored(c, &plain);
  if (ka_ok(st)) at = choice_in(c, choices, n, &plain);
  if (ka_ok(st) && at < 0) st = letter_in(c, n, text, &at);
  ka_str_deinit(&plain);
  KA_TRY(st);
  ka_str_clear(text);
  return at < 0 ? ka_str_puts(ctx, text, c->step->config->fallback)
                : ka_str_printf(ctx, text, "(%c)", (char)('A' + at));
}

static ka_status step_multi_choice_regex(const struct context *c, struct ka_eval_filtered *f) {
  struct ka_ctx *ctx = c->ctx;
  const json_t *list = json_object_get(c->doc, "choices");
  int64_t n = (int64_t)json_array_size(list);
  if (n == 0)
    return ka_fail(ctx, KA_E_INPUT, "multi_choice_regex: the document has no list \"choices\"");
  struct ka_str *choices;
  KA_TRY(KA_NEW_HEAP(ctx, &choices, n, "choices"));
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < n && ka_ok(st); i++) {
    const json_t *v = json_array_get(list, (size_t)i);
    if (!json_is_string(v))
      st = ka_fail(ctx, KA_E_INPUT, "multi_choice_regex: choices: expected a list of texts");
    if (ka_ok(st)) st = ka_py_call(ctx, c->py, KA_PY_STRIP, v, &choices[i]);
    if (ka_ok(st)) st = without_ignored(c, &choices[i]);
  }
  for (int64_t i = 0; i < f->n && ka_ok(st); i++) st = choose(c, choices, n, &f->texts[i]);
  for (int64_t i = 0; i < n; i++) ka_str_deinit(&choices[i]);
  ka_free(choices);
  return st;
}

/* --- whole answers ----------------------------------------------------------- */

static ka_status each(const struct context *c, struct ka_eval_filtered *f, enum ka_py_function g) {
  struct ka_ctx *ctx = c->ctx;
  for (int64_t i = 0; i < f->n; i++) KA_TRY(through(c, &f->texts[i], g));
  return KA_STATUS_OK;
}

static ka_status step_remove_whitespace(const struct context *c, struct ka_eval_filtered *f) {
  return each(c, f, KA_PY_STRIP);
}
static ka_status step_lowercase(const struct context *c, struct ka_eval_filtered *f) {
  return each(c, f, KA_PY_LOWER);
}
static ka_status step_uppercase(const struct context *c, struct ka_eval_filtered *f) {
  return each(c, f, KA_PY_UPPER);
}

static ka_status step_map(const struct context *c, struct ka_eval_filtered *f) {
  struct ka_ctx *ctx = c->ctx;
  for (int64_t i = 0; i < f->n; i++) {
    struct ka_str *text = &f->texts[i];
    const json_t *v = json_object_getn(json_object_get(c->step->map, "dict"),
                                       text->data ? text->data : "", text->len);
    if (!v) v = json_object_get(c->step->map, "default");
    if (!v || json_is_null(v))
      return ka_fail(ctx, KA_E_INPUT,
                     "map: got \"%.80s\", which mapping_dict does not have, and there is no "
                     "default_value",
                     text->data ? text->data : "");
    ka_str_clear(text);
    KA_TRY(ka_py_call(ctx, c->py, KA_PY_STR, v, text));
  }
  return KA_STATUS_OK;
}

/* --- pipelines --------------------------------------------------------------- */

static const struct {
  const char *name;
  step_function *run;
} table[] = {
#define KA_FILTER_STEP(name, keys, doc) {#name, step_##name},
#include "engine/eval/filters.def"
#undef KA_FILTER_STEP
};
enum { N_TABLE = sizeof table / sizeof *table };

static ka_status unknown_step(struct ka_ctx *ctx, const char *name, const char *place) {
  const char *names[N_TABLE + 1] = {0};
  for (int i = 0; i < N_TABLE; i++) names[i] = table[i].name;
  const char *near = ka_nearest(name, names);
  return ka_fail(ctx, KA_E_INPUT, "%s: filter_list: there is no filter %.80s%s%s%s", place, name,
                 near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
}

static ka_status open_map(struct ka_ctx *ctx, struct ka_filter_step *s) {
  json_t *dict = NULL, *dflt = NULL;
  if (s->config->mapping_dict) KA_TRY(ka_yaml_json(ctx, s->config->mapping_dict, &dict));
  ka_status st = KA_STATUS_OK;
  if (s->config->default_value) st = ka_yaml_json(ctx, s->config->default_value, &dflt);
  s->map = json_pack("{s:o*, s:o*}", "dict", dict, "default", dflt);
  return st;
}

static ka_status open_ignored(struct ka_ctx *ctx, struct ka_filter_step *s, const char *place) {
  const struct ka_key_texts *texts = &s->config->regexes_to_ignore;
  KA_TRY(KA_NEW_HEAP(ctx, &s->ignore, texts->n, "patterns"));
  for (int64_t i = 0; i < texts->n; i++) {
    ka_status st = ka_py_regex_open(ctx, &s->ignore[i], texts->items[i], strlen(texts->items[i]));
    if (st.code != KA_E_INPUT) KA_TRY(st);
    if (ka_ok(st)) continue;
    char why[256];
    snprintf(why, sizeof why, "%.255s", ctx->error.message);
    ka_error_clear(ctx);
    return ka_fail(ctx, KA_E_INPUT, "%s: regexes_to_ignore: %s", place, why);
  }
  return KA_STATUS_OK;
}

static ka_status open_step(struct ka_ctx *ctx, struct ka_filter_step *s, const char *place) {
  int i = 0;
  const char *name = s->config->function, *pattern = s->config->regex_pattern;
  while (i < N_TABLE && strcmp(table[i].name, name) != 0) i++;
  if (i == N_TABLE) return unknown_step(ctx, name, place);
  s->run = table[i].run;
  if (s->run == step_map) return open_map(ctx, s);
  if (s->run == step_multi_choice_regex) KA_TRY(open_ignored(ctx, s, place));
  if (s->run != step_regex && s->run != step_multi_choice_regex) return KA_STATUS_OK;
  ka_status st = ka_py_regex_open(ctx, &s->pattern, pattern, strlen(pattern));
  if (st.code != KA_E_INPUT) return st;
  char why[256];
  snprintf(why, sizeof why, "%.255s", ctx->error.message);
  ka_error_clear(ctx);
  return ka_fail(ctx, KA_E_INPUT, "%s: regex_pattern: %s", place, why);
}

ka_status ka_eval_filter_open(struct ka_arena *arena, struct ka_eval_filter *f,
                              const struct ka_task_filter *config, const char *place) {
  static const struct ka_task_step take_first = {.function = "take_first"};
  struct ka_ctx *ctx = arena->ctx;
  void *steps;
  *f = (struct ka_eval_filter){.name = config ? config->name : "none"};
  int64_t n = config ? config->filter.n : 1;
  KA_TRY(ka_arena_alloc_n(arena, &steps, n, sizeof *f->steps, "filter"));
  f->steps = steps;
  for (; f->n_steps < n; f->n_steps++)
    f->steps[f->n_steps].config = config ? &config->filter.items[f->n_steps] : &take_first;
  for (int64_t i = 0; i < n; i++) KA_TRY(open_step(ctx, &f->steps[i], place));
  return KA_STATUS_OK;
}

void ka_eval_filter_close(struct ka_eval_filter *f) {
  for (int64_t i = 0; i < f->n_steps; i++) {
    ka_py_regex_close(f->steps[i].pattern);
    json_decref(f->steps[i].map);
    for (int64_t k = 0; f->steps[i].ignore && k < f->steps[i].config->regexes_to_ignore.n; k++)
      ka_py_regex_close(f->steps[i].ignore[k]);
    ka_free(f->steps[i].ignore);
  }
  f->n_steps = 0;
}

ka_status ka_eval_filter_apply(struct ka_ctx *ctx, const struct ka_eval_filter *f,
                               const struct ka_py *py, const json_t *doc,
                               struct ka_eval_filtered *answers) {
  for (int64_t i = 0; i < f->n_steps; i++) {
    struct context c = {ctx, py, &f->steps[i], doc};
    if (answers->one && c.step->run != step_take_first)
      return ka_fail(ctx, KA_E_INPUT, "filter %s: %s stands behind take_first; put it before",
                     f->name, c.step->config->function);
    KA_TRY(c.step->run(&c, answers));
  }
  return KA_STATUS_OK;
}
