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
