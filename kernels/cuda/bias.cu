/* SPDX-License-Identifier: Apache-2.0
 * bias_bwd: column sums of the output's gradient. Reads dout once. */
#include "kernels/cuda/columns.cuh"

namespace {
template <typename T> struct dout_at {
  const T *dout;
  int64_t stride;
  __device__ float at(int64_t r, int64_t c) const { return to_float(dout[r * stride + c]); }
};
} // namespace

ka_status bias_bwd_cuda(struct ka_dev *dev, const struct ka_bias_bwd_args *args) {
  int64_t n_rows = args->dout.shape[0], width = args->dout.shape[1];
  KA_BY_TYPE(dev, "bias_bwd", args->dout.dtype, {
    dout_at<T> f = {(const T *)args->dout.data, args->dout.row_stride};
    return column_sums(dev, "bias_bwd", (float *)args->dbias.data, n_rows, width, f);
  });
}
