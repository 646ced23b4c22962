/* SPDX-License-Identifier: Apache-2.0
 * Checkpoints of a run; see checkpoint.h. */
#include "engine/train/checkpoint.h"

#include "engine/dist/dist.h"
#include "engine/train/gather.h"

#include "base/file.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

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
  void *mem = NULL, *readers_mem = NULL;
  KA_TRY(ka_arena_alloc_n(a, &mem, o->n * N_PARTS, sizeof(struct ka_st_out), "checkpoint table"));
  KA_TRY(ka_arena_alloc_n(a, &readers_mem, o->n * N_PARTS, sizeof(struct ka_optim_reader),
                          "checkpoint table"));
  struct ka_st_out *out = mem;
  struct ka_optim_reader *readers = readers_mem;
  for (int64_t i = 0; i < o->n; i++) {
    const char *name;
    KA_TRY(ka_optim_slice_name(a, o, i, &name));
    for (int k = 0; k < N_PARTS; k++) {
      struct ka_st_out *row = &out[i * N_PARTS + k];
      KA_TRY(ka_arena_printf(a, &row->name, "%c.%s", part_letter[k], name));
      const struct ka_slice *s = &o->model->slices[i];
      readers[i * N_PARTS + k] = (struct ka_optim_reader){o, i, k};
      row->t = ka_tensor_2d(NULL, o->config.state, s->n_rows, s->n_cols);
      row->read = ka_optim_read;
      row->user = &readers[i * N_PARTS + k];
    }
  }
  const char *path;
  KA_TRY(ka_path_join(a, &path, dir, "trained.safetensors"));
  KA_TRY(ka_st_write(ctx, path, out, o->n * N_PARTS, NULL, 0));
  return ka_optim_serve(o); /* no more is asked for */
}

/* --- hashes ------------------------------------------------------------------ */

/* Of the state without its own. */
static ka_status state_hash(struct ka_ctx *ctx, const json_t *state, json_t **out) {
  struct ka_str text = {0};
  char hex[KA_HASH_TEXT];
  json_t *rest = json_copy((json_t *)(uintptr_t)state);
  ka_status st = KA_STATUS_OK;
  *out = NULL;
  if (!rest) return ka_fail(ctx, KA_E_MEMORY, "checkpoint state: out of memory");
  (void)json_object_del(rest, "hash");
  st = ka_json_dump_line(ctx, rest, &text);
  json_decref(rest);
  if (ka_ok(st)) {
    XXH128_hash_t v = XXH3_128bits(text.data, text.len);
    *out = json_string(ka_fmt_hash(v.high64, v.low64, hex));
  }
  ka_str_deinit(&text);
  return st;
}

static ka_status add_hash(struct ka_ctx *ctx, json_t *files, const char *path) {
  char hash[KA_HASH_TEXT];
  KA_TRY(ka_file_hash(ctx, path, hash));
  return ka_json_set(ctx, files, ka_path_base(path), json_string(hash));
}

static ka_status write_state(struct ka_ctx *ctx, const char *path, const json_t *state,
                             json_t *files) {
  json_t *all = json_copy((json_t *)(uintptr_t)state), *hash = NULL;
  ka_status st = ka_json_set(ctx, all, "files", json_incref(files));
  if (ka_ok(st)) st = state_hash(ctx, all, &hash);
  if (ka_ok(st)) st = ka_json_set(ctx, all, "hash", hash);
  if (ka_ok(st)) st = ka_json_write(ctx, all, path);
  json_decref(all);
  return st;
}

static ka_status write_files(struct ka_ctx *ctx, struct ka_arena *a, const char *dir,
                             const struct ka_optim *o, const json_t *state,
                             const char *selection_path) {
  const char *path;
  json_t *files = json_object();
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_make_dirs(ctx, dir), out);
  KA_TRY_GOTO(write_tensors(ctx, a, dir, o), out);
  KA_TRY_GOTO(ka_path_join(a, &path, dir, "trained.safetensors"), out);
  KA_TRY_GOTO(add_hash(ctx, files, path), out);
  if (selection_path) {
    KA_TRY_GOTO(ka_path_join(a, &path, dir, "selection.json"), out);
    KA_TRY_GOTO(ka_copy_file(ctx, selection_path, path), out);
    KA_TRY_GOTO(add_hash(ctx, files, path), out);
  }
  KA_TRY_GOTO(ka_path_join(a, &path, dir, "state.json"), out);
  KA_TRY_GOTO(write_state(ctx, path, state, files), out);
  KA_TRY_GOTO(ka_fsync_dir(ctx, dir), out);
out:
  json_decref(files);
  return st;
}

/* --- writing ----------------------------------------------------------------- */

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

static ka_status write_checkpoint(struct ka_ctx *ctx, const char *out_dir, int64_t step,
                                  const struct ka_optim *o, const json_t *state,
                                  const char *selection_path, int64_t limit) {
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

/* Rank 0 writes for all; the others go on when it is there. */
ka_status ka_ckpt_write(struct ka_ctx *ctx, const char *out_dir, int64_t step,
                        const struct ka_optim *o, const json_t *state, const char *selection_path,
                        int64_t limit) {
  KA_TRY(ctx->rank == 0 ? write_checkpoint(ctx, out_dir, step, o, state, selection_path, limit)
                        : ka_optim_serve(o));
  return ka_dist_barrier(ctx->dist, "the checkpoint");
}

static ka_status write_slices(struct ka_ctx *ctx, const char *out_dir, const char *name,
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

ka_status ka_ckpt_write_slices(struct ka_ctx *ctx, const char *out_dir, const char *name,
                               const struct ka_optim *o) {
  KA_TRY(ctx->rank == 0 ? write_slices(ctx, out_dir, name, o) : ka_optim_serve(o));
  return ka_dist_barrier(ctx->dist, "the best state");
}

static ka_status load_state(struct ka_arena *a, const char *dir, json_t **state) {
  struct ka_ctx *ctx = a->ctx;
  const char *path;
  *state = NULL;
  KA_TRY(ka_path_join(a, &path, dir, "state.json"));
  return ka_json_load(ctx, path, state);
}

/* Does a checkpoint name this directory? One that is damaged says nothing. */
static ka_status named(struct ka_arena *a, const char *out_dir, const char *const *names, int64_t n,
                       const char *key, const char *dir, bool *out) {
  struct ka_ctx *ctx = a->ctx;
  const char *path;
  *out = false;
  for (int64_t i = 0; i < n && !*out; i++) {
    json_t *state = NULL;
    if (step_of(names[i]) < 0) continue;
    KA_TRY(ka_path_join(a, &path, out_dir, names[i]));
    ka_status st = load_state(a, path, &state);
    if (st.code == KA_E_INPUT) {
      ka_error_clear(ctx);
      continue;
    }
    KA_TRY(st);
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
  if (ctx->rank > 0) return KA_STATUS_OK;
  ka_arena_init(&a, ctx, "checkpoint sweep");
  ka_status st = sweep_named(&a, out_dir, prefix, key, keep);
  ka_arena_deinit(&a);
  return st;
}

/* --- finding one to go on from ----------------------------------------------- */

/* What only kappa writes there: a hash would not tell that a person wrote something else. */
static ka_status check_state(struct ka_ctx *ctx, const char *dir, int64_t step, const json_t *s) {
  static const char *const names[][2] = {{"weights_from", "refresh-"}, {"best", "best-"}};
  int64_t version = 0, said = -1;
  KA_TRY(ka_json_i64(ctx, dir, s, "version", &version));
  if (version != KA_CKPT_VERSION)
    return ka_fail(ctx, KA_E_INPUT, "%s/state.json: version: got %lld, this kappa reads %d", dir,
                   (long long)version, KA_CKPT_VERSION);
  KA_TRY(ka_json_i64(ctx, dir, s, "step", &said));
  if (said != step)
    return ka_fail(ctx, KA_E_INPUT, "%s/state.json: step: got %lld, expected %lld", dir,
                   (long long)said, (long long)step);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const json_t *v = json_object_get(json_object_get(s, "run"), names[i][0]);
    const char *name = json_string_value(v);
    if (v && !(name && ka_starts_with(name, names[i][1]) && !strchr(name, '/')))
      return ka_fail(ctx, KA_E_INPUT, "%s/state.json: run.%s: expected the name of a directory %sN",
                     dir, names[i][0], names[i][1]);
  }
  return KA_STATUS_OK;
}

/* *bad: the first file that is not as it was written. */
static ka_status find_damage(struct ka_arena *a, const char *dir, const json_t *state,
                             const char **bad) {
  struct ka_ctx *ctx = a->ctx;
  const char *name, *path;
  json_t *hash, *own = NULL;
  char now[KA_HASH_TEXT];
  *bad = NULL;
  KA_TRY(state_hash(ctx, state, &own));
  bool same = json_equal(own, json_object_get(state, "hash"));
  json_decref(own);
  if (!same) *bad = "state.json";
  json_object_foreach(json_object_get(state, "files"), name, hash) {
    if (*bad) break;
    KA_TRY(ka_path_join(a, &path, dir, name));
    bool there = ka_path_is_file(path);
    if (there) KA_TRY(ka_file_hash(ctx, path, now));
    if (!there || strcmp(now, json_is_string(hash) ? json_string_value(hash) : "") != 0)
      KA_TRY(ka_arena_str(a, bad, name, strlen(name)));
  }
  return KA_STATUS_OK;
}

/* Checkpoint `step`: *state stays NULL where it is damaged. */
static ka_status open_one(struct ka_arena *a, const char *dir, int64_t step, json_t **state) {
  struct ka_ctx *ctx = a->ctx;
  const char *bad = NULL;
  ka_status st = load_state(a, dir, state);
  if (st.code == KA_E_INPUT) {
    ka_warn(ctx, "train", "%s: damaged: %s", dir, ctx->error.message);
    ka_error_clear(ctx);
    return KA_STATUS_OK;
  }
  if (ka_ok(st)) st = check_state(ctx, dir, step, *state);
  if (ka_ok(st)) st = find_damage(a, dir, *state, &bad);
  if (ka_ok(st) && !bad) return st;
  json_decref(*state);
  *state = NULL;
  if (bad) ka_warn(ctx, "train", "%s: damaged: %s is not what was written", dir, bad);
  return st;
}

ka_status ka_ckpt_newest(struct ka_arena *a, const char *out_dir, const char **dir, int64_t *step,
                         json_t **state) {
  struct ka_ctx *ctx = a->ctx;
  const char **names;
  int64_t n;
  bool any = false;
  *dir = NULL;
  *step = 0;
  *state = NULL;
  KA_TRY(ka_list_dir(a, out_dir, &names, &n));
  for (;;) {
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
      if (names[i] && step_of(names[i]) >= 0 &&
          (best < 0 || step_of(names[i]) > step_of(names[best])))
        best = i;
    if (best < 0) break;
    any = true;
    KA_TRY(ka_path_join(a, dir, out_dir, names[best]));
    *step = step_of(names[best]);
    KA_TRY(open_one(a, *dir, *step, state));
    if (*state) return KA_STATUS_OK;
    names[best] = NULL;
  }
  *dir = NULL;
  *step = 0;
  return any ? ka_fail(ctx, KA_E_INPUT, "%s: no checkpoint is whole; remove them to begin anew",
                       out_dir)
             : KA_STATUS_OK;
}

/* --- loading ----------------------------------------------------------------- */

static ka_status load_part(struct ka_ctx *ctx, struct ka_optim *o, const struct ka_safetensors *f,
                           int64_t i, int part, const char *name) {
  struct ka_tensor *to = ka_optim_part(&o->slices[i], part);
  const char *file = f->shards[0].path;
  const struct ka_st_entry *e = ka_st_find(f, name);
  if (!e)
    return ka_fail(ctx, KA_E_INPUT, "%s: tensor %s is missing; the selection of the job differs",
                   file, name);
  struct ka_tensor from = ka_tensor_as_matrix(e->t);
  const struct ka_slice *s = &o->model->slices[i];
  if (from.dtype != to->dtype || from.shape[0] != s->n_rows || from.shape[1] != s->n_cols)
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: got %s [%lld,%lld], expected %s [%lld,%lld]", file,
                   name, ka_dtype_name(from.dtype), (long long)from.shape[0],
                   (long long)from.shape[1], ka_dtype_name(to->dtype), (long long)s->n_rows,
                   (long long)s->n_cols);
  return ka_dev_put(o->model->dev, *to, ka_model_shard_view(o->model, i, from));
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

static ka_status sweep(struct ka_arena *a, const char *out_dir, int64_t step, int64_t limit) {
  struct ka_ctx *ctx = a->ctx;
  const char **names, *path, *aside;
  int64_t n;
  ka_sweep_tmp_in(ctx, out_dir);
  KA_TRY(ka_list_dir(a, out_dir, &names, &n));
  for (int64_t i = 0; i < n; i++) {
    KA_TRY(ka_path_join(a, &path, out_dir, names[i]));
    if (ka_starts_with(names[i], ".checkpoint-")) KA_TRY(ka_remove_tree(ctx, path));
    if (step_of(names[i]) <= step) continue;
    KA_TRY(ka_arena_printf(a, &aside, "%s/damaged-%s", out_dir, names[i]));
    KA_TRY(ka_remove_tree(ctx, aside));
    KA_TRY(ka_rename(ctx, path, aside));
  }
  return apply_limit(ctx, a, out_dir, step, limit);
}

ka_status ka_ckpt_sweep(struct ka_ctx *ctx, const char *out_dir, int64_t step, int64_t limit) {
  struct ka_arena a;
  ka_arena_init(&a, ctx, "checkpoint sweep");
  ka_status st = sweep(&a, out_dir, step, limit);
  ka_arena_deinit(&a);
  return st;
}
