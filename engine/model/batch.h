/* SPDX-License-Identifier: Apache-2.0
 *
 * What the model eats: B rows of T tokens, several documents packed in a row. */
#ifndef KAPPA_ENGINE_MODEL_BATCH_H
#define KAPPA_ENGINE_MODEL_BATCH_H

#include "base/status.h"

enum { KA_LABEL_MASKED = -100 };

/* Asks for the probability of `target` behind the token at `row`, an index into [B,T]; a row may be
 * asked about several times. */
struct ka_pairs {
  int64_t n;
  const int32_t *row, *target;
};

/* Places that another modality fills: those of its projector (projector.h) for n_frames frames, at
 * indices [at, at + n_places) of [B,T], within one document; input_ids may hold anything there. */
struct ka_clip {
  int64_t n_frames, at, n_places;
};
struct ka_clips {
  int64_t n, width; /* width: features of a frame */
  const struct ka_clip *items;
  /* Writes the frames of clip i, [n_frames, width]. */
  ka_status (*read)(void *user, int64_t i, float *frames);
  void *user;
};

/* What a batch's rows are, and with that which terms of the loss they take (loss_terms.def): rows
 * of the task, or text that the base model wrote itself, every position of which counts. */
enum ka_batch_rows { KA_ROWS_TASK, KA_ROWS_SELF, KA_N_ROWS };

/* All arrays are [B,T], owned by whoever made the batch, and valid until its next batch.
 * Invariants: input_ids in [0, V); doc_start[b,t] <= t is the row index of the first token of t's
 * document; position = t - doc_start unless the data says otherwise; padding is a document of its
 * own with labels -100. */
struct ka_batch {
  int64_t B, T;
  const int32_t *input_ids;
  const int32_t *labels; /* -100 masked; unshifted, as in transformers: labels[t] is predicted
                            from t-1; a document's first token is never a target */
  const int32_t *position;
  const int32_t *doc_start;
  const int32_t *length; /* [B], where the rows are pieces of sequences, of these in whole: what
                            lies before and in the batch; NULL: documents are whole */
  int64_t n_tok;         /* of documents, without padding; 0: not counted, all are */
  enum ka_batch_rows rows;
  int64_t n_targets; /* trained targets: labels != -100 at t > doc_start[t]; all of KA_ROWS_SELF */
  struct ka_clips clips; /* n 0: text alone */
  struct ka_pairs pairs; /* with n > 0: scored instead of the labels; n at most the model's rows */
};

#endif
