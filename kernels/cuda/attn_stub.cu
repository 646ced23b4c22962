/* SPDX-License-Identifier: Apache-2.0
 * local only */
#include "kernels/cuda/cuda.h"
ka_status attn_fwd_cuda(struct ka_dev *dev, const struct ka_attn_fwd_args *a) { return cuda_unsupported(dev, "attn", a->q.dtype); }
ka_status attn_bwd_cuda(struct ka_dev *dev, const struct ka_attn_bwd_args *a) { return cuda_unsupported(dev, "attn", a->q.dtype); }
