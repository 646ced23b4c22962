/* SPDX-License-Identifier: Apache-2.0
 * Blocks are chained newest first; every allocation is rounded up to 64 bytes. */
#include "base/arena.h"

#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, BLOCK_BYTES = 1 << 16 };

struct ka_arena_block {
  struct ka_arena_block *next;
  size_t size_bytes, used_bytes;
  unsigned char *data; /* behind this header, or in the arena's own memory */
  char pad[ALIGN - 3 * sizeof(size_t) - sizeof(void *)];
};

ka_status ka_alloc(struct ka_ctx *ctx, void **out, size_t n_bytes, const char *name) {
  *out = NULL;
  bool inject = ctx->fail_alloc_at > 0 && --ctx->fail_alloc_at == 0;
  size_t rounded = (n_bytes + ALIGN - 1) / ALIGN * ALIGN;
  if (rounded == 0) rounded = ALIGN;
  if (rounded >= n_bytes && !inject) *out = aligned_alloc(ALIGN, rounded);
  if (!*out)
    return ka_fail(ctx, KA_E_MEMORY, "%s: could not allocate %.1f MiB", name,
                   (double)n_bytes / 1048576.0);
  memset(*out, 0, rounded);
  return KA_STATUS_OK;
}

void ka_free(void *p) { free(p); }

ka_status ka_alloc_n(struct ka_ctx *ctx, void **out, int64_t n, size_t size, const char *name) {
  size_t n_bytes;
  *out = NULL;
  if (n < 0 || __builtin_mul_overflow((size_t)n, size, &n_bytes))
    return ka_fail(ctx, KA_E_MEMORY, "%s: %lld elements of %zu bytes overflow the address space",
                   name, (long long)n, size);
  return ka_alloc(ctx, out, n_bytes, name);
}

/* Pointers to objects have one representation here (POSIX). */
ka_status ka_new(struct ka_ctx *ctx, void *out, int64_t n, size_t size, const char *name) {
  void *memory;
  ka_status st = ka_alloc_n(ctx, &memory, n, size, name);
  memcpy(out, &memory, sizeof memory);
  return st;
}

ka_status ka_grow(struct ka_ctx *ctx, void **items, int64_t *cap, int64_t need, size_t size,
                  const char *name) {
  if (need <= *cap) return KA_STATUS_OK;
  int64_t new_cap = *cap < 8 ? 8 : *cap;
  while (new_cap < need) {
    if (new_cap > INT64_MAX / 2) return ka_fail(ctx, KA_E_MEMORY, "%s: too many elements", name);
    new_cap *= 2;
  }
  void *grown;
  KA_TRY(ka_alloc_n(ctx, &grown, new_cap, size, name));
  if (*items) memcpy(grown, *items, (size_t)*cap * size);
  ka_free(*items);
  *items = grown;
  *cap = new_cap;
  return KA_STATUS_OK;
}

void ka_arena_init(struct ka_arena *a, struct ka_ctx *ctx, const char *name) {
  memset(a, 0, sizeof *a);
  a->ctx = ctx;
  a->name = name;
}

static ka_status new_block(struct ka_arena *a, size_t n_bytes) {
  struct ka_ctx *ctx = a->ctx;
  if (n_bytes > SIZE_MAX - sizeof(struct ka_arena_block) - ALIGN)
    return ka_fail(ctx, KA_E_MEMORY, "%s: %zu bytes overflow", a->name, n_bytes);
  void *raw, *data = NULL;
  KA_TRY(ka_alloc(ctx, &raw, sizeof(struct ka_arena_block) + (a->memory ? 0 : n_bytes), a->name));
  struct ka_arena_block *b = raw;
  ka_status st = KA_STATUS_OK;
  if (a->memory) st = a->memory->alloc(a->memory->user, &data, n_bytes, a->name);
  if (!ka_ok(st)) {
    ka_free(raw);
    return st;
  }
  b->data = a->memory ? data : (unsigned char *)(b + 1);
  b->size_bytes = n_bytes;
  b->next = a->head;
  a->head = b;
  return KA_STATUS_OK;
}

static void free_block(struct ka_arena *a, struct ka_arena_block *b) {
  if (a->memory) a->memory->release(a->memory->user, b->data);
  ka_free(b);
}

ka_status ka_arena_init_fixed(struct ka_arena *a, struct ka_ctx *ctx, const char *name,
                              size_t n_bytes, const struct ka_memory *memory) {
  ka_arena_init(a, ctx, name);
  a->memory = memory;
  KA_TRY(new_block(a, n_bytes));
  a->capacity_bytes = n_bytes > 0 ? n_bytes : 1;
  return KA_STATUS_OK;
}

void ka_arena_init_measure(struct ka_arena *a, struct ka_ctx *ctx, const char *name,
                           const struct ka_memory *memory) {
  ka_arena_init(a, ctx, name);
  a->memory = memory;
  a->measuring = true;
}

/* "weights 15.0 GiB, gradients 3.1 GiB, ..." of the three largest. */
static void name_holders(const struct ka_arena *a, char text[256]) {
  bool named[KA_ARENA_NAMES] = {false};
  int at = 0;
  text[0] = 0;
  for (int n = 0; n < 3 && at < 200; n++) {
    int most = -1;
    char bytes[32];
    for (int i = 0; i < a->n_names; i++)
      if (!named[i] && a->uses[i].bytes > 0 && (most < 0 || a->uses[i].bytes > a->uses[most].bytes))
        most = i;
    if (most < 0) return;
    named[most] = true;
    at += snprintf(text + at, 256 - (size_t)at, "%s%.40s %s", n ? ", " : "", a->uses[most].name,
                   ka_fmt_bytes((double)a->uses[most].bytes, bytes));
  }
}

ka_status ka_arena_realise(struct ka_arena *a, const char *hint) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_arena plan = *a;
  ka_status st = ka_arena_init_fixed(a, ctx, plan.name, plan.used_bytes, plan.memory);
  if (st.code != KA_E_MEMORY) return st;
  char holders[256], total[32];
  name_holders(&plan, holders);
  ka_error_clear(ctx);
  return ka_fail(ctx, KA_E_MEMORY, "%s: could not allocate %s (%s); %s", plan.name,
                 ka_fmt_bytes((double)plan.used_bytes, total), holders, hint);
}

void ka_arena_deinit(struct ka_arena *a) {
  while (a->head) {
    struct ka_arena_block *next = a->head->next;
    free_block(a, a->head);
    a->head = next;
  }
  a->used_bytes = 0;
}

static void count_use(struct ka_arena *a, const char *name, size_t n_bytes) {
  int i = 0;
  while (i < a->n_names && strcmp(a->uses[i].name, name) != 0) i++;
  if (i == a->n_names) {
    if (a->n_names == KA_ARENA_NAMES) {
      i = KA_ARENA_NAMES - 1;
      a->uses[i].name = "other";
    } else {
      a->uses[a->n_names++].name = name;
    }
  }
  a->uses[i].bytes += n_bytes;
}

ka_status ka_arena_alloc(struct ka_arena *a, void **out, size_t n_bytes, const char *name) {
  struct ka_ctx *ctx = a->ctx;
  size_t align = a->memory ? a->memory->align : ALIGN;
  *out = NULL;
  if (n_bytes > SIZE_MAX - align)
    return ka_fail(ctx, KA_E_MEMORY, "%s: %zu bytes overflow", name, n_bytes);
  size_t rounded = (n_bytes + align - 1) / align * align;
  count_use(a, name, rounded);
  a->used_bytes += rounded;
  if (a->used_bytes > a->peak_bytes) a->peak_bytes = a->used_bytes;
  if (a->measuring) return KA_STATUS_OK;
  if (!a->head || a->head->size_bytes - a->head->used_bytes < rounded) {
    if (a->capacity_bytes)
      return ka_fail(ctx, KA_E_INTERNAL,
                     "arena %s: %zu bytes for %s do not fit into the %zu planned", a->name, rounded,
                     name, a->capacity_bytes);
    KA_TRY(new_block(a, rounded > BLOCK_BYTES ? rounded : BLOCK_BYTES));
  }
  *out = a->head->data + a->head->used_bytes;
  a->head->used_bytes += rounded;
  return KA_STATUS_OK;
}

ka_status ka_arena_alloc_n(struct ka_arena *a, void **out, int64_t n, size_t size,
                           const char *name) {
  size_t n_bytes;
  *out = NULL;
  if (n < 0 || __builtin_mul_overflow((size_t)n, size, &n_bytes))
    return ka_fail(a->ctx, KA_E_MEMORY, "%s: %lld elements of %zu bytes overflow", name,
                   (long long)n, size);
  return ka_arena_alloc(a, out, n_bytes, name);
}

ka_status ka_arena_new(struct ka_arena *a, void *out, int64_t n, size_t size, const char *name) {
  void *memory;
  ka_status st = ka_arena_alloc_n(a, &memory, n, size, name);
  memcpy(out, &memory, sizeof memory);
  return st;
}

ka_status ka_arena_str(struct ka_arena *a, const char **out, const char *s, size_t n) {
  struct ka_ctx *ctx = a->ctx;
  void *copy;
  KA_TRY(ka_arena_alloc(a, &copy, n + 1, "text"));
  memcpy(copy, s, n);
  ((char *)copy)[n] = 0;
  *out = copy;
  return KA_STATUS_OK;
}

ka_status ka_arena_printf(struct ka_arena *a, const char **out, const char *fmt, ...) {
  struct ka_ctx *ctx = a->ctx;
  va_list args;
  va_start(args, fmt);
  int n = vsnprintf(NULL, 0, fmt, args);
  va_end(args);
  KA_NEVER(ctx, n < 0);
  void *text;
  KA_TRY(ka_arena_alloc(a, &text, (size_t)n + 1, "text"));
  va_start(args, fmt);
  vsnprintf(text, (size_t)n + 1, fmt, args);
  va_end(args);
  *out = text;
  return KA_STATUS_OK;
}

void ka_arena_reset(struct ka_arena *a) {
  while (a->head && a->head->next) {
    struct ka_arena_block *next = a->head->next;
    free_block(a, a->head);
    a->head = next;
  }
  if (a->head) {
    if (!a->capacity_bytes) memset(a->head->data, 0, a->head->used_bytes);
    a->head->used_bytes = 0;
  }
  a->used_bytes = 0;
  a->n_names = 0;
  memset(a->uses, 0, sizeof a->uses);
}
