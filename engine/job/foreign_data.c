/* SPDX-License-Identifier: Apache-2.0
 * Data of other trainers' jobs as entries of datasets: names of dataset_info.json, components,
 * mixtures, types that are words or mappings. A type that is not said is read off the first row. */
#include "engine/job/foreign_parts.h"
#include "engine/job/job_table.h"

#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PEEK_BYTES = 1 << 18 };

/* --- the first row ----------------------------------------------------------- */

/* The first object of a file of rows: an array of objects, or one a line. NULL: none is to be
 * seen. */
static json_t *first_row(const char *path) {
  FILE *in = ka_path_is_dir(path) ? NULL : fopen(path, "rb");
  char *text = in ? malloc(PEEK_BYTES) : NULL;
  json_t *row = NULL;
  if (text) {
    size_t n = fread(text, 1, PEEK_BYTES, in);
    const char *open = memchr(text, '{', n);
    if (open)
      row = json_loadb(open, n - (size_t)(open - text),
                       JSON_DISABLE_EOF_CHECK | JSON_DECODE_INT_AS_REAL, NULL);
  }
  free(text);
  if (in) fclose(in);
  return row;
}

/* The file of entry `index`: what a word of the command line gives, else what the job does. */
static ka_status peek(struct ka_foreign *f, json_t **row) {
  struct ka_ctx *ctx = f->ctx;
  const char *path = ka_foreign_get(f->to, "path"), *full;
  char word[64];
  int n = snprintf(word, sizeof word, "datasets.%lld.path=", (long long)f->index);
  *row = NULL;
  for (int64_t i = 0; i < f->r->n_overrides; i++)
    if (strncmp(f->r->overrides[i], word, (size_t)n) == 0) {
      *row = first_row(f->r->overrides[i] + n);
      return KA_STATUS_OK;
    }
  if (!path || !f->r->check_paths) return KA_STATUS_OK;
  KA_TRY(ka_path_join(f->arena, &full, f->r->dir, path));
  *row = first_row(full);
  return KA_STATUS_OK;
}

/* A key of the entry, unless it is there. */
static ka_status put_new(struct ka_foreign *f, const char *key, const char *text) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_yaml *v;
  if (ka_yaml_get(f->to, key)) return KA_STATUS_OK;
  KA_TRY(ka_foreign_scalar(f, &v, "%s", text));
  v->plain = false;
  return ka_foreign_set(f, f->to, &f->cap_to, key, v);
}

static ka_status put_mapping(struct ka_foreign *f, const char *role, const char *content) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_yaml *map = ka_yaml_get(f->to, "message_property_mappings"), *v;
  int64_t cap = 0;
  if (!map) {
    KA_TRY(ka_foreign_new(f, &map, KA_YAML_MAP));
    KA_TRY(ka_foreign_set(f, f->to, &f->cap_to, "message_property_mappings", map));
  } else {
    cap = map->n;
  }
  if (role && !ka_yaml_get(map, "role")) {
    KA_TRY(ka_foreign_scalar(f, &v, "%s", role));
    KA_TRY(ka_foreign_set(f, map, &cap, "role", v));
  }
  if (content && !ka_yaml_get(map, "content")) {
    KA_TRY(ka_foreign_scalar(f, &v, "%s", content));
    KA_TRY(ka_foreign_set(f, map, &cap, "content", v));
  }
  return KA_STATUS_OK;
}

static ka_status put_sharegpt(struct ka_foreign *f) {
  struct ka_ctx *ctx = f->ctx;
  KA_TRY(put_new(f, "type", "chat_template"));
  KA_TRY(put_new(f, "field_messages", "conversations"));
  return put_mapping(f, "from", "value");
}

/* Names of an instruction and its answer, where the row has them under others than alpaca's. */
static ka_status guess_alpaca(struct ka_foreign *f, const json_t *row) {
  static const char *const asked[] = {"instruction", "question", "prompt", "input", "query", NULL};
  static const char *const given[] = {"output", "answer", "completion", "response", NULL};
  struct ka_ctx *ctx = f->ctx;
  for (int i = 0; asked[i]; i++)
    if (json_object_get(row, asked[i])) {
      if (i > 0) KA_TRY(put_new(f, "field_instruction", asked[i]));
      break;
    }
  for (int i = 0; given[i]; i++)
    if (json_object_get(row, given[i])) {
      if (i > 0) KA_TRY(put_new(f, "field_output", given[i]));
      break;
    }
  return put_new(f, "type", "alpaca");
}

static const char untyped[] = "datasets[].type";

/* What the rows are, by the names of their keys. */
static ka_status guess(struct ka_foreign *f) {
  struct ka_ctx *ctx = f->ctx;
  json_t *row = NULL;
  ka_status st = KA_STATUS_OK;
  KA_TRY(peek(f, &row));
  for (int64_t i = 0; i < f->r->file->n_notes && !row; i++)
    if (strcmp(f->r->file->notes[i].key, untyped) == 0) return KA_STATUS_OK; /* said */
  if (!row && f->lenient)
    return ka_key_note(f->r, f->at, KA_KEY_REFUSED, untyped,
                       "the data is not there to look at; completion unless it is said: "
                       "chat_template, alpaca, ...");
  const json_t *talk = json_object_get(row, "conversations");
  const char *pt = ka_foreign_get(f->top, "stage");
  if (pt && strcmp(pt, "pt") == 0 && row) {
    st = put_new(f, "type", "completion");
    if (ka_ok(st) && !json_object_get(row, "text"))
      st = put_new(f, "field", json_object_get(row, "content") ? "content" : "instruction");
  } else if (json_is_array(talk) && json_object_get(json_array_get(talk, 0), "from")) {
    st = put_sharegpt(f);
  } else if (json_is_array(talk)) {
    st = put_new(f, "field_messages", "conversations");
    if (ka_ok(st)) st = put_new(f, "type", "chat_template");
  } else if (json_object_get(row, "messages")) {
    st = put_new(f, "type", "chat_template");
  } else if (json_object_get(row, "input_ids")) {
    st = put_new(f, "type", "tokenized");
  } else if (json_object_get(row, "output") || json_object_get(row, "answer") ||
             json_object_get(row, "completion") || json_object_get(row, "response")) {
    st = guess_alpaca(f, row);
  } else if (!json_object_get(row, "text") && json_object_get(row, "content")) {
    st = put_new(f, "field", "content");
  }
  json_decref(row);
  return st;
}

/* --- type: ------------------------------------------------------------------- */

static bool fits(const char *text, const char *const *patterns) {
  for (; *patterns; patterns++)
    if (fnmatch(*patterns, text, 0) == 0) return true;
  return false;
}

static ka_status type_mapping(struct ka_foreign *f, struct ka_yaml *v) {
  static const char *const same[] = {
      "field_instruction", "field_input", "field_output",    "field_system",
      "system_prompt",     "format",      "no_input_format", NULL};
  struct ka_ctx *ctx = f->ctx;
  const struct ka_yaml *at = f->at;
  KA_TRY(ka_foreign_put_text(f, "type", "alpaca"));
  for (int64_t i = 0; i < v->n; i++) {
    f->at = v->keys[i];
    if (fits(v->keys[i]->text, same)) {
      if (!ka_yaml_is_null(v->values[i])) KA_TRY(ka_foreign_put(f, v->keys[i]->text, v->values[i]));
    } else {
      f->key = v->keys[i]->text;
      KA_TRY(ka_foreign_pass(f));
    }
  }
  f->at = at;
  return KA_STATUS_OK;
}

static ka_status type(struct ka_foreign *f, struct ka_yaml *v) {
  static const char *const sharegpt[] = {"sharegpt*", "chat_template.argilla*", NULL},
                           *const chat[] = {"chat_template.*", NULL},
                           *const text[] = {"completion:*", "pretrain", "completion.*", NULL},
                           *const alpaca[] = {"alpaca[:_.]*",   "gpteacher*",   "jeopardy*",
                                              "oasst*",         "context_qa*",  "explainchoice*",
                                              "concisechoice*", "reflection*",  "summarizetldr*",
                                              "creative_acr*",  "metharme*",    "orcamini*",
                                              "llama2_chat*",   "user_defined", NULL};
  struct ka_ctx *ctx = f->ctx;
  const char *word = ka_foreign_text(v);
  if (v->kind == KA_YAML_MAP) return type_mapping(f, v);
  if (ka_foreign_is_off(v)) return ka_foreign_pass(f); /* guessed when the entry is read */
  if (fits(word, sharegpt)) {
    KA_TRY(ka_key_note(f->r, f->at, KA_KEY_RENAMED, word, "type: chat_template"));
    return put_sharegpt(f);
  }
  if (fits(word, chat)) return ka_foreign_put_text(f, "type", "chat_template");
  if (fits(word, text)) return ka_foreign_put_text(f, "type", "completion");
  if (!fits(word, alpaca)) return ka_foreign_put(f, "type", v);
  KA_TRY(ka_foreign_warn(f, "the wording of the prompt is alpaca's usual one; see format"));
  return KA_STATUS_OK; /* fields and type by the first row */
}

/* --- templates, splits ------------------------------------------------------- */

static bool is_choice(const char *choices, const char *word) {
  size_t n = strlen(word);
  for (const char *p = choices; *p;) {
    size_t len = strcspn(p, "|"), head = strcspn(p, "|=");
    if (head == n && memcmp(p, word, n) == 0) return true;
    p += len + (p[len] == '|');
  }
  return false;
}

static ka_status template(struct ka_foreign *f, struct ka_yaml *v) {
  static const char *const own[] = {"tokenizer_default*", "jinja", "default", NULL};
  const char *text = ka_foreign_text(v);
  const struct ka_key *key = ka_key_find(&ka_job_table, KA_SCOPE_DATASET, "chat_template");
  if (ka_foreign_is_off(v) || fits(text, own)) return ka_foreign_pass(f);
  if (is_choice(key->choices, text) || strpbrk(text, "{/."))
    return ka_foreign_put(f, "chat_template", v);
  return ka_foreign_warn(f, "no built-in template has this name; the model's own is used");
}

static ka_status message_field(struct ka_foreign *f, struct ka_yaml *v) {
  bool role = strcmp(f->key, "message_field_role") == 0;
  return put_mapping(f, role ? ka_foreign_text(v) : NULL, role ? NULL : ka_foreign_text(v));
}

static ka_status entry_max(struct ka_foreign *f, struct ka_yaml *v) {
  double n;
  const char *split = ka_foreign_get(f->from, "split");
  if (!ka_foreign_number(v, &n) || n < 1 || (split && strchr(split, '[')))
    return ka_foreign_refuse(f, "the key is split, as in \"train[:1000]\"");
  return ka_foreign_put_text(f, "split", "train[:%.0f]", n);
}

/* --- datasets by other names -------------------------------------------------- */

static ka_status new_list(struct ka_foreign *f, struct ka_yaml **list, int64_t n) {
  struct ka_ctx *ctx = f->ctx;
  KA_TRY(ka_foreign_new(f, list, KA_YAML_LIST));
  return KA_NEW(f->arena, &(*list)->items, n, "foreign keys");
}

static ka_status add_text(struct ka_foreign *f, struct ka_yaml *map, int64_t *cap, const char *key,
                          const char *text) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_yaml *v;
  if (!text) return KA_STATUS_OK;
  KA_TRY(ka_foreign_scalar(f, &v, "%s", text));
  v->plain = false;
  return ka_foreign_set(f, map, cap, key, v);
}

static ka_status new_entry(struct ka_foreign *f, struct ka_yaml *list, int64_t *cap,
                           struct ka_yaml **entry, const char *path) {
  struct ka_ctx *ctx = f->ctx;
  *cap = 0;
  KA_TRY(ka_foreign_new(f, entry, KA_YAML_MAP));
  list->items[list->n++] = *entry;
  return add_text(f, *entry, cap, "path", path);
}

/* What dataset_info.json says about a name. */
static ka_status info_entry(struct ka_foreign *f, struct ka_yaml *entry, int64_t *cap,
                            const json_t *info) {
  static const char *const alpaca[][2] = {{"prompt", "field_instruction"},
                                          {"query", "field_input"},
                                          {"response", "field_output"},
                                          {"system", "field_system"}};
  struct ka_ctx *ctx = f->ctx;
  const char *form = json_string_value(json_object_get(info, "formatting"));
  const char *pt = ka_foreign_get(f->top, "stage");
  const json_t *columns = json_object_get(info, "columns"), *tags = json_object_get(info, "tags");
  const char *role = json_string_value(json_object_get(tags, "role_tag")),
             *content = json_string_value(json_object_get(tags, "content_tag")),
             *messages = json_string_value(json_object_get(columns, "messages")),
             *prompt = json_string_value(json_object_get(columns, "prompt"));
  if (json_is_true(json_object_get(info, "ranking")))
    return ka_foreign_refuse(f, "kappa fine-tunes on texts and answers, not on preferences");
  if (pt && strcmp(pt, "pt") == 0) {
    KA_TRY(add_text(f, entry, cap, "type", "completion"));
    return add_text(f, entry, cap, "field", prompt ? prompt : "instruction");
  }
  if (!form || strcmp(form, "alpaca") == 0) {
    KA_TRY(add_text(f, entry, cap, "type", "alpaca"));
    for (size_t i = 0; i < sizeof alpaca / sizeof *alpaca; i++)
      KA_TRY(add_text(f, entry, cap, alpaca[i][1],
                      json_string_value(json_object_get(columns, alpaca[i][0]))));
    return KA_STATUS_OK;
  }
  KA_TRY(add_text(f, entry, cap, "type", "chat_template"));
  KA_TRY(add_text(f, entry, cap, "field_messages", messages ? messages : "conversations"));
  KA_TRY(add_text(f, entry, cap, "message_field_role", role ? role : "from"));
  return add_text(f, entry, cap, "message_field_content", content ? content : "value");
}

/* dataset_info.json beside the job, or as LLaMA-Factory finds it from where it runs; with the
 * directory that its files stand in. */
static ka_status load_info(struct ka_foreign *f, json_t **info, const char **dir) {
  struct ka_ctx *ctx = f->ctx;
  const char *name = ka_foreign_get(f->top, "dataset_dir"), *path;
  char full[PATH_MAX];
  *info = NULL;
  if (!f->r->check_paths) return KA_STATUS_OK;
  if (!name) name = "data";
  for (int i = 0; i < 2 && !*info; i++) {
    KA_TRY(ka_path_join(f->arena, dir, i == 0 ? f->r->dir : "", name));
    KA_TRY(ka_path_join(f->arena, &path, *dir, "dataset_info.json"));
    *info = json_load_file(path, 0, NULL);
  }
  if (*info && realpath(*dir, full)) KA_TRY(ka_arena_str(f->arena, dir, full, strlen(full)));
  return KA_STATUS_OK;
}

static ka_status named_entry(struct ka_foreign *f, struct ka_yaml *list, const char *name,
                             const json_t *infos, const char *dir) {
  struct ka_ctx *ctx = f->ctx;
  const json_t *info = json_object_get(infos, name);
  const char *file = json_string_value(json_object_get(info, "file_name")), *path = name;
  struct ka_yaml *entry;
  int64_t cap;
  if (!file) file = json_string_value(json_object_get(info, "folder"));
  if (file) KA_TRY(ka_path_join(f->arena, &path, dir, file));
  if (info && !file) path = json_string_value(json_object_get(info, "hf_hub_url"));
  KA_TRY(new_entry(f, list, &cap, &entry, path ? path : name));
  return info ? info_entry(f, entry, &cap, info) : KA_STATUS_OK;
}

/* torchtune: {_component_: ...alpaca_cleaned_dataset, source: ..., split: ...} */
static ka_status component_entry(struct ka_foreign *f, struct ka_yaml *list, struct ka_yaml *v) {
  static const char *const from_hub[][2] = {{"*alpaca_cleaned*", "yahma/alpaca-cleaned"},
                                            {"*alpaca*", "tatsu-lab/alpaca"},
                                            {"*slimorca*", "Open-Orca/SlimOrca-Dedup"},
                                            {"*grammar*", "liweili/c4_200m"},
                                            {"*samsum*", "Samsung/samsum"},
                                            {"*cnn*", "ccdv/cnn_dailymail"},
                                            {"*wikitext*", "wikitext"}};
  struct ka_ctx *ctx = f->ctx;
  const char *what = ka_foreign_get(v, "_component_"), *path = ka_foreign_get(v, "data_files");
  const char *split = ka_foreign_get(v, "split"), *slice = split ? strchr(split, '[') : NULL;
  const char *column = ka_foreign_get(v, "column");
  struct ka_yaml *entry, *packed = ka_yaml_get(v, "packed");
  int64_t cap;
  if (!path) path = ka_foreign_get(v, "source");
  if (!path) path = ka_foreign_get(v, "path");
  for (size_t i = 0; what && !path && i < sizeof from_hub / sizeof *from_hub; i++)
    if (fnmatch(from_hub[i][0], what, 0) == 0) path = from_hub[i][1];
  KA_TRY(new_entry(f, list, &cap, &entry, path ? path : what));
  if (slice) {
    struct ka_yaml *text;
    KA_TRY(ka_foreign_scalar(f, &text, "train%s", slice));
    KA_TRY(ka_foreign_set(f, entry, &cap, "split", text));
  }
  if (what && fnmatch("*alpaca*", what, 0) == 0) KA_TRY(add_text(f, entry, &cap, "type", "alpaca"));
  if (what && (fnmatch("*text_completion*", what, 0) == 0 || fnmatch("*wikitext*", what, 0) == 0))
    KA_TRY(add_text(f, entry, &cap, "type", "completion"));
  KA_TRY(add_text(f, entry, &cap, "field", column));
  if (!packed || ka_yaml_is_null(packed) || ka_yaml_get(f->to, "sample_packing"))
    return KA_STATUS_OK;
  return ka_foreign_put(f, "sample_packing", packed);
}

static ka_status named_list(struct ka_foreign *f, struct ka_yaml *v, const char *key) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_yaml *list;
  const char *text = ka_foreign_text(v), *dir = "";
  json_t *infos = NULL;
  size_t len;
  int64_t n = v->kind == KA_YAML_LIST ? v->n : 1;
  for (const char *p = text; *p; p++) n += *p == ',';
  KA_TRY(new_list(f, &list, n));
  if (v->kind == KA_YAML_MAP) {
    KA_TRY(component_entry(f, list, v));
    return ka_foreign_put(f, key, list);
  }
  KA_TRY(load_info(f, &infos, &dir));
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; ka_ok(st) && v->kind == KA_YAML_LIST && i < v->n; i++)
    st = v->items[i]->kind == KA_YAML_MAP
             ? component_entry(f, list, v->items[i])
             : named_entry(f, list, ka_foreign_text(v->items[i]), infos, dir);
  for (const char *name = text; ka_ok(st) && ka_list_next(&text, ',', &name, &len);) {
    if (len == 0) continue;
    st = ka_arena_str(f->arena, &name, name, len);
    if (ka_ok(st)) st = named_entry(f, list, name, infos, dir);
  }
  json_decref(infos);
  KA_TRY(st);
  return ka_foreign_put(f, key, list);
}

static ka_status dataset(struct ka_foreign *f, struct ka_yaml *v) {
  return named_list(f, v, "datasets");
}

static ka_status eval_dataset(struct ka_foreign *f, struct ka_yaml *v) {
  return ka_foreign_is_off(v) ? ka_foreign_pass(f) : named_list(f, v, "test_datasets");
}

/* TRL: {datasets: [{id, config, split, columns, weight}], test_split_size} */
static ka_status mixture(struct ka_foreign *f, struct ka_yaml *v) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_yaml *from = ka_yaml_get(v, "datasets"), *size = ka_yaml_get(v, "test_split_size"),
                 *list;
  if (!from || from->kind != KA_YAML_LIST)
    return ka_foreign_refuse(f, "expected {datasets: [...]}");
  KA_TRY(new_list(f, &list, from->n));
  for (int64_t i = 0; i < from->n; i++) {
    const struct ka_yaml *e = from->items[i];
    const char *id = ka_foreign_get(e, "id"), *split = ka_foreign_get(e, "split");
    struct ka_yaml *entry, *weight = ka_yaml_get(e, "weight");
    int64_t cap;
    if (!id) id = ka_foreign_get(e, "path");
    KA_TRY(new_entry(f, list, &cap, &entry, id));
    if (weight) KA_TRY(ka_foreign_set(f, entry, &cap, "weight", weight));
    if (split && strchr(split, '[')) {
      struct ka_yaml *slice;
      KA_TRY(ka_foreign_scalar(f, &slice, "train%s", strchr(split, '[')));
      KA_TRY(ka_foreign_set(f, entry, &cap, "split", slice));
    }
  }
  double n;
  if (size && ka_foreign_number(size, &n) && n > 0 && n < 1)
    KA_TRY(ka_foreign_put(f, "val_set_size", size));
  else if (size && !ka_foreign_is_off(size))
    KA_TRY(
        ka_foreign_warn(f, "test_split_size counts rows of the mixture; the key is val_set_size"));
  return ka_foreign_put(f, "datasets", list);
}

/* alignment-handbook: {path: part of it that is taken}. */
static ka_status mixer(struct ka_foreign *f, struct ka_yaml *v) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_yaml *list, *entry, *split;
  int64_t cap;
  double part;
  if (v->kind != KA_YAML_MAP) return ka_foreign_refuse(f, "expected {path: part}");
  if (ka_yaml_get(f->from, "dataset_name") || ka_yaml_get(f->from, "datasets"))
    return ka_foreign_pass(f);
  KA_TRY(new_list(f, &list, v->n));
  for (int64_t i = 0; i < v->n; i++) {
    KA_TRY(new_entry(f, list, &cap, &entry, v->keys[i]->text));
    if (!ka_foreign_number(v->values[i], &part) || part <= 0 || part >= 1) continue;
    KA_TRY(ka_foreign_scalar(f, &split, "train[:%.6g%%]", 100 * part));
    KA_TRY(ka_foreign_set(f, entry, &cap, "split", split));
  }
  return ka_foreign_put(f, "datasets", list);
}

static ka_status pretraining(struct ka_foreign *f, struct ka_yaml *v) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_yaml *list, *one = v, single = {.kind = KA_YAML_LIST, .n = 1, .items = &one};
  const struct ka_yaml *from = v->kind == KA_YAML_LIST ? v : &single;
  KA_TRY(new_list(f, &list, from->n));
  for (int64_t i = 0; i < from->n; i++) {
    const struct ka_yaml *e = from->items[i];
    const char *path = e->kind == KA_YAML_MAP ? ka_foreign_get(e, "path") : ka_foreign_text(e);
    const char *field = ka_foreign_get(e, "text_column");
    struct ka_yaml *entry;
    int64_t cap;
    KA_TRY(new_entry(f, list, &cap, &entry, path));
    KA_TRY(add_text(f, entry, &cap, "type", "completion"));
    KA_TRY(add_text(f, entry, &cap, "field", field));
  }
  return ka_foreign_put(f, "datasets", list);
}

ka_foreign_fn *ka_foreign_data_call(const char *name) {
  static const struct {
    const char *name;
    ka_foreign_fn *call;
  } calls[] = {{"dataset", dataset},
               {"eval_dataset", eval_dataset},
               {"mixture", mixture},
               {"type", type},
               {"mixer", mixer},
               {"template", template},
               {"entry_max", entry_max},
               {"pretraining", pretraining},
               {"message_field", message_field}};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
    if (strcmp(calls[i].name, name) == 0) return calls[i].call;
  return NULL;
}

/* --- entries ----------------------------------------------------------------- */

/* A key of the top that stands in the entries here, for the types that know it. */
static ka_status spread_one(struct ka_foreign *e, struct ka_yaml *v) {
  const char *type = ka_foreign_get(e->to, "type");
  bool chat = type && strcmp(type, "chat_template") == 0;
  if (ka_yaml_get(e->to, e->key)) return KA_STATUS_OK;
  if (strcmp(e->key, "max_samples") == 0)
    return ka_foreign_get(e->to, "split") ? KA_STATUS_OK : entry_max(e, v);
  if (strcmp(e->key, "field") == 0)
    return !type || strcmp(type, "completion") == 0 ? ka_foreign_put(e, "field", v) : KA_STATUS_OK;
  if (strcmp(e->key, "chat_template") != 0)
    return chat ? ka_foreign_put(e, e->key, v) : KA_STATUS_OK;
  if (chat) return template(e, v);
  if (!ka_foreign_get(e->top, "template") || e->index > 0) return KA_STATUS_OK;
  e->key = "template";
  return ka_foreign_warn(
      e, "rows that are no chats get the prompt of their type (alpaca's), not the template");
}

static ka_status translate_entry(struct ka_foreign *f, struct ka_yaml **entry, int64_t index) {
  struct ka_ctx *ctx = f->ctx;
  struct ka_foreign e = *f;
  bool theirs = f->r->file->n_notes > 0;
  e.scope = KA_SCOPE_DATASET;
  e.from = *entry;
  e.at = *entry;
  e.index = index;
  e.cap_to = 0;
  KA_TRY(ka_foreign_new(&e, &e.to, KA_YAML_MAP));
  KA_TRY(ka_foreign_map(&e));
  e.row = NULL;
  e.at = *entry;
  bool written = ka_yaml_get(e.from, "type");
  if (!ka_yaml_get(e.to, "type") && (theirs || written)) KA_TRY(guess(&e));
  for (int64_t i = 0; i < f->spread->n; i++) {
    e.at = f->spread->keys[i];
    e.key = e.at->text;
    KA_TRY(spread_one(&e, f->spread->values[i]));
  }
  *entry = e.to;
  return KA_STATUS_OK;
}

ka_status ka_foreign_entries(struct ka_foreign *f) {
  static const char *const keys[] = {"datasets", "test_datasets"};
  struct ka_ctx *ctx = f->ctx;
  for (size_t k = 0; k < 2; k++) {
    struct ka_yaml *list = ka_yaml_get(f->to, keys[k]), *copy;
    if (!list || list->kind != KA_YAML_LIST) continue;
    f->at = list;
    KA_TRY(new_list(f, &copy, list->n)); /* aliases may share the list */
    copy->line = list->line;
    copy->column = list->column;
    for (copy->n = 0; copy->n < list->n; copy->n++) {
      copy->items[copy->n] = list->items[copy->n];
      if (copy->items[copy->n]->kind == KA_YAML_MAP)
        KA_TRY(translate_entry(f, &copy->items[copy->n], k == 0 ? copy->n : INT64_MAX));
    }
    KA_TRY(ka_foreign_set(f, f->to, &f->cap_to, keys[k], copy));
  }
  return KA_STATUS_OK;
}
