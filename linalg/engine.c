/* SPDX-License-Identifier: Apache-2.0
 * Which engine a device's spectra take. Many GPUs compute float64 at a 32nd or 64th of their
 * float32 rate, less than the processor beside them; so both are measured, once. */
#include "linalg/dense.h"

#include "base/log.h"
#include "kernels/device.h"

#include <string.h>

enum { HOST_M = 512, DEVICE_M = 2048 }; /* large enough to reach the rate */

static const double FEW_FLOPS = 2e10; /* about a second of a core */

struct ka_linalg_engine ka_linalg_engine_of(struct ka_dev *dev) {
  const struct ka_dense *dense = dev ? dev->backend->dense : NULL;
  return dense ? (struct ka_linalg_engine){dense, NULL, dev} : ka_linalg_engine_cpu();
}

const char *ka_linalg_engine_name(const struct ka_linalg_engine *engine) {
  return engine->blas ? engine->blas->name : engine->dense->name;
}

static ka_status measure(struct ka_ctx *ctx, struct ka_dev *dev) {
  struct ka_linalg_engine host = ka_linalg_engine_cpu(), own = ka_linalg_engine_of(dev);
  if (dev->f64_flops[0] > 0) return KA_STATUS_OK;
  KA_TRY(own.dense->rate(ctx, &own, DEVICE_M, &dev->f64_flops[1]));
  KA_TRY(host.dense->rate(ctx, &host, HOST_M, &dev->f64_flops[0]));
  return KA_STATUS_OK;
}

ka_status ka_linalg_engine_choose(struct ka_ctx *ctx, struct ka_dev *dev, double flops,
                                  struct ka_linalg_engine *out) {
  *out = flops < FEW_FLOPS ? ka_linalg_engine_cpu() : ka_linalg_engine_of(dev);
  if (out->blas) return KA_STATUS_OK;
  KA_TRY(measure(ctx, dev));
  const double *rate = dev->f64_flops;
  if (rate[1] < rate[0]) *out = ka_linalg_engine_cpu();
  ka_info(ctx, "spectral",
          "float64 products at %.0f Gflop/s on the device, %.0f on the processor: "
          "spectra by %s",
          rate[1] * 1e-9, rate[0] * 1e-9, ka_linalg_engine_name(out));
  return KA_STATUS_OK;
}
