/* SPDX-License-Identifier: Apache-2.0
 *
 * What commands on one MODEL open: the device, what MODEL stands for, the model, its tokenizer, by
 * the argument 0 and the options --base and --device. Zero it first. */
#ifndef KAPPA_ENGINE_CLI_SESSION_H
#define KAPPA_ENGINE_CLI_SESSION_H

#include "engine/cli/cli.h"
#include "engine/model/model.h"
#include "tokenizer/tokenizer.h"

struct ka_cli_session {
  struct ka_dev dev;
  struct ka_model_source source;
  struct ka_model model;
  struct ka_tokenizer *tokenizer;
};

/* The source alone: its directory is what chat templates and tasks are read by. */
ka_status ka_cli_session_find(struct ka_ctx *ctx, struct ka_cli_session *s,
                              const struct ka_cli *cli);
/* The rest. The model is not prepared: compute may still be changed. */
ka_status ka_cli_session_open(struct ka_ctx *ctx, struct ka_cli_session *s,
                              const struct ka_cli *cli, enum ka_dtype compute);
/* Also after a failure. */
void ka_cli_session_close(struct ka_cli_session *s);

#endif
