/* SPDX-License-Identifier: Apache-2.0
 * Do all ranks do the same? */
#include "engine/dist/dist.h"
#include "engine/train/run.h"

#include <stdio.h>
#include <xxhash.h>

static ka_status agree_on_selection(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  char text[64];
  XXH64_state_t *hash = XXH64_createState();
  if (!hash) return ka_fail(ctx, KA_E_MEMORY, "selection: out of memory");
  XXH64_reset(hash, 0);
  for (int64_t i = 0; i < r->open.model.n_slices; i++) {
    const struct ka_slice *s = &r->open.model.slices[i];
    const int64_t place[] = {s->param, s->row, s->n_rows, s->col, s->n_cols};
    XXH64_update(hash, place, sizeof place);
  }
  snprintf(text, sizeof text, "%lld units, %016llx", (long long)r->open.model.n_slices,
           (unsigned long long)XXH64_digest(hash));
  XXH64_freeState(hash);
  return ka_dist_agree(ctx->dist, "the selection", text);
}

ka_status ka_run_agree(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  char text[256];
  if (ka_dist_n(ctx->dist) == 1) return KA_STATUS_OK;
  KA_TRY(ka_dist_agree(ctx->dist, "kappa", KAPPA_VERSION));
  KA_TRY(ka_dist_agree(ctx->dist, "the job with its files", r->identity));
  snprintf(text, sizeof text, "%s computing in %s", r->open.dev.backend->name,
           ka_dtype_name(r->open.model.compute));
  KA_TRY(ka_dist_agree(ctx->dist, "the device", text));
  snprintf(text, sizeof text, "%lld training and %lld validation micro-batches",
           (long long)r->data.train.n, (long long)r->data.validation.n);
  KA_TRY(ka_dist_agree(ctx->dist, "the data", text));
  return agree_on_selection(r);
}
