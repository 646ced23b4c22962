/* SPDX-License-Identifier: Apache-2.0
 * Devices by name, their memory, copies with conversion, replays; see device.h. */
#include "kernels/device.h"

#include "base/log.h"
#include "base/str.h"
#include "kernels/cuda/facts.h"

#include <stdlib.h>
#include <string.h>

/* Conversions on the way to or from a device's own memory go through so much of its memory. */
enum { BOUNCE_BYTES = 4 << 20 };

/* --- opening ---------------------------------------------------------------------------------- */

static ka_status alloc_in(struct ka_dev *dev, enum ka_place place, void **out, size_t n_bytes,
                          const char *name) {
  return dev->backend->alloc(dev, place, out, n_bytes, name);
}
static ka_status alloc_device(void *dev, void **out, size_t n_bytes, const char *name) {
  return alloc_in(dev, KA_PLACE_DEVICE, out, n_bytes, name);
}
static ka_status alloc_pinned(void *dev, void **out, size_t n_bytes, const char *name) {
  return alloc_in(dev, KA_PLACE_PINNED, out, n_bytes, name);
}
static void release_device(void *user, void *p) {
  struct ka_dev *dev = user;
  dev->backend->release(dev, KA_PLACE_DEVICE, p);
}
static void release_pinned(void *user, void *p) {
  struct ka_dev *dev = user;
  dev->backend->release(dev, KA_PLACE_PINNED, p);
}

static ka_status open_backend(struct ka_dev *dev, const struct ka_backend *backend) {
  dev->backend = backend;
  dev->memory[KA_PLACE_DEVICE] = (struct ka_memory){dev, 256, alloc_device, release_device};
  dev->memory[KA_PLACE_PINNED] = (struct ka_memory){dev, 256, alloc_pinned, release_pinned};
  ka_status st = backend->open ? backend->open(dev) : KA_STATUS_OK;
  if (ka_ok(st) && backend->own_memory && !dev->imagined) {
    st = alloc_in(dev, KA_PLACE_DEVICE, &dev->bounce, BOUNCE_BYTES, "conversion");
    dev->own_bytes += BOUNCE_BYTES;
    dev->free_bytes -= dev->free_bytes < BOUNCE_BYTES ? dev->free_bytes : BOUNCE_BYTES;
  }
  if (!ka_ok(st)) ka_dev_close(dev);
  return st;
}

static ka_status no_memory(struct ka_dev *dev, enum ka_place place, void **out, size_t n_bytes,
                           const char *name) {
  (void)place, (void)out, (void)n_bytes;
  return ka_fail(dev->ctx, KA_E_DEVICE, "%s: this device is there to plan for, not to compute on",
                 name);
}

/* "80GB", "80GiB", "141e9": bytes; 0 when it is none of that. */
static double parse_bytes(const char *text) {
  static const struct {
    const char *unit;
    double factor;
  } units[] = {{"GB", 1e9},     {"GiB", 0x1p30}, {"G", 0x1p30}, {"MB", 1e6},
               {"MiB", 0x1p20}, {"M", 0x1p20},   {"", 1}};
  char *end = NULL;
  double n = strtod(text, &end);
  for (size_t i = 0; i < sizeof units / sizeof *units && end != text && n > 0; i++)
    if (strcmp(end, units[i].unit) == 0) return n * units[i].factor;
  return 0;
}

static const struct ka_backend imagined = {.name = "cuda",
                                           .few_shapes = true,
                                           .queues = true,
                                           .big = true,
                                           .own_memory = true,
                                           .alloc = no_memory};

static ka_status open_imagined(struct ka_dev *dev, const char *size) {
  double n_bytes = parse_bytes(size);
  if (*size && strspn(size, "0123456789") == strlen(size) && n_bytes < 1e6)
    return ka_fail(dev->ctx, KA_E_USAGE,
                   "device \"cuda:%s\": devices have no numbers here; choose one by "
                   "CUDA_VISIBLE_DEVICES=%s and device cuda (cuda:80GB is a size of memory to plan "
                   "for)",
                   size, size);
  if (!(n_bytes >= 1e6 && n_bytes < 1e15))
    return ka_fail(dev->ctx, KA_E_USAGE,
                   "device \"cuda:%s\": expected a size of memory as in cuda:80GB", size);
  dev->imagined = true;
  dev->has_bf16 = true;
  dev->own_bytes = CUDA_SCRATCH_BYTES + CUDA_WORKSPACE_BYTES + BOUNCE_BYTES;
  double taken = (double)(dev->own_bytes + CUDA_CONTEXT_BYTES) + n_bytes / CUDA_SPARE_PART;
  dev->free_bytes = n_bytes > taken ? (size_t)(n_bytes - taken) : 0;
  return open_backend(dev, &imagined);
}

static ka_status open_cuda(struct ka_dev *dev) {
  struct ka_ctx *ctx = dev->ctx;
  const struct ka_plugin *plugin = NULL;
  KA_TRY(ka_plugin_load(ctx, "cuda", &plugin));
  return open_backend(dev, plugin->backend);
}

/* Back ends that are part of the program. */
static const struct ka_backend *const built_in[] = {&ka_backend_cpu, &ka_backend_ref};
enum { N_BUILT_IN = sizeof built_in / sizeof *built_in };

static const struct ka_backend *built_in_of(const char *name) {
  for (int i = 0; i < N_BUILT_IN; i++)
    if (strcmp(built_in[i]->name, name) == 0) return built_in[i];
  return NULL;
}

ka_status ka_dev_open(struct ka_ctx *ctx, struct ka_dev *dev, const char *name) {
  *dev = (struct ka_dev){.ctx = ctx};
  if (built_in_of(name)) return open_backend(dev, built_in_of(name));
  if (strcmp(name, "cuda") == 0) return open_cuda(dev);
  if (ka_starts_with(name, "cuda:")) return open_imagined(dev, name + 5);
  if (strcmp(name, "auto") != 0)
    return ka_fail(ctx, KA_E_DEVICE, "device \"%s\": expected auto, cpu, cuda, ref or cuda:80GB",
                   name);
  if (ka_plugin_likely("cuda") && ka_ok(open_cuda(dev))) return KA_STATUS_OK;
  ka_debug(ctx, "device", "cpu, because: %s",
           ctx->error.message[0] ? ctx->error.message : "there is no NVIDIA driver");
  ka_error_clear(ctx);
  return open_backend(dev, &ka_backend_cpu);
}

static ka_status find_cuda(struct ka_ctx *ctx, const struct ka_backend **out) {
  struct ka_dev dev = {.ctx = ctx};
  const struct ka_plugin *plugin = NULL;
  KA_TRY(ka_plugin_load(ctx, "cuda", &plugin));
  *out = plugin->backend;
  return plugin->backend->find ? plugin->backend->find(&dev) : KA_STATUS_OK;
}

ka_status ka_dev_find(struct ka_ctx *ctx, const char *name, const struct ka_backend **out) {
  if (strcmp(name, "cuda") == 0) return find_cuda(ctx, out);
  if (strcmp(name, "auto") == 0 && ka_plugin_likely("cuda") && ka_ok(find_cuda(ctx, out)))
    return KA_STATUS_OK;
  if (strcmp(name, "auto") == 0) ka_error_clear(ctx);
  *out = ka_starts_with(name, "cuda:") ? &imagined : built_in_of(name);
  if (!*out) *out = &ka_backend_cpu;
  return KA_STATUS_OK;
}

void ka_dev_close(struct ka_dev *dev) {
  if (dev->backend && dev->bounce) dev->backend->release(dev, KA_PLACE_DEVICE, dev->bounce);
  if (dev->backend && dev->backend->close) dev->backend->close(dev);
  dev->backend = NULL;
  dev->state = dev->bounce = NULL;
}

ka_status ka_dev_sync(struct ka_dev *dev) {
  return dev->backend->sync ? dev->backend->sync(dev) : KA_STATUS_OK;
}

ka_status ka_dev_choices_get(struct ka_dev *dev, struct ka_str *text) {
  return dev->backend->choices_get ? dev->backend->choices_get(dev, text) : KA_STATUS_OK;
}

ka_status ka_dev_choices_set(struct ka_dev *dev, const char *text) {
  return dev->backend->choices_set ? dev->backend->choices_set(dev, text) : KA_STATUS_OK;
}

const struct ka_memory *ka_dev_memory(struct ka_dev *dev, enum ka_place place) {
  return ka_dev_own_memory(dev) ? &dev->memory[place] : NULL;
}

/* --- facts ------------------------------------------------------------------------------------ */

int64_t ka_dev_round(const struct ka_dev *dev, int64_t n, int64_t most) {
  int64_t unit = most / 32 > 64 ? most / 32 : 64;
  return dev->backend->few_shapes ? (n + unit - 1) / unit * unit : n;
}

int64_t ka_dev_piece(const struct ka_dev *dev, int64_t n) {
  int64_t piece = 1;
  if (!dev->backend->few_shapes) return n;
  while (2 * piece <= n) piece *= 2;
  return piece;
}

/* The best of a few products of this size: its rate and how long it took. */
static ka_status measure_product(struct ka_dev *dev, enum ka_dtype t, int64_t n, double *flops,
                                 double *best_s) {
  enum { TIMES = 4 };
  struct ka_ctx *ctx = dev->ctx;
  struct ka_tensor x[3];
  struct ka_arena a;
  size_t n_bytes = (size_t)(n * n) * ka_dtype_bytes(t);
  KA_TRY(ka_arena_init_fixed(&a, ctx, "rate of products", 3 * n_bytes,
                             ka_dev_memory(dev, KA_PLACE_DEVICE)));
  ka_status st = KA_STATUS_OK;
  for (int i = 0; i < 3; i++) {
    KA_TRY_GOTO(ka_tensor_alloc(&a, &x[i], "x", t, 2, (int64_t[]){n, n}), out);
    KA_TRY_GOTO(ka_fill(dev, &(struct ka_fill_args){.x = x[i], .value = 0.5}), out);
  }
  const struct ka_matmul_args args = {.out = x[0], .a = x[1], .b = x[2], .trans_b = true};
  for (int i = 0; i < TIMES; i++) {
    KA_TRY_GOTO(ka_dev_sync(dev), out);
    double begin = ka_now_s();
    KA_TRY_GOTO(ka_matmul(dev, &args), out);
    KA_TRY_GOTO(ka_dev_sync(dev), out);
    double took = ka_now_s() - begin;
    if (i == 0 || took < *best_s) *best_s = took;
  }
  *flops = 2.0 * (double)n * (double)n * (double)n / *best_s;
out:
  ka_arena_deinit(&a);
  return st;
}

ka_status ka_dev_matmul_rate(struct ka_dev *dev, enum ka_dtype t, int64_t n, double *flops) {
  enum { FIRST = 1024, LARGEST = 8192 };
  static const double QUICK_S = 2e-3; /* below it a device is not at its rate yet */
  struct ka_ctx *ctx = dev->ctx;
  double took = 0;
  *flops = 0;
  if (n > 0) return measure_product(dev, t, n, flops, &took);
  for (n = FIRST; n <= LARGEST; n *= 2) {
    KA_TRY(measure_product(dev, t, n, flops, &took));
    if (!ka_dev_big(dev) || took > QUICK_S) break;
  }
  return KA_STATUS_OK;
}

/* --- copies ----------------------------------------------------------------------------------- */

ka_status ka_dev_upload(struct ka_dev *dev, void *to, const void *from, size_t n_bytes) {
  if (n_bytes == 0) return KA_STATUS_OK;
  if (ka_dev_own_memory(dev)) return dev->backend->upload(dev, to, from, n_bytes);
  memmove(to, from, n_bytes);
  return KA_STATUS_OK;
}

ka_status ka_dev_download(struct ka_dev *dev, void *to, const void *from, size_t n_bytes) {
  if (n_bytes == 0) return KA_STATUS_OK;
  if (ka_dev_own_memory(dev)) return dev->backend->download(dev, to, from, n_bytes);
  memmove(to, from, n_bytes);
  return KA_STATUS_OK;
}

/* A tensor of any rank as rows of its last dimension; all of it one row when it is contiguous. */
static struct ka_tensor rows_of(struct ka_tensor t, bool flat) {
  int64_t n = ka_tensor_elems(&t), width = t.n_dim ? t.shape[t.n_dim - 1] : 1;
  if (flat) return ka_tensor_2d(t.data, t.dtype, 1, n);
  struct ka_tensor m = ka_tensor_2d(t.data, t.dtype, width ? n / width : 0, width);
  m.row_stride = t.row_stride;
  return m;
}

static void *at(const struct ka_tensor *t, int64_t row, int64_t col) {
  return (char *)t->data + (size_t)(row * t->row_stride + col) * ka_dtype_bytes(t->dtype);
}

/* n elements between the host and the device, by way of the bounce buffer when they change dtype.
 */
static ka_status move(struct ka_dev *dev, bool up, struct ka_tensor to, struct ka_tensor from) {
  struct ka_ctx *ctx = dev->ctx;
  size_t n_bytes = ka_tensor_bytes(&to);
  if (to.dtype == from.dtype)
    return up ? ka_dev_upload(dev, to.data, from.data, n_bytes)
              : ka_dev_download(dev, to.data, from.data, n_bytes);
  struct ka_tensor middle = ka_tensor_1d(dev->bounce, up ? from.dtype : to.dtype, to.shape[0]);
  if (up) KA_TRY(ka_dev_upload(dev, middle.data, from.data, ka_tensor_bytes(&from)));
  KA_TRY(ka_copy(dev, &(struct ka_copy_args){.out = up ? to : middle, .in = up ? middle : from}));
  return up ? KA_STATUS_OK : ka_dev_download(dev, to.data, middle.data, n_bytes);
}

static ka_status move_rows(struct ka_dev *dev, bool up, struct ka_tensor to,
                           struct ka_tensor from) {
  struct ka_ctx *ctx = dev->ctx;
  bool flat = ka_tensor_contiguous(&to) && ka_tensor_contiguous(&from);
  KA_NEVER(ctx, ka_tensor_elems(&to) != ka_tensor_elems(&from));
  to = rows_of(to, flat);
  from = rows_of(from, flat);
  int64_t step = to.dtype == from.dtype ? INT64_MAX : BOUNCE_BYTES / (int64_t)sizeof(double);
  for (int64_t r = 0; r < to.shape[0]; r++)
    for (int64_t c = 0, n; c < to.shape[1]; c += n) {
      n = to.shape[1] - c < step ? to.shape[1] - c : step;
      KA_TRY(move(dev, up, ka_tensor_1d(at(&to, r, c), to.dtype, n),
                  ka_tensor_1d(at(&from, r, c), from.dtype, n)));
    }
  return KA_STATUS_OK;
}

ka_status ka_dev_put(struct ka_dev *dev, struct ka_tensor to, struct ka_tensor from_host) {
  if (ka_dev_own_memory(dev)) return move_rows(dev, true, to, from_host);
  return ka_copy(dev, &(struct ka_copy_args){.out = to, .in = from_host});
}

ka_status ka_dev_get(struct ka_dev *dev, struct ka_tensor to_host, struct ka_tensor from) {
  if (ka_dev_own_memory(dev)) return move_rows(dev, false, to_host, from);
  return ka_copy(dev, &(struct ka_copy_args){.out = to_host, .in = from});
}

/* --- replays ---------------------------------------------------------------------------------- */

/* Records and runs the ops; *ran false: it could not be done, nothing ran, and ctx says why. */
static ka_status record(struct ka_dev *dev, struct ka_replay *r, ka_status (*ops)(void *user),
                        void *user, bool *ran) {
  ka_status st = dev->backend->record_begin(dev);
  *ran = false;
  if (!ka_ok(st)) return st;
  ka_status of_ops = ops(user);
  st = dev->backend->record_end(dev, ka_ok(of_ops), &r->recorded);
  *ran = ka_ok(of_ops) && ka_ok(st);
  return ka_ok(of_ops) ? st : of_ops;
}

ka_status ka_replay_run(struct ka_dev *dev, struct ka_replay *r, ka_status (*ops)(void *user),
                        void *user) {
  struct ka_ctx *ctx = dev->ctx;
  bool able = dev->backend->record_begin && !dev->no_replays && !dev->profile && !r->never, ran;
  if (able && r->recorded) return dev->backend->replay(dev, r->recorded);
  if (!able || r->n_seen++ == 0) return ops(user);
  ka_status st = record(dev, r, ops, user, &ran);
  if (ran || st.code == KA_E_INTERRUPTED) return st;
  if (st.code == KA_E_MEMORY)
    ka_debug(ctx, "device", "a pass is not recorded: %s", ctx->error.message);
  else
    ka_warn(ctx, "device", "passes are not recorded but run op by op, which may be slower: %s",
            ctx->error.message);
  ka_error_clear(ctx);
  dev->no_replays = st.code != KA_E_MEMORY; /* said once */
  r->never = true;
  return ops(user); /* an error of the ops themselves shows again */
}

void ka_replay_free(struct ka_dev *dev, struct ka_replay *r) {
  if (r->recorded) dev->backend->record_free(dev, r->recorded);
  *r = (struct ka_replay){0};
}
