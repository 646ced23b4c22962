/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints: OUT/checkpoint-N/ holds state.json (step, counters, what the run depends on, the
 * hashes of the other files and of itself),
 * selection.json, and trained.safetensors: for every trained slice its master "w.NAME" and
 * moments "m.NAME", "v.NAME". Frozen weights are not copied: they are the base's.
 *
 * Invariant: a directory named checkpoint-N is complete. It is written under another name, synced
 * and renamed. */
#ifndef KAPPA_ENGINE_TRAIN_CHECKPOINT_H
#define KAPPA_ENGINE_TRAIN_CHECKPOINT_H

#include "base/json.h"
#include "engine/train/optim.h"

enum { KA_CKPT_VERSION = 1 }; /* of state.json */

/* Writes OUT/checkpoint-STEP, copies `selection_path` into it (NULL: none), then removes the oldest
 * checkpoints until at most `limit` are left (0: all stay). state is borrowed. An existing
 * checkpoint of this step is replaced. KA_E_IO leaves the earlier ones as they were. */
ka_status ka_ckpt_write(struct ka_ctx *ctx, const char *out_dir, int64_t step,
                        const struct ka_optim *o, const json_t *state, const char *selection_path,
                        int64_t limit);

/* The newest checkpoint of OUT that is whole: its directory (from a), its step, and its state.json
 * (a new reference); NULL and 0 when there is none at all. A damaged one (a file whose hash is
 * another, no JSON) is passed over with a warning. KA_E_INPUT: all are damaged, or a state that
 * says what no kappa writes there: another version or step, a path for the name of a directory. */
ka_status ka_ckpt_newest(struct ka_arena *a, const char *out_dir, const char **dir, int64_t *step,
                         json_t **state);

/* Loads masters and moments into an initialised optimizer and publishes the weights. KA_E_INPUT
 * when the checkpoint's slices are not exactly the optimizer's. */
ka_status ka_ckpt_load(struct ka_ctx *ctx, const char *dir, struct ka_optim *o);

/* Writes OUT/NAME/trained.safetensors alone, for ka_ckpt_load; by rename, in place of an older one.
 */
ka_status ka_ckpt_write_slices(struct ka_ctx *ctx, const char *out_dir, const char *name,
                               const struct ka_optim *o);

/* Removes the directories OUT/PREFIX* but `keep` (NULL: none) and those that a checkpoint's "run"
 * names: in member `key` of it. Rank 0 does so. */
ka_status ka_ckpt_sweep_named(struct ka_ctx *ctx, const char *out_dir, const char *prefix,
                              const char *key, const char *keep);

/* Removes what a killed run left half-written, OUT/.checkpoint-*.tmp and OUT/FILE.tmp.PID. The
 * checkpoints above `step`, found damaged, become OUT/damaged-checkpoint-N; of those below it the
 * oldest go, as in ka_ckpt_write. */
ka_status ka_ckpt_sweep(struct ka_ctx *ctx, const char *out_dir, int64_t step, int64_t limit);

#endif
