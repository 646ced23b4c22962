/* SPDX-License-Identifier: Apache-2.0
 * kappa_mpi.so: messages between ranks by whatever MPI it was built with. Exports one object,
 * `ka_mpi_plugin`. All calls come from one thread, which also made the first. Handles are small
 * numbers; a finished one is free again. Functions that fail give a negative number. */
#ifndef KAPPA_ENGINE_DIST_MPI_MPI_PLUGIN_H
#define KAPPA_ENGINE_DIST_MPI_MPI_PLUGIN_H

#define KA_MPI_API "kappa-mpi-1"

enum { KA_MPI_ANY = -1 };

struct ka_mpi_plugin {
  const char *api;
  const char *built; /* "Open MPI 4.1.4" */
  int (*open)(int *rank, int *n_ranks);
  int (*send)(const void *x, int n_bytes, int to, int tag);
  int (*receive)(void *x, int n_bytes, int from, int tag); /* from: KA_MPI_ANY too */
  int (*test)(int handle);                                 /* 1: done, 0: not yet */
  int (*barrier)(void);                                    /* a handle */
  void (*cancel)(int handle);
  int (*close)(void);
};

#endif
