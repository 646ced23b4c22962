/* SPDX-License-Identifier: Apache-2.0
 * Samples of a file by libsndfile, which reads the mapped bytes, resampled by libsoxr at its high
 * quality. Channels are averaged. A length in a header is a claim until the samples have come. */
#include "engine/audio/audio_parts.h"

#ifdef KAPPA_HAVE_AUDIO
#include <math.h>
#include <sndfile.h>
#include <soxr.h>
#include <stdio.h>
#include <string.h>

enum { RATE_LEAST = 4000, RATE_MOST = 384000, CHANNELS_MOST = 64 };
static const double silence = 1e-4; /* no sample above it: 80 dB below full scale */

static const double loudest = 1e4; /* of floats, which may go beyond full scale */

/* --- the mapped bytes as libsndfile reads them --- */

struct reader {
  const struct ka_map *bytes;
  sf_count_t at;
};

static sf_count_t reader_len(void *user) { return (sf_count_t)((struct reader *)user)->bytes->len; }
static sf_count_t reader_tell(void *user) { return ((struct reader *)user)->at; }
static sf_count_t reader_seek(sf_count_t offset, int whence, void *user) {
  struct reader *r = user;
  sf_count_t from = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? r->at : reader_len(user);
  if (from + offset >= 0 && from + offset <= reader_len(user)) r->at = from + offset;
  return r->at;
}
static sf_count_t reader_read(void *out, sf_count_t n, void *user) {
  struct reader *r = user;
  sf_count_t left = reader_len(user) - r->at;
  if (n > left) n = left;
  if (n > 0) memcpy(out, r->bytes->data + r->at, (size_t)n);
  r->at += n > 0 ? n : 0;
  return n;
}
static sf_count_t reader_write(const void *p, sf_count_t n, void *user) {
  (void)p, (void)n, (void)user;
  return 0;
}

/* --- what is refused --- */

static uint32_t le32(const unsigned char *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Bytes that the data chunk of a RIFF file says and the file lacks; libsndfile takes what there is.
 * Programs that write to a pipe leave a length near 2^31 or 2^32 there. */
static int64_t riff_missing(const struct ka_map *m) {
  if (m->len < 12 || memcmp(m->data, "RIFF", 4) != 0) return 0;
  for (size_t at = 12; at + 8 <= m->len;) {
    uint32_t n = le32(m->data + at + 4);
    size_t left = m->len - at - 8;
    if (memcmp(m->data + at, "data", 4) == 0)
      return n >= 0x7ff00000 || n <= left ? 0 : (int64_t)(n - left);
    if (n > left) return 0;
    at += 8 + (size_t)n + (n & 1);
  }
  return 0;
}

/* Of what else libsndfile reads, some libraries write notes of their own to the terminal. */
static bool is_known(const struct ka_map *m) {
  static const char *const begins[] = {"RIFF", "RIFX", "RF64", "fLaC"};
  for (size_t i = 0; i < sizeof begins / sizeof *begins; i++)
    if (m->len >= 4 && memcmp(m->data, begins[i], 4) == 0) return true;
  return false;
}

static ka_status check_header(struct ka_ctx *ctx, const char *path, const SF_INFO *info,
                              double max_s) {
  char length[32], most[32];
  if (info->samplerate < RATE_LEAST || info->samplerate > RATE_MOST)
    return ka_fail(ctx, KA_E_INPUT, "%s: got a rate of %d Hz, expected %d to %d", path,
                   info->samplerate, RATE_LEAST, RATE_MOST);
  if (info->channels < 1 || info->channels > CHANNELS_MOST)
    return ka_fail(ctx, KA_E_INPUT, "%s: got %d channels, expected 1 to %d", path, info->channels,
                   CHANNELS_MOST);
  if (info->frames <= 0) return ka_fail(ctx, KA_E_INPUT, "%s: holds no sample", path);
  double seconds = (double)info->frames / info->samplerate;
  if (seconds > max_s)
    return ka_fail(ctx, KA_E_INPUT, "%s: %s long, expected at most %s; cut it into utterances",
                   path, ka_fmt_duration(seconds, length), ka_fmt_duration(max_s, most));
  return KA_STATUS_OK;
}

static ka_status check_samples(struct ka_ctx *ctx, const char *path, const float *x, int64_t n) {
  double peak = 0;
  for (int64_t i = 0; i < n; i++) {
    if (!isfinite(x[i]))
      return ka_fail(ctx, KA_E_INPUT, "%s: sample %lld is %g", path, (long long)i, (double)x[i]);
    peak = fmax(peak, fabs((double)x[i]));
    if (peak > loudest)
      return ka_fail(ctx, KA_E_INPUT, "%s: sample %lld is %g, full scale is 1", path, (long long)i,
                     (double)x[i]);
  }
  if (peak < silence)
    return ka_fail(ctx, KA_E_INPUT, "%s: silence: no sample of %lld is above %g of full scale",
                   path, (long long)n, silence);
  return KA_STATUS_OK;
}

/* --- reading --- */

/* Averages the channels in place. */
static void mix(float *x, int64_t n, int64_t n_channels) {
  for (int64_t i = 0; i < n && n_channels > 1; i++) {
    double sum = 0;
    for (int64_t c = 0; c < n_channels; c++) sum += (double)x[i * n_channels + c];
    x[i] = (float)(sum / (double)n_channels);
  }
}

static ka_status read_samples(struct ka_ctx *ctx, struct ka_audio_wave *w, const char *path,
                              SNDFILE *f, const SF_INFO *info) {
  KA_TRY(KA_NEW_HEAP(ctx, &w->samples, info->frames * info->channels, "samples"));
  w->n = sf_readf_float(f, w->samples, info->frames);
  if (w->n < info->frames)
    return ka_fail(ctx, KA_E_INPUT, "%s: cut off: its header says %lld samples, %lld are there",
                   path, (long long)info->frames, (long long)w->n);
  KA_TRY(check_samples(ctx, path, w->samples, w->n * info->channels));
  mix(w->samples, w->n, info->channels);
  return KA_STATUS_OK;
}

static ka_status resample(struct ka_ctx *ctx, struct ka_audio_wave *w, const char *path) {
  soxr_io_spec_t io = soxr_io_spec(SOXR_FLOAT32_I, SOXR_FLOAT32_I);
  soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
  soxr_runtime_spec_t runtime = soxr_runtime_spec(1);
  int64_t n = (w->n * KA_AUDIO_RATE + w->rate - 1) / w->rate;
  size_t done = 0;
  void *p;
  if (w->rate == KA_AUDIO_RATE) return KA_STATUS_OK;
  KA_TRY(ka_alloc_n(ctx, &p, n, sizeof(float), "samples"));
  const char *error = soxr_oneshot((double)w->rate, KA_AUDIO_RATE, 1, w->samples, (size_t)w->n,
                                   NULL, p, (size_t)n, &done, &io, &quality, &runtime);
  ka_free(w->samples);
  w->samples = p;
  w->n = n; /* the rest of it is 0 */
  return error ? ka_fail(ctx, KA_E_INTERNAL, "%s: resampling: %s", path, error) : KA_STATUS_OK;
}

ka_status ka_audio_wave_read(struct ka_ctx *ctx, struct ka_audio_wave *out, const char *path,
                             const struct ka_map *bytes, double max_s) {
  SF_VIRTUAL_IO io = {reader_len, reader_seek, reader_read, reader_write, reader_tell};
  struct reader reader = {.bytes = bytes};
  SF_INFO info = {0};
  int64_t missing = riff_missing(bytes);
  *out = (struct ka_audio_wave){0};
  if (bytes->len == 0) return ka_fail(ctx, KA_E_INPUT, "%s: the file is empty", path);
  if (!is_known(bytes))
    return ka_fail(ctx, KA_E_INPUT, "%s: not audio: neither WAV nor FLAC", path);
  SNDFILE *f = sf_open_virtual(&io, SFM_READ, &info, &reader);
  if (!f) return ka_fail(ctx, KA_E_INPUT, "%s: not audio: %s", path, sf_strerror(NULL));
  ka_status st = KA_STATUS_OK;
  if (missing > 0)
    st = ka_fail(ctx, KA_E_INPUT, "%s: cut off: %lld bytes of its samples are missing", path,
                 (long long)missing);
  if (ka_ok(st)) st = check_header(ctx, path, &info, max_s);
  out->rate = info.samplerate;
  out->n_channels = info.channels;
  if (ka_ok(st)) st = read_samples(ctx, out, path, f, &info);
  sf_close(f);
  if (ka_ok(st)) st = resample(ctx, out, path);
  if (ka_ok(st) && out->n < KA_AUDIO_WINDOW)
    st = ka_fail(ctx, KA_E_INPUT, "%s: %lld ms long, expected at least 25", path,
                 (long long)(out->n * 1000 / KA_AUDIO_RATE));
  if (ka_ok(st)) return st;
  ka_free(out->samples);
  *out = (struct ka_audio_wave){0};
  return st;
}

ka_status ka_audio_there(struct ka_ctx *ctx) {
  (void)ctx;
  return KA_STATUS_OK;
}
#else
ka_status ka_audio_there(struct ka_ctx *ctx) {
  return ka_fail(ctx, KA_E_UNSUPPORTED,
                 "this kappa was built without libsndfile, libsoxr or KissFFT, so it reads no "
                 "audio; apt install libsndfile1-dev libsoxr-dev libkissfft-dev, build again");
}

ka_status ka_audio_wave_read(struct ka_ctx *ctx, struct ka_audio_wave *out, const char *path,
                             const struct ka_map *bytes, double max_s) {
  (void)path, (void)bytes, (void)max_s;
  *out = (struct ka_audio_wave){0};
  return ka_audio_there(ctx);
}
#endif
