/* SPDX-License-Identifier: Apache-2.0
 *
 * Watching a run: its measures before the first step, on the schedule of `forgetting:`, and after
 * the last; the learn and forget curves; the end by stop_when or
 * stop_when_kl; the best state.
 *
 * All evaluations travel in the checkpoints, as run.watch = [{step, learned, forgot, score, kl_new,
 * values}], with run.best_step and run.best, the directory of the best state so far: so a resumed
 * run takes the same turns. A best state lies in OUT/best-STEP as long as the run or a checkpoint
 * needs it.
 */
#ifndef KAPPA_ENGINE_TRAIN_WATCH_H
#define KAPPA_ENGINE_TRAIN_WATCH_H

#include "engine/train/run.h"

/* Opens r->measures (n = 0: nothing is watched) and sets r->loop.watch_steps. Before the model is
 * prepared. KA_E_INPUT: keys that need measures which are not there. */
ka_status ka_watch_open(struct ka_run *r);

/* ka_loop's watch; user is the run. */
ka_status ka_watch_eval(void *run, struct ka_loop *l);

/* Checks that a resumed run measures what the interrupted one did; a fresh one starts its list. */
ka_status ka_watch_start(struct ka_run *r, json_t *extra_state);

/* After the last step: with keep: best, the optimizer and model hold the best state again. */
ka_status ka_watch_finish(struct ka_run *r, struct ka_loop *l);

/* The key of forgetting: that ended a stopped run. */
const char *ka_watch_stopped_by(const json_t *extra_state);

/* The values of an evaluation of the run into out [measures.n]; which one is that
 * of the state that the output gets. */
void ka_watch_values(const json_t *extra_state, int64_t i, double *out, int64_t n);
int64_t ka_watch_kept(const json_t *extra_state);

#endif
