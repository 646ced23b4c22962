/* SPDX-License-Identifier: Apache-2.0
 * See plan_figures.h. Memory is what the process holds now, the mapped files of the model, and the
 * measured arenas; time is products at the device's matmul rate, attention at a part of it, and
 * what the rest moves at the memory's. */
#include "engine/train/plan_figures.h"

#include "engine/eval/divergence.h"
#include "engine/train/divergence.h"
#include "engine/train/memory.h"

#include "base/log.h"
#include "base/machine.h"

#include <math.h>
#include <string.h>

/* What a run touches beside what is counted, measured on small models: code of the libraries that a
 * plan does not call, buffers of writers (2 MiB each), rows of data, the heap between them. */
static const double touched_bytes = 4 << 20;
static const double memory_bytes_per_s = 10e9;  /* of a small machine: a device has more */
static const double stream_bytes_per_s = 500e6; /* of files that are read or written */

static double model_files(const struct ka_run *r) {
  double n = 0;
  for (int64_t i = 0; i < r->open.model.files.n_shards; i++)
    n += (double)r->open.model.files.shards[i].map.len;
  return n;
}

/* The base that stands beside the model where the divergence from it is measured: its
 * arenas, its files mapped once more, and the logits of both. */
static ka_status base_figure(struct ka_run *r, double *bytes) {
  struct ka_model base;
  *bytes = 0;
  if (!ka_train_divergence_any(r, false)) return KA_STATUS_OK;
  ka_status st = ka_train_base_open(r, &base, true);
  if (ka_ok(st))
    *bytes =
        (double)(base.run.used_bytes + base.step.used_bytes) + model_files(r) +
        ka_eval_divergence_bytes(r->job->micro_batch_size * r->job->sequence_len, base.recipe.V);
  ka_model_close(&base);
  return st;
}

/* The base that writes rows: it is there before training's arenas are. */
static ka_status rows_figures(struct ka_run *r, struct ka_plan_figures *f) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_self_rows_spec spec;
  if (r->self.n == 0) return KA_STATUS_OK;
  f->rows_bytes = (double)(r->self.n * r->self.T) * sizeof(int32_t);
  KA_TRY(ka_run_self_rows_spec(r, &spec));
  return ka_self_rows_bytes(ctx, &r->self, &spec, &r->open.dev, r->open.model.compute,
                            &f->writing_bytes);
}

/* The attention of one row: it brings into memory what the back end keeps of a job's keys and
 * values, without the time that all rows would take. */
static ka_status attend_once(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_recipe *m = &r->open.model.recipe;
  int64_t B = r->job->micro_batch_size, T = r->job->sequence_len;
  int64_t K = m->kv_rank > 0 ? m->H : m->K, V = m->v_width > 0 ? m->v_width : m->D;
  size_t n_elems = (size_t)(B * (T * K + m->H) * (m->D + V));
  struct ka_attn_fwd_args args = {.q_offset = T - 1, .scale = 1};
  const struct {
    struct ka_tensor *x;
    int64_t shape[4];
  } tensors[] = {{&args.out, {B, 1, m->H, V}},
                 {&args.q, {B, 1, m->H, m->D}},
                 {&args.k, {B, T, K, m->D}},
                 {&args.v, {B, T, K, V}}};
  struct ka_arena a;
  KA_TRY(ka_arena_init_fixed(&a, ctx, "plan",
                             n_elems * ka_dtype_bytes(r->open.model.compute) + (1 << 12),
                             ka_dev_memory(&r->open.dev, KA_PLACE_DEVICE)));
  ka_status st = KA_STATUS_OK;
  for (int i = 0; i < 4 && ka_ok(st); i++) {
    st = ka_tensor_alloc(&a, tensors[i].x, "plan", r->open.model.compute, 4, tensors[i].shape);
    if (ka_ok(st))
      st = ka_fill(&r->open.dev, &(struct ka_fill_args){.x = *tensors[i].x, .value = 0});
  }
  if (ka_ok(st)) st = ka_attn_fwd(&r->open.dev, &args);
  ka_arena_deinit(&a);
  return st;
}

static ka_status memory_figures(struct ka_run *r, struct ka_plan_figures *f) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_machine machine;
  bool own = ka_dev_own_memory(&r->open.dev), offload = ka_run_offloads(r);
  ka_machine_read(&machine);
  if (!own) KA_TRY(attend_once(r));
  f->process_bytes = ka_machine_resident(".safetensors") + touched_bytes;
  if (!own)
    f->arenas_bytes = (double)(r->open.model.run.used_bytes + r->open.model.step.used_bytes);
  if (!own || offload) f->arenas_bytes += (double)r->optim.arena.used_bytes;
  if (!own) KA_TRY(base_figure(r, &f->base_bytes));
  if (own) f->writing_bytes = 0;
  f->process_bytes += f->rows_bytes;
  double training = fmax(f->arenas_bytes + f->base_bytes, f->writing_bytes);
  f->memory_bytes = fmax(f->analysis_bytes, f->process_bytes + f->files_bytes + training);
  f->memory_free_bytes =
      machine.free_bytes > 0 ? machine.free_bytes + f->process_bytes - touched_bytes : 0;
  f->fits_memory = r->open.dev.imagined || machine.free_bytes <= 0 ||
                   f->memory_bytes - f->files_bytes <= f->memory_free_bytes;
  return KA_STATUS_OK;
}

static void disk_figures(struct ka_run *r, struct ka_plan_figures *f) {
  double state = r->job->optimizer_dtype == KA_STATE_BF16 ? 2 : 4;
  f->checkpoint_bytes = 3 * state * (double)ka_model_n_trained(&r->open.model);
  f->n_checkpoints = r->loop.save_steps > 0 ? (double)r->loop.save_total_limit : 1;
  f->model_bytes = r->job->save_model ? f->files_bytes : 0;
  f->disk_bytes = f->checkpoint_bytes * (f->n_checkpoints + 1) + f->model_bytes + f->rows_bytes;
  f->disk_free_bytes = ka_machine_disk_free(r->job->output_dir);
  f->fits_disk = f->disk_free_bytes <= 0 || f->disk_bytes <= f->disk_free_bytes;
}

static int64_t times(int64_t n_steps, int64_t every) {
  return every > 0 ? (n_steps + every - 1) / every : 1;
}

/* Documents of held-out texts and requests of tasks, each a few hundred tokens. */
static double measured_tokens(const struct ka_run *r) {
  double n = 0;
  for (int64_t i = 0; i < r->measures.n; i++)
    if (!(i == 0 && r->measures.spec.validation)) n += fmax((double)r->measures.items[i].n, 1000);
  return n;
}

/* Tokens of the new skill that go through the base and the model at each evaluation. */
static double compared_tokens(const struct ka_run *r) {
  double n = 0;
  if (r->loop.watch_steps == 0) return 0;
  for (int64_t i = 0; i < r->measures.spec.validation + r->measures.spec.n_texts; i++)
    if (r->measures.items[i].is_new) n += fmax((double)r->measures.items[i].n, 1000);
  return 2 * n;
}

/* A Gram matrix and two factorisations of each trained unit, in double. */
static double spectral_flops(const struct ka_run *r) {
  double n = 0;
  for (int64_t i = 0; i < r->optim.n; i++) {
    const struct ka_slice *s = &r->open.model.slices[i];
    double m = fmin((double)s->n_rows, (double)s->n_cols),
           k = fmax((double)s->n_rows, (double)s->n_cols);
    if (m > 1) n += 2 * m * m * k + 4 * m * m * m;
  }
  return n;
}

/* Seconds of training on a processor. Products run at nearly the rate that is measured;
 * attention's, which are small, at two fifths of it; the rest is traffic: of each token and layer
 * some 40 values of the channels' width and 14 of the feed-forward's (branches forward and back),
 * of a row of logits 4 passes, of a trained parameter and step the master, both moments and the
 * gradient. */
static double processor_seconds(const struct ka_run *r, const struct ka_plan_figures *f,
                                double tokens) {
  const struct ka_recipe *x = &r->open.model.recipe;
  double L = (double)x->L, C = (double)x->C;
  double F = (double)(x->moe ? ka_recipe_dim(x, KA_DIM_EKF) + ka_recipe_dim(x, KA_DIM_SF) : x->F);
  double value = (double)ka_dtype_bytes(r->open.model.compute);
  double keys = (double)r->job->sequence_len / 2;
  double attention = 3.5 * 4 * keys * (double)(x->H * x->D) * L * tokens;
  double moved = tokens * value * (L * (40 * C + 14 * F) + 4 * (double)x->V);
  double updates =
      28 * (double)ka_model_n_trained(&r->open.model) * (double)r->loop.schedule.n_steps;
  return f->flops / (0.95 * f->rate) + attention / (0.4 * f->rate) +
         (moved + updates) / memory_bytes_per_s;
}

/* 2 flops a token and weight that sees it, forward; the same for the input gradients above the
 * lowest trained layer, for the base's own pass there, and for the weight gradients of what is
 * trained; what the branches say of keys (half of a row's square is seen), backward twice that. */
static ka_status time_figures(struct ka_run *r, struct ka_plan_figures *f) {
  struct ka_ctx *ctx = r->ctx;
  double all = ka_model_n_active(&r->open.model, false), L = (double)r->open.model.recipe.L;
  double lowest = fmax(0, fmin(L, (double)r->open.model.lowest_trained_layer));
  int64_t n_steps = r->loop.schedule.n_steps;
  double row_tokens = (double)(r->job->micro_batch_size * r->job->sequence_len);
  double tokens = (double)ka_loop_n_micro(&r->loop) * row_tokens;
  double above = all * (1 - lowest / L),
         passes = r->open.model.term_weight[KA_TERM_KL_TASK] > 0 ? 2 : 1;
  double trained = ka_model_n_active(&r->open.model, true);
  double written = (double)(r->self.n * r->self.T);
  double S = (double)r->job->sequence_len / 2;
  f->flops =
      2 * (tokens * (all + above * passes + trained) + written * (all + 2 * above + trained)) +
      tokens * (ka_model_key_flops(&r->open.model, 0, S) +
                2 * ka_model_key_flops(&r->open.model, (int64_t)lowest, S));
  f->timed = !r->open.dev.imagined;
  f->n_validations = r->data.validation.n > 0 ? 1 + times(n_steps, r->loop.eval_steps) : 0;
  f->n_watch = r->measures.n > 0 ? 1 + times(n_steps, r->loop.watch_steps) : 0;
  if (!f->timed) return KA_STATUS_OK;
  KA_TRY(ka_dev_matmul_rate(&r->open.dev, r->open.model.compute, 0, &f->rate));
  double half = 0.5 * f->rate;
  f->train_s = ka_dev_own_memory(&r->open.dev) ? f->flops / half : processor_seconds(r, f, tokens);
  /* Products with few rows read every weight for them. */
  f->writing_s = fmax(written * 2 * all / half, written / fmax(1, (double)r->self.group) * all *
                                                    (double)ka_dtype_bytes(r->open.model.compute) /
                                                    memory_bytes_per_s);
  if (ka_train_shares_wanted(r->job))
    f->affinity_s = 2 * all * (double)r->selection.chosen.affinity.n_tok / half;
  f->validation_s =
      (double)f->n_validations * (double)r->data.validation.n * row_tokens * 2 * all / half;
  f->watch_s = (double)f->n_watch * (measured_tokens(r) + compared_tokens(r)) * 2 * all / half;
  f->spectra_s = 2 * spectral_flops(r) / (0.25 * f->rate); /* before and after */
  int64_t n_saves = r->loop.save_steps > 0 ? times(n_steps, r->loop.save_steps) : 0;
  f->save_s = ((double)n_saves * f->checkpoint_bytes + f->model_bytes) / stream_bytes_per_s;
  f->all_s = f->writing_s + f->affinity_s + f->train_s + f->validation_s + f->watch_s +
             f->spectra_s + f->save_s;
  return KA_STATUS_OK;
}

ka_status ka_plan_figures_of(struct ka_run *r, struct ka_plan_figures *f) {
  struct ka_ctx *ctx = r->ctx;
  *f = (struct ka_plan_figures){.analysis_bytes = ka_machine_peak()};
  /* Time first: its product brings into memory what the first step would of the libraries. */
  f->files_bytes = model_files(r);
  KA_TRY(rows_figures(r, f));
  disk_figures(r, f);
  KA_TRY(time_figures(r, f));
  return memory_figures(r, f);
}
