/* SPDX-License-Identifier: Apache-2.0
 * See gguf.h. All numbers of the format are little-endian, as this machine's are. */
#include "engine/formats/gguf.h"

#include "kernels/tensor.h"

#include <math.h>
#include <string.h>

/* Types of facts. */
enum {
  VALUE_U32 = 4,
  VALUE_I32 = 5,
  VALUE_F32 = 6,
  VALUE_BOOL = 7,
  VALUE_TEXT = 8,
  VALUE_LIST = 9
};
enum { VERSION = 3, ALIGNMENT = 32 };

void ka_gguf_init(struct ka_gguf *g, struct ka_ctx *ctx) {
  *g = (struct ka_gguf){0};
  ka_arena_init(&g->arena, ctx, "gguf");
}

void ka_gguf_deinit(struct ka_gguf *g) {
  ka_publish_abort(&g->file);
  ka_str_deinit(&g->facts);
  ka_str_deinit(&g->rows);
  ka_str_deinit(&g->infos);
  ka_free(g->tensors);
  ka_arena_deinit(&g->arena);
}

/* --- facts ------------------------------------------------------------------------------------ */

static ka_status put(struct ka_gguf *g, struct ka_str *to, const void *bytes, size_t n) {
  return ka_str_append(g->arena.ctx, to, bytes, n);
}

static ka_status put_u32(struct ka_gguf *g, struct ka_str *to, uint32_t v) {
  return put(g, to, &v, sizeof v);
}

static ka_status put_u64(struct ka_gguf *g, struct ka_str *to, uint64_t v) {
  return put(g, to, &v, sizeof v);
}

static ka_status put_text(struct ka_gguf *g, struct ka_str *to, const char *text, size_t n) {
  struct ka_ctx *ctx = g->arena.ctx;
  KA_TRY(put_u64(g, to, n));
  return put(g, to, text, n);
}

static ka_status put_key(struct ka_gguf *g, const char *key, uint32_t type) {
  struct ka_ctx *ctx = g->arena.ctx;
  g->n_facts++;
  KA_TRY(put_text(g, &g->facts, key, strlen(key)));
  return put_u32(g, &g->facts, type);
}

ka_status ka_gguf_set_u32(struct ka_gguf *g, const char *key, int64_t value) {
  struct ka_ctx *ctx = g->arena.ctx;
  if (value < 0 || value > UINT32_MAX)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "gguf: %s: got %lld, expected 0 to 2^32 - 1", key,
                   (long long)value);
  KA_TRY(put_key(g, key, VALUE_U32));
  return put_u32(g, &g->facts, (uint32_t)value);
}

ka_status ka_gguf_set_f32(struct ka_gguf *g, const char *key, double value) {
  struct ka_ctx *ctx = g->arena.ctx;
  float v = (float)value;
  KA_TRY(put_key(g, key, VALUE_F32));
  return put(g, &g->facts, &v, sizeof v);
}

ka_status ka_gguf_set_bool(struct ka_gguf *g, const char *key, bool value) {
  struct ka_ctx *ctx = g->arena.ctx;
  KA_TRY(put_key(g, key, VALUE_BOOL));
  return put(g, &g->facts, value ? "\1" : "\0", 1);
}

ka_status ka_gguf_set_text(struct ka_gguf *g, const char *key, const char *text, size_t n_bytes) {
  struct ka_ctx *ctx = g->arena.ctx;
  KA_TRY(put_key(g, key, VALUE_TEXT));
  return put_text(g, &g->facts, text, n_bytes);
}

static ka_status put_list(struct ka_gguf *g, const char *key, uint32_t type, int64_t n) {
  struct ka_ctx *ctx = g->arena.ctx;
  KA_TRY(put_key(g, key, VALUE_LIST));
  KA_TRY(put_u32(g, &g->facts, type));
  return put_u64(g, &g->facts, (uint64_t)n);
}

ka_status ka_gguf_list_text(struct ka_gguf *g, const char *key, int64_t n) {
  return put_list(g, key, VALUE_TEXT, n);
}

ka_status ka_gguf_put_text(struct ka_gguf *g, const char *text, size_t n_bytes) {
  return put_text(g, &g->facts, text, n_bytes);
}

ka_status ka_gguf_set_i32_list(struct ka_gguf *g, const char *key, const int32_t *v, int64_t n) {
  struct ka_ctx *ctx = g->arena.ctx;
  KA_TRY(put_list(g, key, VALUE_I32, n));
  return put(g, &g->facts, v, (size_t)n * sizeof *v);
}

ka_status ka_gguf_set_f32_list(struct ka_gguf *g, const char *key, const float *v, int64_t n) {
  struct ka_ctx *ctx = g->arena.ctx;
  KA_TRY(put_list(g, key, VALUE_F32, n));
  return put(g, &g->facts, v, (size_t)n * sizeof *v);
}

/* --- tensors ---------------------------------------------------------------------------------- */

static size_t row_bytes(enum ka_gguf_type type, int64_t n_cols) {
  size_t n = (size_t)n_cols;
  if (type == KA_GGUF_Q8_0) return n / KA_GGUF_BLOCK * (2 + KA_GGUF_BLOCK);
  return n * (type == KA_GGUF_F32 ? sizeof(float) : sizeof(uint16_t));
}

static uint64_t aligned(uint64_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

ka_status ka_gguf_add_tensor(struct ka_gguf *g, const char *name, enum ka_gguf_type type, int n_dim,
                             const int64_t *shape) {
  struct ka_ctx *ctx = g->arena.ctx;
  void *p = g->tensors;
  struct ka_gguf_tensor t = {.type = type, .n_rows = 1, .n_cols = shape[n_dim - 1]};
  KA_TRY(ka_arena_str(&g->arena, &t.name, name, strlen(name)));
  if (type == KA_GGUF_Q8_0 && t.n_cols % KA_GGUF_BLOCK != 0) t.type = KA_GGUF_F32;
  for (int d = 0; d < n_dim - 1; d++) t.n_rows *= shape[d];
  t.n_bytes = (size_t)t.n_rows * row_bytes(t.type, t.n_cols);
  KA_TRY(put_text(g, &g->infos, name, strlen(name)));
  KA_TRY(put_u32(g, &g->infos, (uint32_t)n_dim));
  for (int d = n_dim; d > 0; d--) KA_TRY(put_u64(g, &g->infos, (uint64_t)shape[d - 1]));
  KA_TRY(put_u32(g, &g->infos, (uint32_t)t.type));
  KA_TRY(put_u64(g, &g->infos, g->end));
  g->end = aligned(g->end + t.n_bytes);
  KA_TRY(ka_grow(ctx, &p, &g->cap_tensors, g->n_tensors + 1, sizeof t, "gguf tensors"));
  g->tensors = p;
  g->tensors[g->n_tensors++] = t;
  return KA_STATUS_OK;
}

static ka_status pad(struct ka_gguf *g, uint64_t from) {
  static const char zeros[ALIGNMENT];
  return ka_publish_write(g->arena.ctx, &g->file, zeros, (size_t)(aligned(from) - from));
}

ka_status ka_gguf_begin(struct ka_gguf *g, const char *path) {
  struct ka_ctx *ctx = g->arena.ctx;
  struct ka_str *head = &g->rows;
  ka_str_clear(head);
  KA_TRY(put(g, head, "GGUF", 4));
  KA_TRY(put_u32(g, head, VERSION));
  KA_TRY(put_u64(g, head, (uint64_t)g->n_tensors));
  KA_TRY(put_u64(g, head, (uint64_t)g->n_facts));
  KA_TRY(ka_publish_begin(ctx, &g->file, path));
  KA_TRY(ka_publish_write(ctx, &g->file, head->data, head->len));
  KA_TRY(ka_publish_write(ctx, &g->file, g->facts.data, g->facts.len));
  KA_TRY(ka_publish_write(ctx, &g->file, g->infos.data, g->infos.len));
  return pad(g, head->len + g->facts.len + g->infos.len);
}

/* A block: the f16 of its scale, then 32 bytes. The rounding is the gguf package's: by the f32
 * scale's reciprocal, halves away from zero. */
static void quantise(const float *v, unsigned char *out) {
  float most = 0;
  for (int i = 0; i < KA_GGUF_BLOCK; i++) most = fmaxf(most, fabsf(v[i]));
  float scale = most / 127.0f, by = scale == 0 ? 0 : 1.0f / scale;
  uint16_t stored = ka_f32_to_f16(scale);
  memcpy(out, &stored, sizeof stored);
  for (int i = 0; i < KA_GGUF_BLOCK; i++) {
    float q = roundf(v[i] * by);
    out[2 + i] = (unsigned char)(int8_t)(q >= -127 && q <= 127 ? q : 0); /* else not a number */
  }
}

static void convert(const struct ka_gguf_tensor *t, unsigned char *out, const float *rows,
                    int64_t n) {
  if (t->type == KA_GGUF_F32) memcpy(out, rows, (size_t)n * sizeof *rows);
  if (t->type == KA_GGUF_BF16)
    for (int64_t i = 0; i < n; i++) {
      uint16_t v = ka_f32_to_bf16(rows[i]);
      memcpy(out + 2 * i, &v, sizeof v);
    }
  if (t->type == KA_GGUF_Q8_0)
    for (int64_t b = 0; b < n / KA_GGUF_BLOCK; b++)
      quantise(rows + b * KA_GGUF_BLOCK, out + b * (2 + KA_GGUF_BLOCK));
}

ka_status ka_gguf_write_rows(struct ka_gguf *g, const float *rows, int64_t n) {
  struct ka_ctx *ctx = g->arena.ctx;
  KA_NEVER(ctx, g->at >= g->n_tensors);
  const struct ka_gguf_tensor *t = &g->tensors[g->at];
  size_t bytes = (size_t)n * row_bytes(t->type, t->n_cols);
  ka_str_clear(&g->rows);
  KA_TRY(ka_str_reserve(ctx, &g->rows, bytes));
  convert(t, (unsigned char *)g->rows.data, rows, n * t->n_cols);
  KA_TRY(ka_publish_write(ctx, &g->file, g->rows.data, bytes));
  g->wrote += bytes;
  if (g->wrote < t->n_bytes) return KA_STATUS_OK;
  g->at++;
  g->wrote = 0;
  return pad(g, t->n_bytes);
}

ka_status ka_gguf_commit(struct ka_gguf *g) {
  struct ka_ctx *ctx = g->arena.ctx;
  KA_NEVER(ctx, g->at != g->n_tensors);
  return ka_publish_commit(ctx, &g->file);
}
