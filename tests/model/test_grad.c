/* SPDX-License-Identifier: Apache-2.0
 * Gradients of the whole model: against finite differences in f64, and against themselves under
 * every switch that must not change them. */
#include "tests/model/bed.h"

#include <omp.h>

/* Of a training step: an evaluation has no load-balancing loss. */
static double mean_loss(struct bed *t) {
  double sum;
  if (t->m.recipe.moe) return gradient(t) / (double)t->batch.batch.n_targets;
  T_OK(ka_model_eval(&t->m, &t->batch.batch, &sum, NULL));
  return sum / (double)t->batch.batch.n_targets;
}

static void finite_differences(void **state) {
  (void)state;
  for (int c = 0; c < N_CONFIGS; c++) {
    struct bed t;
    bed_open(&t, tiny_make(ctx, configs[c], KA_F32), "ref", KA_F64);
    train_all(&t.m);
    T_OK(ka_model_prepare(&t.m, B, T, false));
    for (int64_t p = 0; p < t.m.n_params; p++) move(&t.m, p, 0.1);
    assert_true(fabs(gradient(&t) / (double)t.batch.batch.n_targets - mean_loss(&t)) < 1e-12);
    for (int64_t p = 0; p < t.m.n_params; p++) {
      const double h = 3e-5; /* error of order h^4 */
      const struct {
        double step, factor;
      } stencil[] = {{h, 8}, {h, -1}, {-3 * h, -8}, {-h, 1}}; /* at h, 2h, -h, -2h */
      double along = 0, slope = 0;
      if (t.m.recipe.moe) gradient(&t);
      for (int64_t i = 0; i < ka_tensor_elems(&t.m.slices[p].grad); i++)
        along += ka_load(t.m.slices[p].grad.data, KA_F64, i) * direction(p, i);
      for (int i = 0; i < 4; i++) {
        move(&t.m, p, stencil[i].step);
        slope += stencil[i].factor * mean_loss(&t) / (12 * h);
      }
      move(&t.m, p, 2 * h);
      double error = fabs(slope - along);
      if (!(error < 1e-8 * (1 + fabs(along))))
        print_error("config %d %s: %g, off by %g\n", c, t.m.params[p].name, along, error);
      assert_true(error < 1e-8 * (1 + fabs(along)));
    }
    bed_close(&t);
  }
}

/* Training one tensor alone gives the bits that training everything gives it. */
static void alone_as_together(const char *device, enum ka_dtype compute, int64_t tokens,
                              int first_config) {
  for (int c = first_config; c < N_CONFIGS; c++) {
    struct bed all, one;
    const char *dir = tiny_make(ctx, configs[c], KA_F32);
    bed_open(&all, dir, device, compute);
    all.batch = masked_batch(B, tokens);
    train_all(&all.m);
    T_OK(ka_model_prepare(&all.m, B, tokens, false));
    double loss = gradient(&all);
    bed_open(&one, dir, device, compute);
    one.batch = masked_batch(B, tokens);
    for (int64_t p = 0; p < all.m.n_params; p++) {
      T_OK(ka_model_train_parts(&one.m, &(struct ka_train_part){all.m.params[p].name, 0, -1, 0, -1},
                                1));
      T_OK(ka_model_prepare(&one.m, B, tokens, false));
      assert_true(gradient(&one) == loss);
      same_elements(&all, &one, "alone");
      assert_true(one.m.step.used_bytes <= all.m.step.used_bytes);
    }
    bed_close(&one);
    bed_close(&all);
  }
}

static void alone_as_together_ref(void **state) {
  (void)state;
  alone_as_together("ref", KA_F32, T, 0);
}

static void alone_as_together_cpu(void **state) {
  (void)state;
  alone_as_together("cpu", KA_F32, T, 0);
  alone_as_together("cpu", KA_BF16, T, 0);
  alone_as_together("cpu", KA_BF16, 512, 3); /* rows enough to pack trained weights */
}

static void slices_of(const char *config, const struct ka_train_part *parts, int64_t n_parts) {
  struct bed all, some;
  const char *dir = tiny_make(ctx, config, KA_F32);
  bed_open(&all, dir, "ref", KA_F32);
  train_all(&all.m);
  T_OK(ka_model_prepare(&all.m, B, T, false));
  gradient(&all);
  bed_open(&some, dir, "ref", KA_F32);
  T_OK(ka_model_train_parts(&some.m, parts, n_parts));
  T_OK(ka_model_prepare(&some.m, B, T, false));
  gradient(&some);
  same_elements(&all, &some, "slice");
  bed_close(&some);
  bed_close(&all);
}

static void slices_as_whole_tensors(void **state) {
  (void)state;
  static const struct ka_train_part parts[] = {
      {"model.embed_tokens.weight", 3, 9, 0, -1},
      {"model.embed_tokens.weight", 15, 6, 2, 5},
      {"model.layers.0.input_layernorm.weight", 0, -1, 3, 4},
      {"model.layers.0.input_layernorm.weight", 0, -1, 9, 2},
      {"model.layers.0.self_attn.q_proj.weight", 6, 6, 0, -1},
      {"model.layers.1.self_attn.k_proj.weight", 6, 6, 0, -1},
      {"model.layers.1.self_attn.o_proj.weight", 0, -1, 12, 6},
      {"model.layers.1.mlp.down_proj.weight", 1, 5, 7, 11},
      {"model.layers.1.mlp.gate_proj.weight", 19, 1, 0, -1},
      {"model.layers.1.self_attn.q_proj.bias", 0, -1, 6, 6},
      {"lm_head.weight", 20, -1, 0, 3},
  };
  static const struct ka_train_part latent[] = {
      {"model.layers.0.self_attn.q_a_proj.weight", 1, 3, 2, 5},
      {"model.layers.0.self_attn.q_a_proj.bias", 0, -1, 2, 3},
      {"model.layers.1.self_attn.q_b_proj.weight", 7, 7, 0, -1}, /* a head */
      {"model.layers.1.self_attn.kv_a_proj_with_mqa.weight", 5, 4, 0, -1},
      {"model.layers.1.self_attn.kv_a_layernorm.weight", 0, -1, 1, 2},
      {"model.layers.1.self_attn.kv_b_proj.weight", 8, 8, 0, -1}, /* a head */
      {"model.layers.1.self_attn.o_proj.weight", 0, -1, 5, 5},    /* a head */
  };
  slices_of(tiny_llama, parts, sizeof parts / sizeof *parts);
  slices_of(tiny_deepseek3, latent, sizeof latent / sizeof *latent);
}

/* Whole experts, rows and columns of one, rows of some in a tensor that holds all. */
static void slices_of_experts(void **state) {
  (void)state;
  static const struct ka_train_part each[] = {
      {"model.layers.0.mlp.experts.1.gate_proj.weight", 3, 5, 0, -1},
      {"model.layers.0.mlp.experts.1.gate_proj.weight", 11, 4, 2, 7},
      {"model.layers.0.mlp.experts.1.up_proj.weight", 0, -1, 0, -1},
      {"model.layers.1.mlp.experts.2.down_proj.weight", 0, -1, 4, 7},
      {"model.layers.1.mlp.gate.weight", 1, 2, 0, -1},
  };
  static const struct ka_train_part stacked[] = {
      {"model.layers.0.mlp.experts.gate_up_proj", 1, 1, 0, -1},
      {"model.layers.0.mlp.experts.gate_up_proj_bias", 1, 2, 5, 10},
      {"model.layers.1.mlp.experts.down_proj", 0, 2, 36, 60},
      {"model.layers.1.mlp.experts.down_proj", 2, 1, 0, -1},
      {"model.layers.1.mlp.experts.down_proj_bias", 0, 1, 0, -1},
      {"model.layers.1.self_attn.sinks", 0, -1, 1, 2},
  };
  const char *const texts[] = {tiny_olmoe, tiny_gpt_oss};
  for (int i = 0; i < 2; i++) {
    struct bed all, some;
    const char *dir = tiny_make(ctx, texts[i], KA_F32);
    bed_open(&all, dir, "ref", KA_F32);
    train_all(&all.m);
    T_OK(ka_model_prepare(&all.m, B, T, false));
    gradient(&all);
    bed_open(&some, dir, "ref", KA_F32);
    T_OK(ka_model_train_parts(&some.m, i == 0 ? each : stacked, i == 0 ? 5 : 6));
    T_OK(ka_model_prepare(&some.m, B, T, false));
    gradient(&some);
    same_elements(&all, &some, "expert");
    bed_close(&some);
    bed_close(&all);
  }
}

static void wrong_parts_are_refused(void **state) {
  (void)state;
  struct bed t;
  bed_open(&t, tiny_make(ctx, tiny_qwen2, KA_F32), "ref", KA_F32);
  const char *q = "model.layers.0.self_attn.q_proj.weight";
  struct ka_train_part unknown = {"model.layers.7.self_attn.q_proj.weight", 0, -1, 0, -1};
  struct ka_train_part outside = {q, 20, 5, 0, -1}, empty = {q, 24, -1, 0, -1};
  struct ka_train_part twice[] = {{q, 0, 6, 0, -1}, {q, 6, 6, 0, -1}, {q, 11, 2, 3, 1}};
  struct ka_train_part tied[] = {{"model.embed_tokens.weight", 0, -1, 0, -1},
                                 {"lm_head.weight", 0, -1, 0, -1}};
  T_FAILS(ka_model_train_parts(&t.m, &unknown, 1), KA_E_INPUT, "no tensor of this name");
  T_FAILS(ka_model_train_parts(&t.m, &outside, 1), KA_E_INPUT, "the matrix is 24 x 12");
  T_FAILS(ka_model_train_parts(&t.m, &empty, 1), KA_E_INPUT, "the matrix is 24 x 12");
  T_FAILS(ka_model_train_parts(&t.m, twice, 3), KA_E_INPUT, "overlap");
  T_FAILS(ka_model_train_parts(&t.m, tied, 2), KA_E_INPUT, "overlap");
  T_OK(ka_model_train_parts(&t.m, twice, 2));
  bed_close(&t);
}

static void checkpointing_changes_no_bit(void **state) {
  (void)state;
  const enum ka_dtype types[] = {KA_F32, KA_BF16};
  for (int c = 0; c < N_CONFIGS; c++)
    for (int i = 0; i < 4; i++) {
      struct bed plain, redo;
      const char *dir = tiny_make(ctx, configs[c], KA_F32);
      bed_open(&plain, dir, "cpu", types[i % 2]);
      bed_open(&redo, dir, "cpu", types[i % 2]);
      train_all(&plain.m);
      train_all(&redo.m);
      redo.m.recompute = i < 2 ? redo.m.recipe.L : 1; /* all blocks, or the lowest */
      T_OK(ka_model_prepare(&plain.m, B, T, false));
      T_OK(ka_model_prepare(&redo.m, B, T, false));
      if (i < 2) assert_true(redo.m.step.used_bytes < plain.m.step.used_bytes);
      assert_true(gradient(&plain) == gradient(&redo));
      all_bits_equal(&plain.m, &redo.m);
      bed_close(&plain);
      bed_close(&redo);
    }
}

/* Two documents in one row are two rows; positions and attention start again. */
static void packed_documents_are_rows(void **state) {
  (void)state;
  for (int c = 0; c < N_CONFIGS; c++) {
    struct bed rows, packed;
    const char *dir = tiny_make(ctx, configs[c], KA_F32);
    bed_open(&rows, dir, "ref", KA_F64);
    bed_open(&packed, dir, "ref", KA_F64);
    packed.batch = masked_batch(1, N);
    struct ka_batch *b = &packed.batch.batch;
    memcpy(packed.batch.ints, rows.batch.ints, 3 * N * sizeof(int32_t)); /* ids, labels, position */
    for (int i = T; i < N; i++) packed.batch.ints[3 * N + i] = T;
    b->n_targets = rows.batch.batch.n_targets;
    train_all(&rows.m);
    train_all(&packed.m);
    T_OK(ka_model_prepare(&rows.m, B, T, false));
    T_OK(ka_model_prepare(&packed.m, 1, N, false));
    float one[N], two[N];
    double sum_one, sum_two;
    T_OK(ka_model_eval(&rows.m, &rows.batch.batch, &sum_one, one));
    T_OK(ka_model_eval(&packed.m, b, &sum_two, two));
    assert_true(fabs(sum_one - sum_two) < 1e-10);
    for (int i = 0; i < N; i++) {
      assert_true(fabsf(one[i] - two[i]) < 1e-6f);
      bool target = i % T > 0 && rows.batch.batch.labels[i] != -100;
      assert_true((one[i] != 0) == target);
    }
    gradient(&rows);
    gradient(&packed);
    assert_true(grad_distance(&rows.m, &packed.m) < 1e-12);
    bed_close(&rows);
    bed_close(&packed);
  }
}

static void accumulation_is_one_batch(void **state) {
  (void)state;
  struct bed whole, halves;
  const char *dir = tiny_make(ctx, tiny_qwen3, KA_F32);
  bed_open(&whole, dir, "ref", KA_F64);
  bed_open(&halves, dir, "ref", KA_F64);
  train_all(&whole.m);
  train_all(&halves.m);
  T_OK(ka_model_prepare(&whole.m, B, T, false));
  T_OK(ka_model_prepare(&halves.m, 1, T, false));
  double loss = gradient(&whole), sum = 0, part;
  T_OK(ka_model_zero_grad(&halves.m));
  for (int r = 0; r < B; r++) {
    struct ka_batch half = whole.batch.batch;
    half.B = 1;
    half.input_ids += r * T;
    half.labels += r * T;
    half.position += r * T;
    half.doc_start += r * T;
    T_OK(ka_model_grad(&halves.m, &half, 1.0 / (double)whole.batch.batch.n_targets, &part));
    sum += part;
  }
  assert_true(fabs(loss - sum) < 1e-10);
  assert_true(grad_distance(&whole.m, &halves.m) < 1e-12);
  bed_close(&whole);
  bed_close(&halves);
}

static void steps_allocate_what_was_planned_and_no_more(void **state) {
  (void)state;
  struct bed t;
  bed_open(&t, tiny_make(ctx, tiny_qwen2, KA_F32), "cpu", KA_BF16);
  train_all(&t.m);
  T_OK(ka_model_prepare(&t.m, B, T, true));
  size_t run_bytes = t.m.run.used_bytes, step_bytes = t.m.step.used_bytes;
  assert_null(t.m.run.head);
  T_OK(ka_model_prepare(&t.m, B, T, false));
  assert_true(t.m.run.used_bytes == run_bytes && t.m.run.capacity_bytes == run_bytes);
  assert_true(t.m.step.used_bytes == step_bytes && t.m.step.capacity_bytes == step_bytes);
  double loss = gradient(&t);
  ctx->fail_alloc_at = 1; /* any allocation fails from here */
  for (int i = 0; i < 3; i++) assert_true(gradient(&t) == loss);
  ctx->fail_alloc_at = 0;
  bed_close(&t);
}

static void too_little_memory_names_the_holders(void **state) {
  (void)state;
  struct bed t;
  bed_open(&t, tiny_make(ctx, tiny_qwen2, KA_F32), "ref", KA_F32);
  train_all(&t.m);
  ctx->fail_alloc_at = 1;
  T_FAILS(ka_model_prepare(&t.m, B, T, false), KA_E_MEMORY, "(weights ");
  ctx->fail_alloc_at = 2;
  T_FAILS(ka_model_prepare(&t.m, B, T, false), KA_E_MEMORY, "gradient_checkpointing: block");
  bed_close(&t);
}

static void failing_allocations_leak_nothing(void **state) {
  (void)state;
  const char *dir = tiny_make(ctx, tiny_qwen2, KA_F32);
  struct ka_dev dev;
  struct ka_model m;
  T_OK(ka_dev_open(ctx, &dev, "ref"));
  for (int64_t at = 1;; at++) {
    ctx->fail_alloc_at = at;
    ka_status st = ka_model_open(ctx, &m, &dev, dir, KA_F32);
    if (ka_ok(st)) {
      st = ka_model_prepare(&m, B, T, false);
      ka_model_close(&m);
    }
    bool reached = ctx->fail_alloc_at == 0;
    ctx->fail_alloc_at = 0;
    if (ka_ok(st)) {
      assert_false(reached && at == 1);
      break;
    }
    assert_true(reached);
    assert_int_equal(st.code, KA_E_MEMORY);
    ka_error_clear(ctx);
  }
  ka_dev_close(&dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(finite_differences, fresh),
      cmocka_unit_test_setup(alone_as_together_ref, fresh),
      cmocka_unit_test_setup(alone_as_together_cpu, fresh),
      cmocka_unit_test_setup(slices_as_whole_tensors, fresh),
      cmocka_unit_test_setup(slices_of_experts, fresh),
      cmocka_unit_test_setup(wrong_parts_are_refused, fresh),
      cmocka_unit_test_setup(checkpointing_changes_no_bit, fresh),
      cmocka_unit_test_setup(packed_documents_are_rows, fresh),
      cmocka_unit_test_setup(accumulation_is_one_batch, fresh),
      cmocka_unit_test_setup(steps_allocate_what_was_planned_and_no_more, fresh),
      cmocka_unit_test_setup(too_little_memory_names_the_holders, fresh),
      cmocka_unit_test_setup(failing_allocations_leak_nothing, fresh),
  };
  omp_set_num_threads(1); /* the models are tiny */
  return cmocka_run_group_tests(tests, NULL, NULL);
}
