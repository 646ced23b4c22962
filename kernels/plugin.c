/* SPDX-License-Identifier: Apache-2.0
 * Finding and loading a back end that is a shared object of its own, so that one program runs with
 * and without it. */
#include "base/file.h"
#include "base/log.h"
#include "kernels/device.h"

#include <ctype.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <plugin_api.h> /* made by CMake from the headers that both sides share */

/* The program's directory. */
static ka_status own_dir(struct ka_ctx *ctx, char dir[PATH_MAX]) {
  ssize_t n = readlink("/proc/self/exe", dir, PATH_MAX - 1);
  if (n < 0) return ka_fail(ctx, KA_E_DEVICE, "/proc/self/exe cannot be read");
  dir[n] = 0;
  char *slash = strrchr(dir, '/');
  if (slash) *slash = 0;
  return KA_STATUS_OK;
}

static ka_status find(struct ka_arena *a, const char *name, const char **path) {
  struct ka_ctx *ctx = a->ctx;
  char dir[PATH_MAX], variable[32] = "KAPPA_";
  for (size_t i = 0, at = strlen(variable); name[i] && at + i < sizeof variable - 1; i++)
    variable[at + i] = (char)toupper((unsigned char)name[i]);
  *path = getenv(variable);
  if (*path) return KA_STATUS_OK;
  KA_TRY(own_dir(ctx, dir));
  KA_TRY(ka_arena_printf(a, path, "%s/kappa_%s.so", dir, name));
  if (ka_path_exists(*path)) return KA_STATUS_OK;
  KA_TRY(ka_arena_printf(a, path, "%s/../lib/kappa/kappa_%s.so", dir, name));
  if (ka_path_exists(*path)) return KA_STATUS_OK;
  return ka_fail(
      ctx, KA_E_DEVICE,
      "%s: there is no kappa_%s.so in %s or ../lib/kappa; it is built where CMake finds %s", name,
      name, dir, strcmp(name, "mpi") == 0 ? "an MPI (libopenmpi-dev)" : "nvcc");
}

static ka_status load(struct ka_ctx *ctx, const char *path, const char *symbol, const char *api,
                      int flags, const void **out) {
  void *library = dlopen(path, RTLD_NOW | flags); /* never closed: see device.h */
  if (!library) return ka_fail(ctx, KA_E_DEVICE, "plug-in: %s", dlerror());
  const char *const *texts = dlsym(library, symbol);
  if (!texts) return ka_fail(ctx, KA_E_DEVICE, "%s: is no plug-in of kappa (no %s)", path, symbol);
  if (strcmp(texts[0], api) != 0)
    return ka_fail(
        ctx, KA_E_DEVICE,
        "%s: was built for interface %s (%s), this program has %s (kappa %s); build both "
        "from one tree",
        path, texts[0], texts[1], api, KAPPA_VERSION);
  ka_debug(ctx, "plug-in", "%s: %s", path, texts[1]);
  *out = texts;
  return KA_STATUS_OK;
}

bool ka_plugin_likely(const char *name) {
  (void)name;
  if (getenv("KAPPA_CUDA")) return true;
  void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver) dlclose(driver);
  return driver != NULL;
}

ka_status ka_plugin_open(struct ka_ctx *ctx, const char *name, const char *symbol, const char *api,
                         int flags, const void **out) {
  struct ka_arena a;
  const char *path = NULL;
  *out = NULL;
  ka_arena_init(&a, ctx, "plug-in");
  ka_status st = find(&a, name, &path);
  if (ka_ok(st)) st = load(ctx, path, symbol, api, flags, out);
  ka_arena_deinit(&a);
  return st;
}

ka_status ka_plugin_load(struct ka_ctx *ctx, const char *name, const struct ka_plugin **out) {
  const void *found;
  ka_status st = ka_plugin_open(ctx, name, "ka_plugin", KA_PLUGIN_API, RTLD_LOCAL, &found);
  *out = found;
  return st;
}
