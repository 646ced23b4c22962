/* SPDX-License-Identifier: Apache-2.0
 * Fitting a job into memory; see memory.h. */
#include "engine/train/memory.h"

#include "base/log.h"
#include "base/machine.h"
#include "engine/dist/dist.h"
#include "engine/train/ranks.h"

#include <string.h>

struct ka_optim_config ka_run_optim_config(const struct ka_run *r) {
  const struct ka_job *job = r->job;
  return (struct ka_optim_config){
      .beta1 = job->adam_beta1,
      .beta2 = job->adam_beta2,
      .eps = job->adam_epsilon,
      .weight_decay = job->weight_decay,
      .max_grad_norm = job->max_grad_norm,
      .state = job->optimizer_dtype == KA_STATE_BF16 ? KA_BF16 : KA_F32,
      .seed = (uint64_t)job->seed,
      .offload = job->offload_optimizer,
      .pull = job->anchor.kind == KA_ANCHOR_L2 ? job->anchor.weight : 0,
      .parts = r->selection.optim_parts,
  };
}

static ka_status measure(struct ka_run *r, struct ka_run_memory *out, struct ka_optim *optim) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_optim_config config = ka_run_optim_config(r);
  KA_TRY(ka_model_prepare(&r->open.model, r->job->micro_batch_size, r->job->sequence_len, true));
  KA_TRY(ka_optim_init(ctx, optim, &r->open.model, &config, true));
  out->model_bytes = r->open.model.run.used_bytes;
  out->step_bytes = r->open.model.step.used_bytes;
  out->optimizer_bytes = ka_run_offloads(r) ? 0 : optim->arena.used_bytes;
  out->all_bytes = out->model_bytes + out->step_bytes + out->optimizer_bytes;
  return KA_STATUS_OK;
}

ka_status ka_run_measure(struct ka_run *r, struct ka_run_memory *out) {
  struct ka_optim optim = {0};
  ka_status st = measure(r, out, &optim);
  ka_optim_deinit(&optim);
  return st;
}

/* Which key makes a holder smaller. */
static const struct {
  const char *name, *key;
} shrinks[] = {
    {"activations", "gradient_checkpointing: auto, or less of micro_batch_size or sequence_len"},
    {"scratch", "less of micro_batch_size or sequence_len"},
    {"head", "less of micro_batch_size or sequence_len"},
    {"masters", "optimizer_dtype: bf16 or offload_optimizer: true, or a smaller selection"},
    {"first moments", "optimizer_dtype: bf16 or offload_optimizer: true, or a smaller selection"},
    {"second moments", "optimizer_dtype: bf16 or offload_optimizer: true, or a smaller selection"},
    {"gradients", "a smaller selection"},
    {"weights", "bf16: true"},
    {"base weights", "a smaller selection"},
};

static const char *hint_for(const char *name) {
  for (size_t i = 0; i < sizeof shrinks / sizeof *shrinks; i++)
    if (strcmp(shrinks[i].name, name) == 0) return shrinks[i].key;
  return "a smaller job";
}

/* The largest holder not yet named. */
static const struct ka_arena_use *next_holder(const struct ka_arena *const arenas[], int n,
                                              size_t below) {
  const struct ka_arena_use *most = NULL;
  for (int a = 0; a < n; a++)
    for (int i = 0; i < arenas[a]->n_names; i++) {
      const struct ka_arena_use *use = &arenas[a]->uses[i];
      if (use->bytes < below && (!most || use->bytes > most->bytes)) most = use;
    }
  return most;
}

static ka_status refuse(struct ka_run *r, const struct ka_run_memory *need, double budget) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_optim optim = {0};
  struct ka_run_memory again;
  struct ka_str text = {0};
  char bytes[32], all[32];
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(measure(r, &again, &optim), out);
  const struct ka_arena *const arenas[] = {&r->open.model.run, &r->open.model.step, &optim.arena};
  const struct ka_arena_use *use = next_holder(arenas, need->optimizer_bytes ? 3 : 2, SIZE_MAX);
  const char *hint = use ? hint_for(use->name) : "a smaller job";
  for (int i = 0; use && i < 4; i++) {
    KA_TRY_GOTO(ka_str_printf(ctx, &text, "%s%s %s", i ? ", " : "", use->name,
                              ka_fmt_bytes((double)use->bytes, bytes)),
                out);
    use = next_holder(arenas, need->optimizer_bytes ? 3 : 2, use->bytes);
  }
  st = ka_fail(ctx, KA_E_MEMORY,
               "device %s: the job needs %s, %s are free (largest: %s); what helps most: %s",
               r->open.dev.backend->name, ka_fmt_bytes((double)need->all_bytes, all),
               ka_fmt_bytes(budget > 0 ? budget : 0, bytes), text.data ? text.data : "", hint);
out:
  ka_optim_deinit(&optim);
  ka_str_deinit(&text);
  return st;
}

bool ka_run_offloads(const struct ka_run *r) {
  return r->job->offload_optimizer && ka_dev_own_memory(&r->open.dev);
}

ka_status ka_train_fit_recompute(struct ka_model *m, double budget,
                                 ka_status (*need)(void *user, double *bytes), void *user) {
  struct ka_ctx *ctx = m->ctx;
  int64_t low = 0, high = m->recipe.L;
  double bytes;
  while (low < high) {
    m->recompute = (low + high) / 2;
    KA_TRY(need(user, &bytes));
    if (bytes <= budget)
      high = m->recompute;
    else
      low = m->recompute + 1;
  }
  m->recompute = low;
  return need(user, &bytes);
}

struct fit {
  struct ka_run *r;
  struct ka_run_memory need;
};

static ka_status measure_fit(void *user, double *bytes) {
  struct fit *fit = user;
  ka_status st = ka_run_measure(fit->r, &fit->need);
  *bytes = (double)fit->need.all_bytes;
  return st;
}

/* Memory that this rank may use: of a machine its part. */
static double budget_of(const struct ka_run *r) {
  struct ka_machine machine;
  if (ka_dev_own_memory(&r->open.dev)) return (double)r->open.dev.free_bytes;
  ka_machine_read(&machine);
  return 0.8 * machine.free_bytes / ka_dist_n_here(r->ctx->dist);
}

static ka_status choose_blocks(struct ka_run *r, double budget, struct ka_run_memory *need) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_model *m = &r->open.model;
  struct fit fit = {.r = r};
  int mode = r->job->gradient_checkpointing;
  double bytes;
  m->recompute = mode == KA_RECOMPUTE_BLOCK ? m->recipe.L : 0;
  KA_TRY(measure_fit(&fit, &bytes));
  if (mode == KA_RECOMPUTE_AUTO && budget > 0 && bytes > budget)
    KA_TRY(ka_train_fit_recompute(m, budget, measure_fit, &fit));
  *need = fit.need;
  return KA_STATUS_OK;
}

static void set_shards(struct ka_run *r, int mode) {
  const struct ka_dist *d = r->ctx->dist;
  int n = r->options.n_ranks > 0 ? (int)r->options.n_ranks : ka_dist_n(d);
  r->shard = mode;
  r->open.model.shards = (struct ka_shards){0};
  if (mode != KA_SHARD_NONE && n > 1)
    r->open.model.shards =
        (struct ka_shards){.rank = ka_dist_rank(d), .n = n, .weights = mode == KA_SHARD_ALL};
}

ka_status ka_run_choose_memory(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  bool own = ka_dev_own_memory(&r->open.dev), chosen = r->job->shard != KA_SHARD_AUTO;
  int most = chosen ? r->job->shard : own ? KA_SHARD_OPTIMIZER : KA_SHARD_ALL;
  double budget = budget_of(r);
  struct ka_run_memory need;
  if (own && most == KA_SHARD_ALL)
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: shard: all is not for %s, whose passes do not wait for other ranks; use "
                   "optimizer",
                   ka_job_place(r->job, "shard"), r->open.dev.backend->name);
  for (int mode = chosen ? most : KA_SHARD_NONE; mode <= most; mode++) {
    set_shards(r, mode);
    KA_TRY(choose_blocks(r, budget, &need));
    if (budget <= 0 || (double)need.all_bytes <= budget) break;
  }
  double choice[2] = {(double)r->shard, (double)r->open.model.recompute};
  KA_TRY(ka_train_ranks_most(ctx, choice, 2)); /* all ranks make the same passes */
  set_shards(r, (int)choice[0]);
  r->open.model.recompute = (int64_t)choice[1];
  KA_TRY(ka_run_measure(r, &need));
  return own && (double)need.all_bytes > budget ? refuse(r, &need, budget) : KA_STATUS_OK;
}
