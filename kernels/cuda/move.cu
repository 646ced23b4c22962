/* SPDX-License-Identifier: Apache-2.0
 * fill, copy, embed_fwd, gather_rows, scatter_rows, put_rows, sum_rows: rows moved; bound by
 * memory. */
#include "kernels/cuda/device.cuh"

#include <cuda_fp16.h>

namespace {

/* Any tensor as rows of its last dimension, one row when it is contiguous. */
struct rows {
  int64_t n, width, stride;
};
rows rows_of(const struct ka_tensor &t) {
  int64_t n = ka_tensor_elems(&t), width = t.n_dim ? t.shape[t.n_dim - 1] : 1;
  if (ka_tensor_contiguous(&t)) return {1, n, n};
  return {width ? n / width : 0, width, t.row_stride};
}

/* grid: x over columns, y over rows, both strided. */
dim3 grid_of(int64_t n_rows, int64_t width) {
  return dim3((unsigned)least(div_up(width, 256), 4096), (unsigned)least(n_rows, 65535));
}

template <typename W>
__global__ void __launch_bounds__(256)
    k_fill(W *x, int64_t n_rows, int64_t width, int64_t stride, W value) {
  for (int64_t r = blockIdx.y; r < n_rows; r += gridDim.y)
    for (int64_t c = (int64_t)blockIdx.x * 256 + threadIdx.x; c < width; c += gridDim.x * 256)
      x[r * stride + c] = value;
}

template <typename W>
cudaError_t fill(struct cuda_state *s, const struct ka_tensor &x, uint64_t bits) {
  rows r = rows_of(x);
  return KA_LAUNCH(k_fill<W>, grid_of(r.n, r.width), 256, 0, s->stream, (W *)x.data, r.n, r.width,
                   r.stride, (W)bits);
}

__device__ __forceinline__ double widen(float x) { return (double)x; }
__device__ __forceinline__ double widen(bf16 x) { return (double)__bfloat162float(x); }
__device__ __forceinline__ double widen(__half x) { return (double)__half2float(x); }
__device__ __forceinline__ double widen(double x) { return x; }
template <typename T> __device__ __forceinline__ T narrow(double x);
template <> __device__ __forceinline__ float narrow<float>(double x) { return (float)x; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(double x) {
  return __float2bfloat16_rn((float)x); /* as ka_data_store: by way of float */
}
template <> __device__ __forceinline__ __half narrow<__half>(double x) {
  return __float2half_rn((float)x);
}
template <> __device__ __forceinline__ double narrow<double>(double x) { return x; }

template <typename To, typename From>
__global__ void __launch_bounds__(256) k_convert(To *out, int64_t out_stride, const From *in,
                                                 int64_t in_stride, int64_t n_rows, int64_t width) {
  for (int64_t r = blockIdx.y; r < n_rows; r += gridDim.y)
    for (int64_t c = (int64_t)blockIdx.x * 256 + threadIdx.x; c < width; c += gridDim.x * 256)
      out[r * out_stride + c] = narrow<To>(widen(in[r * in_stride + c]));
}

/* Between f32 and bf16, contiguous and aligned: the way of weights and optimizer state. */
template <typename To, typename From>
__global__ void __launch_bounds__(256) k_convert4(To *out, const From *in, int64_t n) {
  int64_t step = (int64_t)gridDim.x * 256 * 4;
  for (int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 4; i < n; i += step) {
    float v[4];
    load<4>(v, in + i);
    store<4>(out + i, v);
  }
}

template <typename To, typename From>
cudaError_t convert(struct cuda_state *s, const struct ka_copy_args *args) {
  rows in = rows_of(args->in), out = rows_of(args->out);
  bool flat = in.n == 1 && out.n == 1;
  int64_t width = args->in.n_dim ? args->in.shape[args->in.n_dim - 1] : 1;
  int64_t n_rows = flat ? 1 : ka_tensor_elems(&args->in) / width;
  int64_t out_stride = out.n == 1 ? width : out.stride, in_stride = in.n == 1 ? width : in.stride;
  if (flat) width = in.width;
  return KA_LAUNCH((k_convert<To, From>), grid_of(n_rows, width), 256, 0, s->stream,
                   (To *)args->out.data, out_stride, (const From *)args->in.data, in_stride, n_rows,
                   width);
}

template <typename To, typename From>
cudaError_t convert_fast(struct cuda_state *s, const struct ka_copy_args *args) {
  int64_t n = ka_tensor_elems(&args->in);
  bool packs = ka_tensor_contiguous(&args->in) && ka_tensor_contiguous(&args->out) && n % 4 == 0 &&
               (uintptr_t)args->in.data % 16 == 0 && (uintptr_t)args->out.data % 16 == 0;
  if (!packs) return convert<To, From>(s, args);
  return KA_LAUNCH((k_convert4<To, From>), (unsigned)least(div_up(n, 1024), 16 * s->n_sm), 256, 0,
                   s->stream, (To *)args->out.data, (const From *)args->in.data, n);
}

template <typename To>
cudaError_t convert_to(struct cuda_state *s, const struct ka_copy_args *args) {
  switch (args->in.dtype) {
  case KA_F32:
    return convert<To, float>(s, args);
  case KA_BF16:
    return convert<To, bf16>(s, args);
  case KA_F16:
    return convert<To, __half>(s, args);
  default:
    return convert<To, double>(s, args);
  }
}

cudaError_t same_dtype(struct cuda_state *s, const struct ka_copy_args *args) {
  size_t size = ka_dtype_bytes(args->in.dtype);
  const struct ka_tensor &in = args->in, &out = args->out;
  if (in.data == out.data) return cudaSuccess;
  if (ka_tensor_contiguous(&in) && ka_tensor_contiguous(&out))
    return cudaMemcpyAsync(out.data, in.data, ka_tensor_bytes(&in), cudaMemcpyDefault, s->stream);
  size_t width = (size_t)in.shape[in.n_dim - 1] * size;
  return cudaMemcpy2DAsync(out.data, (size_t)out.row_stride * size, in.data,
                           (size_t)in.row_stride * size, width, ka_tensor_bytes(&in) / width,
                           cudaMemcpyDefault, s->stream);
}

/* out[to[r],:] = scale * in[from[r],:]; NULL lists are r itself; -1 in `from`, or no `in`, gives a
 * row of zeros, -1 in `to` skips the row. A block a row, strided. */
template <typename T, int N>
__global__ void __launch_bounds__(128)
    k_rows(T *out, const int32_t *to, const T *in, const int32_t *from, int64_t n_rows,
           int64_t width, float scale) {
  for (int64_t r = blockIdx.x; r < n_rows; r += gridDim.x) {
    int64_t t = to ? to[r] : r, f = !in ? -1 : from ? from[r] : r;
    if (t < 0) continue;
    for (int64_t c = (int64_t)threadIdx.x * N; c < width; c += 128 * N) {
      float v[N] = {0};
      if (f >= 0) load<N>(v, in + f * width + c);
      if (scale != 1.0f) {
#pragma unroll
        for (int k = 0; k < N; k++) v[k] *= scale;
      }
      store<N>(out + t * width + c, v);
    }
  }
}

ka_status move_rows(struct ka_dev *dev, const char *op, const struct ka_tensor &out,
                    const int32_t *to, const struct ka_tensor &in, const int32_t *from,
                    int64_t n_rows, float scale) {
  struct cuda_state *s = cuda_of(dev);
  int64_t width = out.shape[1];
  KA_BY_TYPE(dev, op, out.dtype, {
    const int N = vec16<T>::N;
    if (n_rows == 0 || width == 0) return KA_STATUS_OK;
    bool packs = width % N == 0 && in_packs(in, N) && in_packs(out, N);
    unsigned grid = (unsigned)least(n_rows, 1 << 20);
    cudaError_t e = packs ? KA_LAUNCH((k_rows<T, N>), grid, 128, 0, s->stream, (T *)out.data, to,
                                      (const T *)in.data, from, n_rows, width, scale)
                          : KA_LAUNCH((k_rows<T, 1>), grid, 128, 0, s->stream, (T *)out.data, to,
                                      (const T *)in.data, from, n_rows, width, scale);
    return cuda_launched(dev, op, e);
  });
}

/* out[r,:] = sum over j of x[rows[r,j],:]. A block a row, strided. */
template <typename T>
__global__ void __launch_bounds__(128)
    k_sum_rows(T *out, const T *x, const int32_t *rows, int64_t n_rows, int64_t J, int64_t width) {
  for (int64_t r = blockIdx.x; r < n_rows; r += gridDim.x)
    for (int64_t c = threadIdx.x; c < width; c += 128) {
      float sum[1] = {0};
      for (int64_t j = 0; j < J; j++) {
        int64_t from = rows[r * J + j];
        float v[1] = {0};
        if (from >= 0) load<1>(v, x + from * width + c);
        sum[0] += v[0];
      }
      store<1>(out + r * width + c, sum);
    }
}

} // namespace

ka_status fill_cuda(struct ka_dev *dev, const struct ka_fill_args *args) {
  struct cuda_state *s = cuda_of(dev);
  uint64_t bits = 0;
  if (ka_tensor_elems(&args->x) == 0) return KA_STATUS_OK;
  ka_data_store(&bits, args->x.dtype, 0, args->value);
  switch (ka_dtype_bytes(args->x.dtype)) {
  case 1:
    return cuda_launched(dev, "fill", fill<uint8_t>(s, args->x, bits));
  case 2:
    return cuda_launched(dev, "fill", fill<uint16_t>(s, args->x, bits));
  case 4:
    return cuda_launched(dev, "fill", fill<uint32_t>(s, args->x, bits));
  default:
    return cuda_launched(dev, "fill", fill<uint64_t>(s, args->x, bits));
  }
}

ka_status copy_cuda(struct ka_dev *dev, const struct ka_copy_args *args) {
  struct cuda_state *s = cuda_of(dev);
  enum ka_dtype in = args->in.dtype, out = args->out.dtype;
  cudaError_t e;
  if (ka_tensor_elems(&args->in) == 0) return KA_STATUS_OK;
  if (in == out)
    e = same_dtype(s, args);
  else if (in == KA_F32 && out == KA_BF16)
    e = convert_fast<bf16, float>(s, args);
  else if (in == KA_BF16 && out == KA_F32)
    e = convert_fast<float, bf16>(s, args);
  else if (out == KA_F32)
    e = convert_to<float>(s, args);
  else if (out == KA_BF16)
    e = convert_to<bf16>(s, args);
  else if (out == KA_F16)
    e = convert_to<__half>(s, args);
  else
    e = convert_to<double>(s, args);
  return cuda_launched(dev, "copy", e);
}

ka_status embed_fwd_cuda(struct ka_dev *dev, const struct ka_embed_fwd_args *args) {
  return move_rows(dev, "embed_fwd", args->out, NULL, args->table, (const int32_t *)args->ids.data,
                   args->out.shape[0], (float)args->scale);
}

ka_status gather_rows_cuda(struct ka_dev *dev, const struct ka_gather_rows_args *args) {
  return move_rows(dev, "gather_rows", args->out, NULL, args->x, (const int32_t *)args->index.data,
                   args->out.shape[0], 1);
}

ka_status scatter_rows_cuda(struct ka_dev *dev, const struct ka_scatter_rows_args *args) {
  size_t n_bytes = ka_tensor_bytes(&args->out);
  if (n_bytes) CU_TRY(dev, cudaMemsetAsync(args->out.data, 0, n_bytes, cuda_of(dev)->stream));
  return move_rows(dev, "scatter_rows", args->out, (const int32_t *)args->index.data, args->x, NULL,
                   args->x.shape[0], 1);
}

ka_status put_rows_cuda(struct ka_dev *dev, const struct ka_put_rows_args *args) {
  return move_rows(dev, "put_rows", args->out, (const int32_t *)args->index.data, args->x, NULL,
                   args->index.shape[0], 1);
}

ka_status sum_rows_cuda(struct ka_dev *dev, const struct ka_sum_rows_args *args) {
  struct cuda_state *s = cuda_of(dev);
  int64_t n_rows = args->out.shape[0], width = args->out.shape[1], J = args->rows.shape[1];
  if (n_rows == 0 || width == 0) return KA_STATUS_OK;
  KA_BY_TYPE(dev, "sum_rows", args->out.dtype, {
    cudaError_t e = KA_LAUNCH(k_sum_rows<T>, (unsigned)least(n_rows, 1 << 20), 128, 0, s->stream,
                              (T *)args->out.data, (const T *)args->x.data,
                              (const int32_t *)args->rows.data, n_rows, J, width);
    return cuda_launched(dev, "sum_rows", e);
  });
}
