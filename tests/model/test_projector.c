/* SPDX-License-Identifier: Apache-2.0
 * Frames of another modality in front of a decoder: gradients against finite differences, clips
 * that do not see each other, an anchor that leaves them alone, weights that load back. */
#include "engine/model/projector.h"
#include "tests/model/bed.h"

static const struct ka_projector_config shapes[] = {
    {.n_features = 5, .stack = 3, .hidden = 7},
    {.n_features = 5, .n_conv = 1, .conv = {1}, .conv_width = 4, .stack = 1, .hidden = 6},
    {.n_features = 4,
     .n_conv = 2,
     .conv = {1, 2},
     .conv_width = 8,
     .n_layers = 2,
     .heads = 2,
     .stack = 2,
     .hidden = 5},
    {.n_features = 3, .n_conv = 3, .conv = {1, 2, 3}, .conv_width = 4, .stack = 2, .hidden = 5},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

struct scene {
  struct bed bed;
  const struct ka_projector_config *config;
  struct ka_clip clips[2];
  double moved; /* added to the frames of clip 1 */
  double end;   /* and to the last one of clip 0 */
};

static ka_status read_frames(void *user, int64_t i, float *out) {
  const struct scene *s = user;
  int64_t n = s->clips[i].n_frames * s->config->n_features;
  for (int64_t k = 0; k < n; k++)
    out[k] = (float)ka_rng_normal(3, (uint64_t)i, (uint64_t)k) + (i == 1 ? (float)s->moved : 0);
  for (int64_t k = n - s->config->n_features; k < n && i == 0; k++) out[k] += (float)s->end;
  return KA_STATUS_OK;
}

/* Row 0: a clip of 3 places in one document. Row 1: a text, then a document with a clip of 2. */
static void scene_open(struct scene *s, const struct ka_projector_config *c, const char *device,
                       enum ka_dtype compute) {
  bed_open(&s->bed, tiny_make(ctx, tiny_llama, KA_F32), device, compute);
  int64_t stride = ka_projector_stride(c);
  s->config = c;
  s->moved = s->end = 0;
  s->clips[0] = (struct ka_clip){.n_frames = 2 * stride + 1, .at = 1, .n_places = 3};
  s->clips[1] = (struct ka_clip){.n_frames = 2 * stride, .at = T + 5, .n_places = 2};
  int32_t *ints = s->bed.batch.ints;
  for (int64_t t = 4; t < T; t++) {
    ints[2 * N + T + t] = (int32_t)t - 4;
    ints[3 * N + T + t] = 4;
  }
  s->bed.batch.batch.clips = (struct ka_clips){
      .n = 2, .width = c->n_features, .items = s->clips, .read = read_frames, .user = s};
  T_OK(ka_projector_open(&s->bed.m, c, NULL, 11));
}

static void train_everything(struct ka_model *m) {
  struct ka_train_part parts[160];
  int64_t n = m->n_params, n_own = ka_projector_n_params(m);
  assert_true(n + n_own <= 160);
  for (int64_t i = 0; i < n; i++)
    parts[i] = (struct ka_train_part){m->params[i].name, 0, -1, 0, -1};
  ka_projector_parts(m, parts + n);
  T_OK(ka_model_train_parts(m, parts, n + n_own));
}

static double loss_of(struct scene *s) {
  double sum;
  T_OK(ka_model_eval(&s->bed.m, &s->bed.batch.batch, &sum, NULL));
  return sum / (double)s->bed.batch.batch.n_targets;
}

/* By the fourth-order stencil of test_grad.c. */
static void check_param(struct scene *s, int64_t p) {
  const double h = 3e-5;
  const struct { double step, factor; } stencil[] = {{h, 8}, {h, -1}, {-3 * h, -8}, {-h, 1}};
  struct ka_model *m = &s->bed.m;
  double along = 0, slope = 0;
  for (int64_t i = 0; i < ka_tensor_elems(&m->slices[p].grad); i++)
    along += ka_load(m->slices[p].grad.data, KA_F64, i) * direction(p, i);
  for (int i = 0; i < 4; i++) {
    move(m, p, stencil[i].step);
    slope += stencil[i].factor * loss_of(s) / (12 * h);
  }
  move(m, p, 2 * h);
  double error = fabs(slope - along);
  if (!(error < 1e-8 * (1 + fabs(along))))
    fail_msg("%s: %g, off by %g", m->params[p].name, along, error);
}

static void finite_differences(void **state) {
  (void)state;
  for (int c = 0; c < N_SHAPES; c++) {
    struct scene s;
    scene_open(&s, &shapes[c], "ref", KA_F64);
    train_everything(&s.bed.m);
    T_OK(ka_model_prepare(&s.bed.m, B, T, false));
    int64_t n = s.bed.m.n_params + ka_projector_n_params(&s.bed.m);
    for (int64_t p = 0; p < n; p++) move(&s.bed.m, p, 0.1);
    gradient(&s.bed);
    for (int64_t p = 0; p < n; p++) check_param(&s, p);
    bed_close(&s.bed);
  }
}

/* The projector alone, in a frozen model: the same gradients, on both back ends. */
static void alone_as_together(void **state) {
  (void)state;
  for (int c = 0; c < N_SHAPES; c++) {
    struct scene all, one;
    struct ka_train_part parts[KA_PROJECTOR_PARAMS];
    scene_open(&all, &shapes[c], "ref", KA_F64);
    train_everything(&all.bed.m);
    T_OK(ka_model_prepare(&all.bed.m, B, T, false));
    gradient(&all.bed);
    const struct ka_slice *from = &all.bed.m.slices[all.bed.m.n_params];
    for (int device = 0; device < 2; device++) {
      scene_open(&one, &shapes[c], device ? t_device() : "ref", device ? KA_F32 : KA_F64);
      ka_projector_parts(&one.bed.m, parts);
      T_OK(ka_model_train_parts(&one.bed.m, parts, ka_projector_n_params(&one.bed.m)));
      T_OK(ka_model_prepare(&one.bed.m, B, T, false));
      gradient(&one.bed);
      for (int64_t i = 0; i < one.bed.m.n_slices; i++) {
        const struct ka_tensor *a = &from[i].grad, *b = &one.bed.m.slices[i].grad;
        void *host = malloc(ka_tensor_bytes(b));
        T_OK(ka_dev_download(&one.bed.dev, host, b->data, ka_tensor_bytes(b)));
        for (int64_t k = 0; k < ka_tensor_elems(a); k++)
          assert_true(fabs(ka_load(a->data, a->dtype, k) - ka_load(host, b->dtype, k)) <=
                      (device ? 2e-5 : 1e-15));
        free(host);
      }
      bed_close(&one.bed);
    }
    bed_close(&all.bed);
  }
}

/* Another sound in one document changes no other document's loss. */
static void clips_apart(void **state) {
  (void)state;
  struct scene s;
  float before[N], after[N];
  double sum;
  scene_open(&s, &shapes[N_SHAPES - 2], "cpu", KA_F32);
  T_OK(ka_model_prepare(&s.bed.m, B, T, false));
  T_OK(ka_model_eval(&s.bed.m, &s.bed.batch.batch, &sum, before));
  s.moved = 1;
  T_OK(ka_model_eval(&s.bed.m, &s.bed.batch.batch, &sum, after));
  for (int64_t i = 0; i < T + 5; i++) assert_true(before[i] == after[i]);
  bool differs = false;
  for (int64_t i = T + 5; i < N; i++) differs = differs || before[i] != after[i];
  assert_true(differs);
  bed_close(&s.bed);
}

/* An encoder's rows see what comes behind them: the end of a clip is in its first place, from which
 * here a token is predicted. Without one it is not. */
static void ends_are_heard_first(void **state) {
  (void)state;
  for (int c = 0; c < N_SHAPES; c++) {
    struct scene s;
    double sum[2];
    scene_open(&s, &shapes[c], "ref", KA_F64);
    for (int64_t i = 0; i < N; i++) s.bed.batch.ints[N + i] = i == 2 ? 7 : -100;
    T_OK(ka_model_prepare(&s.bed.m, B, T, false));
    for (int k = 0; k < 2; k++) {
      s.end = k;
      T_OK(ka_model_eval(&s.bed.m, &s.bed.batch.batch, &sum[k], NULL));
    }
    assert_true(sum[0] > 0 && (sum[0] != sum[1]) == (shapes[c].n_layers > 0));
    bed_close(&s.bed);
  }
}

/* The divergence from the base counts where there is text alone: here row 1's first document. */
static void anchor_on_text(void **state) {
  (void)state;
  struct scene s;
  struct ka_step_stats stats;
  double alone;
  scene_open(&s, &shapes[0], "ref", KA_F64);
  s.bed.m.term_weight[KA_TERM_KL_TASK] = 0.5;
  train_everything(&s.bed.m);
  T_OK(ka_model_prepare(&s.bed.m, B, T, false));
  for (int64_t p = 0; p < s.bed.m.n_params; p++) move(&s.bed.m, p, 0.1);
  gradient(&s.bed);
  T_OK(ka_model_step_stats(&s.bed.m, &stats));
  double with_clips = stats.term[KA_TERM_KL_TASK];
  assert_true(with_clips > 0);
  int32_t *labels = s.bed.batch.ints + N;
  for (int64_t i = 0; i < N; i++)
    if (i < T || i >= T + 4) labels[i] = -100;
  gradient(&s.bed);
  T_OK(ka_model_step_stats(&s.bed.m, &stats));
  alone = stats.term[KA_TERM_KL_TASK];
  assert_true(fabs(alone - with_clips) < 1e-12 * alone);
  bed_close(&s.bed);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(finite_differences, fresh),
      cmocka_unit_test_setup(alone_as_together, fresh),
      cmocka_unit_test_setup(clips_apart, fresh),
      cmocka_unit_test_setup(ends_are_heard_first, fresh),
      cmocka_unit_test_setup(anchor_on_text, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
