/* SPDX-License-Identifier: Apache-2.0
 * Log-mel features. Of samples x, frame t:
 *
 *   p[k] = |sum_n hann[n] x[160 t + n - 200] e^(-2 pi i k n / 400)|^2,  k = 0..200
 *   m[b] = sum_k filter[b,k] p[k];  l[b] = log10(max(m[b], 1e-10)), at least the largest less 8
 *
 * x is mirrored at both ends, without repeating its first and last sample. Frames end with the
 * samples: n / 160 of them. The spectrum is in float (KissFFT's Debian build), all else in
 * double. */
#include "engine/audio/audio_parts.h"

#ifdef KAPPA_HAVE_AUDIO
#include <kiss_fftr.h>
#include <math.h>

enum { N = KA_AUDIO_WINDOW, BINS = N / 2 + 1 };

/* Slaney's scale: linear below 1000 Hz, then logarithmic. */
static double hz_of_mel(double mel) {
  const double step = 200.0 / 3, corner = 1000 / step;
  return mel < corner ? mel * step : 1000 * exp((mel - corner) * log(6.4) / 27);
}
static double mel_of_hz(double hz) {
  const double step = 200.0 / 3;
  return hz < 1000 ? hz / step : 1000 / step + log(hz / 1000) * 27 / log(6.4);
}

/* One band: a triangle over bins [first, first + n). */
struct band {
  int first, n;
  double weight[BINS];
};

static void make_band(struct band *band, int64_t b, int64_t n_mel) {
  double top = mel_of_hz(KA_AUDIO_RATE / 2.0), edge[3];
  for (int i = 0; i < 3; i++) edge[i] = hz_of_mel(top * (double)(b + i) / (double)(n_mel + 1));
  band->first = BINS;
  band->n = 0;
  for (int k = 0; k < BINS; k++) {
    double hz = (double)KA_AUDIO_RATE * k / N;
    double rise = (hz - edge[0]) / (edge[1] - edge[0]), fall = (edge[2] - hz) / (edge[2] - edge[1]);
    double w = fmin(rise, fall);
    if (w <= 0) continue;
    if (band->n == 0) band->first = k;
    band->n = k + 1 - band->first;
    band->weight[k - band->first] = w * 2 / (edge[2] - edge[0]); /* of equal area */
  }
}

/* The sample at i, mirrored; n >= KA_AUDIO_WINDOW. */
static float at(const float *x, int64_t n, int64_t i) {
  if (i < 0) i = -i;
  return x[i < n ? i : 2 * (n - 1) - i];
}

static void frame_of(float *out, const float *samples, int64_t n, int64_t t, kiss_fftr_cfg fft,
                     const float *hann, const struct band *bands, int64_t n_mel) {
  float windowed[N];
  kiss_fft_cpx spectrum[BINS];
  double power[BINS];
  for (int i = 0; i < N; i++) windowed[i] = hann[i] * at(samples, n, t * KA_AUDIO_HOP + i - N / 2);
  kiss_fftr(fft, windowed, spectrum);
  for (int k = 0; k < BINS; k++)
    power[k] = (double)spectrum[k].r * (double)spectrum[k].r +
               (double)spectrum[k].i * (double)spectrum[k].i;
  for (int64_t b = 0; b < n_mel; b++) {
    double sum = 0;
    for (int k = 0; k < bands[b].n; k++) sum += bands[b].weight[k] * power[bands[b].first + k];
    out[b] = (float)log10(fmax(sum, 1e-10));
  }
}

/* What lies 8 decades below the loudest is none of the speech's, and float's rounding shows
 * there. */
static void raise_floor(float *x, int64_t n) {
  float top = -10;
  for (int64_t i = 0; i < n; i++) top = fmaxf(top, x[i]);
  for (int64_t i = 0; i < n; i++) x[i] = fmaxf(x[i], top - 8);
}

static void normalise_all(float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = (x[i] + 4) / 4;
}

static void normalise_bands(float *x, int64_t n_frames, int64_t n_mel) {
  for (int64_t b = 0; b < n_mel; b++) {
    double sum = 0, squares = 0;
    for (int64_t t = 0; t < n_frames; t++) sum += (double)x[t * n_mel + b];
    double mean = sum / (double)n_frames;
    for (int64_t t = 0; t < n_frames; t++) {
      double d = (double)x[t * n_mel + b] - mean;
      squares += d * d;
    }
    double deviation = sqrt(squares / (double)n_frames) + 1e-5;
    for (int64_t t = 0; t < n_frames; t++)
      x[t * n_mel + b] = (float)(((double)x[t * n_mel + b] - mean) / deviation);
  }
}

ka_status ka_audio_mel(struct ka_ctx *ctx, float *out, const float *samples, int64_t n,
                       const struct ka_audio_spec *spec) {
  void *memory;
  float hann[N];
  int64_t n_frames = ka_audio_mel_frames(n);
  KA_NEVER(ctx, n < N || spec->n_mel < 1 || spec->n_mel > KA_AUDIO_BANDS_MAX);
  kiss_fftr_cfg fft = kiss_fftr_alloc(N, 0, NULL, NULL);
  if (!fft) return ka_fail(ctx, KA_E_MEMORY, "spectrum: out of memory");
  ka_status st = ka_alloc_n(ctx, &memory, spec->n_mel, sizeof(struct band), "mel bands");
  if (ka_ok(st)) {
    struct band *bands = memory;
    for (int64_t b = 0; b < spec->n_mel; b++) make_band(&bands[b], b, spec->n_mel);
    for (int i = 0; i < N; i++) hann[i] = (float)(0.5 - 0.5 * cos(2 * M_PI * i / N));
    for (int64_t t = 0; t < n_frames; t++)
      frame_of(out + t * spec->n_mel, samples, n, t, fft, hann, bands, spec->n_mel);
    raise_floor(out, n_frames * spec->n_mel);
    if (spec->per_feature)
      normalise_bands(out, n_frames, spec->n_mel);
    else
      normalise_all(out, n_frames * spec->n_mel);
    ka_free(memory);
  }
  kiss_fftr_free(fft);
  return st;
}
#else
ka_status ka_audio_mel(struct ka_ctx *ctx, float *out, const float *samples, int64_t n,
                       const struct ka_audio_spec *spec) {
  (void)out, (void)samples, (void)n, (void)spec;
  return ka_audio_there(ctx);
}
#endif
