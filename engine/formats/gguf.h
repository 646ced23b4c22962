/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF files, version 3, little-endian: facts (key, typed value), then tensors, then their data,
 * each aligned to 32 bytes. Written in one pass and published by rename. What names and keys mean,
 * the callers know (engine/model/gguf.h, gguf_vocab.h). */
#ifndef KAPPA_ENGINE_FORMATS_GGUF_H
#define KAPPA_ENGINE_FORMATS_GGUF_H

#include "base/file.h"

/* The numbers of the format. */
enum ka_gguf_type { KA_GGUF_F32 = 0, KA_GGUF_Q8_0 = 8, KA_GGUF_BF16 = 30 };
enum {
  KA_GGUF_BLOCK = 32
}; /* values that share a scale in Q8_0: their f16 scale, then a byte each */

struct ka_gguf_tensor {
  const char *name;
  enum ka_gguf_type type;
  int64_t n_rows, n_cols;
  size_t n_bytes;
};

struct ka_gguf {
  struct ka_arena arena;
  struct ka_str facts, rows; /* serialised; a piece of data on its way into the file */
  int64_t n_facts, n_tensors, cap_tensors;
  struct ka_gguf_tensor *tensors;
  struct ka_str infos; /* serialised, without what is counted at the end */
  struct ka_publish file;
  int64_t at;   /* the tensor that is being written, */
  size_t wrote; /* its bytes so far, */
  uint64_t end; /* and where the data of all tensors so far ends */
};

void ka_gguf_init(struct ka_gguf *g, struct ka_ctx *ctx);
void ka_gguf_deinit(struct ka_gguf *g); /* also after a failure; what is not committed disappears */

/* Facts, in the order of the calls. Keys must be different. */
ka_status ka_gguf_set_u32(struct ka_gguf *g, const char *key, int64_t value);
ka_status ka_gguf_set_f32(struct ka_gguf *g, const char *key, double value);
ka_status ka_gguf_set_bool(struct ka_gguf *g, const char *key, bool value);
ka_status ka_gguf_set_text(struct ka_gguf *g, const char *key, const char *text, size_t n_bytes);
/* Lists: the head, then as many of the values. */
ka_status ka_gguf_list_text(struct ka_gguf *g, const char *key, int64_t n);
ka_status ka_gguf_put_text(struct ka_gguf *g, const char *text, size_t n_bytes);
ka_status ka_gguf_set_i32_list(struct ka_gguf *g, const char *key, const int32_t *v, int64_t n);
ka_status ka_gguf_set_f32_list(struct ka_gguf *g, const char *key, const float *v, int64_t n);

/* Announces a tensor; shape as in torch, the last dimension contiguous. The name is kept. Q8_0 of
 * rows that are no multiple of KA_GGUF_BLOCK becomes F32. */
ka_status ka_gguf_add_tensor(struct ka_gguf *g, const char *name, enum ka_gguf_type type, int n_dim,
                             const int64_t *shape);
/* Everything announced so far goes to the file; then the rows of all tensors, in order. */
ka_status ka_gguf_begin(struct ka_gguf *g, const char *path);
/* The next n whole rows [n, n_cols] of the tensor at hand, converted to its type. Q8_0 has the
 * bytes that the gguf package computes. */
ka_status ka_gguf_write_rows(struct ka_gguf *g, const float *rows, int64_t n);
ka_status ka_gguf_commit(struct ka_gguf *g);

#endif
