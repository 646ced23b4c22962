/* SPDX-License-Identifier: Apache-2.0
 * Bump memory with a limit, messages with a place, and growing buffers of the Jinja interpreter. */
#include "python/jinja/core.h"

#include <stdarg.h>
#include <stdio.h>

enum { CHUNK_BYTES = 16 << 10, BIG_BYTES = 4 << 10 };

ka_status jm_alloc(struct ka_ctx *ctx, struct jmem *m, void **out, size_t n) {
  *out = NULL;
  if (n > m->limit_bytes || m->used_bytes > m->limit_bytes - n)
    return ka_fail(ctx, KA_E_INPUT, "template needs more than %zu MiB of memory",
                   m->limit_bytes >> 20);
  size_t rounded = (n + 15) & ~(size_t)15;
  m->used_bytes += rounded;
  if (rounded > BIG_BYTES) return ka_arena_alloc(&m->arena, out, rounded, "template values");
  if (rounded > m->left) {
    void *chunk;
    KA_TRY(ka_arena_alloc(&m->arena, &chunk, CHUNK_BYTES, "template values"));
    m->p = chunk;
    m->left = CHUNK_BYTES;
  }
  *out = m->p;
  m->p += rounded;
  m->left -= rounded;
  return KA_STATUS_OK;
}

ka_status j_alloc(struct jrun *J, void **out, size_t n) {
  if (n > J->mem.limit_bytes || J->mem.used_bytes > J->mem.limit_bytes - n) {
    *out = NULL;
    return j_fail(J, "the template needs more than %zu MiB of memory", J->mem.limit_bytes >> 20);
  }
  return jm_alloc(J->ctx, &J->mem, out, n);
}

ka_status j_push(struct jrun *J, void **items, int64_t n, int64_t *cap, size_t size) {
  if (n < *cap) return KA_STATUS_OK;
  int64_t grown = *cap < 4 ? 4 : *cap * 2;
  void *fresh;
  J_TRY(j_alloc(J, &fresh, (size_t)grown * size));
  if (n > 0) memcpy(fresh, *items, (size_t)n * size);
  *items = fresh;
  *cap = grown;
  return KA_STATUS_OK;
}

ka_status j_steps(struct jrun *J, size_t n_bytes) {
  J->steps += (int64_t)(n_bytes / 64);
  if (J->steps <= J->limits.max_steps) return KA_STATUS_OK;
  return j_fail(J, "the template takes more than %lld steps; it may never end",
                (long long)J->limits.max_steps);
}

ka_status j_enter(struct jrun *J) {
  if (++J->depth > J->limits.max_depth)
    return j_fail(J, "nested more than %lld deep", (long long)J->limits.max_depth);
  J->steps++;
  return j_steps(J, 0);
}

static void place(const struct ka_jinja *t, uint32_t at, int *line, int *column) {
  *line = 1;
  *column = 1;
  for (size_t i = 0; i < at && i < t->n_src; i++) {
    if (t->src[i] == '\n') {
      ++*line;
      *column = 1;
    } else if ((t->src[i] & 0xc0) != 0x80) {
      ++*column;
    }
  }
}

static ka_status fail_at(struct ka_ctx *ctx, const struct ka_jinja *t, uint32_t at, int code,
                         const char *fmt, va_list args) {
  char message[1024];
  vsnprintf(message, sizeof message, fmt, args);
  int line, column;
  place(t, at, &line, &column);
  return ka_fail(ctx, code, "%s:%d:%d: %s", t->name, line, column, message);
}

ka_status j_fail(struct jrun *J, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  ka_status st = fail_at(J->ctx, J->t, J->at, KA_E_INPUT, fmt, args);
  va_end(args);
  return st;
}

ka_status j_fail_code(struct jrun *J, int code, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  ka_status st = fail_at(J->ctx, J->t, J->at, code, fmt, args);
  va_end(args);
  return st;
}

ka_status jp_fail(struct jparser *J, uint32_t at, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  ka_status st = fail_at(J->ctx, J->t, at, KA_E_INPUT, fmt, args);
  va_end(args);
  return st;
}

ka_status j_fits(struct jrun *J, int64_t n) {
  if (n < 0 || (uint64_t)n <= J->limits.max_out_bytes) return KA_STATUS_OK;
  return j_fail(J, "the text is longer than %zu MiB", J->limits.max_out_bytes >> 20);
}

ka_status jb_put(struct jrun *J, struct jbuf *b, const char *p, size_t n) {
  if (n > J->limits.max_out_bytes || b->n > J->limits.max_out_bytes - n)
    return j_fail(J, "the text is longer than %zu MiB", J->limits.max_out_bytes >> 20);
  if (b->n + n > b->cap) {
    size_t cap = b->cap < 64 ? 64 : b->cap * 2;
    while (cap < b->n + n) cap *= 2;
    void *grown;
    J_TRY(j_alloc(J, &grown, cap));
    if (b->n > 0) memcpy(grown, b->p, b->n);
    b->p = grown;
    b->cap = cap;
  }
  if (n > 0) memcpy(b->p + b->n, p, n);
  b->n += n;
  return j_steps(J, n);
}

ka_status jb_puts(struct jrun *J, struct jbuf *b, const char *text) {
  return jb_put(J, b, text, strlen(text));
}

ka_status jb_cp(struct jrun *J, struct jbuf *b, uint32_t cp) {
  char utf8[4];
  return jb_put(J, b, utf8, (size_t)ka_utf8_encode(cp, utf8));
}

ka_status jb_printf(struct jrun *J, struct jbuf *b, const char *fmt, ...) {
  char text[512];
  va_list args;
  va_start(args, fmt);
  int n = vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  if (n < 0 || (size_t)n >= sizeof text) return j_fail(J, "a number is too long to print");
  return jb_put(J, b, text, (size_t)n);
}
