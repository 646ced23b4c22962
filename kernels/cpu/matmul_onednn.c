/* SPDX-License-Identifier: Apache-2.0
 * Matrix products by oneDNN, f32 and bf16 with f32 accumulation. Creating a primitive costs far
 * more than a small product, so primitives are kept by shape, dtypes, strides and thread count.
 * What oneDNN does not take (f64, empty operands, a combination it has no kernel for) goes to ref.
 */
#include "kernels/cpu/cpu.h"

#ifdef KAPPA_HAVE_ONEDNN

#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

/* Everything that a primitive depends on; m = 0 is the packing of a k x n right operand. Zeroed
 * before it is filled, so that bytes compare. */
struct key {
  int64_t m, n, k, stride_a, stride_b, stride_out;
  int32_t type, out_type, threads;
  bool trans_a, trans_b, accumulate, bias, packed;
};

struct entry {
  struct key key;
  bool used, unsupported;
  dnnl_primitive_t primitive;
  dnnl_memory_t a, b, bias, out, scratch; /* packing: from a to out */
  size_t scratch_bytes, packed_bytes;
};

enum { N_SLOTS = 1024, MAX_ENTRIES = 512 };

struct gemm {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  int n_entries;
  struct entry entries[N_SLOTS]; /* open addressing */
};

#define DNN(call)                                                                                  \
  do {                                                                                             \
    dnnl_status_t s_ = (call);                                                                     \
    if (s_ != dnnl_success)                                                                        \
      return ka_fail(ctx, s_ == dnnl_out_of_memory ? KA_E_MEMORY : KA_E_DEVICE,                    \
                     "oneDNN: status %d from %s", (int)s_, #call);                                 \
  } while (0)

static void drop_entry(struct entry *e) {
  dnnl_memory_t memories[] = {e->a, e->b, e->bias, e->out, e->scratch};
  for (size_t j = 0; j < sizeof memories / sizeof *memories; j++)
    if (memories[j]) dnnl_memory_destroy(memories[j]);
  if (e->primitive) dnnl_primitive_destroy(e->primitive);
  memset(e, 0, sizeof *e);
}

static void drop_entries(struct gemm *g) {
  for (int i = 0; i < N_SLOTS; i++) drop_entry(&g->entries[i]);
  g->n_entries = 0;
}

ka_status cpu_gemm_open(struct ka_dev *dev) {
  struct ka_ctx *ctx = dev->ctx;
  struct cpu_state *state = dev->state;
  KA_TRY(KA_NEW_HEAP(ctx, &state->gemm, 1, "oneDNN primitives"));
  DNN(dnnl_engine_create(&state->gemm->engine, dnnl_cpu, 0));
  DNN(dnnl_stream_create(&state->gemm->stream, state->gemm->engine, dnnl_stream_default_flags));
  dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
  dev->has_bf16 = isa >= dnnl_cpu_isa_avx512_core_bf16;
  return KA_STATUS_OK;
}

void cpu_gemm_close(struct ka_dev *dev) {
  struct gemm *g = ((struct cpu_state *)dev->state)->gemm;
  if (!g) return;
  drop_entries(g);
  if (g->stream) dnnl_stream_destroy(g->stream);
  if (g->engine) dnnl_engine_destroy(g->engine);
  ka_free(g);
}

void cpu_gemm_describe(char *text, size_t n) {
  const dnnl_version_t *v = dnnl_version();
  snprintf(text, n, "oneDNN %d.%d.%d, bf16 %s", v->major, v->minor, v->patch,
           dnnl_get_effective_cpu_isa() >= dnnl_cpu_isa_avx512_core_bf16 ? "in hardware"
                                                                         : "emulated");
}

static dnnl_data_type_t type_of(enum ka_dtype t) { return t == KA_BF16 ? dnnl_bf16 : dnnl_f32; }

/* A matrix as oneDNN sees it: rows x cols of op(t). */
static dnnl_memory_desc_t matrix(enum ka_dtype t, int64_t rows, int64_t cols, int64_t stride,
                                 bool transposed) {
  dnnl_memory_desc_t md;
  dnnl_dims_t dims = {rows, cols}, strides = {transposed ? 1 : stride, transposed ? stride : 1};
  dnnl_memory_desc_init_by_strides(&md, 2, dims, type_of(t), strides);
  return md;
}

/* The blocked layout that oneDNN prefers for a K x N right operand. Chosen for one fixed, large
 * number of rows, so that one packed weight serves every m. */
static ka_status packed_layout(struct ka_ctx *ctx, struct gemm *g, enum ka_dtype type, int64_t k,
                               int64_t n, dnnl_memory_desc_t *out) {
  enum { ROWS = 512 };
  dnnl_memory_desc_t a = matrix(type, ROWS, k, k, false), c = matrix(type, ROWS, n, n, false), b;
  dnnl_dims_t dims = {k, n};
  dnnl_matmul_desc_t desc;
  dnnl_primitive_desc_t pd = NULL;
  DNN(dnnl_memory_desc_init_by_tag(&b, 2, dims, type_of(type), dnnl_format_tag_any));
  DNN(dnnl_matmul_desc_init(&desc, &a, &b, NULL, &c));
  DNN(dnnl_primitive_desc_create(&pd, &desc, NULL, g->engine, NULL));
  *out = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
  dnnl_primitive_desc_destroy(pd);
  return KA_STATUS_OK;
}

static ka_status create_memory(struct ka_ctx *ctx, struct gemm *g, dnnl_memory_t *out,
                               const dnnl_memory_desc_t *md) {
  DNN(dnnl_memory_create(out, md, g->engine, DNNL_MEMORY_NONE));
  return KA_STATUS_OK;
}

static ka_status create_attr(struct ka_ctx *ctx, bool accumulate, dnnl_primitive_attr_t *out) {
  DNN(dnnl_primitive_attr_create(out));
  DNN(dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user));
  if (!accumulate) return KA_STATUS_OK;
  dnnl_post_ops_t ops;
  DNN(dnnl_post_ops_create(&ops));
  dnnl_post_ops_append_sum(ops, 1.0f);
  dnnl_primitive_attr_set_post_ops(*out, ops);
  dnnl_post_ops_destroy(ops);
  return KA_STATUS_OK;
}

static ka_status create_product(struct ka_ctx *ctx, struct gemm *g, struct entry *e) {
  const struct key *k = &e->key;
  enum ka_dtype type = (enum ka_dtype)k->type;
  dnnl_memory_desc_t a = matrix(type, k->m, k->k, k->stride_a, k->trans_a);
  dnnl_memory_desc_t b = matrix(type, k->k, k->n, k->stride_b, k->trans_b);
  dnnl_memory_desc_t out = matrix((enum ka_dtype)k->out_type, k->m, k->n, k->stride_out, false);
  dnnl_memory_desc_t bias = matrix(type, 1, k->n, k->n, false);
  if (k->packed) KA_TRY(packed_layout(ctx, g, type, k->k, k->n, &b));
  dnnl_matmul_desc_t desc;
  DNN(dnnl_matmul_desc_init(&desc, &a, &b, k->bias ? &bias : NULL, &out));
  dnnl_primitive_attr_t attr = NULL;
  KA_TRY(create_attr(ctx, k->accumulate, &attr));
  dnnl_primitive_desc_t pd = NULL;
  dnnl_status_t s = dnnl_primitive_desc_create(&pd, &desc, attr, g->engine, NULL);
  dnnl_primitive_attr_destroy(attr);
  e->unsupported = s == dnnl_unimplemented;
  if (e->unsupported) return KA_STATUS_OK;
  DNN(s);
  const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
  e->scratch_bytes = dnnl_memory_desc_get_size(scratch);
  ka_status st = create_memory(ctx, g, &e->scratch, scratch);
  s = dnnl_primitive_create(&e->primitive, pd);
  dnnl_primitive_desc_destroy(pd);
  KA_TRY(st);
  DNN(s);
  KA_TRY(create_memory(ctx, g, &e->a, &a));
  KA_TRY(create_memory(ctx, g, &e->b, &b));
  KA_TRY(create_memory(ctx, g, &e->out, &out));
  if (k->bias) KA_TRY(create_memory(ctx, g, &e->bias, &bias));
  return KA_STATUS_OK;
}

static ka_status create_packing(struct ka_ctx *ctx, struct gemm *g, struct entry *e) {
  const struct key *k = &e->key;
  enum ka_dtype type = (enum ka_dtype)k->type;
  dnnl_memory_desc_t from = matrix(type, k->k, k->n, k->stride_b, k->trans_b), to;
  dnnl_primitive_desc_t pd = NULL;
  KA_TRY(packed_layout(ctx, g, type, k->k, k->n, &to));
  e->packed_bytes = dnnl_memory_desc_get_size(&to);
  DNN(dnnl_reorder_primitive_desc_create(&pd, &from, g->engine, &to, g->engine, NULL));
  dnnl_status_t s = dnnl_primitive_create(&e->primitive, pd);
  dnnl_primitive_desc_destroy(pd);
  DNN(s);
  KA_TRY(create_memory(ctx, g, &e->a, &from));
  return create_memory(ctx, g, &e->out, &to);
}

static uint64_t hash(const struct key *k) { /* FNV-1a */
  uint64_t h = 14695981039346656037u;
  for (size_t i = 0; i < sizeof *k; i++) h = (h ^ ((const unsigned char *)k)[i]) * 1099511628211u;
  return h;
}

static ka_status find(struct ka_ctx *ctx, struct gemm *g, const struct key *key,
                      struct entry **out) {
  size_t at = hash(key) % N_SLOTS;
  for (; g->entries[at].used; at = (at + 1) % N_SLOTS)
    if (memcmp(&g->entries[at].key, key, sizeof *key) == 0) {
      *out = &g->entries[at];
      return KA_STATUS_OK;
    }
  if (g->n_entries == MAX_ENTRIES) {
    drop_entries(g);
    at = hash(key) % N_SLOTS;
  }
  struct entry *e = &g->entries[at];
  e->key = *key;
  ka_status st = key->m ? create_product(ctx, g, e) : create_packing(ctx, g, e);
  if (!ka_ok(st)) drop_entry(e);
  KA_TRY(st);
  e->used = true;
  g->n_entries++;
  *out = e;
  return KA_STATUS_OK;
}

static struct key key_of(const struct ka_matmul_args *args) {
  struct key k;
  memset(&k, 0, sizeof k);
  k.m = args->out.shape[0];
  k.n = args->out.shape[1];
  k.k = args->a.shape[args->trans_a ? 0 : 1];
  k.stride_a = args->a.row_stride;
  k.stride_b = args->packed_b.data ? 0 : args->b.row_stride;
  k.stride_out = args->out.row_stride;
  k.type = (int32_t)args->a.dtype;
  k.out_type = (int32_t)args->out.dtype;
  k.threads = omp_get_max_threads();
  k.trans_a = args->trans_a;
  k.trans_b = args->trans_b && !args->packed_b.data;
  k.accumulate = args->accumulate;
  k.bias = args->bias.data != NULL;
  k.packed = args->packed_b.data != NULL;
  return k;
}

static ka_status run(struct ka_dev *dev, const struct ka_matmul_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct gemm *g = ((struct cpu_state *)dev->state)->gemm;
  struct key key = key_of(args);
  struct entry *e = NULL;
  KA_TRY(find(ctx, g, &key, &e));
  if (e->unsupported) return matmul_ref(dev, args);
  void *scratch;
  KA_TRY(cpu_scratch(dev, e->scratch_bytes, &scratch));
  DNN(dnnl_memory_set_data_handle(e->a, args->a.data));
  DNN(dnnl_memory_set_data_handle(e->b, key.packed ? args->packed_b.data : args->b.data));
  DNN(dnnl_memory_set_data_handle(e->out, args->out.data));
  DNN(dnnl_memory_set_data_handle(e->scratch, scratch));
  if (e->bias) DNN(dnnl_memory_set_data_handle(e->bias, args->bias.data));
  dnnl_exec_arg_t list[] = {{DNNL_ARG_SRC, e->a},
                            {DNNL_ARG_WEIGHTS, e->b},
                            {DNNL_ARG_DST, e->out},
                            {DNNL_ARG_SCRATCHPAD, e->scratch},
                            {DNNL_ARG_BIAS, e->bias}};
  DNN(dnnl_primitive_execute(e->primitive, g->stream, e->bias ? 5 : 4, list));
  DNN(dnnl_stream_wait(g->stream));
  return KA_STATUS_OK;
}

/* oneDNN shares a long sum out over the threads when a is transposed (weight gradients) and the
 * output is small, which makes the bits depend on their number; it does not up to this length. */
enum { K_CHUNK = 1024 };

static ka_status run_in_chunks(struct ka_dev *dev, const struct ka_matmul_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct ka_matmul_args part = *args;
  int64_t m = args->a.shape[1], n = args->out.shape[1], n_k = args->a.shape[0];
  for (int64_t k = 0; k < n_k; k += K_CHUNK) {
    int64_t len = n_k - k < K_CHUNK ? n_k - k : K_CHUNK;
    part.a = ka_tensor_slice(args->a, k, len, 0, m);
    part.b = args->trans_b ? ka_tensor_slice(args->b, 0, n, k, len)
                           : ka_tensor_slice(args->b, k, len, 0, n);
    KA_TRY(run(dev, &part));
    part.accumulate = true;
    part.bias.data = NULL;
  }
  return KA_STATUS_OK;
}

ka_status cpu_product(struct ka_dev *dev, const struct ka_matmul_args *args) {
  int64_t k = args->a.shape[args->trans_a ? 0 : 1];
  if (args->a.dtype == KA_F64 || k == 0 || ka_tensor_elems(&args->out) == 0)
    return matmul_ref(dev, args);
  bool in_chunks =
      args->trans_a && k > K_CHUNK && args->out.dtype == KA_F32 && !args->packed_b.data;
  return in_chunks ? run_in_chunks(dev, args) : run(dev, args);
}

static ka_status find_packing(struct ka_dev *dev, const struct ka_pack_args *args,
                              struct entry **out) {
  struct gemm *g = ((struct cpu_state *)dev->state)->gemm;
  struct key k;
  memset(&k, 0, sizeof k);
  k.k = args->b.shape[args->trans_b ? 1 : 0];
  k.n = args->b.shape[args->trans_b ? 0 : 1];
  k.stride_b = args->b.row_stride;
  k.type = (int32_t)args->b.dtype;
  k.threads = omp_get_max_threads();
  k.trans_b = args->trans_b;
  return find(dev->ctx, g, &k, out);
}

size_t cpu_pack_bytes(struct ka_dev *dev, const struct ka_pack_args *args) {
  struct entry *e = NULL;
  if (args->b.dtype == KA_F64 || ka_tensor_elems(&args->b) == 0) return 0;
  if (ka_ok(find_packing(dev, args, &e))) return e->packed_bytes;
  ka_error_clear(dev->ctx);
  return 0;
}

ka_status pack_cpu(struct ka_dev *dev, const struct ka_pack_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  struct gemm *g = ((struct cpu_state *)dev->state)->gemm;
  struct entry *e = NULL;
  if (ka_tensor_elems(&args->packed) == 0) return KA_STATUS_OK;
  KA_TRY(find_packing(dev, args, &e));
  DNN(dnnl_memory_set_data_handle(e->a, args->b.data));
  DNN(dnnl_memory_set_data_handle(e->out, args->packed.data));
  dnnl_exec_arg_t list[] = {{DNNL_ARG_FROM, e->a}, {DNNL_ARG_TO, e->out}};
  DNN(dnnl_primitive_execute(e->primitive, g->stream, 2, list));
  DNN(dnnl_stream_wait(g->stream));
  return KA_STATUS_OK;
}

#endif
