/* SPDX-License-Identifier: Apache-2.0
 * Opening and closing, and the collectives' beginnings: a call is checked, queued and left to the
 * thread of worker.c. */
#include "engine/dist/ranks.h"

#include "base/log.h"
#include "engine/dist/mpi/mpi_plugin.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

void ka_dist_set_timeout(struct ka_dist *d, double timeout_s) {
  if (d) d->timeout_s = timeout_s;
}

int ka_dist_rank(const struct ka_dist *d) { return d ? d->rank : 0; }
int ka_dist_n(const struct ka_dist *d) { return d ? d->n : 1; }
static const char *host_of(const struct ka_dist *d, int rank) {
  return d && d->hosts ? d->hosts[rank] : "this machine";
}
struct ka_dist_stats ka_dist_stats(const struct ka_dist *d) {
  return d ? d->stats : (struct ka_dist_stats){0};
}

int ka_dist_n_here(const struct ka_dist *d) {
  int n = 0;
  if (!d || !d->hosts) return 1;
  for (int r = 0; r < d->n; r++) n += strcmp(d->hosts[r], d->hosts[d->rank]) == 0;
  return n;
}

/* --- open and close --------------------------------------------------------------------------- */
static ka_status no_transport(struct ka_dist *d, int n_ranks, const char *by) {
  return ka_fail(d->ctx, KA_E_DEVICE,
                 "%s started %d ranks, but %s sees %d: launcher and kappa_mpi.so are of different "
                 "MPIs; use the mpirun of the MPI that kappa was built with, or build it with this "
                 "one",
                 by, n_ranks, d->mpi->built, d->n);
}

/* Where n in equal parts begin, the remainder spread; the caller frees them. */
static ka_status even_starts(struct ka_dist *d, int64_t n, int64_t **out) {
  struct ka_ctx *ctx = d->ctx;
  KA_TRY(KA_NEW_HEAP(ctx, out, d->n + 1, "ranks"));
  for (int r = 0; r <= d->n; r++) (*out)[r] = n / d->n * r + n % d->n * r / d->n;
  return KA_STATUS_OK;
}

/* all [n, width]: each rank's entry to all of them, at once. */
static ka_status gather_entries(struct ka_dist *d, const char *what, void *all, int64_t width) {
  struct ka_ctx *ctx = d->ctx;
  int64_t *starts = NULL;
  KA_TRY(even_starts(d, d->n * width, &starts));
  ka_status st = ka_dist_all_gather(d, what, all, starts);
  ka_free(starts);
  return ka_ok(st) ? ka_dist_wait(d) : st;
}

static ka_status gather_hosts(struct ka_dist *d) {
  struct ka_ctx *ctx = d->ctx;
  void *memory;
  KA_TRY(ka_alloc_n(ctx, &memory, d->n, KA_DIST_HOST, "ranks"));
  d->hosts = memory;
  gethostname(d->hosts[d->rank], KA_DIST_HOST - 1);
  return gather_entries(d, "host names", d->hosts, KA_DIST_HOST);
}

static ka_status open_ranks(struct ka_dist *d, int n_ranks, const char *by) {
  struct ka_ctx *ctx = d->ctx;
  KA_TRY(ka_dist_mpi_load(ctx, &d->mpi));
  KA_TRY(ka_alloc(ctx, &d->piece, KA_DIST_PIECE, "ranks"));
  KA_TRY(ka_dist_worker_start(d));
  if (d->failure.code != KA_OK) return ka_fail(ctx, d->failure.code, "ranks: %s", d->failure.text);
  if (d->n != n_ranks) return no_transport(d, n_ranks, by);
  ctx->rank = d->rank;
  KA_TRY(gather_hosts(d));
  if (d->rank == 0) ka_info(ctx, "ranks", "%d, by %s and %s", d->n, by, d->mpi->built);
  return KA_STATUS_OK;
}

ka_status ka_dist_open(struct ka_ctx *ctx, struct ka_dist **out, double timeout_s) {
  int n_ranks;
  const char *by;
  *out = NULL;
  KA_TRY(ka_dist_launched(ctx, &n_ranks, &by));
  struct ka_dist *d;
  KA_TRY(KA_NEW_HEAP(ctx, &d, 1, "ranks"));
  *d = (struct ka_dist){.ctx = ctx, .n = 1, .timeout_s = timeout_s};
  d->hear = d->beat_receive = d->beat_send = -1;
  pthread_mutex_init(&d->lock, NULL);
  pthread_cond_init(&d->changed, NULL);
  *out = d;
  if (n_ranks <= 1) return KA_STATUS_OK;
  ka_status st = open_ranks(d, n_ranks, by);
  if (!ka_ok(st)) {
    (void)ka_dist_close(d, st);
    *out = NULL;
  }
  return st;
}

static ka_status start(struct ka_dist *d, enum ka_dist_kind kind, const char *what,
                       struct ka_dist_call call, const int64_t *starts, const int64_t *in_starts);

/* A failure that rank 0 has been told, or that came from another rank: this rank need not print. */
static bool silent(const struct ka_dist *d) {
  return d && d->rank > 0 && d->failure.code != KA_OK && !d->tell;
}

ka_status ka_dist_close(struct ka_dist *d, ka_status st) {
  if (!d) return KA_STATUS_OK;
  struct ka_ctx *ctx = d->ctx;
  ka_status own = KA_STATUS_OK;
  if (d->has_thread && d->n > 1) {
    if (ka_ok(st)) {
      own = start(d, KA_DIST_CLOSE, "the job", (struct ka_dist_call){0}, NULL, NULL);
      if (ka_ok(own)) own = ka_dist_wait(d);
    } else {
      ka_dist_set_failure(d, st.code, d->rank, true, ctx->error.message);
    }
  }
  bool speaks = d->has_thread && d->rank == 0 && ctx->error.message[0];
  /* Now: once the first rank has left, the launcher ends the others. */
  if (speaks) ka_log_error(ctx);
  if (d->has_thread) ka_dist_worker_end(d);
  ctx->error.elsewhere = speaks || silent(d);
  if (d->has_thread) return own; /* it still holds d, and ends with the process */
  ka_free(d->piece);
  ka_free(d->hosts);
  ka_free(d->queue);
  pthread_cond_destroy(&d->changed);
  pthread_mutex_destroy(&d->lock);
  ka_free(d);
  return own;
}

/* --- collectives ------------------------------------------------------------------------------ */
static ka_status copy_starts(struct ka_dist *d, int64_t **out, const int64_t *starts) {
  struct ka_ctx *ctx = d->ctx;
  void *memory;
  *out = NULL;
  if (!starts) return KA_STATUS_OK;
  size_t n_bytes = (size_t)(d->n + 1) * sizeof **out;
  KA_TRY(ka_alloc(ctx, &memory, n_bytes, "ranks"));
  memcpy(memory, starts, n_bytes);
  *out = memory;
  return KA_STATUS_OK;
}

/* Expects the lock. */
static ka_status make_room(struct ka_dist *d) {
  struct ka_ctx *ctx = d->ctx;
  if (d->n_started - d->n_done < d->cap) return KA_STATUS_OK;
  int64_t cap = d->cap > 0 ? 2 * d->cap : 64;
  struct ka_dist_call *queue;
  KA_TRY(KA_NEW_HEAP(ctx, &queue, cap, "ranks"));
  for (int64_t i = d->n_done; i < d->n_started; i++) queue[i % cap] = d->queue[i % d->cap];
  ka_free(d->queue);
  d->queue = queue;
  d->cap = cap;
  return KA_STATUS_OK;
}

static ka_status start(struct ka_dist *d, enum ka_dist_kind kind, const char *what,
                       struct ka_dist_call call, const int64_t *starts, const int64_t *in_starts) {
  struct ka_ctx *ctx = d->ctx;
  call.header.kind = (int32_t)kind;
  snprintf(call.header.what, sizeof call.header.what, "%s", what);
  KA_TRY(copy_starts(d, &call.starts, starts));
  ka_status st = copy_starts(d, &call.in_starts, in_starts);
  pthread_mutex_lock(&d->lock);
  if (ka_ok(st)) st = make_room(d);
  if (ka_ok(st)) {
    call.header.sequence = d->n_started;
    d->queue[d->n_started++ % d->cap] = call;
    pthread_cond_broadcast(&d->changed);
  }
  pthread_mutex_unlock(&d->lock);
  if (ka_ok(st)) return st;
  ka_free(call.starts);
  ka_free(call.in_starts);
  return st;
}

ka_status ka_dist_all_reduce(struct ka_dist *d, const char *what, void *x, int64_t n,
                             enum ka_dtype dtype) {
  if (ka_dist_n(d) == 1) return KA_STATUS_OK;
  struct ka_ctx *ctx = d->ctx;
  KA_NEVER(ctx, dtype != KA_F32 && dtype != KA_F64 && dtype != KA_I64);
  int64_t *starts = NULL;
  KA_TRY(even_starts(d, n, &starts));
  struct ka_dist_call call = {.header = {.n = n, .dtype = (int32_t)dtype}, .x = x};
  ka_status st = start(d, KA_DIST_ALL_REDUCE, what, call, starts, NULL);
  ka_free(starts);
  return st;
}

ka_status ka_dist_reduce_scatter(struct ka_dist *d, const char *what, void *x,
                                 const int64_t *starts, enum ka_dtype dtype) {
  if (ka_dist_n(d) == 1) return KA_STATUS_OK;
  struct ka_ctx *ctx = d->ctx;
  KA_NEVER(ctx, dtype != KA_F32 && dtype != KA_F64 && dtype != KA_I64);
  struct ka_dist_call call = {.header = {.n = starts[d->n], .dtype = (int32_t)dtype}, .x = x};
  return start(d, KA_DIST_REDUCE_SCATTER, what, call, starts, NULL);
}

static struct ka_dist_header of_bytes(int64_t n) {
  return (struct ka_dist_header){.n = n, .dtype = KA_N_DTYPES};
}

ka_status ka_dist_all_gather(struct ka_dist *d, const char *what, void *x, const int64_t *starts) {
  if (ka_dist_n(d) == 1) return KA_STATUS_OK;
  struct ka_dist_call call = {.header = of_bytes(starts[d->n]), .x = x};
  return start(d, KA_DIST_ALL_GATHER, what, call, starts, NULL);
}

ka_status ka_dist_broadcast(struct ka_dist *d, const char *what, void *x, int64_t n_bytes,
                            int root) {
  if (ka_dist_n(d) == 1) return KA_STATUS_OK;
  struct ka_dist_call call = {.header = of_bytes(n_bytes), .x = x};
  call.header.root = root;
  return start(d, KA_DIST_BROADCAST, what, call, NULL, NULL);
}

ka_status ka_dist_all_to_all(struct ka_dist *d, const char *what, void *out,
                             const int64_t *out_starts, const void *in, const int64_t *in_starts) {
  if (ka_dist_n(d) == 1) {
    memcpy(out, in, (size_t)in_starts[1]);
    return KA_STATUS_OK;
  }
  struct ka_dist_call call = {.header = of_bytes(0), .x = out, .in = in};
  return start(d, KA_DIST_ALL_TO_ALL, what, call, out_starts, in_starts);
}

ka_status ka_dist_barrier(struct ka_dist *d, const char *what) {
  if (ka_dist_n(d) == 1) return KA_STATUS_OK;
  ka_status st = start(d, KA_DIST_BARRIER, what, (struct ka_dist_call){0}, NULL, NULL);
  return ka_ok(st) ? ka_dist_wait(d) : st;
}

ka_status ka_dist_wait(struct ka_dist *d) {
  if (ka_dist_n(d) == 1) return KA_STATUS_OK;
  double since = ka_now_s();
  pthread_mutex_lock(&d->lock);
  while (d->n_done < d->n_started) pthread_cond_wait(&d->changed, &d->lock);
  struct ka_dist_failure f = d->failure;
  d->stats.waited_s += ka_now_s() - since;
  pthread_mutex_unlock(&d->lock);
  if (f.code == KA_OK) return KA_STATUS_OK;
  return ka_fail(d->ctx, f.code, "rank %d on %s: %s", f.rank, host_of(d, f.rank), f.text);
}

ka_status ka_dist_sum(struct ka_dist *d, const char *what, double *x, int64_t n) {
  ka_status st = ka_dist_all_reduce(d, what, x, n, KA_F64);
  return ka_ok(st) ? ka_dist_wait(d) : st;
}

static ka_status compare_texts(struct ka_dist *d, const char *what, const char *all, size_t width) {
  for (int r = 1; r < d->n; r++)
    if (memcmp(all, all + (size_t)r * width, width) != 0)
      return ka_fail(d->ctx, KA_E_INPUT,
                     "%s differs between ranks: rank 0 on %s has %s, rank %d on %s has %s", what,
                     host_of(d, 0), all, r, host_of(d, r), all + (size_t)r * width);
  return KA_STATUS_OK;
}

ka_status ka_dist_agree(struct ka_dist *d, const char *what, const char *text) {
  enum { WIDTH = 256 };
  if (ka_dist_n(d) == 1) return KA_STATUS_OK;
  struct ka_ctx *ctx = d->ctx;
  void *memory;
  KA_TRY(ka_alloc_n(ctx, &memory, d->n, WIDTH, "ranks"));
  char *all = memory;
  snprintf(all + (size_t)d->rank * WIDTH, WIDTH, "%s", text);
  ka_status st = gather_entries(d, what, all, WIDTH);
  if (ka_ok(st)) st = compare_texts(d, what, all, WIDTH);
  ka_free(all);
  return st;
}
