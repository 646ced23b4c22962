/* SPDX-License-Identifier: Apache-2.0
 * Inside audio: from bytes to samples (wave.c), from samples to frames (mel.c). */
#ifndef KAPPA_ENGINE_AUDIO_AUDIO_PARTS_H
#define KAPPA_ENGINE_AUDIO_AUDIO_PARTS_H

#include "engine/audio/audio.h"

struct ka_audio_wave {
  float *samples; /* [n], one channel at KA_AUDIO_RATE; owned, ka_free */
  int64_t n;
  int64_t rate, n_channels; /* of the file */
};

/* The samples of a file's bytes; refuses as ka_audio_read does. */
ka_status ka_audio_wave_read(struct ka_ctx *ctx, struct ka_audio_wave *out, const char *path,
                             const struct ka_map *bytes, double max_s);

/* Frames of n >= KA_AUDIO_WINDOW samples. */
static inline int64_t ka_audio_mel_frames(int64_t n) { return n / KA_AUDIO_HOP; }
/* out [ka_audio_mel_frames(n), spec->n_mel]. */
ka_status ka_audio_mel(struct ka_ctx *ctx, float *out, const float *samples, int64_t n,
                       const struct ka_audio_spec *spec);

#endif
