/* SPDX-License-Identifier: Apache-2.0
 * The machine at hand, for reports and for fitting work into it. */
#ifndef KAPPA_BASE_MACHINE_H
#define KAPPA_BASE_MACHINE_H

struct ka_machine {
  char processor[128];             /* as /proc/cpuinfo names it; "unknown" */
  int n_cores;                     /* that this process may run on */
  double memory_bytes, free_bytes; /* free: as Linux counts what is available, and no more than the
                                      process's control groups leave; 0: unknown */
};

void ka_machine_read(struct ka_machine *m);

/* What of this process is in memory now, mapped files with this ending left out; its most so far.
 * 0: unknown. */
double ka_machine_resident(const char *but_files_ending);
double ka_machine_peak(void);
/* The same of the largest: this process, or a child of it that has ended. */
double ka_machine_peak_of_all(void);

/* What the file system of a path, or of its nearest directory that is there, has room for; 0:
 * unknown. */
double ka_machine_disk_free(const char *path);

#endif
