/* SPDX-License-Identifier: Apache-2.0
 * See affinity.h. The model is opened once more for it and closed again: nothing of the run's own,
 * what it trains or what its memory is planned for, is touched. */
#include "engine/train/affinity.h"

#include "base/log.h"
#include "engine/dist/dist.h"
#include "engine/model/moe.h"
#include "engine/report/progress.h"
#include "engine/train/ranks.h"

#include <math.h>
#include <string.h>

bool ka_train_shares_wanted(const struct ka_job *job) {
  return strcmp(job->selection.metric, "affinity") == 0 && !job->selection.file;
}

/* A second handle on the model. */
struct reader {
  struct ka_dev cpu, *dev;
  struct ka_model model;
  bool has_cpu, has_model;
};

static ka_status reader_open(struct ka_arena *arena, struct reader *r, const struct ka_model *like,
                             const struct ka_job *job) {
  struct ka_ctx *ctx = arena->ctx;
  const char *dir;
  r->dev = like->dev;
  if (like->dev->imagined) {
    KA_TRY(ka_dev_open(ctx, &r->cpu, "cpu"));
    r->has_cpu = true;
    r->dev = &r->cpu;
  }
  KA_TRY(ka_path_dir(arena, &dir, like->config.path));
  r->has_model = true;
  KA_TRY(ka_model_open(ctx, &r->model, r->dev, dir, like->compute));
  return ka_model_prepare(&r->model, job->micro_batch_size, job->sequence_len, false);
}

static void reader_close(struct reader *r) {
  if (r->has_model) ka_model_close(&r->model);
  if (r->has_cpu) ka_dev_close(&r->cpu);
}

/* Leaves the first `most` live tokens, returns how many there are. */
static int64_t cut(int32_t *live, int64_t n, int64_t n_live, int64_t most) {
  int64_t left = n_live < most ? n_live : most;
  for (int64_t i = 0, seen = 0; i < n; i++) {
    seen += live[i];
    if (seen > most) live[i] = 0;
  }
  return left;
}

/* sums [2*L*E]: taken, gate. */
static ka_status run(struct reader *r, struct ka_arena *arena, struct ka_train_shares *out,
                     double *sums, const struct ka_job *job,
                     const struct ka_train_batch_source *train) {
  struct ka_ctx *ctx = arena->ctx;
  int64_t wanted = job->selection.score_tokens, LE = out->L * out->E;
  struct ka_progress bar;
  int32_t *live;
  KA_TRY(KA_NEW(arena, &live, ka_model_rows(&r->model), "tokens"));
  const struct ka_model_routes routes = {live, sums, sums + LE};
  ka_progress_begin(ctx, &bar, "affinity", 0, wanted);
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < train->n && out->n_tok < wanted; i++) {
    struct ka_batch batch;
    KA_TRY_GOTO(train->get(train->user, i, &batch), out);
    int64_t n_live = ka_batch_live(&batch, live, NULL);
    n_live = cut(live, batch.B * batch.T, n_live, wanted - out->n_tok);
    out->n_tok += n_live;
    if (n_live > 0 && ka_train_ranks_mine(ctx, i))
      KA_TRY_GOTO(ka_model_route(&r->model, &batch, &routes), out);
    ka_progress_update(&bar, out->n_tok, "");
  }
  st = ka_dist_sum(ctx->dist, "the experts' shares", sums, 2 * LE);
out:
  ka_progress_end(&bar);
  return st;
}

static void normalise(struct ka_train_shares *out, const double *sums) {
  for (int64_t l = 0; l < out->L; l++) {
    const double *row = sums + l * out->E;
    double all = 0;
    for (int64_t e = 0; e < out->E; e++) all += row[e];
    for (int64_t e = 0; e < out->E; e++) out->share[l * out->E + e] = all > 0 ? row[e] / all : NAN;
  }
}

ka_status ka_train_shares_measure(struct ka_arena *arena, struct ka_train_shares *out,
                                  const struct ka_job *job, const struct ka_model *model,
                                  const struct ka_train_batch_source *train) {
  struct ka_ctx *ctx = arena->ctx;
  struct reader r = {0};
  double start_s = ka_now_s();
  ka_status st = KA_STATUS_OK;
  if (!model->recipe.moe)
    return ka_fail(ctx, KA_E_INPUT, "%s: metric affinity chooses among experts, and %s has none",
                   ka_job_place(job, "selection.metric"), model->config.path);
  *out = (struct ka_train_shares){.L = model->recipe.L, .E = model->recipe.moe->E};
  int64_t LE = out->L * out->E;
  KA_TRY(KA_NEW(arena, &out->share, 3 * LE, "affinity"));
  double *sums = out->share + LE;
  KA_TRY_GOTO(reader_open(arena, &r, model, job), out);
  KA_TRY_GOTO(run(&r, arena, out, sums, job, train), out);
  normalise(out, sums + (job->selection.score == KA_SCORE_GATE ? LE : 0));
  ka_info(ctx, "train", "affinity of %lld experts a layer: %lld tokens in %.1f s",
          (long long)out->E, (long long)out->n_tok, ka_now_s() - start_s);
out:
  reader_close(&r);
  return st;
}

void ka_train_shares_of_units(const struct ka_train_shares *s, struct ka_unit *units, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    struct ka_unit *u = &units[i];
    if (u->expert >= 0 && u->expert < s->E && u->layer >= 0 && u->layer < s->L)
      u->affinity = s->share[u->layer * s->E + u->expert];
  }
}

struct ka_affinity ka_train_shares_affinity(const struct ka_train_shares *s,
                                            const struct ka_job *job) {
  const struct ka_job_selection *j = &job->selection;
  bool budget = j->count > 0 || j->fraction > 0 || j->params > 0;
  return (struct ka_affinity){ka_job_words_score[j->score], budget ? 0 : j->p, s->n_tok};
}
