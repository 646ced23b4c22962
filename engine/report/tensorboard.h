/* SPDX-License-Identifier: Apache-2.0
 *
 * TensorBoard event files: scalars only. A file is a sequence of TFRecords (tensorflow/core/lib/io/
 * record_writer.h): length u64, masked crc32c of the length, an Event message (tensorflow/core/
 * util/event.proto), masked crc32c of the message. Little-endian. */
#ifndef KAPPA_ENGINE_REPORT_TENSORBOARD_H
#define KAPPA_ENGINE_REPORT_TENSORBOARD_H

#include "base/status.h"

#include <stdio.h>

struct ka_tensorboard {
  FILE *f; /* NULL: closed, and every call is a no-op */
  char path[1024];
};

/* Opens DIR/events.out.tfevents.TIME.HOST, making DIR. `first_step`: points of earlier files from
 * this step on are superseded (TensorBoard drops them); -1 for a fresh run. */
ka_status ka_tb_open(struct ka_ctx *ctx, struct ka_tensorboard *tb, const char *dir,
                     int64_t first_step);
ka_status ka_tb_scalar(struct ka_ctx *ctx, struct ka_tensorboard *tb, const char *tag, int64_t step,
                       double value);
ka_status ka_tb_flush(struct ka_ctx *ctx, struct ka_tensorboard *tb);
void ka_tb_close(struct ka_tensorboard *tb);

/* CRC-32C (Castagnoli, RFC 3720 appendix B.4), and the mask TFRecord files put over it. */
uint32_t ka_crc32c(const void *bytes, size_t n);
uint32_t ka_crc32c_masked(const void *bytes, size_t n);

#endif
