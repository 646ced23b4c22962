/* SPDX-License-Identifier: Apache-2.0
 * Rotary position embedding (Su et al. 2021, eq. 34), in place. */
#include "kernels/ref/ref.h"

ka_status rope_ref(struct ka_dev *dev, const struct ka_rope_args *args) {
  (void)dev;
  int64_t n_tok = args->x.shape[0], n_heads = args->x.shape[1], d = args->x.shape[2];
  int64_t n_pairs = args->cos.shape[1];
#pragma omp parallel for
  for (int64_t t = 0; t < n_tok; t++) {
    int64_t pos = get_id(&args->pos, t);
    for (int64_t h = 0; h < n_heads; h++)
      for (int64_t i = 0; i < n_pairs; i++) {
        int64_t head = (t * n_heads + h) * d + args->first;
        int64_t ia = head + (args->interleaved ? 2 * i : i);
        int64_t ib = head + (args->interleaved ? 2 * i + 1 : i + n_pairs);
        double cos = get2(&args->cos, pos, i), sin = get2(&args->sin, pos, i);
        if (args->inverse) sin = -sin;
        double a = get(&args->x, ia), b = get(&args->x, ib);
        put(&args->x, ia, a * cos - b * sin);
        put(&args->x, ib, b * cos + a * sin);
      }
  }
  return KA_STATUS_OK;
}
