/* SPDX-License-Identifier: Apache-2.0
 * What a job needs of memory, disk and time, before it starts. */
#ifndef KAPPA_ENGINE_TRAIN_PLAN_FIGURES_H
#define KAPPA_ENGINE_TRAIN_PLAN_FIGURES_H

#include "engine/train/run.h"

/* Bytes and seconds. Memory is the host's: on a device of its own the arenas are not in it. */
struct ka_plan_figures {
  double process_bytes; /* program, libraries, tokenizer, data, as they lie in memory now */
  double files_bytes;   /* the model's files, which are mapped */
  double arenas_bytes;
  double writing_bytes;  /* of the base that writes rows before training, for anchor.on: self */
  double base_bytes;     /* of the base beside the tuned model, to measure KL */
  double analysis_bytes; /* the most so far: spectra need it before training begins */
  double memory_bytes;   /* the peak: the larger of analysis and training */
  double memory_free_bytes;
  double rows_bytes; /* of those rows, on disk and in memory */
  double checkpoint_bytes, n_checkpoints, model_bytes, disk_bytes, disk_free_bytes;
  bool fits_memory, fits_disk;

  bool timed; /* false: only the device itself can say */
  double flops, rate;
  double writing_s, affinity_s, train_s, validation_s, watch_s, spectra_s, save_s, all_s;
  int64_t n_validations, n_watch;
};

/* Of an open run; measures the device's rate, a second's work, unless the device is imagined. */
ka_status ka_plan_figures_of(struct ka_run *r, struct ka_plan_figures *f);

#endif
