/* SPDX-License-Identifier: Apache-2.0
 * The rows of foreign.def applied to a mapping; see foreign.h. */
#include "engine/job/foreign_parts.h"
#include "engine/job/job_table.h"
#include "engine/job/yaml_json.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const struct ka_foreign_row ka_foreign_rows[] = {
#define KA_FOREIGN(scope, key, kind, target, off, text)                                            \
  {KA_SCOPE_##scope, key, NULL, KA_FOREIGN_##kind, target, off, text},
#define KA_FOREIGN_VALUE(scope, key, value, kind, target, text)                                    \
  {KA_SCOPE_##scope, key, value, KA_FOREIGN_##kind, target, "", text},
#include "engine/job/foreign.def"
    {0}};

/* --- nodes ------------------------------------------------------------------- */

bool ka_foreign_is_off(const struct ka_yaml *v) {
  static const char *const words[] = {"false", "False", "FALSE", "no",   "No",
                                      "off",   "Off",   "none",  "None", "[]"};
  if (ka_yaml_is_null(v)) return true;
  if (v->kind != KA_YAML_SCALAR) return v->n == 0;
  if (!*v->text) return true;
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strcmp(v->text, words[i]) == 0) return true;
  return false;
}

const char *ka_foreign_text(const struct ka_yaml *v) {
  return v->kind == KA_YAML_SCALAR ? v->text : "";
}

const char *ka_foreign_get(const struct ka_yaml *map, const char *key) {
  const struct ka_yaml *v = ka_yaml_get(map, key);
  return v && v->kind == KA_YAML_SCALAR && !ka_yaml_is_null(v) ? v->text : NULL;
}

bool ka_foreign_number(const struct ka_yaml *v, double *out) {
  int64_t whole;
  if (!v || v->kind != KA_YAML_SCALAR || !v->plain) return false;
  if (!ka_yaml_int(v, &whole)) return ka_yaml_real(v, out) || ka_parse_f64(v->text, out);
  *out = (double)whole;
  return true;
}

ka_status ka_foreign_new(struct ka_foreign *f, struct ka_yaml **out, enum ka_yaml_kind kind) {
  struct ka_ctx *ctx = f->ctx;
  KA_TRY(KA_NEW(f->arena, out, 1, "foreign keys"));
  **out = (struct ka_yaml){.kind = kind,
                           .file = f->at->file,
                           .line = f->at->line,
                           .column = f->at->column,
                           .plain = true};
  return KA_STATUS_OK;
}

ka_status ka_foreign_scalar(struct ka_foreign *f, struct ka_yaml **out, const char *fmt, ...) {
  struct ka_ctx *ctx = f->ctx;
  char text[512];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  KA_TRY(ka_foreign_new(f, out, KA_YAML_SCALAR));
  return ka_arena_str(f->arena, &(*out)->text, text, strlen(text));
}

ka_status ka_foreign_set(struct ka_foreign *f, struct ka_yaml *map, int64_t *cap, const char *key,
                         struct ka_yaml *v) {
  struct ka_ctx *ctx = f->ctx;
  for (int64_t i = 0; i < map->n; i++)
    if (strcmp(map->keys[i]->text, key) == 0) {
      map->values[i] = v;
      return KA_STATUS_OK;
    }
  if (map->n == *cap) {
    void *keys, *values;
    *cap = *cap ? 2 * *cap : 16;
    KA_TRY(ka_arena_alloc_n(f->arena, &keys, *cap, sizeof(struct ka_yaml *), "foreign keys"));
    KA_TRY(ka_arena_alloc_n(f->arena, &values, *cap, sizeof(struct ka_yaml *), "foreign keys"));
    for (int64_t i = 0; i < map->n; i++) {
      ((struct ka_yaml **)keys)[i] = map->keys[i];
      ((struct ka_yaml **)values)[i] = map->values[i];
    }
    map->keys = keys;
    map->values = values;
  }
  KA_TRY(ka_foreign_scalar(f, &map->keys[map->n], "%s", key));
  map->values[map->n++] = v;
  return KA_STATUS_OK;
}

static bool same_value(const struct ka_yaml *a, const struct ka_yaml *b) {
  double x, y;
  if (a->kind != KA_YAML_SCALAR || b->kind != KA_YAML_SCALAR) return a == b;
  if (ka_foreign_number(a, &x) && ka_foreign_number(b, &y)) return x == y;
  return strcasecmp(a->text, b->text) == 0;
}

ka_status ka_foreign_put(struct ka_foreign *f, const char *key, struct ka_yaml *v) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_yaml *native = ka_yaml_get(f->from, key), *there = ka_yaml_get(f->to, key);
  if (native && native != v && strcmp(f->key, key) != 0 && !ka_yaml_is_null(native)) there = native;
  if (there && !same_value(there, v))
    return ka_key_problem(f->r, f->at, "%s is %s, which is given too and says otherwise; give one",
                          f->key, key);
  if (f->row && strcmp(f->key, key) != 0)
    KA_TRY(ka_key_note(f->r, f->at, KA_KEY_RENAMED, f->key, key));
  return there ? KA_STATUS_OK : ka_foreign_set(f, f->to, &f->cap_to, key, v);
}

ka_status ka_foreign_put_text(struct ka_foreign *f, const char *key, const char *fmt, ...) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_yaml *v;
  char text[512];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  KA_TRY(ka_foreign_scalar(f, &v, "%s", text));
  return ka_foreign_put(f, key, v);
}

/* --- notes ------------------------------------------------------------------- */

ka_status ka_foreign_pass(struct ka_foreign *f) {
  return ka_key_note(f->r, f->at, KA_KEY_PASSED, f->key, "");
}

ka_status ka_foreign_warn(struct ka_foreign *f, const char *text) {
  return ka_key_note(f->r, f->at, KA_KEY_OTHERWISE, f->key, text);
}

ka_status ka_foreign_refuse(struct ka_foreign *f, const char *text) {
  if (f->lenient) return ka_key_note(f->r, f->at, KA_KEY_REFUSED, f->key, text);
  return ka_key_problem(f->r, f->at, "%s%s is not supported: %s",
                        f->scope == KA_SCOPE_DATASET ? "datasets: " : "", f->key, text);
}

/* --- rows -------------------------------------------------------------------- */

static const struct ka_foreign_row *find_row(int scope, const char *key, const char *value) {
  for (const struct ka_foreign_row *r = ka_foreign_rows; r->key; r++) {
    if (r->scope != scope || !r->value != !value) continue;
    if (value ? strcmp(r->key, key) == 0 && fnmatch(r->value, value, 0) == 0
              : fnmatch(r->key, key, 0) == 0)
      return r;
  }
  return NULL;
}

bool ka_foreign_known(int scope, const char *name) {
  return ka_key_find(&ka_job_table, scope, name) || find_row(scope, name, NULL);
}

const char *ka_foreign_same(int scope, const char *name) {
  const struct ka_foreign_row *row = find_row(scope, name, NULL);
  return row && row->kind == KA_FOREIGN_SAME ? row->target : NULL;
}

/* Is the value one of the words "a|b"? */
static bool is_word(const char *words, const struct ka_yaml *v) {
  size_t n = strlen(ka_foreign_text(v));
  for (const char *p = words; n && *p;) {
    size_t len = strcspn(p, "|");
    if (len == n && memcmp(p, v->text, n) == 0) return true;
    p += len + (p[len] == '|');
  }
  return false;
}

/* false is a value of switches: packing: false is not the absence of packing. */
static bool row_is_off(const struct ka_foreign *f, const struct ka_yaml *v) {
  const struct ka_foreign_row *row = f->row;
  if (ka_yaml_is_null(v) || is_word(row->off, v)) return true;
  if (row->kind == KA_FOREIGN_CALL) return false;
  if (row->kind != KA_FOREIGN_SAME) return ka_foreign_is_off(v);
  const struct ka_key *k = ka_key_find(&ka_job_table, f->scope, row->target);
  bool is_switch =
      k && (k->kind == KA_KEY_BOOL || k->kind == KA_KEY_CHOICE || k->kind == KA_KEY_WORD);
  return !is_switch && ka_foreign_is_off(v);
}

static ka_status apply_row(struct ka_foreign *f, struct ka_yaml *v);

/* Values of the key that it stands for have rows of their own. */
static ka_status same(struct ka_foreign *f, struct ka_yaml *v) {
  struct ka_ctx *ctx = f->ctx;
  const struct ka_foreign_row *row = f->row;
  if (row->value) return ka_foreign_put_text(f, row->key, "%s", row->target);
  const struct ka_foreign_row *of_value = find_row(f->scope, row->target, ka_foreign_text(v));
  if (!of_value) return ka_foreign_put(f, row->target, v);
  if (of_value->kind == KA_FOREIGN_NOTHING)
    KA_TRY(ka_key_note(f->r, f->at, KA_KEY_RENAMED, f->key, row->target));
  f->row = of_value;
  return apply_row(f, v);
}

static ka_status apply_row(struct ka_foreign *f, struct ka_yaml *v) {
  const struct ka_foreign_row *row = f->row;
  if (!row->value && row_is_off(f, v)) return ka_foreign_pass(f);
  switch (row->kind) {
  case KA_FOREIGN_SAME:
    return same(f, v);
  case KA_FOREIGN_SPREAD:
    if (strcmp(ka_foreign_text(v), "jinja") == 0) return ka_foreign_pass(f);
    return ka_foreign_set(f, f->spread, &f->cap_spread, row->target, v);
  case KA_FOREIGN_CALL:
    return ka_foreign_call(row->target)(f, v);
  case KA_FOREIGN_NOTHING:
    return ka_foreign_pass(f);
  case KA_FOREIGN_OTHER:
    return ka_foreign_warn(f, row->text);
  case KA_FOREIGN_REFUSE:
    return ka_foreign_refuse(f, row->text);
  }
  return KA_STATUS_OK;
}

static ka_status one_key(struct ka_foreign *f, struct ka_yaml *v) {
  bool native = ka_key_find(&ka_job_table, f->scope, f->key);
  const char *value = v->kind == KA_YAML_SCALAR ? v->text : "";
  if (native && ka_yaml_is_null(v)) value = NULL;
  f->row = native && !value ? NULL : find_row(f->scope, f->key, native ? value : NULL);
  if (native && strcmp(f->key, "type") == 0 && f->scope == KA_SCOPE_DATASET)
    f->row = find_row(f->scope, f->key, "*"); /* null too */
  if (f->row) return apply_row(f, v);
  if (!native && ka_yaml_is_null(v)) return ka_foreign_pass(f);
  return ka_foreign_set(f, f->to, &f->cap_to, f->key, v);
}

ka_status ka_foreign_map(struct ka_foreign *f) {
  struct ka_ctx *ctx = f->ctx;
  for (int64_t i = 0; i < f->from->n; i++) {
    f->at = f->from->keys[i];
    f->key = f->at->text;
    KA_TRY(one_key(f, f->from->values[i]));
  }
  return KA_STATUS_OK;
}

static void drop(struct ka_yaml *map, int64_t i) {
  map->n--;
  for (int64_t k = i; k < map->n; k++) {
    map->keys[k] = map->keys[k + 1];
    map->values[k] = map->values[k + 1];
  }
}

/* Nothing is set aside where test_datasets has its own: both may be said. */
static void settle_validation(struct ka_foreign *f) {
  double size;
  for (int64_t i = f->to->n - 1; i >= 0 && ka_yaml_get(f->to, "test_datasets"); i--)
    if (strcmp(f->to->keys[i]->text, "val_set_size") == 0 &&
        ka_foreign_number(f->to->values[i], &size) && size == 0)
      drop(f->to, i);
}

/* Hugging Face's trainers let the one win where both are given; kappa wants one. */
static ka_status settle(struct ka_foreign *f) {
  static const char *const pairs[][2] = {{"max_steps", "num_epochs"},
                                         {"warmup_steps", "warmup_ratio"},
                                         {"evals_per_epoch", "eval_steps"},
                                         {"saves_per_epoch", "save_steps"}};
  struct ka_ctx *ctx = f->ctx;
  double a;
  settle_validation(f);
  if (f->r->file->n_notes == 0) return KA_STATUS_OK; /* kappa's own job: an error there */
  for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++) {
    struct ka_yaml *win = ka_yaml_get(f->to, pairs[p][0]);
    if (!win || !ka_foreign_number(win, &a)) continue;
    for (int64_t i = 0; i < f->to->n; i++) {
      if (strcmp(f->to->keys[i]->text, pairs[p][a > 0]) != 0) continue;
      if (!ka_yaml_get(f->to, pairs[p][1])) continue;
      f->at = f->to->keys[i];
      f->key = pairs[p][a > 0];
      KA_TRY(ka_foreign_pass(f));
      drop(f->to, i);
    }
  }
  return KA_STATUS_OK;
}

ka_status ka_foreign_translate(struct ka_key_reader *r, struct ka_yaml *root, bool lenient) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_foreign f = {.r = r,
                         .ctx = ctx,
                         .arena = &r->file->arena,
                         .lenient = lenient,
                         .scope = KA_SCOPE_JOB,
                         .from = root,
                         .top = root,
                         .at = root};
  KA_TRY(ka_foreign_new(&f, &f.to, KA_YAML_MAP));
  KA_TRY(ka_foreign_new(&f, &f.spread, KA_YAML_MAP));
  KA_TRY(ka_foreign_map(&f));
  f.row = NULL;
  KA_TRY(ka_foreign_entries(&f));
  KA_TRY(settle(&f));
  *root = *f.to;
  return KA_STATUS_OK;
}

/* --- Markdown ---------------------------------------------------------------- */

static ka_status doc_meaning(struct ka_ctx *ctx, struct ka_str *out,
                             const struct ka_foreign_row *r) {
  switch (r->kind) {
  case KA_FOREIGN_SAME:
    return ka_str_printf(ctx, out, "`%s`", r->target);
  case KA_FOREIGN_SPREAD:
    return *r->text ? ka_str_puts(ctx, out, r->text)
                    : ka_str_printf(ctx, out, "`%s` of every entry of datasets", r->target);
  case KA_FOREIGN_CALL:
    return ka_str_puts(ctx, out, r->text);
  case KA_FOREIGN_NOTHING:
    return KA_STATUS_OK;
  case KA_FOREIGN_OTHER:
    return ka_str_printf(ctx, out, "with a warning: %s", r->text);
  case KA_FOREIGN_REFUSE:
    return ka_str_printf(ctx, out, "refused: %s", r->text);
  }
  return KA_STATUS_OK;
}

ka_status ka_foreign_doc(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out, "| name | in kappa |\n|---|---|\n"));
  for (const struct ka_foreign_row *r = ka_foreign_rows; r->key; r++) {
    if (r->kind == KA_FOREIGN_NOTHING || (r->value && !*r->text)) continue;
    KA_TRY(ka_str_printf(ctx, out, "| `%s%s` | ", r->scope == KA_SCOPE_DATASET ? "datasets[]." : "",
                         r->key));
    KA_TRY(doc_meaning(ctx, out, r));
    KA_TRY(ka_str_puts(ctx, out, " |\n"));
  }
  KA_TRY(ka_str_puts(ctx, out, "\nPassed over, whatever their value: "));
  bool first = true;
  for (const struct ka_foreign_row *r = ka_foreign_rows; r->key; r++) {
    if (r->kind != KA_FOREIGN_NOTHING || r->value) continue;
    KA_TRY(ka_str_printf(ctx, out, "%s`%s%s`", first ? "" : ", ",
                         r->scope == KA_SCOPE_DATASET ? "datasets[]." : "", r->key));
    first = false;
  }
  return ka_str_puts(ctx, out, ".\n");
}
