/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands in front of a decoder: frames of another modality become places of the residual
 * stream, where placeholder tokens stand. The decoder does not know.
 *
 *   frames [F, n_features] -> convolutions over 3 frames, gelu -> an encoder
 *     -> windows of `stack` frames -> hidden, gelu -> C: a place each
 *
 * Stacking is a convolution whose windows do not overlap, so all of these are one kind of stage:
 * rows gathered by an index made here, and a product. A clip's frames never see another clip's.
 * What the frames are (sound, patches of an image, readings of a sensor) is nobody's business here.
 *
 * Its tensors are stored tensors of the model behind its own, so that the trainer, checkpoints and
 * ranks need not be told; the writer of models keeps them apart (engine/train/output.c). */
#ifndef KAPPA_ENGINE_MODEL_PROJECTOR_H
#define KAPPA_ENGINE_MODEL_PROJECTOR_H

#include "engine/model/model.h"

enum {
  KA_PROJECTOR_CONVS = 4,
  KA_PROJECTOR_STAGES = KA_PROJECTOR_CONVS + 2,
  KA_PROJECTOR_KERNEL = 3
};
enum { KA_ENCODER_LAYERS = 8, KA_ENCODER_WEIGHTS = 8 }; /* layers at most; weights of one */
enum { KA_PROJECTOR_PARAMS = 2 * KA_PROJECTOR_STAGES + KA_ENCODER_LAYERS * KA_ENCODER_WEIGHTS };

struct ka_projector_config {
  int64_t n_features;                       /* of a frame */
  int64_t n_conv, conv[KA_PROJECTOR_CONVS]; /* strides of the convolutions */
  int64_t conv_width;                       /* their channels */
  int64_t n_layers, heads; /* of the encoder behind the convolutions, of their width; 0: none */
  int64_t stack, hidden;
};

/* Places that a clip takes: one for stack * conv[0] * conv[1] ... frames, begun ones too. */
int64_t ka_projector_stride(const struct ka_projector_config *c);
int64_t ka_projector_places(const struct ka_projector_config *c, int64_t n_frames);

/* Puts a projector in front of an opened model, before ka_model_train_parts. file: its weights
 * (names and shapes as this config has them, else KA_E_INPUT); NULL: fresh ones by the seed, which
 * give the stream values as large as its embeddings. */
ka_status ka_projector_open(struct ka_model *m, const struct ka_projector_config *c,
                            const char *file, uint64_t seed);
/* NULL: the model has none. */
const struct ka_projector_config *ka_projector_config_of(const struct ka_model *m);
int64_t ka_projector_n_params(const struct ka_model *m);
int64_t ka_projector_n_elems(const struct ka_model *m);
/* Does a slice of the model train the projector? */
bool ka_projector_owns(const struct ka_model *m, const struct ka_slice *s);
/* Parts that train all of it, for ka_model_train_parts; parts [ka_projector_n_params]. */
void ka_projector_parts(const struct ka_model *m, struct ka_train_part *parts);

#endif
