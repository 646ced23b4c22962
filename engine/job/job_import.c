/* SPDX-License-Identifier: Apache-2.0
 * See job_import.h: the translated tree of a job, written as block YAML with comments. */
#include "engine/job/job_import.h"

#include "base/file.h"
#include "engine/job/foreign.h"
#include "engine/job/job.h"
#include "engine/job/job_table.h"

#include <string.h>

enum { LINE = 96 };

struct writer {
  struct ka_ctx *ctx;
  struct ka_str *out;
  const struct ka_key_file *file;
};

static ka_status put_scalar(struct writer *w, const struct ka_yaml *v) {
  struct ka_ctx *ctx = w->ctx;
  if (v->plain && *v->text) return ka_str_puts(ctx, w->out, v->text);
  return ka_json_quote(ctx, w->out, v->text, strlen(v->text));
}

/* "key: value" lines or "- item" lines; `first` continues a line that is begun. */
static ka_status put_tree(struct writer *w, const struct ka_yaml *v, int indent, bool first);

static ka_status put_value(struct writer *w, const struct ka_yaml *v, int indent) {
  struct ka_ctx *ctx = w->ctx;
  if (v->kind != KA_YAML_SCALAR && v->n == 0)
    return ka_str_puts(ctx, w->out, v->kind == KA_YAML_LIST ? " []\n" : " {}\n");
  if (v->kind != KA_YAML_SCALAR) {
    KA_TRY(ka_str_puts(ctx, w->out, "\n"));
    return put_tree(w, v, indent + 2, false);
  }
  KA_TRY(ka_str_puts(ctx, w->out, " "));
  KA_TRY(put_scalar(w, v));
  return ka_str_puts(ctx, w->out, "\n");
}

static ka_status put_tree(struct writer *w, const struct ka_yaml *v, int indent, bool first) {
  struct ka_ctx *ctx = w->ctx;
  for (int64_t i = 0; i < v->n; i++) {
    if (!first || i > 0) KA_TRY(ka_str_printf(ctx, w->out, "%*s", indent, ""));
    if (v->kind == KA_YAML_MAP) {
      KA_TRY(ka_str_printf(ctx, w->out, "%s:", v->keys[i]->text));
      KA_TRY(put_value(w, v->values[i], indent));
    } else if (v->items[i]->kind == KA_YAML_SCALAR) {
      KA_TRY(ka_str_puts(ctx, w->out, "- "));
      KA_TRY(put_scalar(w, v->items[i]));
      KA_TRY(ka_str_puts(ctx, w->out, "\n"));
    } else {
      KA_TRY(ka_str_puts(ctx, w->out, "- "));
      KA_TRY(put_tree(w, v->items[i], indent + 2, true));
    }
  }
  return KA_STATUS_OK;
}

/* A key that kappa does not know at all needs a decision too. */
static bool is_known(const struct ka_yaml *key) {
  return ka_key_find(&ka_job_table, KA_SCOPE_JOB, key->text) != NULL;
}

static ka_status put_key(struct writer *w, const struct ka_yaml *key, const struct ka_yaml *v) {
  struct ka_ctx *ctx = w->ctx;
  const char *was = NULL;
  for (int64_t i = 0; i < w->file->n_notes; i++) {
    const struct ka_key_note *n = &w->file->notes[i];
    if (n->kind == KA_KEY_RENAMED && strcmp(n->text, key->text) == 0) was = n->key;
  }
  size_t start = w->out->len;
  KA_TRY(ka_str_printf(ctx, w->out, "%s:", key->text));
  KA_TRY(put_value(w, v, 0));
  if (!was) return KA_STATUS_OK;
  const char *end = memchr(w->out->data + start, '\n', w->out->len - start);
  struct ka_str rest = {0};
  size_t at = (size_t)(end - w->out->data);
  ka_status st = ka_str_append(ctx, &rest, end, w->out->len - at);
  w->out->len = at;
  if (ka_ok(st)) st = ka_str_printf(ctx, w->out, "  # was %s", was);
  if (ka_ok(st)) st = ka_str_append(ctx, w->out, rest.data, rest.len);
  ka_str_deinit(&rest);
  return st;
}

static ka_status put_notes(struct writer *w, enum ka_key_note_kind kind, const char *word) {
  struct ka_ctx *ctx = w->ctx;
  for (int64_t i = 0; i < w->file->n_notes; i++)
    if (w->file->notes[i].kind == kind)
      KA_TRY(ka_str_printf(ctx, w->out, "# %s: %s: %s\n", word, w->file->notes[i].key,
                           w->file->notes[i].text));
  return KA_STATUS_OK;
}

static ka_status put_passed(struct writer *w) {
  struct ka_ctx *ctx = w->ctx;
  size_t column = 0;
  for (int64_t i = 0; i < w->file->n_notes; i++) {
    const struct ka_key_note *n = &w->file->notes[i];
    if (n->kind != KA_KEY_PASSED) continue;
    KA_TRY(ka_str_puts(ctx, w->out, column ? "," : "# without a meaning here, left out:"));
    if (column == 0) column = 36;
    if (column + strlen(n->key) > LINE) {
      KA_TRY(ka_str_puts(ctx, w->out, "\n#  "));
      column = 3;
    }
    KA_TRY(ka_str_printf(ctx, w->out, " %s", n->key));
    column += strlen(n->key) + 2;
  }
  return column ? ka_str_puts(ctx, w->out, "\n") : KA_STATUS_OK;
}

static ka_status write_job(struct writer *w, const struct ka_yaml *root, const char *path,
                           int64_t *n_decisions) {
  struct ka_ctx *ctx = w->ctx;
  KA_TRY(ka_str_printf(ctx, w->out, "# by `kappa import %s`; all keys: docs/jobs.md\n", path));
  KA_TRY(put_notes(w, KA_KEY_REFUSED, "DECIDE, left out"));
  for (int64_t i = 0; i < root->n; i++)
    if (!is_known(root->keys[i])) {
      KA_TRY(ka_str_printf(ctx, w->out, "# DECIDE, left out: %s: kappa does not know this key\n",
                           root->keys[i]->text));
      ++*n_decisions;
    }
  KA_TRY(put_notes(w, KA_KEY_OTHERWISE, "otherwise"));
  KA_TRY(put_passed(w));
  for (int64_t i = 0; i < w->file->n_notes; i++)
    *n_decisions += w->file->notes[i].kind == KA_KEY_REFUSED;
  for (int64_t i = 0; i < root->n; i++)
    if (is_known(root->keys[i]) && !ka_yaml_is_null(root->values[i]))
      KA_TRY(put_key(w, root->keys[i], root->values[i]));
  if (ka_yaml_get(root, "selection")) return KA_STATUS_OK;
  return ka_str_puts(ctx, w->out,
                     "# DECIDE: what is trained; metric: all trains everything, as the other "
                     "trainer did\n"
                     "selection:\n  metric: kappa\n  order: lowest\n  count: 20\n");
}

ka_status ka_job_import(struct ka_ctx *ctx, const char *path, struct ka_str *out,
                        int64_t *n_decisions) {
  struct ka_key_file file;
  struct ka_str text = {0};
  struct ka_yaml *root = NULL;
  int64_t decisions = 0;
  KA_TRY(ka_key_file_open(ctx, &file, path));
  struct ka_key_reader r = {
      .ctx = ctx, .table = &ka_job_table, .file = &file, .dir = "", .check_paths = true};
  struct writer w = {.ctx = ctx, .out = out, .file = &file};
  ka_status st = ka_path_dir(&file.arena, &r.dir, path);
  if (ka_ok(st) && strcmp(r.dir, ".") == 0) r.dir = "";
  KA_TRY_GOTO(st, out);
  KA_TRY_GOTO(ka_read_file(ctx, path, KA_YAML_MAX_BYTES, &text), out);
  KA_TRY_GOTO(ka_yaml_parse(ctx, &file.arena, text.data, text.len, file.path, false, &root), out);
  if (root->kind != KA_YAML_MAP)
    KA_TRY_GOTO(ka_fail(ctx, KA_E_INPUT, "%s: expected a mapping of keys", path), out);
  KA_TRY_GOTO(ka_foreign_translate(&r, root, true), out);
  KA_TRY_GOTO(ka_key_report(ctx, &file, "job"), out);
  KA_TRY_GOTO(write_job(&w, root, path, &decisions), out);
  if (n_decisions) *n_decisions = decisions;
out:
  ka_str_deinit(&text);
  ka_key_file_close(&file);
  return st;
}
