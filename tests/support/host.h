/* SPDX-License-Identifier: Apache-2.0
 * The stand-in's control functions (tests/cudahost/cudahost.h), in the plug-in that devices are
 * opened from. find_host is false where the plug-in is the real one. */
#ifndef KAPPA_TESTS_SUPPORT_HOST_H
#define KAPPA_TESTS_SUPPORT_HOST_H

#include "tests/cudahost/cudahost.h"
#include "tests/support/test.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static struct {
  bool (*set)(const char *name, const char *value);
  void (*reset)(void);
  void (*count)(struct cudahost_counters *counters);
} host;

static bool find_host(void) {
  const char *path = getenv("KAPPA_CUDA");
  void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
  if (!library || strcmp(t_device(), "cuda") != 0) return false;
  *(void **)&host.set = dlsym(library, "cudahost_set");
  *(void **)&host.reset = dlsym(library, "cudahost_reset");
  *(void **)&host.count = dlsym(library, "cudahost_count");
  return host.set && host.reset && host.count;
}

#endif
