/* SPDX-License-Identifier: Apache-2.0
 *
 * Lossless packing of a payload against the base's bytes.
 *
 *   x, base -> x xor base -> per block of 4 MiB: byte 0 of every element, then byte 1, ... -> zstd
 *
 * A block is one zstd frame that says its content's size; frames stand back to back. A trained
 * weight keeps its sign, exponent and first mantissa bits, so the planes of the high bytes are
 * mostly zero. Without libzstd all of it fails with KA_E_UNSUPPORTED and say what is missing. */
#ifndef KAPPA_ENGINE_FORMATS_DELTA_PACK_H
#define KAPPA_ENGINE_FORMATS_DELTA_PACK_H

#include "base/str.h"

enum { KA_DELTA_BLOCK = 4 << 20, KA_DELTA_LEVEL = 3 };

/* KA_E_UNSUPPORTED when this build cannot pack. */
ka_status ka_delta_pack_check(struct ka_ctx *ctx, const char *what);

/* Calls `write` with the packed bytes in order. x, base [n bytes]; base NULL counts as zeros;
 * width: bytes of an element, divides n and 8. */
ka_status ka_delta_pack(struct ka_ctx *ctx, const unsigned char *x, const unsigned char *base,
                        size_t n, size_t width, int level,
                        ka_status (*write)(void *user, const void *bytes, size_t n), void *user);

/* Whether `in` is frames that hold exactly n bytes, without unpacking them: KA_E_INPUT naming
 * `what` otherwise. Before memory is asked for. */
ka_status ka_delta_unpack_check(struct ka_ctx *ctx, const char *what, size_t n,
                                const unsigned char *in, size_t n_in);
/* out [n bytes] from the packed bytes; base as above, may be out itself. KA_E_INPUT
 * as above, or when the bytes do not unpack. */
ka_status ka_delta_unpack(struct ka_ctx *ctx, const char *what, unsigned char *out,
                          const unsigned char *base, size_t n, size_t width,
                          const unsigned char *in, size_t n_in);

#endif
