/* SPDX-License-Identifier: Apache-2.0
 * Loading kappa_mpi.so. */
#include "engine/dist/ranks.h"

#include "engine/dist/mpi/mpi_plugin.h"
#include "kernels/device.h"

#include <dlfcn.h>

/* Global: Open MPI opens components of its own, which look for its symbols. */
ka_status ka_dist_mpi_load(struct ka_ctx *ctx, const struct ka_mpi_plugin **out) {
  const void *found;
  ka_status st = ka_plugin_open(ctx, "mpi", "ka_mpi_plugin", KA_MPI_API, RTLD_GLOBAL, &found);
  *out = found;
  return st;
}
