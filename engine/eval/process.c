/* SPDX-License-Identifier: Apache-2.0
 * process_docs and process_results: what the harness's tasks do in Python, as templates. Columns
 * and rows are made when a split is read, metrics when a document has its answers. */
#include "engine/eval/judge.h"
#include "engine/eval/task.h"

#include <math.h>
#include <string.h>

/* --- documents --------------------------------------------------------------- */

/* A text that is a Python list, mapping, number or truth value becomes it. */
static json_t *as_value(json_t *v) {
  const char *p = json_string_value(v);
  size_t n = json_string_length(v);
  json_t *value = NULL;
  if (!p || n == 0) return v;
  bool word = strcmp(p, "True") == 0 || strcmp(p, "False") == 0 || strcmp(p, "None") == 0;
  if (!word && !strchr("[{-0123456789", p[0])) return v;
  if (!ka_py_literal(p, n, &value)) return v;
  json_decref(v);
  return value;
}

static ka_status make_column(const struct ka_task *t, const struct ka_eval_field *f,
                             const char *name, json_t *doc) {
  struct ka_ctx *ctx = t->ctx;
  json_t *v = NULL;
  KA_TRY(ka_eval_field_value(ctx, f, doc, &v));
  if (f->text && !ka_eval_field_is_column(f, doc)) v = as_value(v);
  return ka_json_set(ctx, doc, name, v);
}

static ka_status is_kept(const struct ka_task *t, const struct ka_eval_field *f, const json_t *doc,
                         bool *out) {
  json_t *v = NULL;
  *out = true;
  if (!ka_eval_field_given(f)) return KA_STATUS_OK;
  ka_status st = ka_eval_field_value(t->ctx, f, doc, &v);
  const char *text = json_is_string(v) ? json_string_value(v) : "";
  *out = json_is_true(v) || strcmp(text, "True") == 0;
  if (ka_ok(st) && !*out && !json_is_false(v) && strcmp(text, "False") != 0)
    st = ka_fail(t->ctx, KA_E_INPUT,
                 "process_docs.keep: the template prints %.80s, expected True or False", text);
  json_decref(v);
  return st;
}

struct columns {
  struct ka_eval_field keep, *items; /* [map->n] */
  const struct ka_yaml *map;         /* NULL: none */
};

static ka_status open_columns(struct ka_task *t, struct columns *c) {
  struct ka_ctx *ctx = t->ctx;
  const struct ka_task_process *p = &t->config.process_docs;
  void *items;
  KA_TRY(ka_eval_field_open_text(&t->arena, &c->keep, p->keep,
                                 ka_task_place(t, "process_docs.keep"), "process_docs.keep"));
  if (!p->columns) return KA_STATUS_OK;
  if (p->columns->kind != KA_YAML_MAP)
    return ka_fail(ctx, KA_E_INPUT, "%s: columns: expected a mapping, as in {query: \"{{...}}\"}",
                   ka_task_place(t, "process_docs.columns"));
  KA_TRY(ka_arena_alloc_n(&t->arena, &items, p->columns->n, sizeof *c->items, "columns"));
  c->items = items;
  c->map = p->columns;
  for (int64_t i = 0; i < c->map->n; i++)
    KA_TRY(ka_eval_field_open(&t->arena, &c->items[i], c->map->values[i], c->map->keys[i]->text));
  return KA_STATUS_OK;
}

static ka_status process_row(const struct ka_task *t, const struct columns *c, json_t *doc) {
  struct ka_ctx *ctx = t->ctx;
  for (int64_t i = 0; c->map && i < c->map->n; i++)
    if (ka_eval_field_given(&c->items[i]))
      KA_TRY(make_column(t, &c->items[i], c->map->keys[i]->text, doc));
  return KA_STATUS_OK;
}

static ka_status process_rows(const struct ka_task *t, const struct columns *c, json_t *rows) {
  struct ka_ctx *ctx = t->ctx;
  size_t n = 0;
  for (size_t i = 0; i < json_array_size(rows); i++) {
    json_t *doc = json_array_get(rows, i);
    bool kept = false;
    KA_TRY(ka_task_fail_doc(t, is_kept(t, &c->keep, doc, &kept), (int64_t)i));
    if (!kept) continue;
    KA_TRY(ka_task_fail_doc(t, process_row(t, c, doc), (int64_t)i));
    if (n != i) json_array_set(rows, n, doc);
    n++;
  }
  while (json_array_size(rows) > n) json_array_remove(rows, json_array_size(rows) - 1);
  return KA_STATUS_OK;
}

ka_status ka_eval_process_docs(struct ka_task *t, json_t *rows) {
  struct columns c = {0};
  ka_status st = open_columns(t, &c);
  if (ka_ok(st)) st = process_rows(t, &c, rows);
  ka_eval_field_close(&c.keep);
  for (int64_t i = 0; c.map && i < c.map->n; i++) ka_eval_field_close(&c.items[i]);
  return st;
}

/* --- results ----------------------------------------------------------------- */

static ka_status add_likelihoods(struct ka_ctx *ctx, const struct ka_eval_answers *a,
                                 json_t *vars) {
  double most = -INFINITY, sum = 0, mass = 0;
  json_t *lls = json_array(), *probs = json_array(), *greedy = json_array(), *gold = json_array();
  for (int64_t i = 0; i < a->n; i++) most = fmax(most, a->ll[i]);
  for (int64_t i = 0; i < a->n; i++) sum += exp(a->ll[i] - most);
  KA_TRY(ka_json_set(ctx, vars, "lls", lls));
  KA_TRY(ka_json_set(ctx, vars, "probs", probs));
  KA_TRY(ka_json_set(ctx, vars, "greedy", greedy));
  KA_TRY(ka_json_set(ctx, vars, "gold", gold));
  for (int64_t i = 0; i < a->n; i++) {
    bool right = false;
    for (int64_t k = 0; k < a->n_gold; k++)
      right = right || a->gold[k] == i || a->gold[k] + a->n == i;
    mass += right ? exp(a->ll[i] - most) / sum : 0;
    KA_TRY(ka_json_append(ctx, lls, ka_json_real(a->ll[i])));
    KA_TRY(ka_json_append(ctx, probs, ka_json_real(exp(a->ll[i] - most) / sum)));
    json_array_append_new(greedy, json_boolean(a->greedy[i]));
    if (right) json_array_append_new(gold, json_integer((json_int_t)i));
  }
  return ka_json_set(ctx, vars, "mass", json_real(mass));
}

static ka_status add_texts(struct ka_ctx *ctx, const struct ka_eval_filtered *f, json_t *vars) {
  json_t *texts = json_array();
  KA_TRY(ka_json_set(ctx, vars, "results", texts));
  for (int64_t i = 0; i < f->n; i++)
    KA_TRY(ka_json_append(ctx, texts,
                          json_stringn(f->texts[i].data ? f->texts[i].data : "", f->texts[i].len)));
  return KA_STATUS_OK;
}

static ka_status compute(struct ka_ctx *ctx, const struct ka_eval_metric_use *use,
                         const json_t *vars, double *out) {
  json_t *v = NULL;
  KA_TRY(ka_eval_field_value(ctx, &use->value, vars, &v));
  const char *text = json_string_value(v);
  ka_status st = KA_STATUS_OK;
  if (json_is_number(v) || json_is_boolean(v))
    *out = json_is_boolean(v) ? json_is_true(v) : json_number_value(v);
  else if (text && (strcmp(text, "True") == 0 || strcmp(text, "False") == 0))
    *out = strcmp(text, "True") == 0;
  else if (text && (strcmp(text, "nan") == 0 || strcmp(text, "None") == 0))
    *out = NAN;
  else if (!text || !ka_parse_f64(text, out))
    st = ka_fail(ctx, KA_E_INPUT,
                 "process_results: %s: the template prints %.80s, expected a number",
                 use->metric->name, text ? text : "no text");
  json_decref(v);
  return st;
}

ka_status ka_eval_process_results(const struct ka_eval_judge *j, const struct ka_eval_item *item,
                                  const struct ka_eval_answers *a,
                                  struct ka_eval_metric_item *out) {
  struct ka_ctx *ctx = j->ctx;
  const struct ka_task *t = j->task;
  json_t *vars = NULL;
  ka_status st = KA_STATUS_OK;
  for (int64_t m = 0; m < t->n_metrics && ka_ok(st); m++) {
    const struct ka_eval_metric_use *use = &t->metrics[m];
    if (!ka_eval_field_given(&use->value)) continue;
    if (!vars) {
      vars = json_copy(item->doc);
      if (!vars) return ka_fail(ctx, KA_E_MEMORY, "process_results: out of memory");
      if (item->choices) json_object_set(vars, "choices", item->choices);
      st = a ? add_likelihoods(ctx, a, vars) : add_texts(ctx, &j->filtered, vars);
    }
    out[m] = (struct ka_eval_metric_item){0};
    if (ka_ok(st)) st = compute(ctx, use, vars, &out[m].a);
  }
  json_decref(vars);
  return st;
}
