/* SPDX-License-Identifier: Apache-2.0
 * See machine.h. */
#include "base/machine.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

void ka_machine_look(struct ka_machine *m) {
  char text[128];
  cpu_set_t set;
  *m = (struct ka_machine){.processor = "unknown"};
  if (proc_line("/proc/cpuinfo", "model name", text, sizeof text))
    memcpy(m->processor, text, sizeof m->processor);
  m->n_cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  m->memory_bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
  if (proc_line("/proc/meminfo", "MemAvailable", text, sizeof text))
    m->free_bytes = strtod(text, NULL) * 1024;
}
