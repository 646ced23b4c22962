/* SPDX-License-Identifier: Apache-2.0
 * The engine that the tests of spectra are about: that of $KAPPA_TEST_DEVICE, default the host's.
 */
#ifndef KAPPA_TESTS_SPECTRAL_ENGINE_H
#define KAPPA_TESTS_SPECTRAL_ENGINE_H

#include "kernels/device.h"
#include "linalg/dense.h"
#include "tests/support/test.h"

/* Opens the device once; it stays open. */
static inline struct ka_linalg_engine t_engine(struct ka_ctx *ctx) {
  static struct ka_dev dev;
  if (!dev.backend) T_OK(ka_dev_open(ctx, &dev, t_device()));
  return ka_linalg_engine_of(&dev);
}

#endif
