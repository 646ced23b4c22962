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
    .ops =
        {
#define KA_OP(name, ...) .name = name##_ref,
#include "kernels/ops.def"
#undef KA_OP
            .fill = fill_cpu,
            .copy = copy_cpu,
            .add = add_cpu,
            .scale = scale_cpu,
            .clamp_fwd = clamp_fwd_cpu,
            .clamp_bwd = clamp_bwd_cpu,
            .embed_fwd = embed_fwd_cpu,
            .embed_bwd = embed_bwd_cpu,
            .gather_rows = gather_rows_cpu,
            .scatter_rows = scatter_rows_cpu,
            .put_rows = put_rows_cpu,
            .sum_rows = sum_rows_cpu,
            .rmsnorm_fwd = rmsnorm_fwd_cpu,
            .rmsnorm_bwd = rmsnorm_bwd_cpu,
            .layernorm_fwd = layernorm_fwd_cpu,
            .layernorm_bwd = layernorm_bwd_cpu,
            .rope = rope_cpu,
            .attn_fwd = attn_fwd_cpu,
            .attn_bwd = attn_bwd_cpu,
            .attn_sink_fwd = attn_sink_fwd_cpu,
            .attn_sink_bwd = attn_sink_bwd_cpu,
            .latent_kv_fwd = latent_kv_fwd_cpu,
            .latent_kv_bwd = latent_kv_bwd_cpu,
            .pack = pack_cpu,
            .matmul = matmul_cpu,
            .bias_bwd = bias_bwd_cpu,
            .glu_fwd = glu_fwd_cpu,
            .glu_bwd = glu_bwd_cpu,
            .expert_matmul = expert_matmul_cpu,
            .expert_grad = expert_grad_cpu,
            .expert_bias_bwd = expert_bias_bwd_cpu,
            .expert_combine_fwd = expert_combine_fwd_cpu,
            .expert_combine_bwd = expert_combine_bwd_cpu,
            .xent = xent_cpu,
            .sum = sum_cpu,
            .sumsq = sumsq_cpu,
            .adamw = adamw_cpu},
    .open = open,
    .close = close,
    .pack_bytes = cpu_pack_bytes,
    .describe = describe,
};
