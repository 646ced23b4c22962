/* SPDX-License-Identifier: Apache-2.0
 * What the files of a model directory are, by name, and what is copied from the base's
 * directory into the output: everything but weights and the files that belong to a run. */
#include "base/log.h"
#include "engine/formats/config.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Weights in other formats would be the untrained ones; a run's own files would lie about the new
 * run. */
static const struct {
  const char *pattern;
  enum ka_hf_file_kind kind;
} kinds[] = {{"projector.safetensors", KA_FILE_MODEL}, /* beside the weights: docs/modality.md */
             {"*.safetensors", KA_FILE_WEIGHTS},
             {"*.safetensors.index.json", KA_FILE_WEIGHTS},
             {"pytorch_model*.bin", KA_FILE_OTHER_WEIGHTS},
             {"pytorch_model*.bin.index.json", KA_FILE_OTHER_WEIGHTS},
             {"*.pth", KA_FILE_OTHER_WEIGHTS},
             {"*.pt", KA_FILE_OTHER_WEIGHTS},
             {"*.gguf", KA_FILE_OTHER_WEIGHTS},
             {"*.ggml", KA_FILE_OTHER_WEIGHTS},
             {"*.h5", KA_FILE_OTHER_WEIGHTS},
             {"*.msgpack", KA_FILE_OTHER_WEIGHTS},
             {"*.onnx", KA_FILE_OTHER_WEIGHTS},
             {"*.ckpt", KA_FILE_OTHER_WEIGHTS},
             {"*.ot", KA_FILE_OTHER_WEIGHTS},
             {"selection.json", KA_FILE_SELECTION},
             {"training_args.bin", KA_FILE_RUN},
             {"trainer_state.json", KA_FILE_RUN},
             {"train_log.jsonl", KA_FILE_RUN},
             {"job.json", KA_FILE_RUN},
             {"report.*", KA_FILE_RUN},
             {"events.out.tfevents.*", KA_FILE_RUN},
             {"*.tmp.*", KA_FILE_RUN}};

enum ka_hf_file_kind ka_hf_file_kind_of(const char *name) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (fnmatch(kinds[i].pattern, name, 0) == 0) return kinds[i].kind;
  return KA_FILE_MODEL;
}

/* Is `path` below the directory? */
static bool below(const char *path, const char *dir) {
  size_t n = dir ? strlen(dir) : 0;
  return n > 0 && strncmp(path, dir, n) == 0 && (path[n] == '/' || dir[n - 1] == '/');
}

void ka_model_dir_say_link(struct ka_ctx *ctx, const char *dir, const char *name) {
  char *path = NULL, *store = NULL;
  if (asprintf(&path, "%s/%s", dir, name) < 0) return;
  if (asprintf(&store, "%s/../../blobs", dir) < 0) store = NULL;
  char *target = realpath(path, NULL), *home = realpath(dir, NULL);
  char *blobs = store ? realpath(store, NULL) : NULL;
  if (target && home && !below(target, home) && !below(target, blobs))
    ka_warn(ctx, "formats", "%s is a link to %s, outside of the model; what is there goes along",
            path, target);
  free(path);
  free(store);
  free(target);
  free(home);
  free(blobs);
}

static ka_status carry_all(struct ka_ctx *ctx, struct ka_arena *a, const char *base_dir,
                           const char *out_dir, struct ka_str *left) {
  const char **names, *from, *to;
  int64_t n = 0;
  KA_TRY(ka_list_dir(a, base_dir, &names, &n));
  for (int64_t i = 0; i < n; i++) {
    struct stat info;
    KA_TRY(ka_path_join(a, &from, base_dir, names[i]));
    KA_TRY(ka_path_join(a, &to, out_dir, names[i]));
    enum ka_hf_file_kind kind = ka_hf_file_kind_of(names[i]);
    if (stat(from, &info) != 0 || !S_ISREG(info.st_mode) || kind == KA_FILE_WEIGHTS) continue;
    if (kind == KA_FILE_MODEL) {
      ka_model_dir_say_link(ctx, base_dir, names[i]);
      KA_TRY(ka_copy_file(ctx, from, to));
    } else {
      KA_TRY(ka_str_printf(ctx, left, "%s%s", left->len ? ", " : "", names[i]));
    }
  }
  return KA_STATUS_OK;
}

ka_status ka_model_dir_carry(struct ka_ctx *ctx, const char *base_dir, const char *out_dir) {
  if (ka_path_same(base_dir, out_dir)) return KA_STATUS_OK;
  struct ka_arena a;
  struct ka_str left = {0};
  ka_arena_init(&a, ctx, "carry over");
  ka_status st = carry_all(ctx, &a, base_dir, out_dir, &left);
  if (ka_ok(st) && left.len > 0) ka_info(ctx, "formats", "%s: not copied: %s", base_dir, left.data);
  ka_str_deinit(&left);
  ka_arena_deinit(&a);
  return st;
}

/* What a file says of its end token, in its own words: the id before those it stops at, or the
 * text. */
static ka_status set_end(struct ka_ctx *ctx, json_t *root, bool list, const char *text,
                         int64_t id) {
  json_t *old = json_object_get(root, "eos_token_id"), *ids, *one;
  size_t i;
  if (text) return ka_json_set(ctx, root, "eos_token", json_string(text));
  if (!list) return ka_json_set(ctx, root, "eos_token_id", json_integer(id));
  ids = json_pack("[I]", (json_int_t)id);
  json_array_foreach(old, i, one) if (json_integer_value(one) != id) json_array_append(ids, one);
  if (json_is_integer(old) && json_integer_value(old) != id) json_array_append(ids, old);
  return ka_json_set(ctx, root, "eos_token_id", ids);
}

ka_status ka_model_dir_set_eos(struct ka_ctx *ctx, const char *dir, const char *text, int64_t id) {
  static const struct {
    const char *name;
    bool text, list;
  } files[] = {{"tokenizer_config.json", true, false},
               {"special_tokens_map.json", true, false},
               {"config.json", false, false},
               {"generation_config.json", false, true}};
  struct ka_arena a;
  ka_status st = KA_STATUS_OK;
  ka_arena_init(&a, ctx, "end token");
  for (int i = 0; i < 4 && ka_ok(st); i++) {
    const char *path = NULL;
    json_t *root = NULL;
    st = ka_path_join(&a, &path, dir, files[i].name);
    if (!ka_ok(st) || !ka_path_is_file(path)) continue;
    st = ka_json_load(ctx, path, &root);
    if (ka_ok(st)) st = set_end(ctx, root, files[i].list, files[i].text ? text : NULL, id);
    json_t *body = json_object_get(root, "text_config");
    if (ka_ok(st) && json_object_get(body, "eos_token_id"))
      st = set_end(ctx, body, false, NULL, id);
    if (ka_ok(st)) st = ka_json_write(ctx, root, path);
    json_decref(root);
  }
  ka_arena_deinit(&a);
  return ka_ok(st) ? st : ka_trace(ctx, st, __FILE__, __LINE__);
}
