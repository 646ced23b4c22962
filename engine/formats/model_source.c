/* SPDX-License-Identifier: Apache-2.0
 * Which of the three a MODEL is, and the directory that it would have. That of a delta or of an
 * adapter with a tokenizer is a temporary one: links to the base's files, and the other ones. */
#include "engine/formats/model_source.h"

#include "base/log.h"
#include "engine/formats/adapter.h"
#include "engine/formats/config.h"
#include "engine/formats/delta.h"
#include "engine/formats/hub.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- the temporary directory ------------------------------------------------------------------ */

static ka_status make_view(struct ka_model_source *s) {
  struct ka_ctx *ctx = s->arena.ctx;
  const char *root = getenv("TMPDIR"), *path = NULL;
  KA_TRY(ka_arena_printf(&s->arena, &path, "%s/kappa-XXXXXX", root && *root ? root : "/tmp"));
  if (!mkdtemp((char *)(uintptr_t)path))
    return ka_fail(ctx, KA_E_IO, "%s: cannot make a directory: %s", path, strerror(errno));
  s->dir = s->temp_dir = path;
  return KA_STATUS_OK;
}

/* A link to from_dir/name under the same name. */
static ka_status link_file(struct ka_model_source *s, const char *from_dir, const char *name) {
  struct ka_ctx *ctx = s->arena.ctx;
  const char *from = NULL, *to = NULL;
  KA_TRY(ka_path_join(&s->arena, &from, from_dir, name));
  KA_TRY(ka_path_join(&s->arena, &to, s->temp_dir, name));
  char *real = realpath(from, NULL);
  if (!real) return ka_fail(ctx, KA_E_INPUT, "%s: %s", from, strerror(errno));
  ka_status st = KA_STATUS_OK;
  if (symlink(real, to) != 0)
    st = ka_fail(ctx, KA_E_IO, "%s: cannot link %s: %s", to, real, strerror(errno));
  free(real);
  return st;
}

static ka_status write_file(struct ka_model_source *s, const char *name, const void *bytes,
                            size_t n) {
  struct ka_ctx *ctx = s->arena.ctx;
  const char *path = NULL;
  KA_TRY(ka_path_join(&s->arena, &path, s->temp_dir, name));
  return ka_write_file(ctx, path, bytes, n);
}

/* --- a delta ---------------------------------------------------------------------------------- */

static ka_status view_delta(struct ka_model_source *s, const struct ka_delta *d, const char *base) {
  struct ka_ctx *ctx = s->arena.ctx;
  KA_TRY(make_view(s));
  for (int64_t i = 0; i < d->n_files; i++) {
    const struct ka_delta_file *f = &d->files[i];
    if (ka_hf_file_kind_of(f->name) != KA_FILE_MODEL) continue;
    if (f->from == KA_DELTA_STORED)
      KA_TRY(write_file(s, f->name, d->file.shards[0].map.data + f->payload->offset_bytes,
                        f->n_bytes));
    if (f->from != KA_DELTA_BASE) continue;
    KA_TRY(ka_delta_check_file(ctx, d, f, base));
    KA_TRY(link_file(s, base, f->name));
  }
  return KA_STATUS_OK;
}

static ka_status find_base(struct ka_model_source *s, const char *model, const char *said,
                           const char **base) {
  struct ka_ctx *ctx = s->arena.ctx;
  if (*base) return KA_STATUS_OK;
  *base = said;
  if (ka_path_is_dir(said)) return KA_STATUS_OK;
  const char *found;
  KA_TRY(ka_hub_find(&s->arena, KA_HUB_MODEL, said, &found));
  if (found) *base = found;
  if (found) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT,
                 "%s: its base is \"%s\", which is no directory here, nor in the Hugging Face "
                 "cache; say where "
                 "it is with --base DIR",
                 model, said);
}

static ka_status open_delta(struct ka_model_source *s, const char *model, const char *base,
                            bool weights) {
  struct ka_ctx *ctx = s->arena.ctx;
  struct ka_delta d;
  ka_status st = KA_STATUS_OK;
  KA_TRY(ka_delta_open(ctx, &d, model));
  KA_TRY_GOTO(find_base(s, model, d.base, &base), out);
  KA_TRY_GOTO(view_delta(s, &d, base), out);
  if (!weights) goto out;
  KA_TRY_GOTO(ka_st_open(ctx, &s->files, base), out);
  KA_TRY_GOTO(ka_delta_check_base(ctx, &d, &s->files, NULL), out);
  KA_TRY_GOTO(ka_delta_overlay(ctx, &d, &s->files), out);
  ka_info(ctx, "delta", "%s: %lld of %lld tensors over %s", model, (long long)d.n_tensors,
          (long long)d.layout.n_entries, base);
out:
  ka_delta_close(&d);
  return st;
}

/* --- an adapter ------------------------------------------------------------------------------- */

/* config.json with a head of its own. */
static ka_status write_untied(struct ka_model_source *s, const char *base) {
  struct ka_ctx *ctx = s->arena.ctx;
  const char *path = NULL;
  json_t *root = NULL;
  struct ka_str text = {0};
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_path_join(&s->arena, &path, base, "config.json"), out);
  KA_TRY_GOTO(ka_json_load(ctx, path, &root), out);
  json_t *body = json_object_get(root, "text_config");
  bool good = json_object_set_new(root, "tie_word_embeddings", json_false()) == 0;
  if (json_is_object(body))
    good = good && json_object_set_new(body, "tie_word_embeddings", json_false()) == 0;
  if (!good) st = ka_fail(ctx, KA_E_INPUT, "%s: expected a JSON object", path);
  if (ka_ok(st)) st = ka_json_dump(ctx, root, &text);
  if (ka_ok(st)) st = write_file(s, "config.json", text.data, text.len);
out:
  json_decref(root);
  ka_str_deinit(&text);
  return st;
}

/* Links to the model files of dir, but for `except`. */
static ka_status link_all(struct ka_model_source *s, const char *dir, const char *const *except) {
  struct ka_ctx *ctx = s->arena.ctx;
  const char **names, *path = NULL;
  int64_t n = 0;
  KA_TRY(ka_list_dir(&s->arena, dir, &names, &n));
  for (int64_t i = 0; i < n; i++) {
    struct stat info;
    bool skip = ka_hf_file_kind_of(names[i]) != KA_FILE_MODEL;
    for (int k = 0; except[k]; k++) skip = skip || strcmp(names[i], except[k]) == 0;
    KA_TRY(ka_path_join(&s->arena, &path, dir, names[i]));
    if (!skip && stat(path, &info) == 0 && S_ISREG(info.st_mode))
      KA_TRY(link_file(s, dir, names[i]));
  }
  return KA_STATUS_OK;
}

/* An adapter saved with a tokenizer is used with that one, and none of the base's files for it. */
static ka_status view_adapter(struct ka_model_source *s, const char *model, const char *base,
                              bool untied) {
  struct ka_ctx *ctx = s->arena.ctx;
  static const char *const configs[] = {"config.json", "generation_config.json",
                                        "adapter_config.json", NULL};
  const char *path = NULL;
  KA_TRY(ka_path_join(&s->arena, &path, model, "tokenizer.json"));
  bool tokenizer = ka_path_exists(path);
  s->dir = base;
  if (!tokenizer && !untied) return KA_STATUS_OK;
  KA_TRY(make_view(s));
  KA_TRY(link_all(s, tokenizer ? model : base, configs));
  KA_TRY(ka_path_join(&s->arena, &path, base, configs[1]));
  if (ka_path_exists(path)) KA_TRY(link_file(s, base, configs[1]));
  return untied ? write_untied(s, base) : link_file(s, base, configs[0]);
}

static ka_status open_adapter(struct ka_model_source *s, const char *model, const char *base,
                              bool weights) {
  struct ka_ctx *ctx = s->arena.ctx;
  const char *said = NULL;
  bool untied = false;
  KA_TRY(ka_path_join(&s->arena, &said, model, "tokenizer.json"));
  if (!weights && ka_path_exists(said)) return KA_STATUS_OK; /* its own */
  KA_TRY(ka_adapter_base(&s->arena, model, &said));
  KA_TRY(find_base(s, model, said, &base));
  if (weights) {
    KA_TRY(ka_st_open(ctx, &s->files, base));
    KA_TRY(ka_adapter_merge(ctx, model, base, &s->files, &untied, &s->n_adapter));
  }
  return view_adapter(s, model, base, untied);
}

/* --- which of them ---------------------------------------------------------------------------- */

static ka_status is_delta(struct ka_ctx *ctx, const char *model, bool *delta) {
  struct ka_safetensors st;
  *delta = false;
  if (ka_path_is_dir(model) || !ka_ends_with(model, ".safetensors")) return KA_STATUS_OK;
  KA_TRY(ka_st_open(ctx, &st, model));
  *delta = ka_delta_is(&st);
  ka_st_close(&st);
  return KA_STATUS_OK;
}

static ka_status open_any(struct ka_model_source *s, const char *model, const char *base,
                          bool weights) {
  struct ka_ctx *ctx = s->arena.ctx;
  bool delta = false;
  KA_TRY(ka_hub_model(&s->arena, &model));
  if (base) KA_TRY(ka_hub_model(&s->arena, &base));
  KA_TRY(ka_hub_snapshot(&s->arena, model, &model));
  KA_TRY(ka_arena_str(&s->arena, &s->dir, model, strlen(model)));
  if (base) KA_TRY(ka_arena_str(&s->arena, &base, base, strlen(base)));
  KA_TRY(is_delta(ctx, model, &delta));
  if (delta) return open_delta(s, model, base, weights);
  if (ka_adapter_is(model)) return open_adapter(s, model, base, weights);
  if (base)
    return ka_fail(ctx, KA_E_USAGE, "--base: %s is neither a delta nor an adapter: it has no base",
                   model);
  return weights ? ka_st_open(ctx, &s->files, model) : KA_STATUS_OK;
}

ka_status ka_model_source_open(struct ka_ctx *ctx, struct ka_model_source *s, const char *model,
                               const char *base) {
  *s = (struct ka_model_source){0};
  ka_arena_init(&s->arena, ctx, "model source");
  return open_any(s, model, base, true);
}

ka_status ka_model_source_open_dir(struct ka_ctx *ctx, struct ka_model_source *s, const char *model,
                                   const char *base) {
  *s = (struct ka_model_source){0};
  ka_arena_init(&s->arena, ctx, "model source");
  return open_any(s, model, base, false);
}

void ka_model_source_close(struct ka_model_source *s) {
  if (s->temp_dir && !ka_ok(ka_remove_tree(s->arena.ctx, s->temp_dir)))
    ka_warn(s->arena.ctx, "model", "%s: left behind", s->temp_dir);
  ka_st_close(&s->files);
  ka_arena_deinit(&s->arena);
  *s = (struct ka_model_source){0};
}
