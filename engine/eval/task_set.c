/* SPDX-License-Identifier: Apache-2.0
 * Names to files to tasks and groups. A name is looked for beside the file that says it, then below
 * the include paths; a directory's files are read when a name is first looked for in it. */
#include "engine/eval/task_set.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 16, MAX_TASKS = 1 << 16 };

struct entry { /* a task file of a directory */
  const char *path;
  const struct ka_yaml *keys;
};

struct directory {
  const char *path;
  struct entry *entries;
  int64_t n;
};

struct finder {
  struct ka_ctx *ctx;
  struct ka_tasks *t;
  struct directory *dirs;
  int64_t n_dirs, cap_dirs;
  int depth;
};

/* What a file or an inline mapping says, and what is changed about it. */
struct source {
  const struct ka_yaml *keys;
  const struct ka_yaml *changes; /* NULL: nothing */
  const char *path;
  const char *name; /* in place of the keys' own; NULL */
};

static const char *text_of(const struct ka_yaml *map, const char *key) {
  const struct ka_yaml *v = map ? ka_yaml_get(map, key) : NULL;
  return v && v->kind == KA_YAML_SCALAR && *v->text ? v->text : NULL;
}

static ka_status at_node(struct finder *f, const struct ka_yaml *v, const char *what) {
  return ka_fail(f->ctx, KA_E_INPUT, "%s:%d:%d: %s", v->file, v->line, v->column, what);
}

/* --- names ------------------------------------------------------------------- */

static ka_status read_directory(struct finder *f, struct directory *d) {
  struct ka_ctx *ctx = f->ctx;
  const char **names, *path;
  int64_t n = 0;
  void *entries;
  KA_TRY(ka_list_dir(&f->t->arena, *d->path ? d->path : ".", &names, &n));
  KA_TRY(ka_arena_alloc_n(&f->t->arena, &entries, n, sizeof *d->entries, "task files"));
  d->entries = entries;
  for (int64_t i = 0; i < n; i++) {
    struct ka_yaml *keys;
    if (!ka_ends_with(names[i], ".yaml") && !ka_ends_with(names[i], ".yml")) continue;
    KA_TRY(ka_path_join(&f->t->arena, &path, d->path, names[i]));
    ka_status st = ka_task_file_read(&f->t->arena, path, &keys);
    if (st.code == KA_E_INPUT) { /* not asked for, so nobody's business */
      ka_error_clear(ctx);
      continue;
    }
    KA_TRY(st);
    d->entries[d->n++] = (struct entry){path, keys};
  }
  return KA_STATUS_OK;
}

static ka_status directory_of(struct finder *f, const char *path, struct directory *out) {
  struct ka_ctx *ctx = f->ctx;
  for (int64_t i = 0; i < f->n_dirs; i++)
    if (strcmp(f->dirs[i].path, path) == 0) {
      *out = f->dirs[i];
      return KA_STATUS_OK;
    }
  void *dirs = f->dirs;
  KA_TRY(ka_grow(ctx, &dirs, &f->cap_dirs, f->n_dirs + 1, sizeof *f->dirs, "directories"));
  f->dirs = dirs;
  *out = (struct directory){.path = path};
  KA_TRY(read_directory(f, out));
  f->dirs[f->n_dirs++] = *out;
  return KA_STATUS_OK;
}

static bool has_tag(const struct ka_yaml *keys, const char *tag) {
  const struct ka_yaml *v = ka_yaml_get(keys, "tag");
  if (!v || ka_yaml_get(keys, "group")) return false;
  if (v->kind == KA_YAML_SCALAR) return strcmp(v->text, tag) == 0;
  for (int64_t i = 0; i < v->n && v->kind == KA_YAML_LIST; i++)
    if (v->items[i]->kind == KA_YAML_SCALAR && strcmp(v->items[i]->text, tag) == 0) return true;
  return false;
}

static int by_task(const void *a, const void *b) {
  const char *x = text_of(((const struct entry *)a)->keys, "task");
  const char *y = text_of(((const struct entry *)b)->keys, "task");
  return strcmp(x ? x : "", y ? y : "");
}

/* The file of a task or group of this name, or all files of a tag, sorted; *n 0: there is none.
 * beside: a directory; NULL: only the include paths. */
static ka_status find(struct finder *f, const char *name, const char *beside, struct entry **out,
                      int64_t *n) {
  struct ka_ctx *ctx = f->ctx;
  const struct ka_tasks_options *o = &f->t->options;
  struct directory d;
  *n = 0;
  for (int64_t i = beside ? -1 : 0; i < o->n_include_paths; i++) {
    KA_TRY(directory_of(f, i < 0 ? beside : o->include_paths[i], &d));
    int64_t n_tagged = 0;
    for (int64_t k = 0; k < d.n; k++) {
      const char *group = text_of(d.entries[k].keys, "group");
      const char *own = group ? group : text_of(d.entries[k].keys, "task");
      n_tagged += has_tag(d.entries[k].keys, name);
      if (!own || strcmp(own, name) != 0) continue;
      *out = &d.entries[k];
      *n = 1;
      return KA_STATUS_OK;
    }
    if (n_tagged == 0) continue;
    void *list;
    KA_TRY(ka_arena_alloc_n(&f->t->arena, &list, n_tagged, sizeof **out, "tag"));
    *out = list;
    for (int64_t k = 0; k < d.n; k++)
      if (has_tag(d.entries[k].keys, name)) (*out)[(*n)++] = d.entries[k];
    qsort(*out, (size_t)*n, sizeof **out, by_task);
    return KA_STATUS_OK;
  }
  return KA_STATUS_OK;
}

/* --- tasks ------------------------------------------------------------------- */

static ka_status merged_keys(struct finder *f, const struct source *s, struct ka_yaml **out) {
  struct ka_ctx *ctx = f->ctx;
  KA_TRY(ka_task_keys_merge(&f->t->arena, s->keys, s->changes, out));
  if (!s->name) return KA_STATUS_OK;
  for (int64_t i = 0; i < (*out)->n; i++) {
    if (strcmp((*out)->keys[i]->text, "task") != 0) continue;
    void *p;
    KA_TRY(ka_arena_alloc(&f->t->arena, &p, sizeof(struct ka_yaml), "yaml"));
    *(struct ka_yaml *)p = *(*out)->values[i];
    ((struct ka_yaml *)p)->text = s->name;
    (*out)->values[i] = p;
  }
  return KA_STATUS_OK;
}

static ka_status add_task(struct finder *f, const struct source *s, struct ka_eval_member *out) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_tasks *t = f->t;
  struct ka_yaml *keys;
  KA_TRY(merged_keys(f, s, &keys));
  const char *name = text_of(keys, "task");
  for (int64_t i = 0; i < t->n_tasks && name; i++) {
    if (strcmp(t->tasks[i]->name, name) != 0) continue;
    *out = (struct ka_eval_member){false, i};
    if (strcmp(t->tasks[i]->config.file.path, s->path) == 0 && !s->changes) return KA_STATUS_OK;
    return ka_fail(ctx, KA_E_INPUT, "%s: there are two tasks of the name %s; the other is in %s",
                   s->path, name, t->tasks[i]->config.file.path);
  }
  void *p, *list = t->tasks;
  KA_TRY(ka_grow(ctx, &list, &t->cap_tasks, t->n_tasks + 1, sizeof *t->tasks, "tasks"));
  t->tasks = list;
  KA_TRY(ka_alloc(ctx, &p, sizeof(struct ka_task), "task"));
  t->tasks[t->n_tasks] = p;
  *out = (struct ka_eval_member){false, t->n_tasks++};
  return ka_task_open(ctx, p, &t->py, keys, s->path, &t->options);
}

/* --- groups ------------------------------------------------------------------ */

static ka_status add(struct finder *f, const struct source *s, struct ka_eval_member *out);

static ka_status add_member(struct finder *f, struct ka_eval_group *g, const struct source *s) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_eval_member m;
  KA_TRY(add(f, s, &m));
  void *list = g->members;
  KA_TRY(ka_grow(ctx, &list, &g->cap_members, g->n_members + 1, sizeof m, "group"));
  g->members = list;
  g->members[g->n_members++] = m;
  g->n_tasks += m.is_group ? f->t->groups[m.index]->n_tasks : 1;
  if (g->n_tasks > MAX_TASKS)
    return ka_fail(ctx, KA_E_INPUT, "%s: group %s has more than %d tasks", s->path, g->name,
                   MAX_TASKS);
  return KA_STATUS_OK;
}

/* Keys of a map that are in `words` (or are not). */
static ka_status split_keys(struct finder *f, const struct ka_yaml *map, const char *words, bool in,
                            struct ka_yaml **out) {
  struct ka_ctx *ctx = f->ctx;
  KA_TRY(ka_task_keys_merge(&f->t->arena, map, NULL, out));
  int64_t n = 0;
  for (int64_t i = 0; i < (*out)->n; i++) {
    if (ka_key_in_words(words, (*out)->keys[i]->text) != in) continue;
    (*out)->keys[n] = (*out)->keys[i];
    (*out)->values[n++] = (*out)->values[i];
  }
  (*out)->n = n;
  return KA_STATUS_OK;
}

/* changes, then what the entry itself says; NULL when neither says anything. */
static ka_status merge_changes(struct finder *f, const struct ka_yaml *changes,
                               const struct ka_yaml *own, const struct ka_yaml **out) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_yaml *merged;
  *out = NULL;
  if ((!changes || changes->n == 0) && (!own || own->n == 0)) return KA_STATUS_OK;
  KA_TRY(ka_task_keys_merge(&f->t->arena, changes, own, &merged));
  *out = merged;
  return KA_STATUS_OK;
}

/* A file beside the group's, or a name; with `inline_source` an unknown name makes a task or group
 * of its own. */
static ka_status add_named(struct finder *f, struct ka_eval_group *g, const struct ka_yaml *at,
                           const char *name, const struct source *group,
                           const struct ka_yaml *changes, const struct source *inline_source) {
  struct ka_ctx *ctx = f->ctx;
  struct source s = {.changes = changes, .path = group->path};
  struct entry *found;
  struct ka_yaml *keys;
  const char *dir, *path;
  int64_t n;
  KA_TRY(ka_path_dir(&f->t->arena, &dir, group->path));
  if (strcmp(dir, ".") == 0) dir = "";
  if (ka_ends_with(name, ".yaml") || ka_ends_with(name, ".yml")) {
    KA_TRY(ka_path_join(&f->t->arena, &path, dir, name));
    KA_TRY(ka_task_file_read(&f->t->arena, path, &keys));
    s.keys = keys;
    s.path = path;
    return add_member(f, g, &s);
  }
  KA_TRY(find(f, name, dir, &found, &n));
  for (int64_t i = 0; i < n; i++) {
    s.keys = found[i].keys;
    s.path = found[i].path;
    KA_TRY(add_member(f, g, &s));
  }
  if (n > 0) return KA_STATUS_OK;
  if (!inline_source)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s:%d:%d: task: no task, group or tag of the name %.80s beside this file or "
                   "below --include-path",
                   at->file, at->line, at->column, name);
  s = *inline_source;
  KA_TRY(ka_arena_printf(&f->t->arena, &s.name, "%s::%s", g->name, name));
  return add_member(f, g, &s);
}

static ka_status add_item(struct finder *f, struct ka_eval_group *g, const struct ka_yaml *item,
                          const struct source *group, const struct ka_yaml *changes) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_yaml *rest;
  const struct ka_yaml *all;
  if (item->kind == KA_YAML_SCALAR) return add_named(f, g, item, item->text, group, changes, NULL);
  const char *name = text_of(item, "group");
  bool inner = name != NULL;
  if (item->kind != KA_YAML_MAP || (!name && !(name = text_of(item, "task"))))
    return at_node(f, item, "task: expected names, or mappings with the key task or group");
  KA_TRY(split_keys(f, item, inner ? "group task" : "task", false, &rest));
  KA_TRY(merge_changes(f, changes, rest, &all));
  const struct source here = {.keys = item, .changes = inner ? changes : all, .path = group->path};
  return add_named(f, g, item, name, group, all, &here);
}

static ka_status fill_group(struct finder *f, struct ka_eval_group *g, const struct source *s) {
  struct ka_ctx *ctx = f->ctx;
  static const char own_words[] =
      "group group_alias task aggregate_metric_list metadata tag include";
  struct ka_yaml *own, *rest;
  const struct ka_yaml *changes;
  KA_TRY(split_keys(f, s->keys, own_words, true, &own));
  KA_TRY(split_keys(f, s->keys, own_words, false, &rest));
  KA_TRY(merge_changes(f, rest, s->changes, &changes));
  KA_TRY(ka_eval_group_config_open(ctx, &g->config, own, s->path));
  g->name = s->name ? s->name : g->config.group;
  g->alias = g->config.group_alias ? g->config.group_alias : g->name;
  const struct ka_yaml *members = g->config.task;
  if (members->kind != KA_YAML_LIST || members->n == 0)
    return at_node(f, members, "task: expected a list of the group's members");
  for (int64_t i = 0; i < members->n; i++) KA_TRY(add_item(f, g, members->items[i], s, changes));
  return KA_STATUS_OK;
}

static ka_status add_group(struct finder *f, const struct source *s, struct ka_eval_member *out) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_tasks *t = f->t;
  void *p;
  const char *name = s->name ? s->name : text_of(s->keys, "group");
  for (int64_t i = 0; i < t->n_groups; i++)
    if (strcmp(t->groups[i]->name, name) == 0) {
      *out = (struct ka_eval_member){true, i};
      return KA_STATUS_OK;
    }
  if (++f->depth > MAX_DEPTH)
    return ka_fail(ctx, KA_E_INPUT, "%s: groups inside groups more than %d deep", s->path,
                   MAX_DEPTH);
  KA_TRY(ka_alloc(ctx, &p, sizeof(struct ka_eval_group), "group"));
  ka_status st = fill_group(f, p, s);
  void *list = t->groups;
  if (ka_ok(st))
    st = ka_grow(ctx, &list, &t->cap_groups, t->n_groups + 1, sizeof *t->groups, "groups");
  if (!ka_ok(st)) {
    ka_free(((struct ka_eval_group *)p)->members);
    ka_eval_group_config_close(&((struct ka_eval_group *)p)->config);
    ka_free(p);
    return st;
  }
  t->groups = list;
  t->groups[t->n_groups] = p;
  *out = (struct ka_eval_member){true, t->n_groups++};
  f->depth--;
  return KA_STATUS_OK;
}

static ka_status add(struct finder *f, const struct source *s, struct ka_eval_member *out) {
  return ka_yaml_get(s->keys, "group") ? add_group(f, s, out) : add_task(f, s, out);
}

/* --- what the caller names --------------------------------------------------- */

static ka_status add_top(struct finder *f, const char *name) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_eval_member m;
  struct ka_yaml *keys;
  struct entry *found;
  int64_t n = 0;
  if (ka_path_exists(name) && !ka_path_is_dir(name)) {
    const char *path;
    KA_TRY(ka_arena_str(&f->t->arena, &path, name, strlen(name)));
    KA_TRY(ka_task_file_read(&f->t->arena, path, &keys));
    return add(f, &(struct source){.keys = keys, .path = path}, &m);
  }
  KA_TRY(find(f, name, NULL, &found, &n));
  for (int64_t i = 0; i < n; i++)
    KA_TRY(add(f, &(struct source){.keys = found[i].keys, .path = found[i].path}, &m));
  if (n > 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "%s: no such file%s", name,
                 f->t->options.n_include_paths > 0
                     ? ", and no task, group or tag of this name below --include-path"
                     : "; tasks are named by their YAML files, or by name with --include-path");
}

ka_status ka_task_set_fill(struct ka_tasks *t, const char *const *names, int64_t n) {
  struct finder f = {.ctx = t->ctx, .t = t};
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < n && ka_ok(st); i++) st = add_top(&f, names[i]);
  ka_free(f.dirs);
  return st;
}

void ka_eval_group_tasks(const struct ka_tasks *t, const struct ka_eval_group *g, int64_t **out) {
  for (int64_t i = 0; i < g->n_members; i++) {
    const struct ka_eval_member *m = &g->members[i];
    if (m->is_group)
      ka_eval_group_tasks(t, t->groups[m->index], out);
    else
      *(*out)++ = m->index;
  }
}
