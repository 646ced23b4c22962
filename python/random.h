/* SPDX-License-Identifier: Apache-2.0
 *
 * Python's random.Random (Matsumoto and Nishimura 1998, seeded by an integer), as far as evaluation
 * needs it to draw what the harness draws. */
#ifndef KAPPA_PYTHON_RANDOM_H
#define KAPPA_PYTHON_RANDOM_H

#include "base/status.h"

struct ka_py_mt {
  uint32_t state[624];
  int next;
};

void ka_py_mt_seed(struct ka_py_mt *mt, uint64_t seed); /* Random(seed) */
double ka_py_mt_random(struct ka_py_mt *mt);            /* random(), [0, 1) */
int64_t ka_py_mt_choice_index(struct ka_py_mt *mt,
                              double n); /* of choices(): floor(random() * n) */

/* sample(range(n), k) into out[k]; 0 <= k <= n < 2^32. */
ka_status ka_py_mt_sample(struct ka_ctx *ctx, struct ka_py_mt *mt, int64_t n, int64_t k,
                          int64_t *out);

#endif
