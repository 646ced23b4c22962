/* SPDX-License-Identifier: Apache-2.0
 * Matrix products by cuBLASLt, the bias in the epilogue; see tune.h for the choice of algorithms.
 *
 * cuBLASLt sees columns where we see rows: out = op(a) op(b) in rows is out^T = op(b)^T op(a)^T in
 * columns, so b is its first operand, and the bias runs along its rows. Where it has no algorithm
 * (odd addresses or pitches) or all of them fail, a plain kernel does the product; a bias's
 * gradient is first left out. f32 is computed in f32, not TF32. */
#include "kernels/cuda/matmul.h"

#include "kernels/cuda/tune.h"

ka_status cuda_matmul_open(struct ka_dev *dev) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  KA_TRY(cuda_alloc(dev, KA_PLACE_DEVICE, &s->workspace, CUDA_WORKSPACE_BYTES, "matmul workspace"));
  cublasStatus_t e = cublasLtCreate(&s->lt);
  if (e != CUBLAS_STATUS_SUCCESS)
    return ka_fail(ctx, KA_E_DEVICE, "cublasLtCreate: %s", cublasLtGetStatusString(e));
  return cuda_tuner_open(dev);
}

void cuda_matmul_close(struct ka_dev *dev) {
  struct cuda_state *s = cuda_of(dev);
  cuda_tuner_close(dev);
  if (s->lt) (void)cublasLtDestroy(s->lt);
  (void)cudaFree(s->workspace);
}

static cudaDataType_t type_of(enum ka_dtype t) { return t == KA_BF16 ? CUDA_R_16BF : CUDA_R_32F; }

/* Rows and columns as they lie in memory. */
static cublasStatus_t layout(cublasLtMatrixLayout_t *out, const struct ka_tensor *t) {
  return cublasLtMatrixLayoutCreate(out, type_of(t->dtype), (uint64_t)t->shape[1],
                                    (uint64_t)t->shape[0], t->row_stride);
}

/* Largest power of two up to 256 that divides an address and a pitch. */
static uint32_t alignment(const struct ka_tensor *t) {
  uint64_t bits = (uint64_t)(uintptr_t)t->data | 256;
  if (t->shape[0] > 1) bits |= (uint64_t)t->row_stride * ka_dtype_bytes(t->dtype);
  return (uint32_t)(bits & -bits);
}

/* The epilogue by its name there. */
static cublasLtEpilogue_t epilogue_of(const struct ka_matmul_args *args) {
  bool bias = args->bias.data, pre = args->pre.data;
  if (args->epilogue == KA_EPILOGUE_DGELU) return CUBLASLT_EPILOGUE_DGELU;
  if (args->epilogue == KA_EPILOGUE_GELU && pre)
    return bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  if (args->epilogue == KA_EPILOGUE_GELU)
    return bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
  if (args->bias_grad.data) return CUBLASLT_EPILOGUE_BGRADB;
  return bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

static cublasStatus_t describe(struct cuda_product *p, const struct ka_matmul_args *args) {
  cublasOperation_t ta = args->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  cublasOperation_t tb = args->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = (cublasLtEpilogue_t)p->key.epilogue;
  const void *bias = p->bias_grad ? p->bias_grad : args->bias.data;
  cudaDataType_t bias_type = p->bias_grad ? CUDA_R_32F : type_of(args->bias.dtype);
  cudaDataType_t pre_type = type_of(args->pre.dtype);
  bool pre = args->pre.data;
  const struct {
    cublasLtMatmulDescAttributes_t name;
    const void *value;
    size_t n_bytes;
    bool set;
  } attributes[] = {
      {CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta, true},
      {CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb, true},
      {CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue, true},
      {CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias, bias},
      {CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type, bias},
      {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &args->pre.data, sizeof(void *), pre},
      {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &args->pre.row_stride, sizeof(int64_t), pre},
      {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, &pre_type, sizeof pre_type, pre},
  };
  cublasStatus_t e = cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  for (size_t i = 0; i < sizeof attributes / sizeof *attributes && !e; i++)
    if (attributes[i].set)
      e = cublasLtMatmulDescSetAttribute(p->op, attributes[i].name, attributes[i].value,
                                         attributes[i].n_bytes);
  if (!e) e = layout(&p->first, &args->b);
  if (!e) e = layout(&p->second, &args->a);
  if (!e) e = layout(&p->out, &args->out);
  return e;
}

static void forget(struct cuda_product *p) {
  if (p->op) (void)cublasLtMatmulDescDestroy(p->op);
  if (p->first) (void)cublasLtMatrixLayoutDestroy(p->first);
  if (p->second) (void)cublasLtMatrixLayoutDestroy(p->second);
  if (p->out) (void)cublasLtMatrixLayoutDestroy(p->out);
  p->op = NULL;
  p->first = p->second = p->out = NULL;
}

cublasStatus_t cuda_product_run(struct ka_dev *dev, const struct cuda_product *p,
                                const cublasLtMatmulAlgo_t *algo, void *to) {
  struct cuda_state *s = cuda_of(dev);
  const struct ka_matmul_args *args = p->args;
  const float one = 1, beta = args->accumulate ? 1 : 0;
  return cublasLtMatmul(s->lt, p->op, &one, args->b.data, p->first, args->a.data, p->second, &beta,
                        args->out.data, p->out, to, p->out, algo, s->workspace,
                        CUDA_WORKSPACE_BYTES, s->stream);
}

static struct cuda_product_key key_of(const struct ka_matmul_args *args) {
  return (struct cuda_product_key){
      .m = args->out.shape[0],
      .n = args->out.shape[1],
      .k = args->a.shape[args->trans_a ? 0 : 1],
      .stride = {args->a.row_stride, args->b.row_stride, args->out.row_stride},
      .align = {alignment(&args->a), alignment(&args->b), alignment(&args->out),
                args->bias.data ? alignment(&args->bias) : 0},
      .type = {args->a.dtype, args->out.dtype},
      .trans_a = args->trans_a,
      .trans_b = args->trans_b,
      .accumulate = args->accumulate,
      .epilogue = (uint32_t)epilogue_of(args),
      .pre_stride = args->pre.data ? args->pre.row_stride : 0,
      .pre_align = args->pre.data ? alignment(&args->pre) : 0,
  };
}

/* What cuBLASLt asks of the tensors of an epilogue. */
static bool fits(const struct ka_matmul_args *args) {
  const struct ka_tensor *bias = &args->bias, *pre = &args->pre;
  if (bias->data && bias->dtype != args->out.dtype) return false;
  return !pre->data || (pre->row_stride % 8 == 0 && (uintptr_t)pre->data % 16 == 0);
}

static ka_status add_bias_grad(struct ka_dev *dev, const struct ka_tensor *to, void *grad) {
  struct ka_tensor from = *to;
  from.data = grad;
  return add_cuda(dev, &(struct ka_add_args){.out = *to, .a = *to, .b = from});
}

/* By cuBLASLt; *done false: it has no algorithm for this product. */
static ka_status by_library(struct ka_dev *dev, struct cuda_product *p, bool *done) {
  struct ka_ctx *ctx = dev->ctx;
  const cublasLtMatmulAlgo_t *algo = NULL;
  ka_status st = KA_STATUS_OK;
  cublasStatus_t e = describe(p, p->args);
  if (!e) st = cuda_tuner_choose(dev, p, &algo);
  while (ka_ok(st) && !e && algo) {
    cublasStatus_t failed = cuda_product_run(dev, p, algo, p->args->out.data);
    if (!failed) break;
    if (cuda_of(dev)->capturing)
      e = failed; /* the recording is spoilt, whatever runs next */
    else
      st = cuda_tuner_refuse(dev, p, failed, &algo);
  }
  forget(p);
  KA_TRY(st);
  if (e)
    return ka_fail(ctx, KA_E_DEVICE, "matmul [%lld,%lld] = [%lld,%lld] x [%lld,%lld]: cuBLASLt: %s",
                   (long long)p->key.m, (long long)p->key.n, (long long)p->key.m,
                   (long long)p->key.k, (long long)p->key.k, (long long)p->key.n,
                   cublasLtGetStatusString(e));
  *done = algo != NULL;
  return algo ? cuda_launched(dev, "matmul", cudaSuccess) : KA_STATUS_OK;
}

ka_status matmul_cuda(struct ka_dev *dev, const struct ka_matmul_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_product p = {.args = args, .key = key_of(args)};
  struct ka_tensor bias_grad = args->bias_grad;
  bool library = p.key.n > 0 && p.key.k > 0 && fits(args), done = false;
  if (args->a.dtype == KA_F64) return cuda_unsupported(dev, "matmul", args->a.dtype);
  if (p.key.m == 0) return KA_STATUS_OK;
  if (library && p.key.epilogue == CUBLASLT_EPILOGUE_BGRADB) {
    if (args->out.dtype == KA_F32) {
      KA_TRY(cuda_scratch(dev, (size_t)p.key.m * sizeof(float), &p.bias_grad));
      KA_TRY(by_library(dev, &p, &done));
      if (done) return add_bias_grad(dev, &bias_grad, p.bias_grad);
    }
    p.bias_grad = NULL; /* the product alone, then the sum */
    p.key.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  }
  if (library) KA_TRY(by_library(dev, &p, &done));
  if (!done && p.key.n > 0) KA_TRY(cuda_matmul_plain(dev, args));
  if (!bias_grad.data) return KA_STATUS_OK;
  return bias_bwd_cuda(dev, &(struct ka_bias_bwd_args){.dbias = bias_grad, .dout = args->a});
}
