/* SPDX-License-Identifier: Apache-2.0
 * Inside the model room: a projector's stages and their memory. Nobody else includes this. */
#ifndef KAPPA_ENGINE_MODEL_PROJECTOR_PARTS_H
#define KAPPA_ENGINE_MODEL_PROJECTOR_PARTS_H

#include "engine/model/buffers.h"
#include "engine/model/projector.h"

/* R = rows at work, R_in = rows of the stage before; k = kernel. The last stage is a product
 * alone. */
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

/* The encoder between the convolutions and the stacking: projector_encoder.c. */
enum {
  KA_ENCODER_NORM1,
  KA_ENCODER_Q,
  KA_ENCODER_K,
  KA_ENCODER_V,
  KA_ENCODER_O,
  KA_ENCODER_NORM2,
  KA_ENCODER_UP,
  KA_ENCODER_DOWN
};
enum { ENCODER_INTS = 6 }; /* of its lists, a row */

/* W: its width, H: heads; R rows, 2R with both copies of each clip. */
struct ka_encoder_layer {
  struct ka_weight w[KA_ENCODER_WEIGHTS];
  struct ka_piece piece[KA_ENCODER_WEIGHTS];
  void *h1, *q, *k, *v; /* [R,W]; backward q, k, v hold their gradients */
  void *both, *lse;     /* [2R,W], [2R,H]: attention of both copies */
  void *a, *mid;        /* [R,W]: of the second; the stream between the branches */
  void *h2, *pre, *act; /* [R,W], [R,4W], [R,4W]; backward act holds pre's gradient */
  void *out;            /* [R,W] */
  void *rstd1, *rstd2;  /* [R] */
};

struct ka_encoder {
  int n_layers;
  int64_t width, heads;
  struct ka_encoder_layer layers[KA_ENCODER_LAYERS];
  void *qq, *kk, *vv, *dd, *dq, *dk, *dv; /* [2R,W]: of the layer at work */
  void *t, *dx, *positions;               /* [R,W] */
  void *in;                               /* [R,W]: what the first layer reads */
  int32_t *ints, *host;                   /* [6R]: see lists_of; on the device, and to be sent */
  int32_t *clip;                          /* [n_clips, 2]: first row, rows */
  int64_t n_rows, n_clips;                /* of the batch at hand */
};

struct ka_projector {
  struct ka_projector_config config;
  struct ka_safetensors files; /* its weights, where they are read from a file */
  int n_stages;
  struct ka_projector_stage stages[KA_PROJECTOR_STAGES];
  struct ka_encoder encoder; /* before stage n_conv */
  struct ka_tensor frames;   /* [F, n_features] */
  struct ka_tensor out;      /* [places, C]; backward its gradient */
  struct ka_tensor place;    /* [places]: rows of the stream */
  struct ka_arena host;      /* of a separate device: */
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

/* --- projector_encoder.c --- */
/* Memory for R rows; host: where lists are written, NULL: not now. */
ka_status ka_encoder_plan(struct ka_model *m, int64_t R, struct ka_arena *host);
/* The clips of a batch one after the other, then the lists. */
void ka_encoder_begin(struct ka_encoder *e);
void ka_encoder_clip(struct ka_encoder *e, int64_t first, int64_t n);
ka_status ka_encoder_send(struct ka_model *m);
/* out = the layers of x (which gets its positions added), or x without layers. */
ka_status ka_encoder_fwd(struct ka_model *m, struct ka_tensor x, struct ka_tensor *out);
/* From the gradient of out in encoder.dx that of x, in x's place. */
ka_status ka_encoder_bwd(struct ka_model *m);

/* --- projector_pass.c --- */
/* The batch's clips, to the device. */
ka_status ka_projector_begin(struct ka_model *m, const struct ka_batch *batch);
/* Writes the places of the stream [N,C]. again: what the last call computed. */
ka_status ka_projector_fwd(struct ka_model *m, void *stream, bool again);
/* Takes the places' gradient out of b->dx, which is 0 there afterwards. */
ka_status ka_projector_bwd(struct ka_model *m);

#endif
