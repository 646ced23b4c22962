/* SPDX-License-Identifier: Apache-2.0
 *
 * Spreads the blocks of a grid over workers. The thread that runs a grid is worker 0; the others
 * are threads of their own that sleep between grids, started when first needed and again after a
 * fork. One grid runs at a time. */
#include "tests/cudahost/internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if CH_ASAN
#include <sanitizer/lsan_interface.h>
#endif

static struct ch_worker *workers[CH_MAX_WORKERS];
static int n_helpers;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;

static struct {
  const struct cudahost_launch *launch;
  long long n_blocks;
  int turn;      /* counts grids */
  uint32_t tag;  /* the same in the upper 16 bits, never 0 */
  int n_wanted;  /* helpers that should join this one */
  int n_working; /* helpers that have not finished */
  bool runs;
  long long timeout; /* seconds; 0: none */
} grid;
static atomic_llong next_block;
static atomic_int failed; /* a cudaError_t: the other blocks need not run */

static struct ch_worker *worker(int i) {
  if (workers[i]) return workers[i];
  struct ch_worker *w = mmap(NULL, sizeof *w, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (w == MAP_FAILED) {
    ch_report("no memory for the threads that run blocks\n");
    ch_fault(cudaErrorMemoryAllocation);
  }
#if CH_ASAN
  __lsan_register_root_region(w, sizeof *w);
#endif
  ch_shared_create(w, i);
  return workers[i] = w;
}

static void work(struct ch_worker *w) {
  const struct cudahost_launch *l = grid.launch;
  w->launch = l;
  w->error = cudaSuccess;
  ch_context_thread(&w->main);
  for (;;) {
    long long b = atomic_fetch_add(&next_block, 1);
    if (b >= grid.n_blocks || atomic_load(&failed)) return;
    if (ch_setting(CH_THREADS) == CH_THREADS_REVERSE) b = grid.n_blocks - 1 - b;
    w->block = (uint3){(unsigned)(b % l->grid.x), (unsigned)(b / l->grid.x % l->grid.y),
                       (unsigned)(b / l->grid.x / l->grid.y)};
    ch_here.tag = CH_CHECKED && grid.n_blocks > 1 ? grid.tag | (uint32_t)(b & 0xffff) : 0;
    ch_block_run(w);
    if (w->error) atomic_store(&failed, (int)w->error);
  }
}

static void *helper(void *argument) {
  int me = (int)(intptr_t)argument, turn = 0;
  ch_alternate_stack();
  pthread_mutex_lock(&lock);
  for (;;) {
    while (grid.turn == turn || me > grid.n_wanted) {
      turn = grid.turn;
      pthread_cond_wait(&wake, &lock);
    }
    turn = grid.turn;
    pthread_mutex_unlock(&lock);
    work(workers[me]);
    pthread_mutex_lock(&lock);
    if (!--grid.n_working) pthread_cond_signal(&done);
  }
  return NULL;
}

/* Says so when a grid runs too long: a loop without end, or blocks that wait for each other. */
static void *watchdog(void *unused) {
  (void)unused;
  for (long long age = 0, turn = 0;; turn = grid.turn, pthread_mutex_unlock(&lock)) {
    sleep(1);
    pthread_mutex_lock(&lock);
    age = grid.runs && grid.turn == turn ? age + 1 : 0;
    if (!grid.timeout || age < grid.timeout) continue;
    ch_report("kernel %s has run for %lld s (setting timeout): a loop without end, or blocks that "
              "wait for each other\n",
              grid.launch->name, grid.timeout);
    ch_fault(cudaErrorLaunchTimeout);
  }
  return NULL;
}

static bool watched;
static void after_fork(void) { n_helpers = 0, watched = false; }

/* Helpers 1 .. n run or will; fewer if the system gives no more threads. */
static int start_threads(int n) {
  static bool registered;
  if (!registered) registered = !pthread_atfork(NULL, NULL, after_fork);
  pthread_t thread;
  if (!watched && !pthread_create(&thread, NULL, watchdog, NULL)) {
    pthread_detach(thread);
    watched = true;
  }
  while (n_helpers < n) {
    worker(n_helpers + 1);
    if (pthread_create(&thread, NULL, helper, (void *)(intptr_t)(n_helpers + 1))) break;
    pthread_detach(thread);
    n_helpers++;
  }
  return n < n_helpers ? n : n_helpers;
}

static int workers_wanted(long long n_blocks) {
  long long n = ch_setting(CH_WORKERS);
  if (n <= 0) n = sysconf(_SC_NPROCESSORS_ONLN);
  if (n > CH_MAX_WORKERS) n = CH_MAX_WORKERS;
  return (int)(n < n_blocks ? n : n_blocks);
}

cudaError_t ch_grid_run(const struct cudahost_launch *l) {
  long long n_blocks = (long long)l->grid.x * l->grid.y * l->grid.z;
  int n = start_threads(workers_wanted(n_blocks) - 1);
  ch_alternate_stack();
  worker(0);
  pthread_mutex_lock(&lock);
  grid.launch = l;
  grid.n_blocks = n_blocks;
  grid.n_wanted = grid.n_working = n;
  grid.turn++;
  grid.tag += 1u << 16;
  if (!grid.tag) ch_writers_forget(), grid.tag = 1u << 16;
  atomic_store(&next_block, 0);
  atomic_store(&failed, 0);
  grid.runs = true;
  grid.timeout = ch_setting(CH_TIMEOUT);
  if (n) pthread_cond_broadcast(&wake);
  pthread_mutex_unlock(&lock);
  work(workers[0]);
  pthread_mutex_lock(&lock);
  while (grid.n_working) pthread_cond_wait(&done, &lock);
  grid.runs = false;
  pthread_mutex_unlock(&lock);
  return (cudaError_t)atomic_load(&failed);
}
