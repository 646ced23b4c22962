/* SPDX-License-Identifier: Apache-2.0
 * docs/jobs.md and docs/job.schema.json from the rows of job.def. */
#include "base/json.h"
#include "engine/formats/job_table.h"

#include <string.h>

/* --- docs/jobs.md ------------------------------------------------------------ */

static const char *kind_text(const struct ka_job_key *k) {
  static const char *const one[] = {
      [KA_JOB_BOOL] = "true or false", [KA_JOB_INT] = "integer",      [KA_JOB_NUM] = "number",
      [KA_JOB_COUNT] = "count (50M)",  [KA_JOB_TEXT] = "text",        [KA_JOB_PATH] = "path",
      [KA_JOB_CHOICE] = "word",        [KA_JOB_OBJECT] = "keys below"};
  static const char *const many[] = {[KA_JOB_TEXT] = "text, or a list",
                                     [KA_JOB_PATH] = "path, or a list",
                                     [KA_JOB_CHOICE] = "word, or a list",
                                     [KA_JOB_OBJECT] = "list of keys below"};
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

static ka_status append_range(struct ka_ctx *ctx, struct ka_str *out, const struct ka_job_key *k) {
  if (k->kind == KA_JOB_CHOICE) {
    KA_TRY(ka_str_puts(ctx, out, ": "));
    return append_choices(ctx, out, k->choices, ", ");
  }
  if (k->kind != KA_JOB_INT && k->kind != KA_JOB_NUM && k->kind != KA_JOB_COUNT)
    return KA_STATUS_OK;
  if (k->most < 1e9)
    KA_TRY(ka_str_printf(ctx, out, ", %.15g to %.15g", k->least, k->most));
  else if (k->least > 0)
    KA_TRY(ka_str_printf(ctx, out, ", from %.15g", k->least));
  return *k->unit ? ka_str_printf(ctx, out, " (%s)", k->unit) : KA_STATUS_OK;
}

static ka_status append_key(struct ka_ctx *ctx, struct ka_str *out, const struct ka_job_key *k) {
  bool later = ka_job_is_later(k);
  KA_TRY(ka_str_printf(ctx, out, "| `%s` | %s", k->name, kind_text(k)));
  KA_TRY(append_range(ctx, out, k));
  if (!k->dflt && k->kind != KA_JOB_OBJECT)
    KA_TRY(ka_str_puts(ctx, out, " | required"));
  else if (k->dflt && *k->dflt)
    KA_TRY(ka_str_printf(ctx, out, " | `%s`", k->dflt));
  else
    KA_TRY(ka_str_puts(ctx, out, !k->dflt ? " | required" : " | "));
  return ka_str_printf(ctx, out, " | %s%s |\n", k->doc, later ? " (not supported yet)" : "");
}

static const char *const scope_heads[KA_N_SCOPES] = {
    [KA_SCOPE_JOB] = "## At the top\n",
    [KA_SCOPE_SELECTION] = "## Below `selection:`\n",
    [KA_SCOPE_FORGETTING] = "## Below `forgetting:`\n",
    [KA_SCOPE_ANCHOR] = "## Below `anchor:`\n",
    [KA_SCOPE_DATASET] = "## Entries of `datasets:` and `test_datasets:`\n",
    [KA_SCOPE_MAPPING] = "## Below an entry's `message_property_mappings:`\n",
    [KA_SCOPE_HELD_OUT] = "## Entries of `held_out:`\n",
};

static const char *const intro =
    "# Job files\n"
    "\n"
    "<!-- Made from engine/formats/job.def by `cmake --build build --target docs`. -->\n"
    "\n"
    "A job is a YAML file of the keys below. `kappa plan JOB.yaml` checks it without training;\n"
    "every problem of a file is reported at once with file:line:column. Words like\n"
    "`learning_rate=1e-4`, `selection.count=10` or `datasets.0.path=other.jsonl` behind the file\n"
    "on the command line win over it; their values are YAML too, and an empty value means the\n"
    "default. Relative paths start at the job file's directory, on the command line at the "
    "current\n"
    "one. A text may stand where a list of texts is asked for.\n"
    "\n"
    "```yaml\n"
    "base_model: path/to/model\n"
    "datasets:\n"
    "- {path: data.jsonl, type: chat_template}\n"
    "selection: {metric: kappa, order: lowest, count: 20}\n"
    "learning_rate: 2e-5\n"
    "num_epochs: 1\n"
    "output_dir: out\n"
    "```\n";

ka_status ka_job_doc_markdown(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out, intro));
  for (int scope = 0; scope < KA_N_SCOPES; scope++) {
    KA_TRY(ka_str_printf(ctx, out, "\n%s\n| key | value | default | meaning |\n|---|---|---|---|\n",
                         scope_heads[scope]));
    for (const struct ka_job_key *k = ka_job_keys; k->name; k++)
      if ((int)k->scope == scope) KA_TRY(append_key(ctx, out, k));
    for (const struct ka_job_rule *r = ka_job_one_of; r->key; r++)
      if ((int)r->scope == scope)
        KA_TRY(ka_str_printf(ctx, out, "\nAt most one of: %s.\n", r->key));
  }
  KA_TRY(
      ka_str_puts(ctx, out, "\n## Names from other trainers\n\n| name | in kappa |\n|---|---|\n"));
  for (const struct ka_job_rule *r = ka_job_aliases; r->key; r++)
    KA_TRY(ka_str_printf(ctx, out, "| `%s` | %s |\n", r->key, r->advice));
  return KA_STATUS_OK;
}

/* --- docs/job.schema.json: JSON Schema 2020-12 ------------------------------- */

static json_t *scope_schema(enum ka_job_scope scope);

static json_t *choice_schema(const char *choices) {
  json_t *words = json_array();
  for (const char *p = choices; *p;) {
    size_t n = strcspn(p, "|");
    const char *equals = memchr(p, '=', n);
    size_t word = equals ? (size_t)(equals - p) : n;
    /* YAML readers see true and false, not words */
    if (n == 4 && strncmp(p, "true", 4) == 0)
      json_array_append_new(words, json_true());
    else if (n == 5 && strncmp(p, "false", 5) == 0)
      json_array_append_new(words, json_false());
    else if (!equals)
      json_array_append_new(words, json_stringn(p, word));
    p += n + (p[n] == '|');
  }
  return json_pack("{s:o}", "enum", words);
}

static json_t *number_schema(const struct ka_job_key *k) {
  json_t *s = json_pack("{s:s}", "type", k->kind == KA_JOB_INT ? "integer" : "number");
  json_object_set_new(s, "minimum", json_real(k->least));
  json_object_set_new(s, "maximum", json_real(k->most));
  if (k->kind == KA_JOB_COUNT)
    return json_pack("{s:[o,{s:s,s:s}]}", "anyOf", s, "type", "string", "pattern",
                     "^[0-9.]+[kKmMbBtT]?$");
  return s;
}

static json_t *value_schema(const struct ka_job_key *k) {
  switch (k->kind) {
  case KA_JOB_BOOL:
    return json_pack("{s:s}", "type", "boolean");
  case KA_JOB_INT:
  case KA_JOB_NUM:
  case KA_JOB_COUNT:
    return number_schema(k);
  case KA_JOB_TEXT:
  case KA_JOB_PATH:
    return json_pack("{s:s}", "type", "string");
  case KA_JOB_CHOICE:
    return choice_schema(k->choices);
  case KA_JOB_OBJECT:
    return scope_schema(k->child);
  }
  return NULL;
}

static json_t *key_schema(const struct ka_job_key *k) {
  json_t *value = value_schema(k), *s = value;
  if (k->list) {
    json_t *list = json_pack("{s:s,s:O}", "type", "array", "items", value);
    s = k->kind == KA_JOB_OBJECT ? json_incref(list) : json_pack("{s:[O,O]}", "anyOf", value, list);
    json_decref(list);
    json_decref(value);
  }
  json_object_set_new(s, "description", json_string(k->doc));
  if (k->dflt && *k->dflt) json_object_set_new(s, "default", json_string(k->dflt));
  return s;
}

static json_t *scope_schema(enum ka_job_scope scope) {
  json_t *properties = json_object(), *required = json_array();
  for (const struct ka_job_key *k = ka_job_keys; k->name; k++) {
    if (k->scope != scope) continue;
    json_object_set_new(properties, k->name, key_schema(k));
    if (!k->dflt) json_array_append_new(required, json_string(k->name));
  }
  return json_pack("{s:s,s:o,s:o,s:b}", "type", "object", "properties", properties, "required",
                   required, "additionalProperties", 0);
}

ka_status ka_job_doc_schema(struct ka_ctx *ctx, struct ka_str *out) {
  json_t *s = scope_schema(KA_SCOPE_JOB);
  if (!s) return ka_fail(ctx, KA_E_MEMORY, "job schema: out of memory");
  json_object_set_new(s, "$schema", json_string("https://json-schema.org/draft/2020-12/schema"));
  json_object_set_new(s, "title", json_string("kappa job"));
  ka_status st = ka_json_dump(ctx, s, out);
  json_decref(s);
  return st;
}
