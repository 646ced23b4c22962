/* SPDX-License-Identifier: Apache-2.0
 *
 * The training loop: gradients over the micro-batches of a step, clipping, AdamW, validation, log
 * rows, checkpoints. It knows numbers and batches, not jobs or files of data.
 *
 * Invariant: everything a step depends on is a function of its number and of the checkpointed state
 * (weights, moments, the counters of struct ka_loop), so a resumed run repeats the uninterrupted
 * one bit for bit. */
#ifndef KAPPA_ENGINE_TRAIN_LOOP_H
#define KAPPA_ENGINE_TRAIN_LOOP_H

#include "engine/report/jsonl.h"
#include "engine/report/progress.h"
#include "engine/report/tensorboard.h"
#include "engine/train/experts.h"
#include "engine/train/optim.h"
#include "engine/train/schedule.h"

/* Micro-batch `index` (from 0) of a stream, without replaying the earlier ones; valid until the
 * next call. */
struct ka_train_batch_source {
  ka_status (*get)(void *user, int64_t index, struct ka_batch *out);
  void *user;
  int64_t n; /* micro-batches: of one epoch of training data, or of the whole validation set */
};

struct ka_loop_config {
  struct ka_schedule schedule;       /* its n_steps is the length of the run */
  int64_t accumulation;              /* micro-batches a step */
  int64_t n_micro;                   /* of the run: the last step may have fewer; 0: all are full */
  int64_t logging_steps, eval_steps; /* and the last step; 0: that alone */
  int64_t save_steps;                /* and the last step; 0: only when interrupted */
  int64_t save_total_limit;          /* 0: keep all */
  int64_t watch_steps;   /* watch before the first step, after every so many and after the last */
  int64_t refresh_steps; /* the loop returns after every so many steps; 0: at the end alone */
  const char *out_dir;
  const char *selection_path; /* copied into checkpoints; may be NULL */
};

/* Micro-batches of the whole run. */
int64_t ka_loop_n_micro(const struct ka_loop_config *c);

struct ka_loop {
  struct ka_ctx *ctx;
  struct ka_loop_config config;
  struct ka_model *model;
  struct ka_optim *optim;
  struct ka_train_batch_source train, validation; /* validation.n 0: none */
  struct ka_train_batch_source self; /* rows that the base wrote: n micro-batches go into every step
                                      * behind its own, those of step s from s * n on; 0: none */
  struct ka_jsonl *log;
  struct ka_tensorboard *tensorboard;
  json_t *extra_state; /* kept in every checkpoint as "run"; borrowed */
  /* Evaluates the model between two steps, the validation of which is done; may set `stopped`,
   * which makes this step the last one. What it must remember goes into `extra_state`. NULL: nobody
   * does. */
  ka_status (*watch)(void *user, struct ka_loop *l);
  void *watch_user;
  struct ka_train_experts experts; /* state, too; E 0: not counted */
  volatile int *signal;            /* ctx->interrupted; apart from it because ranks stop together */

  /* State, in checkpoints. */
  int64_t step;                   /* steps done */
  int64_t n_tok;                  /* tokens of documents seen since the start of the run */
  int64_t n_tok_padded;           /* the same with the padding of their rows */
  int64_t n_tok_self;             /* tokens of rows that the base wrote */
  double time_s;                  /* training time of earlier sessions */
  double row_term[KA_N_TERMS];    /* since the last log row: sums over its targets */
  int64_t row_targets[KA_N_ROWS]; /* and their number */
  double last_eval_loss;          /* NaN: none yet */
  int64_t watched_step;           /* of the last evaluation by `watch`; -1: none yet */
  bool stopped;

  /* Of this session. */
  struct ka_progress progress;
  int64_t counted_step; /* the step before it has so many targets; 0: none is counted */
  int64_t counted_targets[KA_N_ROWS];
  double start_s, row_start_s;
  double end_s;          /* of ka_loop_run; 0: it runs */
  double start_waited_s; /* for other ranks, before it */
  double aside_s;        /* went into validation, `watch` and new selections */
  int64_t row_start_tok, first_tok;
  char note[96];
};

/* Starts or, with a checkpoint directory (NULL: none) and its state, continues: loads weights,
 * moments, counters.
 * The fields up to `extra_state` are set by the caller. */
ka_status ka_loop_start(struct ka_loop *l, const char *checkpoint_dir, const json_t *state);

/* Writes the checkpoint of the step at hand. */
ka_status ka_loop_save(struct ka_loop *l);

/* No step is left: the schedule's end, or stopped. */
bool ka_loop_done(const struct ka_loop *l);

/* Runs until it is done, or to the next multiple of refresh_steps; writes checkpoints.
 * KA_E_INTERRUPTED after a signal (checkpoint written), KA_E_CHECK when loss or gradient stop being
 * finite (nothing written). */
ka_status ka_loop_run(struct ka_loop *l);

/* Mean loss over all targets of a source; NaN when it has none. */
ka_status ka_train_source_loss(struct ka_model *m, const struct ka_train_batch_source *source,
                               double *loss, int64_t *n_targets);

/* What every row of the log starts with: {"step", "epoch"}; a new reference. Seconds of training so
 * far. */
json_t *ka_loop_row(const struct ka_loop *l);
double ka_loop_seconds(const struct ka_loop *l);
/* Tokens a second of this session's training alone: what comes behind it does not count. */
double ka_loop_rate(const struct ka_loop *l);

/* What a step saw: sums over its targets, and the gradient norm before clipping. */
struct ka_loop_step {
  double term[KA_N_TERMS], norm;
  int64_t n_targets[KA_N_ROWS];
};

/* One step without logging. Used by the bench too. */
ka_status ka_loop_step(struct ka_loop *l, struct ka_loop_step *out);

#endif
