/* SPDX-License-Identifier: Apache-2.0
 *
 * kappa bench: one function a kind of bench, and what they share: the machine's limits, measured in
 * the same run as everything that is compared with them. */
#ifndef KAPPA_ENGINE_CLI_BENCH_H
#define KAPPA_ENGINE_CLI_BENCH_H

#include "engine/cli/cli.h"
#include "kernels/device.h"

struct bench_limits {
  double gemm_flops[KA_N_DTYPES]; /* a second, f32 and bf16: the better of two large matmuls */
  double bytes;                   /* a second, by a copy and add over arrays beyond the caches */
};

/* Takes about a second. */
ka_status bench_measure_limits(struct ka_dev *dev, struct bench_limits *out);

ka_status bench_ops(struct ka_ctx *ctx, const struct ka_cli *cli);
ka_status bench_train(struct ka_ctx *ctx, const struct ka_cli *cli);
ka_status bench_spectral(struct ka_ctx *ctx, const struct ka_cli *cli);

#endif
