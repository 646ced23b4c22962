/* SPDX-License-Identifier: Apache-2.0
 *
 * Devices: back ends, memory, copies, replays. A device with memory of its own: host code may not
 * touch it and its ops may not leave it; elsewhere the device is the host, memory is the heap and
 * copies are memcpy. What else differs has a name too (`capabilities`); nobody asks which device.
 *
 * A device is used by one thread at a time. Ops and copies happen in the order of their calls. */
#ifndef KAPPA_KERNELS_DEVICE_H
#define KAPPA_KERNELS_DEVICE_H

#include "base/str.h"
#include "kernels/ops.h"

enum ka_place {
  KA_PLACE_DEVICE,
  KA_PLACE_PINNED, /* host memory that the device reads and writes too, across the bus */
  KA_N_PLACES
};

struct ka_dense;

/* A back end starts as all-ref (where the device is the host) and overrides slots with designated
 * initialisers. */
struct ka_backend {
  const char *name; /* "ref", "cpu", "cuda" */
  struct ka_op_table ops;
  /* KA_E_DEVICE says what is missing; takes nothing of the device, where opening takes a context of
   * half a GB that stays until the process ends. May be NULL: it is there. */
  ka_status (*find)(struct ka_dev *dev);
  ka_status (*open)(struct ka_dev *dev); /* sets dev->state; may be NULL */
  void (*close)(struct ka_dev *dev);     /* after a failed open too; may be NULL */
  ka_status (*sync)(struct ka_dev *dev); /* may be NULL: nothing is asynchronous */
  /* Bytes that `pack` needs for b, 0 when packing gains nothing here. May be NULL (0). */
  size_t (*pack_bytes)(struct ka_dev *dev, const struct ka_pack_args *args);
  /* One line for doctor and reports: "oneDNN 2.6.3, bf16 by avx512_bf16". May be NULL. */
  void (*describe)(struct ka_dev *dev, char *text, size_t n);
  /* What takes time and memory to find out, for doctor; may be NULL. */
  void (*details)(struct ka_dev *dev, char *text, size_t n);
  /* The same step for many tensors in few launches; NULL: one after the other. */
  ka_status (*adamw_list)(struct ka_dev *dev, const struct ka_adamw_args *args, int64_t n);
  ka_status (*sumsq_list)(struct ka_dev *dev, const struct ka_sumsq_args *args, int64_t n);

  /* Capabilities. */
  bool few_shapes; /* it measures and remembers each shape (matmul algorithms, recordings) */
  bool queues;     /* ops return before they are done */
  bool big;        /* it takes much work at once to keep it busy */
  bool own_memory; /* the rest is of such devices alone */
  ka_status (*alloc)(struct ka_dev *dev, enum ka_place place, void **out, size_t n_bytes,
                     const char *name);
  void (*release)(struct ka_dev *dev, enum ka_place place, void *p);
  ka_status (*upload)(struct ka_dev *dev, void *to, const void *from, size_t n_bytes);
  ka_status (*download)(struct ka_dev *dev, void *to, const void *from, size_t n_bytes);
  /* Records what is called until record_end, which also runs it; then `replay` runs it again. */
  ka_status (*record_begin)(struct ka_dev *dev);
  ka_status (*record_end)(struct ka_dev *dev, bool keep, void **recording);
  ka_status (*replay)(struct ka_dev *dev, void *recording);
  void (*record_free)(struct ka_dev *dev, void *recording);
  ka_status (*choices_get)(struct ka_dev *dev, struct ka_str *text);
  ka_status (*choices_set)(struct ka_dev *dev, const char *text);
  const struct ka_dense *dense; /* the engine of spectra there; NULL: the host's */
};

struct ka_profile_row {
  int64_t calls;
  double seconds, flops, bytes;
};

struct ka_dev {
  struct ka_ctx *ctx;
  const struct ka_backend *backend;
  void *state;       /* the back end's own */
  bool has_bf16;     /* bf16 matmul is faster than f32 here */
  bool imagined;     /* "cuda:80GB": for planning alone, nothing can run */
  size_t own_bytes;  /* of a device's own memory, that the back end took */
  size_t free_bytes; /* of it, that arenas may take */
  struct ka_memory memory[KA_N_PLACES];
  double f64_flops[2];            /* of products, host and device; 0: not measured (dense.h) */
  void *bounce;                   /* device memory for conversions on the way; NULL until needed */
  bool no_replays;                /* replays record nothing: every pass runs op by op */
  struct ka_profile_row *profile; /* [KA_N_OPS], or NULL: off */
};

/* name: "auto", "cpu", "ref", "cuda", or "cuda:80GB": a device of that memory to plan for, which
 * need not exist. auto takes the best that is there. KA_E_DEVICE says what is missing. */
ka_status ka_dev_open(struct ka_ctx *ctx, struct ka_dev *dev, const char *name);
void ka_dev_close(struct ka_dev *dev);
ka_status ka_dev_sync(struct ka_dev *dev);

/* What the back end measured and chose (matmul algorithms), as text, and back: a resumed run
 * computes by the choices of the interrupted one, so its bits do not depend on a measurement. get
 * appends, nothing where nothing is chosen; set ignores text of another version or device. */
ka_status ka_dev_choices_get(struct ka_dev *dev, struct ka_str *text);
ka_status ka_dev_choices_set(struct ka_dev *dev, const char *text);

/* The back end that ka_dev_open would take for this name, as far as can be told without taking
 * anything of a device. */
ka_status ka_dev_find(struct ka_ctx *ctx, const char *name, const struct ka_backend **out);

static inline bool ka_dev_own_memory(const struct ka_dev *dev) { return dev->backend->own_memory; }
static inline bool ka_dev_queues(const struct ka_dev *dev) { return dev->backend->queues; }
static inline bool ka_dev_big(const struct ka_dev *dev) { return dev->backend->big; }

/* Lengths where few shapes are better: n rounded up to a multiple of 64, or of a 32nd of `most`
 * where that is more, so that there are few; n elsewhere. */
int64_t ka_dev_round(const struct ka_dev *dev, int64_t n, int64_t most);
/* The first piece of n (at least 1) where pieces are of few lengths: a power of two; n
 * elsewhere. */
int64_t ka_dev_piece(const struct ka_dev *dev, int64_t n);

/* Floating-point operations a second of a product [n,n] x [n,n]^T, the best of a few; n 0: large
 * enough for the device, and quick. */
ka_status ka_dev_matmul_rate(struct ka_dev *dev, enum ka_dtype t, int64_t n, double *flops);

/* For arenas: memory of that place, NULL: the heap. */
const struct ka_memory *ka_dev_memory(struct ka_dev *dev, enum ka_place place);

/* Copies of n_bytes. upload: `from` (host) may be changed on return, `to` is there for later ops.
 * download: waits for earlier ops, `to` (host) is there on return. Memory of either place may stand
 * for the device's. */
ka_status ka_dev_upload(struct ka_dev *dev, void *to, const void *from, size_t n_bytes);
ka_status ka_dev_download(struct ka_dev *dev, void *to, const void *from, size_t n_bytes);

/* The same for tensors of equal shape: dtypes of f32, bf16, f16, f64 are converted, rows may be
 * apart. */
ka_status ka_dev_put(struct ka_dev *dev, struct ka_tensor to, struct ka_tensor from_host);
ka_status ka_dev_get(struct ka_dev *dev, struct ka_tensor to_host, struct ka_tensor from);

/* The same ops with the same arguments, time and again: the first time they just run, the second
 * time they are recorded, then the recording runs instead of them. Zero-initialised. Where the
 * device records nothing (or profiles), `never` is set or recording fails, they run each time. The
 * ops may not wait for the device. */
struct ka_replay {
  int64_t n_seen;
  bool never;
  void *recorded;
};
ka_status ka_replay_run(struct ka_dev *dev, struct ka_replay *r, ka_status (*ops)(void *user),
                        void *user);
void ka_replay_free(struct ka_dev *dev, struct ka_replay *r);

/* Has the back end a slot of its own, not ref's? */
bool ka_op_overridden(const struct ka_backend *backend, enum ka_op op);

extern const struct ka_backend ka_backend_ref, ka_backend_cpu;

/* --- plug-ins ----------------------------------------------------------------------------------
 * kappa_cuda.so exports one object, `ka_plugin`. api is KA_PLUGIN_API, a hash of the headers that
 * the two sides share. */
struct ka_plugin {
  const char *api;
  const char *version; /* of kappa */
  const char *built;   /* "CUDA 13.0, sm_80 sm_90" */
  const struct ka_backend *backend;
};

/* Could it work here? Cheap to ask: loading CUDA's libraries takes a tenth of a second. */
bool ka_plugin_likely(const char *name);
/* The plug-in of this name ("cuda"), or why there is none (KA_E_DEVICE). Stays loaded. */
ka_status ka_plugin_load(struct ka_ctx *ctx, const char *name, const struct ka_plugin **out);

/* Any plug-in: `symbol` of kappa_NAME.so, which is $KAPPA_NAME, beside the program, or in
 * ../lib/kappa. What it points at begins with two texts: its interface, which must be `api`, and
 * the version that it is of (either may say what it was built with). flags: RTLD_LOCAL or
 * RTLD_GLOBAL. KA_E_DEVICE: none, or of another interface. Stays loaded. */
ka_status ka_plugin_open(struct ka_ctx *ctx, const char *name, const char *symbol, const char *api,
                         int flags, const void **out);

#endif
