/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a sound file: samples that are finite and not silent, or a message. */
#include "engine/audio/audio_parts.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct ka_ctx context;
  struct ka_ctx *ctx = &context;
  struct ka_audio_wave w;
  const struct ka_audio_spec spec = {.n_mel = 80, .max_s = 5};
  const struct ka_map bytes = {data, size};
  ka_ctx_init(ctx);
  if (!ka_ok(ka_audio_wave_read(ctx, &w, "x.wav", &bytes, spec.max_s))) return 0;
  int64_t n = ka_audio_mel_frames(w.n) * spec.n_mel;
  float *frames = malloc((size_t)(n + 1) * sizeof *frames);
  if (frames && ka_ok(ka_audio_mel(ctx, frames, w.samples, w.n, &spec)))
    for (int64_t i = 0; i < n; i++)
      if (!isfinite(frames[i])) abort();
  free(frames);
  ka_free(w.samples);
  return 0;
}
