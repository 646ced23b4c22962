/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs one block: its threads as fibres of one operating system thread, with barriers and warp-wide
 * operations.
 *
 * A thread gets a stack when it first runs and gives it back when it returns, so a kernel without
 * barriers runs all its threads one after another on one stack. A thread that waits picks the next
 * one that is ready and switches to it; when nobody is ready, the block can never go on, and the
 * report says who waits where. What is not done here: memory (shared.c, check.c), grids (grid.c).
 */
#include "tests/cudahost/internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

_Thread_local struct ch_here ch_here;

/* The next set bit after `last`, round and round; in the other direction if so set. */
static unsigned pick_bit(unsigned bits, unsigned last) {
  if (ch_setting(CH_THREADS) == CH_THREADS_REVERSE) {
    unsigned below = bits & ((1u << last) - 1u);
    return 31u - (unsigned)__builtin_clz(below ? below : bits);
  }
  unsigned above = bits & ~((2u << last) - 1u);
  return (unsigned)__builtin_ctz(above ? above : bits);
}

static void make_ready(struct ch_worker *w, struct ch_fibre *f) {
  f->warp->ready |= 1u << f->lane;
  w->ready_warps |= 1u << (unsigned)(f->warp - w->warp);
}

/* Takes a ready thread out of the ready set; NULL if there is none. Stays in a warp while it can.
 */
static struct ch_fibre *take_ready(struct ch_worker *w, const struct ch_fibre *last) {
  if (!w->ready_warps) return NULL;
  unsigned i = (unsigned)(w->current - w->warp), lane = last ? last->lane : 31;
  if (!w->current->ready) i = pick_bit(w->ready_warps, i), lane = 31;
  struct ch_warp *warp = w->current = &w->warp[i];
  lane = pick_bit(warp->ready, lane);
  warp->ready &= ~(1u << lane);
  if (!warp->ready) w->ready_warps &= ~(1u << i);
  return &w->fibre[i * CH_WARP + lane];
}

/* --- who waits where -------------------------------------------------------------------------- */
static bool waits(const struct ch_fibre *f) {
  return (f->state == CH_AT_BARRIER || f->state == CH_AT_WARP_OP) &&
         !(f->warp->ready >> f->lane & 1);
}

static bool same_fate(const struct ch_fibre *a, const struct ch_fibre *b) {
  if (a->state == CH_DONE || b->state == CH_DONE) return a->state == b->state;
  return waits(b) && a->waits_for == b->waits_for && a->place.site.line == b->place.site.line;
}

static unsigned lanes_like(const struct ch_worker *w, int warp, const struct ch_fibre *like) {
  unsigned lanes = 0;
  for (unsigned l = 0; l < CH_WARP; l++)
    if (w->warp[warp].lanes >> l & 1 && same_fate(like, &w->fibre[warp * CH_WARP + (int)l]))
      lanes |= 1u << l;
  return lanes;
}

static void report_lanes(unsigned lanes) { /* " 0-15 20" */
  for (unsigned l = 0, end; l < CH_WARP; l = end + 1) {
    for (end = l; end < CH_WARP && lanes >> end & 1;) end++;
    if (end > l) ch_report(end > l + 1 ? " %u-%u" : " %u", l, end - 1);
  }
}

static void report_threads(const struct ch_worker *w, const struct ch_fibre *like) {
  const char *lead = "  warp";
  for (int i = 0; i < w->n_warps; i++) {
    int first = i;
    unsigned lanes = lanes_like(w, i, like);
    if (!lanes) continue;
    while (lanes == w->warp[i].lanes && i + 1 < w->n_warps && /* whole warps in a row */
           lanes_like(w, i + 1, like) == w->warp[i + 1].lanes)
      i++;
    ch_report(i > first ? "%ss %d-%d" : "%s %d", lead, first, i);
    if (lanes != w->warp[first].lanes) ch_report(" lanes"), report_lanes(lanes);
    lead = ", warp";
  }
}

static void report_waiting(const struct ch_worker *w) {
  const struct ch_fibre *said[8];
  int n_said = 0;
  for (int i = 0; i < w->n_threads && n_said < 8; i++) {
    const struct ch_fibre *f = &w->fibre[i];
    bool again = f->state != CH_DONE && !waits(f);
    for (int j = 0; j < n_said; j++) again |= same_fate(said[j], f);
    if (again) continue;
    said[n_said++] = f;
    report_threads(w, f);
    if (f->state == CH_DONE) {
      ch_report(": returned\n");
    } else {
      ch_report(": at %s %s:%d\n", f->waits_for, f->place.site.file, f->place.site.line);
      ch_report_place(f->place.pc);
    }
  }
}

static void diverged(const char *what) {
  ch_report("divergence: %s\n", what);
  report_waiting(ch_now->worker);
  ch_fault(cudaErrorLaunchFailure);
}

/* --- switching -------------------------------------------------------------------------------- */
static void fibre_main(void);

static struct ch_stack *take_stack(struct ch_worker *w) {
  struct ch_stack *s = w->free_stacks;
  if (!s) return ch_stack_create();
  w->free_stacks = s->next;
  return s;
}

static void put_stack(struct ch_worker *w, struct ch_fibre *f) {
  f->stack->next = w->free_stacks;
  w->free_stacks = f->stack;
  f->stack = NULL;
}

static void resume(struct ch_context *from, struct ch_fibre *f, bool from_ends) {
  if (f->state == CH_FRESH) {
    f->stack = take_stack(f->worker);
    ch_context_start(&f->context, f->stack, fibre_main);
  }
  f->state = CH_RUNNING;
  f->worker->spins = 0;
  ch_now = f;
  ch_here.stack = (uintptr_t)f->stack->low;
  ch_context_switch(from, &f->context, from_ends);
}

/* The current thread waits, having said for what; returns when somebody made it ready again. */
static void wait_as(enum ch_state state, const char *what, struct ch_place place) {
  struct ch_fibre *f = ch_now;
  f->state = state;
  f->waits_for = what;
  f->place = place;
  struct ch_fibre *next = take_ready(f->worker, f);
  if (!next) diverged("no thread of the block can go on");
  resume(&f->context, next, false);
}

void cudahost_pause(void) {
  struct ch_fibre *f = ch_now, *next;
  if (!f || !f->worker->ready_warps) return;
  next = take_ready(f->worker, f);
  f->state = CH_READY;
  make_ready(f->worker, f);
  resume(&f->context, next, false);
}

static void finish(struct ch_fibre *f) {
  struct ch_worker *w = f->worker;
  cudahost_cp_async_wait(0);
  f->state = CH_DONE;
  f->warp->done |= 1u << f->lane;
  w->n_done++;
  if (w->n_at_barrier) diverged("a thread returned while others wait for it at a barrier");
  for (int i = 0; i < f->warp->n_groups; i++)
    if (f->warp->group[i].mask >> f->lane & 1)
      diverged("a thread returned while other lanes of its warp wait for it");
}

static _Noreturn void leave(struct ch_worker *w, struct ch_fibre *f) { /* the block ends here */
  ch_here = (struct ch_here){0};
  ch_context_switch(&f->context, &w->main, true);
  abort();
}

static void fibre_main(void) {
  ch_context_entered();
  for (;;) {
    struct ch_fibre *f = ch_now;
    struct ch_worker *w = f->worker;
    w->launch->run((void *)(uintptr_t)w->launch->call);
    finish(f);
    struct ch_fibre *next = take_ready(w, f);
    if (next && next->state == CH_FRESH) { /* on the same stack */
      next->stack = f->stack;
      f->stack = NULL;
      next->context = (struct ch_context){.bottom = f->context.bottom, .bytes = CH_STACK_BYTES};
      next->state = CH_RUNNING;
      ch_now = next;
      continue;
    }
    if (!next && w->n_done < w->n_threads) diverged("no thread of the block can go on");
    put_stack(w, f);
    if (next) resume(&f->context, next, true);
    leave(w, f);
  }
}

void ch_block_abandon(cudaError_t error) {
  struct ch_fibre *f = ch_now;
  struct ch_worker *w = f->worker;
  w->error = error;
  for (int i = 0; i < w->n_threads; i++) /* their frames are never left: the stacks start anew */
    if (w->fibre[i].stack) put_stack(w, &w->fibre[i]);
  leave(w, f);
}

/* --- the block's barrier ---------------------------------------------------------------------- */
static bool same_site(struct cudahost_site a, struct cudahost_site b) {
  return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file));
}

static void release_barrier(struct ch_worker *w) {
  int n = w->n_count;
  w->barrier_result = w->barrier_vote == CUDAHOST_AND  ? n == w->n_threads
                      : w->barrier_vote == CUDAHOST_OR ? n > 0
                                                       : n;
  w->n_at_barrier = w->n_count = 0;
  w->epoch++;
  for (int i = 0; i < w->n_warps; i++) {
    w->warp[i].ready = w->warp[i].lanes;
    if (&w->warp[i] == ch_now->warp) w->warp[i].ready &= ~(1u << ch_now->lane);
    if (w->warp[i].ready) w->ready_warps |= 1u << i;
  }
}

int cudahost_barrier(enum cudahost_vote vote, int predicate, struct cudahost_site site) {
  static const char *const names[] = {"__syncthreads", "__syncthreads_and", "__syncthreads_or",
                                      "__syncthreads_count"};
  struct ch_fibre *f = ch_now;
  struct ch_worker *w = f->worker;
  struct ch_place place = {site, __builtin_return_address(0)};
  f->state = CH_AT_BARRIER;
  f->waits_for = names[vote];
  f->place = place;
  if (w->n_done) diverged("a barrier after threads of the block have returned");
  if (w->n_at_barrier && (!same_site(w->barrier_site, site) || w->barrier_vote != vote))
    diverged("threads of the block wait at different barriers");
  w->barrier_site = site;
  w->barrier_vote = vote;
  w->n_count += predicate != 0;
  if (++w->n_at_barrier == w->n_threads) {
    f->state = CH_RUNNING;
    release_barrier(w);
  } else {
    wait_as(CH_AT_BARRIER, names[vote], place);
  }
  return w->barrier_result;
}

/* --- warp-wide operations --------------------------------------------------------------------- */
static struct ch_group *join_group(struct ch_fibre *f, const struct cudahost_warp_op *op,
                                   unsigned mask, struct cudahost_site site) {
  struct ch_warp *warp = f->warp;
  if (!(mask >> f->lane & 1)) diverged("the mask lacks the lane that calls");
  if (mask & ~warp->lanes) diverged("the mask names lanes that the block does not have");
  if (mask & warp->done) diverged("the mask names lanes that have returned");
  for (int i = 0; i < warp->n_groups; i++) {
    struct ch_group *g = &warp->group[i];
    if (!(g->mask & mask)) continue;
    if (g->mask != mask) diverged("lanes of a warp wait with different masks");
    if (g->op != op || !same_site(g->place.site, site))
      diverged("lanes of a warp wait at different operations");
    return g;
  }
  struct ch_group *g = &warp->group[warp->n_groups++];
  g->op = op;
  g->mask = mask;
  g->arrived = 0;
  return g;
}

void cudahost_warp(const struct cudahost_warp_op *op, unsigned mask, void *lane,
                   struct cudahost_site site) {
  struct ch_fibre *f = ch_now;
  struct ch_worker *w = f->worker;
  struct ch_place place = {site, __builtin_return_address(0)};
  f->state = CH_AT_WARP_OP;
  f->waits_for = op->name;
  f->place = place;
  struct ch_group *g = join_group(f, op, mask, site);
  g->place = place;
  g->lane[f->lane] = lane;
  g->arrived |= 1u << f->lane;
  if (g->arrived != mask) {
    wait_as(CH_AT_WARP_OP, op->name, place);
    return;
  }
  f->state = CH_RUNNING;
  if (op->run) op->run(g->lane, mask);
  if (op->orders_memory) ch_warp_order(f->warp, mask);
  struct ch_group *last = &f->warp->group[--f->warp->n_groups];
  if (g != last) *g = *last;
  f->warp->ready |= mask & ~(1u << f->lane);
  if (f->warp->ready) w->ready_warps |= 1u << (unsigned)(f->warp - w->warp);
}

/* --- one block -------------------------------------------------------------------------------- */
void ch_block_run(struct ch_worker *w) {
  dim3 size = w->launch->block;
  w->n_threads = (int)(size.x * size.y * size.z);
  w->n_warps = (w->n_threads + CH_WARP - 1) / CH_WARP;
  w->n_done = w->n_at_barrier = w->n_count = 0;
  w->ready_warps = 0;
  for (int i = 0; i < w->n_warps; i++) {
    struct ch_warp *warp = &w->warp[i];
    int n = w->n_threads - i * CH_WARP;
    warp->lanes = warp->ready = n >= CH_WARP ? ~0u : (1u << n) - 1;
    warp->done = 0;
    warp->n_groups = 0;
    w->ready_warps |= 1u << i;
  }
  for (unsigned i = 0; i < (unsigned)w->n_threads; i++) {
    struct ch_fibre *f = &w->fibre[i];
    f->worker = w;
    f->warp = &w->warp[i / CH_WARP];
    f->thread = (uint3){i % size.x, i / size.x % size.y, i / size.x / size.y};
    f->tid = i;
    f->lane = i % CH_WARP;
    f->state = CH_FRESH;
    f->n_copies = f->n_committed = f->n_groups = 0;
  }
  ch_shared_start(w);
  w->current = w->warp;
  resume(&w->main, take_ready(w, NULL), false);
}

uint3 cudahost_thread_idx(void) { return ch_now->thread; }
uint3 cudahost_block_idx(void) { return ch_now->worker->block; }
static uint3 size_of(dim3 d) { return (uint3){d.x, d.y, d.z}; }
uint3 cudahost_block_dim(void) { return size_of(ch_now->worker->launch->block); }
uint3 cudahost_grid_dim(void) { return size_of(ch_now->worker->launch->grid); }
long long cudahost_clock(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}
unsigned cudahost_lane(void) { return ch_now->lane; }
