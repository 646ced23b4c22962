/* SPDX-License-Identifier: Apache-2.0
 * Looking things up in tables of keys, what was read from a file, and Markdown. */
#include "engine/job/keys.h"

#include <stdio.h>
#include <string.h>

const struct ka_key *ka_key_find(const struct ka_key_table *t, int scope, const char *name) {
  for (const struct ka_key *k = t->keys; k->name; k++)
    if (k->scope == scope && strcmp(k->name, name) == 0) return k;
  return NULL;
}

bool ka_key_in_words(const char *words, const char *name) {
  size_t n = strlen(name);
  for (const char *p = words; *p;) {
    size_t len = strcspn(p, " ");
    if (len == n && memcmp(p, name, n) == 0) return true;
    p += len;
    p += strspn(p, " ");
  }
  return false;
}

const char *ka_key_word(const struct ka_key *k, int value, size_t *n) {
  for (const char *p = k->choices; *p; p += *n + (p[*n] == '|')) {
    *n = strcspn(p, "|");
    if (!memchr(p, '=', *n) && value-- == 0) return p;
  }
  return NULL;
}

/* --- Markdown ---------------------------------------------------------------- */

static const char *kind_text(const struct ka_key *k) {
  static const char *const one[] = {
      [KA_KEY_BOOL] = "true or false", [KA_KEY_INT] = "integer", [KA_KEY_NUM] = "number",
      [KA_KEY_COUNT] = "count (50M)",  [KA_KEY_TEXT] = "text",   [KA_KEY_PATH] = "path",
      [KA_KEY_CHOICE] = "word",        [KA_KEY_WORD] = "word",   [KA_KEY_OBJECT] = "keys below",
      [KA_KEY_ANY] = "several kinds"};
  static const char *const many[] = {[KA_KEY_TEXT] = "text, or a list",
                                     [KA_KEY_PATH] = "path, or a list",
                                     [KA_KEY_CHOICE] = "word, or a list",
                                     [KA_KEY_OBJECT] = "list of keys below"};
  if (k->regex) return "pattern, or a list";
  return k->list ? many[k->kind] : one[k->kind];
}

/* The words of a choice, joined by `between`. */
static ka_status append_choices(struct ka_ctx *ctx, struct ka_str *out, const char *choices,
                                const char *between) {
  bool first = true;
  for (const char *p = choices; *p;) {
    size_t n = strcspn(p, "|");
    if (!memchr(p, '=', n)) {
      if (!first) KA_TRY(ka_str_puts(ctx, out, between));
      KA_TRY(ka_str_append(ctx, out, p, n));
      first = false;
    }
    p += n + (p[n] == '|');
  }
  return KA_STATUS_OK;
}

static ka_status append_range(struct ka_ctx *ctx, struct ka_str *out, const struct ka_key *k) {
  if (k->kind == KA_KEY_CHOICE || k->kind == KA_KEY_WORD || *k->choices) {
    KA_TRY(ka_str_puts(ctx, out, k->kind == KA_KEY_PATH ? ", or " : ": "));
    return append_choices(ctx, out, k->choices, ", ");
  }
  if (k->kind != KA_KEY_INT && k->kind != KA_KEY_NUM && k->kind != KA_KEY_COUNT)
    return KA_STATUS_OK;
  if (k->most < 1e9)
    KA_TRY(ka_str_printf(ctx, out, ", %.15g to %.15g", k->least, k->most));
  else if (k->least > 0)
    KA_TRY(ka_str_printf(ctx, out, ", from %.15g", k->least));
  return *k->unit ? ka_str_printf(ctx, out, " (%s)", k->unit) : KA_STATUS_OK;
}

/* Blanks at the start, and line ends, are written out. */
static ka_status append_default(struct ka_ctx *ctx, struct ka_str *out, const char *text) {
  bool quote = *text == ' ' || strchr(text, '\n');
  KA_TRY(ka_str_printf(ctx, out, " | `%s", quote ? "\"" : ""));
  for (; *text; text++)
    KA_TRY(*text == '\n' ? ka_str_puts(ctx, out, "\\n") : ka_str_append(ctx, out, text, 1));
  return ka_str_puts(ctx, out, quote ? "\"`" : "`");
}

static ka_status append_key(struct ka_ctx *ctx, struct ka_str *out, const struct ka_key *k) {
  KA_TRY(ka_str_printf(ctx, out, "| `%s` | %s", k->name, kind_text(k)));
  KA_TRY(append_range(ctx, out, k));
  if (!k->dflt && k->kind != KA_KEY_OBJECT)
    KA_TRY(ka_str_puts(ctx, out, " | required"));
  else if (k->dflt && *k->dflt)
    KA_TRY(append_default(ctx, out, k->dflt));
  else
    KA_TRY(ka_str_puts(ctx, out, !k->dflt ? " | required" : " | "));
  return ka_str_printf(ctx, out, " | %s |\n", k->doc);
}

ka_status ka_key_doc(struct ka_ctx *ctx, struct ka_str *out, const struct ka_key_table *t,
                     int scope) {
  KA_TRY(ka_str_puts(ctx, out, "| key | value | default | meaning |\n|---|---|---|---|\n"));
  for (const struct ka_key *k = t->keys; k->name; k++)
    if (k->scope == scope) KA_TRY(append_key(ctx, out, k));
  for (const struct ka_key_rule *r = t->one_of; r->key; r++)
    if (r->scope == scope) KA_TRY(ka_str_printf(ctx, out, "\nAt most one of: %s.\n", r->key));
  return KA_STATUS_OK;
}

ka_status ka_key_doc_aliases(struct ka_ctx *ctx, struct ka_str *out, const struct ka_key_table *t) {
  KA_TRY(ka_str_puts(ctx, out, "| name | in kappa |\n|---|---|\n"));
  for (const struct ka_key_rule *r = t->aliases; r->key; r++)
    KA_TRY(ka_str_printf(ctx, out, "| `%s` | %s |\n", r->key, r->advice));
  return KA_STATUS_OK;
}

/* --- what was read ----------------------------------------------------------- */

ka_status ka_key_file_open(struct ka_ctx *ctx, struct ka_key_file *f, const char *path) {
  *f = (struct ka_key_file){0};
  ka_arena_init(&f->arena, ctx, "keys of a file");
  return ka_arena_str(&f->arena, &f->path, path, strlen(path));
}

void ka_key_file_close(struct ka_key_file *f) {
  ka_free(f->problems.items);
  ka_free(f->places);
  ka_index_deinit(&f->place_index);
  ka_free(f->notes);
  ka_arena_deinit(&f->arena);
  *f = (struct ka_key_file){0};
}

ka_status ka_key_report(struct ka_ctx *ctx, const struct ka_key_file *f, const char *what) {
  char text[KA_ERROR_MAX - 64];
  size_t at = 0;
  int64_t i = 0, n = f->problems.n;
  if (n == 0) return KA_STATUS_OK;
  if (n > 1)
    at = (size_t)snprintf(text, sizeof text, "%lld problems in the %s", (long long)n, what);
  for (; i < n; i++) {
    const char *line = f->problems.items[i];
    if (at + strlen(line) + 32 > sizeof text && i > 0) break;
    at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", n > 1 ? "\n  " : "", line);
    if (at >= sizeof text) at = sizeof text - 1;
  }
  if (i < n) snprintf(text + at, sizeof text - at, "\n  and %lld more", (long long)(n - i));
  return ka_fail(ctx, KA_E_INPUT, "%s", text);
}

static const char *place_key(const void *places, int64_t i) {
  return ((const struct ka_key_place *)places)[i].key;
}

/* NULL: the key was not given. */
static struct ka_key_place *find_place(const struct ka_key_file *f, const char *key) {
  int64_t at = ka_index_find(&f->place_index, key, place_key, f->places);
  return at >= 0 && f->places[at].place ? &f->places[at] : NULL;
}

ka_status ka_key_place_set(struct ka_ctx *ctx, struct ka_key_file *f, const char *key,
                           const char *place) {
  void *grown = f->places;
  int64_t at = ka_index_find(&f->place_index, key, place_key, f->places);
  if (at >= 0) {
    f->places[at].place = place;
    return KA_STATUS_OK;
  }
  KA_TRY(
      ka_grow(ctx, &grown, &f->cap_places, f->n_places + 1, sizeof *f->places, "places of keys"));
  f->places = grown;
  f->places[f->n_places] = (struct ka_key_place){key, place};
  return ka_index_add(ctx, &f->place_index, f->n_places++, place_key, f->places);
}

void ka_key_forget(struct ka_key_file *f, const char *path) {
  struct ka_key_place *p = find_place(f, path);
  if (p) p->place = NULL;
}

const char *ka_key_place(const struct ka_key_file *f, const char *key) {
  const struct ka_key_place *p = find_place(f, key);
  return p ? p->place : f->path;
}

bool ka_key_given(const struct ka_key_file *f, const char *key) {
  return find_place(f, key) != NULL;
}
