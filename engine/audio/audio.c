/* SPDX-License-Identifier: Apache-2.0
 * A file's features, kept by the hash of its bytes and of what was asked:
 *
 *   DIR/audio-HASH.mel: | struct header | frames [n_frames, n_mel] f32 |
 *
 * Of this build's layout; one that is not whole is made again. */
#include "engine/audio/audio_parts.h"

#include "base/log.h"

#include <string.h>
#include <xxhash.h>

enum { VERSION = 1 };

struct header {
  char magic[8];
  int64_t n_frames, n_mel, rate, n_channels;
  double seconds;
  uint64_t checksum; /* of the frames */
};

static void hash_of(char out[KA_HASH_TEXT], const struct ka_map *m,
                    const struct ka_audio_spec *spec) {
  XXH128_hash_t h = XXH3_128bits_withSeed(
      m->data, m->len, (uint64_t)VERSION << 32 | (uint64_t)spec->n_mel << 1 | spec->per_feature);
  ka_fmt_hash(h.high64, h.low64, out);
}

static size_t frames_bytes(int64_t n_frames, int64_t n_mel) {
  return (size_t)n_frames * (size_t)n_mel * sizeof(float);
}

/* Is it this clip's file? */
static bool valid(const struct ka_map *m, const struct ka_audio_spec *spec, struct header *h) {
  if (m->len < sizeof *h) return false;
  memcpy(h, m->data, sizeof *h);
  if (memcmp(h->magic, "KAPPAMEL", 8) != 0 || h->n_mel != spec->n_mel || h->n_frames < 1 ||
      (uint64_t)h->n_frames > m->len || m->len - sizeof *h != frames_bytes(h->n_frames, h->n_mel))
    return false;
  return h->checksum == XXH3_64bits(m->data + sizeof *h, m->len - sizeof *h);
}

static ka_status load(struct ka_ctx *ctx, struct ka_audio_clip *out, const char *path,
                      const struct ka_audio_spec *spec, bool *hit) {
  struct ka_map m;
  struct header h;
  void *p;
  *hit = false;
  if (!ka_path_exists(path)) return KA_STATUS_OK;
  KA_TRY(ka_map_file(ctx, path, &m));
  ka_status st = KA_STATUS_OK;
  if (!valid(&m, spec, &h)) {
    ka_warn(ctx, "audio", "%s: not whole; it is made again", path);
  } else if (ka_ok(st = ka_alloc(ctx, &p, m.len - sizeof h, "audio frames"))) {
    memcpy(p, m.data + sizeof h, m.len - sizeof h);
    out->frames = p;
    out->n_frames = h.n_frames;
    out->rate = h.rate;
    out->n_channels = h.n_channels;
    out->seconds = h.seconds;
    *hit = true;
  }
  ka_map_drop(&m);
  return st;
}

static ka_status save(struct ka_ctx *ctx, const struct ka_audio_clip *c, const char *path,
                      const struct ka_audio_spec *spec) {
  size_t n_bytes = frames_bytes(c->n_frames, spec->n_mel);
  struct header h = {.magic = "KAPPAMEL",
                     .n_frames = c->n_frames,
                     .n_mel = spec->n_mel,
                     .rate = c->rate,
                     .n_channels = c->n_channels,
                     .seconds = c->seconds,
                     .checksum = XXH3_64bits(c->frames, n_bytes)};
  struct ka_publish p;
  ka_status st = KA_STATUS_OK;
  KA_TRY(ka_publish_begin(ctx, &p, path));
  KA_TRY_GOTO(ka_publish_write(ctx, &p, &h, sizeof h), out);
  KA_TRY_GOTO(ka_publish_write(ctx, &p, c->frames, n_bytes), out);
  KA_TRY_GOTO(ka_publish_commit(ctx, &p), out);
out:
  ka_publish_abort(&p);
  return st;
}

static ka_status compute(struct ka_ctx *ctx, struct ka_audio_clip *out, const char *path,
                         const struct ka_map *bytes, const struct ka_audio_spec *spec) {
  struct ka_audio_wave w;
  void *p;
  KA_TRY(ka_audio_wave_read(ctx, &w, path, bytes, spec->max_s));
  out->n_frames = ka_audio_mel_frames(w.n);
  out->rate = w.rate;
  out->n_channels = w.n_channels;
  out->seconds = (double)w.n / KA_AUDIO_RATE;
  ka_status st = ka_alloc(ctx, &p, frames_bytes(out->n_frames, spec->n_mel), "audio frames");
  if (ka_ok(st)) out->frames = p;
  if (ka_ok(st)) st = ka_audio_mel(ctx, out->frames, w.samples, w.n, spec);
  ka_free(w.samples);
  return st;
}

static ka_status read_clip(struct ka_ctx *ctx, struct ka_audio_clip *out, const char *path,
                           const struct ka_map *bytes, const struct ka_audio_spec *spec) {
  struct ka_arena a;
  const char *kept = NULL, *name;
  bool hit = false;
  hash_of(out->hash, bytes, spec);
  if (!spec->dir) return compute(ctx, out, path, bytes, spec);
  ka_arena_init(&a, ctx, "audio");
  ka_status st = ka_arena_printf(&a, &name, "audio-%s.mel", out->hash);
  if (ka_ok(st)) st = ka_path_join(&a, &kept, spec->dir, name);
  if (ka_ok(st)) st = load(ctx, out, kept, spec, &hit);
  if (ka_ok(st) && !hit) st = compute(ctx, out, path, bytes, spec);
  if (ka_ok(st) && !hit) st = save(ctx, out, kept, spec);
  ka_arena_deinit(&a);
  if (ka_ok(st) && out->seconds > spec->max_s) /* kept by a job that allows more */
    st = ka_fail(ctx, KA_E_INPUT, "%s: %.1f s long, expected at most %g", path, out->seconds,
                 spec->max_s);
  return st;
}

ka_status ka_audio_read(struct ka_ctx *ctx, struct ka_audio_clip *out, const char *path,
                        const struct ka_audio_spec *spec) {
  struct ka_map bytes;
  *out = (struct ka_audio_clip){0};
  KA_TRY(ka_audio_there(ctx));
  KA_TRY(ka_map_file(ctx, path, &bytes));
  ka_status st = read_clip(ctx, out, path, &bytes, spec);
  ka_map_drop(&bytes);
  if (!ka_ok(st)) ka_audio_clip_deinit(out);
  return st;
}

void ka_audio_clip_deinit(struct ka_audio_clip *clip) {
  ka_free(clip->frames);
  *clip = (struct ka_audio_clip){0};
}
