/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 (FIPS 180-4), for names that others compute too. */
#ifndef KAPPA_BASE_SHA256_H
#define KAPPA_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

struct ka_sha256 {
  uint32_t h[8];
  uint64_t n_bytes;
  unsigned char block[64];
};
void ka_sha256_init(struct ka_sha256 *s);
void ka_sha256_add(struct ka_sha256 *s, const void *bytes, size_t n);
/* Lower-case hexadecimal and NUL. */
void ka_sha256_hex(struct ka_sha256 *s, char out[65]);

#endif
