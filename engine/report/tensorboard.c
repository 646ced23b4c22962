/* SPDX-License-Identifier: Apache-2.0
 * TensorBoard event files; see tensorboard.h. The few protobuf fields needed are written by hand:
 * Event {double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5;
 * SessionLog session_log = 7}, Summary {Value value = 1}, Value {string tag = 1; float
 * simple_value = 2}, SessionLog {enum status = 1; START = 1}. */
#include "engine/report/tensorboard.h"

#include "base/file.h"

#include <errno.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

uint32_t ka_crc32c(const void *bytes, size_t n) {
  const unsigned char *p = bytes;
  uint32_t crc = 0xffffffffu;
  for (size_t i = 0; i < n; i++) {
    crc ^= p[i];
    for (int k = 0; k < 8; k++) crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1u)));
  }
  return ~crc;
}

uint32_t ka_crc32c_masked(const void *bytes, size_t n) {
  uint32_t crc = ka_crc32c(bytes, n);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

/* A message being built; scalars with short tags fit, longer tags are cut by tensorboard's user. */
struct message {
  unsigned char data[512];
  size_t len;
};

static void put_raw(struct message *m, const void *bytes, size_t n) {
  if (m->len + n > sizeof m->data) return;
  memcpy(m->data + m->len, bytes, n);
  m->len += n;
}

static void put_varint(struct message *m, uint64_t v) {
  for (; v > 127; v >>= 7) put_raw(m, &(unsigned char){(unsigned char)(v | 128)}, 1);
  put_raw(m, &(unsigned char){(unsigned char)v}, 1);
}

static void put_key(struct message *m, unsigned field, unsigned wire) {
  put_varint(m, field << 3 | wire);
}

static void put_bytes(struct message *m, unsigned field, const void *bytes, size_t n) {
  put_key(m, field, WIRE_BYTES);
  put_varint(m, n);
  put_raw(m, bytes, n);
}

static struct message event_begin(int64_t step) {
  struct message m = {.len = 0};
  struct timeval now;
  gettimeofday(&now, NULL);
  double wall_time = (double)now.tv_sec + 1e-6 * (double)now.tv_usec;
  put_key(&m, 1, WIRE_64);
  put_raw(&m, &wall_time, sizeof wall_time);
  if (step > 0) {
    put_key(&m, 2, WIRE_VARINT);
    put_varint(&m, (uint64_t)step);
  }
  return m;
}

static ka_status write_record(struct ka_ctx *ctx, struct ka_tensorboard *tb,
                              const struct message *m) {
  uint64_t len = m->len;
  uint32_t len_crc = ka_crc32c_masked(&len, sizeof len);
  uint32_t data_crc = ka_crc32c_masked(m->data, m->len);
  bool good = fwrite(&len, sizeof len, 1, tb->f) == 1 &&
              fwrite(&len_crc, sizeof len_crc, 1, tb->f) == 1 &&
              fwrite(m->data, 1, m->len, tb->f) == m->len &&
              fwrite(&data_crc, sizeof data_crc, 1, tb->f) == 1;
  if (!good) return ka_fail(ctx, KA_E_IO, "%s: write failed: %s", tb->path, strerror(errno));
  return KA_STATUS_OK;
}

ka_status ka_tb_open(struct ka_ctx *ctx, struct ka_tensorboard *tb, const char *dir,
                     int64_t first_step) {
  char host[128] = "localhost";
  struct timeval now;
  tb->f = NULL;
  gettimeofday(&now, NULL);
  if (gethostname(host, sizeof host - 1) != 0) strcpy(host, "localhost");
  KA_TRY(ka_make_dirs(ctx, dir));
  /* Microseconds and the process in the name: a resumed run never writes into an earlier file. */
  snprintf(tb->path, sizeof tb->path, "%s/events.out.tfevents.%lld.%s.%06ld.%ld", dir,
           (long long)now.tv_sec, host, (long)now.tv_usec, (long)getpid());
  tb->f = fopen(tb->path, "wb");
  if (!tb->f) return ka_fail(ctx, KA_E_IO, "%s: %s", tb->path, strerror(errno));
  struct message m = event_begin(0);
  put_bytes(&m, 3, "brain.Event:2", 13);
  KA_TRY(write_record(ctx, tb, &m));
  if (first_step < 0) return ka_tb_flush(ctx, tb);
  m = event_begin(first_step);
  put_bytes(&m, 7, "\x08\x01", 2);
  KA_TRY(write_record(ctx, tb, &m));
  return ka_tb_flush(ctx, tb);
}

ka_status ka_tb_scalar(struct ka_ctx *ctx, struct ka_tensorboard *tb, const char *tag, int64_t step,
                       double value) {
  if (!tb->f) return KA_STATUS_OK;
  struct message entry = {.len = 0}, summary = {.len = 0};
  float f = (float)value;
  size_t n = strlen(tag);
  put_bytes(&entry, 1, tag, n < 200 ? n : 200);
  put_key(&entry, 2, WIRE_32);
  put_raw(&entry, &f, sizeof f);
  put_bytes(&summary, 1, entry.data, entry.len);
  struct message m = event_begin(step);
  put_bytes(&m, 5, summary.data, summary.len);
  return write_record(ctx, tb, &m);
}

ka_status ka_tb_flush(struct ka_ctx *ctx, struct ka_tensorboard *tb) {
  if (tb->f && fflush(tb->f) != 0)
    return ka_fail(ctx, KA_E_IO, "%s: write failed: %s", tb->path, strerror(errno));
  return KA_STATUS_OK;
}

void ka_tb_close(struct ka_tensorboard *tb) {
  if (tb->f) fclose(tb->f);
  tb->f = NULL;
}
