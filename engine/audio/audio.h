/* SPDX-License-Identifier: Apache-2.0
 *
 * Audio in: a file becomes frames of log-mel features, [n_frames, n_mel] f32, a frame every 10 ms.
 *
 *   file -> samples (libsndfile) -> one channel -> 16 kHz (libsoxr) -> windows of 25 ms -> powers
 *        (KissFFT) -> mel bands -> log -> normalised
 *
 * Windows are periodic Hann windows around each frame, the ends mirrored; bands are Slaney's, of
 * equal area, 0 to 8000 Hz. What cannot be learned from is refused with a sentence. Knows nothing
 * of text, tokens or models. */
#ifndef KAPPA_ENGINE_AUDIO_AUDIO_H
#define KAPPA_ENGINE_AUDIO_AUDIO_H

#include "base/file.h"

enum { KA_AUDIO_RATE = 16000, KA_AUDIO_HOP = 160, KA_AUDIO_WINDOW = 400, KA_AUDIO_BANDS_MAX = 128 };

struct ka_audio_spec {
  int64_t n_mel;    /* bands */
  bool per_feature; /* of the loudest 8 decades: mean 0 and deviation 1 of each band; else, as
                       Whisper, (log10 + 4) / 4 */
  double max_s;     /* longer files are refused */
  const char *dir;  /* keeps features by the file's content; NULL: they are computed each time */
};

struct ka_audio_clip {
  float *frames; /* [n_frames, spec->n_mel]; owned */
  int64_t n_frames;
  double seconds;
  int64_t rate, n_channels; /* of the file */
  char hash[KA_HASH_TEXT];  /* of its bytes and the spec */
};

/* KA_E_UNSUPPORTED where a library was missing when kappa was built. */
ka_status ka_audio_there(struct ka_ctx *ctx);

/* Reads a file, or what spec->dir knows of it. KA_E_INPUT "PATH: ...": not audio, empty, cut off,
 * not finite, silent, shorter than a window, longer than spec->max_s, of a rate that no speech has.
 * Thread-safe with ctx per thread. Free with ka_audio_clip_deinit; zeroed on failure. */
ka_status ka_audio_read(struct ka_ctx *ctx, struct ka_audio_clip *out, const char *path,
                        const struct ka_audio_spec *spec);
void ka_audio_clip_deinit(struct ka_audio_clip *clip);

#endif
