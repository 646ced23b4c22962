/* SPDX-License-Identifier: Apache-2.0
 * Opening a model directory, choosing what is trained, and the passes over a batch. */
#include "engine/model/model.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/str.h"
#include "engine/formats/tied_head.h"
#include "engine/model/moe.h"
#include "engine/model/projector_parts.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_NAMED = 8 }; /* problems spelled out in one message; the rest is counted */

struct problems {
  struct ka_str text;
  int64_t n;
};

static ka_status problem(struct ka_ctx *ctx, struct problems *p, const char *name,
                         const char *got) {
  if (p->n++ < MAX_NAMED) KA_TRY(ka_str_printf(ctx, &p->text, "\n  %s: %s", name, got));
  return KA_STATUS_OK;
}

static void print_shape(char *out, size_t size, int n_dim, const int64_t *shape) {
  out[0] = '\0';
  for (int i = 0, at = 0; i < n_dim && at < (int)size; i++)
    at += snprintf(out + at, size - (size_t)at, "%s%lld", i ? ", " : "", (long long)shape[i]);
}

static ka_status check_tensor(struct ka_ctx *ctx, const struct ka_recipe *r,
                              const struct ka_st_entry *e, const struct ka_tensor_match *match,
                              struct problems *p) {
  char got[192];
  const struct ka_tensor *t = &e->t;
  int64_t want[KA_MAX_DIM];
  int n_dim = ka_family_shape(r, match->row, match->n_rows, want);
  if (t->n_dim != n_dim || memcmp(t->shape, want, (size_t)n_dim * sizeof *want) != 0) {
    char shape[64], expected[64];
    print_shape(shape, sizeof shape, t->n_dim, t->shape);
    print_shape(expected, sizeof expected, n_dim, want);
    snprintf(got, sizeof got, "got shape [%s], config.json says [%s]", shape, expected);
    return problem(ctx, p, e->name, got);
  }
  if (e->unreadable ||
      (t->dtype != KA_F32 && t->dtype != KA_BF16 && t->dtype != KA_F16 && t->dtype != KA_F64)) {
    snprintf(got, sizeof got, "got dtype %s, expected F32, BF16, F16 or F64", e->dtype_name);
    return problem(ctx, p, e->name, got);
  }
  return KA_STATUS_OK;
}

/* Params of the recipe's tensors that the files hold. */
static ka_status take_tensors(struct ka_model *m, struct problems *p) {
  struct ka_ctx *ctx = m->ctx;
  void *params;
  KA_TRY(ka_arena_alloc_n(&m->meta, &params, m->files.n_entries + KA_PROJECTOR_PARAMS,
                          sizeof *m->params, "params"));
  m->params = params;
  int64_t n_extra = 0;
  const char *extra = NULL;
  for (int64_t i = 0; i < m->files.n_entries; i++) {
    const struct ka_st_entry *e = &m->files.entries[i];
    struct ka_tensor_match match;
    if (e->name == m->head_copy) continue;
    bool known = ka_tensor_map_match(&m->family->map, e->name, &match);
    bool alone = known && match.row->role == KA_ROLE_HEAD && m->head_alone;
    if (!known || match.expert >= ka_recipe_dim(&m->recipe, KA_DIM_E) ||
        (!alone && !ka_family_has(m->family, &m->recipe, match.row->role, match.layer))) {
      if (n_extra++ == 0) extra = e->name;
      continue;
    }
    KA_TRY(check_tensor(ctx, &m->recipe, e, &match, p));
    m->params[m->n_params++] = (struct ka_param){.name = e->name,
                                                 .role = alone ? KA_ROLE_EMBED : match.row->role,
                                                 .n_roles = match.n_rows,
                                                 .layer = match.layer,
                                                 .stored = e->t,
                                                 .base = e->t};
  }
  if (n_extra > 0)
    ka_info(ctx, "model", "%lld tensors that a %s model does not use are left alone: %s%s",
            (long long)n_extra, m->family->name, extra, n_extra > 1 ? ", ..." : "");
  return KA_STATUS_OK;
}

/* Weights that no tensor of the files holds; of a fused tensor the first one. */
static ka_status find_missing(struct ka_model *m, struct problems *p) {
  struct ka_ctx *ctx = m->ctx;
  for (int role = 0; role < KA_N_ROLES; role++)
    for (int l = -1; l < m->recipe.L; l++) {
      if (!ka_family_has(m->family, &m->recipe, (enum ka_role)role, l)) continue;
      const struct ka_tensor_row *row = ka_tensor_map_row(&m->family->map, (enum ka_role)role);
      bool each = strstr(row->name, "{expert}") != NULL;
      for (int e = 0; e < (each ? ka_recipe_dim(&m->recipe, KA_DIM_E) : 1); e++) {
        char name[KA_TENSOR_NAME_MAX];
        if (ka_weights_find(m, (enum ka_role)role, l, each ? e : -1)) continue;
        ka_tensor_map_name(&m->family->map, row, l, e, name);
        KA_TRY(problem(ctx, p, name, "missing"));
      }
    }
  return KA_STATUS_OK;
}

/* One weight by two names, as with and without the prefix. */
static ka_status find_twice(struct ka_model *m, struct problems *p) {
  struct ka_ctx *ctx = m->ctx;
  char got[KA_TENSOR_NAME_MAX + 64];
  for (int64_t i = 0; i < m->weights->n; i++) {
    const struct ka_weight *w = &m->weights->all[KA_TUNED][i];
    const struct ka_weight *last = ka_weights_find(m, w->role, w->layer, w->expert);
    if (!last || last == w || last->param == w->param) continue;
    snprintf(got, sizeof got, "the same weight as %s", last->param->name);
    KA_TRY(problem(ctx, p, w->param->name, got));
  }
  return KA_STATUS_OK;
}

static ka_status check_all(struct ka_model *m, const char *dir) {
  struct ka_ctx *ctx = m->ctx;
  struct problems p = {0};
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(take_tensors(m, &p), out);
  if (p.n == 0) KA_TRY_GOTO(ka_weights_open(m), out);
  if (p.n == 0) KA_TRY_GOTO(find_missing(m, &p), out);
  if (p.n == 0) KA_TRY_GOTO(find_twice(m, &p), out);
  if (p.n > MAX_NAMED)
    KA_TRY_GOTO(ka_str_printf(ctx, &p.text, "\n  and %lld more", (long long)(p.n - MAX_NAMED)),
                out);
  if (p.n > 0)
    st = ka_fail(ctx, KA_E_INPUT, "%s: not the weights of this %s model:%s", dir, m->family->name,
                 p.text.data);
out:
  ka_str_deinit(&p.text);
  return st;
}

static ka_status make_buffers(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  void *buffers, *layers, *stacks;
  KA_TRY(ka_arena_alloc(&m->meta, &buffers, sizeof *m->buffers, "buffers"));
  KA_TRY(ka_arena_alloc_n(&m->meta, &layers, m->recipe.L, sizeof(struct ka_layer), "layers"));
  KA_TRY(ka_arena_alloc(&m->meta, &stacks, sizeof *m->stacks, "stacks"));
  m->buffers = buffers;
  m->stacks = stacks;
  m->stacks[m->n_stacks++] =
      (struct ka_stack){.recipe = &m->recipe, .layers = layers, .lowest = m->recipe.L};
  return KA_STATUS_OK;
}

/* generation_config.json's end tokens, where there is one, in place of config.json's. */
static ka_status read_end_tokens(struct ka_model *m, const char *dir) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_hf_config *c = &m->config;
  const char *path;
  json_t *root = NULL;
  ka_status st = KA_STATUS_OK;
  KA_TRY(ka_path_join(&m->meta, &path, dir, "generation_config.json"));
  if (!ka_path_exists(path)) return KA_STATUS_OK;
  KA_TRY(ka_json_load(ctx, path, &root));
  const json_t *value = json_object_get(root, "eos_token_id");
  if (json_is_integer(value)) {
    c->n_eos = 1;
    c->eos_token_ids[0] = json_integer_value(value);
  } else if (json_is_array(value)) {
    c->n_eos = 0;
    if (json_array_size(value) > KA_MAX_EOS) {
      st = ka_fail(ctx, KA_E_INPUT, "%s: key \"eos_token_id\": %zu tokens, expected at most %d",
                   path, json_array_size(value), KA_MAX_EOS);
    }
    for (size_t i = 0; ka_ok(st) && i < json_array_size(value); i++)
      c->eos_token_ids[c->n_eos++] = json_integer_value(json_array_get(value, i));
  }
  json_decref(root);
  return st;
}

/* A tied head that the files hold too. */
static void take_head(struct ka_model *m, const char *dir) {
  const struct ka_st_entry *copy = NULL;
  bool *tied = &m->recipe.without[KA_ROLE_HEAD];
  if (!*tied) return;
  *tied = ka_head_is_embedding(&m->family->map, &m->config, &m->files, &copy);
  m->head_alone = *tied && !ka_head_find(&m->family->map, &m->files, KA_ROLE_EMBED);
  m->head_copy = copy ? copy->name : NULL;
  if (!*tied)
    ka_warn(m->ctx, "model",
            "%s: config.json ties the head to the embedding, the files hold a head of other "
            "values: it is a weight of its own here, as in transformers 5 (older ones tie it); "
            "\"tie_word_embeddings\": false says so",
            dir);
}

/* files NULL: those in dir. */
static ka_status open_model(struct ka_ctx *ctx, struct ka_model *m, struct ka_dev *dev,
                            const char *dir, struct ka_safetensors *files, enum ka_dtype compute) {
  memset(m, 0, sizeof *m);
  m->ctx = ctx;
  m->dev = dev;
  m->compute = compute;
  ka_arena_init(&m->meta, ctx, "model tables");
  ka_arena_init(&m->run, ctx, "model");
  ka_arena_init(&m->step, ctx, "step");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_hf_config_open(ctx, &m->config, dir), out);
  KA_TRY_GOTO(read_end_tokens(m, dir), out);
  KA_TRY_GOTO(ka_family_find(ctx, &m->config, &m->family), out);
  KA_TRY_GOTO(ka_family_recipe(m->family, &m->meta, &m->config, &m->recipe), out);
  if (files) {
    m->files = *files;
    *files = (struct ka_safetensors){0};
  } else {
    KA_TRY_GOTO(ka_st_open(ctx, &m->files, dir), out);
  }
  take_head(m, dir);
  KA_TRY_GOTO(check_all(m, dir), out);
  m->lowest_trained_layer = (int)m->recipe.L;
  m->term_weight[KA_TERM_CE] = 1;
  KA_TRY_GOTO(make_buffers(m), out);
out:
  if (!ka_ok(st)) ka_model_close(m);
  return st;
}

ka_status ka_model_open(struct ka_ctx *ctx, struct ka_model *m, struct ka_dev *dev, const char *dir,
                        enum ka_dtype compute) {
  return open_model(ctx, m, dev, dir, NULL, compute);
}

ka_status ka_model_open_source(struct ka_ctx *ctx, struct ka_model *m, struct ka_dev *dev,
                               struct ka_model_source *source, enum ka_dtype compute) {
  memset(m, 0, sizeof *m); /* so that it may be closed */
  if (!ka_path_is_dir(source->dir))
    return ka_fail(ctx, KA_E_INPUT, "%s: not a model directory, a delta or an adapter",
                   source->dir);
  struct ka_safetensors *files = source->files.n_shards > 0 ? &source->files : NULL;
  return open_model(ctx, m, dev, source->dir, files, compute);
}

void ka_model_close(struct ka_model *m) {
  if (!m->ctx) return;
  ka_model_unprepare(m);
  ka_projector_close(m);
  ka_st_close(&m->base_files);
  ka_st_close(&m->files);
  ka_hf_config_close(&m->config);
  ka_arena_deinit(&m->meta);
  memset(m, 0, sizeof *m);
}

static int by_name(const void *key, const void *param) {
  return strcmp(key, ((const struct ka_param *)param)->name);
}

int64_t ka_model_param(const struct ka_model *m, const char *name) {
  const struct ka_param *p =
      bsearch(name, m->params, (size_t)m->n_params, sizeof *m->params, by_name);
  if (p) return p - m->params;
  for (int64_t i = 0; i < ka_projector_n_params(m); i++)
    if (strcmp(m->params[m->n_params + i].name, name) == 0) return m->n_params + i;
  struct ka_tensor_match match; /* with another prefix, or the tied head */
  if (!ka_tensor_map_match(&m->family->map, name, &match)) return -1;
  const struct ka_weight *w = ka_weights_find(m, match.row->role, match.layer, match.expert);
  return w ? w->param - m->params : -1;
}

int64_t ka_model_n_elems(const struct ka_model *m) {
  int64_t n = ka_projector_n_elems(m);
  for (int64_t i = 0; i < m->n_params; i++) n += ka_tensor_elems(&m->params[i].stored);
  return n;
}

const struct ka_loss_term_facts ka_loss_terms[KA_N_TERMS] = {
#define KA_LOSS_TERM(id, key, rows, base, text) [KA_TERM_##id] = {key, KA_ROWS_##rows, base, text},
#include "engine/model/loss_terms.def"
#undef KA_LOSS_TERM
};

bool ka_model_reads_base(const struct ka_model *m) {
  for (int i = 0; i < KA_N_TERMS; i++)
    if (ka_loss_terms[i].reads_base && m->term_weight[i] > 0) return true;
  return false;
}

int64_t ka_model_n_trained(const struct ka_model *m) {
  int64_t n = 0;
  for (int64_t i = 0; i < m->n_slices; i++) n += m->slices[i].n_rows * m->slices[i].n_cols;
  return n;
}

/* How much of the parameter a token is multiplied by. */
static double active_share(const struct ka_model *m, const struct ka_param *p) {
  const struct ka_moe *x = m->recipe.moe;
  if (ka_role_info(p->role)->scope == KA_SCOPE_EXPERT && x) return (double)x->k / (double)x->E;
  bool looked_up = p->role == KA_ROLE_EMBED && !m->recipe.without[KA_ROLE_HEAD];
  return looked_up || p->role == KA_ROLE_POSITIONS ? 0 : 1;
}

double ka_model_n_active(const struct ka_model *m, bool trained) {
  double n = trained ? 0 : (double)ka_projector_n_elems(m);
  for (int64_t i = 0; i < m->n_params && !trained; i++)
    n += active_share(m, &m->params[i]) * (double)ka_tensor_elems(&m->params[i].stored);
  for (int64_t i = 0; i < m->n_slices && trained; i++) {
    const struct ka_slice *s = &m->slices[i];
    n += active_share(m, &m->params[s->param]) * (double)(s->n_rows * s->n_cols);
  }
  return n;
}

static ka_status take_base(struct ka_model *m, struct ka_param *p) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(ka_st_get(ctx, &m->base_files, p->name, &p->base));
  const struct ka_tensor *a = &p->base, *b = &p->stored;
  if (a->dtype != b->dtype || a->n_dim != b->n_dim ||
      memcmp(a->shape, b->shape, (size_t)a->n_dim * sizeof *a->shape) != 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: not of the dtype and shape that %s has",
                   m->base_files.path, p->name, m->files.path);
  p->moved = memcmp(a->data, b->data, ka_tensor_bytes(a)) != 0;
  return KA_STATUS_OK;
}

ka_status ka_model_set_base(struct ka_model *m, const char *dir) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(ka_st_open(ctx, &m->base_files, dir));
  for (int64_t i = 0; i < m->n_params; i++) KA_TRY(take_base(m, &m->params[i]));
  return KA_STATUS_OK;
}

static int slice_order(const void *a, const void *b) {
  const struct ka_slice *x = a, *y = b;
  const int64_t keys[][2] = {{x->param, y->param}, {x->row, y->row}, {x->col, y->col}};
  for (int i = 0; i < 3; i++)
    if (keys[i][0] != keys[i][1]) return keys[i][0] < keys[i][1] ? -1 : 1;
  return 0;
}

static ka_status take_part(struct ka_model *m, const struct ka_train_part *part,
                           struct ka_slice *s) {
  struct ka_ctx *ctx = m->ctx;
  int64_t p = ka_model_param(m, part->tensor);
  if (p < 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: the model has no tensor of this name", part->tensor);
  if (ka_role_info(m->params[p].role)->scope == KA_SCOPE_EXPERT &&
      strcmp(m->params[p].name, part->tensor) != 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: the model has no tensor of this name: its experts are stored as %s",
                   part->tensor, m->params[p].name);
  struct ka_tensor w = ka_tensor_as_matrix(m->params[p].stored);
  *s = (struct ka_slice){.param = p,
                         .row = part->row,
                         .n_rows = part->n_rows < 0 ? w.shape[0] - part->row : part->n_rows,
                         .col = part->col,
                         .n_cols = part->n_cols < 0 ? w.shape[1] - part->col : part->n_cols};
  if (s->row < 0 || s->col < 0 || s->n_rows < 1 || s->n_cols < 1 ||
      s->row > w.shape[0] - s->n_rows || s->col > w.shape[1] - s->n_cols)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: got rows [%lld, %lld) and columns [%lld, %lld), the matrix is %lld x %lld",
                   part->tensor, (long long)s->row, (long long)(s->row + s->n_rows),
                   (long long)s->col, (long long)(s->col + s->n_cols), (long long)w.shape[0],
                   (long long)w.shape[1]);
  const struct ka_tensor *t = &m->params[p].stored;
  int64_t d2 = t->n_dim == 3 ? t->shape[2] : 1; /* of an expert whole rows, or within one */
  if (s->n_cols % d2 != 0 ? s->col / d2 != (s->col + s->n_cols - 1) / d2 : s->col % d2 != 0)
    return ka_fail(
        ctx, KA_E_INPUT,
        "%s: columns [%lld, %lld) of an expert are neither whole rows of %lld nor within "
        "one",
        part->tensor, (long long)s->col, (long long)(s->col + s->n_cols), (long long)t->shape[2]);
  return KA_STATUS_OK;
}

static bool overlap(const struct ka_slice *a, const struct ka_slice *b) {
  return a->row < b->row + b->n_rows && b->row < a->row + a->n_rows &&
         a->col < b->col + b->n_cols && b->col < a->col + a->n_cols;
}

ka_status ka_model_train_parts(struct ka_model *m, const struct ka_train_part *parts, int64_t n) {
  struct ka_ctx *ctx = m->ctx;
  void *slices;
  KA_TRY(ka_arena_alloc_n(&m->meta, &slices, n, sizeof *m->slices, "slices"));
  m->slices = slices;
  m->n_slices = 0;
  int64_t n_params = m->n_params + ka_projector_n_params(m);
  for (int64_t i = 0; i < n_params; i++) m->params[i].trained = false;
  for (int64_t i = 0; i < n; i++) {
    KA_TRY(take_part(m, &parts[i], &m->slices[i]));
    m->slices[i].part = i;
  }
  qsort(m->slices, (size_t)n, sizeof *m->slices, slice_order);
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = i + 1; j < n && m->slices[j].param == m->slices[i].param; j++)
      if (overlap(&m->slices[i], &m->slices[j]))
        return ka_fail(ctx, KA_E_INPUT, "%s: chosen twice: two parts of it overlap",
                       m->params[m->slices[i].param].name);
  m->n_slices = n;
  for (int64_t i = 0; i < n; i++) m->params[m->slices[i].param].trained = true;
  ka_projector_train(m);
  return ka_weights_train(m);
}

int64_t ka_model_rows(const struct ka_model *m) { return m->buffers->B * m->buffers->T; }
int64_t ka_model_positions(const struct ka_model *m) { return m->buffers->P; }

/* Forward, to the losses on the device. */
static ka_status losses(struct ka_model *m, const struct ka_batch *batch) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(ka_batch_begin(m, batch, 0));
  KA_TRY(ka_pass_fwd(m, NULL, NULL));
  return ka_pass_loss(m);
}

ka_status ka_model_eval(struct ka_model *m, const struct ka_batch *batch, double *loss_sum,
                        float *loss) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(losses(m, batch));
  return ka_head_read_loss(m, loss_sum, loss);
}

ka_status ka_model_score(struct ka_model *m, const struct ka_batch *batch, float *loss,
                         int32_t *best) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(losses(m, batch));
  return ka_head_read_pairs(m, loss, best);
}

/* The recording for batches like the one at hand, or the place of a new one; NULL: all are taken.
 */
static struct ka_replay *recorded_pass(struct ka_model *m) {
  struct ka_model_buffers *b = m->buffers;
  for (int i = 0; i < KA_RECORDED_PASSES && m->dev->backend->record_begin; i++) {
    struct ka_recorded_pass *p = &b->recorded[i];
    bool fresh = p->B == 0, documents = b->doc_start.data != NULL;
    if (fresh)
      *p = (struct ka_recorded_pass){b->batch_B, b->batch_T, b->padded_rows,
                                     documents,  b->rows,    {0}};
    if (p->B == b->batch_B && p->T == b->batch_T && p->padded_rows == b->padded_rows &&
        p->documents == documents && p->rows == b->rows)
      return &p->replay;
  }
  return NULL;
}

ka_status ka_model_grad(struct ka_model *m, const struct ka_batch *batch, double grad_scale,
                        double *loss_sum) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(ka_batch_begin(m, batch, grad_scale));
  struct ka_replay *replay = batch->clips.n > 0 ? NULL : recorded_pass(m), once = {.never = true};
  KA_TRY(ka_replay_run(m->dev, replay ? replay : &once, ka_pass_step, m));
  if (!loss_sum) return KA_STATUS_OK;
  KA_TRY(ka_head_read_loss(m, loss_sum, NULL));
  double aux;
  return ka_routing_read(m, &aux, loss_sum);
}

ka_status ka_model_step_stats(struct ka_model *m, struct ka_step_stats *out) {
  return ka_dev_download(m->dev, out, m->step_stats.data, sizeof *out);
}

ka_status ka_model_forward(struct ka_model *m, const struct ka_batch *batch, float *logits,
                           float **hidden) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(ka_batch_begin(m, batch, 0));
  KA_TRY(ka_pass_fwd(m, hidden, NULL));
  return ka_pass_logits(m, 0, batch->B * batch->T, hidden ? hidden[m->recipe.L] : NULL, logits);
}

ka_status ka_model_logits(struct ka_model *m, int64_t first, int64_t n, float *logits) {
  return ka_pass_logits(m, first, n, NULL, logits);
}
