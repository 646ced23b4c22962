/* SPDX-License-Identifier: Apache-2.0
 * See identity.h. */
#include "engine/train/identity.h"

#include "base/file.h"
#include "engine/train/fingerprint.h"

#include <stdio.h>
#include <xxhash.h>

ka_status ka_identity_of(struct ka_ctx *ctx, const json_t *fingerprint,
                         char out[KA_IDENTITY_TEXT]) {
  struct ka_str text = {0};
  ka_status st = ka_str_puts(ctx, &text, KAPPA_VERSION "\n");
  if (ka_ok(st)) st = ka_json_dump_line(ctx, fingerprint, &text);
  if (ka_ok(st)) {
    XXH128_hash_t v = XXH3_128bits(text.data, text.len);
    ka_fmt_hash(v.high64, v.low64, out);
  }
  ka_str_deinit(&text);
  return st;
}

/* Of the job and, unless NULL, a model beside it. */
static ka_status identity(struct ka_ctx *ctx, const struct ka_job *job, const char *model,
                          char out[KA_IDENTITY_TEXT]) {
  json_t *all = NULL, *files = NULL;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_fingerprint(ctx, job, &all), out);
  if (model) {
    KA_TRY_GOTO(ka_fingerprint_files(ctx, model, &files), out);
    KA_TRY_GOTO(ka_json_set(ctx, all, "model", json_incref(files)), out);
  }
  KA_TRY_GOTO(ka_identity_of(ctx, all, out), out);
out:
  json_decref(files);
  json_decref(all);
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

/* Of a part of a fingerprint the keys that the base's measures depend on. */
static ka_status keep_measures(struct ka_ctx *ctx, json_t *part) {
  static const char *const kept[] = {"base_model", "held_out",     "forgetting",
                                     "bf16",       "sequence_len", "micro_batch_size"};
  const char *key;
  json_t *value, *others = json_array();
  size_t i;
  int failed = others == NULL;
  json_object_foreach(part, key, value) {
    bool keep = false;
    for (size_t k = 0; k < sizeof kept / sizeof *kept; k++) keep |= ka_starts_with(key, kept[k]);
    if (!keep) failed |= json_array_append_new(others, json_string(key));
  }
  json_array_foreach(others, i, value) json_object_del(part, json_string_value(value));
  json_decref(others);
  return failed ? ka_fail(ctx, KA_E_MEMORY, "identity of the measures: out of memory")
                : KA_STATUS_OK;
}

ka_status ka_identity_of_measures(struct ka_ctx *ctx, const struct ka_job *job,
                                  char out[KA_IDENTITY_TEXT]) {
  json_t *all = NULL, *part;
  const char *name;
  ka_status st = ka_fingerprint(ctx, job, &all);
  json_object_foreach(all, name, part) if (ka_ok(st)) st = keep_measures(ctx, part);
  if (ka_ok(st)) st = ka_identity_of(ctx, all, out);
  json_decref(all);
  return st;
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
