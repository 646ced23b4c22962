/* SPDX-License-Identifier: Apache-2.0
 * One function a codec for blocks, one a codec for streams; unpack.h. */
#include "engine/data/unpack.h"

#include <string.h>
#ifdef KAPPA_HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef KAPPA_HAVE_ZSTD
#include <zstd.h>
#endif
#ifdef KAPPA_HAVE_SNAPPY
#include <snappy-c.h>
#endif
#ifdef KAPPA_HAVE_LZ4
#include <lz4.h>
#endif
#ifdef KAPPA_HAVE_BROTLI
#include <brotli/decode.h>
#endif

enum { INFLATE_EITHER = 15 + 32 }; /* the largest window; a header of gzip or zlib */

static ka_status broken(struct ka_ctx *ctx, const char *codec) {
  return ka_fail(ctx, KA_E_INPUT, "its %s data is broken", codec);
}

static ka_status missing(struct ka_ctx *ctx, const char *codec, const char *package) {
  return ka_fail(ctx, KA_E_UNSUPPORTED,
                 "it is compressed with %s, which this build cannot read; install %s and build "
                 "again, or unpack it first",
                 codec, package);
}

/* --- blocks ------------------------------------------------------------------ */

static ka_status gzip_block(struct ka_ctx *ctx, const void *in, size_t n_in, void *out,
                            size_t n_out) {
#ifdef KAPPA_HAVE_ZLIB
  z_stream z = {.next_in = (Bytef *)(uintptr_t)in, .avail_in = (uInt)n_in};
  if (inflateInit2(&z, INFLATE_EITHER) != Z_OK)
    return ka_fail(ctx, KA_E_MEMORY, "gzip: out of memory");
  z.next_out = out;
  z.avail_out = (uInt)n_out;
  int rc = inflate(&z, Z_FINISH);
  inflateEnd(&z);
  return rc == Z_STREAM_END && z.avail_out == 0 ? KA_STATUS_OK : broken(ctx, "gzip");
#else
  (void)in, (void)n_in, (void)out, (void)n_out;
  return missing(ctx, "gzip", "zlib1g-dev");
#endif
}

static ka_status zstd_block(struct ka_ctx *ctx, const void *in, size_t n_in, void *out,
                            size_t n_out) {
#ifdef KAPPA_HAVE_ZSTD
  return ZSTD_decompress(out, n_out, in, n_in) == n_out ? KA_STATUS_OK : broken(ctx, "zstd");
#else
  (void)in, (void)n_in, (void)out, (void)n_out;
  return missing(ctx, "zstd", "libzstd-dev");
#endif
}

static ka_status snappy_block(struct ka_ctx *ctx, const void *in, size_t n_in, void *out,
                              size_t n_out) {
#ifdef KAPPA_HAVE_SNAPPY
  size_t n = n_out;
  return snappy_uncompress(in, n_in, out, &n) == SNAPPY_OK && n == n_out ? KA_STATUS_OK
                                                                         : broken(ctx, "snappy");
#else
  (void)in, (void)n_in, (void)out, (void)n_out;
  return missing(ctx, "snappy", "libsnappy-dev");
#endif
}

static ka_status brotli_block(struct ka_ctx *ctx, const void *in, size_t n_in, void *out,
                              size_t n_out) {
#ifdef KAPPA_HAVE_BROTLI
  size_t n = n_out;
  return BrotliDecoderDecompress(n_in, in, &n, out) == BROTLI_DECODER_RESULT_SUCCESS && n == n_out
             ? KA_STATUS_OK
             : broken(ctx, "brotli");
#else
  (void)in, (void)n_in, (void)out, (void)n_out;
  return missing(ctx, "brotli", "libbrotli-dev");
#endif
}

#ifdef KAPPA_HAVE_LZ4
static bool lz4_raw(const char *in, size_t n_in, char *out, size_t n_out) {
  return LZ4_decompress_safe(in, out, (int)n_in, (int)n_out) == (int)n_out;
}

static size_t be32(const unsigned char *p) {
  return (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
}

/* | unpacked size | packed size | block | ... */
static bool lz4_hadoop(const unsigned char *in, size_t n_in, char *out, size_t n_out) {
  while (n_in >= 8) {
    size_t size = be32(in), packed = be32(in + 4);
    if (packed > n_in - 8 || size > n_out || !lz4_raw((const char *)in + 8, packed, out, size))
      return false;
    in += 8 + packed;
    n_in -= 8 + packed;
    out += size;
    n_out -= size;
  }
  return n_in == 0 && n_out == 0;
}
#endif

static ka_status lz4_block(struct ka_ctx *ctx, bool framed, const void *in, size_t n_in, void *out,
                           size_t n_out) {
#ifdef KAPPA_HAVE_LZ4
  bool good = (framed && lz4_hadoop(in, n_in, out, n_out)) || lz4_raw(in, n_in, out, n_out);
  return good ? KA_STATUS_OK : broken(ctx, "lz4");
#else
  (void)framed, (void)in, (void)n_in, (void)out, (void)n_out;
  return missing(ctx, "lz4", "liblz4-dev");
#endif
}

ka_status ka_unpack(struct ka_ctx *ctx, int codec, const void *in, size_t n_in, void *out,
                    size_t n_out) {
  if (n_in > INT32_MAX || n_out > INT32_MAX)
    return ka_fail(ctx, KA_E_INPUT, "a compressed block of more than 2 GiB");
  switch (codec) {
  case KA_CODEC_NONE:
    if (n_in != n_out) return ka_fail(ctx, KA_E_INPUT, "an uncompressed block of another size");
    memcpy(out, in, n_in);
    return KA_STATUS_OK;
  case KA_CODEC_SNAPPY:
    return snappy_block(ctx, in, n_in, out, n_out);
  case KA_CODEC_GZIP:
    return gzip_block(ctx, in, n_in, out, n_out);
  case KA_CODEC_BROTLI:
    return brotli_block(ctx, in, n_in, out, n_out);
  case KA_CODEC_LZ4:
  case KA_CODEC_LZ4_RAW:
    return lz4_block(ctx, codec == KA_CODEC_LZ4, in, n_in, out, n_out);
  case KA_CODEC_ZSTD:
    return zstd_block(ctx, in, n_in, out, n_out);
  default:
    return ka_fail(ctx, KA_E_UNSUPPORTED, "it is compressed with %s, which is not supported",
                   codec == KA_CODEC_LZO ? "lzo" : "an unknown codec");
  }
}

/* --- streams ----------------------------------------------------------------- */

struct ka_unpack_stream {
  enum ka_codec codec;
  const char *path;
  const struct ka_map *m;
  size_t at, forgotten;
  bool between; /* members or frames: the file may end here */
#ifdef KAPPA_HAVE_ZLIB
  z_stream z;
  bool z_open;
#endif
#ifdef KAPPA_HAVE_ZSTD
  ZSTD_DStream *zstd;
#endif
};

enum ka_codec ka_unpack_sniff(const struct ka_map *m) {
  if (m->len >= 3 && memcmp(m->data, "\x1f\x8b\x08", 3) == 0) return KA_CODEC_GZIP;
  if (m->len >= 4 && memcmp(m->data, "\x28\xb5\x2f\xfd", 4) == 0) return KA_CODEC_ZSTD;
  return KA_CODEC_NONE;
}

static ka_status start(struct ka_ctx *ctx, struct ka_unpack_stream *s) {
#ifdef KAPPA_HAVE_ZLIB
  if (s->codec == KA_CODEC_GZIP) {
    s->z_open = inflateInit2(&s->z, INFLATE_EITHER) == Z_OK;
    if (s->z_open) return KA_STATUS_OK;
    return ka_fail(ctx, KA_E_MEMORY, "%s: gzip: out of memory", s->path);
  }
#endif
#ifdef KAPPA_HAVE_ZSTD
  if (s->codec == KA_CODEC_ZSTD) {
    s->zstd = ZSTD_createDStream();
    if (!s->zstd) return ka_fail(ctx, KA_E_MEMORY, "%s: zstd: out of memory", s->path);
    ZSTD_DCtx_setParameter(s->zstd, ZSTD_d_windowLogMax, 31); /* what `zstd --long` writes */
    return KA_STATUS_OK;
  }
#endif
  bool gzip = s->codec == KA_CODEC_GZIP;
  ka_status st = missing(ctx, gzip ? "gzip" : "zstd", gzip ? "zlib1g-dev" : "libzstd-dev");
  return ka_trace(ctx, st, __FILE__, __LINE__);
}

ka_status ka_unpack_open(struct ka_ctx *ctx, struct ka_unpack_stream **out, enum ka_codec codec,
                         const char *path, const struct ka_map *m) {
  *out = NULL;
  KA_TRY(KA_NEW_HEAP(ctx, out, 1, "compressed file"));
  **out = (struct ka_unpack_stream){.codec = codec, .path = path, .m = m, .between = true};
  ka_status st = start(ctx, *out);
  if (ka_ok(st)) return st;
  ka_unpack_close(*out);
  *out = NULL;
  return st;
}

void ka_unpack_close(struct ka_unpack_stream *s) {
  if (!s) return;
#ifdef KAPPA_HAVE_ZLIB
  if (s->z_open) inflateEnd(&s->z);
#endif
#ifdef KAPPA_HAVE_ZSTD
  ZSTD_freeDStream(s->zstd);
#endif
  ka_free(s);
}

/* One call of the library: from s->at on into out[0..room). *n: bytes out. False: broken. */
#ifdef KAPPA_HAVE_ZLIB
static bool step_gzip(struct ka_unpack_stream *s, char *out, size_t room, size_t *n) {
  size_t left = s->m->len - s->at, in = left < INT32_MAX ? left : INT32_MAX;
  if (s->between && inflateReset(&s->z) != Z_OK) return false;
  s->z.next_in = (Bytef *)(uintptr_t)(s->m->data + s->at);
  s->z.avail_in = (uInt)in;
  s->z.next_out = (Bytef *)out;
  s->z.avail_out = (uInt)room;
  int rc = inflate(&s->z, Z_NO_FLUSH);
  s->at += in - s->z.avail_in;
  *n = room - s->z.avail_out;
  s->between = rc == Z_STREAM_END;
  return rc == Z_OK || rc == Z_STREAM_END;
}
#endif
#ifdef KAPPA_HAVE_ZSTD
static bool step_zstd(struct ka_unpack_stream *s, char *out, size_t room, size_t *n) {
  ZSTD_inBuffer in = {s->m->data, s->m->len, s->at};
  ZSTD_outBuffer to = {out, room, 0};
  size_t rc = ZSTD_decompressStream(s->zstd, &to, &in);
  s->at = in.pos;
  *n = to.pos;
  s->between = rc == 0;
  return !ZSTD_isError(rc);
}
#endif

static bool step(struct ka_unpack_stream *s, char *out, size_t room, size_t *n) {
#ifdef KAPPA_HAVE_ZLIB
  if (s->codec == KA_CODEC_GZIP) return step_gzip(s, out, room, n);
#endif
#ifdef KAPPA_HAVE_ZSTD
  if (s->codec == KA_CODEC_ZSTD) return step_zstd(s, out, room, n);
#endif
  (void)out, (void)room;
  *n = 0;
  return false;
}

ka_status ka_unpack_read(struct ka_ctx *ctx, struct ka_unpack_stream *s, size_t want,
                         struct ka_str *out, bool *end) {
  enum { STEP = 1 << 20 };
  const char *name = s->codec == KA_CODEC_GZIP ? "gzip" : "zstd";
  *end = false;
  for (size_t got = 0; got < want;) {
    size_t n = 0, before = s->at;
    if (s->at == s->m->len && s->between) {
      *end = true;
      break;
    }
    KA_TRY(ka_str_reserve(ctx, out, STEP));
    if (!step(s, out->data + out->len, STEP, &n))
      return ka_fail(ctx, KA_E_INPUT, "%s: its %s data is broken at byte %zu%s", s->path, name,
                     s->at, s->at == s->m->len ? ", where the file ends" : "");
    out->len += n;
    out->data[out->len] = 0;
    got += n;
    if (n == 0 && s->at == before && !s->between)
      return ka_fail(ctx, KA_E_INPUT, "%s: its %s data ends too early", s->path, name);
  }
  ka_map_forget(s->m, s->forgotten, s->at - s->forgotten);
  s->forgotten = s->at;
  return KA_STATUS_OK;
}
