/* SPDX-License-Identifier: Apache-2.0
 * See docs.h. Types are gathered over all rows first, then values are brought to them. */
#include "engine/eval/docs.h"

#include "engine/data/records.h"

#include <math.h>
#include <string.h>

/* --- types of JSON columns --------------------------------------------------- */

enum kind { NOTHING, BOOL, WHOLE, NUMBER, TEXT, LIST, STRUCT, MIXED };

struct type {
  enum kind kind;
  struct type *item;   /* LIST */
  struct field *first; /* STRUCT */
  size_t n_fields;
};

struct field {
  const char *name;
  struct type type;
  struct field *next;
};

static enum kind kind_of(const json_t *v) {
  switch (json_typeof(v)) {
  case JSON_NULL:
    return NOTHING;
  case JSON_TRUE:
  case JSON_FALSE:
    return BOOL;
  case JSON_INTEGER:
    return WHOLE;
  case JSON_REAL:
    return NUMBER;
  case JSON_STRING:
    return TEXT;
  case JSON_ARRAY:
    return LIST;
  default:
    return STRUCT;
  }
}

static ka_status find_field(struct ka_arena *a, struct type *t, const char *name, bool make,
                            struct field **out) {
  struct ka_ctx *ctx = a->ctx;
  struct field **at = &t->first;
  while (*at && strcmp((*at)->name, name) != 0) at = &(*at)->next;
  if (!*at && make) {
    KA_TRY(KA_NEW(a, at, 1, "columns"));
    KA_TRY(ka_arena_str(a, &(*at)->name, name, strlen(name))); /* rows do not stay */
    t->n_fields++;
  }
  *out = *at;
  return KA_STATUS_OK;
}

static ka_status learn(struct ka_arena *a, struct type *t, const json_t *v);

/* Mappings of one column with different keys have no common type. */
static ka_status learn_struct(struct ka_arena *a, struct type *t, const json_t *v, bool fresh) {
  struct ka_ctx *ctx = a->ctx;
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)(uintptr_t)v, key, value) {
    struct field *f = NULL;
    KA_TRY(find_field(a, t, key, fresh, &f));
    if (f) KA_TRY(learn(a, &f->type, value));
    if (!f) t->kind = MIXED;
  }
  if (json_object_size(v) != t->n_fields) t->kind = MIXED;
  return KA_STATUS_OK;
}

static ka_status learn(struct ka_arena *a, struct type *t, const json_t *v) {
  struct ka_ctx *ctx = a->ctx;
  enum kind kind = kind_of(v);
  bool fresh = t->kind == NOTHING;
  if (kind == NOTHING || t->kind == MIXED) return KA_STATUS_OK;
  if (t->kind == NUMBER && kind == WHOLE) return KA_STATUS_OK;
  if (fresh || (t->kind == WHOLE && kind == NUMBER)) t->kind = kind;
  if (t->kind != kind) t->kind = MIXED;
  if (t->kind == STRUCT) return learn_struct(a, t, v, fresh);
  if (t->kind != LIST) return KA_STATUS_OK;
  if (!t->item) {
    KA_TRY(KA_NEW(a, &t->item, 1, "columns"));
  }
  for (size_t i = 0; i < json_array_size(v); i++) KA_TRY(learn(a, t->item, json_array_get(v, i)));
  return KA_STATUS_OK;
}

/* The value as its type has it: whole numbers of NUMBER columns become reals. New reference. */
static json_t *brought(const struct type *t, json_t *v) {
  if (t->kind == NUMBER && json_is_integer(v)) return json_real((double)json_integer_value(v));
  if (t->kind == LIST && json_is_array(v)) {
    json_t *list = json_array();
    for (size_t i = 0; i < json_array_size(v); i++)
      json_array_append_new(list, brought(t->item, json_array_get(v, i)));
    return list;
  }
  if (t->kind == STRUCT && json_is_object(v)) {
    json_t *object = json_object();
    for (const struct field *f = t->first; f; f = f->next)
      json_object_set_new(object, f->name, brought(&f->type, json_object_get(v, f->name)));
    return object;
  }
  return json_incref(v);
}

static ka_status type_rows(struct ka_arena *a, json_t *rows) {
  struct ka_ctx *ctx = a->ctx;
  struct type all = {.kind = STRUCT};
  size_t i;
  json_t *row, *value;
  const char *key;
  json_array_foreach(rows, i, row) json_object_foreach(row, key, value) {
    struct field *f = NULL;
    KA_TRY(find_field(a, &all, key, true, &f));
    KA_TRY(learn(a, &f->type, value));
  }
  json_array_foreach(rows, i, row) {
    json_t *typed = json_object();
    for (const struct field *f = all.first; f; f = f->next) {
      value = json_object_get(row, f->name);
      json_object_set_new(typed, f->name, value ? brought(&f->type, value) : json_null());
    }
    if (!typed || json_object_size(typed) != all.n_fields)
      return ka_fail(ctx, KA_E_MEMORY, "documents: out of memory");
    json_array_set_new(rows, i, typed);
  }
  return KA_STATUS_OK;
}

/* The typing of docs_read, on rows from elsewhere; in place. */
static ka_status type_json(struct ka_ctx *ctx, json_t *rows) {
  struct ka_arena a;
  ka_arena_init(&a, ctx, "columns");
  ka_status st = type_rows(&a, rows);
  ka_arena_deinit(&a);
  return st;
}

/* --- CSV columns, as pandas reads them --------------------------------------- */

static bool is_absent(const char *text) {
  static const char *const words[] = {"",         "#N/A", "#N/A N/A", "#NA",    "-1.#IND",
                                      "-1.#QNAN", "-NaN", "-nan",     "1.#IND", "1.#QNAN",
                                      "<NA>",     "N/A",  "NA",       "NULL",   "NaN",
                                      "None",     "n/a",  "nan",      "null"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strcmp(text, words[i]) == 0) return true;
  return false;
}

static int truth(const char *text) {
  static const char *const words[2][3] = {{"False", "FALSE", "false"}, {"True", "TRUE", "true"}};
  for (int v = 0; v < 2; v++)
    for (int i = 0; i < 3; i++)
      if (strcmp(text, words[v][i]) == 0) return v;
  return -1;
}

/* Blanks round a number do not count. */
static bool number(const char *text, int64_t *whole, double *real, bool *is_whole) {
  char trimmed[64];
  while (*text == ' ') text++;
  size_t n = strlen(text);
  while (n > 0 && text[n - 1] == ' ') n--;
  if (n == 0 || n >= sizeof trimmed) return false;
  memcpy(trimmed, text, n);
  trimmed[n] = 0;
  *is_whole = ka_parse_i64(trimmed, whole);
  if (*is_whole) *real = (double)*whole;
  return *is_whole || ka_parse_f64(trimmed, real);
}

static enum kind csv_kind(const json_t *rows, const char *key) {
  bool truths = true, wholes = true, numbers = true, absent = false;
  size_t i;
  json_t *row;
  json_array_foreach((json_t *)(uintptr_t)rows, i, row) {
    const char *text = json_string_value(json_object_get(row, key));
    int64_t whole;
    double real;
    bool is_whole = false;
    if (is_absent(text)) {
      absent = true;
      continue;
    }
    truths = truths && truth(text) >= 0;
    numbers = numbers && number(text, &whole, &real, &is_whole);
    wholes = wholes && is_whole;
  }
  return truths ? BOOL : wholes && !absent ? WHOLE : numbers ? NUMBER : TEXT;
}

static json_t *csv_value(enum kind kind, const json_t *v) {
  const char *text = json_string_value(v);
  int64_t whole = 0;
  double real = 0;
  bool is_whole;
  if (is_absent(text)) return json_null();
  if (kind == BOOL) return json_boolean(truth(text));
  if (kind == TEXT || !number(text, &whole, &real, &is_whole)) return json_string(text);
  if (kind == WHOLE) return json_integer(whole);
  return isfinite(real) ? json_real(real) : json_null();
}

static ka_status type_csv(struct ka_ctx *ctx, json_t *rows) {
  const char *key;
  json_t *value, *row, *head = json_incref(json_array_get(rows, 0));
  size_t i;
  ka_status st = KA_STATUS_OK;
  json_object_foreach(head, key, value) {
    enum kind kind = csv_kind(rows, key);
    json_array_foreach(rows, i, row) {
      json_t *typed = csv_value(kind, json_object_get(row, key));
      if (json_object_set_new(row, key, typed) != 0)
        st = ka_fail(ctx, KA_E_MEMORY, "documents: out of memory");
    }
  }
  json_decref(head);
  return st;
}

/* --- reading ----------------------------------------------------------------- */

static ka_status add_row(struct ka_ctx *ctx, json_t *rows, const struct ka_data_record *row) {
  json_t *v = NULL;
  ka_status st = ka_data_record_parse(ctx, row, &v, NULL);
  if (st.code == KA_E_INPUT) {
    char why[512];
    snprintf(why, sizeof why, "%.500s", ctx->error.message);
    ka_error_clear(ctx);
    json_decref(v);
    return ka_fail(ctx, KA_E_INPUT, "%s:%lld: %s", ka_data_record_path(row), (long long)row->line,
                   why);
  }
  if (ka_ok(st) && json_array_append(rows, v) != 0)
    st = ka_fail(ctx, KA_E_MEMORY, "documents: out of memory");
  json_decref(v);
  return st;
}

static ka_status read_rows(struct ka_data_records *r, json_t *out) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_data_record rows[KA_RECORDS_BATCH];
  for (int n = 1; n > 0;) {
    KA_TRY(ka_check_interrupted(ctx, "evaluation"));
    KA_TRY(ka_data_records_next(r, rows, &n));
    for (int i = 0; i < n; i++) KA_TRY(add_row(ctx, out, &rows[i]));
  }
  return KA_STATUS_OK;
}

ka_status ka_eval_docs_read(struct ka_ctx *ctx, const struct ka_key_texts *files, bool csv,
                            json_t **out) {
  struct ka_arena arena;
  struct ka_data_files found = {0};
  struct ka_data_records rows = {0};
  ka_status st = KA_STATUS_OK;
  ka_arena_init(&arena, ctx, "data files");
  *out = json_array();
  if (!*out) st = ka_fail(ctx, KA_E_MEMORY, "documents: out of memory");
  if (ka_ok(st)) st = ka_data_files(&arena, files, NULL, &found);
  if (ka_ok(st))
    st = ka_data_records_init(&rows, ctx, &found, csv ? "csv" : "json", "train", "data_files");
  if (ka_ok(st)) st = read_rows(&rows, *out);
  ka_data_records_deinit(&rows);
  ka_arena_deinit(&arena);
  if (ka_ok(st)) st = csv ? type_csv(ctx, *out) : type_json(ctx, *out);
  if (!ka_ok(st)) {
    json_decref(*out);
    *out = NULL;
  }
  return st;
}
