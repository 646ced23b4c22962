/* SPDX-License-Identifier: Apache-2.0
 * The product by the library (matmul_onednn.c or matmul_cblas.c), then what goes with it: an
 * activation over out, a bias's gradient. */
#include "kernels/cpu/vec.h"

/* out = gelu(pre), or out *= gelu'(pre); pre may be out. */
static void epilogue(const struct ka_tensor *out, const struct ka_tensor *pre, bool back) {
  int64_t n_rows = out->shape[0], width = out->shape[1];
#pragma omp parallel for if (n_rows * width > CPU_PARALLEL)
  for (int64_t r = 0; r < n_rows; r++)
    for (int64_t c = 0; c < width; c += CPU_BLOCK) {
      float buf[CPU_BLOCK], buf_out[CPU_BLOCK], y[CPU_BLOCK], dy[CPU_BLOCK];
      int64_t n = min64(CPU_BLOCK, width - c), at = r * out->row_stride + c;
      const float *x = load_block(pre, r * pre->row_stride + c, n, buf);
      cpu_activate(KA_ACT_GELU_TANH, x, n, y, dy);
      if (back) {
        const float *d = load_block(out, at, n, buf_out);
#pragma omp simd
        for (int64_t k = 0; k < n; k++) y[k] = d[k] * dy[k];
      }
      float *to = open_block(out, at, buf_out);
      for (int64_t k = 0; k < n; k++) to[k] = y[k];
      store_block(out, at, n, to);
    }
}

ka_status matmul_cpu(struct ka_dev *dev, const struct ka_matmul_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct ka_matmul_args product = *args;
  bool back = args->epilogue == KA_EPILOGUE_DGELU;
  if (args->a.dtype == KA_F64) return matmul_ref(dev, args);
  product.epilogue = KA_EPILOGUE_NONE;
  product.pre = product.bias_grad = (struct ka_tensor){0};
  if (args->pre.data && !back) product.out = args->pre;
  bool few = cpu_matvec_takes(&product);
  KA_TRY(few ? cpu_matvec(dev, &product) : cpu_product(dev, &product));
  if (args->epilogue != KA_EPILOGUE_NONE)
    epilogue(&args->out, back ? &args->pre : &product.out, back);
  if (!args->bias_grad.data) return KA_STATUS_OK;
  return bias_bwd_cpu(dev, &(struct ka_bias_bwd_args){.dbias = args->bias_grad, .dout = args->a});
}
