/* SPDX-License-Identifier: Apache-2.0
 * docs/jobs.md and docs/job.schema.json from the rows of job.def. */
#include "base/json.h"
#include "engine/job/foreign.h"
#include "engine/job/job_table.h"

#include <string.h>

/* --- docs/jobs.md ------------------------------------------------------------ */

static const char *const scope_heads[KA_N_SCOPES] = {
    [KA_SCOPE_JOB] = "## At the top\n",
    [KA_SCOPE_SELECTION] = "## Below `selection:`\n",
    [KA_SCOPE_FORGETTING] = "## Below `forgetting:`\n",
    [KA_SCOPE_ANCHOR] = "## Below `anchor:`\n",
    [KA_SCOPE_PROJECTOR] = "## Below `projector:`\n",
    [KA_SCOPE_DATASET] = "## Entries of `datasets:` and `test_datasets:`\n",
    [KA_SCOPE_MAPPING] = "## Below an entry's `message_property_mappings:`\n",
    [KA_SCOPE_HELD_OUT] = "## Entries of `held_out:`\n",
};

static const char *const intro =
    "# Job files\n"
    "\n"
    "<!-- Made from engine/job/job.def by `cmake --build build --target docs`. -->\n"
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
    "```\n"
    "\n"
    "Editors with a YAML language server check and complete the keys by a first line that names "
    "the schema\n"
    "beside this page, by its path or address:\n"
    "`# yaml-language-server: $schema=/usr/local/share/doc/kappa/job.schema.json`\n";

ka_status ka_job_doc_markdown(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out, intro));
  for (int scope = 0; scope < KA_N_SCOPES; scope++) {
    KA_TRY(ka_str_printf(ctx, out, "\n%s\n", scope_heads[scope]));
    KA_TRY(ka_key_doc(ctx, out, &ka_job_table, scope));
  }
  KA_TRY(ka_str_puts(ctx, out,
                     "\n## Names from other trainers\n\n"
                     "Keys of axolotl, LLaMA-Factory, torchtune and TRL, from "
                     "engine/job/foreign.def. What is\n"
                     "empty, null, false or none is off. `kappa import JOB.yaml` writes the "
                     "job in kappa's words.\n\n"));
  return ka_foreign_doc(ctx, out);
}

/* --- docs/job.schema.json: JSON Schema 2020-12 ------------------------------- */

static json_t *scope_schema(int scope);

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

static json_t *number_schema(const struct ka_key *k) {
  json_t *s = json_pack("{s:s}", "type", k->kind == KA_KEY_INT ? "integer" : "number");
  json_object_set_new(s, "minimum", json_real(k->least));
  json_object_set_new(s, "maximum", json_real(k->most));
  if (k->kind == KA_KEY_COUNT)
    return json_pack("{s:[o,{s:s,s:s}]}", "anyOf", s, "type", "string", "pattern",
                     "^[0-9.]+[kKmMbBtT]?$");
  return s;
}

static json_t *value_schema(const struct ka_key *k) {
  switch (k->kind) {
  case KA_KEY_BOOL:
    return json_pack("{s:s}", "type", "boolean");
  case KA_KEY_INT:
  case KA_KEY_NUM:
  case KA_KEY_COUNT:
    return number_schema(k);
  case KA_KEY_TEXT:
  case KA_KEY_PATH:
    return json_pack("{s:s}", "type", "string");
  case KA_KEY_CHOICE:
  case KA_KEY_WORD:
    return choice_schema(k->choices);
  case KA_KEY_OBJECT:
    return scope_schema(k->child);
  case KA_KEY_ANY:
    return json_object();
  }
  return NULL;
}

static json_t *key_schema(const struct ka_key *k) {
  json_t *value = value_schema(k), *s = value;
  if (k->list) {
    json_t *list = json_pack("{s:s,s:O}", "type", "array", "items", value);
    s = k->kind == KA_KEY_OBJECT ? json_incref(list) : json_pack("{s:[O,O]}", "anyOf", value, list);
    json_decref(list);
    json_decref(value);
  }
  json_object_set_new(s, "description", json_string(k->doc));
  if (k->dflt && *k->dflt) json_object_set_new(s, "default", json_string(k->dflt));
  return s;
}

static json_t *scope_schema(int scope) {
  json_t *properties = json_object(), *required = json_array();
  for (const struct ka_key *k = ka_job_table.keys; k->name; k++) {
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
