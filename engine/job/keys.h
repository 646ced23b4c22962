/* SPDX-License-Identifier: Apache-2.0
 *
 * Keys of YAML files as rows of a table: from one table come the struct, the parser, its errors and
 * the documentation. job.def and engine/eval/task.def are such tables.
 *
 * All problems of a file are collected, each with file:line:column, and reported as one message. */
#ifndef KAPPA_ENGINE_JOB_KEYS_H
#define KAPPA_ENGINE_JOB_KEYS_H

#include "base/file.h"
#include "base/index.h"
#include "base/json.h"

struct ka_key_texts {
  const char **items;
  int64_t n;
};

struct ka_yaml;

enum ka_key_kind {
  KA_KEY_BOOL,
  KA_KEY_INT,
  KA_KEY_NUM,
  KA_KEY_COUNT,
  KA_KEY_TEXT,
  KA_KEY_PATH,
  KA_KEY_CHOICE,
  KA_KEY_WORD,
  KA_KEY_OBJECT,
  KA_KEY_ANY, /* whatever stands there, a struct ka_yaml * */
};

/* What a value means to a run that is resumed; see job.def. */
enum ka_key_resume {
  KA_RESUME_BELOW,
  KA_RESUME_SAME,
  KA_RESUME_DATA,
  KA_RESUME_WARN,
  KA_RESUME_FREE
};

struct ka_key {
  int scope;
  enum ka_key_kind kind; /* of the value, or of an entry of the list */
  bool list;
  bool must_exist, regex; /* PATH that is read; TEXT that is a pattern */
  int child;              /* OBJECT: its scope */
  const char *name, *dflt;
  double least, most;
  const char *choices, *unit, *doc;
  size_t offset; /* in the struct of its scope */
  enum ka_key_resume resume;
};

/* The type words of a table: C type of the field, and kind, list, must_exist, regex, child. COUNT,
 * INT: "" is 0; NUM: 0; TEXT, PATH: NULL; CHOICE: one of the row's words; WORD: its number in the
 * row, which is the enum's value; ANY: NULL. */
#define KA_KEY_C_BOOL bool
#define KA_KEY_C_INT int64_t
#define KA_KEY_C_NUM double
#define KA_KEY_C_COUNT int64_t
#define KA_KEY_C_TEXT const char *
#define KA_KEY_C_PATH const char *
#define KA_KEY_C_NEWPATH const char *
#define KA_KEY_C_CHOICE const char *
#define KA_KEY_C_WORD int
#define KA_KEY_C_TEXTS struct ka_key_texts
#define KA_KEY_C_PATHS struct ka_key_texts
#define KA_KEY_C_REGEXES struct ka_key_texts
#define KA_KEY_C_CHOICES struct ka_key_texts
#define KA_KEY_C_ANY const struct ka_yaml *
#define KA_KEY_T_BOOL KA_KEY_BOOL, false, false, false, 0
#define KA_KEY_T_INT KA_KEY_INT, false, false, false, 0
#define KA_KEY_T_NUM KA_KEY_NUM, false, false, false, 0
#define KA_KEY_T_COUNT KA_KEY_COUNT, false, false, false, 0
#define KA_KEY_T_TEXT KA_KEY_TEXT, false, false, false, 0
#define KA_KEY_T_PATH KA_KEY_PATH, false, true, false, 0
#define KA_KEY_T_NEWPATH KA_KEY_PATH, false, false, false, 0
#define KA_KEY_T_CHOICE KA_KEY_CHOICE, false, false, false, 0
#define KA_KEY_T_WORD KA_KEY_WORD, false, false, false, 0
#define KA_KEY_T_TEXTS KA_KEY_TEXT, true, false, false, 0
#define KA_KEY_T_PATHS KA_KEY_PATH, true, true, false, 0
#define KA_KEY_T_REGEXES KA_KEY_TEXT, true, false, true, 0
#define KA_KEY_T_CHOICES KA_KEY_CHOICE, true, false, false, 0
#define KA_KEY_T_ANY KA_KEY_ANY, false, false, false, 0

struct ka_key_rule { /* a row of ONE_OF or ALIAS */
  int scope;
  const char *key, *advice;
};

struct ka_key_scope {
  const char *name; /* "job", "selection" */
  size_t size;      /* of its struct */
};

/* Rows end with a NULL name or key. Scope 0 is the top of the file. */
struct ka_key_table {
  const char *what; /* "job" */
  const struct ka_key *keys;
  const struct ka_key_rule *one_of, *aliases;
  const struct ka_key_scope *scopes;
};

const struct ka_key *ka_key_find(const struct ka_key_table *t, int scope, const char *name);
/* Is `name` one of the words of a space-separated list? */
bool ka_key_in_words(const char *words, const char *name);

/* Something for WORDs alone: their enum, their texts. */
#define KA_KEY_IF_WORD_BOOL(...)
#define KA_KEY_IF_WORD_INT(...)
#define KA_KEY_IF_WORD_NUM(...)
#define KA_KEY_IF_WORD_COUNT(...)
#define KA_KEY_IF_WORD_TEXT(...)
#define KA_KEY_IF_WORD_PATH(...)
#define KA_KEY_IF_WORD_NEWPATH(...)
#define KA_KEY_IF_WORD_CHOICE(...)
#define KA_KEY_IF_WORD_TEXTS(...)
#define KA_KEY_IF_WORD_PATHS(...)
#define KA_KEY_IF_WORD_REGEXES(...)
#define KA_KEY_IF_WORD_CHOICES(...)
#define KA_KEY_IF_WORD_WORD(...) __VA_ARGS__

/* Word number `value` of a WORD, not NUL-terminated; NULL behind the last one. */
const char *ka_key_word(const struct ka_key *k, int value, size_t *n);

/* The keys of a scope with their values, defaults included, in the table's order; its keys must not
 * be of type ANY. A new reference; NULL: no memory (or a text that is not UTF-8). */
json_t *ka_key_json(const struct ka_key_table *t, int scope, const void *object);

/* One key's value; not of an OBJECT or ANY. */
json_t *ka_key_value_json(const struct ka_key_table *t, const struct ka_key *k, const void *field);

/* One Markdown table of a scope's keys, appended to out. */
ka_status ka_key_doc(struct ka_ctx *ctx, struct ka_str *out, const struct ka_key_table *t,
                     int scope);
/* Of its aliases: names from elsewhere and what to write here. */
ka_status ka_key_doc_aliases(struct ka_ctx *ctx, struct ka_str *out, const struct ka_key_table *t);

enum ka_key_note_kind { KA_KEY_RENAMED, KA_KEY_PASSED, KA_KEY_OTHERWISE, KA_KEY_REFUSED };

/* What was read from one file: its memory, what was wrong, which keys were given where. */
struct ka_key_file {
  const char *path;
  struct ka_arena arena;
  struct ka_key_texts problems; /* "job.yaml:3:5: unknown key ...", in the order of the file */
  int64_t cap_problems;
  struct ka_key_place {
    const char *key;   /* "selection.count", "datasets.0.path" */
    const char *place; /* "job.yaml:3:5", "command line"; NULL: forgotten again */
  } * places;          /* of the keys that were given */
  int64_t n_places, cap_places;
  struct ka_index place_index; /* of their keys */
  struct ka_key_note {
    enum ka_key_note_kind kind;
    const char *key, *place;
    const char *text; /* RENAMED: the key that it is here; OTHERWISE, REFUSED: what is different */
  } * notes;          /* on keys of other trainers, see foreign.h */
  int64_t n_notes, cap_notes;
};

ka_status ka_key_file_open(struct ka_ctx *ctx, struct ka_key_file *f, const char *path);
void ka_key_file_close(struct ka_key_file *f);
/* All problems as one KA_E_INPUT, as many as fit into the message; OK when there are none. */
ka_status ka_key_report(struct ka_ctx *ctx, const struct ka_key_file *f, const char *what);
/* Where a key was given: "job.yaml:3:5", "command line"; the file's path for one that was not. */
const char *ka_key_place(const struct ka_key_file *f, const char *key);
/* Notes that a key was given there; both texts must outlive the file. */
ka_status ka_key_place_set(struct ka_ctx *ctx, struct ka_key_file *f, const char *key,
                           const char *place);
/* As if the key had not been given. */
void ka_key_forget(struct ka_key_file *f, const char *path);
bool ka_key_given(const struct ka_key_file *f, const char *key);

#endif
