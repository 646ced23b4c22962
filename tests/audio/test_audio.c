/* SPDX-License-Identifier: Apache-2.0
 * Log-mel features against librosa's (make_audio.py), what is refused, and what is kept. */
#include "tests/support/test.h"

#include "engine/audio/audio.h"
#include "engine/formats/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct ka_ctx context;
static struct ka_ctx *ctx = &context;

#define T_AUDIO                                                                                    \
  if (!ka_ok(ka_audio_there(ctx))) {                                                               \
    ka_error_clear(ctx);                                                                           \
    skip();                                                                                        \
  }

static int set_up(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  return 0;
}

static const char *clip_path(const char *name) {
  return t_str("%s/tests/audio/clips/%s", getenv("KAPPA_SOURCE_DIR"), name);
}

static const struct ka_audio_spec whisper = {.n_mel = 80, .max_s = 30};

/* "english.wav.whisper.80" */
static void check_golden(const struct ka_st_entry *e) {
  char name[64];
  const char *dot = strrchr(e->name, '.');
  struct ka_audio_spec spec = whisper;
  spec.n_mel = atoi(dot + 1);
  spec.per_feature = strstr(e->name, ".per_feature.") != NULL;
  snprintf(name, sizeof name, "%s", e->name);
  *strrchr(name, '.') = '\0';
  *strrchr(name, '.') = '\0';
  struct ka_audio_clip clip;
  T_OK(ka_audio_read(ctx, &clip, clip_path(name), &spec));
  assert_int_equal(clip.n_frames, e->t.shape[0]);
  assert_int_equal(spec.n_mel, e->t.shape[1]);
  const float *want = e->t.data;
  for (int64_t i = 0; i < clip.n_frames * spec.n_mel; i++)
    if (!(fabs((double)clip.frames[i] - (double)want[i]) <= 1e-4))
      fail_msg("%s: frame %lld, band %lld: got %.7f, expected %.7f", e->name,
               (long long)(i / spec.n_mel), (long long)(i % spec.n_mel), (double)clip.frames[i],
               (double)want[i]);
  ka_audio_clip_deinit(&clip);
}

static void test_librosa(void **state) {
  (void)state;
  T_AUDIO
  struct ka_safetensors files;
  T_OK(ka_st_open(ctx, &files,
                  t_str("%s/tests/audio/golden.safetensors", getenv("KAPPA_SOURCE_DIR"))));
  assert_true(files.n_entries >= 10);
  for (int64_t i = 0; i < files.n_entries; i++) check_golden(&files.entries[i]);
  ka_st_close(&files);
}

/* --- what is refused -------------------------------------------------------------------------- */

static void put(unsigned char *p, uint32_t v, int n) {
  for (int i = 0; i < n; i++) p[i] = (unsigned char)(v >> 8 * i);
}

/* A RIFF file of n samples: of 16 bits, or floats. claimed: the data's bytes that its header
 * says. */
static const char *wav(const char *name, uint32_t rate, uint32_t channels, bool real,
                       const void *samples, uint32_t n, uint32_t claimed) {
  unsigned char h[44] = "RIFF....WAVEfmt ";
  uint32_t size = real ? 4 : 2, n_bytes = n * channels * size;
  put(h + 4, claimed + 36, 4);
  put(h + 16, 16, 4);
  put(h + 20, real ? 3 : 1, 2);
  put(h + 22, channels, 2);
  put(h + 24, rate, 4);
  put(h + 28, rate * channels * size, 4);
  put(h + 32, channels * size, 2);
  put(h + 34, size * 8, 2);
  memcpy(h + 36, "data", 4);
  put(h + 40, claimed, 4);
  struct ka_str out = {0};
  T_OK(ka_str_append(ctx, &out, (char *)h, sizeof h));
  T_OK(ka_str_append(ctx, &out, samples, n_bytes));
  const char *path = t_str("%s/%s", t_temp_dir(), name);
  T_OK(ka_write_file(ctx, path, out.data, out.len));
  ka_str_deinit(&out);
  return path;
}

static int16_t tone[32000];
static void make_tone(void) {
  for (int i = 0; i < 32000; i++) tone[i] = (int16_t)(8000 * sin(i * 0.2));
}

static void refused(const char *path, const char *part) {
  struct ka_audio_clip clip;
  T_FAILS(ka_audio_read(ctx, &clip, path, &whisper), KA_E_INPUT, part);
  assert_null(clip.frames);
}

static void test_refused(void **state) {
  (void)state;
  T_AUDIO
  static const int16_t nothing[16000];
  float real[1600] = {0.5f};
  make_tone();
  refused(t_str("%s/none.wav", t_temp_dir()), "none.wav");
  const char *empty = t_str("%s/empty.wav", t_temp_dir());
  T_OK(ka_write_file(ctx, empty, "", 0));
  refused(empty, "the file is empty");
  const char *text = t_str("%s/text.wav", t_temp_dir());
  T_OK(ka_write_file(ctx, text, "hello, I am no sound at all, just text", 38));
  refused(text, "not audio");
  refused(wav("no_sample.wav", 16000, 1, false, tone, 0, 0), "holds no sample");
  refused(wav("cut.wav", 16000, 1, false, tone, 8000, 32000), "16000 bytes of its samples");
  refused(wav("silence.wav", 16000, 1, false, nothing, 16000, 32000), "silence");
  refused(wav("slow.wav", 800, 1, false, tone, 8000, 16000), "got a rate of 800 Hz");
  refused(wav("short.wav", 16000, 1, false, tone, 399, 798), "24 ms long, expected at least 25");
  real[700] = NAN;
  refused(wav("nan.wav", 16000, 1, true, real, 1600, 6400), "sample 700 is nan");
  real[700] = 1e30f;
  refused(wav("loud.wav", 16000, 1, true, real, 1600, 6400), "sample 700 is 1e+30");
  real[700] = INFINITY;
  refused(wav("inf.wav", 16000, 1, true, real, 1600, 6400), "sample 700 is inf");
}

static void test_too_long(void **state) {
  (void)state;
  T_AUDIO
  make_tone();
  struct ka_audio_clip clip;
  struct ka_audio_spec spec = whisper;
  spec.max_s = 1.5;
  const char *path = wav("long.wav", 16000, 1, false, tone, 32000, 64000);
  T_FAILS(ka_audio_read(ctx, &clip, path, &spec), KA_E_INPUT, "long, expected at most");
  struct ka_str bytes = {0};
  T_OK(ka_read_file(ctx, clip_path("tone.flac"), 0, &bytes));
  const char *cut = t_str("%s/cut.flac", t_temp_dir());
  T_OK(ka_write_file(ctx, cut, bytes.data, bytes.len / 2));
  T_FAILS(ka_audio_read(ctx, &clip, cut, &whisper), KA_E_INPUT, "cut");
  ka_str_deinit(&bytes);
}

/* A pipe's length, and any number of channels and rate that speech has. */
static void test_taken(void **state) {
  (void)state;
  T_AUDIO
  make_tone();
  struct ka_audio_clip clip;
  T_OK(ka_audio_read(ctx, &clip, wav("pipe.wav", 16000, 1, false, tone, 16000, 0x7ffff000),
                     &whisper));
  assert_int_equal(clip.n_frames, 100);
  ka_audio_clip_deinit(&clip);
  T_OK(ka_audio_read(ctx, &clip, wav("two.wav", 44100, 2, false, tone, 16000, 64000), &whisper));
  assert_int_equal(clip.n_channels, 2);
  assert_int_equal(clip.rate, 44100);
  assert_int_equal(clip.n_frames, 36);
  ka_audio_clip_deinit(&clip);
}

static void test_kept(void **state) {
  (void)state;
  T_AUDIO
  struct ka_audio_clip a, b;
  struct ka_audio_spec spec = whisper;
  spec.dir = t_temp_dir();
  T_OK(ka_audio_read(ctx, &a, clip_path("german.wav"), &spec));
  const char *kept = t_str("%s/audio-%s.mel", spec.dir, a.hash);
  assert_true(ka_path_exists(kept));
  T_OK(ka_audio_read(ctx, &b, clip_path("german.wav"), &spec));
  assert_int_equal(a.n_frames, b.n_frames);
  assert_int_equal(b.rate, 22050);
  assert_memory_equal(a.frames, b.frames, (size_t)(a.n_frames * 80) * sizeof(float));
  ka_audio_clip_deinit(&b);
  T_OK(ka_write_file(ctx, kept, "KAPPAMEL and then nothing", 25));
  T_OK(ka_audio_read(ctx, &b, clip_path("german.wav"), &spec));
  assert_memory_equal(a.frames, b.frames, (size_t)(a.n_frames * 80) * sizeof(float));
  ka_audio_clip_deinit(&b);
  spec.n_mel = 128; /* another file */
  T_OK(ka_audio_read(ctx, &b, clip_path("german.wav"), &spec));
  assert_string_not_equal(a.hash, b.hash);
  ka_audio_clip_deinit(&a);
  ka_audio_clip_deinit(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_librosa, set_up), cmocka_unit_test_setup(test_refused, set_up),
      cmocka_unit_test_setup(test_too_long, set_up), cmocka_unit_test_setup(test_taken, set_up),
      cmocka_unit_test_setup(test_kept, set_up)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
