/* SPDX-License-Identifier: Apache-2.0
 * Six AdamW steps of torch 2.15 + transformers 5.23 on a subset of tensors (adamw6.json): losses,
 * gradient norms, final weights. The loop's step is called directly, so accumulation can be split
 * in ways that a job cannot. */
#include "tests/support/test.h"

#include "base/json.h"
#include "engine/train/loop.h"

#include <math.h>
#include <string.h>

struct fixture {
  struct ka_ctx ctx;
  struct ka_safetensors golden, final;
  json_t *want;
  int64_t B, T, rows; /* rows of one micro-batch */
  int32_t *ids, *labels, *position, *start;
};

static int32_t *as_i32(struct ka_ctx *ctx, const struct ka_tensor *t) {
  void *mem = NULL;
  int64_t n = ka_tensor_elems(t);
  T_OK(ka_alloc_n(ctx, &mem, n, sizeof(int32_t), "ids"));
  for (int64_t i = 0; i < n; i++) ((int32_t *)mem)[i] = (int32_t)ka_load(t->data, t->dtype, i);
  return mem;
}

static void open_fixture(struct fixture *f, const char *dir) {
  struct ka_ctx *ctx = &f->ctx;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_WARN;
  T_OK(ka_st_open(ctx, &f->golden, t_str("%s/golden.safetensors", dir)));
  T_OK(ka_st_open(ctx, &f->final, t_str("%s/adamw6.safetensors", dir)));
  T_OK(ka_json_load(ctx, t_str("%s/adamw6.json", dir), &f->want));
  const struct ka_tensor *ids = &ka_st_find(&f->golden, "input_ids")->t;
  f->B = ids->shape[0];
  f->T = ids->shape[1];
  f->ids = as_i32(ctx, ids);
  f->labels = as_i32(ctx, &ka_st_find(&f->golden, "labels")->t);
  void *mem = NULL;
  T_OK(ka_alloc_n(ctx, &mem, f->B * f->T, sizeof(int32_t), "zeros"));
  f->start = mem;
  T_OK(ka_alloc_n(ctx, &mem, f->B * f->T, sizeof(int32_t), "positions"));
  f->position = mem;
  for (int64_t i = 0; i < f->B * f->T; i++) f->position[i] = (int32_t)(i % f->T);
}

static void close_fixture(struct fixture *f) {
  ka_free(f->ids);
  ka_free(f->labels);
  ka_free(f->position);
  ka_free(f->start);
  json_decref(f->want);
  ka_st_close(&f->golden);
  ka_st_close(&f->final);
}

/* Every step sees all rows, `rows` a micro-batch. */
static ka_status get_rows(void *user, int64_t index, struct ka_batch *out) {
  struct fixture *f = user;
  int64_t at = index * f->rows % f->B * f->T;
  *out = (struct ka_batch){.B = f->rows,
                           .T = f->T,
                           .input_ids = f->ids + at,
                           .labels = f->labels + at,
                           .position = f->position + at,
                           .doc_start = f->start + at};
  for (int64_t i = 0; i < f->rows * f->T; i++)
    out->n_targets += f->position[at + i] > 0 && f->labels[at + i] != -100;
  return KA_STATUS_OK;
}

static void compare_weights(struct fixture *f, const struct ka_optim *o) {
  for (int64_t i = 0; i < o->n; i++) {
    const struct ka_tensor *w = &o->slices[i].w;
    const struct ka_st_entry *e = ka_st_find(&f->final, o->slices[i].tensor);
    assert_non_null(e);
    double sum = 0, worst = 0;
    int64_t n = ka_tensor_elems(w);
    float *got = malloc((size_t)n * sizeof *got);
    struct ka_ctx *ctx = o->ctx;
    T_OK(ka_dev_get(o->model->dev, ka_tensor_2d(got, KA_F32, w->shape[0], w->shape[1]), *w));
    for (int64_t k = 0; k < n; k++) {
      double d = fabs(got[k] - ka_load(e->t.data, e->t.dtype, k));
      sum += d * d;
      worst = fmax(worst, d);
    }
    free(got);
    if (sqrt(sum / (double)n) > 1e-6 || worst > 2e-4)
      fail_msg("%s: RMS %g, worst %g", o->slices[i].tensor, sqrt(sum / (double)n), worst);
  }
}

static void run(const char *dir, int64_t rows, const char *device) {
  struct fixture f = {0};
  open_fixture(&f, dir);
  struct ka_ctx *ctx = &f.ctx;
  struct ka_dev dev;
  struct ka_model model;
  struct ka_optim optim;
  struct ka_train_part parts[64];
  const json_t *selected = json_object_get(f.want, "selected");
  int64_t n = (int64_t)json_array_size(selected);
  for (int64_t i = 0; i < n; i++)
    parts[i] =
        (struct ka_train_part){.tensor = json_string_value(json_array_get(selected, (size_t)i)),
                               .n_rows = -1,
                               .n_cols = -1};
  f.rows = rows;
  T_OK(ka_dev_open(ctx, &dev, device));
  T_OK(ka_model_open(ctx, &model, &dev, dir, KA_F32));
  T_OK(ka_model_train_parts(&model, parts, n));
  T_OK(ka_model_prepare(&model, rows, f.T, false));
  struct ka_optim_config config = {0.9, 0.95, 1e-8, 0.1, 1.0};
  T_OK(ka_optim_init(ctx, &optim, &model, &config, false));
  struct ka_loop loop = {.ctx = ctx, .model = &model, .optim = &optim, .train = {get_rows, &f, 1}};
  loop.config.accumulation = f.B / rows;
  loop.config.schedule = (struct ka_schedule){KA_SCHEDULE_CONSTANT, 0.003, 0, 0, 6};
  const json_t *steps = json_object_get(f.want, "steps");
  for (size_t s = 0; s < 6; s++) {
    struct ka_loop_step step;
    T_OK(ka_loop_step(&loop, &step));
    double loss = step.term[KA_TERM_CE] / (double)step.n_targets[KA_ROWS_TASK], norm = step.norm;
    const json_t *want = json_array_get(steps, s);
    double want_loss = json_number_value(json_object_get(want, "loss"));
    double want_norm = json_number_value(json_object_get(want, "grad_norm"));
    if (fabs(loss - want_loss) > 1e-5)
      fail_msg("step %zu: loss %.9g, expected %.9g", s + 1, loss, want_loss);
    if (fabs(norm / want_norm - 1) > 1e-4)
      fail_msg("step %zu: norm %.9g, expected %.9g", s + 1, norm, want_norm);
  }
  compare_weights(&f, &optim);
  ka_optim_deinit(&optim);
  ka_model_close(&model);
  ka_dev_close(&dev);
  close_fixture(&f);
}

static void llama(void **state) {
  (void)state;
  T_DATA(data);
  const char *dir = t_str("%s/golden/llama", data);
  run(dir, 2, t_device());
  run(dir, 1, t_device()); /* two micro-batches with different numbers of targets */
}

static void qwen3(void **state) {
  (void)state;
  T_DATA(data);
  run(t_str("%s/golden/qwen3", data), 2, t_device());
  run(t_str("%s/golden/qwen3", data), 1, "ref");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(llama), cmocka_unit_test(qwen3)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
