/* SPDX-License-Identifier: Apache-2.0
 * Checkpoints of a run; see checkpoint.h. */
#include "engine/train/checkpoint.h"

#include "base/file.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

enum { N_PARTS = 3 };
static const char part_letter[N_PARTS] = {'w', 'm', 'v'};

/* "checkpoint-12" -> 12; -1 for any other name. */
static int64_t step_of(const char *name) {
  int64_t step;
  if (!ka_starts_with(name, "checkpoint-") || !ka_parse_i64(name + 11, &step) || step < 0)
    return -1;
  return step;
}

static ka_status write_tensors(struct ka_ctx *ctx, struct ka_arena *a, const char *dir,
                               const struct ka_optim *o) {
  void *mem = NULL;
  KA_TRY(ka_arena_alloc_n(a, &mem, o->n * N_PARTS, sizeof(struct ka_st_out), "checkpoint table"));
  struct ka_st_out *out = mem;
  for (int64_t i = 0; i < o->n; i++) {
    const char *name;
    KA_TRY(ka_optim_slice_name(a, o, i, &name));
    for (int k = 0; k < N_PARTS; k++) {
      struct ka_st_out *row = &out[i * N_PARTS + k];
      KA_TRY(ka_arena_printf(a, &row->name, "%c.%s", part_letter[k], name));
      row->t = *ka_optim_part(&o->slices[i], k);
      row->dev = o->model->dev;
    }
  }
  const char *path;
  KA_TRY(ka_path_join(a, &path, dir, "trained.safetensors"));
  return ka_st_write(ctx, path, out, o->n * N_PARTS, NULL, 0);
}

static ka_status write_files(struct ka_ctx *ctx, struct ka_arena *a, const char *dir,
                             const struct ka_optim *o, const json_t *state,
                             const char *selection_path) {
  const char *path;
  KA_TRY(ka_make_dirs(ctx, dir));
  KA_TRY(write_tensors(ctx, a, dir, o));
  if (selection_path) {
    KA_TRY(ka_path_join(a, &path, dir, "selection.json"));
    KA_TRY(ka_copy_file(ctx, selection_path, path));
  }
  KA_TRY(ka_path_join(a, &path, dir, "state.json"));
  KA_TRY(ka_json_write(ctx, state, path));
  return ka_fsync_dir(ctx, dir);
}

/* Out of sight by one rename, then removed: what is called checkpoint-N stays complete. */
static ka_status discard(struct ka_ctx *ctx, struct ka_arena *a, const char *out_dir,
                         const char *name) {
  const char *path, *hidden;
  KA_TRY(ka_path_join(a, &path, out_dir, name));
  KA_TRY(ka_arena_printf(a, &hidden, "%s/.%s.old.tmp", out_dir, name));
  KA_TRY(ka_remove_tree(ctx, hidden));
  KA_TRY(ka_rename(ctx, path, hidden));
  return ka_remove_tree(ctx, hidden);
}

static ka_status apply_limit(struct ka_ctx *ctx, struct ka_arena *a, const char *out_dir,
                             int64_t newest, int64_t limit) {
  const char **names;
  int64_t n, n_ckpt = 0;
  KA_TRY(ka_list_dir(a, out_dir, &names, &n));
  for (int64_t i = 0; i < n; i++) n_ckpt += step_of(names[i]) >= 0;
  for (; limit > 0 && n_ckpt > limit; n_ckpt--) {
    int64_t oldest = -1;
    for (int64_t i = 0; i < n; i++) {
      int64_t step = names[i] ? step_of(names[i]) : -1;
      if (step >= 0 && step != newest && (oldest < 0 || step < step_of(names[oldest]))) oldest = i;
    }
    if (oldest < 0) break;
    KA_TRY(discard(ctx, a, out_dir, names[oldest]));
    names[oldest] = NULL;
  }
  return KA_STATUS_OK;
}

ka_status ka_ckpt_write(struct ka_ctx *ctx, const char *out_dir, int64_t step,
                        const struct ka_optim *o, const json_t *state, const char *selection_path,
                        int64_t limit) {
  struct ka_arena a;
  const char *tmp = NULL, *final;
  ka_arena_init(&a, ctx, "checkpoint");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_arena_printf(&a, &tmp, "%s/.checkpoint-%lld.tmp", out_dir, (long long)step), out);
  KA_TRY_GOTO(ka_arena_printf(&a, &final, "%s/checkpoint-%lld", out_dir, (long long)step), out);
  KA_TRY_GOTO(ka_remove_tree(ctx, tmp), out);
  KA_TRY_GOTO(write_files(ctx, &a, tmp, o, state, selection_path), out);
  if (ka_path_exists(final)) KA_TRY_GOTO(discard(ctx, &a, out_dir, ka_path_base(final)), out);
  KA_TRY_GOTO(ka_rename(ctx, tmp, final), out);
  tmp = NULL;
  KA_TRY_GOTO(apply_limit(ctx, &a, out_dir, step, limit), out);
out:
  if (!ka_ok(st) && tmp) (void)!ka_ok(ka_remove_tree(ctx, tmp));
  ka_arena_deinit(&a);
  return st;
}

ka_status ka_ckpt_write_slices(struct ka_ctx *ctx, const char *out_dir, const char *name,
                               const struct ka_optim *o) {
  struct ka_arena a;
  const char *tmp = NULL, *final;
  ka_arena_init(&a, ctx, "trained slices");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_arena_printf(&a, &tmp, "%s/.checkpoint-%s.tmp", out_dir, name), out);
  KA_TRY_GOTO(ka_path_join(&a, &final, out_dir, name), out);
  KA_TRY_GOTO(ka_remove_tree(ctx, tmp), out);
  KA_TRY_GOTO(ka_make_dirs(ctx, tmp), out);
  KA_TRY_GOTO(write_tensors(ctx, &a, tmp, o), out);
  if (ka_path_exists(final)) KA_TRY_GOTO(discard(ctx, &a, out_dir, name), out);
  KA_TRY_GOTO(ka_rename(ctx, tmp, final), out);
  tmp = NULL;
out:
  if (!ka_ok(st) && tmp) (void)!ka_ok(ka_remove_tree(ctx, tmp));
  ka_arena_deinit(&a);
  return st;
}

/* Does a checkpoint name this directory? */
static ka_status named(struct ka_arena *a, const char *out_dir, const char *const *names, int64_t n,
                       const char *key, const char *dir, bool *out) {
  struct ka_ctx *ctx = a->ctx;
  const char *path;
  *out = false;
  for (int64_t i = 0; i < n && !*out; i++) {
    json_t *state = NULL;
    if (step_of(names[i]) < 0) continue;
    KA_TRY(ka_path_join(a, &path, out_dir, names[i]));
    KA_TRY(ka_ckpt_state(ctx, path, &state));
    const json_t *v = json_object_get(json_object_get(state, "run"), key);
    *out = json_is_string(v) && strcmp(json_string_value(v), dir) == 0;
    json_decref(state);
  }
  return KA_STATUS_OK;
}

static ka_status sweep_named(struct ka_arena *a, const char *out_dir, const char *prefix,
                             const char *key, const char *keep) {
  struct ka_ctx *ctx = a->ctx;
  const char **names, *path;
  int64_t n = 0;
  KA_TRY(ka_list_dir(a, out_dir, &names, &n));
  for (int64_t i = 0; i < n; i++) {
    bool needed = keep && strcmp(names[i], keep) == 0;
    if (needed || !ka_starts_with(names[i], prefix)) continue;
    KA_TRY(named(a, out_dir, names, n, key, names[i], &needed));
    if (needed) continue;
    KA_TRY(ka_path_join(a, &path, out_dir, names[i]));
    KA_TRY(ka_remove_tree(ctx, path));
  }
  return KA_STATUS_OK;
}

ka_status ka_ckpt_sweep_named(struct ka_ctx *ctx, const char *out_dir, const char *prefix,
                              const char *key, const char *keep) {
  struct ka_arena a;
  ka_arena_init(&a, ctx, "checkpoint sweep");
  ka_status st = sweep_named(&a, out_dir, prefix, key, keep);
  ka_arena_deinit(&a);
  return st;
}

ka_status ka_ckpt_newest(struct ka_arena *a, const char *out_dir, const char **dir, int64_t *step) {
  struct ka_ctx *ctx = a->ctx;
  const char **names;
  int64_t n, best = -1;
  *dir = NULL;
  *step = -1;
  if (!ka_path_is_dir(out_dir)) return KA_STATUS_OK;
  KA_TRY(ka_list_dir(a, out_dir, &names, &n));
  for (int64_t i = 0; i < n; i++)
    if (step_of(names[i]) > *step) {
      best = i;
      *step = step_of(names[i]);
    }
  if (best < 0) return KA_STATUS_OK;
  return ka_path_join(a, dir, out_dir, names[best]);
}

ka_status ka_ckpt_state(struct ka_ctx *ctx, const char *dir, json_t **state) {
  struct ka_arena a;
  const char *path;
  *state = NULL;
  ka_arena_init(&a, ctx, "checkpoint state");
  ka_status st = ka_path_join(&a, &path, dir, "state.json");
  if (ka_ok(st)) st = ka_json_load(ctx, path, state);
  ka_arena_deinit(&a);
  return st;
}

static ka_status load_part(struct ka_ctx *ctx, struct ka_optim *o, const struct ka_safetensors *f,
                           int64_t i, int part, const char *name) {
  struct ka_tensor *to = ka_optim_part(&o->slices[i], part);
  const char *file = f->shards[0].path;
  const struct ka_st_entry *e = ka_st_find(f, name);
  if (!e)
    return ka_fail(ctx, KA_E_INPUT, "%s: tensor %s is missing; the selection of the job differs",
                   file, name);
  struct ka_tensor from = ka_tensor_as_matrix(e->t);
  if (from.dtype != to->dtype || from.shape[0] != to->shape[0] || from.shape[1] != to->shape[1])
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: got %s [%lld,%lld], expected F32 [%lld,%lld]", file,
                   name, ka_dtype_name(from.dtype), (long long)from.shape[0],
                   (long long)from.shape[1], (long long)to->shape[0], (long long)to->shape[1]);
  return ka_dev_put(o->model->dev, *to, from);
}

static ka_status load_all(struct ka_ctx *ctx, struct ka_arena *a, const struct ka_safetensors *f,
                          struct ka_optim *o) {
  if (f->n_entries != o->n * N_PARTS)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: got %lld tensors, expected %lld; the selection of the job differs",
                   f->shards[0].path, (long long)f->n_entries, (long long)o->n * N_PARTS);
  for (int64_t i = 0; i < o->n; i++) {
    const char *name, *full;
    KA_TRY(ka_optim_slice_name(a, o, i, &name));
    for (int k = 0; k < N_PARTS; k++) {
      KA_TRY(ka_arena_printf(a, &full, "%c.%s", part_letter[k], name));
      KA_TRY(load_part(ctx, o, f, i, k, full));
    }
  }
  return ka_optim_publish(o);
}

ka_status ka_ckpt_load(struct ka_ctx *ctx, const char *dir, struct ka_optim *o) {
  struct ka_arena a;
  struct ka_safetensors file;
  const char *path;
  ka_arena_init(&a, ctx, "checkpoint names");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_path_join(&a, &path, dir, "trained.safetensors"), out);
  KA_TRY_GOTO(ka_st_open(ctx, &file, path), out);
  st = load_all(ctx, &a, &file, o);
  ka_st_close(&file);
out:
  ka_arena_deinit(&a);
  return st;
}

ka_status ka_ckpt_sweep(struct ka_ctx *ctx, const char *out_dir) {
  struct ka_arena a;
  const char **names, *path;
  int64_t n;
  ka_arena_init(&a, ctx, "checkpoint sweep");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_list_dir(&a, out_dir, &names, &n), out);
  for (int64_t i = 0; i < n; i++)
    if (ka_starts_with(names[i], ".checkpoint-")) {
      KA_TRY_GOTO(ka_path_join(&a, &path, out_dir, names[i]), out);
      KA_TRY_GOTO(ka_remove_tree(ctx, path), out);
    }
out:
  ka_arena_deinit(&a);
  return st;
}
