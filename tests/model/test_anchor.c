/* SPDX-License-Identifier: Apache-2.0
 * The divergence from the base model: its value against the logits of two models, its gradient
 * against finite differences in f64, and both under every switch that must not change them. */
#include "engine/formats/safetensors.h"
#include "tests/model/bed.h"

#include <omp.h>

static const double weight = 0.7;

static void anchored_open(struct bed *t, const char *dir, const char *device,
                          enum ka_dtype compute) {
  bed_open(t, dir, device, compute);
  t->m.term_weight[KA_TERM_KL_TASK] = weight;
}

/* Is one of the parts, with | between them, in the name? (A Llama's, or a GPT-2's.) */
static bool named(const char *name, const char *parts) {
  char word[128];
  for (const char *p = parts; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL) {
    snprintf(word, sizeof word, "%.*s", (int)strcspn(p, "|"), p);
    if (strstr(name, word)) return true;
  }
  return false;
}

/* Trains the tensors whose names hold `part`; "" trains everything. */
static void train_some(struct ka_model *m, const char *part) {
  struct ka_train_part parts[64];
  int64_t n = 0;
  assert_true(m->n_params <= 64);
  for (int64_t i = 0; i < m->n_params; i++)
    if (named(m->params[i].name, part))
      parts[n++] = (struct ka_train_part){m->params[i].name, 0, -1, 0, -1};
  assert_true(n > 0);
  T_OK(ka_model_train_parts(m, parts, n));
}

static void move_trained(struct ka_model *m, double h) {
  for (int64_t p = 0; p < m->n_params; p++)
    if (m->params[p].trained) move(m, p, h);
}

/* Sums over the batch; the gradient is left in the slices. */
static struct ka_step_stats stats_of(struct bed *t) {
  struct ka_step_stats h;
  double loss = gradient(t);
  T_OK(ka_model_step_stats(&t->m, &h));
  assert_true(fabs(h.term[KA_TERM_CE] - loss) <= 1e-12 * loss);
  return h;
}

static double objective(struct bed *t) {
  struct ka_step_stats h = stats_of(t);
  return (h.term[KA_TERM_CE] + weight * h.term[KA_TERM_KL_TASK]) / (double)t->batch.batch.n_targets;
}

static void slope_is_gradient(struct bed *t, int64_t slice, const char *what) {
  const double h = 3e-5; /* error of order h^4 */
  const struct {
    double step, factor;
  } stencil[] = {{h, 8}, {h, -1}, {-3 * h, -8}, {-h, 1}}; /* at h, 2h, -h, -2h */
  const struct ka_slice *s = &t->m.slices[slice];
  double along = 0, slope = 0;
  objective(t);
  for (int64_t i = 0; i < ka_tensor_elems(&s->grad); i++)
    along += ka_load(s->grad.data, KA_F64, i) * direction(s->param, i);
  for (int i = 0; i < 4; i++) {
    move(&t->m, s->param, stencil[i].step);
    slope += stencil[i].factor * objective(t) / (12 * h);
  }
  move(&t->m, s->param, 2 * h);
  if (!(fabs(slope - along) < 1e-8 * (1 + fabs(along))))
    fail_msg("%s %s: %g, by differences %g", what, t->m.params[s->param].name, along, slope);
}

/* Off the base, everything trained or a little: the base's pass then starts at the embedding, at a
 * layer, or not at all. */
static void finite_differences(void **state) {
  (void)state;
  static const char *const some[] = {"",
                                     "layers.1.mlp|h.1.mlp",
                                     "layers.0.self_attn.o_proj|h.0.attn.c_proj",
                                     ".norm.weight|ln_f",
                                     "lm_head|wte",
                                     "embed|wpe"};
  for (int c = 0; c < N_CONFIGS; c++)
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
      struct bed t;
      if (i > 0 && c != (int)i % 2)
        continue; /* llama with a head of its own, mistral with the tied one */
      anchored_open(&t, tiny_make(ctx, configs[c], KA_F32), "ref", KA_F64);
      train_some(&t.m, some[i]);
      T_OK(ka_model_prepare(&t.m, B, T, false));
      move_trained(&t.m, 0.1);
      assert_true(stats_of(&t).term[KA_TERM_KL_TASK] > 1e-4);
      for (int64_t s = 0; s < t.m.n_slices; s++) slope_is_gradient(&t, s, some[i]);
      bed_close(&t);
    }
}

/* sum over the batch's targets of KL(base || tuned), from all logits of both. */
static double divergence(const struct tiny_batch *batch, const float *base, const float *tuned) {
  const struct ka_batch *b = &batch->batch;
  double sum = 0;
  for (int64_t i = 1; i < b->B * b->T; i++) {
    const float *z0 = base + (i - 1) * TINY_V, *z = tuned + (i - 1) * TINY_V;
    double sum0 = 0, sum1 = 0;
    if (i % b->T <= b->doc_start[i] || b->labels[i] == -100) continue;
    for (int c = 0; c < TINY_V; c++) {
      sum0 += exp(z0[c]);
      sum1 += exp(z[c]);
    }
    for (int c = 0; c < TINY_V; c++)
      sum += exp(z0[c]) / sum0 * ((z0[c] - log(sum0)) - (z[c] - log(sum1)));
  }
  return sum;
}

static void logits_of(struct bed *t, float *logits) {
  T_OK(ka_model_forward(&t->m, &t->batch.batch, logits, NULL));
}

/* On the device under test: the value is that of two models side by side. */
static void value_is_of_two_models(void **state) {
  (void)state;
  static const char *const some[] = {
      "",
      "layers.1.self_attn.v_proj|layers.1.self_attn.qkv|h.1.attn.c_attn|layers.1.self_attn.kv_b",
      ".norm.weight|ln_f"};
  float base[N * TINY_V], tuned[N * TINY_V];
  for (int c = 0; c < N_CONFIGS; c++)
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
      struct bed t;
      anchored_open(&t, tiny_make(ctx, configs[c], KA_F32), t_device(), KA_F32);
      train_some(&t.m, some[i]);
      T_OK(ka_model_prepare(&t.m, B, T, false));
      logits_of(&t, base);
      move_trained(&t.m, 0.1);
      logits_of(&t, tuned);
      double want = divergence(&t.batch, base, tuned), got = stats_of(&t).term[KA_TERM_KL_TASK];
      if (!(want > 1e-3 && fabs(got - want) < 2e-5 * (1 + want)))
        fail_msg("%s of config %d: %.9g, expected %.9g", some[i], c, got, want);
      bed_close(&t);
    }
}

/* Before the first step: no divergence, and the gradient of the cross-entropy to the bit. */
static void nothing_at_the_start(void **state) {
  (void)state;
  const enum ka_dtype types[] = {KA_F32, KA_BF16};
  for (int c = 0; c < N_CONFIGS; c++)
    for (int i = 0; i < 2; i++) {
      struct bed plain, anchored;
      const char *dir = tiny_make(ctx, configs[c], KA_F32);
      bed_open(&plain, dir, "cpu", types[i]);
      anchored_open(&anchored, dir, "cpu", types[i]);
      train_all(&plain.m);
      train_all(&anchored.m);
      T_OK(ka_model_prepare(&plain.m, B, T, false));
      T_OK(ka_model_prepare(&anchored.m, B, T, false));
      struct ka_step_stats a = stats_of(&plain), b = stats_of(&anchored);
      assert_true(a.term[KA_TERM_CE] == b.term[KA_TERM_CE] && a.term[KA_TERM_KL_TASK] == 0 &&
                  b.term[KA_TERM_KL_TASK] == 0);
      all_bits_equal(&plain.m, &anchored.m);
      bed_close(&plain);
      bed_close(&anchored);
    }
}

/* Training one tensor alone gives the bits that training everything gives it: what the base's pass
 * shares is what it would compute. */
static void alone_as_together(const char *device, enum ka_dtype compute) {
  for (int c = 0; c < N_CONFIGS; c++) {
    const char *dir = tiny_make(ctx, configs[c], KA_F32);
    struct bed all;
    anchored_open(&all, dir, device, compute);
    train_all(&all.m);
    for (int64_t p = 0; p < all.m.n_params; p++) {
      struct bed one;
      anchored_open(&one, dir, device, compute);
      T_OK(ka_model_train_parts(&one.m, &(struct ka_train_part){one.m.params[p].name, 0, -1, 0, -1},
                                1));
      T_OK(ka_model_prepare(&all.m, B, T, false)); /* at the base again */
      T_OK(ka_model_prepare(&one.m, B, T, false));
      move(&all.m, p, 0.1);
      move(&one.m, p, 0.1);
      struct ka_step_stats a = stats_of(&all), b = stats_of(&one);
      /* An expert may be no token's, and a bias that only chooses experts has no gradient. */
      const char *name = one.m.params[p].name;
      bool reached = any_gradient(&one.m), chooses = strstr(name, "e_score_correction_bias");
      assert_true(a.term[KA_TERM_CE] == b.term[KA_TERM_CE] &&
                  a.term[KA_TERM_KL_TASK] == b.term[KA_TERM_KL_TASK]);
      assert_true(chooses || (a.term[KA_TERM_KL_TASK] > 0) == reached);
      assert_true(chooses || reached || strstr(name, "experts"));
      same_elements(&all, &one, "alone");
      assert_true(one.m.step.used_bytes <= all.m.step.used_bytes);
      bed_close(&one);
    }
    bed_close(&all);
  }
}

static void alone_as_together_everywhere(void **state) {
  (void)state;
  alone_as_together("ref", KA_F32);
  alone_as_together("cpu", KA_F32);
  alone_as_together("cpu", KA_BF16);
}

static void checkpointing_changes_no_bit(void **state) {
  (void)state;
  static const char *const some[] = {"", "layers.1|h.1"};
  for (int c = 0; c < N_CONFIGS; c++)
    for (int i = 0; i < 4; i++) {
      struct bed plain, redo;
      const char *dir = tiny_make(ctx, configs[c], KA_F32);
      anchored_open(&plain, dir, "cpu", KA_BF16);
      anchored_open(&redo, dir, "cpu", KA_BF16);
      train_some(&plain.m, some[i % 2]);
      train_some(&redo.m, some[i % 2]);
      redo.m.recompute = i < 2 ? redo.m.recipe.L : 1;
      T_OK(ka_model_prepare(&plain.m, B, T, false));
      T_OK(ka_model_prepare(&redo.m, B, T, false));
      move_trained(&plain.m, 0.05);
      move_trained(&redo.m, 0.05);
      struct ka_step_stats a = stats_of(&plain), b = stats_of(&redo);
      assert_true(a.term[KA_TERM_CE] == b.term[KA_TERM_CE] &&
                  a.term[KA_TERM_KL_TASK] == b.term[KA_TERM_KL_TASK] &&
                  a.term[KA_TERM_KL_TASK] > 0);
      all_bits_equal(&plain.m, &redo.m);
      bed_close(&plain);
      bed_close(&redo);
    }
}

/* The same documents in rows of their own, packed, and one micro-batch each. */
static void batches_do_not_matter(void **state) {
  (void)state;
  for (int c = 0; c < N_CONFIGS; c++) {
    struct bed rows, packed, halves;
    struct bed *all[] = {&rows, &packed, &halves};
    const char *dir = tiny_make(ctx, configs[c], KA_F32);
    for (int i = 0; i < 3; i++) {
      anchored_open(all[i], dir, "ref", KA_F64);
      train_some(&all[i]->m, "layers.1|h.1");
    }
    packed.batch = masked_batch(1, N);
    memcpy(packed.batch.ints, rows.batch.ints, 3 * N * sizeof(int32_t)); /* ids, labels, position */
    for (int i = T; i < N; i++) packed.batch.ints[3 * N + i] = T;
    packed.batch.batch.n_targets = rows.batch.batch.n_targets;
    T_OK(ka_model_prepare(&rows.m, B, T, false));
    T_OK(ka_model_prepare(&packed.m, 1, N, false));
    T_OK(ka_model_prepare(&halves.m, 1, T, false));
    for (int i = 0; i < 3; i++) move_trained(&all[i]->m, 0.1);
    struct ka_step_stats a = stats_of(&rows), b = stats_of(&packed), h;
    T_OK(ka_model_zero_grad(&halves.m));
    for (int r = 0; r < B; r++) {
      struct ka_batch half = rows.batch.batch;
      half.B = 1;
      half.input_ids += r * T;
      half.labels += r * T;
      half.position += r * T;
      half.doc_start += r * T;
      T_OK(ka_model_grad(&halves.m, &half, 1.0 / (double)rows.batch.batch.n_targets, NULL));
    }
    T_OK(ka_model_step_stats(&halves.m, &h));
    assert_true(a.term[KA_TERM_KL_TASK] > 1e-3 &&
                fabs(a.term[KA_TERM_KL_TASK] - b.term[KA_TERM_KL_TASK]) < 1e-10 &&
                fabs(a.term[KA_TERM_KL_TASK] - h.term[KA_TERM_KL_TASK]) < 1e-10);
    assert_true(fabs(a.term[KA_TERM_CE] - b.term[KA_TERM_CE]) < 1e-10);
    assert_true(grad_distance(&rows.m, &packed.m) < 1e-12);
    bool same = !rows.m.recipe.moe; /* the balance of experts is that of a batch */
    assert_true(!same || fabs(a.term[KA_TERM_CE] - h.term[KA_TERM_CE]) < 1e-10);
    assert_true(!same || grad_distance(&rows.m, &halves.m) < 1e-12);
    for (int i = 0; i < 3; i++) bed_close(all[i]);
  }
}

static void slices_as_whole_tensors(void **state) {
  (void)state;
  static const struct ka_train_part parts[] = {
      {"model.embed_tokens.weight", 3, 9, 2, 5},
      {"model.layers.0.input_layernorm.weight", 0, -1, 3, 4},
      {"model.layers.0.self_attn.q_proj.weight", 6, 6, 0, -1},
      {"model.layers.1.self_attn.o_proj.weight", 0, -1, 12, 6},
      {"lm_head.weight", 20, -1, 0, 3},
  };
  enum { N_PARTS = sizeof parts / sizeof *parts };
  struct bed all, some;
  const char *dir = tiny_make(ctx, tiny_llama, KA_F32);
  anchored_open(&all, dir, "ref", KA_F32);
  anchored_open(&some, dir, "ref", KA_F32);
  train_all(&all.m);
  T_OK(ka_model_train_parts(&some.m, parts, N_PARTS));
  T_OK(ka_model_prepare(&all.m, B, T, false));
  T_OK(ka_model_prepare(&some.m, B, T, false));
  for (int64_t p = 0; p < all.m.n_params; p++) {
    if (!some.m.params[p].trained) continue;
    move(&all.m, p, 0.1);
    move(&some.m, p, 0.1);
  }
  assert_true(stats_of(&all).term[KA_TERM_KL_TASK] == stats_of(&some).term[KA_TERM_KL_TASK]);
  same_elements(&all, &some, "slice");
  bed_close(&some);
  bed_close(&all);
}

/* The tuned weights in a directory of their own. */
static const char *write_moved(struct ka_model *m, const char *dir, const char *part) {
  const char *out = t_temp_dir();
  struct ka_st_out changed[64];
  int64_t n = 0;
  train_some(m, part);
  T_OK(ka_model_prepare(m, B, T, false));
  move_trained(m, 0.1);
  for (int64_t p = 0; p < m->n_params; p++)
    if (m->params[p].trained)
      changed[n++] = (struct ka_st_out){m->params[p].name, m->params[p].weight, NULL};
  T_OK(ka_st_rewrite(ctx, &m->files, out, changed, n));
  T_OK(ka_copy_file(ctx, t_str("%s/config.json", dir), t_str("%s/config.json", out)));
  return out;
}

/* Weights that were trained once and are frozen now belong to the tuned model alone. */
static void another_base(void **state) {
  (void)state;
  static const char *const once[] = {"layers.0.mlp.up|layers.0.mlp.gate_up|h.0.mlp.c_fc|"
                                     "layers.0.mlp.experts|layers.0.block_sparse_moe",
                                     "embed|wpe", ".norm.weight|ln_f"};
  float base[N * TINY_V], tuned[N * TINY_V];
  for (int c = 0; c < N_CONFIGS; c++)
    for (size_t i = 0; i < sizeof once / sizeof *once; i++) {
      struct bed t, now;
      const char *dir = tiny_make(ctx, configs[c], KA_F32);
      bed_open(&t, dir, "ref", KA_F64);
      T_OK(ka_model_prepare(&t.m, B, T, false));
      logits_of(&t, base);
      const char *moved = write_moved(&t.m, dir, once[i]);
      anchored_open(&now, moved, "ref", KA_F64);
      T_OK(ka_model_set_base(&now.m, dir));
      train_some(&now.m, "layers.1.self_attn.k_proj|layers.1.self_attn.qkv|h.1.attn.c_attn|layers."
                         "1.self_attn.kv_b");
      T_OK(ka_model_prepare(&now.m, B, T, false));
      move_trained(&now.m, 0.1);
      logits_of(&now, tuned);
      double want = divergence(&now.batch, base, tuned), got = stats_of(&now).term[KA_TERM_KL_TASK];
      if (!(want > 1e-3 && fabs(got - want) < 1e-5 * (1 + want)))
        fail_msg("%s of config %d: %.9g, expected %.9g", once[i], c, got, want);
      slope_is_gradient(&now, 0, once[i]);
      bed_close(&now);
      bed_close(&t);
    }
  struct bed t;
  bed_open(&t, tiny_make(ctx, tiny_llama, KA_F32), "ref", KA_F32);
  T_FAILS(ka_model_set_base(&t.m, tiny_make(ctx, tiny_llama, KA_BF16)), KA_E_INPUT,
          "not of the dtype and shape");
  bed_close(&t);
}

static void steps_allocate_what_was_planned_and_no_more(void **state) {
  (void)state;
  struct bed t;
  anchored_open(&t, tiny_make(ctx, tiny_qwen3, KA_F32), "cpu", KA_BF16);
  train_some(&t.m, "layers.1|h.1");
  T_OK(ka_model_prepare(&t.m, B, T, true));
  size_t run_bytes = t.m.run.used_bytes, step_bytes = t.m.step.used_bytes;
  T_OK(ka_model_prepare(&t.m, B, T, false));
  assert_true(t.m.run.used_bytes == run_bytes && t.m.run.capacity_bytes == run_bytes);
  assert_true(t.m.step.used_bytes == step_bytes && t.m.step.capacity_bytes == step_bytes);
  double kl = stats_of(&t).term[KA_TERM_KL_TASK];
  ctx->fail_alloc_at = 1; /* any allocation fails from here */
  for (int i = 0; i < 3; i++) assert_true(stats_of(&t).term[KA_TERM_KL_TASK] == kl);
  ctx->fail_alloc_at = 0;
  bed_close(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(finite_differences, fresh),
      cmocka_unit_test_setup(value_is_of_two_models, fresh),
      cmocka_unit_test_setup(nothing_at_the_start, fresh),
      cmocka_unit_test_setup(alone_as_together_everywhere, fresh),
      cmocka_unit_test_setup(checkpointing_changes_no_bit, fresh),
      cmocka_unit_test_setup(batches_do_not_matter, fresh),
      cmocka_unit_test_setup(slices_as_whole_tensors, fresh),
      cmocka_unit_test_setup(another_base, fresh),
      cmocka_unit_test_setup(steps_allocate_what_was_planned_and_no_more, fresh),
  };
  omp_set_num_threads(1); /* the models are tiny */
  return cmocka_run_group_tests(tests, NULL, NULL);
}
