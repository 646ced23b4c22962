/* SPDX-License-Identifier: Apache-2.0
 * Names, and the wrappers: check once, call the slot, count for the profiler. */
#include "base/log.h"
#include "kernels/check.h"
#include "kernels/device.h"

#include <string.h>

static const struct {
  const char *name;
  enum ka_op_class class;
} ops[KA_N_OPS] = {
#define KA_OP(name, class, flops, summary, ...) [KA_OP_##name] = {#name, KA_CLASS_##class},
#include "kernels/ops.def"
#undef KA_OP
};

const char *ka_op_name(enum ka_op op) { return ops[op].name; }
enum ka_op_class ka_op_class_of(enum ka_op op) { return ops[op].class; }

bool ka_op_overridden(const struct ka_backend *backend, enum ka_op op) {
  switch (op) {
#define KA_OP(name, ...)                                                                           \
  case KA_OP_##name:                                                                               \
    return backend->ops.name != ka_backend_ref.ops.name;
#include "kernels/ops.def"
#undef KA_OP
  case KA_N_OPS:
    break;
  }
  return false;
}

size_t ka_pack_bytes(struct ka_dev *dev, const struct ka_pack_args *args) {
  return dev->backend->pack_bytes ? dev->backend->pack_bytes(dev, args) : 0;
}

/* An empty slot's status. */
static ka_status missing(const struct ka_dev *dev, enum ka_op op) {
  return ka_fail(dev->ctx, KA_E_UNSUPPORTED,
                 "%s: the back end %s does not have it; `kappa doctor` lists what it has",
                 ka_op_name(op), dev->backend->name);
}

static ka_status profile(struct ka_dev *dev, enum ka_op op, double start, double flops,
                         double bytes) {
  struct ka_ctx *ctx = dev->ctx;
  struct ka_profile_row *row = &dev->profile[op];
  KA_TRY(ka_dev_sync(dev));
  row->calls++;
  row->seconds += ka_now_s() - start;
  row->flops += flops;
  row->bytes += bytes;
  return KA_STATUS_OK;
}

#define KA_OP(name, ...)                                                                           \
  ka_status ka_##name(struct ka_dev *dev, const struct ka_##name##_args *args) {                   \
    struct ka_ctx *ctx = dev->ctx;                                                                 \
    double start = dev->profile ? ka_now_s() : 0, flops = 0, bytes = 0;                            \
    KA_TRY(ka_check_operands(ctx, KA_OP_##name, args));                                            \
    KA_TRY(ka_check_relations(dev, KA_OP_##name, args));                                           \
    if (!dev->backend->ops.name) return missing(dev, KA_OP_##name);                                \
    KA_TRY(dev->backend->ops.name(dev, args));                                                     \
    if (!dev->profile) return KA_STATUS_OK;                                                        \
    ka_op_cost(KA_OP_##name, args, &flops, &bytes);                                                \
    return profile(dev, KA_OP_##name, start, flops, bytes);                                        \
  }
#include "kernels/ops.def"
#undef KA_OP

/* A list of calls of one op: checked one by one, then one launch where the back end has it. */
#define LIST(name)                                                                                 \
  ka_status ka_##name##_list(struct ka_dev *dev, const struct ka_##name##_args *args, int64_t n) { \
    struct ka_ctx *ctx = dev->ctx;                                                                 \
    bool one_by_one = !dev->backend->name##_list || dev->profile;                                  \
    for (int64_t i = 0; i < n && one_by_one; i++) KA_TRY(ka_##name(dev, &args[i]));                \
    if (one_by_one) return KA_STATUS_OK;                                                           \
    for (int64_t i = 0; i < n; i++) {                                                              \
      KA_TRY(ka_check_operands(ctx, KA_OP_##name, &args[i]));                                      \
      KA_TRY(ka_check_relations(dev, KA_OP_##name, &args[i]));                                     \
    }                                                                                              \
    return dev->backend->name##_list(dev, args, n);                                                \
  }
LIST(adamw)
LIST(sumsq)
