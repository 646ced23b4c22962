/* SPDX-License-Identifier: Apache-2.0
 * The reference back end's table. */
#include "kernels/ref/ref.h"

#include <stdio.h>

static void describe(struct ka_dev *dev, char *text, size_t n) {
  (void)dev;
  snprintf(text, n, "plain C, double accumulation");
}

const struct ka_backend ka_backend_ref = {
    .name = "ref",
    .ops =
        {
#define KA_OP(name, ...) .name = name##_ref,
#include "kernels/ops.def"
#undef KA_OP
        },
    .describe = describe,
};
