/* SPDX-License-Identifier: Apache-2.0
 * See session.h. */
#include "engine/model/session.h"

ka_status ka_session_open(struct ka_ctx *ctx, struct ka_session *s, const char *model,
                          const char *base, const char *device) {
  KA_TRY(ka_model_source_open(ctx, &s->source, model, base));
  return ka_dev_open(ctx, &s->dev, device);
}

ka_status ka_session_open_dir(struct ka_ctx *ctx, struct ka_session *s, const char *dir,
                              const char *device) {
  s->source.dir = dir;
  return ka_dev_open(ctx, &s->dev, device);
}

ka_status ka_session_load(struct ka_ctx *ctx, struct ka_session *s, enum ka_dtype compute,
                          bool needed) {
  KA_TRY(ka_model_open_source(ctx, &s->model, &s->dev, &s->source, compute));
  if (!needed && !ka_tokenizer_is_in(s->source.dir)) return KA_STATUS_OK;
  return ka_tokenizer_open(ctx, &s->tokenizer, s->source.dir);
}

ka_status ka_session_reload(struct ka_ctx *ctx, struct ka_session *s, const char *dir) {
  enum ka_dtype compute = s->model.compute;
  ka_model_close(&s->model);
  return ka_model_open(ctx, &s->model, &s->dev, dir, compute);
}

void ka_session_close(struct ka_session *s) {
  ka_tokenizer_close(s->tokenizer);
  ka_model_close(&s->model);
  ka_model_source_close(&s->source);
  ka_dev_close(&s->dev);
}
