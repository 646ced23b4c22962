/* SPDX-License-Identifier: Apache-2.0
 *
 * Named allocations and arenas. An arena owns everything allocated from it; views made on it die
 * with its reset or deinit. Arenas can measure: the same planning code run on a measuring arena
 * counts bytes by name and hands out NULL, which is where `kappa plan` takes its figures from. A
 * fixed arena may lie in other memory than the heap, a device's for example. */
#ifndef KAPPA_BASE_ARENA_H
#define KAPPA_BASE_ARENA_H

#include "base/status.h"

/* Heap memory, zeroed, 64-byte aligned, named for the out-of-memory message. n_bytes 0 gives a
 * valid pointer. Free with ka_free. KA_E_MEMORY names what was wanted and its size. */
ka_status ka_alloc(struct ka_ctx *ctx, void **out, size_t n_bytes, const char *name);
void ka_free(void *p);

/* n * size with overflow check, then ka_alloc. */
ka_status ka_alloc_n(struct ka_ctx *ctx, void **out, int64_t n, size_t size, const char *name);

/* Doubles *items (element size `size`) until it holds `need`; *cap is updated. Plain heap memory:
 * free with ka_free. New elements are zero. */
ka_status ka_grow(struct ka_ctx *ctx, void **items, int64_t *cap, int64_t need, size_t size,
                  const char *name);

/* Memory that is not the heap's; contents undefined, aligned to `align` at least. alloc names what
 * was wanted and fails with KA_E_MEMORY. */
struct ka_memory {
  void *user;
  size_t align; /* a power of two, 64 or more */
  ka_status (*alloc)(void *user, void **out, size_t n_bytes, const char *name);
  void (*release)(void *user, void *p);
};

enum { KA_ARENA_NAMES = 48 };

struct ka_arena {
  struct ka_ctx *ctx;
  const char *name;
  const struct ka_memory *memory; /* NULL: the heap */
  struct ka_arena_block *head;    /* newest first */
  size_t used_bytes;              /* since the last reset */
  size_t peak_bytes;
  size_t capacity_bytes; /* fixed arenas: one block, no growth; 0 = grows */
  bool measuring;
  int n_names;
  struct ka_arena_use {
    const char *name;
    size_t bytes;
  } uses[KA_ARENA_NAMES]; /* by allocation name; the last row collects the rest */
};

/* A growing arena (metadata, parsed files). Cannot fail; allocates on first use. */
void ka_arena_init(struct ka_arena *a, struct ka_ctx *ctx, const char *name);

/* An arena of exactly n_bytes, allocated now; overflowing it is KA_E_INTERNAL (the plan was
 * wrong). memory (NULL: the heap) must outlive it. */
ka_status ka_arena_init_fixed(struct ka_arena *a, struct ka_ctx *ctx, const char *name,
                              size_t n_bytes, const struct ka_memory *memory);

/* Counts only, as a fixed arena in this memory would; allocations succeed and return NULL. */
void ka_arena_init_measure(struct ka_arena *a, struct ka_ctx *ctx, const char *name,
                           const struct ka_memory *memory);

/* Makes the arena that this measuring one measured, in its place. Out of memory names the three
 * largest holders, and the hint: which job key would shrink them. */
ka_status ka_arena_realise(struct ka_arena *measured, const char *hint);

void ka_arena_deinit(struct ka_arena *a);

/* Zeroed on growing arenas, undefined contents on fixed ones; 64-byte aligned. `name` must outlive
 * the arena (a literal). */
ka_status ka_arena_alloc(struct ka_arena *a, void **out, size_t n_bytes, const char *name);
ka_status ka_arena_alloc_n(struct ka_arena *a, void **out, int64_t n, size_t size,
                           const char *name);

/* The same for n elements of the type that a pointer has: KA_NEW(arena, &list, n, "list") and, of
 * the heap, KA_NEW_HEAP(ctx, &list, n, "list"). NULL after a failure. */
#define KA_NEW(arena, out, n, name) ka_arena_new(arena, out, n, sizeof **(out), name)
#define KA_NEW_HEAP(ctx, out, n, name) ka_new(ctx, out, n, sizeof **(out), name)
ka_status ka_arena_new(struct ka_arena *a, void *out, int64_t n, size_t size, const char *name);
ka_status ka_new(struct ka_ctx *ctx, void *out, int64_t n, size_t size, const char *name);

/* Copies a string (n bytes + NUL); NULL with the failure recorded in ctx when memory is out. */
ka_status ka_arena_str(struct ka_arena *a, const char **out, const char *s, size_t n);
ka_status ka_arena_printf(struct ka_arena *a, const char **out, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Frees all but the first block and starts over. Fixed arenas keep their block. */
void ka_arena_reset(struct ka_arena *a);

#endif
