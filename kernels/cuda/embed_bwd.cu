/* SPDX-License-Identifier: Apache-2.0
 * Gradient of the embedding table: rows of repeated tokens add up in the order of the tokens,
 * without atomics and without sorting.
 *
 * A block a token. If the same id occurs before it, the block is done: the block of the first
 * occurrence does the work of all. It looks through the ids 256 at a time, lists the matches in
 * order, and adds their rows, a thread a column. Bytes moved: dout once, the touched rows of dtable
 * once a 256 tokens that hold a match; N^2/2 ids from the cache. */
#include "kernels/cuda/device.cuh"

namespace {

template <typename T> struct scatter {
  float *dtable;
  const T *dout;
  const int32_t *ids;
  int64_t n_tok, n_ids, width, stride;
  int first_id;
  float scale;
};

template <typename T> __global__ void __launch_bounds__(256) k_embed_bwd(scatter<T> a) {
  KA_SHARED(int, list, 256);
  KA_SHARED(int, before, 9);
  int64_t token = blockIdx.x;
  int id = a.ids[token], lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t row = (int64_t)id - a.first_id;
  if (row < 0 || row >= a.n_ids) return; /* all threads alike */
  int seen = 0;
  for (int64_t j = threadIdx.x; j < token && !seen; j += 256) seen = a.ids[j] == id;
  if (__syncthreads_or(seen)) return;
  float *to = a.dtable + row * a.width;
  for (int64_t first = token; first < a.n_tok; first += 256) {
    int64_t j = first + threadIdx.x;
    bool match = j < a.n_tok && a.ids[j] == id;
    unsigned votes = __ballot_sync(0xffffffffu, match);
    if (lane == 0) before[warp + 1] = __popc(votes);
    if (threadIdx.x == 0) before[0] = 0;
    __syncthreads();
    int at = __popc(votes & ((1u << lane) - 1));
    for (int w = 0; w <= warp; w++) at += before[w];
    if (match) list[at] = (int)(j - first);
    int n = 0;
    for (int w = 0; w < 9; w++) n += before[w];
    __syncthreads();
    for (int64_t c = threadIdx.x; c < a.width && n > 0; c += 256) {
      float sum = to[c];
      for (int k = 0; k < n; k++)
        sum += a.scale * to_float(a.dout[(first + list[k]) * a.stride + c]);
      to[c] = sum;
    }
    __syncthreads();
  }
}

} // namespace

ka_status embed_bwd_cuda(struct ka_dev *dev, const struct ka_embed_bwd_args *args) {
  struct cuda_state *s = cuda_of(dev);
  int64_t n_tok = args->dout.shape[0], width = args->dout.shape[1];
  KA_BY_TYPE(dev, "embed_bwd", args->dout.dtype, {
    scatter<T> a = {(float *)args->dtable.data,
                    (const T *)args->dout.data,
                    (const int32_t *)args->ids.data,
                    n_tok,
                    args->dtable.shape[0],
                    width,
                    args->dout.row_stride,
                    (int)args->first_id,
                    (float)args->scale};
    if (n_tok == 0 || width == 0) return KA_STATUS_OK;
    return cuda_launched(dev, "embed_bwd",
                         KA_LAUNCH((k_embed_bwd<T>), (unsigned)n_tok, 256, 0, s->stream, a));
  });
}
