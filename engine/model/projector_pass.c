/* SPDX-License-Identifier: Apache-2.0
 * A projector at work. Forward, a stage: windows = rows of x by index; pre = windows W^T + b;
 * act = gelu(pre). Backward, from the gradient of pre in act's place: dW += dpre^T windows; then,
 * as gelu' of a window's rows is the window of gelu', d windows = (dpre W) gelu'(pre below, in
 * windows), and a row below adds up its places in windows: that is the gradient of the pre
 * below. */
#include "engine/model/projector_parts.h"

/* --- the clips of a batch --------------------------------------------------------------------- */

/* A clip's windows of a stage. in, out: its first row below and here; n_in: its rows below. */
static void index_clip(struct ka_projector_stage *s, int64_t in, int64_t n_in, int64_t out,
                       int64_t n_out) {
  for (int64_t i = 0; i < n_in * s->reach; i++) s->host_back[in * s->reach + i] = -1;
  for (int64_t r = 0; r < n_out; r++)
    for (int64_t k = 0; k < s->kernel; k++) {
      int64_t t = r * s->stride + k - s->pad, at = (out + r) * s->kernel + k;
      bool inside = t >= 0 && t < n_in;
      s->host_index[at] = inside ? (int32_t)(in + t) : -1;
      if (!inside) continue;
      int32_t *back = s->host_back + (in + t) * s->reach;
      while (*back >= 0) back++;
      *back = (int32_t)at;
    }
}

static ka_status take_clip(struct ka_model *m, const struct ka_clips *clips, int64_t i, int64_t N) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_projector *p = m->projector;
  const struct ka_clip *c = &clips->items[i];
  int64_t in = p->n_frames, n_in = c->n_frames;
  KA_NEVER(ctx, c->n_frames < 1 || c->at < 0 || c->at + c->n_places > N);
  KA_NEVER(ctx, c->n_places != ka_projector_places(&p->config, c->n_frames));
  KA_TRY(clips->read(clips->user, i, p->host_frames + in * p->config.n_features));
  p->n_frames += n_in;
  for (int k = 0; k + 1 < p->n_stages; k++) {
    struct ka_projector_stage *s = &p->stages[k];
    int64_t n_out = (n_in + s->stride - 1) / s->stride;
    index_clip(s, in, n_in, s->n_rows, n_out);
    in = s->n_rows;
    n_in = n_out;
    s->n_rows += n_out;
    if (p->encoder.n_layers > 0 && k + 1 == p->config.n_conv)
      ka_encoder_clip(&p->encoder, in, n_out);
  }
  for (int64_t k = 0; k < c->n_places; k++) p->host_place[p->n_places++] = (int32_t)(c->at + k);
  return KA_STATUS_OK;
}

static ka_status send(struct ka_model *m, struct ka_tensor *to, int64_t rows, const void *from) {
  to->shape[0] = rows;
  return ka_dev_upload(m->dev, to->data, from, ka_tensor_bytes(to));
}

ka_status ka_projector_begin(struct ka_model *m, const struct ka_batch *batch) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_projector *p = m->projector;
  const struct ka_clips *clips = &batch->clips;
  if (!p) return KA_STATUS_OK;
  p->n_frames = p->n_places = 0;
  for (int i = 0; i < p->n_stages; i++) p->stages[i].n_rows = 0;
  ka_encoder_begin(&p->encoder);
  if (clips->n == 0) return KA_STATUS_OK;
  KA_NEVER(ctx, clips->width != p->config.n_features);
  for (int64_t i = 0; i < clips->n; i++) KA_TRY(take_clip(m, clips, i, batch->B * batch->T));
  int64_t rows_in = p->n_frames;
  for (int i = 0; i + 1 < p->n_stages; i++) {
    struct ka_projector_stage *s = &p->stages[i];
    KA_TRY(send(m, &s->index, s->n_rows, s->host_index));
    if (s->back.data) KA_TRY(send(m, &s->back, rows_in, s->host_back));
    rows_in = s->n_rows;
    s->windows.shape[0] = s->act.shape[0] = s->pre.shape[0] = s->pre_windows.shape[0] = s->n_rows;
  }
  if (p->encoder.n_layers > 0) KA_TRY(ka_encoder_send(m));
  p->out.shape[0] = p->n_places;
  KA_TRY(send(m, &p->place, p->n_places, p->host_place));
  p->frames.shape[0] = p->n_frames;
  return ka_dev_put(m->dev, p->frames,
                    ka_tensor_2d(p->host_frames, KA_F32, p->n_frames, p->config.n_features));
}

/* --- the passes ------------------------------------------------------------------------------- */

/* out [R, k C] = the windows of x [.., C]. */
static ka_status windows(struct ka_model *m, const struct ka_projector_stage *s,
                         struct ka_tensor out, struct ka_tensor x) {
  struct ka_tensor rows = ka_mat(m, out.data, s->n_rows * s->kernel, s->in);
  return ka_gather_rows(m->dev,
                        &(struct ka_gather_rows_args){
                            .out = rows,
                            .x = x,
                            .index = ka_tensor_1d(s->index.data, KA_I32, s->n_rows * s->kernel)});
}

/* Does a stage read the encoder's rows? The convolution below it has no gelu then. */
static bool encoded(const struct ka_projector *p, int i) {
  return p->encoder.n_layers > 0 && i == p->config.n_conv;
}

static ka_status compute(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_projector *p = m->projector;
  struct ka_tensor x = p->frames;
  for (int i = 0; i + 1 < p->n_stages; i++) {
    struct ka_projector_stage *s = &p->stages[i];
    if (i == p->config.n_conv) KA_TRY(ka_encoder_fwd(m, x, &x));
    KA_TRY(windows(m, s, s->windows, x));
    if (encoded(p, i + 1))
      KA_TRY(ka_linear_fwd(m, s->act, s->windows, &s->w, &s->bias));
    else
      KA_TRY(ka_linear_gelu_fwd(m, s->act, s->pre, s->windows, &s->w, &s->bias));
    x = s->act;
  }
  struct ka_projector_stage *last = &p->stages[p->n_stages - 1];
  return ka_linear_fwd(m, p->out, x, &last->w, &last->bias);
}

/* Writes x, or zeros, to the places of the stream. */
static ka_status put(struct ka_model *m, void *stream, struct ka_tensor x) {
  const struct ka_model_buffers *b = m->buffers;
  return ka_put_rows(m->dev, &(struct ka_put_rows_args){
                                 .out = ka_mat(m, stream, b->batch_B * b->batch_T, m->recipe.C),
                                 .x = x,
                                 .index = m->projector->place});
}

ka_status ka_projector_fwd(struct ka_model *m, void *stream, bool again) {
  struct ka_ctx *ctx = m->ctx;
  if (!m->projector || m->projector->n_places == 0) return KA_STATUS_OK;
  if (!again) KA_TRY(compute(m));
  return put(m, stream, m->projector->out);
}

/* d pre of a stage, in act's place, becomes that of the stage below. */
static ka_status stage_bwd(struct ka_model *m, int i) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_projector_stage *s = &m->projector->stages[i];
  KA_TRY(ka_linear_dw(m, s->act, s->windows, &s->w, &s->bias));
  if (i == 0) return KA_STATUS_OK;
  bool layers = encoded(m->projector, i);
  struct ka_tensor below = s[-1].act;
  if (layers) {
    KA_TRY(ka_linear_dx(m, s->windows, s->act, &s->w, false));
    below.data = m->projector->encoder.dx;
  } else {
    KA_TRY(windows(m, s, s->pre_windows, s[-1].pre));
    KA_TRY(ka_linear_gelu_dx(m, s->windows, s->pre_windows, s->act, &s->w));
  }
  KA_TRY(ka_sum_rows(m->dev, &(struct ka_sum_rows_args){
                                 .out = below,
                                 .x = ka_mat(m, s->windows.data, s->n_rows * s->kernel, s->in),
                                 .rows = s->back}));
  return layers ? ka_encoder_bwd(m) : KA_STATUS_OK;
}

ka_status ka_projector_bwd(struct ka_model *m) {
  struct ka_ctx *ctx = m->ctx;
  struct ka_projector *p = m->projector;
  const struct ka_model_buffers *b = m->buffers;
  if (!p || p->n_places == 0) return KA_STATUS_OK;
  struct ka_projector_stage *last = &p->stages[p->n_stages - 1], *below = last - 1;
  struct ka_tensor dx = ka_mat(m, b->dx, b->batch_B * b->batch_T, m->recipe.C);
  KA_TRY(ka_gather_rows(m->dev,
                        &(struct ka_gather_rows_args){.out = p->out, .x = dx, .index = p->place}));
  KA_TRY(put(m, b->dx, (struct ka_tensor){0}));
  if (!ka_projector_trained(m)) return KA_STATUS_OK;
  KA_TRY(ka_linear_dw(m, p->out, below->act, &last->w, &last->bias));
  KA_TRY(ka_linear_gelu_dx(m, below->act, below->pre, p->out, &last->w));
  for (int i = p->n_stages - 2; i >= 0; i--) KA_TRY(stage_bwd(m, i));
  return KA_STATUS_OK;
}
