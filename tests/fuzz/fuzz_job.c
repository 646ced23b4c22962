/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a job: the text up to the first NUL is the file, the rest is a word of the command
 * line. */
#include "engine/job/job.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_job job;
  const uint8_t *nul = memchr(data, 0, n);
  size_t len = nul ? (size_t)(nul - data) : n;
  char *word = calloc(1, n - len + 1);
  if (!word) abort();
  if (nul) memcpy(word, nul + 1, n - len - 1);
  const char *const words[] = {word};
  ka_ctx_init(&ctx);
  ka_status st =
      ka_job_parse(&ctx, &job, (const char *)data, len, "job.yaml", "dir", words, nul != NULL);
  if (ka_ok(st)) {
    if (!job.base_model || job.datasets.n == 0 || job.micro_batch_size < 1) abort();
  } else if (st.code != KA_E_INPUT) {
    abort();
  }
  ka_job_close(&job);
  free(word);
  return 0;
}
