/* SPDX-License-Identifier: Apache-2.0
 *
 * The op interface: contracts and wrappers. The device handle is in device.h.
 *
 * Letters: B rows of a batch, T tokens a row, S keys a row, N = B*T tokens, C channels, H query
 * heads, K key/value heads (H % K == 0), D head size, F feed-forward width, V vocabulary, R picked
 * rows, E experts.
 *
 * Rules of every op:
 *  - "x" is one of f32, bf16 or f64, the same for all operands marked x. f64 is served by ref only
 *    (gradient checks). Sums accumulate in at least f32, in ref in double.
 *  - "=" operands are written, "+=" operands accumulated; all others are read. Operands do not
 *    alias unless the contract says so. Operands are contiguous unless it says "any row stride".
 *  - Where a tensor is said to be "optional", data NULL means that it is absent.
 *  - Sizes of 0 are valid and do nothing but write what "=" says.
 *  - NaN and infinity propagate as the formula says; nothing is clamped.
 *  - Results do not depend on the number of threads, and repeat bit for bit.
 *  - Ops may be asynchronous on a device; ka_dev_sync waits. On cpu and ref they are done on
 *    return. Statuses: KA_E_UNSUPPORTED (this back end, these dtypes), KA_E_DEVICE, KA_E_MEMORY.
 * The wrapper ka_NAME(dev, args) checks shapes, dtypes and aliasing once (KA_E_INTERNAL: the caller
 * is wrong), marks the profiler and calls the slot; back ends do not re-check. */
#ifndef KAPPA_KERNELS_OPS_H
#define KAPPA_KERNELS_OPS_H

#include "kernels/tensor.h"

enum ka_op_class { KA_CLASS_MOVE, KA_CLASS_MAP, KA_CLASS_REDUCE, KA_CLASS_GEMM };

enum ka_op {
#define KA_OP(name, ...) KA_OP_##name,
#include "kernels/ops.def"
#undef KA_OP
  KA_N_OPS
};

/* x = value. x any dtype, any row stride. */
struct ka_fill_args {
  struct ka_tensor x; /* = */
  double value;
};

/* out = in. Same shape; any dtypes of f32, bf16, f16, f64; any row strides; may be the same memory
 * when dtype and stride agree. */
struct ka_copy_args {
  struct ka_tensor out; /* = */
  struct ka_tensor in;
};

/* out = a + b, rounded once. out may be a or b. */
struct ka_add_args {
  struct ka_tensor out; /* [n] x = */
  struct ka_tensor a, b;
};

/* x *= value (read and written). */
struct ka_scale_args {
  struct ka_tensor x; /* [n] x or f32 */
  double value;
};

/* out = x, at most limit, at least -limit (above 0, a value of x's dtype). out may be x. */
struct ka_clamp_fwd_args {
  struct ka_tensor out; /* [n] x = */
  struct ka_tensor x;
  double limit;
};

/* dx = dout where |x| <= limit, else 0. dx may be dout. */
struct ka_clamp_bwd_args {
  struct ka_tensor dx; /* [n] x = */
  struct ka_tensor dout, x;
  double limit;
};

/* out[i,:] = scale * table[ids[i],:]. ids in [0,V), checked by whoever made the batch. */
struct ka_embed_fwd_args {
  struct ka_tensor out;   /* [N,C] x = */
  struct ka_tensor table; /* [V,C] x */
  struct ka_tensor ids;   /* [N] i32 */
  double scale;           /* 1 but for Gemma's sqrt(C) */
};

/* dtable[ids[i] - first_id,:] += scale * dout[i,:], repeated ids in order of i; ids outside
 * [first_id, first_id + V) are skipped: the gradient of a part of the table. */
struct ka_embed_bwd_args {
  struct ka_tensor dtable; /* [V,C] f32 (f64 with f64) += */
  struct ka_tensor dout;   /* [N,C] x; any row stride */
  struct ka_tensor ids;    /* [N] i32 */
  int64_t first_id;
  double scale;
};

/* out[r,:] = x[index[r],:]; index[r] in [0,N), or -1: a row of zeros. */
struct ka_gather_rows_args {
  struct ka_tensor out;   /* [R,C] x = */
  struct ka_tensor x;     /* [N,C] x */
  struct ka_tensor index; /* [R] i32 */
};

/* out = 0, then out[index[r],:] = x[r,:]; indices distinct, those that are -1 skipped. */
struct ka_scatter_rows_args {
  struct ka_tensor out;   /* [N,C] x = */
  struct ka_tensor x;     /* [R,C] x */
  struct ka_tensor index; /* [R] i32 */
};

/* out[index[r],:] = x[r,:]; indices distinct, those that are -1 skipped; x without data: zeros. */
struct ka_put_rows_args {
  struct ka_tensor out;   /* [N,C] x, rows that are not listed stay */
  struct ka_tensor x;     /* [R,C] x, optional */
  struct ka_tensor index; /* [R] i32 */
};

/* out[n,:] = sum over j, in order, of x[rows[n,j],:]; -1: nothing. Windows over rows (gather_rows
 * with an index of each window's rows) have it as their gradient: a convolution is windows and a
 * matmul. */
struct ka_sum_rows_args {
  struct ka_tensor out;  /* [N,C] x = */
  struct ka_tensor x;    /* [V,C] x */
  struct ka_tensor rows; /* [N,J] i32 in [0,V), or -1 */
};

/* y = x_hat * (offset + w), x_hat = s * rstd, s = x + delta, rstd = 1/sqrt(mean(s^2) + eps)
 * (Zhang and Sennrich 2019, eq. 4). Statistics in f32. Llama rounds x_hat to x's dtype before the
 * product with w (round_before_weight), OLMo-2 and Gemma after. The residual add: when delta is
 * given, sum = x + delta rounded to x's dtype is written, and the norm is of that rounded sum. */
struct ka_rmsnorm_fwd_args {
  struct ka_tensor y;     /* [N,C] x = */
  struct ka_tensor rstd;  /* [N] f32 (f64 with f64) =, optional */
  struct ka_tensor sum;   /* [N,C] x =, with delta only; may be x or delta */
  struct ka_tensor x;     /* [N,C] x */
  struct ka_tensor delta; /* [N,C] x, optional */
  struct ka_tensor w;     /* [C] x */
  double eps, offset;     /* offset 0, or 1 for Gemma */
  bool round_before_weight;
};

/* With g = dy * (offset + w): ds = rstd * (g - s * rstd^2 * mean(g * s)); dx = ds, or dx += ds with
 * accumulate (the residual path's gradient is in dx already). dw += sum over rows of dy * s * rstd.
 */
struct ka_rmsnorm_bwd_args {
  struct ka_tensor dx;   /* [N,C] x = or += ; may be dy */
  struct ka_tensor dw;   /* [C] f32 (f64 with f64) +=, optional (frozen) */
  struct ka_tensor dy;   /* [N,C] x */
  struct ka_tensor s;    /* [N,C] x: what was normalised (sum, or x) */
  struct ka_tensor rstd; /* [N] f32 (f64) */
  struct ka_tensor w;    /* [C] x */
  double offset;
  bool accumulate;
};

/* y = x_hat * w + b, x_hat = (s - mean) * rstd, rstd = 1/sqrt(mean((s - mean)^2) + eps) (Ba, Kiros
 * and Hinton 2016, eq. 4), s = x + delta as in rmsnorm_fwd. Statistics in f32, y rounded once. */
struct ka_layernorm_fwd_args {
  struct ka_tensor y;          /* [N,C] x = */
  struct ka_tensor mean, rstd; /* [N] f32 (f64 with f64) =, optional */
  struct ka_tensor sum;        /* [N,C] x =, with delta only; may be x or delta */
  struct ka_tensor x;          /* [N,C] x */
  struct ka_tensor delta;      /* [N,C] x, optional */
  struct ka_tensor w;          /* [C] x */
  struct ka_tensor b;          /* [C] x, optional */
  double eps;
};

/* With g = dy * w: ds = rstd * (g - mean(g) - x_hat * mean(g * x_hat)); dx = ds, or dx += ds with
 * accumulate. dw += sum over rows of dy * x_hat, db += sum over rows of dy. */
struct ka_layernorm_bwd_args {
  struct ka_tensor dx;         /* [N,C] x = or += ; may be dy */
  struct ka_tensor dw, db;     /* [C] f32 (f64 with f64) +=, optional (frozen) */
  struct ka_tensor dy;         /* [N,C] x */
  struct ka_tensor s;          /* [N,C] x: what was normalised (sum, or x) */
  struct ka_tensor mean, rstd; /* [N] f32 (f64) */
  struct ka_tensor w;          /* [C] x */
  bool accumulate;
};

/* Rotates pairs of R channels of each head, from channel `first` on, by the angle of the token's
 * position (Su et al. 2021, eq. 34): (a, b) -> (a cos - b sin, b cos + a sin), with inverse the
 * transpose, which is the backward pass. Pairs are (i, i + R/2), or (2i, 2i+1) with interleaved, i
 * from `first`. Products in f32. */
struct ka_rope_args {
  struct ka_tensor x;        /* [N,H,D] x, read and written */
  struct ka_tensor cos, sin; /* [P,R/2] f32, first + R <= D; include any attention factor */
  struct ka_tensor pos;      /* [N] i32 in [0,P) */
  int64_t first;
  bool interleaved, inverse;
};

/* packed = b in the back end's own layout, for matmuls with this b and trans_b. */
struct ka_pack_args {
  struct ka_tensor packed; /* [ka_pack_bytes()] u8 = */
  struct ka_tensor b;      /* [K,N], or [N,K] with trans_b; x */
  bool trans_b;
  int64_t m; /* rows of a that the matmuls will have, a hint for the layout */
};

/* gelu is the tanh form (Hendrycks and Gimpel 2016, section 2). GELU: pre = the product with its
 * bias, rounded, out = gelu of it, before or after that rounding. DGELU: out = product *
 * gelu'(pre), the gradient through it. */
enum ka_epilogue { KA_EPILOGUE_NONE, KA_EPILOGUE_GELU, KA_EPILOGUE_DGELU };

/* out = op(a) op(b) + bias, or out += op(a) op(b) with accumulate (then no bias). op(a) is [M,K]:
 * a is [M,K], or [K,M] with trans_a; b is [K,N], or [N,K] with trans_b. A linear layer y = x W^T +
 * c has trans_b; its input gradient dx = dy W neither; its weight gradient dW += dy^T x trans_a,
 * and with it the bias's: bias_grad[m] += sum over k of op(a)[m,k]. */
struct ka_matmul_args {
  struct ka_tensor out;       /* [M,N] x, or f32 with bf16 operands; any row stride */
  struct ka_tensor a, b;      /* x; any row stride */
  struct ka_tensor bias;      /* [N] x, optional */
  struct ka_tensor packed_b;  /* from pack with the same b, trans_b and m; optional */
  struct ka_tensor pre;       /* [M,N] x, any row stride; =, optional with GELU, read with DGELU */
  struct ka_tensor bias_grad; /* [M] f32 (f64 with f64) +=, optional, with trans_a */
  enum ka_epilogue epilogue;  /* then out is x, without accumulate; DGELU without bias */
  bool trans_a, trans_b, accumulate;
};

/* dbias[n] += sum over rows of dout[m,n]. */
struct ka_bias_bwd_args {
  struct ka_tensor dbias; /* [N] f32 (f64 with f64) += */
  struct ka_tensor dout;  /* [M,N] x; any row stride */
};

/* For each query i of row b, with absolute index p = q_offset + i, over the visible keys j:
 * doc_start[b,i] <= j <= p and (window == 0 or p - j < window):
 *   score = scale * <q,k>; with softcap c: c * tanh(score / c); out = softmax(score) v;
 *   lse = log sum exp(score).
 * Query head h uses key/value head h / (H/K). Every query sees at least itself. Flash-style (Dao
 * 2022): no [T,S] matrix beyond a tile is ever held. Where lse is wanted and T >= 128, a NaN or an
 * infinity may also reach queries of the row that do not see it. */
struct ka_attn_fwd_args {
  struct ka_tensor out;       /* [B,T,H,Dv] x = */
  struct ka_tensor lse;       /* [B,H,T] f32 (f64 with f64) =, optional */
  struct ka_tensor q;         /* [B,T,H,D] x */
  struct ka_tensor k;         /* [B,S,K,D] x, S >= q_offset + T */
  struct ka_tensor v;         /* [B,S,K,Dv] x */
  struct ka_tensor doc_start; /* [B,T] i32, optional (0) */
  int64_t window, q_offset;
  double scale, softcap;
};

/* Gradients of attn_fwd with q_offset 0 and S = T. delta = rowsum(dout * out). NaN and infinity as
 * there. */
struct ka_attn_bwd_args {
  struct ka_tensor dq, dk, dv; /* as q, k, v; = */
  struct ka_tensor dout;       /* [B,T,H,Dv] x */
  struct ka_tensor q, k, v, out, lse, doc_start;
  int64_t window;
  double scale, softcap;
};

/* A sink (gpt-oss): one more score a head that takes its share of the softmax and gives nothing.
 * After attn_fwd: out *= 1 / (1 + exp(sink[h] - lse)), lse = log(exp(lse) + exp(sink[h])). With
 * these attn_bwd's gradients of q, k and v are right as they are. */
struct ka_attn_sink_fwd_args {
  struct ka_tensor out;  /* [B,T,H,Dv] x, read and written */
  struct ka_tensor lse;  /* [B,H,T] f32 (f64 with f64), read and written */
  struct ka_tensor sink; /* [H] x */
};

/* dsink[h] -= sum over rows of exp(sink[h] - lse) * <dout, out>, with out and lse of the above. */
struct ka_attn_sink_bwd_args {
  struct ka_tensor dsink; /* [H] f32 (f64 with f64) += */
  struct ka_tensor dout;  /* [B,T,H,Dv] x */
  struct ka_tensor out, lse, sink;
};

/* Latent attention (DeepSeek-V2, eq. 9 to 19): a head of kv is its key's part without positions and
 * its value, side by side; the key's part with positions, pe, is one for all heads:
 *   k[n,h] = kv[n,h,:D-R], pe[n];  v[n,h] = kv[n,h,D-R:] */
struct ka_latent_kv_fwd_args {
  struct ka_tensor k;  /* [N,H,D] x = */
  struct ka_tensor v;  /* [N,H,Dv] x = */
  struct ka_tensor kv; /* [N,H,D-R+Dv] x */
  struct ka_tensor pe; /* [N,R] x; any row stride */
};

/* dkv[n,h] = dk[n,h,:D-R], dv[n,h];  dpe[n] = sum over heads of dk[n,h,D-R:], rounded once. */
struct ka_latent_kv_bwd_args {
  struct ka_tensor dkv; /* [N,H,D-R+Dv] x = */
  struct ka_tensor dpe; /* [N,R] x =; any row stride */
  struct ka_tensor dk;  /* [N,H,D] x */
  struct ka_tensor dv;  /* [N,H,Dv] x */
};

/* KA_ACT_SILU_CLAMPED (gpt-oss): with g = min(gate, 7), u = min(max(up, -7), 7), the product is
 * g sigmoid(1.702 g) (u + 1); what is cut off has no gradient. */
enum ka_act { KA_ACT_SILU, KA_ACT_GELU_TANH, KA_ACT_GELU, KA_ACT_SILU_CLAMPED, KA_N_ACTS };

/* out = act(gate) * up (Shazeer 2020); out may be gate or up. */
struct ka_glu_fwd_args {
  struct ka_tensor out;      /* [N,F] x = */
  struct ka_tensor gate, up; /* [N,F] x */
  enum ka_act act;
};

/* dgate = dout * up * act'(gate), dup = dout * act(gate). dgate may be gate, dup may be up. out is
 * act(gate) * up again, for the down projection's weight gradient, when wanted (then the forward
 * pass need not keep it); may be dout. */
struct ka_glu_bwd_args {
  struct ka_tensor dgate, dup; /* [N,F] x = */
  struct ka_tensor out;        /* [N,F] x =, optional */
  struct ka_tensor dout;       /* [N,F] x */
  struct ka_tensor gate, up;
  enum ka_act act;
};

/* --- experts ----------------------------------------------------------------------------------
 * A layer of E experts of which each token takes k; S = N * k rows. Forward, x [N,C]:
 *   matmul          logits [N,E] f32 = x W_router^T
 *   router_fwd      scores [N,E], index [N,k], weight [N,k]
 *   expert_sort     token [S], offsets [E+1], place [N,k]
 *   gather_rows     xs [S,C] = rows `token` of x
 *   expert_matmul   gate, up [S,F] = xs W^T;  glu_fwd  h [S,F];  expert_matmul  ys [S,C] = h W^T
 *   expert_combine_fwd  out [N,C] = sum of weight * ys at `place`
 * Backward, dout [N,C]:
 *   expert_combine_bwd  dys [S,C] (may take the place of ys), dweight [N,k]
 *   expert_grad     dW_down += dys^T h;     expert_matmul  dh [S,F] = dys W (no trans_b)
 *   glu_bwd         dgate, dup;             expert_grad    dW_gate += dgate^T xs, dW_up alike
 *   expert_matmul   dxs [S,C] = dgate W_gate, then += dup W_up (accumulate)
 *   expert_combine_fwd  dx [N,C] = or += sum of dxs at `place` (no weight)
 *   router_bwd      dlogits [N,E] f32; copy to x's dtype; matmul  dx += dlogits W_router,
 *                   dW_router += dlogits^T x
 * Rows of an expert are side by side, in the order of their tokens; offsets stay on the device, an
 * expert without rows costs nothing. Where a token chooses twice as many experts as another batch
 * would, nothing is dropped. The load-balancing loss of all layers: router_load after each
 * router_fwd into one pair of sums, router_loss at the end, `count` in each router_bwd. */

enum ka_router { KA_ROUTER_SOFTMAX, KA_ROUTER_SIGMOID };

/* scores = softmax or sigmoid of a token's logits. The k experts of the highest choice, ties to the
 * lower index, the highest first; NaN is below everything. choice = logits, with sigmoid or a bias
 * scores + bias (DeepSeek-V3, section 2.1.2). With n_group > 1 only experts of the topk_group best
 * groups of E / n_group neighbours: a group's rank is its largest choice, or the sum of its two
 * largest with group_by_two (ties to the lower group).
 * weight = factor * scores[index], divided by their sum over the k with normalise. In f32. */
struct ka_router_fwd_args {
  struct ka_tensor logits; /* [N,E] f32 (f64) */
  struct ka_tensor bias;   /* [E] as logits, optional: for the choice alone */
  struct ka_tensor scores; /* [N,E] as logits = */
  struct ka_tensor index;  /* [N,k] i32 =, k <= E <= 1024; k experts fit the chosen groups */
  struct ka_tensor weight; /* [N,k] as logits = */
  enum ka_router kind;
  int64_t n_group, topk_group; /* n_group 0 or 1: no groups; at most 64 */
  double factor;
  bool normalise, group_by_two;
};

/* dlogits = what dweight gives through weight and scores (the choice has no gradient), and with
 * count what load_factor * count[e] as the gradient of scores[t,e] gives; nothing of that for rows
 * where live is 0. load_factor is that of router_loss times the loss's own scale. */
struct ka_router_bwd_args {
  struct ka_tensor dlogits; /* [N,E] f32 (f64) = */
  struct ka_tensor dweight; /* [N,k] as dlogits, optional (0) */
  struct ka_tensor scores, index;
  struct ka_tensor count; /* [E] f64, optional: of router_load, all layers */
  struct ka_tensor live;  /* [N] i32, optional (1) */
  struct ka_tensor scale; /* [1] f64, optional (1): times load_factor, on the device */
  enum ka_router kind;
  double factor, load_factor;
  bool normalise;
};

/* count[e] += how many of index are e, score_sum[e] += sum of scores[t,e]; rows t where live is not
 * 0 (not padding). In double, in order. */
struct ka_router_load_args {
  struct ka_tensor scores, index, live;
  struct ka_tensor count, score_sum; /* [E] f64 += */
};

/* loss += load_factor * scale * sum of count[e] * score_sum[e]. With load_factor = coefficient * E
 * / n^2, n the live rows that were summed over all layers, the load-balancing loss of Fedus, Zoph
 * and Shazeer 2021 (eq. 4), as transformers has it. */
struct ka_router_loss_args {
  struct ka_tensor count, score_sum; /* [E] f64 */
  struct ka_tensor loss;             /* [1] f64 += */
  struct ka_tensor scale;            /* [1] f64, optional (1) */
  double load_factor;
};

/* Stable counting sort of the S = N * k choices by expert: row p of the sorted ones is choice
 * (token[p], j) with place[token[p], j] = p; rows of expert e are [offsets[e], offsets[e+1]). */
struct ka_expert_sort_args {
  struct ka_tensor token;   /* [S] i32 = */
  struct ka_tensor offsets; /* [E+1] i32 = */
  struct ka_tensor place;   /* [N,k] i32 = */
  struct ka_tensor index;   /* [N,k] i32 in [0,E) */
};

/* out[p,:] = (or += with accumulate) a[p,:] op(B_e) + bias[e,:] for the rows p of expert e. B_e is
 * [K,N], or [N,K] with trans_b: slice e of b, or what b_of[e] points to, contiguous, of a's dtype
 * (then b has its shape and data NULL). The array b_of is read before return, on the host. */
struct ka_expert_matmul_args {
  struct ka_tensor out;     /* [S,N] x = or += */
  struct ka_tensor a;       /* [S,K] x */
  struct ka_tensor b;       /* [E,K,N] or [E,N,K] x */
  struct ka_tensor bias;    /* [E,N] x, optional, without accumulate */
  struct ka_tensor offsets; /* [E+1] i32 */
  const void *const *b_of;  /* [E], or NULL */
  bool trans_b, accumulate;
};

/* dW_e += a_e^T b_e over the rows of expert e: slice e of dw, or what dw_of[e] points to (then dw
 * has its shape and data NULL); an expert whose dw_of is NULL is left out. For y = x W^T, a = dy
 * and b = x. */
struct ka_expert_grad_args {
  struct ka_tensor dw;      /* [E,M,N] f32 (f64 with f64) += */
  struct ka_tensor a;       /* [S,M] x */
  struct ka_tensor b;       /* [S,N] x */
  struct ka_tensor offsets; /* [E+1] i32 */
  void *const *dw_of;       /* [E], or NULL */
};

/* dbias[e,n] += sum over the rows of expert e of dout[p,n]. */
struct ka_expert_bias_bwd_args {
  struct ka_tensor dout;    /* [S,N] x */
  struct ka_tensor dbias;   /* [E,N] f32 (f64 with f64) += */
  struct ka_tensor offsets; /* [E+1] i32 */
};

/* out[t,:] = (or += with accumulate) sum over j of weight[t,j] * x[place[t,j],:], in f32, in order
 * of j, rounded once. */
struct ka_expert_combine_fwd_args {
  struct ka_tensor out;    /* [N,C] x = or += */
  struct ka_tensor x;      /* [S,C] x */
  struct ka_tensor place;  /* [N,k] i32, a permutation of [0,S) */
  struct ka_tensor weight; /* [N,k] f32 (f64 with f64), optional (1) */
  bool accumulate;
};

/* With p = place[t,j]: dx[p,:] = weight[t,j] * dout[t,:], dweight[t,j] = <x[p,:], dout[t,:]>. */
struct ka_expert_combine_bwd_args {
  struct ka_tensor dx;      /* [S,C] x =; may be x */
  struct ka_tensor dweight; /* [N,k] f32 (f64 with f64) =, optional */
  struct ka_tensor dout;    /* [N,C] x */
  struct ka_tensor x;       /* [S,C] x, with dweight */
  struct ka_tensor place, weight;
};

/* How much a target's cross-entropy counts, by what the logits of its row say; no gradient goes
 * through it. DFT: p of the target. EAFT: the entropy of the 20 largest logits' softmax over 3. */
enum ka_xent_weigh { KA_WEIGH_NONE, KA_WEIGH_DFT, KA_WEIGH_EAFT };
enum { KA_EAFT_TOP = 20 };

/* For each row: z = logits (softcap c: c * tanh(logits / c)); loss = logsumexp(z) - z[target].
 * With base, another model's logits of the same rows, z0 made of them alike: kl = KL(p0 || p) =
 * sum of p0 (log p0 - log p), p = softmax(z), p0 = softmax(z0), the distillation loss of Li and
 * Hoiem 2016 (eq. 2) at temperature 1 less the entropy of p0; classes whose p0 underflows to 0 add
 * nothing. backward: logits become grad_scale * scale * d(w * loss + kl_weight * kl)/dlogits,
 * for z w (p - onehot) + kl_weight (p - p0), w = ce_weight * weight * what weigh says. Where base
 * equals logits, kl is 0 and the gradient that without base, to the bit. A target of -1 makes loss,
 * kl and gradient of its row 0. Sums in f32 at least. */
struct ka_xent_args {
  struct ka_tensor logits;  /* [R,V] x or f32; read, and = with backward */
  struct ka_tensor targets; /* [R] i32 in [0,V), or -1 */
  struct ka_tensor scale;   /* [1] f32 (f64 with f64), optional (1): a factor on the device */
  struct ka_tensor weight;  /* [R] f32 (f64 with f64), optional (1) */
  struct ka_tensor base;    /* [R,V] as logits, optional */
  struct ka_tensor loss;    /* [R] f32 (f64 with f64) = */
  struct ka_tensor kl;      /* [R] f32 (f64 with f64) =, with base only */
  struct ka_tensor argmax;  /* [R] i32 =, optional: first maximum */
  double grad_scale, ce_weight, kl_weight, softcap;
  enum ka_xent_weigh weigh;
  bool backward;
};

/* Rows of one group lie one behind the other. Of a group's n rows: weight = n e^(-loss / tau) / sum
 * of e^(-loss / tau), tau the median loss (of an even n the lower of the middle two); so the mean
 * weight is 1. tau <= 0: all 1. A group of -1: 0. */
struct ka_loss_weights_args {
  struct ka_tensor weight; /* [R] f32 (f64 with f64) = */
  struct ka_tensor loss;   /* [R] as weight */
  struct ka_tensor group;  /* [R] i32 */
};

/* out += sum of x, in double, in a fixed order. */
struct ka_sum_args {
  struct ka_tensor out; /* [1] f64 += */
  struct ka_tensor x;   /* any shape, f32 or f64 */
};

/* out += sum of x^2, in double, in a fixed order. */
struct ka_sumsq_args {
  struct ka_tensor out; /* [1] f64 += */
  struct ka_tensor x;   /* any shape, f32 */
};

/* torch.optim.AdamW (Loshchilov and Hutter 2019, algorithm 2), in f32, with g = grad * clip:
 *   w -= lr * weight_decay * w;  m += (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g^2;
 *   w -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
 * then weight = w rounded to its dtype. With w0 the first line also takes lr * pull * (w - w0) from
 * w: a decay towards w0 instead of 0 (L2-SP, Li, Grandvalet and Davoine 2018, decoupled).
 * clip = min(1, max_norm / (sqrt(stats[0]) + 1e-6)), the rule of torch.nn.utils.clip_grad_norm_,
 * or 1 when max_norm is 0. When a value of stats is not finite, nothing is written. State in bf16
 * is rounded stochastically, up with the probability of the part that is cut off; the random bits
 * depend on (seed, t, index of the element) only. */
struct ka_adamw_args {
  struct ka_tensor weight; /* [r,c] f32 or bf16 =; any row stride; may be w itself */
  struct ka_tensor w;      /* [r,c] f32 or bf16 master, read and written; any row stride */
  struct ka_tensor m, v;   /* [r,c] in w's dtype, read and written */
  struct ka_tensor grad;   /* [r,c] f32 */
  struct ka_tensor w0;     /* [r,c] f32 or bf16, any row stride, optional */
  struct ka_tensor stats;  /* [h] f64, optional: sum of squares of all gradients; losses */
  double lr, beta1, beta2, eps, weight_decay, pull, max_norm;
  uint64_t seed; /* of this tensor; read with bf16 state alone */
  int64_t first; /* index in it of the first element here, for the random bits: a rank has a part */
  int64_t t;     /* step, from 1 */
};

struct ka_dev; /* device.h */

/* The vtable: one typed slot an op. */
struct ka_op_table {
#define KA_OP(name, ...)                                                                           \
  ka_status (*name)(struct ka_dev * dev, const struct ka_##name##_args *args);
#include "kernels/ops.def"
#undef KA_OP
};

const char *ka_op_name(enum ka_op op);
enum ka_op_class ka_op_class_of(enum ka_op op);
size_t ka_pack_bytes(struct ka_dev *dev, const struct ka_pack_args *args);

/* The wrappers: ka_matmul(dev, &(struct ka_matmul_args){.out = y, .a = x, .b = w, .trans_b = true})
 */
#define KA_OP(name, ...)                                                                           \
  ka_status ka_##name(struct ka_dev *dev, const struct ka_##name##_args *args);
#include "kernels/ops.def"
#undef KA_OP

/* The same as n calls in order (also in bits), in few launches where the back end can. adamw: all
 * of one dtype of state, one step t, one stats. */
ka_status ka_adamw_list(struct ka_dev *dev, const struct ka_adamw_args *args, int64_t n);
ka_status ka_sumsq_list(struct ka_dev *dev, const struct ka_sumsq_args *args, int64_t n);

/* Floating-point operations and bytes moved by one call (args: struct ka_NAME_args), for the
 * profiler and the bench. */
void ka_op_cost(enum ka_op op, const void *args, double *flops, double *bytes);

#endif
