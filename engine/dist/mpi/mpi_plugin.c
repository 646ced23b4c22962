/* SPDX-License-Identifier: Apache-2.0
 * See mpi_plugin.h. Non-blocking point-to-point alone: order, sums and time limits are kappa's own
 * (engine/dist/ring.c), so that they do not depend on which MPI this is. */
#include "engine/dist/mpi/mpi_plugin.h"

#include <mpi.h>
#include <stdbool.h>

enum { HANDLES = 64 };

static MPI_Request requests[HANDLES];
static bool taken[HANDLES];

static int handle(void) {
  for (int i = 0; i < HANDLES; i++)
    if (!taken[i]) return i;
  return -1;
}

static int begun(int h, int error) {
  if (error != MPI_SUCCESS) return -1;
  taken[h] = true;
  return h;
}

static int mpi_open(int *rank, int *n_ranks) {
  int level;
  if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS) return -1;
  if (level < MPI_THREAD_FUNNELED) return -1;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, rank);
  MPI_Comm_size(MPI_COMM_WORLD, n_ranks);
  return 0;
}

static int mpi_send(const void *x, int n_bytes, int to, int tag) {
  int h = handle();
  return h < 0 ? h
               : begun(h, MPI_Isend(x, n_bytes, MPI_BYTE, to, tag, MPI_COMM_WORLD, &requests[h]));
}

static int mpi_receive(void *x, int n_bytes, int from, int tag) {
  int h = handle();
  if (h < 0) return h;
  if (from == KA_MPI_ANY) from = MPI_ANY_SOURCE;
  return begun(h, MPI_Irecv(x, n_bytes, MPI_BYTE, from, tag, MPI_COMM_WORLD, &requests[h]));
}

static int mpi_test(int h) {
  int done = 0;
  if (MPI_Test(&requests[h], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) {
    taken[h] = false;
    return -1;
  }
  if (done) taken[h] = false;
  return done;
}

static int mpi_barrier(void) {
  int h = handle();
  return h < 0 ? h : begun(h, MPI_Ibarrier(MPI_COMM_WORLD, &requests[h]));
}

static void mpi_cancel(int h) {
  MPI_Cancel(&requests[h]);
  MPI_Request_free(&requests[h]);
  taken[h] = false;
}

static int mpi_close(void) { return MPI_Finalize() == MPI_SUCCESS ? 0 : -1; }

#define TEXT(x) #x
#define NUMBER(x) TEXT(x)
#ifdef OMPI_MAJOR_VERSION
#define BUILT                                                                                      \
  "Open MPI " NUMBER(OMPI_MAJOR_VERSION) "." NUMBER(OMPI_MINOR_VERSION) "." NUMBER(                \
      OMPI_RELEASE_VERSION)
#elif defined(MPICH_VERSION)
#define BUILT "MPICH " MPICH_VERSION
#else
#define BUILT "MPI " NUMBER(MPI_VERSION) "." NUMBER(MPI_SUBVERSION)
#endif

__attribute__((visibility("default"))) const struct ka_mpi_plugin ka_mpi_plugin = {
    .api = KA_MPI_API,
    .built = BUILT,
    .open = mpi_open,
    .send = mpi_send,
    .receive = mpi_receive,
    .test = mpi_test,
    .barrier = mpi_barrier,
    .cancel = mpi_cancel,
    .close = mpi_close,
};
