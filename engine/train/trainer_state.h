/* SPDX-License-Identifier: Apache-2.0
 * trainer_state.json beside train_log.jsonl: the same rows under the names that Hugging Face's
 * Trainer gives them, for the tools that read it. */
#ifndef KAPPA_ENGINE_TRAIN_TRAINER_STATE_H
#define KAPPA_ENGINE_TRAIN_TRAINER_STATE_H

#include "engine/train/run.h"

/* Writes it into output_dir from the log of the finished run. */
ka_status ka_trainer_state_write(struct ka_run *r, const struct ka_loop *loop);

#endif
