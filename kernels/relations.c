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
  REQUIRE(2 * args->cos.shape[1] <= args->x.shape[2], "rope: tables wider than the head");
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

static ka_status glu_fwd(struct ka_dev *dev, const struct ka_glu_fwd_args *args) {
  REQUIRE(args->act <= KA_ACT_GELU, "glu_fwd: unknown activation");
  return KA_STATUS_OK;
}

static ka_status glu_bwd(struct ka_dev *dev, const struct ka_glu_bwd_args *args) {
  REQUIRE(args->act <= KA_ACT_GELU, "glu_bwd: unknown activation");
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
  REQUIRE(!args->health.data || args->health.shape[0] > 0, "adamw: health is empty");
  return KA_STATUS_OK;
}

ka_status ka_check_relations(struct ka_dev *dev, enum ka_op op, const void *args) {
  switch (op) {
#define HAS(name)                                                                                  \
  case KA_OP_##name:                                                                               \
    return name(dev, args);
    HAS(scatter_rows)
    HAS(rmsnorm_fwd)
    HAS(layernorm_fwd)
    HAS(rope)
    HAS(pack)
    HAS(matmul)
    HAS(attn_fwd)
    HAS(attn_bwd)
    HAS(glu_fwd)
    HAS(glu_bwd)
    HAS(xent)
    HAS(adamw)
#undef HAS
  default:
    return KA_STATUS_OK;
  }
}
