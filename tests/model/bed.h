/* SPDX-License-Identifier: Apache-2.0
 *
 * A tiny model on a device with the gradients of one batch, for tests that compare gradients. */
#ifndef KAPPA_TESTS_MODEL_BED_H
#define KAPPA_TESTS_MODEL_BED_H

#include "base/rng.h"
#include "tests/model/tiny.h"
#include "tests/support/fresh.h"

#include <math.h>

static const char *const configs[] = {tiny_llama,     tiny_mistral,   tiny_qwen2,  tiny_qwen3,
                                      tiny_olmo2,     tiny_gpt2,      tiny_olmo3,  tiny_smollm3,
                                      tiny_granite,   tiny_phi3,      tiny_gemma2, tiny_gemma3,
                                      tiny_deepseek2, tiny_deepseek3, tiny_olmoe,  tiny_mixtral,
                                      tiny_qwen2_moe, tiny_qwen3_moe, tiny_gpt_oss};
enum { N_CONFIGS = sizeof configs / sizeof *configs, B = 2, T = 12, N = B * T };

/* A model opened on a device, and the gradients of one batch. */
struct bed {
  struct ka_dev dev;
  struct ka_model m;
  struct tiny_batch batch;
};

/* Random ids, some labels masked. */
static inline struct tiny_batch masked_batch(int64_t rows, int64_t tokens) {
  int32_t ids[TINY_MAX];
  for (int64_t i = 0; i < rows * tokens; i++)
    ids[i] = (int32_t)ka_rng_below(5, 1, (uint64_t)i, TINY_V);
  struct tiny_batch b = tiny_batch(rows, tokens, ids);
  int32_t *labels = b.ints + rows * tokens;
  for (int64_t i = 0; i < rows * tokens; i++)
    if (i % 5 == 2) {
      labels[i] = -100;
      if (i % tokens > 0) b.batch.n_targets--;
    }
  return b;
}

static inline void bed_open(struct bed *t, const char *dir, const char *device,
                            enum ka_dtype compute) {
  T_OK(ka_dev_open(ctx, &t->dev, device));
  T_OK(ka_model_open(ctx, &t->m, &t->dev, dir, compute));
  t->batch = masked_batch(B, T);
}

static inline void bed_close(struct bed *t) {
  ka_model_close(&t->m);
  ka_dev_close(&t->dev);
}

static inline void train_all(struct ka_model *m) {
  struct ka_train_part parts[64];
  assert_true(m->n_params <= 64);
  for (int64_t i = 0; i < m->n_params; i++)
    parts[i] = (struct ka_train_part){m->params[i].name, 0, -1, 0, -1};
  T_OK(ka_model_train_parts(m, parts, m->n_params));
}

static inline double gradient(struct bed *t) {
  double loss;
  T_OK(ka_model_zero_grad(&t->m));
  T_OK(ka_model_grad(&t->m, &t->batch.batch, 1.0 / (double)t->batch.batch.n_targets, &loss));
  return loss;
}

/* Moves a weight off its special initial values (norms of 1, biases of 0) along a fixed direction.
 */
static inline double direction(int64_t param, int64_t i) {
  return ka_rng_normal(17, (uint64_t)param, (uint64_t)i);
}
static inline void move(struct ka_model *m, int64_t param, double h) {
  struct ka_tensor w = m->params[param].weight, host = w;
  host.data = malloc(ka_tensor_bytes(&w));
  T_OK(ka_dev_get(m->dev, host, w));
  for (int64_t i = 0; i < ka_tensor_elems(&w); i++)
    ka_data_store(host.data, w.dtype, i, ka_load(host.data, w.dtype, i) + h * direction(param, i));
  T_OK(ka_dev_put(m->dev, w, host));
  free(host.data);
  T_OK(ka_model_weights_changed(m));
}

/* The elements of `part` equal those of the whole tensor's gradient. */
static inline void same_elements(const struct bed *all, const struct bed *some, const char *what) {
  for (int64_t s = 0; s < some->m.n_slices; s++) {
    const struct ka_slice *part = &some->m.slices[s];
    const struct ka_slice *whole = &all->m.slices[part->param];
    assert_int_equal(whole->param, part->param);
    for (int64_t r = 0; r < part->n_rows; r++)
      for (int64_t c = 0; c < part->n_cols; c++) {
        double a = ka_load(part->grad.data, part->grad.dtype, r * part->n_cols + c);
        double b = ka_load(whole->grad.data, whole->grad.dtype,
                           (part->row + r) * whole->n_cols + part->col + c);
        if (a != b)
          print_error("%s %s [%d,%d]: %g, %g\n", what, some->m.params[part->param].name, (int)r,
                      (int)c, a, b);
        assert_true(a == b);
      }
  }
}

static inline void all_bits_equal(const struct ka_model *a, const struct ka_model *b) {
  for (int64_t s = 0; s < a->n_slices; s++)
    assert_memory_equal(a->slices[s].grad.data, b->slices[s].grad.data,
                        ka_tensor_bytes(&a->slices[s].grad));
}

/* Whether any element of the gradients is other than zero. */
static inline bool any_gradient(const struct ka_model *m) {
  for (int64_t s = 0; s < m->n_slices; s++)
    for (int64_t i = 0; i < ka_tensor_elems(&m->slices[s].grad); i++)
      if (ka_load(m->slices[s].grad.data, m->slices[s].grad.dtype, i) != 0) return true;
  return false;
}

/* Largest difference of two models' gradients. */
static inline double grad_distance(const struct ka_model *a, const struct ka_model *b) {
  double most = 0;
  for (int64_t s = 0; s < a->n_slices; s++)
    for (int64_t i = 0; i < ka_tensor_elems(&a->slices[s].grad); i++)
      most = fmax(most, fabs(ka_load(a->slices[s].grad.data, KA_F64, i) -
                             ka_load(b->slices[s].grad.data, KA_F64, i)));
  return most;
}

#endif
