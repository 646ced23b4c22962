/* SPDX-License-Identifier: Apache-2.0
 * See machine.h. */
#include "base/machine.h"

#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* What stands behind "name...:" in the first such line of a file of /proc; false: none. */
static int proc_line(const char *path, const char *name, char *out, size_t n) {
  char line[256];
  int found = 0;
  FILE *f = fopen(path, "r");
  while (f && !found && fgets(line, sizeof line, f)) {
    const char *colon = strchr(line, ':');
    if (!colon || strncmp(line, name, strlen(name)) != 0) continue;
    snprintf(out, n, "%s", colon + 1 + strspn(colon + 1, " \t"));
    out[strcspn(out, "\n")] = 0;
    found = 1;
  }
  if (f) fclose(f);
  return found;
}

/* The number in a file of a control group; infinity: no limit, or no such file. */
static double group_number(const char *dir, const char *name) {
  char path[PATH_MAX], text[64] = "";
  double v = INFINITY;
  if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) return v;
  FILE *f = fopen(path, "r");
  if (f && fgets(text, sizeof text, f) && text[0] >= '0' && text[0] <= '9') v = strtod(text, NULL);
  if (f) fclose(f);
  return v < 1e18 ? v : INFINITY;
}

/* Pages of files that the group would give back. */
static double group_reclaimable(const char *dir) {
  char path[PATH_MAX], line[128];
  double v = 0;
  if (snprintf(path, sizeof path, "%s/memory.stat", dir) >= (int)sizeof path) return 0;
  FILE *f = fopen(path, "r");
  while (f && fgets(line, sizeof line, f)) {
    if (strncmp(line, "inactive_file ", 14) == 0) v += strtod(line + 14, NULL);
    if (strncmp(line, "active_file ", 12) == 0) v += strtod(line + 12, NULL);
  }
  if (f) fclose(f);
  return v;
}

/* The least that this process's group and those above it leave. */
static double groups_free(const char *root, const char *group, const char *limit,
                          const char *usage) {
  char dir[PATH_MAX];
  double least = INFINITY;
  size_t n = strlen(root);
  if (snprintf(dir, sizeof dir, "%s%s", root, group) >= (int)sizeof dir) return least;
  for (;;) {
    double max = group_number(dir, limit), used = group_number(dir, usage);
    if (isfinite(max) && isfinite(used)) least = fmin(least, max - used + group_reclaimable(dir));
    char *slash = strrchr(dir, '/');
    if (!slash || (size_t)(slash - dir) < n) break;
    *slash = 0;
  }
  return fmax(least, 0);
}

static double control_groups_free(void) {
  char line[PATH_MAX];
  double least = INFINITY;
  FILE *f = fopen("/proc/self/cgroup", "r");
  while (f && fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = 0;
    const char *v1 = strstr(line, ":memory:");
    if (strncmp(line, "0::", 3) == 0)
      least = fmin(least, groups_free("/sys/fs/cgroup", line + 3, "memory.max", "memory.current"));
    if (v1)
      least = fmin(least, groups_free("/sys/fs/cgroup/memory", v1 + 8, "memory.limit_in_bytes",
                                      "memory.usage_in_bytes"));
  }
  if (f) fclose(f);
  return least;
}

void ka_machine_read(struct ka_machine *m) {
  char text[128];
  cpu_set_t set;
  *m = (struct ka_machine){.processor = "unknown"};
  if (proc_line("/proc/cpuinfo", "model name", text, sizeof text))
    memcpy(m->processor, text, sizeof m->processor);
  m->n_cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  m->memory_bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
  if (proc_line("/proc/meminfo", "MemAvailable", text, sizeof text))
    m->free_bytes = fmin(strtod(text, NULL) * 1024, control_groups_free());
}

double ka_machine_peak(void) {
  struct rusage use;
  return getrusage(RUSAGE_SELF, &use) == 0 ? (double)use.ru_maxrss * 1024 : 0;
}

double ka_machine_peak_of_all(void) {
  struct rusage use;
  double own = ka_machine_peak();
  return getrusage(RUSAGE_CHILDREN, &use) == 0 ? fmax(own, (double)use.ru_maxrss * 1024) : own;
}

double ka_machine_resident(const char *but_files_ending) {
  char line[PATH_MAX + 128];
  double sum = 0;
  bool counts = true;
  size_t end = strlen(but_files_ending);
  FILE *f = fopen("/proc/self/smaps", "r");
  while (f && fgets(line, sizeof line, f)) {
    size_t n = strcspn(line, "\n");
    line[n] = 0;
    if (strncmp(line, "Rss:", 4) == 0) sum += counts ? strtod(line + 4, NULL) * 1024 : 0;
    if (strchr("0123456789abcdef", line[0])) /* the line that begins a mapping */
      counts = n < end || strcmp(line + n - end, but_files_ending) != 0;
  }
  if (f) fclose(f);
  return sum;
}

double ka_machine_disk_free(const char *path) {
  char dir[PATH_MAX];
  struct statvfs v;
  if (snprintf(dir, sizeof dir, "%s", path) >= (int)sizeof dir) return 0;
  while (statvfs(dir, &v) != 0) {
    char *slash = strrchr(dir, '/');
    if (slash && slash != dir)
      *slash = 0;
    else
      return statvfs(slash ? "/" : ".", &v) == 0 ? (double)v.f_bavail * (double)v.f_frsize : 0;
  }
  return (double)v.f_bavail * (double)v.f_frsize;
}
