/* SPDX-License-Identifier: Apache-2.0
 * Inside the model room: a projector's stages and their memory. Nobody else includes this. */
#ifndef KAPPA_ENGINE_MODEL_PROJECTOR_PARTS_H
#define KAPPA_ENGINE_MODEL_PROJECTOR_PARTS_H

#include "engine/model/buffers.h"
#include "engine/model/projector.h"

/* R = rows at work, R_in = rows of the stage before; k = kernel. The last stage is a product alone. */
struct ka_projector_stage {
  int64_t kernel, stride, pad, in, out;
  int64_t frames;           /* its rows for a place */
  int64_t reach;            /* windows that a row of the stage before may be in */
  struct ka_weight w, bias; /* [out, k in], [out] */
  struct ka_piece piece, bias_piece;
  struct ka_tensor index;       /* [R, k]: the rows of each window, -1: beyond the clip's ends */
  struct ka_tensor back;        /* [R_in, reach]: the places of a row in windows, -1: none */
  struct ka_tensor windows;     /* [R, k in]; backward its gradient, through the gelu below it */
  struct ka_tensor pre_windows; /* [R, k in]: windows of the stage before's pre */
  struct ka_tensor pre;         /* [R, out] before the gelu */
  struct ka_tensor act;         /* [R, out] behind it; backward the gradient of pre */
  int32_t *host_index, *host_back;
  int64_t n_rows; /* R */
};

struct ka_projector {
  struct ka_projector_config config;
  struct ka_safetensors files; /* its weights, where they are read from a file */
  int n_stages;
  struct ka_projector_stage stages[KA_PROJECTOR_STAGES];
  struct ka_tensor frames; /* [F, n_features] */
  struct ka_tensor out;    /* [places, C]; backward its gradient */
  struct ka_tensor place;  /* [places]: rows of the stream */
  struct ka_arena host;    /* of a separate device: */
  float *host_frames;
  int32_t *host_place;
  int64_t n_frames, n_places; /* of the batch at hand */
};

void ka_projector_close(struct ka_model *m);
/* Which parts of it m->slices train. */
void ka_projector_train(struct ka_model *m);
bool ka_projector_trained(const struct ka_model *m);
/* Memory for the largest batch: all its tokens places. */
ka_status ka_projector_plan(struct ka_model *m);

/* --- projector_pass.c --- */
/* The batch's clips, to the device. */
ka_status ka_projector_begin(struct ka_model *m, const struct ka_batch *batch);
/* Writes the places of the stream [N,C]. again: what the last call computed. */
ka_status ka_projector_fwd(struct ka_model *m, void *stream, bool again);
/* Takes the places' gradient out of b->dx, which is 0 there afterwards. */
ka_status ka_projector_bwd(struct ka_model *m);

#endif
