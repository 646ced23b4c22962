/* SPDX-License-Identifier: Apache-2.0
 * The thread that exchanges: it runs the queue in order, hears of other ranks' failures, tells them
 * this one's, and gives signs of life, also while the job computes. It alone calls the
 * transport. */
#include "engine/dist/ranks.h"

#include "base/log.h"
#include "engine/dist/mpi/mpi_plugin.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { TAG_DATA = 1, TAG_FAILURE, TAG_BEAT };

static const double TELL_S = 2,
                    LEAVE_S = 3; /* to tell the others, and to wait for them at the end */

static bool failed(struct ka_dist *d) {
  pthread_mutex_lock(&d->lock);
  bool yes = d->failure.code != KA_OK;
  pthread_mutex_unlock(&d->lock);
  return yes;
}

void ka_dist_set_failure(struct ka_dist *d, int code, int rank, bool own, const char *text) {
  pthread_mutex_lock(&d->lock);
  if (d->failure.code == KA_OK) {
    d->failure = (struct ka_dist_failure){.code = code, .rank = rank};
    snprintf(d->failure.text, sizeof d->failure.text, "%s", text);
    d->tell = own && d->n > 1;
  }
  pthread_cond_broadcast(&d->changed);
  pthread_mutex_unlock(&d->lock);
}

/* Sleeps longer the longer nothing happens, so that waiting ranks leave the cores to working
 * ones. */
static void rest(int64_t *n_tries) {
  enum { YIELDS = 50, LONGEST_US = 500 };
  if ((*n_tries)++ < YIELDS) {
    sched_yield();
    return;
  }
  int64_t us = *n_tries - YIELDS < LONGEST_US / 20 ? (*n_tries - YIELDS) * 20 : LONGEST_US;
  nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

/* Waits at most `seconds` for a handle. */
static bool finished(struct ka_dist *d, int handle, double seconds) {
  double until = ka_now_s() + seconds;
  int64_t n_tries = 0;
  int state;
  while ((state = d->mpi->test(handle)) == 0 && ka_now_s() < until) rest(&n_tries);
  return state == 1;
}

/* --- failures --------------------------------------------------------------------------------- */
static void tell(struct ka_dist *d) {
  pthread_mutex_lock(&d->lock);
  d->told = d->failure;
  pthread_mutex_unlock(&d->lock);
  double until = ka_now_s() + TELL_S;
  for (int r = 0; r < d->n; r++) {
    if (r == d->rank) continue;
    int handle = d->mpi->send(&d->told, sizeof d->told, r, TAG_FAILURE);
    double left = until - ka_now_s();
    if (handle >= 0 && !finished(d, handle, left > 0.01 ? left : 0.01)) d->mpi->cancel(handle);
  }
  pthread_mutex_lock(&d->lock);
  d->tell = false;
  pthread_cond_broadcast(&d->changed);
  pthread_mutex_unlock(&d->lock);
}

static void hear(struct ka_dist *d) {
  if (d->hear >= 0) {
    int state = d->mpi->test(d->hear);
    if (state == 0) return;
    d->hear = -1;
    if (state == 1) {
      d->heard.text[KA_DIST_TEXT - 1] = 0;
      ka_dist_set_failure(d, d->heard.code, d->heard.rank, false, d->heard.text);
    }
  }
  d->hear = d->mpi->receive(&d->heard, sizeof d->heard, KA_MPI_ANY, TAG_FAILURE);
}

/* --- signs of life ---------------------------------------------------------------------------- */
static double beat_period_s(const struct ka_dist *d) {
  double s = d->timeout_s / 20;
  return s < 0.2 ? 0.2 : s > 10 ? 10 : s;
}

static void give_beat(struct ka_dist *d, double now) {
  if (d->beat_send >= 0) {
    if (d->mpi->test(d->beat_send) == 0) return;
    d->beat_send = -1;
  }
  if (now - d->last_beat_s < beat_period_s(d)) return;
  d->last_beat_s = now;
  d->beat_out = (struct ka_dist_beat){.waiting = d->current != NULL};
  if (d->current) {
    d->beat_out.sequence = d->current->header.sequence;
    snprintf(d->beat_out.what, sizeof d->beat_out.what, "%s", d->current->header.what);
  }
  d->beat_send = d->mpi->send(&d->beat_out, sizeof d->beat_out, (d->rank + 1) % d->n, TAG_BEAT);
}

static void take_beat(struct ka_dist *d, double now) {
  if (d->beat_receive >= 0) {
    if (d->mpi->test(d->beat_receive) != 1) return;
    d->beat_left = d->beat_in;
    d->left_beat_s = now;
  }
  d->beat_receive =
      d->mpi->receive(&d->beat_in, sizeof d->beat_in, (d->rank - 1 + d->n) % d->n, TAG_BEAT);
}

static void keep_alive(struct ka_dist *d) {
  double now = ka_now_s();
  hear(d);
  take_beat(d, now);
  give_beat(d, now);
  pthread_mutex_lock(&d->lock);
  bool to_tell = d->tell;
  pthread_mutex_unlock(&d->lock);
  if (to_tell) tell(d);
}

/* Nothing came from `from` and nothing went to `to` for `waited` seconds: whose fault is it? The
 * left neighbour's if it gives no sign of life or computes; one that waits too has its own left
 * neighbour to blame, and gets the time to do so. */
static void check_time(struct ka_dist *d, double waited, int to, int from) {
  if (waited < d->timeout_s) return;
  int left = (d->rank - 1 + d->n) % d->n;
  double silent_s = ka_now_s() - d->left_beat_s;
  bool dead = silent_s > d->timeout_s / 2, grace = waited < 3 * d->timeout_s;
  if (from != left && grace) return;
  if (from == left && !dead && d->beat_left.waiting && grace) return;
  enum ka_dist_kind kind = (enum ka_dist_kind)d->current->header.kind;
  bool patient = kind == KA_DIST_BARRIER || kind == KA_DIST_CLOSE;
  if (patient && !(from == left && dead)) return;
  int culprit = from >= 0 ? from : to;
  char text[512];
  if (from == left && dead)
    snprintf(
        text, sizeof text,
        "gives no sign of life for %.0f s: stopped, or its machine or network is gone (rank %d "
        "waits for it in the %s of %s)",
        silent_s, d->rank, ka_dist_kind_name((enum ka_dist_kind)d->current->header.kind),
        d->current->header.what);
  else
    snprintf(text, sizeof text,
             "lives, but did not come to the %s of %s within dist_timeout_s (%g); it is stuck, or "
             "has much more to do than the others",
             ka_dist_kind_name((enum ka_dist_kind)d->current->header.kind), d->current->header.what,
             d->timeout_s);
  ka_dist_set_failure(d, KA_E_DEVICE, culprit, true, text);
}

/* --- messages --------------------------------------------------------------------------------- */
static bool lost(struct ka_dist *d, int rank) {
  char text[160];
  snprintf(text, sizeof text, "a message of the %s of %s was lost by the transport",
           ka_dist_kind_name((enum ka_dist_kind)d->current->header.kind), d->current->header.what);
  ka_dist_set_failure(d, KA_E_DEVICE, rank, true, text);
  return false;
}

static bool progress(struct ka_dist *d, int *handle, bool *broken) {
  if (*handle < 0) return false;
  int state = d->mpi->test(*handle);
  if (state == 0) return false;
  *handle = -1;
  *broken = *broken || state < 0;
  return true;
}

bool ka_dist_exchange(struct ka_dist *d, int to, const void *out, int64_t n_out, int from, void *in,
                      int64_t n_in) {
  if (failed(d)) return false;
  int receive = from >= 0 ? d->mpi->receive(in, (int)n_in, from, TAG_DATA) : -1;
  int send = to >= 0 ? d->mpi->send(out, (int)n_out, to, TAG_DATA) : -1;
  bool broken = (from >= 0 && receive < 0) || (to >= 0 && send < 0);
  double since = ka_now_s(), last_check = since;
  for (int64_t n_tries = 0; !broken && (send >= 0 || receive >= 0);) {
    bool moved = progress(d, &receive, &broken);
    moved = progress(d, &send, &broken) || moved;
    double now = ka_now_s();
    if (moved) since = now;
    if (now - last_check > 0.01) {
      last_check = now;
      keep_alive(d);
      check_time(d, now - since, send >= 0 ? to : -1, receive >= 0 ? from : -1);
      if (failed(d)) break;
    }
    if (!moved) rest(&n_tries);
  }
  if (receive >= 0) d->mpi->cancel(receive);
  if (send >= 0) d->mpi->cancel(send);
  if (broken) return lost(d, from >= 0 ? from : to);
  d->stats.sent_bytes += n_out;
  return !failed(d);
}

/* --- the thread ------------------------------------------------------------------------------- */
/* Expects the lock, gives it back for a moment. */
static void idle(struct ka_dist *d) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += 10 * 1000 * 1000;
  if (until.tv_nsec >= 1000000000)
    until = (struct timespec){until.tv_sec + 1, until.tv_nsec - 1000000000};
  pthread_cond_timedwait(&d->changed, &d->lock, &until);
  pthread_mutex_unlock(&d->lock);
  keep_alive(d);
  pthread_mutex_lock(&d->lock);
}

static void run_next(struct ka_dist *d) {
  struct ka_dist_call call = d->queue[d->n_done % d->cap];
  bool run = d->failure.code == KA_OK;
  pthread_mutex_unlock(&d->lock);
  double start = ka_now_s();
  d->current = &call;
  if (run) (void)ka_dist_run(d, &call); /* what went wrong is in d->failure */
  d->current = NULL;
  ka_free(call.starts);
  ka_free(call.in_starts);
  pthread_mutex_lock(&d->lock);
  d->stats.busy_s += ka_now_s() - start;
  d->stats.n_calls++;
  d->n_done++;
  pthread_cond_broadcast(&d->changed);
}

/* All ranks that still can come here together, so that none is ended by the launcher before it has
 * heard why. */
static void leave(struct ka_dist *d) {
  bool fine = !failed(d);
  if (!fine) {
    int handle = d->mpi->barrier();
    fine = handle >= 0 && finished(d, handle, LEAVE_S);
  }
  const int open[] = {d->hear, d->beat_receive, d->beat_send};
  for (int i = 0; i < 3; i++)
    if (open[i] >= 0) d->mpi->cancel(open[i]);
  if (fine) d->mpi->close();
}

static void *work(void *dist) {
  struct ka_dist *d = dist;
  int state = d->mpi->open(&d->rank, &d->n);
  d->last_beat_s = d->left_beat_s = ka_now_s();
  if (state < 0) ka_dist_set_failure(d, KA_E_DEVICE, 0, false, "MPI_Init failed");
  pthread_mutex_lock(&d->lock);
  d->opened = true;
  pthread_cond_broadcast(&d->changed);
  while (state == 0 && d->n > 1) {
    if (d->n_done < d->n_started)
      run_next(d);
    else if (d->ending && !d->tell)
      break;
    else
      idle(d);
  }
  pthread_mutex_unlock(&d->lock);
  if (state == 0) leave(d);
  pthread_mutex_lock(&d->lock);
  d->ended = true;
  pthread_cond_broadcast(&d->changed);
  pthread_mutex_unlock(&d->lock);
  return NULL;
}

ka_status ka_dist_worker_start(struct ka_dist *d) {
  sigset_t all, own;
  sigfillset(&all); /* signals are the caller's */
  pthread_sigmask(SIG_SETMASK, &all, &own);
  int error = pthread_create(&d->thread, NULL, work, d);
  pthread_sigmask(SIG_SETMASK, &own, NULL);
  if (error)
    return ka_fail(d->ctx, KA_E_MEMORY, "ranks: no thread to exchange: %s", strerror(error));
  d->has_thread = true;
  pthread_mutex_lock(&d->lock);
  while (!d->opened) pthread_cond_wait(&d->changed, &d->lock);
  pthread_mutex_unlock(&d->lock);
  return KA_STATUS_OK;
}

void ka_dist_worker_end(struct ka_dist *d) {
  pthread_mutex_lock(&d->lock);
  d->ending = true;
  pthread_cond_broadcast(&d->changed);
  pthread_mutex_unlock(&d->lock);
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += (time_t)(TELL_S + 2 * LEAVE_S);
  /* After a failure MPI_Finalize may wait for the dead. */
  if (pthread_timedjoin_np(d->thread, NULL, &until) == 0) d->has_thread = false;
}
