/* SPDX-License-Identifier: Apache-2.0
 * What a step needs: how far down the gradient goes, and the memory for all of it, from the run
 * arena (lives with the model) and the step arena (one pass). The same code measures and allocates.
 * What a branch keeps, branches.c and its kind say. */
#include "engine/model/projector_parts.h"

#include "engine/model/rope.h"

/* Rows of the head's chunks: enough to pay for reading the head and, when it is trained, for adding
 * to its gradient; fewer where the vocabulary would make the logits larger than the bytes. A
 * big device has more to keep busy. */
enum { CHUNK_ROWS = 512, CHUNK_BYTES = 128 << 20, MANY = 4 };

/* How far down the gradient goes, and where the base model's own pass starts. */
static void plan_needs(struct ka_model *m) {
  const struct ka_outer_weights *w = ka_weights_outer(m, KA_TUNED);
  bool below = KA_TRAINED(w->embed, w->positions) || ka_projector_trained(m);
  for (int i = 0; i < m->n_stacks; i++) {
    struct ka_stack *s = &m->stacks[i];
    ka_branches_needs(m, s, below);
    s->base = s->recipe->L;
    below = s->lowest < s->recipe->L;
    m->lowest_trained_layer = (int)s->lowest;
  }
  m->buffers->need_head_input = below || KA_TRAINED(w->final_norm, w->final_norm_bias);
  m->stacks[m->n_stacks - 1].base = ka_weights_base(m);
}

static ka_status values(struct ka_model *m, void **out, int64_t rows, int64_t cols, bool is_stat,
                        const char *name) {
  size_t size = ka_dtype_bytes(is_stat ? ka_accum_dtype(m) : m->compute);
  return ka_arena_alloc_n(&m->step, out, rows * cols, size, name);
}

/* A norm or a factor behind a branch: its input gradient is not the stream's. */
static bool behind(const struct ka_model *m) {
  if (m->recipe.residual_scale != 1) return true;
  for (int64_t l = 0; l < m->recipe.L; l++) {
    const struct ka_layer_weights *w = &m->weights->layers[KA_TUNED][l];
    if (w->attn_post_norm || w->ffn_post_norm) return true;
  }
  return false;
}

static ka_status plan_scratch(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t N = b->B * b->T, C = m->recipe.C, widest = 0;
  const char *name = "scratch";
  for (int64_t i = 0; i < m->n_slices; i++) {
    const struct ka_tensor *t = &m->params[m->slices[i].param].stored;
    if (t->n_dim < 2 && t->shape[0] > widest) widest = t->shape[0];
  }
  KA_TRY(values(m, &b->h, N, C, false, name));
  KA_TRY(values(m, &b->delta, N, C, false, name));
  KA_TRY(values(m, &b->final, N, C, false, name));
  if (b->need_head_input) KA_TRY(values(m, &b->dx, N, C, false, name));
  if (b->need_head_input && behind(m)) KA_TRY(values(m, &b->dy, N, C, false, name));
  for (int i = 0; i < 1 + m->recipe.layer_norm && widest > 0; i++)
    KA_TRY(values(m, &b->dvec[i], 1, widest, true, name));
  return KA_STATUS_OK;
}

static ka_status plan_head(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  int64_t N = b->B * b->T, C = m->recipe.C, V = m->recipe.V;
  KA_TRY(values(m, &b->picked, N, C, false, "head"));
  KA_TRY(values(m, &b->hidden, N, C, false, "head"));
  KA_TRY(values(m, &b->rstd, N, 1, true, "head"));
  if (m->recipe.layer_norm) KA_TRY(values(m, &b->mean, N, 1, true, "head"));
  KA_TRY(values(m, &b->loss, N, 1, true, "head"));
  b->weight = NULL;
  if (m->token_weight == KA_TOKEN_TALR) KA_TRY(values(m, &b->weight, N, 1, true, "head"));
  KA_TRY(KA_NEW(&m->step, &b->best, N, "head"));
  /* at least one row of the wide type */
  size_t wide = ka_dtype_bytes(ka_accum_dtype(m)),
         bytes = (size_t)(b->chunk_rows * V) * ka_dtype_bytes(m->compute);
  if (bytes < (size_t)V * wide) bytes = (size_t)V * wide;
  KA_TRY(ka_arena_alloc(&m->step, &b->logits, bytes, "logits of a chunk"));
  if (!ka_model_reads_base(m)) return KA_STATUS_OK;
  KA_TRY(values(m, &b->kl, N, 1, true, "head"));
  return ka_arena_alloc(&m->step, &b->base_logits, bytes, "base logits of a chunk");
}

static ka_status plan_rope(struct ka_model *m, int which) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  const struct ka_hf_rope_params *p = &m->recipe.ropes[which];
  int64_t R = m->recipe.rope_width;
  if (R == 0) R = ka_rope_channels(p, m->recipe.D);
  int64_t n_tables = b->turn_tok > 0 ? 2 : 1, shape[] = {n_tables * b->P, R / 2};
  KA_TRY(ka_tensor_alloc(&m->run, &b->cos[which], "RoPE tables", KA_F32, 2, shape));
  KA_TRY(ka_tensor_alloc(&m->run, &b->sin[which], "RoPE tables", KA_F32, 2, shape));
  if (!b->cos[which].data || R == 0) return KA_STATUS_OK;
  void *tables;
  KA_TRY(ka_alloc_n(ctx, &tables, n_tables * b->P * R, sizeof(float), "RoPE tables"));
  float *cos = tables, *sin = cos + n_tables * b->P * (R / 2);
  for (int64_t i = 0, at = 0; i < n_tables; i++, at += b->P * (R / 2))
    ka_rope_table(p, R, b->P, i == 1, cos + at, sin + at);
  size_t n_bytes = ka_tensor_bytes(&b->cos[which]);
  ka_status st = ka_dev_upload(m->dev, b->cos[which].data, cos, n_bytes);
  if (ka_ok(st)) st = ka_dev_upload(m->dev, b->sin[which].data, sin, n_bytes);
  ka_free(tables);
  return st;
}

/* Where longer sequences turn otherwise, both ways are there. */
static ka_status plan_turn(struct ka_model *m) {
  struct ka_model_buffers *b = m->buffers;
  b->turn_tok = 0;
  for (int i = 0; i < m->recipe.n_ropes; i++) {
    const struct ka_hf_rope_params *p = &m->recipe.ropes[i];
    double original = p->original_max_position_embeddings;
    if (!ka_rope_turns(p) || (double)b->P <= original) continue;
    b->turn_tok = (int64_t)original;
    if (p->n_long == 0)
      return ka_fail(
          m->ctx, KA_E_INPUT,
          "%s: long_factor is missing, which sequences of more than "
          "original_max_position_embeddings (%g) tokens turn by: %lld positions are wanted",
          m->config.path, original, (long long)b->P);
  }
  return KA_STATUS_OK;
}

static ka_status plan_all(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(ka_weights_plan(m));
  const int64_t n_stats = sizeof(struct ka_step_stats) / sizeof(double);
  KA_TRY(ka_tensor_alloc(&m->run, &m->step_stats, "step statistics", KA_F64, 1, &n_stats));
  KA_TRY(plan_turn(m));
  for (int i = 0; i < m->recipe.n_ropes; i++) KA_TRY(plan_rope(m, i));
  for (int i = 0; i < m->n_stacks; i++) KA_TRY(ka_branches_plan(m, &m->stacks[i]));
  KA_TRY(plan_scratch(m));
  KA_TRY(plan_head(m));
  KA_TRY(ka_routing_plan(m));
  KA_TRY(ka_projector_plan(m));
  return ka_inputs_plan(m);
}

void ka_model_unprepare(struct ka_model *m) {
  struct ka_model_buffers *b = m->buffers;
  for (int i = 0; b && i < KA_RECORDED_PASSES; i++) {
    ka_replay_free(m->dev, &b->recorded[i].replay);
    b->recorded[i] = (struct ka_recorded_pass){0};
  }
  if (b) ka_arena_deinit(&b->host_arena);
  ka_arena_deinit(&m->run);
  ka_arena_deinit(&m->step);
}

ka_status ka_model_prepare(struct ka_model *m, int64_t B, int64_t T, bool measure) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  KA_NEVER(ctx, B < 1 || T < 1);
  b->B = B;
  b->T = T;
  b->P = m->max_position > T ? m->max_position : T;
  if (ka_weights_outer(m, KA_TUNED)->positions && b->P > m->recipe.max_positions)
    return ka_fail(ctx, KA_E_INPUT, "%lld positions wanted, the model has learned %lld",
                   (long long)b->P, (long long)m->recipe.max_positions);
  int64_t times = ka_dev_big(m->dev) ? MANY : 1, most = times * CHUNK_ROWS;
  int64_t fit = times * CHUNK_BYTES / (m->recipe.V * (int64_t)ka_dtype_bytes(m->compute));
  b->chunk_rows = fit < 1 ? 1 : fit < most ? fit : most;
  if (b->chunk_rows > B * T) b->chunk_rows = B * T;
  plan_needs(m);
  ka_model_unprepare(m);
  const struct ka_memory *memory = ka_dev_memory(m->dev, KA_PLACE_DEVICE);
  ka_arena_init_measure(&m->run, ctx, "model", memory);
  ka_arena_init_measure(&m->step, ctx, "step", memory);
  KA_TRY(plan_all(m));
  if (measure) return KA_STATUS_OK;
  KA_TRY(ka_arena_realise(&m->run, "select less, or set bf16: true"));
  KA_TRY(ka_arena_realise(
      &m->step, "lower micro_batch_size or sequence_len, or set gradient_checkpointing: block"));
  KA_TRY(plan_all(m));
  KA_TRY(ka_routing_clear(m));
  return ka_weights_fill(m);
}
