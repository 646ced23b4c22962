/* SPDX-License-Identifier: Apache-2.0
 *
 * Compressed bytes: a block of known size, as in a page of Parquet, or a whole file as a stream.
 * Each library is optional when kappa is built; one that is missing is named. */
#ifndef KAPPA_ENGINE_DATA_UNPACK_H
#define KAPPA_ENGINE_DATA_UNPACK_H

#include "base/file.h"

/* Numbered as in Parquet's CompressionCodec. LZ4 there is Hadoop's framing of raw blocks. */
enum ka_codec {
  KA_CODEC_NONE,
  KA_CODEC_SNAPPY,
  KA_CODEC_GZIP,
  KA_CODEC_LZO,
  KA_CODEC_BROTLI,
  KA_CODEC_LZ4,
  KA_CODEC_ZSTD,
  KA_CODEC_LZ4_RAW
};

/* Exactly n_out bytes out of n_in. KA_E_INPUT when they are not that, KA_E_UNSUPPORTED for a codec
 * that this build does not have, by name. Messages name no file. */
ka_status ka_unpack(struct ka_ctx *ctx, int codec, const void *in, size_t n_in, void *out,
                    size_t n_out);

/* Whether a file begins as one of these does: gzip, zstd, else none. */
enum ka_codec ka_unpack_sniff(const struct ka_map *m);

/* The bytes of a gzip or zstd file, in order; several members or frames follow one another. */
struct ka_unpack_stream;
ka_status ka_unpack_open(struct ka_ctx *ctx, struct ka_unpack_stream **out, enum ka_codec codec,
                         const char *path, const struct ka_map *m);
/* Appends up to about `want` bytes; *end when there are no more. KA_E_INPUT: broken or cut off. */
ka_status ka_unpack_read(struct ka_ctx *ctx, struct ka_unpack_stream *s, size_t want,
                         struct ka_str *out, bool *end);
void ka_unpack_close(struct ka_unpack_stream *s); /* NULL is fine */

#endif
