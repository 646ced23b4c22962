/* SPDX-License-Identifier: Apache-2.0
 * The machine at hand, for reports and for fitting work into it. */
#ifndef KAPPA_BASE_MACHINE_H
#define KAPPA_BASE_MACHINE_H

struct ka_machine {
  char processor[128];             /* as /proc/cpuinfo names it; "unknown" */
  int n_cores;                     /* that this process may run on */
  double memory_bytes, free_bytes; /* free: as Linux counts what is available; 0: unknown */
};

void ka_machine_look(struct ka_machine *m);

#endif
