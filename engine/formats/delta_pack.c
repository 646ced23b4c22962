/* SPDX-License-Identifier: Apache-2.0
 * Packing by blocks, several at once; see delta_pack.h. */
#include "engine/formats/delta_pack.h"

#include "base/arena.h"

#ifndef KAPPA_HAVE_ZSTD

static ka_status missing(struct ka_ctx *ctx, const char *what) {
  return ka_fail(ctx, KA_E_UNSUPPORTED,
                 "%s: this build has no zstd; install libzstd-dev and build again", what);
}

ka_status ka_delta_pack_check(struct ka_ctx *ctx, const char *what) { return missing(ctx, what); }

ka_status ka_delta_pack(struct ka_ctx *ctx, const unsigned char *x, const unsigned char *base,
                        size_t n, size_t width, int level,
                        ka_status (*write)(void *user, const void *bytes, size_t n), void *user) {
  (void)x, (void)base, (void)n, (void)width, (void)level, (void)write, (void)user;
  return missing(ctx, "--pack");
}

ka_status ka_delta_unpack_check(struct ka_ctx *ctx, const char *what, size_t n,
                                const unsigned char *in, size_t n_in) {
  (void)n, (void)in, (void)n_in;
  return missing(ctx, what);
}

ka_status ka_delta_unpack(struct ka_ctx *ctx, const char *what, unsigned char *out,
                          const unsigned char *base, size_t n, size_t width,
                          const unsigned char *in, size_t n_in) {
  (void)out, (void)base, (void)n, (void)width, (void)in, (void)n_in;
  return missing(ctx, what);
}

#else

#include <omp.h>
#include <string.h>
#include <zstd.h>

ka_status ka_delta_pack_check(struct ka_ctx *ctx, const char *what) {
  (void)ctx, (void)what;
  return KA_STATUS_OK;
}

static size_t n_blocks(size_t n) { return (n + KA_DELTA_BLOCK - 1) / KA_DELTA_BLOCK; }
static size_t block_len(size_t n, size_t i) {
  size_t left = n - i * KA_DELTA_BLOCK;
  return left < KA_DELTA_BLOCK ? left : KA_DELTA_BLOCK;
}

/* planes[p * (n / width) + i] = byte p of element i of x xor base. */
static void split(unsigned char *planes, const unsigned char *x, const unsigned char *base,
                  size_t n, size_t width) {
  size_t count = n / width;
  for (size_t p = 0; p < width; p++)
    for (size_t i = 0; i < count; i++)
      planes[p * count + i] = (unsigned char)(x[i * width + p] ^ (base ? base[i * width + p] : 0));
}

static void join(unsigned char *out, const unsigned char *planes, const unsigned char *base,
                 size_t n, size_t width) {
  size_t count = n / width;
  for (size_t p = 0; p < width; p++)
    for (size_t i = 0; i < count; i++)
      out[i * width + p] =
          (unsigned char)(planes[p * count + i] ^ (base ? base[i * width + p] : 0));
}

/* What one thread works with. */
struct worker {
  unsigned char planes[KA_DELTA_BLOCK];
  size_t n; /* of packed, or zstd's error */
  unsigned char packed[ZSTD_COMPRESSBOUND(KA_DELTA_BLOCK)];
};

static ka_status make_workers(struct ka_ctx *ctx, size_t blocks, struct worker **workers,
                              size_t *n) {
  *n = (size_t)omp_get_max_threads() < blocks ? (size_t)omp_get_max_threads() : blocks;
  return KA_NEW_HEAP(ctx, workers, (int64_t)*n, "packing");
}

ka_status ka_delta_pack(struct ka_ctx *ctx, const unsigned char *x, const unsigned char *base,
                        size_t n, size_t width, int level,
                        ka_status (*write)(void *user, const void *bytes, size_t n), void *user) {
  struct worker *workers;
  size_t blocks = n_blocks(n), n_workers;
  KA_TRY(make_workers(ctx, blocks, &workers, &n_workers));
  ka_status st = KA_STATUS_OK;
  for (size_t first = 0; first < blocks; first += n_workers) {
    size_t now = blocks - first < n_workers ? blocks - first : n_workers;
#pragma omp parallel for schedule(static, 1)
    for (size_t k = 0; k < now; k++) {
      size_t at = (first + k) * KA_DELTA_BLOCK, len = block_len(n, first + k);
      struct worker *l = &workers[k];
      split(l->planes, x + at, base ? base + at : NULL, len, width);
      l->n = ZSTD_compress(l->packed, sizeof l->packed, l->planes, len, level);
    }
    for (size_t k = 0; k < now; k++) {
      if (ZSTD_isError(workers[k].n)) {
        st = ka_fail(ctx, KA_E_MEMORY, "zstd: %s", ZSTD_getErrorName(workers[k].n));
        goto out;
      }
      KA_TRY_GOTO(write(user, workers[k].packed, workers[k].n), out);
    }
  }
out:
  ka_free(workers);
  return st;
}

/* Every block's frame must say that it holds what the block needs; starts [blocks + 1] receives
 * where they stand, NULL: only the check. */
static ka_status find_frames(struct ka_ctx *ctx, const char *what, size_t n,
                             const unsigned char *in, size_t n_in, size_t *starts) {
  size_t blocks = n_blocks(n), at = 0;
  for (size_t i = 0; i < blocks; i++) {
    size_t len = ZSTD_findFrameCompressedSize(in + at, n_in - at);
    if (ZSTD_isError(len))
      return ka_fail(ctx, KA_E_INPUT, "%s: block %zu of %zu: not a zstd frame: %s", what, i, blocks,
                     ZSTD_getErrorName(len));
    if (ZSTD_getFrameContentSize(in + at, n_in - at) != block_len(n, i))
      return ka_fail(ctx, KA_E_INPUT, "%s: block %zu of %zu does not unpack to %zu bytes", what, i,
                     blocks, block_len(n, i));
    if (starts) starts[i] = at;
    at += len;
  }
  if (starts) starts[blocks] = at;
  if (at != n_in)
    return ka_fail(ctx, KA_E_INPUT, "%s: %zu bytes after the last block", what, n_in - at);
  return KA_STATUS_OK;
}

ka_status ka_delta_unpack_check(struct ka_ctx *ctx, const char *what, size_t n,
                                const unsigned char *in, size_t n_in) {
  return find_frames(ctx, what, n, in, n_in, NULL);
}

ka_status ka_delta_unpack(struct ka_ctx *ctx, const char *what, unsigned char *out,
                          const unsigned char *base, size_t n, size_t width,
                          const unsigned char *in, size_t n_in) {
  struct worker *workers = NULL;
  size_t blocks = n_blocks(n), n_workers = 0, bad = blocks;
  void *memory;
  KA_TRY(ka_alloc_n(ctx, &memory, (int64_t)blocks + 1, sizeof(size_t), "blocks"));
  size_t *starts = memory;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(find_frames(ctx, what, n, in, n_in, starts), out);
  KA_TRY_GOTO(make_workers(ctx, blocks, &workers, &n_workers), out);
#pragma omp parallel for schedule(static, 1) num_threads((int)(n_workers ? n_workers : 1))
  for (size_t i = 0; i < blocks; i++) {
    size_t at = i * KA_DELTA_BLOCK, len = block_len(n, i);
    struct worker *l = &workers[omp_get_thread_num()];
    size_t got = ZSTD_decompress(l->planes, len, in + starts[i], starts[i + 1] - starts[i]);
    if (got == len) {
      join(out + at, l->planes, base ? base + at : NULL, len, width);
    } else {
#pragma omp critical(ka_delta_unpack)
      bad = i < bad ? i : bad;
    }
  }
  if (bad < blocks)
    st = ka_fail(ctx, KA_E_INPUT, "%s: block %zu of %zu does not unpack; the file is damaged", what,
                 bad, blocks);
out:
  ka_free(workers);
  ka_free(memory);
  return st;
}

#endif
