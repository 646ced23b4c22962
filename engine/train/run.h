/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole job: what it names is opened (ka_run_open, shared by `train` and `plan`), trained, saved
 * and reported (ka_run_train). */
#ifndef KAPPA_ENGINE_TRAIN_RUN_H
#define KAPPA_ENGINE_TRAIN_RUN_H

#include "engine/eval/measures.h"
#include "engine/model/session.h"
#include "engine/train/data.h"
#include "engine/train/identity.h"
#include "engine/train/loop.h"
#include "engine/train/select.h"
#include "engine/train/self_rows.h"

struct ka_run_options {
  const char *device; /* overrides the job's; NULL: the job's */
  bool resume;
  bool plan;                 /* only to describe it: measuring arenas, nothing written */
  int64_t n_ranks;           /* to plan for; 0: as many as there are */
  double link;               /* GB/s of each of them; 0: not given */
  const char *command;       /* the line that repeats the run, for its report; may be NULL */
  const char *json;          /* where the result of the run goes, "-": stdout; NULL: nowhere */
  const char *base_measures; /* file of what the base scored, which runs of one benchmark share:
                              * read where it fits, else written; NULL: none */
};

struct ka_run {
  struct ka_ctx *ctx;
  const struct ka_job *job;
  struct ka_run_options options;
  struct ka_arena arena;
  struct ka_session open; /* tokenizer NULL: the model directory has none */
  struct ka_train_selection selection;
  struct ka_train_data data;
  struct ka_optim optim;
  struct ka_self_rows self; /* n 0: the anchor is on none */
  struct ka_loop_config loop;
  struct ka_measures measures; /* what is watched; n 0: nothing, see watch.h */
  int lock;                    /* on output_dir; -1: none */
  struct ka_speech speech;     /* of datasets that hold speech, with has_speech */
  bool has_data, has_optim, has_speech;
  int shard;              /* how ranks share the memory: one of the job's words, auto decided */
  const char *checkpoint; /* to resume from; NULL: from the start */
  int64_t checkpoint_step;
  json_t *state;            /* of that checkpoint */
  json_t *fingerprint;      /* of the job and what it names; NULL in a plan */
  const char *weights_from; /* directory below output_dir, see refresh.h; NULL: the base model */
  char identity[KA_IDENTITY_TEXT]; /* of the job and its inputs when training began */
  int64_t refreshed_at;            /* step of the last new selection; 0: none */
};

/* Device, model, selection (of the checkpoint when resuming), data, memory, optimizer. Checks
 * output_dir. Close also after a failure. */
ka_status ka_run_open(struct ka_ctx *ctx, struct ka_run *r, const struct ka_job *job,
                      const struct ka_run_options *options);
void ka_run_close(struct ka_run *r);

/* What the job wants of the open model, which is that of `dir`: its shards, the base as its
 * anchor. */
ka_status ka_run_configure_model(struct ka_run *r, const char *dir);

/* ka_train_select into r->selection, by all ranks. */
ka_status ka_run_select(struct ka_run *r, const char *file, int64_t step);
/* The job's keys that self-written rows depend on; borrows. */
ka_status ka_run_self_rows_spec(struct ka_run *r, struct ka_self_rows_spec *out);

/* The job's anchor in words, from the run's arena: "none", "KL(base || tuned), weight 0.3". */
ka_status ka_run_anchor_text(struct ka_run *r, const char **out);

/* After ka_run_select: its parts are trained. Plans or allocates the model for the job's batches,
 * with gradient_checkpointing as it says (memory.h), and the optimizer. */
ka_status ka_run_take_selection(struct ka_run *r);

/* All ranks have the same program, job, inputs, selection, micro-batches and kind of device;
 * KA_E_INPUT says what differs. */
ka_status ka_run_agree(struct ka_run *r);

/* Trains to the end and writes the output directory. */
ka_status ka_run_train(struct ka_run *r);

/* What the job computes in on this device. */
enum ka_dtype ka_run_dtype(const struct ka_job *job, const struct ka_dev *dev);

#endif
