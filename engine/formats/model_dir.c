/* SPDX-License-Identifier: Apache-2.0
 * What is carried over from the base's directory into the output: everything but weights and the
 * files that belong to a run. */
#include "base/log.h"
#include "engine/formats/config.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Rewritten by ka_st_rewrite. */
static const char *const rewritten[] = {"*.safetensors", "*.safetensors.index.json", NULL};

/* Weights in other formats would be the untrained ones; a run's own files would lie about the new
 * run. */
static const char *const left_behind[] = {"pytorch_model*.bin",
                                          "pytorch_model*.bin.index.json",
                                          "*.pth",
                                          "*.pt",
                                          "*.gguf",
                                          "*.ggml",
                                          "*.h5",
                                          "*.msgpack",
                                          "*.onnx",
                                          "*.ckpt",
                                          "*.ot",
                                          "training_args.bin",
                                          "trainer_state.json",
                                          "train_log.jsonl",
                                          "selection.json",
                                          "report.html",
                                          "events.out.tfevents.*",
                                          "*.tmp.*",
                                          NULL};

static bool matches(const char *name, const char *const *patterns) {
  for (; *patterns; patterns++)
    if (fnmatch(*patterns, name, 0) == 0) return true;
  return false;
}

static bool same_dir(const char *a, const char *b) {
  struct stat x, y;
  return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
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
    if (stat(from, &info) != 0 || !S_ISREG(info.st_mode) || matches(names[i], rewritten)) continue;
    if (matches(names[i], left_behind))
      KA_TRY(ka_str_printf(ctx, left, "%s%s", left->len ? ", " : "", names[i]));
    else
      KA_TRY(ka_copy_file(ctx, from, to));
  }
  return KA_STATUS_OK;
}

ka_status ka_model_dir_carry(struct ka_ctx *ctx, const char *base_dir, const char *out_dir) {
  if (same_dir(base_dir, out_dir)) return KA_STATUS_OK;
  struct ka_arena a;
  struct ka_str left = {0};
  ka_arena_init(&a, ctx, "carry over");
  ka_status st = carry_all(ctx, &a, base_dir, out_dir, &left);
  if (ka_ok(st) && left.len > 0)
    ka_info(ctx, "formats", "%s: not carried over: %s", base_dir, left.data);
  ka_str_deinit(&left);
  ka_arena_deinit(&a);
  return st;
}
