/* SPDX-License-Identifier: Apache-2.0
 * Selecting again while training; see refresh.h. */
#include "engine/train/refresh.h"

#include "base/log.h"
#include "engine/dist/dist.h"
#include "engine/train/checkpoint.h"
#include "engine/train/gather.h"
#include "engine/train/output.h"

#include <math.h>
#include <string.h>

bool ka_train_refresh_due(const struct ka_run *r, int64_t step) {
  int64_t every = r->loop.refresh_steps;
  return every > 0 && step > 0 && step % every == 0 && step < r->loop.schedule.n_steps &&
         r->refreshed_at != step;
}

ka_status ka_train_refresh_kappa(struct ka_run *r, bool after, json_t *into) {
  struct ka_ctx *ctx = r->ctx;
  const char *name;
  double *kappa;
  KA_TRY(KA_NEW(&r->arena, &kappa, r->optim.n, "kappa of trained units"));
  KA_TRY(ka_train_kappa(ctx, &r->optim, after, kappa));
  for (int64_t i = 0; i < r->optim.n; i++) {
    KA_TRY(ka_optim_slice_name(&r->arena, &r->optim, i, &name));
    if (json_object_get(into, name)) continue;
    KA_TRY(ka_json_set(ctx, into, name, isnan(kappa[i]) ? json_null() : json_real(kappa[i])));
  }
  return KA_STATUS_OK;
}

static ka_status names_of(struct ka_arena *a, const struct ka_optim *o, const char ***out) {
  struct ka_ctx *ctx = a->ctx;
  KA_TRY(KA_NEW(a, out, o->n, "names of slices"));
  for (int64_t i = 0; i < o->n; i++) KA_TRY(ka_optim_slice_name(a, o, i, &(*out)[i]));
  return KA_STATUS_OK;
}

/* What an old slice leaves to the new one of the same name. */
struct kept {
  const char *name;
  struct ka_optim_slice state;
};

static ka_status to_host(struct ka_arena *a, struct ka_dev *dev, struct ka_tensor *t) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_tensor from = *t;
  KA_TRY(ka_tensor_alloc(a, t, "kept state", from.dtype, 2, from.shape));
  return ka_dev_get(dev, *t, from);
}

static ka_status keep_states(struct ka_arena *a, const struct ka_optim *o, struct kept **out) {
  struct ka_ctx *ctx = a->ctx;
  KA_TRY(KA_NEW(a, out, o->n, "kept states"));
  for (int64_t i = 0; i < o->n; i++) {
    struct kept *k = &(*out)[i];
    KA_TRY(ka_optim_slice_name(a, o, i, &k->name));
    k->state = o->slices[i];
    for (int part = 0; part < 3; part++)
      KA_TRY(to_host(a, o->model->dev, ka_optim_part(&k->state, part)));
  }
  return KA_STATUS_OK;
}

static ka_status hand_over(struct ka_run *r, struct ka_arena *a, const struct kept *kept,
                           int64_t n_kept, int64_t *n_stay) {
  struct ka_ctx *ctx = r->ctx;
  const char **names;
  *n_stay = 0;
  KA_TRY(names_of(a, &r->optim, &names));
  for (int64_t i = 0; i < r->optim.n; i++) {
    struct ka_optim_slice *s = &r->optim.slices[i];
    bool stays = false;
    for (int64_t k = 0; k < n_kept && !stays; k++) {
      if (strcmp(kept[k].name, names[i]) != 0) continue;
      struct ka_optim_slice from = kept[k].state;
      for (int part = 0; part < 3; part++)
        KA_TRY(ka_dev_put(&r->open.dev, *ka_optim_part(s, part), *ka_optim_part(&from, part)));
      s->t = from.t;
      stays = true;
    }
    *n_stay += stays;
    if (!stays) ka_info(ctx, "train", "  enters: %s", names[i]);
  }
  for (int64_t k = 0; k < n_kept; k++) {
    bool stays = false;
    for (int64_t i = 0; i < r->optim.n && !stays; i++) stays = strcmp(kept[k].name, names[i]) == 0;
    if (!stays) ka_info(ctx, "train", "  leaves: %s", kept[k].name);
  }
  return ka_optim_publish(&r->optim);
}

/* The model as it stands, under its final name or not at all. */
static ka_status write_model(struct ka_run *r, const char *dir) {
  struct ka_ctx *ctx = r->ctx;
  const char *tmp;
  KA_TRY(ka_arena_printf(&r->arena, &tmp, "%s/.checkpoint-refresh.tmp", r->job->output_dir));
  KA_TRY(ka_remove_tree(ctx, tmp));
  KA_TRY(ka_remove_tree(ctx, dir));
  KA_TRY(ka_make_dirs(ctx, tmp));
  KA_TRY(ka_train_output_write(ctx, &r->optim, r->job->base_model, tmp));
  KA_TRY(ka_optim_serve(&r->optim));
  return ka_rename(ctx, tmp, dir);
}

/* By rank 0 for all. */
static ka_status leave_model(struct ka_run *r, int64_t step, const char **dir) {
  struct ka_ctx *ctx = r->ctx;
  KA_TRY(ka_arena_printf(&r->arena, dir, "%s/refresh-%lld", r->job->output_dir, (long long)step));
  KA_TRY(ctx->rank == 0 ? write_model(r, *dir) : ka_optim_serve(&r->optim));
  return ka_dist_barrier(ctx->dist, "the model to select from");
}

static ka_status reopen(struct ka_run *r, const char *dir, int64_t step) {
  struct ka_ctx *ctx = r->ctx;
  ka_optim_deinit(&r->optim);
  ka_train_selection_close(&r->selection);
  KA_TRY(ka_session_reload(ctx, &r->open, dir));
  KA_TRY(ka_run_configure_model(r, dir));
  KA_TRY(ka_run_select(r, NULL, step));
  if (ctx->rank == 0) KA_TRY(ka_selection_write(ctx, &r->selection.chosen, r->loop.selection_path));
  return ka_run_take_selection(r);
}

ka_status ka_train_refresh(struct ka_run *r, struct ka_loop *loop) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_arena a;
  struct kept *kept = NULL;
  const char *dir = NULL;
  int64_t n_kept = r->optim.n, n_stay = 0;
  ka_arena_init(&a, ctx, "refresh");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(leave_model(r, loop->step, &dir), out);
  KA_TRY_GOTO(keep_states(&a, &r->optim, &kept), out);
  KA_TRY_GOTO(reopen(r, dir, loop->step), out);
  KA_TRY_GOTO(hand_over(r, &a, kept, n_kept, &n_stay), out);
  ka_info(ctx, "train", "step %lld: selected again: %lld units stay, %lld enter, %lld leave",
          (long long)loop->step, (long long)n_stay, (long long)(r->optim.n - n_stay),
          (long long)(n_kept - n_stay));
  r->refreshed_at = loop->step;
  if (ctx->rank == 0)
    KA_TRY_GOTO(
        ka_train_refresh_kappa(r, false, json_object_get(loop->extra_state, "kappa_before")), out);
  r->weights_from = ka_path_base(dir);
  json_object_set_new(loop->extra_state, "weights_from", json_string(r->weights_from));
  json_object_set_new(loop->extra_state, "refreshed_at", json_integer((json_int_t)loop->step));
out:
  ka_arena_deinit(&a);
  return st;
}

ka_status ka_train_refresh_sweep(struct ka_run *r) {
  return ka_ckpt_sweep_named(r->ctx, r->job->output_dir, "refresh-", "weights_from",
                             r->weights_from);
}
