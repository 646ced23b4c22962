/* SPDX-License-Identifier: Apache-2.0
 * Who started this process: the variables that launchers set. */
#include "engine/dist/ranks.h"

#include <stdlib.h>
#include <string.h>

/* A launcher is known by the first of its variables that is set. A rank's own number is asked for
 * too: batch scripts inherit the count without being a rank. */
static const struct {
  const char *name, *count, *rank;
} launchers[] = {
    {"mpirun of Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
    {"mpirun of MVAPICH", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"},
    {"mpiexec of MPICH", "PMI_SIZE", "PMI_RANK"},
    {"srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"},
};

ka_status ka_dist_launched(struct ka_ctx *ctx, int *n_ranks, const char **by) {
  *n_ranks = 1;
  *by = NULL;
  for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
    const char *count = getenv(launchers[i].count), *rank = getenv(launchers[i].rank);
    if (!count || !rank) continue;
    *n_ranks = atoi(count);
    *by = launchers[i].name;
    bool slurm = strcmp(launchers[i].name, "srun") == 0;
    if (slurm && *n_ranks > 1 && !getenv("PMIX_RANK") && !getenv("PMI_RANK"))
      return ka_fail(ctx, KA_E_DEVICE,
                     "srun started %d tasks that cannot find each other; start them with "
                     "srun --mpi=pmix",
                     *n_ranks);
    return KA_STATUS_OK;
  }
  return KA_STATUS_OK;
}
