/* SPDX-License-Identifier: Apache-2.0
 * The team of threads: its environment, its size, the check that it comes. */
#include "base/threads.h"

#include "base/log.h"

#include <errno.h>
#include <limits.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A few ten microseconds: longer than the pause between two regions of a step, shorter than what a
 * neighbour that needs the core would notice. */
static const char *const spin_count = "1000";
static const char *const stack_size = "8M";

void ka_threads_environment(char **argv) {
  char path[PATH_MAX];
  bool again = false;
  const char *stack = getenv("OMP_STACKSIZE") ? getenv("OMP_STACKSIZE") : getenv("GOMP_STACKSIZE");
  if (!getenv("GOMP_SPINCOUNT") && !getenv("OMP_WAIT_POLICY"))
    again = setenv("GOMP_SPINCOUNT", spin_count, 1) == 0;
  if (stack && strcmp(stack, stack_size) != 0)
    again = setenv("OMP_STACKSIZE", stack_size, 1) == 0 || again;
  ssize_t n = again ? readlink("/proc/self/exe", path, sizeof path - 1) : -1;
  if (n <= 0) return;
  path[n] = 0; /* not /proc/self/exe itself: the process would be called exe */
  execv(path, argv);
}

/* "QUOTA PERIOD" of a file as processors, rounded up; 0: no limit there. */
static int quota_of(const char *path, const char *period_path) {
  long long quota = 0, period = 0;
  FILE *f = fopen(path, "re");
  if (!f) return 0;
  int n = fscanf(f, "%lld %lld", &quota, &period); /* "max 100000": no number */
  fclose(f);
  if (period_path && n >= 1) {
    f = fopen(period_path, "re");
    if (!f) return 0;
    n = fscanf(f, "%lld", &period) == 1 ? 2 : 0;
    fclose(f);
  }
  return n == 2 && quota > 0 && period > 0 && quota / period < INT_MAX
             ? (int)((quota + period - 1) / period)
             : 0;
}

static int smaller(int a, int b) { return b > 0 && b < a ? b : a; }

/* The quotas of this process's group and of those above it (cgroup v2), or of v1's mount. */
static int cgroup_limit(int most) {
  enum { ROOT = sizeof "/sys/fs/cgroup" - 1 };
  char line[PATH_MAX], dir[2 * PATH_MAX] = "/sys/fs/cgroup", path[2 * PATH_MAX + 16];
  FILE *f = fopen("/proc/self/cgroup", "re");
  while (f && fgets(line, sizeof line, f))
    if (strncmp(line, "0::/", 4) == 0) {
      line[strcspn(line, "\n")] = 0;
      snprintf(dir + ROOT, sizeof dir - ROOT, "%s", line + 3);
    }
  if (f) fclose(f);
  for (char *end = dir + strlen(dir); end && end >= dir + ROOT; end = strrchr(dir, '/')) {
    *end = 0;
    snprintf(path, sizeof path, "%s/cpu.max", dir);
    most = smaller(most, quota_of(path, NULL));
  }
  return smaller(most, quota_of("/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
                                "/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
}

/* Processors that this process may use. */
static int available(void) { return cgroup_limit(omp_get_num_procs()); }

/* How many threads a parallel region has now. */
static int count_team(void) {
  int n = 0;
#pragma omp parallel reduction(+ : n)
  n += 1;
  return n;
}

ka_status ka_threads_set(struct ka_ctx *ctx, int64_t n) {
  bool chosen = n > 0 || getenv("OMP_NUM_THREADS");
  int64_t want = n > 0 ? n : chosen ? omp_get_max_threads() : available();
  int size = (int)(want < KA_THREADS_MOST ? want : KA_THREADS_MOST);
  size = smaller(size, omp_get_thread_limit());
  omp_set_dynamic(0);
  omp_set_max_active_levels(1);
  for (int tries = 0; tries < 3; tries++) {
    omp_set_num_threads(size);
    int got = count_team();
    if (got == size && chosen && want > size)
      ka_warn(ctx, "threads", "%d instead of %lld: %s", size, (long long)want,
              size == KA_THREADS_MOST ? "no more are supported"
                                      : "OpenMP gives no more (OMP_THREAD_LIMIT?)");
    if (got == size) return KA_STATUS_OK;
    size = got;
  }
  return ka_fail(ctx, KA_E_DEVICE,
                 "threads: OpenMP gives another number of threads each time; unset the variables "
                 "OMP_* and GOMP_*");
}
