/* SPDX-License-Identifier: Apache-2.0
 * Finding and loading kappa_mpi.so. */
#include "engine/dist/ranks.h"

#include "base/log.h"
#include "engine/dist/mpi/mpi_plugin.h"
#include "kernels/device.h"

#include <dlfcn.h>
#include <string.h>

static ka_status load(struct ka_ctx *ctx, const char *path, const struct ka_mpi_plugin **out) {
  /* Global: Open MPI opens components of its own, which look for its symbols. Never closed. */
  void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (!library) return ka_fail(ctx, KA_E_DEVICE, "ranks: %s", dlerror());
  const struct ka_mpi_plugin *p = dlsym(library, "ka_mpi_plugin");
  if (!p) return ka_fail(ctx, KA_E_DEVICE, "%s: is no plug-in of kappa (no ka_mpi_plugin)", path);
  if (strcmp(p->api, KA_MPI_API) != 0)
    return ka_fail(ctx, KA_E_DEVICE,
                   "%s: was built for interface %s, this program has %s; build both from one tree",
                   path, p->api, KA_MPI_API);
  ka_debug(ctx, "ranks", "%s: %s", path, p->built);
  *out = p;
  return KA_STATUS_OK;
}

ka_status ka_dist_mpi_load(struct ka_ctx *ctx, const struct ka_mpi_plugin **out) {
  struct ka_arena a;
  const char *path = NULL;
  *out = NULL;
  ka_arena_init(&a, ctx, "plug-in");
  ka_status st = ka_plugin_find(&a, "mpi", &path);
  if (ka_ok(st)) st = load(ctx, path, out);
  ka_arena_deinit(&a);
  return st;
}
