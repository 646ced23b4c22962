/* SPDX-License-Identifier: Apache-2.0
 * Names, the device handle, and the wrappers: check once, call the slot, count for the profiler. */
#include "kernels/ops.h"

#include "base/log.h"
#include "kernels/check.h"

#include <string.h>

static const struct {
  const char *name, *summary;
  enum ka_op_class class;
} ops[KA_N_OPS] = {
#define KA_OP(name, class, summary) [KA_OP_##name] = {#name, summary, KA_CLASS_##class},
#include "kernels/ops.def"
#undef KA_OP
};

const char *ka_op_name(enum ka_op op) { return ops[op].name; }
const char *ka_op_summary(enum ka_op op) { return ops[op].summary; }
enum ka_op_class ka_op_class_of(enum ka_op op) { return ops[op].class; }

bool ka_op_overridden(const struct ka_backend *backend, enum ka_op op) {
  switch (op) {
#define KA_OP(name, class, summary)                                                                \
  case KA_OP_##name:                                                                               \
    return backend->ops.name != ka_backend_ref.ops.name;
#include "kernels/ops.def"
#undef KA_OP
  case KA_N_OPS:
    break;
  }
  return false;
}

ka_status ka_dev_open(struct ka_ctx *ctx, struct ka_dev *dev, const char *name) {
  static const struct ka_backend *const backends[] = {&ka_backend_cpu, &ka_backend_ref};
  *dev = (struct ka_dev){.ctx = ctx};
  for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
    if (strcmp(name, backends[i]->name) == 0 || strcmp(name, "auto") == 0) {
      dev->backend = backends[i];
      ka_status st = backends[i]->open ? backends[i]->open(dev) : KA_STATUS_OK;
      if (!ka_ok(st)) ka_dev_close(dev);
      return st;
    }
  return ka_fail(ctx, KA_E_DEVICE, "device \"%s\": this build has no such back end, expected %s",
                 name, "auto, cpu or ref");
}

void ka_dev_close(struct ka_dev *dev) {
  if (dev->backend && dev->backend->close) dev->backend->close(dev);
  dev->backend = NULL;
  dev->state = NULL;
}

ka_status ka_dev_sync(struct ka_dev *dev) {
  return dev->backend->sync ? dev->backend->sync(dev) : KA_STATUS_OK;
}

size_t ka_pack_bytes(struct ka_dev *dev, const struct ka_pack_args *args) {
  return dev->backend->pack_bytes ? dev->backend->pack_bytes(dev, args) : 0;
}

static ka_status profile(struct ka_dev *dev, enum ka_op op, double start, double flops,
                         double bytes) {
  struct ka_profile_row *row = dev->profile ? &dev->profile[op] : NULL;
  if (!row) return KA_STATUS_OK;
  row->calls++;
  row->seconds += ka_now_s() - start;
  row->flops += flops;
  row->bytes += bytes;
  return KA_STATUS_OK;
}

#define KA_OP(name, class, summary)                                                                \
  ka_status ka_##name(struct ka_dev *dev, const struct ka_##name##_args *args) {                   \
    struct ka_ctx *ctx = dev->ctx;                                                                 \
    double start = dev->profile ? ka_now_s() : 0, flops = 0, bytes = 0;                            \
    KA_TRY(ka_check_operands(ctx, KA_OP_##name, args));                                            \
    KA_TRY(ka_##name##_check(dev, args));                                                          \
    KA_TRY(dev->backend->ops.name(dev, args));                                                     \
    if (dev->profile) ka_##name##_cost(args, &flops, &bytes);                                      \
    return profile(dev, KA_OP_##name, start, flops, bytes);                                        \
  }
#include "kernels/ops.def"
#undef KA_OP
