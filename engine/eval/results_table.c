/* SPDX-License-Identifier: Apache-2.0
 * The harness's table in Markdown: tasks and groups as a tree, by name; metrics by name. */
#include "engine/eval/task_set.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_COLUMNS = 9, CELL = 96 };

static const char *const heads[N_COLUMNS] = {NULL, "Version", "Filter", "n-shot", "Metric",
                                             "",   "Value",   "",       "Stderr"};
static const bool to_the_right[N_COLUMNS] = {false, false, false, true, false, false, true};

struct row {
  char cell[N_COLUMNS][CELL];
};

struct table {
  struct ka_ctx *ctx;
  const struct ka_tasks *t;
  const struct ka_results *r;
  bool groups_only;
  struct row *rows;
  int64_t n, cap;
};

static int by_metric(const void *a, const void *b) {
  const struct ka_task_value *const x = *(const struct ka_task_value *const *)a;
  const struct ka_task_value *const y = *(const struct ka_task_value *const *)b;
  int metric = strcmp(x->metric, y->metric);
  return metric ? metric : strcmp(x->filter, y->filter);
}

static const char *version_of(const struct ka_yaml *metadata, const char *fallback) {
  const struct ka_yaml *v = metadata ? ka_yaml_get(metadata, "version") : NULL;
  return v && v->kind == KA_YAML_SCALAR ? v->text : fallback;
}

static ka_status add_row(struct table *x, const struct ka_task_value *v, const char *name,
                         const char *version, const char *shots) {
  struct ka_ctx *ctx = x->ctx;
  void *rows = x->rows;
  KA_TRY(ka_grow(ctx, &rows, &x->cap, x->n + 1, sizeof *x->rows, "table"));
  x->rows = rows;
  struct row *r = &x->rows[x->n++];
  *r = (struct row){0};
  snprintf(r->cell[0], CELL, "%s", name);
  snprintf(r->cell[1], CELL, "%s", version);
  snprintf(r->cell[3], CELL, "%s", shots);
  if (!v) return KA_STATUS_OK;
  snprintf(r->cell[2], CELL, "%s", v->filter);
  snprintf(r->cell[4], CELL, "%s", v->metric);
  snprintf(r->cell[5], CELL, "%s", v->higher_is_better ? "↑" : "↓");
  snprintf(r->cell[6], CELL, "%.4f", v->value);
  snprintf(r->cell[7], CELL, "±");
  snprintf(r->cell[8], CELL, isnan(v->stderr_) ? "   N/A" : "%.4f", v->stderr_);
  return KA_STATUS_OK;
}

/* All values of a task or group; the name stands in the first line. */
static ka_status add_values(struct table *x, const char *name, const char *shown,
                            const char *version, const char *shots) {
  struct ka_ctx *ctx = x->ctx;
  void *p;
  size_t n = 0;
  KA_TRY(ka_alloc_n(ctx, &p, x->r->n_values, sizeof(void *), "table"));
  const struct ka_task_value **values = p;
  for (int64_t i = 0; i < x->r->n_values; i++)
    if (strcmp(x->r->values[i].task, name) == 0) values[n++] = &x->r->values[i];
  qsort(values, n, sizeof *values, by_metric);
  ka_status st = KA_STATUS_OK;
  for (size_t i = 0; i < n && ka_ok(st); i++)
    st = add_row(x, values[i], i ? "" : shown, i ? "" : version, shots);
  ka_free(p);
  return st;
}

static ka_status add_task(struct table *x, const struct ka_task *t, int depth) {
  char shown[CELL], shots[16];
  snprintf(shown, sizeof shown, "%*s%s%s", depth, "", depth ? "- " : "", t->alias);
  snprintf(shots, sizeof shots, "%lld", (long long)t->num_fewshot);
  return add_values(x, t->name, shown, version_of(t->config.metadata, "Yaml"), shots);
}

struct named {
  const char *name;
  struct ka_eval_member member;
};

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

static ka_status add_tree(struct table *x, struct ka_eval_member *members, int64_t n, int depth);

static ka_status add_group(struct table *x, const struct ka_eval_group *g, int depth) {
  struct ka_ctx *ctx = x->ctx;
  char shown[CELL];
  snprintf(shown, sizeof shown, "%*s%s%s", depth, "", depth ? "- " : "", g->alias);
  KA_TRY(add_values(x, g->name, shown, version_of(g->config.metadata, "N/A"), ""));
  return add_tree(x, g->members, g->n_members, depth + 1);
}

static ka_status add_tree(struct table *x, struct ka_eval_member *members, int64_t n, int depth) {
  struct ka_ctx *ctx = x->ctx;
  void *p;
  KA_TRY(ka_alloc_n(ctx, &p, n, sizeof(struct named), "table"));
  struct named *list = p;
  for (int64_t i = 0; i < n; i++) {
    int64_t k = members[i].index;
    list[i] = (struct named){members[i].is_group ? x->t->groups[k]->name : x->t->tasks[k]->name,
                             members[i]};
  }
  qsort(list, (size_t)n, sizeof *list, by_name);
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < n && ka_ok(st); i++) {
    const struct ka_eval_member *m = &list[i].member;
    if (m->is_group)
      st = add_group(x, x->t->groups[m->index], depth);
    else if (!x->groups_only)
      st = add_task(x, x->t->tasks[m->index], depth);
  }
  ka_free(p);
  return st;
}

/* Groups that no other group has, then tasks that none has. */
static ka_status add_all(struct table *x) {
  struct ka_ctx *ctx = x->ctx;
  const struct ka_tasks *t = x->t;
  void *p;
  int64_t n = 0;
  KA_TRY(ka_alloc_n(ctx, &p, t->n_groups + t->n_tasks, sizeof(struct ka_eval_member), "table"));
  struct ka_eval_member *tops = p;
  ka_status st = KA_STATUS_OK;
  for (int pass = 0; pass < 2 && ka_ok(st); pass++) {
    bool groups = pass == 0;
    n = 0;
    for (int64_t i = 0; i < (groups ? t->n_groups : t->n_tasks); i++) {
      bool inside = false;
      for (int64_t g = 0; g < t->n_groups; g++)
        for (int64_t k = 0; k < t->groups[g]->n_members; k++)
          inside = inside || (t->groups[g]->members[k].is_group == groups &&
                              t->groups[g]->members[k].index == i);
      if (!inside) tops[n++] = (struct ka_eval_member){groups, i};
    }
    st = add_tree(x, tops, n, 0);
  }
  ka_free(p);
  return st;
}

/* Characters that a cell takes; all are one column wide. */
static int width_of(const char *s) {
  int n = 0;
  for (; *s; s++) n += (*s & 0xc0) != 0x80;
  return n;
}

static ka_status put_cell(struct ka_ctx *ctx, struct ka_str *out, const char *s, int width,
                          bool right) {
  int blank = width - width_of(s);
  return ka_str_printf(ctx, out, "|%*s%s%*s", right ? blank : 0, "", s, right ? 0 : blank, "");
}

static ka_status print(struct table *x, struct ka_str *out) {
  struct ka_ctx *ctx = x->ctx;
  int width[N_COLUMNS];
  for (int c = 0; c < N_COLUMNS; c++) {
    const char *head = c ? heads[c] : x->groups_only ? "Groups" : "Tasks";
    width[c] = width_of(head) < 3 ? 3 : width_of(head);
    for (int64_t i = 0; i < x->n; i++)
      if (width_of(x->rows[i].cell[c]) > width[c]) width[c] = width_of(x->rows[i].cell[c]);
    KA_TRY(put_cell(ctx, out, head, width[c], false));
  }
  KA_TRY(ka_str_puts(ctx, out, "|\n"));
  for (int c = 0; c < N_COLUMNS; c++) {
    KA_TRY(ka_str_puts(ctx, out, "|"));
    for (int i = 0; i < width[c]; i++)
      KA_TRY(ka_str_puts(ctx, out, to_the_right[c] && i + 1 == width[c] ? ":" : "-"));
  }
  KA_TRY(ka_str_puts(ctx, out, "|\n"));
  for (int64_t i = 0; i < x->n; i++) {
    for (int c = 0; c < N_COLUMNS; c++)
      KA_TRY(put_cell(ctx, out, x->rows[i].cell[c], width[c], to_the_right[c] || c == 8));
    KA_TRY(ka_str_puts(ctx, out, "|\n"));
  }
  return KA_STATUS_OK;
}

ka_status ka_results_table(struct ka_ctx *ctx, const struct ka_tasks *t, const struct ka_results *r,
                           struct ka_str *out) {
  for (int pass = 0; pass < 2; pass++) {
    struct table x = {.ctx = ctx, .t = t, .r = r, .groups_only = pass == 1};
    ka_status st = add_all(&x);
    if (ka_ok(st) && pass == 1 && x.n > 0) st = ka_str_puts(ctx, out, "\n");
    if (ka_ok(st) && x.n > 0) st = print(&x, out);
    ka_free(x.rows);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}
