/* SPDX-License-Identifier: Apache-2.0
 * Relations between sizes and scalars that the operand table cannot say. Most ops have none. */
#include "kernels/check.h"

#define REQUIRE(cond, text)                                                                        \
  do {                                                                                             \
    if (!(cond)) return ka_fail(dev->ctx, KA_E_INTERNAL, "%s", text);                              \
  } while (0)

static ka_status scatter_rows(struct ka_dev *dev, const struct ka_scatter_rows_args *args) {
  REQUIRE(args->x.shape[0] <= args->out.shape[0], "scatter_rows: more rows than out has");
  return KA_STATUS_OK;
}

static ka_status put_rows(struct ka_dev *dev, const struct ka_put_rows_args *args) {
  REQUIRE(args->index.shape[0] <= args->out.shape[0], "put_rows: more rows than out has");
  return KA_STATUS_OK;
}

static ka_status rmsnorm_fwd(struct ka_dev *dev, const struct ka_rmsnorm_fwd_args *args) {
  bool empty = ka_tensor_elems(&args->x) == 0;
  REQUIRE(empty || !args->sum.data == !args->delta.data, "rmsnorm_fwd: sum goes with delta");
  return KA_STATUS_OK;
}

static ka_status layernorm_fwd(struct ka_dev *dev, const struct ka_layernorm_fwd_args *args) {
  bool empty = ka_tensor_elems(&args->x) == 0;
  REQUIRE(empty || !args->sum.data == !args->delta.data, "layernorm_fwd: sum goes with delta");
  return KA_STATUS_OK;
}

static ka_status rope(struct ka_dev *dev, const struct ka_rope_args *args) {
  REQUIRE(args->first >= 0 && args->first + 2 * args->cos.shape[1] <= args->x.shape[2],
          "rope: first and the tables go beyond the head");
  return KA_STATUS_OK;
}

static ka_status pack(struct ka_dev *dev, const struct ka_pack_args *args) {
  REQUIRE(ka_tensor_bytes(&args->packed) >= ka_pack_bytes(dev, args), "pack: packed is too small");
  return KA_STATUS_OK;
}

static ka_status matmul(struct ka_dev *dev, const struct ka_matmul_args *args) {
  int64_t m = args->a.shape[args->trans_a ? 1 : 0], ka = args->a.shape[args->trans_a ? 0 : 1];
  int64_t n = args->b.shape[args->trans_b ? 0 : 1], kb = args->b.shape[args->trans_b ? 1 : 0];
  if (m != args->out.shape[0] || n != args->out.shape[1] || ka != kb)
    return ka_fail(dev->ctx, KA_E_INTERNAL, "matmul: [%lld,%lld] = [%lld,%lld] x [%lld,%lld]",
                   (long long)args->out.shape[0], (long long)args->out.shape[1], (long long)m,
                   (long long)ka, (long long)kb, (long long)n);
  bool epilogue = args->epilogue != KA_EPILOGUE_NONE, back = args->epilogue == KA_EPILOGUE_DGELU;
  REQUIRE(!args->accumulate || !args->bias.data, "matmul: accumulate takes no bias");
  REQUIRE(!epilogue || (!args->accumulate && args->out.dtype == args->a.dtype),
          "matmul: an epilogue takes no accumulation and no wider output");
  REQUIRE(epilogue || !args->pre.data, "matmul: pre goes with an epilogue");
  REQUIRE(!back || ((args->pre.data || ka_tensor_elems(&args->out) == 0) && !args->bias.data),
          "matmul: dgelu takes pre and no bias");
  REQUIRE(!args->bias_grad.data || args->trans_a, "matmul: bias_grad goes with trans_a");
  return KA_STATUS_OK;
}

static ka_status attn_heads(struct ka_dev *dev, const struct ka_tensor *q,
                            const struct ka_tensor *k, int64_t window) {
  int64_t n_q = q->shape[2], n_kv = k->shape[2];
  REQUIRE(n_kv > 0 ? n_q % n_kv == 0 : n_q == 0, "attention: H is no multiple of K");
  REQUIRE(window >= 0, "attention: negative window");
  return KA_STATUS_OK;
}

static ka_status attn_fwd(struct ka_dev *dev, const struct ka_attn_fwd_args *args) {
  REQUIRE(args->q_offset >= 0 && args->k.shape[1] >= args->q_offset + args->q.shape[1],
          "attn_fwd: fewer keys than q_offset + T");
  return attn_heads(dev, &args->q, &args->k, args->window);
}

static ka_status attn_bwd(struct ka_dev *dev, const struct ka_attn_bwd_args *args) {
  return attn_heads(dev, &args->q, &args->k, args->window);
}

static ka_status latent_kv(struct ka_dev *dev, const struct ka_tensor *k, const struct ka_tensor *v,
                           const struct ka_tensor *kv, const struct ka_tensor *pe) {
  REQUIRE(pe->shape[1] <= k->shape[2] && kv->shape[2] == k->shape[2] - pe->shape[1] + v->shape[2],
          "latent_kv: kv is not as wide as k without pe, and v");
  return KA_STATUS_OK;
}

static ka_status latent_kv_fwd(struct ka_dev *dev, const struct ka_latent_kv_fwd_args *args) {
  return latent_kv(dev, &args->k, &args->v, &args->kv, &args->pe);
}

static ka_status latent_kv_bwd(struct ka_dev *dev, const struct ka_latent_kv_bwd_args *args) {
  return latent_kv(dev, &args->dk, &args->dv, &args->dkv, &args->dpe);
}

static ka_status glu_fwd(struct ka_dev *dev, const struct ka_glu_fwd_args *args) {
  REQUIRE(args->act < KA_N_ACTS, "glu_fwd: unknown activation");
  return KA_STATUS_OK;
}

static ka_status glu_bwd(struct ka_dev *dev, const struct ka_glu_bwd_args *args) {
  REQUIRE(args->act < KA_N_ACTS, "glu_bwd: unknown activation");
  return KA_STATUS_OK;
}

static ka_status router_fwd(struct ka_dev *dev, const struct ka_router_fwd_args *args) {
  int64_t n = args->logits.shape[1], n_group = args->n_group > 1 ? args->n_group : 1;
  int64_t open = n_group > 1 ? n / n_group * args->topk_group : n;
  REQUIRE(n <= 1024 && n_group <= 64, "router_fwd: more than 1024 experts or 64 groups");
  REQUIRE(n % n_group == 0, "router_fwd: E is no multiple of n_group");
  REQUIRE(n_group == 1 || (args->topk_group >= 1 && args->topk_group <= n_group),
          "router_fwd: topk_group is not within [1, n_group]");
  REQUIRE(args->index.shape[1] <= open, "router_fwd: k is more than the experts to choose from");
  REQUIRE(args->scores.dtype == args->logits.dtype && args->weight.dtype == args->logits.dtype &&
              (!args->bias.data || args->bias.dtype == args->logits.dtype),
          "router_fwd: operands differ in dtype");
  return KA_STATUS_OK;
}

static ka_status router_bwd(struct ka_dev *dev, const struct ka_router_bwd_args *args) {
  REQUIRE(args->scores.dtype == args->dlogits.dtype &&
              (!args->dweight.data || args->dweight.dtype == args->dlogits.dtype),
          "router_bwd: operands differ in dtype");
  return KA_STATUS_OK;
}

static ka_status expert_sort(struct ka_dev *dev, const struct ka_expert_sort_args *args) {
  REQUIRE(args->token.shape[0] == ka_tensor_elems(&args->index), "expert_sort: S is not N * k");
  REQUIRE(args->offsets.shape[0] >= 1 && args->offsets.shape[0] <= 1025,
          "expert_sort: more than 1024 experts");
  return KA_STATUS_OK;
}

static ka_status expert_matmul(struct ka_dev *dev, const struct ka_expert_matmul_args *args) {
  const int64_t *b = args->b.shape;
  int64_t k = b[args->trans_b ? 2 : 1], n = b[args->trans_b ? 1 : 2];
  REQUIRE(args->b.n_dim == 3 && b[0] + 1 == args->offsets.shape[0] && k == args->a.shape[1] &&
              n == args->out.shape[1],
          "expert_matmul: b does not go with a, out and offsets");
  REQUIRE(!args->b.data == !!args->b_of || b[0] * k * n == 0, "expert_matmul: b or b_of, not both");
  REQUIRE(args->b.data || args->b.dtype == args->a.dtype, "expert_matmul: b has another dtype");
  REQUIRE(!args->bias.data || (!args->accumulate && args->bias.shape[0] == b[0]),
          "expert_matmul: bias does not go with b, or with accumulate");
  return KA_STATUS_OK;
}

static ka_status expert_grad(struct ka_dev *dev, const struct ka_expert_grad_args *args) {
  const int64_t *w = args->dw.shape;
  REQUIRE(args->dw.n_dim == 3 && w[0] + 1 == args->offsets.shape[0] && w[1] == args->a.shape[1] &&
              w[2] == args->b.shape[1],
          "expert_grad: dw does not go with a, b and offsets");
  REQUIRE(!args->dw.data == !!args->dw_of || w[0] * w[1] * w[2] == 0,
          "expert_grad: dw or dw_of, not both");
  return KA_STATUS_OK;
}

static ka_status expert_bias_bwd(struct ka_dev *dev, const struct ka_expert_bias_bwd_args *args) {
  REQUIRE(args->dbias.shape[0] + 1 == args->offsets.shape[0], "expert_bias_bwd: E and offsets");
  return KA_STATUS_OK;
}

static ka_status expert_combine_fwd(struct ka_dev *dev,
                                    const struct ka_expert_combine_fwd_args *args) {
  REQUIRE(args->x.shape[0] == ka_tensor_elems(&args->place), "expert_combine_fwd: S is not N * k");
  return KA_STATUS_OK;
}

static ka_status expert_combine_bwd(struct ka_dev *dev,
                                    const struct ka_expert_combine_bwd_args *args) {
  REQUIRE(args->dx.shape[0] == ka_tensor_elems(&args->place), "expert_combine_bwd: S is not N * k");
  REQUIRE(!args->dweight.data || args->x.data || ka_tensor_elems(&args->dx) == 0,
          "expert_combine_bwd: dweight needs x");
  return KA_STATUS_OK;
}

static ka_status xent(struct ka_dev *dev, const struct ka_xent_args *args) {
  REQUIRE(args->logits.shape[1] > 0 || args->logits.shape[0] == 0, "xent: no classes");
  REQUIRE(!args->base.data == !args->kl.data, "xent: kl goes with base");
  return KA_STATUS_OK;
}

static ka_status adamw(struct ka_dev *dev, const struct ka_adamw_args *args) {
  enum ka_dtype state = args->w.dtype;
  REQUIRE(args->t >= 1, "adamw: steps count from 1");
  REQUIRE(args->m.dtype == state && args->v.dtype == state, "adamw: w, m and v differ in dtype");
  REQUIRE(!args->stats.data || args->stats.shape[0] > 0, "adamw: stats is empty");
  return KA_STATUS_OK;
}

ka_status ka_check_relations(struct ka_dev *dev, enum ka_op op, const void *args) {
  switch (op) {
#define HAS(name)                                                                                  \
  case KA_OP_##name:                                                                               \
    return name(dev, args);
    HAS(scatter_rows)
    HAS(put_rows)
    HAS(rmsnorm_fwd)
    HAS(layernorm_fwd)
    HAS(rope)
    HAS(pack)
    HAS(matmul)
    HAS(attn_fwd)
    HAS(attn_bwd)
    HAS(latent_kv_fwd)
    HAS(latent_kv_bwd)
    HAS(glu_fwd)
    HAS(glu_bwd)
    HAS(router_fwd)
    HAS(router_bwd)
    HAS(expert_sort)
    HAS(expert_matmul)
    HAS(expert_grad)
    HAS(expert_bias_bwd)
    HAS(expert_combine_fwd)
    HAS(expert_combine_bwd)
    HAS(xent)
    HAS(adamw)
#undef HAS
  default:
    return KA_STATUS_OK;
  }
}
