/* SPDX-License-Identifier: Apache-2.0
 *
 * What works on one MODEL opens: the device, what MODEL stands for, the model, its tokenizer. In
 * two steps, for the type to compute in may depend on the device. Zero it first. */
#ifndef KAPPA_ENGINE_MODEL_SESSION_H
#define KAPPA_ENGINE_MODEL_SESSION_H

#include "engine/model/model.h"
#include "tokenizer/tokenizer.h"

struct ka_session {
  struct ka_dev dev;
  struct ka_model_source source; /* its directory is what chat templates and tasks are read by */
  struct ka_model model;
  struct ka_tokenizer *tokenizer;
};

/* Device and source. base: of a delta or adapter, see model_source.h. */
ka_status ka_session_open(struct ka_ctx *ctx, struct ka_session *s, const char *model,
                          const char *base, const char *device);
/* Of a directory as it is: no delta, no adapter. `dir` stays the caller's. */
ka_status ka_session_open_dir(struct ka_ctx *ctx, struct ka_session *s, const char *dir,
                              const char *device);
/* Model and tokenizer; a directory without one, tokenizer NULL, is refused if it is `needed`. The
 * model is not prepared: compute may still be changed. */
ka_status ka_session_load(struct ka_ctx *ctx, struct ka_session *s, enum ka_dtype compute,
                          bool needed);
/* Another model of the same tokenizer on the same device, in the directory `dir`. */
ka_status ka_session_reload(struct ka_ctx *ctx, struct ka_session *s, const char *dir);
/* Also after a failure. */
void ka_session_close(struct ka_session *s);

#endif
