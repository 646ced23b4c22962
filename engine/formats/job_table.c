/* SPDX-License-Identifier: Apache-2.0
 * job.def as tables. */
#include "engine/formats/job_table.h"

#include <string.h>

/* kind, list, must_exist, regex, child of each type word of job.def */
#define T_BOOL KA_JOB_BOOL, false, false, false, 0
#define T_INT KA_JOB_INT, false, false, false, 0
#define T_NUM KA_JOB_NUM, false, false, false, 0
#define T_COUNT KA_JOB_COUNT, false, false, false, 0
#define T_TEXT KA_JOB_TEXT, false, false, false, 0
#define T_PATH KA_JOB_PATH, false, true, false, 0
#define T_NEWPATH KA_JOB_PATH, false, false, false, 0
#define T_CHOICE KA_JOB_CHOICE, false, false, false, 0
#define T_TEXTS KA_JOB_TEXT, true, false, false, 0
#define T_PATHS KA_JOB_PATH, true, true, false, 0
#define T_REGEXES KA_JOB_TEXT, true, false, true, 0
#define T_CHOICES KA_JOB_CHOICE, true, false, false, 0
#define T_SELECTION KA_JOB_OBJECT, false, false, false, KA_SCOPE_SELECTION
#define T_FORGETTING KA_JOB_OBJECT, false, false, false, KA_SCOPE_FORGETTING
#define T_ANCHOR KA_JOB_OBJECT, false, false, false, KA_SCOPE_ANCHOR
#define T_MAPPING KA_JOB_OBJECT, false, false, false, KA_SCOPE_MAPPING
#define T_DATASETS KA_JOB_OBJECT, true, false, false, KA_SCOPE_DATASET
#define T_HELD_OUTS KA_JOB_OBJECT, true, false, false, KA_SCOPE_HELD_OUT

#define ROW(scope, owner, type, name, dflt, least, most, choices, unit, doc)                       \
  {scope, T_##type, #name, dflt, least, most, choices, unit, doc, offsetof(struct owner, name)},

const struct ka_job_key ka_job_keys[] = {
#define KA_JOB_KEY(...) ROW(KA_SCOPE_JOB, ka_job, __VA_ARGS__)
#define KA_SELECTION_KEY(...) ROW(KA_SCOPE_SELECTION, ka_job_selection, __VA_ARGS__)
#define KA_FORGETTING_KEY(...) ROW(KA_SCOPE_FORGETTING, ka_job_forgetting, __VA_ARGS__)
#define KA_ANCHOR_KEY(...) ROW(KA_SCOPE_ANCHOR, ka_job_anchor, __VA_ARGS__)
#define KA_DATASET_KEY(...) ROW(KA_SCOPE_DATASET, ka_job_dataset, __VA_ARGS__)
#define KA_MAPPING_KEY(...) ROW(KA_SCOPE_MAPPING, ka_job_mapping, __VA_ARGS__)
#define KA_HELD_OUT_KEY(...) ROW(KA_SCOPE_HELD_OUT, ka_job_held_out, __VA_ARGS__)
#include "engine/formats/job.def"
    {0}};

const struct ka_job_rule ka_job_one_of[] = {
#define KA_JOB_ONE_OF(scope, keys) {KA_SCOPE_##scope, keys, NULL},
#include "engine/formats/job.def"
    {0}};

const struct ka_job_rule ka_job_later[] = {
#define KA_JOB_LATER(scope, key) {KA_SCOPE_##scope, key, NULL},
#include "engine/formats/job.def"
    {0}};

const struct ka_job_rule ka_job_aliases[] = {
#define KA_JOB_ALIAS(scope, key, advice) {KA_SCOPE_##scope, key, advice},
#include "engine/formats/job.def"
    {0}};

const struct ka_job_scope_info ka_job_scopes[KA_N_SCOPES] = {
    [KA_SCOPE_JOB] = {"job", sizeof(struct ka_job)},
    [KA_SCOPE_SELECTION] = {"selection", sizeof(struct ka_job_selection)},
    [KA_SCOPE_FORGETTING] = {"forgetting", sizeof(struct ka_job_forgetting)},
    [KA_SCOPE_ANCHOR] = {"anchor", sizeof(struct ka_job_anchor)},
    [KA_SCOPE_DATASET] = {"datasets", sizeof(struct ka_job_dataset)},
    [KA_SCOPE_MAPPING] = {"message_property_mappings", sizeof(struct ka_job_mapping)},
    [KA_SCOPE_HELD_OUT] = {"held_out", sizeof(struct ka_job_held_out)},
};

const struct ka_job_key *ka_job_key_find(enum ka_job_scope scope, const char *name) {
  for (const struct ka_job_key *k = ka_job_keys; k->name; k++)
    if (k->scope == scope && strcmp(k->name, name) == 0) return k;
  return NULL;
}

bool ka_job_is_later(const struct ka_job_key *key) {
  for (const struct ka_job_rule *r = ka_job_later; r->key; r++)
    if (r->scope == key->scope && strcmp(r->key, key->name) == 0) return true;
  return false;
}

bool ka_job_in_words(const char *words, const char *name) {
  size_t n = strlen(name);
  for (const char *p = words; *p;) {
    size_t len = strcspn(p, " ");
    if (len == n && memcmp(p, name, n) == 0) return true;
    p += len;
    p += strspn(p, " ");
  }
  return false;
}
