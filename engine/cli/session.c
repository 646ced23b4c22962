/* SPDX-License-Identifier: Apache-2.0
 * See session.h. */
#include "engine/cli/session.h"

ka_status ka_cli_session_find(struct ka_ctx *ctx, struct ka_cli_session *s,
                              const struct ka_cli *cli) {
  return ka_model_source_open(ctx, &s->source, ka_cli_arg(cli, 0), ka_cli_str(cli, "base"));
}

ka_status ka_cli_session_open(struct ka_ctx *ctx, struct ka_cli_session *s,
                              const struct ka_cli *cli, enum ka_dtype compute) {
  KA_TRY(ka_dev_open(ctx, &s->dev, ka_cli_str(cli, "device")));
  KA_TRY(ka_model_open_source(ctx, &s->model, &s->dev, &s->source, compute));
  return ka_tokenizer_open(ctx, &s->tokenizer, s->source.dir);
}

void ka_cli_session_close(struct ka_cli_session *s) {
  ka_tokenizer_close(s->tokenizer);
  ka_model_close(&s->model);
  ka_model_source_close(&s->source);
  ka_dev_close(&s->dev);
}
