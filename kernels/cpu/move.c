/* SPDX-License-Identifier: Apache-2.0
 * Ops that move values: fill, copy, add, scale, clamp, embeddings and picked rows. */
#include "kernels/cpu/vec.h"

#include <math.h>
#include <string.h>

#ifdef __F16C__
#include <immintrin.h>
#endif

static void floats_from_f16(float *to, const uint16_t *from, int64_t n) {
  int64_t i = 0;
#ifdef __F16C__
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
  for (; i < n; i++) to[i] = ka_f16_to_f32(from[i]);
}

static void f16_from_floats(uint16_t *to, const float *from, int64_t n) {
  int64_t i = 0;
#ifdef __F16C__
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128((__m128i *)(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < n; i++) to[i] = ka_f32_to_f16(from[i]);
}

/* One run of n elements between any two of f32, bf16 and f16. */
static void convert(const struct ka_tensor *out, int64_t at_out, const struct ka_tensor *in,
                    int64_t at_in, int64_t n) {
  size_t size = ka_dtype_bytes(in->dtype);
  if (out->dtype == in->dtype) {
    memmove((char *)out->data + (size_t)at_out * size,
            (const char *)in->data + (size_t)at_in * size, (size_t)n * size);
    return;
  }
  float a[CPU_BLOCK], b[CPU_BLOCK];
  for (int64_t i = 0; i < n; i += CPU_BLOCK) {
    int64_t len = min64(CPU_BLOCK, n - i);
    const float *from = a;
    if (in->dtype == KA_F16)
      floats_from_f16(a, (const uint16_t *)in->data + at_in + i, len);
    else
      from = load_block(in, at_in + i, len, a);
    if (out->dtype == KA_F16) {
      f16_from_floats((uint16_t *)out->data + at_out + i, from, len);
    } else {
      float *to = open_block(out, at_out + i, b);
      memcpy(to, from, (size_t)len * sizeof *to);
      store_block(out, at_out + i, len, to);
    }
  }
}

/* The run's elements as rows: one row a block when everything is contiguous. */
struct runs {
  int64_t n_rows, width, blocks_a_row, n_blocks;
};

static struct runs runs_of(const struct ka_tensor *a, const struct ka_tensor *b) {
  struct ka_tensor m = ref_rows(*a);
  struct runs r = {m.shape[0], m.shape[1], 0, 0};
  if (ka_tensor_contiguous(a) && (!b || ka_tensor_contiguous(b))) {
    r.width *= r.n_rows;
    r.n_rows = 1;
  }
  r.blocks_a_row = (r.width + CPU_PARALLEL - 1) / CPU_PARALLEL;
  r.n_blocks = r.n_rows * r.blocks_a_row;
  return r;
}

ka_status fill_cpu(struct ka_dev *dev, const struct ka_fill_args *args) {
  (void)dev;
  const struct ka_tensor *x = &args->x;
  struct runs runs = runs_of(x, NULL);
  size_t size = ka_dtype_bytes(x->dtype);
  unsigned char value[8] = {0};
  ka_data_store(value, x->dtype, 0, args->value);
  bool zero = memcmp(value, (unsigned char[8]){0}, size) == 0;
#pragma omp parallel for if (runs.n_rows * runs.width > CPU_PARALLEL)
  for (int64_t block = 0; block < runs.n_blocks; block++) {
    int64_t row = block / runs.blocks_a_row, at = block % runs.blocks_a_row * CPU_PARALLEL;
    int64_t n = min64(CPU_PARALLEL, runs.width - at);
    char *p = (char *)x->data + (size_t)(row * x->row_stride + at) * size;
    if (zero)
      memset(p, 0, (size_t)n * size);
    else
      for (int64_t i = 0; i < n; i++) memcpy(p + (size_t)i * size, value, size);
  }
  return KA_STATUS_OK;
}

ka_status copy_cpu(struct ka_dev *dev, const struct ka_copy_args *args) {
  const struct ka_tensor *out = &args->out, *in = &args->in;
  if (out->data == in->data) return KA_STATUS_OK; /* the same elements, by contract */
  if (out->dtype != in->dtype && (out->dtype == KA_F64 || in->dtype == KA_F64))
    return copy_ref(dev, args);
  struct runs runs = runs_of(out, in);
#pragma omp parallel for if (runs.n_rows * runs.width > CPU_PARALLEL)
  for (int64_t block = 0; block < runs.n_blocks; block++) {
    int64_t row = block / runs.blocks_a_row, at = block % runs.blocks_a_row * CPU_PARALLEL;
    convert(out, row * out->row_stride + at, in, row * in->row_stride + at,
            min64(CPU_PARALLEL, runs.width - at));
  }
  return KA_STATUS_OK;
}

ka_status add_cpu(struct ka_dev *dev, const struct ka_add_args *args) {
  if (args->out.dtype == KA_F64) return add_ref(dev, args);
  int64_t n = ka_tensor_elems(&args->out);
#pragma omp parallel for if (n > CPU_PARALLEL)
  for (int64_t i = 0; i < n; i += CPU_BLOCK) {
    float buf_a[CPU_BLOCK], buf_b[CPU_BLOCK], buf_out[CPU_BLOCK];
    int64_t len = min64(CPU_BLOCK, n - i);
    const float *a = load_block(&args->a, i, len, buf_a), *b = load_block(&args->b, i, len, buf_b);
    float *out = open_block(&args->out, i, buf_out);
#pragma omp simd
    for (int64_t k = 0; k < len; k++) out[k] = a[k] + b[k];
    store_block(&args->out, i, len, out);
  }
  return KA_STATUS_OK;
}

ka_status scale_cpu(struct ka_dev *dev, const struct ka_scale_args *args) {
  if (args->x.dtype == KA_F64) return scale_ref(dev, args);
  int64_t n = ka_tensor_elems(&args->x);
#pragma omp parallel for if (n > CPU_PARALLEL)
  for (int64_t i = 0; i < n; i += CPU_BLOCK) {
    float buf[CPU_BLOCK], buf_out[CPU_BLOCK];
    int64_t len = min64(CPU_BLOCK, n - i);
    const float *x = load_block(&args->x, i, len, buf);
    float *out = open_block(&args->x, i, buf_out), value = (float)args->value;
#pragma omp simd
    for (int64_t k = 0; k < len; k++) out[k] = x[k] * value;
    store_block(&args->x, i, len, out);
  }
  return KA_STATUS_OK;
}

ka_status clamp_fwd_cpu(struct ka_dev *dev, const struct ka_clamp_fwd_args *args) {
  if (args->x.dtype == KA_F64) return clamp_fwd_ref(dev, args);
  int64_t n = ka_tensor_elems(&args->x);
#pragma omp parallel for if (n > CPU_PARALLEL)
  for (int64_t i = 0; i < n; i += CPU_BLOCK) {
    float buf[CPU_BLOCK], buf_out[CPU_BLOCK], limit = (float)args->limit;
    int64_t len = min64(CPU_BLOCK, n - i);
    const float *x = load_block(&args->x, i, len, buf);
    float *out = open_block(&args->out, i, buf_out);
#pragma omp simd
    for (int64_t k = 0; k < len; k++) out[k] = x[k] > limit ? limit : x[k] < -limit ? -limit : x[k];
    store_block(&args->out, i, len, out);
  }
  return KA_STATUS_OK;
}

ka_status clamp_bwd_cpu(struct ka_dev *dev, const struct ka_clamp_bwd_args *args) {
  if (args->x.dtype == KA_F64) return clamp_bwd_ref(dev, args);
  int64_t n = ka_tensor_elems(&args->x);
#pragma omp parallel for if (n > CPU_PARALLEL)
  for (int64_t i = 0; i < n; i += CPU_BLOCK) {
    float buf_x[CPU_BLOCK], buf_d[CPU_BLOCK], buf_out[CPU_BLOCK], limit = (float)args->limit;
    int64_t len = min64(CPU_BLOCK, n - i);
    const float *x = load_block(&args->x, i, len, buf_x);
    const float *d = load_block(&args->dout, i, len, buf_d);
    float *out = open_block(&args->dx, i, buf_out);
#pragma omp simd
    for (int64_t k = 0; k < len; k++) out[k] = fabsf(x[k]) > limit ? 0.0f : d[k];
    store_block(&args->dx, i, len, out);
  }
  return KA_STATUS_OK;
}

/* out[to,:] = scale * in[from,:] of one dtype. */
static void scaled_row(const struct ka_tensor *out, int64_t to, const struct ka_tensor *in,
                       int64_t from, int64_t width, float scale) {
  for (int64_t c = 0; c < width; c += CPU_BLOCK) {
    float buf[CPU_BLOCK], buf_out[CPU_BLOCK];
    int64_t len = min64(CPU_BLOCK, width - c);
    const float *x = load_block(in, from * width + c, len, buf);
    float *y = open_block(out, to * width + c, buf_out);
#pragma omp simd
    for (int64_t k = 0; k < len; k++) y[k] = scale * x[k];
    store_block(out, to * width + c, len, y);
  }
}

void cpu_zero_row(const struct ka_tensor *out, int64_t row, int64_t width) {
  size_t row_bytes = (size_t)width * ka_dtype_bytes(out->dtype);
  if (row_bytes) memset((char *)out->data + (size_t)row * row_bytes, 0, row_bytes);
}

static void copy_row(const struct ka_tensor *out, int64_t to, const struct ka_tensor *in,
                     int64_t from, int64_t width) {
  size_t row_bytes = (size_t)width * ka_dtype_bytes(out->dtype);
  if (row_bytes)
    memcpy((char *)out->data + (size_t)to * row_bytes,
           (const char *)in->data + (size_t)from * row_bytes, row_bytes);
}

ka_status embed_fwd_cpu(struct ka_dev *dev, const struct ka_embed_fwd_args *args) {
  int64_t n_tok = args->out.shape[0], n_chan = args->out.shape[1];
  if (args->out.dtype == KA_F64) return embed_fwd_ref(dev, args);
#pragma omp parallel for if (n_tok * n_chan > CPU_PARALLEL)
  for (int64_t t = 0; t < n_tok; t++)
    if (args->scale == 1)
      copy_row(&args->out, t, &args->table, get_id(&args->ids, t), n_chan);
    else
      scaled_row(&args->out, t, &args->table, get_id(&args->ids, t), n_chan, (float)args->scale);
  return KA_STATUS_OK;
}

/* Threads share channels, not tokens: repeated ids then add up in order of i. */
ka_status embed_bwd_cpu(struct ka_dev *dev, const struct ka_embed_bwd_args *args) {
  enum { CHANNELS = 64 };
  int64_t n_tok = args->dout.shape[0], n_chan = args->dout.shape[1];
  if (args->dout.dtype == KA_F64) return embed_bwd_ref(dev, args);
  float scale = (float)args->scale;
#pragma omp parallel for if (n_tok * n_chan > CPU_PARALLEL)
  for (int64_t c = 0; c < n_chan; c += CHANNELS)
    for (int64_t t = 0; t < n_tok; t++) {
      float buf[CHANNELS];
      int64_t len = min64(CHANNELS, n_chan - c);
      int64_t row = get_id(&args->ids, t) - args->first_id;
      if (row < 0 || row >= args->dtable.shape[0]) continue;
      const float *from = load_block(&args->dout, t * args->dout.row_stride + c, len, buf);
      float *to = (float *)args->dtable.data + row * n_chan + c;
#pragma omp simd
      for (int64_t k = 0; k < len; k++) to[k] += scale * from[k];
    }
  return KA_STATUS_OK;
}

ka_status gather_rows_cpu(struct ka_dev *dev, const struct ka_gather_rows_args *args) {
  (void)dev;
  int64_t n_rows = args->out.shape[0], n_chan = args->out.shape[1];
#pragma omp parallel for if (n_rows * n_chan > CPU_PARALLEL)
  for (int64_t r = 0; r < n_rows; r++)
    if (get_id(&args->index, r) < 0)
      cpu_zero_row(&args->out, r, n_chan);
    else
      copy_row(&args->out, r, &args->x, get_id(&args->index, r), n_chan);
  return KA_STATUS_OK;
}

ka_status put_rows_cpu(struct ka_dev *dev, const struct ka_put_rows_args *args) {
  (void)dev;
  int64_t n_rows = args->index.shape[0], n_chan = args->out.shape[1];
#pragma omp parallel for if (n_rows * n_chan > CPU_PARALLEL)
  for (int64_t r = 0; r < n_rows; r++) {
    int64_t to = get_id(&args->index, r);
    if (to >= 0 && args->x.data)
      copy_row(&args->out, to, &args->x, r, n_chan);
    else if (to >= 0)
      cpu_zero_row(&args->out, to, n_chan);
  }
  return KA_STATUS_OK;
}

ka_status scatter_rows_cpu(struct ka_dev *dev, const struct ka_scatter_rows_args *args) {
  struct ka_ctx *ctx = dev->ctx;
  KA_TRY(fill_cpu(dev, &(struct ka_fill_args){.x = args->out}));
  return put_rows_cpu(
      dev, &(struct ka_put_rows_args){.out = args->out, .x = args->x, .index = args->index});
}

ka_status sum_rows_cpu(struct ka_dev *dev, const struct ka_sum_rows_args *args) {
  int64_t n_rows = args->out.shape[0], n_chan = args->out.shape[1], J = args->rows.shape[1];
  if (args->out.dtype == KA_F64) return sum_rows_ref(dev, args);
#pragma omp parallel for if (n_rows * n_chan > CPU_PARALLEL)
  for (int64_t r = 0; r < n_rows; r++)
    for (int64_t c = 0; c < n_chan; c += CPU_BLOCK) {
      float sum[CPU_BLOCK] = {0}, buf[CPU_BLOCK], buf_out[CPU_BLOCK];
      int64_t len = min64(CPU_BLOCK, n_chan - c);
      for (int64_t j = 0; j < J; j++) {
        int64_t from = get_id(&args->rows, r * J + j);
        if (from < 0) continue;
        const float *x = load_block(&args->x, from * n_chan + c, len, buf);
#pragma omp simd
        for (int64_t k = 0; k < len; k++) sum[k] += x[k];
      }
      float *out = open_block(&args->out, r * n_chan + c, buf_out);
      memcpy(out, sum, (size_t)len * sizeof *out);
      store_block(&args->out, r * n_chan + c, len, out);
    }
  return KA_STATUS_OK;
}
