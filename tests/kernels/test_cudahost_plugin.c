/* SPDX-License-Identifier: Apache-2.0
 * The CUDA stand-in inside a shared object that is loaded at run time: its settings are reached by
 * dlsym and by the environment, faults inside it are reported. */
#include "tests/cudahost/cudahost.h"
#include "tests/support/test.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *plugin;
static int (*scale)(float *x, int n), (*oops)(void);

static int load(void **state) {
  (void)state;
  plugin = dlopen(CUDAHOST_PLUGIN, RTLD_NOW | RTLD_LOCAL);
  if (!plugin) print_error("%s\n", dlerror());
  if (!plugin) return -1;
  *(void **)&scale = dlsym(plugin, "plugin_scale");
  *(void **)&oops = dlsym(plugin, "plugin_oops");
  return scale && oops ? 0 : -1;
}

static void kernels_run(void **state) {
  float x[100];
  (void)state;
  for (int i = 0; i < 100; i++) x[i] = (float)i;
  assert_int_equal(scale(x, 100), cudaSuccess);
  for (int i = 0; i < 100; i++) assert_true(x[i] == (float)(3 * i));
}

static void settings_are_reached(void **state) {
  float x[4] = {1, 2, 3, 4};
  struct cudahost_counters c;
  bool (*set)(const char *, const char *);
  void (*count)(struct cudahost_counters *), (*reset)(void);
  (void)state;
  *(void **)&set = dlsym(plugin, "cudahost_set");
  *(void **)&count = dlsym(plugin, "cudahost_count");
  *(void **)&reset = dlsym(plugin, "cudahost_reset");
  assert_true(set && count && reset);
  assert_true(set("fail_alloc", "1"));
  assert_int_equal(scale(x, 4), cudaErrorMemoryAllocation);
  count(&c);
  assert_int_equal(c.injected, 1);
  setenv("CUDAHOST_FAIL_LAUNCH", "1:LaunchTimeout", 1);
  reset(); /* reads the environment again */
  assert_int_equal(scale(x, 4), cudaErrorLaunchTimeout);
  unsetenv("CUDAHOST_FAIL_LAUNCH");
  reset();
  assert_int_equal(scale(x, 4), cudaSuccess);
  count(&c);
  assert_true(c.launches == 1 && c.allocations == 1 && c.live_bytes == 0 && c.peak_bytes == 16);
}

static void wrong_variable(void) {
  void (*reset)(void);
  *(void **)&reset = dlsym(plugin, "cudahost_reset");
  setenv("CUDAHOST_ODER", "eager", 1);
  reset();
}
static void wrong_access(void) { oops(); }

static void faults_are_reported(void **state) {
  void (*const faults[])(void) = {wrong_access, wrong_variable};
  (void)state;
  for (int i = 0; i < 2; i++) {
    int status;
    pid_t child = fork();
    if (!child) {
      close(2);
      faults[i]();
      _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 86);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(kernels_run),
      cmocka_unit_test(settings_are_reached),
      cmocka_unit_test(faults_are_reported),
  };
  return cmocka_run_group_tests(tests, load, NULL);
}
