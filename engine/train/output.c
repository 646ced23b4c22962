/* SPDX-License-Identifier: Apache-2.0
 * Writing the tuned model; see output.h. */
#include "engine/train/output.h"

#include "engine/model/projector.h"
#include "engine/train/gather.h"

#include <string.h>

/* A tensor trained whole goes out as its master; rounding to the file's dtype is the writer's. */
static ka_status whole(struct ka_arena *a, const struct ka_optim *o, int64_t i,
                       struct ka_st_out *out) {
  struct ka_ctx *ctx = a->ctx;
  KA_TRY(ka_arena_alloc(a, &out->user, sizeof(struct ka_optim_reader), "changed tensors"));
  *(struct ka_optim_reader *)out->user = (struct ka_optim_reader){o, i, 0};
  out->read = ka_optim_read;
  out->t = o->model->params[o->model->slices[i].param].stored;
  out->t.data = NULL;
  out->t.dtype = o->config.state;
  return KA_STATUS_OK;
}

/* The slice's master over its place in a matrix of the file's dtype. */
static ka_status patch(struct ka_ctx *ctx, const struct ka_optim *o, int64_t i,
                       struct ka_tensor place) {
  const struct ka_slice *s = &o->model->slices[i];
  struct ka_tensor master = ka_tensor_2d(NULL, o->config.state, s->n_rows, s->n_cols);
  KA_TRY(ka_alloc(ctx, &master.data, ka_tensor_bytes(&master), "patched tensor"));
  ka_status st = ka_optim_fetch(o, i, 0, 0, s->n_rows * s->n_cols, master.data);
  for (int64_t r = 0; r < s->n_rows && ka_ok(st); r++)
    ka_convert(ka_tensor_slice(place, r, 1, 0, s->n_cols).data, place.dtype,
               ka_tensor_slice(master, r, 1, 0, s->n_cols).data, master.dtype, s->n_cols);
  ka_free(master.data);
  return st;
}

/* One trained in parts: the stored bytes with the parts replaced. Takes all slices of the tensor
 * from i on; *next is the first of another one. */
static ka_status patched(struct ka_ctx *ctx, struct ka_arena *a, const struct ka_optim *o,
                         int64_t i, struct ka_tensor *out, int64_t *next) {
  int64_t param = o->model->slices[i].param;
  const struct ka_tensor *stored = &o->model->params[param].stored;
  void *mem = NULL;
  KA_TRY(ka_arena_alloc(a, &mem, ka_tensor_bytes(stored), "patched tensor"));
  memcpy(mem, stored->data, ka_tensor_bytes(stored));
  *out = *stored;
  out->data = mem;
  for (; i < o->n && o->model->slices[i].param == param; i++)
    KA_TRY(patch(ctx, o, i, ka_model_slice_view(&o->model->slices[i], *out)));
  *next = i;
  return KA_STATUS_OK;
}

/* A stored head that is tied goes out as the embedding does: a reader takes another for its own. */
static void follow(const struct ka_model *m, struct ka_st_out *out, int64_t *n) {
  if (!m->head_copy) return;
  const char *embed = m->params[ka_model_param(m, m->head_copy)].name;
  for (int64_t i = 0, n_own = *n; i < n_own; i++)
    if (strcmp(out[i].name, embed) == 0) {
      out[*n] = out[i];
      out[(*n)++].name = m->head_copy;
    }
}

static ka_status collect(struct ka_ctx *ctx, struct ka_arena *a, const struct ka_optim *o,
                         struct ka_st_out **out, int64_t *n) {
  KA_TRY(KA_NEW(a, out, o->n + 1, "changed tensors"));
  *n = 0;
  for (int64_t i = 0; i < o->n && !ka_projector_owns(o->model, &o->model->slices[i]);) {
    struct ka_st_out *row = &(*out)[(*n)++];
    row->name = o->slices[i].tensor;
    if (o->slices[i].whole)
      KA_TRY(whole(a, o, i++, row));
    else
      KA_TRY(patched(ctx, a, o, i, &row->t, &i));
  }
  follow(o->model, *out, n);
  return KA_STATUS_OK;
}

/* The projector's slices, which come last, in a file of their own. */
static ka_status write_projector(struct ka_ctx *ctx, struct ka_arena *a, const struct ka_optim *o,
                                 const char *out_dir) {
  int64_t n = 0, first = o->n - ka_projector_n_params(o->model);
  const char *path;
  if (first == o->n) return KA_STATUS_OK;
  struct ka_st_out *out;
  KA_TRY(KA_NEW(a, &out, o->n - first, "projector"));
  for (int64_t i = first; i < o->n; i++, n++) {
    out[n].name = o->slices[i].tensor;
    KA_TRY(whole(a, o, i, &out[n]));
  }
  KA_TRY(ka_path_join(a, &path, out_dir, "projector.safetensors"));
  return ka_st_write(ctx, path, out, n, NULL, 0);
}

ka_status ka_train_output_write(struct ka_ctx *ctx, const struct ka_optim *o, const char *base_dir,
                                const char *out_dir) {
  struct ka_arena a;
  struct ka_st_out *changed = NULL;
  int64_t n = 0;
  ka_arena_init(&a, ctx, "output");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(collect(ctx, &a, o, &changed, &n), out);
  KA_TRY_GOTO(ka_model_dir_carry(ctx, base_dir, out_dir), out);
  KA_TRY_GOTO(write_projector(ctx, &a, o, out_dir), out);
  KA_TRY_GOTO(ka_st_rewrite(ctx, &o->model->files, out_dir, changed, n), out);
out:
  ka_arena_deinit(&a);
  return st;
}
