/* SPDX-License-Identifier: Apache-2.0
 * The job of the command line; see job_words.h. */
#include "engine/cli/job_words.h"

#include "base/threads.h"

enum { MAX_WORDS = 256 };

ka_status ka_cli_job(struct ka_ctx *ctx, struct ka_job *job, const struct ka_cli *cli,
                     const char *const *extra, int n_extra) {
  const char *words[MAX_WORDS];
  int64_t n = 0;
  *job = (struct ka_job){0};
  for (int i = 1; i < ka_cli_n_args(cli); i++) {
    if (n == MAX_WORDS - n_extra)
      return ka_fail(ctx, KA_E_USAGE, "more than %d key=value words; put them into the job file",
                     MAX_WORDS - n_extra);
    words[n++] = ka_cli_arg(cli, i);
  }
  for (int i = 0; i < n_extra; i++) words[n++] = extra[i];
  KA_TRY(ka_job_load(ctx, job, ka_cli_arg(cli, 0), words, n));
  bool own = job->threads > 0 && !ka_cli_given(cli, "threads");
  return own ? ka_threads_set(ctx, job->threads) : KA_STATUS_OK;
}
