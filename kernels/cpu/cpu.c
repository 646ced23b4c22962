/* SPDX-License-Identifier: Apache-2.0
 * The cpu back end's table, state and scratch. */
#include "kernels/cpu/cpu.h"

ka_status cpu_scratch(struct ka_dev *dev, size_t n_bytes, void **out) {
  struct ka_ctx *ctx = dev->ctx;
  struct cpu_state *state = dev->state;
  if (n_bytes > state->scratch_bytes) {
    ka_free(state->scratch);
    state->scratch = NULL;
    state->scratch_bytes = 0;
    KA_TRY(ka_alloc(ctx, &state->scratch, n_bytes, "cpu scratch"));
    state->scratch_bytes = n_bytes;
  }
  *out = state->scratch;
  return KA_STATUS_OK;
}

static ka_status open(struct ka_dev *dev) {
  struct ka_ctx *ctx = dev->ctx;
  KA_TRY(ka_alloc(ctx, &dev->state, sizeof(struct cpu_state), "cpu device"));
  return cpu_gemm_open(dev);
}

static void close(struct ka_dev *dev) {
  struct cpu_state *state = dev->state;
  if (!state) return;
  cpu_gemm_close(dev);
  ka_free(state->scratch);
  ka_free(state);
}

static void describe(struct ka_dev *dev, char *text, size_t n) {
  (void)dev;
  cpu_gemm_describe(text, n);
}

#pragma GCC diagnostic ignored "-Woverride-init"
const struct ka_backend ka_backend_cpu = {
    .name = "cpu",
    .ops = {KA_REF_OPS, .pack = pack_cpu, .matmul = matmul_cpu},
    .open = open,
    .close = close,
    .pack_bytes = cpu_pack_bytes,
    .describe = describe,
};
