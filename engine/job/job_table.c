/* SPDX-License-Identifier: Apache-2.0
 * job.def as tables. */
#include "engine/job/job_table.h"

/* kind, list, must_exist, regex, child of job.def's own type words */
#define KA_KEY_T_SELECTION KA_KEY_OBJECT, false, false, false, KA_SCOPE_SELECTION
#define KA_KEY_T_FORGETTING KA_KEY_OBJECT, false, false, false, KA_SCOPE_FORGETTING
#define KA_KEY_T_ANCHOR KA_KEY_OBJECT, false, false, false, KA_SCOPE_ANCHOR
#define KA_KEY_T_PROJECTOR KA_KEY_OBJECT, false, false, false, KA_SCOPE_PROJECTOR
#define KA_KEY_T_MAPPING KA_KEY_OBJECT, false, false, false, KA_SCOPE_MAPPING
#define KA_KEY_T_DATASETS KA_KEY_OBJECT, true, false, false, KA_SCOPE_DATASET
#define KA_KEY_T_HELD_OUTS KA_KEY_OBJECT, true, false, false, KA_SCOPE_HELD_OUT

#define WORDS(type, name, dflt, least, most, choices, ...)                                         \
  KA_KEY_IF_WORD_##type(const char *const ka_job_words_##name[] = {choices NULL};)

#define W(id, word) word,
#define KA_JOB_KEY WORDS
#define KA_SELECTION_KEY WORDS
#define KA_FORGETTING_KEY WORDS
#define KA_ANCHOR_KEY WORDS
#define KA_PROJECTOR_KEY WORDS
#define KA_DATASET_KEY WORDS
#define KA_HELD_OUT_KEY WORDS
#include "engine/job/job.def"

/* selection.metric: every metric of a spectrum and every control. */
static const char metrics[] = ""
#define KA_METRIC(id, name, full, unit, formula, source) name "|"
#define KA_METRIC_CONTROL(name) name "|"
#include "engine/job/metrics.def"
    ;
#define KA_JOB_METRICS metrics

#define ROW(scope, owner, type, name, dflt, least, most, choices, unit, resume, doc)               \
  {scope,                                                                                          \
   KA_KEY_T_##type,                                                                                \
   #name,                                                                                          \
   dflt,                                                                                           \
   least,                                                                                          \
   most,                                                                                           \
   choices,                                                                                        \
   unit,                                                                                           \
   doc,                                                                                            \
   offsetof(struct owner, name),                                                                   \
   KA_RESUME_##resume},

static const struct ka_key keys[] = {
#define W(id, word) word "|"
#define A(alias) alias "|"
#define KA_JOB_KEY(...) ROW(KA_SCOPE_JOB, ka_job, __VA_ARGS__)
#define KA_SELECTION_KEY(...) ROW(KA_SCOPE_SELECTION, ka_job_selection, __VA_ARGS__)
#define KA_FORGETTING_KEY(...) ROW(KA_SCOPE_FORGETTING, ka_job_forgetting, __VA_ARGS__)
#define KA_ANCHOR_KEY(...) ROW(KA_SCOPE_ANCHOR, ka_job_anchor, __VA_ARGS__)
#define KA_PROJECTOR_KEY(...) ROW(KA_SCOPE_PROJECTOR, ka_job_projector, __VA_ARGS__)
#define KA_DATASET_KEY(...) ROW(KA_SCOPE_DATASET, ka_job_dataset, __VA_ARGS__)
#define KA_MAPPING_KEY(...) ROW(KA_SCOPE_MAPPING, ka_job_mapping, __VA_ARGS__)
#define KA_HELD_OUT_KEY(...) ROW(KA_SCOPE_HELD_OUT, ka_job_held_out, __VA_ARGS__)
#include "engine/job/job.def"
    {0}};

static const struct ka_key_rule one_of[] = {
#define KA_JOB_ONE_OF(scope, keys) {KA_SCOPE_##scope, keys, NULL},
#include "engine/job/job.def"
    {0}};

static const struct ka_key_rule aliases[] = {
#define KA_JOB_ALIAS(scope, key, advice) {KA_SCOPE_##scope, key, advice},
#include "engine/job/job.def"
    {0}};

static const struct ka_key_scope scopes[KA_N_SCOPES] = {
    [KA_SCOPE_JOB] = {"job", sizeof(struct ka_job)},
    [KA_SCOPE_SELECTION] = {"selection", sizeof(struct ka_job_selection)},
    [KA_SCOPE_FORGETTING] = {"forgetting", sizeof(struct ka_job_forgetting)},
    [KA_SCOPE_ANCHOR] = {"anchor", sizeof(struct ka_job_anchor)},
    [KA_SCOPE_PROJECTOR] = {"projector", sizeof(struct ka_job_projector)},
    [KA_SCOPE_DATASET] = {"datasets", sizeof(struct ka_job_dataset)},
    [KA_SCOPE_MAPPING] = {"message_property_mappings", sizeof(struct ka_job_mapping)},
    [KA_SCOPE_HELD_OUT] = {"held_out", sizeof(struct ka_job_held_out)},
};

const struct ka_key_table ka_job_table = {
    .what = "job",
    .keys = keys,
    .one_of = one_of,
    .aliases = aliases,
    .scopes = scopes,
};
