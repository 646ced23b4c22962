/* SPDX-License-Identifier: Apache-2.0
 * See verify.h. The reference decides what is computed: gradients only of the tensors it names. */
#include "engine/model/verify.h"

#include "base/str.h"
#include "engine/model/buffers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct verify {
  struct ka_ctx *ctx;
  struct ka_arena *arena;
  const char *path; /* of the reference */
  struct ka_safetensors ref;
  struct ka_model_source source;
  struct ka_model model;
  struct ka_batch batch;
  int64_t L;
  bool want_loss, want_grad, want_logits, want_aux;
  float **hidden; /* [L + 1] */
  float *logits;
  double grad2; /* sum of squares of the reference's gradients */
  double loss, aux;
};

/* input_ids or labels as i32, every value in [0, V) or -100 with `masked`. */
static ka_status read_ids(struct verify *v, const char *name, bool masked, const int32_t **out) {
  struct ka_ctx *ctx = v->ctx;
  const struct ka_st_entry *e = ka_st_find(&v->ref, name);
  if (!e) return ka_fail(ctx, KA_E_INPUT, "%s: %s: missing, expected [B, T] I64", v->path, name);
  const struct ka_tensor *t = &e->t;
  bool first = v->batch.B == 0;
  if (t->dtype != KA_I64 || t->n_dim != 2 || t->shape[0] < 1 || t->shape[1] < 1)
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: got %s of %d dimensions, expected [B, T] I64", v->path,
                   name, ka_dtype_name(t->dtype), t->n_dim);
  if (!first && (t->shape[0] != v->batch.B || t->shape[1] != v->batch.T))
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: got [%lld, %lld], input_ids is [%lld, %lld]", v->path,
                   name, (long long)t->shape[0], (long long)t->shape[1], (long long)v->batch.B,
                   (long long)v->batch.T);
  v->batch.B = t->shape[0];
  v->batch.T = t->shape[1];
  int64_t n = ka_tensor_elems(t), V = v->model.recipe.V;
  void *ids;
  KA_TRY(ka_arena_alloc_n(v->arena, &ids, n, sizeof(int32_t), "ids"));
  for (int64_t i = 0; i < n; i++) {
    int64_t id;
    memcpy(&id, (const char *)t->data + (size_t)i * sizeof id, sizeof id);
    if ((id < 0 || id >= V) && !(masked && id == -100))
      return ka_fail(ctx, KA_E_INPUT, "%s: %s[%lld,%lld]: got %lld, expected an id below %lld%s",
                     v->path, name, (long long)(i / v->batch.T), (long long)(i % v->batch.T),
                     (long long)id, (long long)V, masked ? " or -100" : "");
    ((int32_t *)ids)[i] = (int32_t)id;
  }
  *out = ids;
  return KA_STATUS_OK;
}

static ka_status make_batch(struct verify *v) {
  struct ka_ctx *ctx = v->ctx;
  struct ka_batch *b = &v->batch;
  KA_TRY(read_ids(v, "input_ids", false, &b->input_ids));
  void *position, *start, *masked;
  int64_t n = b->B * b->T;
  KA_TRY(ka_arena_alloc_n(v->arena, &position, n, sizeof(int32_t), "positions"));
  KA_TRY(ka_arena_alloc_n(v->arena, &start, n, sizeof(int32_t), "documents"));
  for (int64_t i = 0; i < n; i++) ((int32_t *)position)[i] = (int32_t)(i % b->T);
  b->position = position;
  b->doc_start = start;
  if (v->want_loss || v->want_grad || v->want_aux) {
    KA_TRY(read_ids(v, "labels", true, &b->labels));
    for (int64_t i = 0; i < n; i++) b->n_targets += i % b->T > 0 && b->labels[i] != -100;
    if (b->n_targets == 0)
      return ka_fail(ctx, KA_E_INPUT, "%s: labels: nothing to predict, every label is -100",
                     v->path);
  } else {
    KA_TRY(ka_arena_alloc_n(v->arena, &masked, n, sizeof(int32_t), "labels"));
    for (int64_t i = 0; i < n; i++) ((int32_t *)masked)[i] = -100;
    b->labels = masked;
  }
  return KA_STATUS_OK;
}

static const char *grad_name(const struct ka_st_entry *e) {
  return ka_starts_with(e->name, "grad.") ? e->name + 5 : NULL;
}

static bool hidden_index(const struct verify *v, const char *name, int64_t *index) {
  return ka_starts_with(name, "hidden.") && ka_parse_i64(name + 7, index) && *index >= 0 &&
         *index <= v->L;
}

/* What the file asks for; sizes against the model. */
static ka_status read_wishes(struct verify *v) {
  struct ka_ctx *ctx = v->ctx;
  for (int64_t i = 0; i < v->ref.n_entries; i++) {
    const struct ka_st_entry *e = &v->ref.entries[i];
    int64_t index;
    if (strcmp(e->name, "input_ids") == 0 || strcmp(e->name, "labels") == 0) continue;
    if (strcmp(e->name, "logits") == 0)
      v->want_logits = true;
    else if (strcmp(e->name, "loss") == 0)
      v->want_loss = true;
    else if (strcmp(e->name, "aux_loss") == 0)
      v->want_aux = true;
    else if (grad_name(e))
      v->want_grad = true;
    else if (!hidden_index(v, e->name, &index))
      return ka_fail(ctx, KA_E_INPUT,
                     "%s: %s: unknown, expected input_ids, labels, logits, loss, aux_loss, "
                     "hidden.0 to hidden.%lld or grad.NAME",
                     v->path, e->name, (long long)v->L);
    if (e->t.dtype != KA_F32 && e->t.dtype != KA_BF16 && e->t.dtype != KA_F64)
      return ka_fail(ctx, KA_E_INPUT, "%s: %s: got dtype %s, expected F32", v->path, e->name,
                     ka_dtype_name(e->t.dtype));
  }
  return KA_STATUS_OK;
}

static ka_status train_wanted(struct verify *v) {
  struct ka_ctx *ctx = v->ctx;
  struct ka_model *m = &v->model;
  void *memory, *seen;
  KA_TRY(
      ka_arena_alloc_n(v->arena, &memory, v->ref.n_entries, sizeof(struct ka_train_part), "parts"));
  KA_TRY(ka_arena_alloc_n(v->arena, &seen, m->n_params, sizeof(bool), "parts"));
  struct ka_train_part *parts = memory;
  int64_t n = 0;
  for (int64_t i = 0; i < v->ref.n_entries; i++) {
    const char *name = grad_name(&v->ref.entries[i]);
    if (!name) continue;
    int64_t p = ka_model_param(m, name);
    if (p < 0)
      return ka_fail(ctx, KA_E_INPUT, "%s: grad.%s: the model has no tensor of this name", v->path,
                     name);
    if (((bool *)seen)[p]) continue; /* a tied head under both names */
    ((bool *)seen)[p] = true;
    parts[n++] = (struct ka_train_part){name, 0, -1, 0, -1};
  }
  return ka_model_train_parts(m, parts, n);
}

static ka_status compute(struct verify *v) {
  struct ka_ctx *ctx = v->ctx;
  struct ka_model *m = &v->model;
  struct ka_batch *b = &v->batch;
  int64_t n = b->B * b->T;
  KA_TRY(KA_NEW(v->arena, &v->hidden, v->L + 1, "hidden"));
  for (int64_t i = 0; i < v->ref.n_entries; i++) {
    int64_t index;
    if (!hidden_index(v, v->ref.entries[i].name, &index)) continue;
    KA_TRY(KA_NEW(v->arena, &v->hidden[index], n * m->recipe.C, "hidden"));
  }
  if (v->want_logits) {
    KA_TRY(KA_NEW(v->arena, &v->logits, n * m->recipe.V, "logits"));
  }
  KA_TRY(train_wanted(v));
  KA_TRY(ka_model_prepare(m, b->B, b->T, false));
  KA_TRY(ka_model_forward(m, b, v->logits, v->hidden));
  if (v->want_grad || v->want_aux || (v->want_loss && m->recipe.moe))
    KA_TRY(ka_model_grad(m, b, 1.0 / (double)b->n_targets, &v->loss));
  else if (v->want_loss)
    KA_TRY(ka_model_eval(m, b, &v->loss, NULL));
  if (v->want_aux) {
    double unused = 0;
    KA_TRY(ka_routing_read(m, &v->aux, &unused));
  }
  if (b->n_targets) {
    v->loss /= (double)b->n_targets;
    v->aux /= (double)b->n_targets;
  }
  return KA_STATUS_OK;
}

/* Our side of an entry and the shape it must have. */
static ka_status ours(struct verify *v, const struct ka_st_entry *e, struct ka_tensor *t) {
  struct ka_ctx *ctx = v->ctx;
  const struct ka_model *m = &v->model;
  int64_t index, B = v->batch.B, T = v->batch.T;
  if (strcmp(e->name, "logits") == 0) {
    *t = ka_tensor_view(v->logits, KA_F32, 3, (int64_t[]){B, T, m->recipe.V});
  } else if (strcmp(e->name, "loss") == 0) {
    *t = ka_tensor_1d(&v->loss, KA_F64, 1);
    if (e->t.n_dim == 0) t->n_dim = 0;
  } else if (strcmp(e->name, "aux_loss") == 0) {
    *t = ka_tensor_1d(&v->aux, KA_F64, 1);
    if (e->t.n_dim == 0) t->n_dim = 0;
  } else if (hidden_index(v, e->name, &index)) {
    *t = ka_tensor_view(v->hidden[index], KA_F32, 3, (int64_t[]){B, T, m->recipe.C});
  } else {
    int64_t p = ka_model_param(m, grad_name(e));
    for (int64_t i = 0; i < m->n_slices; i++)
      if (m->slices[i].param == p) *t = m->slices[i].grad;
    struct ka_tensor grad = *t;
    KA_TRY(ka_tensor_alloc(v->arena, t, "gradient", grad.dtype, m->params[p].stored.n_dim,
                           m->params[p].stored.shape));
    KA_TRY(ka_dev_download(m->dev, t->data, grad.data, ka_tensor_bytes(&grad)));
  }
  return KA_STATUS_OK;
}

/* In bf16 what rounding alone does: its errors add up over the L layers of a gradient's way like a
 * random walk's steps. (The largest of Gemma-3's golden, 7 layers: 0.048 by transformers in bf16,
 * 0.052 here; of OLMo-3's, 4 layers: 0.039 and 0.040.) */
static double tolerance(enum ka_dtype compute_type, const char *name, int64_t L) {
  bool grad = ka_starts_with(name, "grad."),
       loss = strcmp(name, "loss") == 0 || strcmp(name, "aux_loss") == 0;
  if (compute_type == KA_BF16) return grad ? 2.5e-2 * sqrt((double)L) : loss ? 1e-3 : 2e-2;
  return grad ? 1e-4 : 1e-5;
}

static ka_status compare(struct verify *v, const struct ka_st_entry *e, struct ka_verify_row *row) {
  struct ka_ctx *ctx = v->ctx;
  struct ka_tensor t = {0};
  KA_TRY(ours(v, e, &t));
  bool same = t.n_dim == e->t.n_dim;
  for (int i = 0; same && i < t.n_dim; i++) same = t.shape[i] == e->t.shape[i];
  if (!same)
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: its shape is not the model's", v->path, e->name);
  double diff2 = 0, ref2 = 0, max_abs = 0;
  for (int64_t i = 0; i < ka_tensor_elems(&t); i++) {
    double a = ka_load(t.data, t.dtype, i), b = ka_load(e->t.data, e->t.dtype, i), d = fabs(a - b);
    diff2 += d * d;
    ref2 += b * b;
    if (d > max_abs || isnan(d)) max_abs = d;
    if (isnan(max_abs)) break; /* and so is the norm */
  }
  /* Zero, or what rounding left of it: a bias of k where nothing rotates has no gradient. */
  bool none = ref2 == 0 || (grad_name(e) && ref2 <= 1e-14 * v->grad2);
  *row = (struct ka_verify_row){.name = e->name,
                                .max_abs = max_abs,
                                .rel_l2 = none ? max_abs : sqrt(diff2 / ref2),
                                .tolerance = tolerance(v->model.compute, e->name, v->L)};
  row->pass = row->rel_l2 <= row->tolerance;
  return KA_STATUS_OK;
}

/* The sum of squares of all gradients of the reference. */
static double sum_of_squares(const struct verify *v) {
  double sum = 0;
  for (int64_t i = 0; i < v->ref.n_entries; i++) {
    const struct ka_tensor *t = &v->ref.entries[i].t;
    for (int64_t k = 0; grad_name(&v->ref.entries[i]) && k < ka_tensor_elems(t); k++) {
      double g = ka_load(t->data, t->dtype, k);
      sum += g * g;
    }
  }
  return sum;
}

static ka_status run(struct verify *v, struct ka_dev *dev, enum ka_dtype compute_type,
                     struct ka_verify_row *rows, int64_t *n) {
  struct ka_ctx *ctx = v->ctx;
  KA_TRY(ka_model_open_source(ctx, &v->model, dev, &v->source, compute_type));
  v->L = v->model.recipe.L;
  KA_TRY(read_wishes(v));
  KA_TRY(make_batch(v));
  KA_TRY(compute(v));
  v->grad2 = sum_of_squares(v);
  for (int64_t i = 0; i < v->ref.n_entries; i++) {
    const struct ka_st_entry *e = &v->ref.entries[i];
    if (e->t.dtype == KA_I64) continue; /* input_ids and labels */
    KA_TRY(compare(v, e, &rows[(*n)++]));
  }
  return KA_STATUS_OK;
}

ka_status ka_verify(struct ka_arena *arena, struct ka_dev *dev, const char *model, const char *base,
                    const char *against, enum ka_dtype compute_type, struct ka_verify_row **rows,
                    int64_t *n_rows) {
  struct ka_ctx *ctx = arena->ctx;
  struct verify v = {.ctx = ctx, .arena = arena, .path = against};
  ka_status st = KA_STATUS_OK;
  *n_rows = 0;
  *rows = NULL;
  KA_TRY_GOTO(ka_st_open(ctx, &v.ref, against), out);
  KA_TRY_GOTO(KA_NEW(arena, rows, v.ref.n_entries, "rows"), out);
  /* names outlive the reference file */
  KA_TRY_GOTO(ka_model_source_open(ctx, &v.source, model, base), out);
  KA_TRY_GOTO(run(&v, dev, compute_type, *rows, n_rows), out);
  for (int64_t i = 0; i < *n_rows; i++)
    KA_TRY_GOTO(ka_arena_str(arena, &(*rows)[i].name, (*rows)[i].name, strlen((*rows)[i].name)),
                out);
out:
  ka_model_close(&v.model);
  ka_model_source_close(&v.source);
  ka_st_close(&v.ref);
  return st;
}
