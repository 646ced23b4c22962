/* SPDX-License-Identifier: Apache-2.0
 * sum and sumsq in double, in a fixed order: at most SUM_BLOCKS blocks a tensor, whose sums one
 * thread adds in order, tensor after tensor. Reads x once. */
#include "kernels/cuda/device.cuh"

namespace {

enum { SUM_BLOCKS = 256, BLOCK = 256, LIST = 64 };

struct list {
  const void *x[LIST];
  int64_t n_elems[LIST];
  int n;
};

static __host__ __device__ int blocks_of(int64_t n_elems) {
  int64_t n = (n_elems + 4 * BLOCK - 1) / (4 * BLOCK);
  return n < SUM_BLOCKS ? (int)n : SUM_BLOCKS;
}

template <typename T, bool SQUARE>
__global__ void __launch_bounds__(BLOCK) k_part_sums(double *part, list l) {
  int64_t n = l.n_elems[blockIdx.y];
  int n_blocks = blocks_of(n);
  const T *x = (const T *)l.x[blockIdx.y];
  if ((int)blockIdx.x >= n_blocks) return;
  double sum = 0;
  for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n;
       i += (int64_t)n_blocks * BLOCK) {
    double v = (double)x[i];
    sum += SQUARE ? v * v : v;
  }
  sum = block_sum<BLOCK>(sum);
  if (threadIdx.x == 0) part[blockIdx.y * SUM_BLOCKS + blockIdx.x] = sum;
}

/* A warp adds the parts of each tensor in a fixed order, then *out += that, in order. */
__global__ void k_add_sums(double *out, const double *part, list l) {
  double total = *out;
  for (int t = 0; t < l.n; t++) {
    double sum = 0;
    for (int i = threadIdx.x; i < blocks_of(l.n_elems[t]); i += 32) sum += part[t * SUM_BLOCKS + i];
    total += warp_sum(sum);
  }
  if (threadIdx.x == 0) *out = total;
}

template <typename T, bool SQUARE>
ka_status sum_list(struct ka_dev *dev, const char *op, void *out, const list &l) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  void *part;
  int most = 0;
  for (int i = 0; i < l.n; i++)
    most = blocks_of(l.n_elems[i]) > most ? blocks_of(l.n_elems[i]) : most;
  if (most == 0) return KA_STATUS_OK;
  KA_TRY(cuda_scratch(dev, (size_t)l.n * SUM_BLOCKS * sizeof(double), &part));
  KA_TRY(cuda_launched(dev, op,
                       KA_LAUNCH((k_part_sums<T, SQUARE>), dim3((unsigned)most, (unsigned)l.n),
                                 BLOCK, 0, s->stream, (double *)part, l)));
  return cuda_launched(
      dev, op, KA_LAUNCH(k_add_sums, 1, 32, 0, s->stream, (double *)out, (const double *)part, l));
}

} // namespace

ka_status sum_cuda(struct ka_dev *dev, const struct ka_sum_args *args) {
  list l = {{args->x.data}, {ka_tensor_elems(&args->x)}, 1};
  if (args->x.dtype == KA_F64) return cuda_unsupported(dev, "sum", KA_F64);
  return sum_list<float, false>(dev, "sum", args->out.data, l);
}

ka_status sumsq_list_cuda(struct ka_dev *dev, const struct ka_sumsq_args *args, int64_t n) {
  struct ka_ctx *ctx = dev->ctx;
  for (int64_t first = 0; first < n; first += LIST) {
    list l = {};
    for (; l.n < LIST && first + l.n < n; l.n++) {
      const struct ka_sumsq_args *a = &args[first + l.n];
      if (a->out.data != args->out.data) break; /* another sum: another launch */
      l.x[l.n] = a->x.data;
      l.n_elems[l.n] = ka_tensor_elems(&a->x);
    }
    KA_NEVER(ctx, l.n == 0);
    KA_TRY((sum_list<float, true>(dev, "sumsq", args->out.data, l)));
  }
  return KA_STATUS_OK;
}

ka_status sumsq_cuda(struct ka_dev *dev, const struct ka_sumsq_args *args) {
  return sumsq_list_cuda(dev, args, 1);
}
