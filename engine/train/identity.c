/* SPDX-License-Identifier: Apache-2.0
 * See identity.h. */
#include "engine/train/identity.h"

#include "base/file.h"
#include "engine/data/files.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

/* They decide where and how often something is written, not what. */
static const char *const without_effect[] = {
    "output_dir", "save_model", "save_steps", "save_total_limit",     "logging_steps",
    "report_to",  "threads",    "device",     "dataset_prepared_path"};

static void add(XXH3_state_t *h, const char *text) {
  XXH3_128bits_update(h, text, strlen(text) + 1);
}

static void add_file(XXH3_state_t *h, const char *path) {
  struct stat info = {0};
  char text[96];
  bool there = stat(path, &info) == 0;
  snprintf(text, sizeof text, "%lld %lld.%09ld", there ? (long long)info.st_size : -1LL,
           (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
  add(h, ka_path_base(path));
  add(h, text);
}

static ka_status add_dir(struct ka_arena *a, XXH3_state_t *h, const char *dir) {
  struct ka_ctx *ctx = a->ctx;
  const char **names, *path;
  int64_t n = 0;
  KA_TRY(ka_list_dir(a, dir, &names, &n));
  for (int64_t i = 0; i < n; i++) {
    KA_TRY(ka_path_join(a, &path, dir, names[i]));
    if (!ka_path_is_dir(path)) add_file(h, path);
  }
  return KA_STATUS_OK;
}

static ka_status add_paths(struct ka_arena *a, XXH3_state_t *h, const struct ka_key_texts *paths,
                           const struct ka_data_choice *choice) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_data_files files;
  KA_TRY(ka_data_files(a, paths, choice, &files));
  for (int64_t i = 0; i < files.n; i++) add_file(h, files.items[i].path);
  return KA_STATUS_OK;
}

static ka_status add_inputs(struct ka_arena *a, XXH3_state_t *h, const struct ka_job *job) {
  struct ka_ctx *ctx = a->ctx;
  const struct ka_job_datasets *lists[] = {&job->datasets, &job->test_datasets};
  const struct ka_key_texts *tasks[] = {&job->forgetting.tasks, &job->forgetting.new_tasks};
  KA_TRY(add_dir(a, h, job->base_model));
  for (int l = 0; l < 2; l++)
    for (int64_t i = 0; i < lists[l]->n; i++) {
      const struct ka_job_dataset *d = &lists[l]->items[i];
      const struct ka_data_choice choice = {&d->data_files, &d->exclude_files, d->ds_type,
                                            d->split};
      KA_TRY(add_paths(a, h, &d->path, &choice));
    }
  for (int64_t i = 0; i < job->held_out.n; i++) {
    const struct ka_job_held_out *t = &job->held_out.items[i];
    const struct ka_data_choice choice = {&t->data_files, &t->exclude_files, NULL, t->split};
    KA_TRY(add_paths(a, h, &t->path, &choice));
  }
  for (int l = 0; l < 2; l++)
    for (int64_t i = 0; i < tasks[l]->n; i++) add_file(h, tasks[l]->items[i]);
  if (job->selection.file) add_file(h, job->selection.file);
  return KA_STATUS_OK;
}

static ka_status add_keys(struct ka_ctx *ctx, XXH3_state_t *h, const struct ka_job *job) {
  json_t *keys = NULL;
  struct ka_str text = {0};
  ka_status st = ka_job_json(ctx, job, &keys);
  for (size_t i = 0; ka_ok(st) && i < sizeof without_effect / sizeof *without_effect; i++)
    json_object_del(keys, without_effect[i]);
  if (ka_ok(st)) st = ka_json_dump_line(ctx, keys, &text);
  if (ka_ok(st)) add(h, text.data);
  ka_str_deinit(&text);
  json_decref(keys);
  return st;
}

/* Of the job and, unless NULL, a model beside it. */
static ka_status identity(struct ka_ctx *ctx, const struct ka_job *job, const char *model,
                          char out[KA_IDENTITY_TEXT]) {
  XXH3_state_t *h = XXH3_createState();
  struct ka_arena a;
  if (!h) return ka_fail(ctx, KA_E_MEMORY, "identity of the job: out of memory");
  XXH3_128bits_reset(h);
  ka_arena_init(&a, ctx, "identity of the job");
  add(h, KAPPA_VERSION);
  ka_status st = add_keys(ctx, h, job);
  if (ka_ok(st)) st = add_inputs(&a, h, job);
  if (ka_ok(st) && model && ka_path_is_dir(model)) st = add_dir(&a, h, model);
  if (model && !ka_path_is_dir(model)) add_file(h, model);
  XXH128_hash_t v = XXH3_128bits_digest(h);
  snprintf(out, KA_IDENTITY_TEXT, "%016llx%016llx", (unsigned long long)v.high64,
           (unsigned long long)v.low64);
  XXH3_freeState(h);
  ka_arena_deinit(&a);
  return st;
}

ka_status ka_job_identity(struct ka_ctx *ctx, const struct ka_job *job,
                          char out[KA_IDENTITY_TEXT]) {
  return identity(ctx, job, NULL, out);
}

ka_status ka_model_identity(struct ka_ctx *ctx, const struct ka_job *job, const char *model,
                            char out[KA_IDENTITY_TEXT]) {
  return identity(ctx, job, model, out);
}

ka_status ka_job_record(struct ka_ctx *ctx, const struct ka_job *job, const char *identity,
                        const char *path) {
  json_t *keys = NULL;
  KA_TRY(ka_job_json(ctx, job, &keys));
  json_t *root =
      json_pack("{s:s, s:s, s:o}", "kappa", KAPPA_VERSION, "identity", identity, "job", keys);
  if (!root) return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", path);
  ka_status st = ka_json_write(ctx, root, path);
  json_decref(root);
  return st;
}

ka_status ka_recorded_identity(struct ka_ctx *ctx, const char *path, char out[KA_IDENTITY_TEXT]) {
  json_t *root = NULL;
  const char *text = NULL;
  out[0] = 0;
  if (!ka_path_exists(path)) return KA_STATUS_OK;
  KA_TRY(ka_json_load(ctx, path, &root));
  ka_status st = ka_json_str_or(ctx, path, root, "identity", "", &text);
  if (ka_ok(st)) snprintf(out, KA_IDENTITY_TEXT, "%s", text);
  json_decref(root);
  return st;
}
