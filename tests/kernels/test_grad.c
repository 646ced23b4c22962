/* SPDX-License-Identifier: Apache-2.0
 * Gradients by central finite differences in float64, through ref: for each backward op and each
 * of its cases, L = <dout, forward(inputs)> is differentiated by moving every input element.
 * Operands of the two ops are matched by name: "dX" in the backward op is the gradient of "X". */
#include "kernels/op_cases.h"
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

static struct ka_tensor *by_name(struct ka_op_call *call, const char *name) {
  for (int i = 0; ka_op_operands(call->op)[i].name; i++)
    if (strcmp(ka_op_operands(call->op)[i].name, name) == 0) return ka_op_call_operand(call, i);
  return NULL;
}

/* The forward operand that a backward operand stands for: a norm's s is the forward's sum or x. */
static struct ka_tensor *forward_of(struct ka_op_call *fwd, const char *name) {
  bool s = strcmp(name, "s") == 0;
  struct ka_tensor *t = by_name(fwd, s ? "sum" : name);
  return s && (!t || !t->data) ? by_name(fwd, "x") : t;
}

/* The backward op reads the forward op's tensors; what the forward op leaves out unless asked for,
 * it is asked for. */
static void connect(struct ka_op_call *fwd, struct ka_op_call *bwd) {
  const struct ka_operand *list = ka_op_operands(bwd->op);
  for (int i = 0; list[i].name; i++) {
    struct ka_tensor *t = ka_op_call_operand(bwd, i), *f = forward_of(fwd, list[i].name);
    if (list[i].flags & KA_WRITE || !f) continue;
    if (!f->data) *f = *t;
    *t = *f;
  }
}

static double objective(struct ka_dev *ref, struct ka_op_call *fwd, const struct ka_tensor *out,
                        const struct ka_tensor *dout) {
  struct ka_ctx *ctx = ref->ctx;
  T_OK(ka_op_call_run(ref, fwd));
  double sum = 0;
  for (int64_t i = 0; i < ka_tensor_elems(out); i++)
    sum += ((double *)out->data)[i] * ((double *)dout->data)[i];
  return sum;
}

/* dL/dx[i] must be what the backward op added to `before`. */
static void check_input(struct ka_dev *ref, struct ka_op_call *fwd, const struct ka_tensor *out,
                        const struct ka_tensor *dout, const struct ka_tensor *x,
                        const struct ka_tensor *grad, const double *before, const char *what) {
  double *p = x->data, largest = 0;
  int64_t n = ka_tensor_elems(x);
  const double h = 1e-5;
  for (int64_t i = 0; i < n; i++)
    largest = fmax(largest, fabs(((double *)grad->data)[i] - before[i]));
  for (int64_t i = 0; i < n; i++) {
    double keep = p[i];
    p[i] = keep + h;
    double up = objective(ref, fwd, out, dout);
    p[i] = keep - h;
    double numeric = (up - objective(ref, fwd, out, dout)) / (2 * h);
    p[i] = keep;
    double analytic = ((double *)grad->data)[i] - before[i];
    if (fabs(numeric - analytic) > 1e-7 * (1 + largest))
      fail_msg("%s[%lld]: gradient %.12g, by differences %.12g", what, (long long)i, analytic,
               numeric);
  }
}

static double *copy_of(struct ka_arena *a, const struct ka_tensor *t) {
  struct ka_ctx *ctx = a->ctx;
  void *p;
  T_OK(ka_arena_alloc(a, &p, ka_tensor_bytes(t), "copy"));
  if (t->data) memcpy(p, t->data, ka_tensor_bytes(t));
  return p;
}

static void one_pair(struct ka_op_case fc, struct ka_op_case bc) {
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev ref;
  struct ka_arena a;
  struct ka_op_call fwd, bwd;
  T_OK(ka_dev_open(ctx, &ref, "ref"));
  ka_arena_init(&a, ctx, "grad");
  T_OK(ka_op_call_make(&ref, &a, &fc, KA_F64, 1, (struct ka_op_layout){0}, &fwd));
  T_OK(ka_op_call_make(&ref, &a, &bc, KA_F64, 2, (struct ka_op_layout){0}, &bwd));
  connect(&fwd, &bwd);
  T_OK(ka_op_call_run(&ref, &fwd));
  const struct ka_operand *list = ka_op_operands(bc.op);
  static const char *const outs[] = {"y", "out", "weight"};
  const char *out_name = outs[by_name(&fwd, "y") ? 0 : by_name(&fwd, "out") ? 1 : 2];
  struct ka_tensor *out = by_name(&fwd, out_name), *dout = by_name(&bwd, t_str("d%s", out_name));
  double *before[KA_MAX_OPERANDS];
  for (int i = 0; list[i].name; i++) {
    struct ka_tensor *t = ka_op_call_operand(&bwd, i);
    before[i] = copy_of(&a, t);
    bool adds = list[i].flags & KA_READ || (bc.flags & KA_CASE_ACC && list[i].flags & KA_WRITE);
    if (!adds) memset(before[i], 0, ka_tensor_bytes(t));
  }
  T_OK(ka_op_call_run(&ref, &bwd));
  for (int i = 0; list[i].name; i++) {
    struct ka_tensor *g = ka_op_call_operand(&bwd, i), *x = by_name(&fwd, list[i].name + 1);
    if (*list[i].name == 'd' && list[i].flags & KA_WRITE && g->data && x && x->data)
      check_input(&ref, &fwd, out, dout, x, g, before[i],
                  t_str("%s %s %s", ka_op_name(fc.op), fc.sizes, list[i].name));
  }
  ka_arena_deinit(&a);
  ka_dev_close(&ref);
}

#define CASE(...) (struct ka_op_case) KA_OP_CASE(__VA_ARGS__)
/* Both with the same scalars. */
#define PAIR(op, sizes, fwd_flags, bwd_flags, ...)                                                 \
  one_pair(CASE(op##_fwd, sizes, fwd_flags, __VA_ARGS__),                                          \
           CASE(op##_bwd, sizes, bwd_flags, __VA_ARGS__))

static void test_pairs(void **state) {
  (void)state;
  PAIR(embed, "N7 C3 V4", 0, 0, .scale = 5.5);
  PAIR(rmsnorm, "N3 C7", 0, KA_CASE_OPT, .offset = 0);
  one_pair(CASE(rmsnorm_fwd, "N3 C5", 0, .offset = 1, .eps = 0.1),
           CASE(rmsnorm_bwd, "N3 C5", KA_CASE_OPT | KA_CASE_ACC, .offset = 1, .accumulate = true));
  one_pair(CASE(layernorm_fwd, "N3 C7", 0), CASE(layernorm_bwd, "N3 C7", KA_CASE_OPT));
  one_pair(CASE(layernorm_fwd, "N3 C5", KA_CASE_OPT, .eps = 0.1),
           CASE(layernorm_bwd, "N3 C5", KA_CASE_OPT | KA_CASE_ACC, .accumulate = true));
  PAIR(glu, "N3 F7", 0, KA_CASE_OPT, .act = KA_ACT_SILU);
  PAIR(glu, "N3 F7", 0, 0, .act = KA_ACT_GELU);
  PAIR(glu, "N3 F7", 0, 0, .act = KA_ACT_GELU_TANH);
  PAIR(glu, "N3 F7", 0, 0, .act = KA_ACT_SILU_CLAMPED);
  PAIR(clamp, "N3 C7", 0, 0, .limit = 0.5);
  PAIR(router, "N5 E8 k2", 0, KA_CASE_OPT, .factor = 1, .normalise = true);
  PAIR(router, "N5 E8 k3", 0, KA_CASE_OPT, .factor = 16);
  PAIR(router, "N5 E8 k3", KA_CASE_OPT, KA_CASE_OPT, .factor = 2.5, .kind = KA_ROUTER_SIGMOID,
       .normalise = true);
  PAIR(expert_combine, "N5 C3 k2 S10", KA_CASE_OPT, KA_CASE_OPT);
  PAIR(attn, "B1 T1 S1 H1 K1 D2 v2", 0, 0, .scale = 0.4);
  PAIR(attn, "B2 T7 S7 H4 K2 D4 v3", KA_CASE_OPT, 0, .scale = 0.4);
  PAIR(attn, "B1 T27 S27 H2 K1 D4 v4", KA_CASE_OPT | KA_CASE_DOCS, KA_CASE_DOCS, .scale = 0.4,
       .window = 21);
  PAIR(attn, "B1 T9 S9 H2 K2 D3 v3", KA_CASE_OPT, 0, .scale = 0.4, .softcap = 2.5);
}

static double total_loss(struct ka_dev *ref, struct ka_xent_args args) {
  struct ka_ctx *ctx = ref->ctx;
  args.backward = false;
  T_OK(ka_xent(ref, &args));
  double sum = 0;
  for (int64_t r = 0; r < args.loss.shape[0]; r++) {
    sum += args.ce_weight * ((double *)args.loss.data)[r];
    if (args.kl.data) sum += args.kl_weight * ((double *)args.kl.data)[r];
  }
  return sum;
}

/* Cross-entropy, alone or with the divergence from a base's, writes its gradient over the logits.
 */
static void test_xent(void **state) {
  (void)state;
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev ref;
  T_OK(ka_dev_open(ctx, &ref, "ref"));
  for (int way = 0; way < 4; way++) {
    struct ka_arena a;
    struct ka_op_call call;
    ka_arena_init(&a, ctx, "xent");
    struct ka_op_case c = KA_OP_CASE(xent, "R3 V11", way & 1 ? KA_CASE_BASE : 0, .backward = true,
                                     .grad_scale = 0.125, .ce_weight = way & 2 ? 0.75 : 1,
                                     .kl_weight = 0.5, .softcap = way & 2 ? 2.5 : 0);
    T_OK(ka_op_call_make(&ref, &a, &c, KA_F64, 3, (struct ka_op_layout){0}, &call));
    struct ka_xent_args args = call.args.xent;
    double *z = args.logits.data, *keep = copy_of(&a, &args.logits), *grad;
    T_OK(ka_xent(&ref, &args));
    grad = copy_of(&a, &args.logits);
    memcpy(z, keep, ka_tensor_bytes(&args.logits));
    for (int64_t i = 0; i < 33; i++) {
      z[i] = keep[i] + 1e-5;
      double up = total_loss(&ref, args);
      z[i] = keep[i] - 1e-5;
      double numeric = args.grad_scale * (up - total_loss(&ref, args)) / 2e-5;
      z[i] = keep[i];
      assert_true(fabs(numeric - grad[i]) < 1e-8);
    }
    ka_arena_deinit(&a);
  }
  ka_dev_close(&ref);
}

/* rope is a rotation, so its transpose (the backward pass) undoes it. */
static void test_rope(void **state) {
  (void)state;
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev ref;
  T_OK(ka_dev_open(ctx, &ref, "ref"));
  for (int interleaved = 0; interleaved < 2; interleaved++) {
    struct ka_arena a;
    struct ka_op_call call;
    ka_arena_init(&a, ctx, "rope");
    struct ka_op_case c = KA_OP_CASE(rope, "N5 H2 D10 r3 P7", 0, .interleaved = interleaved);
    T_OK(ka_op_call_make(&ref, &a, &c, KA_F64, 3, (struct ka_op_layout){0}, &call));
    struct ka_rope_args args = call.args.rope;
    for (int64_t i = 0; i < ka_tensor_elems(&args.cos); i++) { /* f32 angles of one circle */
      ((float *)args.cos.data)[i] = 0.6f;
      ((float *)args.sin.data)[i] = 0.8f;
    }
    double *keep = copy_of(&a, &args.x), *x = args.x.data;
    T_OK(ka_rope(&ref, &args));
    args.inverse = true;
    T_OK(ka_rope(&ref, &args));
    for (int64_t i = 0; i < 100; i++) assert_true(fabs(x[i] - keep[i]) < 1e-6);
    ka_arena_deinit(&a);
  }
  ka_dev_close(&ref);
}

/* y = x W^T + c: the two matmul forms and bias_bwd of the contract are its gradients. */
static void test_linear(void **state) {
  (void)state;
  enum { M = 3, N = 4, K = 5 };
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev ref;
  T_OK(ka_dev_open(ctx, &ref, "ref"));
  double x[M * K], w[N * K], c[N], y[M * N], dy[M * N], dx[M * K], dw[N * K] = {0}, dc[N] = {0};
  for (int i = 0; i < M * K; i++) x[i] = sin(i + 1);
  for (int i = 0; i < N * K; i++) w[i] = cos(i + 1);
  for (int i = 0; i < N; i++) c[i] = 0.1 * i;
  for (int i = 0; i < M * N; i++) dy[i] = sin(3 * i + 2);
  struct ka_tensor tx = ka_tensor_2d(x, KA_F64, M, K), tw = ka_tensor_2d(w, KA_F64, N, K);
  struct ka_tensor ty = ka_tensor_2d(y, KA_F64, M, N), tdy = ka_tensor_2d(dy, KA_F64, M, N);
  struct ka_tensor tdx = ka_tensor_2d(dx, KA_F64, M, K), tdw = ka_tensor_2d(dw, KA_F64, N, K);
  struct ka_tensor tdc = ka_tensor_1d(dc, KA_F64, N);
  struct ka_op_call fwd = {.op = KA_OP_matmul};
  fwd.args.matmul = (struct ka_matmul_args){
      .out = ty, .a = tx, .b = tw, .bias = ka_tensor_1d(c, KA_F64, N), .trans_b = true};
  T_OK(ka_matmul(&ref, &(struct ka_matmul_args){.out = tdx, .a = tdy, .b = tw}));
  T_OK(ka_matmul(&ref, &(struct ka_matmul_args){
                           .out = tdw, .a = tdy, .b = tx, .trans_a = true, .accumulate = true}));
  T_OK(ka_bias_bwd(&ref, &(struct ka_bias_bwd_args){.dbias = tdc, .dout = tdy}));
  double zeros[M * K + N * K] = {0};
  check_input(&ref, &fwd, &ty, &tdy, &tx, &tdx, zeros, "linear dx");
  check_input(&ref, &fwd, &ty, &tdy, &tw, &tdw, zeros, "linear dw");
  check_input(&ref, &fwd, &ty, &tdy, &fwd.args.matmul.bias, &tdc, zeros, "linear dbias");
  ka_dev_close(&ref);
}

/* y = x W_e^T + c_e, and the ops of the contract that are its gradients. */
static void test_experts(void **state) {
  (void)state;
  enum { S = 9, N = 4, K = 5, E = 3 };
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev ref;
  T_OK(ka_dev_open(ctx, &ref, "ref"));
  double x[S * K], w[E * N * K], c[E * N], y[S * N], dy[S * N], dx[S * K];
  double dw[E * N * K] = {0}, dc[E * N] = {0}, zeros[E * N * K + S * K] = {0};
  int32_t offsets[] = {0, 4, 4, 9};
  for (int i = 0; i < S * K; i++) x[i] = sin(i + 1);
  for (int i = 0; i < E * N * K; i++) w[i] = cos(i + 1);
  for (int i = 0; i < E * N; i++) c[i] = 0.1 * i;
  for (int i = 0; i < S * N; i++) dy[i] = sin(3 * i + 2);
  struct ka_tensor tx = ka_tensor_2d(x, KA_F64, S, K), tdx = ka_tensor_2d(dx, KA_F64, S, K);
  struct ka_tensor ty = ka_tensor_2d(y, KA_F64, S, N), tdy = ka_tensor_2d(dy, KA_F64, S, N);
  struct ka_tensor tw = ka_tensor_view(w, KA_F64, 3, (int64_t[]){E, N, K});
  struct ka_tensor tdw = ka_tensor_view(dw, KA_F64, 3, (int64_t[]){E, N, K});
  struct ka_tensor tc = ka_tensor_2d(c, KA_F64, E, N), tdc = ka_tensor_2d(dc, KA_F64, E, N);
  struct ka_tensor at = ka_tensor_1d(offsets, KA_I32, E + 1);
  struct ka_op_call fwd = {.op = KA_OP_expert_matmul};
  fwd.args.expert_matmul = (struct ka_expert_matmul_args){
      .out = ty, .a = tx, .b = tw, .bias = tc, .offsets = at, .trans_b = true};
  T_OK(ka_expert_matmul(
      &ref, &(struct ka_expert_matmul_args){.out = tdx, .a = tdy, .b = tw, .offsets = at}));
  T_OK(ka_expert_grad(&ref,
                      &(struct ka_expert_grad_args){.dw = tdw, .a = tdy, .b = tx, .offsets = at}));
  T_OK(ka_expert_bias_bwd(
      &ref, &(struct ka_expert_bias_bwd_args){.dout = tdy, .dbias = tdc, .offsets = at}));
  check_input(&ref, &fwd, &ty, &tdy, &tx, &tdx, zeros, "expert dx");
  check_input(&ref, &fwd, &ty, &tdy, &tw, &tdw, zeros, "expert dw");
  check_input(&ref, &fwd, &ty, &tdy, &tc, &tdc, zeros, "expert dbias");
  ka_dev_close(&ref);
}

/* The load-balancing loss's gradient: of each logit, with the choice held fast. */
static void test_router_loss(void **state) {
  (void)state;
  enum { N = 5, E = 6, TOP = 2 };
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev ref;
  T_OK(ka_dev_open(ctx, &ref, "ref"));
  double z[N * E], s[N * E], w[N * TOP], grad[N * E], factor = 0.02 * E / 9;
  int32_t index[N * TOP], live[N] = {1, 0, 1, 1, 1};
  for (int i = 0; i < N * E; i++) z[i] = 2 * sin(5 * i + 1);
  struct ka_tensor tz = ka_tensor_2d(z, KA_F64, N, E), ts = ka_tensor_2d(s, KA_F64, N, E);
  struct ka_tensor tw = ka_tensor_2d(w, KA_F64, N, TOP), ti = ka_tensor_2d(index, KA_I32, N, TOP);
  struct ka_tensor tl = ka_tensor_1d(live, KA_I32, N), tg = ka_tensor_2d(grad, KA_F64, N, E);
  double loss[3];
  for (int i = 0; i < N * E; i++)
    for (int way = 0; way < 3; way++) {
      double count[E] = {0}, sums[E] = {0}, keep = z[i];
      struct ka_tensor tcount = ka_tensor_1d(count, KA_F64, E);
      struct ka_tensor tsums = ka_tensor_1d(sums, KA_F64, E);
      z[i] += way == 0 ? 0 : way == 1 ? 1e-5 : -1e-5;
      loss[way] = 0;
      T_OK(ka_router_fwd(&ref,
                         &(struct ka_router_fwd_args){
                             .logits = tz, .scores = ts, .index = ti, .weight = tw, .factor = 1}));
      T_OK(ka_router_load(
          &ref, &(struct ka_router_load_args){
                    .scores = ts, .index = ti, .live = tl, .count = tcount, .score_sum = tsums}));
      T_OK(ka_router_loss(&ref,
                          &(struct ka_router_loss_args){.count = tcount,
                                                        .score_sum = tsums,
                                                        .loss = ka_tensor_1d(&loss[way], KA_F64, 1),
                                                        .load_factor = factor}));
      if (way == 0)
        T_OK(ka_router_bwd(&ref, &(struct ka_router_bwd_args){.dlogits = tg,
                                                              .scores = ts,
                                                              .index = ti,
                                                              .count = tcount,
                                                              .live = tl,
                                                              .factor = 1,
                                                              .load_factor = factor}));
      z[i] = keep;
      if (way == 2) assert_true(fabs((loss[1] - loss[2]) / 2e-5 - grad[i]) < 1e-8);
    }
  ka_dev_close(&ref);
}

/* Attention, then its sink: gradients of the sink, and of q, k and v through both. */
static double sink_objective(struct ka_dev *ref, struct ka_op_call *fwd, struct ka_tensor sink,
                             const double *dout) {
  struct ka_ctx *ctx = ref->ctx;
  struct ka_attn_fwd_args *f = &fwd->args.attn_fwd;
  double sum = 0;
  T_OK(ka_op_call_run(ref, fwd));
  T_OK(ka_attn_sink_fwd(
      ref, &(struct ka_attn_sink_fwd_args){.out = f->out, .lse = f->lse, .sink = sink}));
  for (int64_t i = 0; i < ka_tensor_elems(&f->out); i++)
    sum += ((double *)f->out.data)[i] * dout[i];
  return sum;
}

static void test_sink(void **state) {
  (void)state;
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev ref;
  struct ka_arena a;
  struct ka_op_call fwd, bwd;
  T_OK(ka_dev_open(ctx, &ref, "ref"));
  ka_arena_init(&a, ctx, "sink");
  struct ka_op_case fc = KA_OP_CASE(attn_fwd, "B2 T7 S7 H4 K2 D4 v3", KA_CASE_OPT, .scale = 0.4);
  struct ka_op_case bc = KA_OP_CASE(attn_bwd, "B2 T7 S7 H4 K2 D4 v3", 0, .scale = 0.4);
  T_OK(ka_op_call_make(&ref, &a, &fc, KA_F64, 1, (struct ka_op_layout){0}, &fwd));
  T_OK(ka_op_call_make(&ref, &a, &bc, KA_F64, 2, (struct ka_op_layout){0}, &bwd));
  double value[] = {0.5, -2, 3, 0}, dsink[4] = {0}, *dout = bwd.args.attn_bwd.dout.data;
  struct ka_tensor sink = ka_tensor_1d(value, KA_F64, 4);
  connect(&fwd, &bwd);
  (void)sink_objective(&ref, &fwd, sink, dout);
  struct ka_attn_bwd_args *b = &bwd.args.attn_bwd;
  T_OK(ka_op_call_run(&ref, &bwd));
  T_OK(ka_attn_sink_bwd(&ref,
                        &(struct ka_attn_sink_bwd_args){.dsink = ka_tensor_1d(dsink, KA_F64, 4),
                                                        .dout = b->dout,
                                                        .out = b->out,
                                                        .lse = b->lse,
                                                        .sink = sink}));
  const struct {
    double *x, *grad;
    int64_t n;
  } checks[] = {{value, dsink, 4},
                {b->q.data, b->dq.data, ka_tensor_elems(&b->q)},
                {b->k.data, b->dk.data, ka_tensor_elems(&b->k)},
                {b->v.data, b->dv.data, ka_tensor_elems(&b->v)}};
  for (int c = 0; c < 4; c++)
    for (int64_t i = 0; i < checks[c].n; i++) {
      double keep = checks[c].x[i];
      checks[c].x[i] = keep + 1e-5;
      double up = sink_objective(&ref, &fwd, sink, dout);
      checks[c].x[i] = keep - 1e-5;
      double numeric = (up - sink_objective(&ref, &fwd, sink, dout)) / 2e-5;
      checks[c].x[i] = keep;
      if (fabs(numeric - checks[c].grad[i]) > 1e-8)
        fail_msg("sink, operand %d [%lld]: %.12g, by differences %.12g", c, (long long)i,
                 checks[c].grad[i], numeric);
    }
  ka_arena_deinit(&a);
  ka_dev_close(&ref);
}

static double dot(const struct ka_tensor *a, const struct ka_tensor *b) {
  double sum = 0;
  for (int64_t i = 0; i < ka_tensor_elems(a); i++)
    sum += ka_load(a->data, a->dtype, i) * ka_load(b->data, b->dtype, i);
  return sum;
}

/* latent_kv_fwd is linear, so the backward pass is its transpose: <f(x), dy> = <x, f^T(dy)>. */
static void test_latent_kv(void **state) {
  (void)state;
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev ref;
  struct ka_arena a;
  struct ka_op_call fwd, bwd;
  T_OK(ka_dev_open(ctx, &ref, "ref"));
  ka_arena_init(&a, ctx, "latent");
  struct ka_op_case fc = KA_OP_CASE(latent_kv_fwd, "N5 H3 D8 v4 w9 R3", 0);
  struct ka_op_case bc = KA_OP_CASE(latent_kv_bwd, "N5 H3 D8 v4 w9 R3", 0);
  T_OK(ka_op_call_make(&ref, &a, &fc, KA_F64, 1, (struct ka_op_layout){0}, &fwd));
  T_OK(ka_op_call_make(&ref, &a, &bc, KA_F64, 2, (struct ka_op_layout){0}, &bwd));
  T_OK(ka_op_call_run(&ref, &fwd));
  T_OK(ka_op_call_run(&ref, &bwd));
  const struct ka_latent_kv_fwd_args *f = &fwd.args.latent_kv_fwd;
  const struct ka_latent_kv_bwd_args *b = &bwd.args.latent_kv_bwd;
  double out = dot(&f->k, &b->dk) + dot(&f->v, &b->dv);
  double in = dot(&f->kv, &b->dkv) + dot(&f->pe, &b->dpe);
  assert_true(fabs(out) > 0.01 && fabs(out - in) < 1e-12);
  ka_arena_deinit(&a);
  ka_dev_close(&ref);
}

/* Without gradients a step is the two decays alone. */
static void test_adamw_decay(void **state) {
  (void)state;
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev ref;
  T_OK(ka_dev_open(ctx, &ref, "ref"));
  float w[] = {1, -2, 0.5f}, w0[] = {3, -2, -1}, m[3] = {0}, v[3] = {0}, g[3] = {0};
  struct ka_tensor t = ka_tensor_2d(w, KA_F32, 1, 3);
  struct ka_adamw_args args = {.weight = t,
                               .w = t,
                               .m = ka_tensor_2d(m, KA_F32, 1, 3),
                               .v = ka_tensor_2d(v, KA_F32, 1, 3),
                               .grad = ka_tensor_2d(g, KA_F32, 1, 3),
                               .w0 = ka_tensor_2d(w0, KA_F32, 1, 3),
                               .lr = 0.5,
                               .eps = 1e-8,
                               .weight_decay = 0.25,
                               .pull = 0.5,
                               .t = 1};
  T_OK(ka_adamw(&ref, &args));
  const float want[] = {1 - 0.5f * (0.25f * 1 + 0.5f * -2), -2 - 0.5f * (0.25f * -2),
                        0.5f - 0.5f * (0.25f * 0.5f + 0.5f * 1.5f)};
  assert_memory_equal(w, want, sizeof want);
  args.pull = 2; /* and all of the way */
  args.weight_decay = 0;
  T_OK(ka_adamw(&ref, &args));
  assert_memory_equal(w, w0, sizeof w0);
  ka_dev_close(&ref);
}

/* Steps of a tensor's two parts are the step of the tensor, random rounding too. */
static void test_adamw_parts(void **state) {
  (void)state;
  enum { N = 101 };
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  struct ka_dev dev;
  T_OK(ka_dev_open(ctx, &dev, "cpu"));
  uint16_t w[2][N], m[2][N] = {0}, v[2][N] = {0};
  float g[N];
  for (int i = 0; i < N; i++) {
    g[i] = (float)sin(i);
    w[0][i] = w[1][i] = ka_f32_to_bf16((float)cos(i));
  }
  for (int64_t at = 0, n = N, way = 0; way < 2; at = 0, n = 40, way++)
    for (; at < N; at += n) {
      int64_t k = n < N - at ? n : N - at;
      struct ka_tensor t = ka_tensor_2d(&w[way][at], KA_BF16, 1, k);
      T_OK(ka_adamw(&dev, &(struct ka_adamw_args){.weight = t,
                                                  .w = t,
                                                  .m = ka_tensor_2d(&m[way][at], KA_BF16, 1, k),
                                                  .v = ka_tensor_2d(&v[way][at], KA_BF16, 1, k),
                                                  .grad = ka_tensor_2d(&g[at], KA_F32, 1, k),
                                                  .lr = 1e-3,
                                                  .beta1 = 0.9,
                                                  .beta2 = 0.999,
                                                  .eps = 1e-8,
                                                  .seed = 5,
                                                  .first = at,
                                                  .t = 3}));
    }
  assert_memory_equal(w[0], w[1], sizeof w[0]);
  assert_memory_equal(m[0], m[1], sizeof m[0]);
  assert_memory_equal(v[0], v[1], sizeof v[0]);
  ka_dev_close(&dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_pairs),       cmocka_unit_test(test_xent),
      cmocka_unit_test(test_adamw_decay), cmocka_unit_test(test_adamw_parts),
      cmocka_unit_test(test_rope),        cmocka_unit_test(test_sink),
      cmocka_unit_test(test_latent_kv),   cmocka_unit_test(test_experts),
      cmocka_unit_test(test_router_loss), cmocka_unit_test(test_linear)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
