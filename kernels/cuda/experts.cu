/* SPDX-License-Identifier: Apache-2.0
 * Tokens in the order of their experts, the way back, and the biases' gradients (ops.h), without
 * atomics.
 *
 * The sort: a block a CHUNK of choices counts its experts; a thread an expert sums the counts of
 * the chunks before each; one block makes offsets of the totals; then each choice's place is the
 * offset of its expert, what earlier chunks have of it, and what its own chunk has before it. */
#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/rows.cuh"

namespace {

enum { CHUNK = 256, MOST = 1024 };

/* counts[chunk][e] */
__global__ void __launch_bounds__(CHUNK)
    k_expert_count(int *counts, const int32_t *index, int64_t n, int n_experts) {
  KA_SHARED(int, mine, CHUNK);
  int64_t first = (int64_t)blockIdx.x * CHUNK, i = first + threadIdx.x;
  mine[threadIdx.x] = i < n ? index[i] : -1;
  __syncthreads();
  for (int e = (int)threadIdx.x; e < n_experts; e += CHUNK) {
    int count = 0;
    for (int j = 0; j < CHUNK; j++) count += mine[j] == e;
    counts[(int64_t)blockIdx.x * n_experts + e] = count;
  }
}

/* counts become what chunks before have; offsets. One block; a thread an expert. */
__global__ void __launch_bounds__(MOST)
    k_expert_offsets(int32_t *offsets, int *counts, int64_t n_chunks, int n_experts) {
  KA_SHARED(int, total, MOST);
  int e = (int)threadIdx.x, before = 0;
  if (e < n_experts)
    for (int64_t c = 0; c < n_chunks; c++) {
      int count = counts[c * n_experts + e];
      counts[c * n_experts + e] = before;
      before += count;
    }
  total[e] = before;
  __syncthreads();
  if (e > 0) return;
  int sum = 0;
  for (int i = 0; i < n_experts; i++) {
    offsets[i] = sum;
    sum += total[i];
  }
  offsets[n_experts] = sum;
}

__global__ void __launch_bounds__(CHUNK)
    k_expert_place(int32_t *token, int32_t *place, const int32_t *offsets, const int *counts,
                   const int32_t *index, int64_t n, int n_experts, int n_top) {
  KA_SHARED(int, mine, CHUNK);
  int64_t i = (int64_t)blockIdx.x * CHUNK + threadIdx.x;
  int e = i < n ? index[i] : -1;
  mine[threadIdx.x] = e;
  __syncthreads();
  if (e < 0) return;
  int at = offsets[e] + counts[(int64_t)blockIdx.x * n_experts + e];
  for (int j = 0; j < (int)threadIdx.x; j++) at += mine[j] == e;
  place[i] = at;
  token[at] = (int32_t)(i / n_top);
}

template <typename T> struct combine {
  T *out;
  const T *x;
  const int32_t *place;
  const float *weight; /* or NULL: 1 */
  int64_t n_rows, width;
  int n_top;
  bool accumulate;
};

template <typename T, int N, int THREADS>
__global__ void __launch_bounds__(ROW_BLOCK) k_expert_combine(combine<T> a) {
  int64_t row = (int64_t)blockIdx.x * (ROW_BLOCK / THREADS) + threadIdx.x / THREADS;
  if (row >= a.n_rows) return;
  for (int64_t c = (int64_t)(threadIdx.x % THREADS) * N; c < a.width; c += THREADS * N) {
    float sum[N] = {0}, v[N];
    if (a.accumulate) load<N>(sum, a.out + row * a.width + c);
    for (int j = 0; j < a.n_top; j++) {
      int64_t i = row * a.n_top + j;
      float w = a.weight ? a.weight[i] : 1.0f;
      load<N>(v, a.x + (int64_t)a.place[i] * a.width + c);
#pragma unroll
      for (int k = 0; k < N; k++) sum[k] += w * v[k];
    }
    store<N>(a.out + row * a.width + c, sum);
  }
}

/* A row a choice. */
template <typename T> struct combine_back {
  T *dx;
  float *dweight; /* or NULL */
  const T *dout, *x;
  const int32_t *place;
  const float *weight;
  int64_t n_rows, width;
  int n_top;
};

template <typename T, int N, int THREADS>
__global__ void __launch_bounds__(ROW_BLOCK) k_expert_combine_bwd(combine_back<T> a) {
  int64_t i = (int64_t)blockIdx.x * (ROW_BLOCK / THREADS) + threadIdx.x / THREADS;
  if (i >= a.n_rows) return;
  const T *dout = a.dout + i / a.n_top * a.width;
  int64_t at = (int64_t)a.place[i] * a.width;
  float dot = 0, w = a.weight[i];
  for (int64_t c = (int64_t)(threadIdx.x % THREADS) * N; c < a.width; c += THREADS * N) {
    float d[N], x[N];
    load<N>(d, dout + c);
    if (a.dweight) {
      load<N>(x, a.x + at + c);
#pragma unroll
      for (int k = 0; k < N; k++) dot += x[k] * d[k];
    }
#pragma unroll
    for (int k = 0; k < N; k++) d[k] *= w;
    store<N>(a.dx + at + c, d);
  }
  dot = row_sum<THREADS>(dot);
  if (a.dweight && threadIdx.x % THREADS == 0) a.dweight[i] = dot;
}

/* A block 32 columns of an expert: 8 warps take rows in turn, then one adds theirs in order. */
template <typename T>
__global__ void __launch_bounds__(256)
    k_expert_bias(float *dbias, const T *dout, const int32_t *offsets, int64_t width) {
  KA_SHARED(float[33], sums, 8);
  int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, e = (int)blockIdx.y;
  int64_t c = (int64_t)blockIdx.x * 32 + lane;
  float sum = 0;
  for (int64_t r = offsets[e] + warp; r < offsets[e + 1] && c < width; r += 8)
    sum += to_float(dout[r * width + c]);
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || c >= width) return;
  for (int w = 1; w < 8; w++) sum += sums[w][lane];
  dbias[e * width + c] += sum;
}

} // namespace

ka_status expert_sort_cuda(struct ka_dev *dev, const struct ka_expert_sort_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct cuda_state *s = cuda_of(dev);
  int64_t n = ka_tensor_elems(&args->index), n_chunks = div_up(n, CHUNK);
  int n_experts = (int)args->offsets.shape[0] - 1, n_top = (int)args->index.shape[1];
  const int32_t *index = (const int32_t *)args->index.data;
  void *scratch;
  KA_TRY(cuda_scratch(dev, (size_t)(n_chunks * n_experts + 1) * sizeof(int), &scratch));
  int *counts = (int *)scratch;
  int32_t *offsets = (int32_t *)args->offsets.data;
  if (n > 0)
    KA_TRY(cuda_launched(dev, "expert_sort",
                         KA_LAUNCH(k_expert_count, (unsigned)n_chunks, CHUNK, 0, s->stream, counts,
                                   index, n, n_experts)));
  KA_TRY(cuda_launched(
      dev, "expert_sort",
      KA_LAUNCH(k_expert_offsets, 1, MOST, 0, s->stream, offsets, counts, n_chunks, n_experts)));
  if (n == 0) return KA_STATUS_OK;
  return cuda_launched(dev, "expert_sort",
                       KA_LAUNCH(k_expert_place, (unsigned)n_chunks, CHUNK, 0, s->stream,
                                 (int32_t *)args->token.data, (int32_t *)args->place.data,
                                 (const int32_t *)offsets, (const int *)counts, index, n, n_experts,
                                 n_top));
}

ka_status expert_combine_fwd_cuda(struct ka_dev *dev,
                                  const struct ka_expert_combine_fwd_args *args) {
  struct cuda_state *s = cuda_of(dev);
  KA_BY_TYPE(dev, "expert_combine_fwd", args->x.dtype, {
    const int N = vec16<T>::N;
    combine<T> a = {(T *)args->out.data,
                    (const T *)args->x.data,
                    (const int32_t *)args->place.data,
                    (const float *)args->weight.data,
                    args->out.shape[0],
                    args->out.shape[1],
                    (int)args->place.shape[1],
                    args->accumulate};
    if (a.n_rows == 0 || a.width == 0) return KA_STATUS_OK;
    bool packs = a.width % N == 0 && in_packs(args->x, N) && in_packs(args->out, N);
    return cuda_launched(dev, "expert_combine_fwd", BY_ROW(k_expert_combine, T, packs, a));
  });
}

ka_status expert_combine_bwd_cuda(struct ka_dev *dev,
                                  const struct ka_expert_combine_bwd_args *args) {
  struct cuda_state *s = cuda_of(dev);
  KA_BY_TYPE(dev, "expert_combine_bwd", args->dx.dtype, {
    const int N = vec16<T>::N;
    combine_back<T> a = {(T *)args->dx.data,
                         (float *)args->dweight.data,
                         (const T *)args->dout.data,
                         (const T *)args->x.data,
                         (const int32_t *)args->place.data,
                         (const float *)args->weight.data,
                         args->dx.shape[0],
                         args->dx.shape[1],
                         (int)args->place.shape[1]};
    if (a.n_rows == 0 || a.width == 0) return KA_STATUS_OK;
    bool packs = a.width % N == 0 && in_packs(args->x, N) && in_packs(args->dx, N) &&
                 in_packs(args->dout, N);
    return cuda_launched(dev, "expert_combine_bwd", BY_ROW(k_expert_combine_bwd, T, packs, a));
  });
}

ka_status expert_bias_bwd_cuda(struct ka_dev *dev, const struct ka_expert_bias_bwd_args *args) {
  struct cuda_state *s = cuda_of(dev);
  int64_t width = args->dout.shape[1], n_experts = args->dbias.shape[0];
  if (ka_tensor_elems(&args->dout) == 0 || n_experts == 0) return KA_STATUS_OK;
  dim3 grid((unsigned)div_up(width, 32), (unsigned)n_experts);
  KA_BY_TYPE(dev, "expert_bias_bwd", args->dout.dtype, {
    return cuda_launched(dev, "expert_bias_bwd",
                         KA_LAUNCH((k_expert_bias<T>), grid, 256, 0, s->stream,
                                   (float *)args->dbias.data, (const T *)args->dout.data,
                                   (const int32_t *)args->offsets.data, width));
  });
}
