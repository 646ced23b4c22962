/* SPDX-License-Identifier: Apache-2.0
 * Names to files to tasks and groups. A name is looked for beside the file that says it, then below
 * the include paths and in the directories there, the last path first; a directory's files are read
 * when a name is first looked for in it. */
#include "engine/eval/task_set.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 16, MAX_TASKS = 1 << 16 };

struct entry { /* a task file of a directory */
  const char *path;
  const struct ka_yaml *keys; /* NULL: */
  const char *problem;        /* it cannot be read */
};

struct directory {
  const char *path;
  bool recursive;
  struct entry *entries; /* by path */
  int64_t n, cap;
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

/* A file that cannot be read may be the one that is asked for: it keeps what is wrong with it. */
static ka_status add_file(struct finder *f, struct directory *d, const char *path) {
  struct ka_ctx *ctx = f->ctx;
  struct entry e = {.path = path};
  struct ka_yaml *keys = NULL;
  ka_status st = ka_task_file_read(&f->t->arena, path, &keys);
  if (st.code == KA_E_INPUT) {
    st = ka_arena_str(&f->t->arena, &e.problem, ctx->error.message, strlen(ctx->error.message));
    ka_error_clear(ctx);
  }
  KA_TRY(st);
  e.keys = keys;
  void *entries = d->entries;
  KA_TRY(ka_grow(ctx, &entries, &d->cap, d->n + 1, sizeof e, "task files"));
  d->entries = entries;
  d->entries[d->n++] = e;
  return KA_STATUS_OK;
}

/* Adds the .yaml files of a directory and, where wanted, of those in it. */
static ka_status read_files(struct finder *f, struct directory *d, const char *dir, int depth) {
  struct ka_ctx *ctx = f->ctx;
  const char **names, *path;
  int64_t n = 0;
  KA_TRY(ka_list_dir(&f->t->arena, *dir ? dir : ".", &names, &n));
  for (int64_t i = 0; i < n; i++) {
    if (*names[i] == '.' || strcmp(names[i], "__pycache__") == 0) continue;
    KA_TRY(ka_path_join(&f->t->arena, &path, dir, names[i]));
    if (ka_path_is_dir(path)) {
      if (d->recursive && depth < MAX_DEPTH) KA_TRY(read_files(f, d, path, depth + 1));
    } else if (ka_ends_with(path, ".yaml") || ka_ends_with(path, ".yml")) {
      KA_TRY(add_file(f, d, path));
    }
  }
  return KA_STATUS_OK;
}

static int by_path(const void *a, const void *b) {
  return strcmp(((const struct entry *)a)->path, ((const struct entry *)b)->path);
}

static ka_status directory_of(struct finder *f, const char *path, bool recursive,
                              struct directory *out) {
  struct ka_ctx *ctx = f->ctx;
  for (int64_t i = 0; i < f->n_dirs; i++)
    if (strcmp(f->dirs[i].path, path) == 0 && f->dirs[i].recursive == recursive) {
      *out = f->dirs[i];
      return KA_STATUS_OK;
    }
  void *dirs = f->dirs;
  KA_TRY(ka_grow(ctx, &dirs, &f->cap_dirs, f->n_dirs + 1, sizeof *f->dirs, "directories"));
  f->dirs = dirs;
  *out = (struct directory){.path = path, .recursive = recursive};
  ka_status st = read_files(f, out, path, 0);
  if (out->n > 0) qsort(out->entries, (size_t)out->n, sizeof *out->entries, by_path);
  f->dirs[f->n_dirs++] = *out; /* what was read of it, too, is freed in the end */
  return st;
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

/* In one directory, as find. */
static ka_status find_in(struct finder *f, const struct directory *d, const char *name,
                         struct entry **out, int64_t *n) {
  struct ka_ctx *ctx = f->ctx;
  int64_t n_tagged = 0;
  for (int64_t k = 0; k < d->n; k++) {
    if (!d->entries[k].keys) continue;
    const char *group = text_of(d->entries[k].keys, "group");
    const char *own = group ? group : text_of(d->entries[k].keys, "task");
    n_tagged += has_tag(d->entries[k].keys, name);
    if (!own || strcmp(own, name) != 0) continue;
    *out = &d->entries[k];
    *n = 1;
    return KA_STATUS_OK;
  }
  if (n_tagged == 0) return KA_STATUS_OK;
  KA_TRY(KA_NEW(&f->t->arena, out, n_tagged, "tag"));
  for (int64_t k = 0; k < d->n; k++)
    if (d->entries[k].keys && has_tag(d->entries[k].keys, name)) (*out)[(*n)++] = d->entries[k];
  qsort(*out, (size_t)*n, sizeof **out, by_task);
  return KA_STATUS_OK;
}

/* The file of a task or group of this name, or all files of a tag, sorted; *n 0: there is none.
 * beside: a directory; NULL: only the include paths, of which the last that has the name wins, as
 * in the harness. */
static ka_status find(struct finder *f, const char *name, const char *beside, struct entry **out,
                      int64_t *n) {
  struct ka_ctx *ctx = f->ctx;
  const struct ka_tasks_options *o = &f->t->options;
  struct directory d;
  *n = 0;
  if (beside) {
    KA_TRY(directory_of(f, beside, false, &d));
    KA_TRY(find_in(f, &d, name, out, n));
  }
  for (int64_t i = o->n_include_paths - 1; i >= 0 && *n == 0; i--) {
    KA_TRY(directory_of(f, o->include_paths[i], true, &d));
    KA_TRY(find_in(f, &d, name, out, n));
  }
  return KA_STATUS_OK;
}

/* Is `name` what the file is called, or what a line of it that starts with task: or group: says? */
static bool may_be(struct ka_ctx *ctx, const char *path, const char *name) {
  struct ka_str text = {0};
  const char *file = strrchr(path, '/');
  size_t n = strlen(name);
  file = file ? file + 1 : path;
  bool found = strncmp(file, name, n) == 0 && file[n] == '.';
  if (!ka_ok(ka_read_file(ctx, path, KA_YAML_MAX_BYTES, &text))) ka_error_clear(ctx);
  for (const char *p = text.data; p && !found; p = strchr(p, '\n')) {
    p += *p == '\n';
    size_t key = ka_starts_with(p, "task:") ? 5 : ka_starts_with(p, "group:") ? 6 : 0;
    if (key == 0) continue;
    p += key + strspn(p + key, " \"'");
    found = strncmp(p, name, n) == 0 && strchr(" \"'\r\n#", p[n]);
  }
  ka_str_deinit(&text);
  return found;
}

/* Nothing has the name: with the problem of a file that seems to be meant, or else `fallback`. */
static ka_status no_such_task(struct finder *f, const char *name,
                              ka_status (*fallback)(struct finder *f, const char *name,
                                                    const void *at),
                              const void *at) {
  for (int64_t i = 0; i < f->n_dirs; i++)
    for (int64_t k = 0; k < f->dirs[i].n; k++) {
      const struct entry *e = &f->dirs[i].entries[k];
      if (e->problem && may_be(f->ctx, e->path, name))
        return ka_fail(f->ctx, KA_E_INPUT, "%s: the file cannot be read: %s", name, e->problem);
    }
  return fallback(f, name, at);
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

static ka_status no_member(struct finder *f, const char *name, const void *node) {
  const struct ka_yaml *at = node;
  return ka_fail(f->ctx, KA_E_INPUT,
                 "%s:%d:%d: task: no task, group or tag of the name %.80s beside this file or "
                 "below --include-path",
                 at->file, at->line, at->column, name);
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
  if (!inline_source) return no_such_task(f, name, no_member, at);
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

static ka_status no_file(struct finder *f, const char *name, const void *at) {
  (void)at;
  return ka_fail(f->ctx, KA_E_INPUT, "%s: no such file%s", name,
                 f->t->options.n_include_paths > 0
                     ? ", and no task, group or tag of this name below --include-path"
                     : "; tasks are named by their YAML files, or by name with --include-path");
}

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
  return n > 0 ? KA_STATUS_OK : no_such_task(f, name, no_file, NULL);
}

/* Fills tasks and groups from the names; see ka_tasks_load. */
static ka_status fill(struct ka_tasks *t, const char *const *names, int64_t n) {
  struct finder f = {.ctx = t->ctx, .t = t};
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < n && ka_ok(st); i++) st = add_top(&f, names[i]);
  for (int64_t i = 0; i < f.n_dirs; i++) ka_free(f.dirs[i].entries);
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

ka_status ka_tasks_load(struct ka_ctx *ctx, struct ka_tasks **out, const char *const *names,
                        int64_t n, const struct ka_tasks_options *o) {
  *out = NULL;
  struct ka_tasks *t;
  KA_TRY(KA_NEW_HEAP(ctx, &t, 1, "tasks"));
  *t = (struct ka_tasks){.ctx = ctx, .options = *o};
  ka_arena_init(&t->arena, ctx, "tasks");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_py_open(ctx, &t->py), out);
  KA_TRY_GOTO(fill(t, names, n), out);
  *out = t;
out:
  if (!ka_ok(st)) ka_tasks_close(t);
  return st;
}

void ka_tasks_close(struct ka_tasks *t) {
  if (!t) return;
  for (int64_t i = 0; i < t->n_tasks; i++) {
    ka_task_close(t->tasks[i]);
    ka_free(t->tasks[i]);
  }
  for (int64_t i = 0; i < t->n_groups; i++) {
    ka_eval_group_config_close(&t->groups[i]->config);
    ka_free(t->groups[i]->members);
    ka_free(t->groups[i]);
  }
  ka_free(t->tasks);
  ka_free(t->groups);
  ka_py_close(&t->py);
  ka_arena_deinit(&t->arena);
  ka_free(t);
}
