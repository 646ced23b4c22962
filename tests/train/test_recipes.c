/* SPDX-License-Identifier: Apache-2.0
 * Ways to keep the old against six steps of torch (make_recipes.py): the terms of the loss,
 * gradient norms, the weights in the end; however a step's rows are split. */
#include "tests/support/test.h"

#include "base/json.h"
#include "engine/train/loop.h"

#include <math.h>
#include <string.h>

#define RECIPES "tests/train/recipes"

struct fixture {
  struct ka_ctx ctx;
  json_t *told;
  int64_t B, T, rows; /* rows of one micro-batch */
  int32_t *ids, *labels, *self_ids, *position, *start;
};

static int32_t *numbers(struct fixture *f, const char *key) {
  struct ka_ctx *ctx = &f->ctx;
  const json_t *list = json_object_get(f->told, key);
  size_t n = json_array_size(list);
  void *mem = NULL;
  T_OK(ka_alloc_n(ctx, &mem, (int64_t)n, sizeof(int32_t), key));
  for (size_t i = 0; i < n; i++)
    ((int32_t *)mem)[i] = (int32_t)json_integer_value(json_array_get(list, i));
  return mem;
}

static void open_fixture(struct fixture *f) {
  struct ka_ctx *ctx = &f->ctx;
  void *mem = NULL;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_WARN;
  T_OK(ka_json_load(ctx, RECIPES "/recipes.json", &f->told));
  f->B = json_integer_value(json_object_get(f->told, "B"));
  f->T = json_integer_value(json_object_get(f->told, "T"));
  f->ids = numbers(f, "ids");
  f->labels = numbers(f, "labels");
  f->self_ids = numbers(f, "self_ids");
  T_OK(ka_alloc_n(ctx, &mem, 2 * f->B * f->T, sizeof(int32_t), "positions"));
  f->position = mem;
  f->start = f->position + f->B * f->T;
  for (int64_t i = 0; i < f->B * f->T; i++) f->position[i] = (int32_t)(i % f->T);
}

static void close_fixture(struct fixture *f) {
  ka_free(f->ids);
  ka_free(f->labels);
  ka_free(f->self_ids);
  ka_free(f->position);
  json_decref(f->told);
}

static ka_status get_rows(void *user, int64_t index, struct ka_batch *out) {
  struct fixture *f = user;
  int64_t at = index * f->rows * f->T;
  *out = (struct ka_batch){.B = f->rows,
                           .T = f->T,
                           .input_ids = f->ids + at,
                           .labels = f->labels + at,
                           .position = f->position,
                           .doc_start = f->start};
  for (int64_t i = 0; i < f->rows * f->T; i++)
    out->n_targets += i % f->T > 0 && f->labels[at + i] != KA_LABEL_MASKED;
  return KA_STATUS_OK;
}

static ka_status get_self(void *user, int64_t index, struct ka_batch *out) {
  struct fixture *f = user;
  const int32_t *ids = f->self_ids + index * f->T;
  *out = (struct ka_batch){.B = 1,
                           .T = f->T,
                           .input_ids = ids,
                           .labels = ids,
                           .position = f->position,
                           .doc_start = f->start,
                           .rows = KA_ROWS_SELF,
                           .n_targets = f->T};
  return KA_STATUS_OK;
}

static void compare_weights(const char *name, const struct ka_optim *o) {
  struct ka_ctx *ctx = o->ctx;
  struct ka_safetensors want;
  T_OK(ka_st_open(ctx, &want, t_str(RECIPES "/%s.safetensors", name)));
  for (int64_t i = 0; i < o->n; i++) {
    const struct ka_tensor *w = &o->slices[i].w;
    const struct ka_st_entry *e = ka_st_find(&want, o->slices[i].tensor);
    int64_t n = ka_tensor_elems(w);
    void *got = NULL;
    double sum = 0, worst = 0;
    assert_non_null(e);
    T_OK(ka_alloc_n(ctx, &got, n, sizeof(float), "weights"));
    T_OK(ka_dev_get(o->model->dev, ka_tensor_2d(got, KA_F32, w->shape[0], w->shape[1]), *w));
    for (int64_t k = 0; k < n; k++) {
      double d = fabs((double)((float *)got)[k] - ka_load(e->t.data, e->t.dtype, k));
      sum += d * d;
      worst = fmax(worst, d);
    }
    ka_free(got);
    if (sqrt(sum / (double)n) > 1e-6 || worst > 2e-5)
      fail_msg("%s: %s: RMS %g, worst %g", name, e->name, sqrt(sum / (double)n), worst);
  }
  ka_st_close(&want);
}

static void near(const char *way, size_t step, const char *key, double got, const json_t *steps) {
  const json_t *want = json_object_get(json_array_get(steps, step), key);
  double value = json_number_value(want);
  assert_true(json_is_number(want));
  if (!(fabs(got - value) <= 1e-5 * fmax(1, value)))
    fail_msg("%s, step %zu: %s is %.9g, expected %.9g", way, step + 1, key, got, value);
}

static void step_as_told(struct ka_loop *l, const json_t *way, size_t s) {
  struct ka_ctx *ctx = l->ctx;
  struct ka_loop_step step;
  const char *name = json_string_value(json_object_get(way, "name"));
  const json_t *steps = json_object_get(way, "steps");
  T_OK(ka_loop_step(l, &step));
  for (int i = 0; i < KA_N_TERMS; i++)
    if (l->model->term_weight[i] > 0)
      near(name, s, ka_loss_terms[i].key,
           step.term[i] / (double)step.n_targets[ka_loss_terms[i].rows], steps);
  near(name, s, "grad_norm", step.norm, steps);
}

static enum ka_loss_weight token_weight_of(const json_t *way) {
  static const char *const words[] = {"none", "eaft", "dft", "talr"};
  const char *word = json_string_value(json_object_get(way, "token_weight"));
  for (int i = 0; word && i < 4; i++)
    if (strcmp(words[i], word) == 0) return (enum ka_loss_weight)i;
  assert_null(word);
  return KA_TOKEN_NONE;
}

static void run(struct fixture *f, const json_t *way, int64_t rows) {
  struct ka_ctx *ctx = &f->ctx;
  struct ka_dev dev;
  struct ka_model model;
  struct ka_optim optim;
  struct ka_train_part parts[64];
  f->rows = rows;
  T_OK(ka_dev_open(ctx, &dev, t_device()));
  T_OK(ka_model_open(ctx, &model, &dev, RECIPES "/base", KA_F32));
  for (int64_t i = 0; i < model.n_params; i++)
    parts[i] = (struct ka_train_part){model.params[i].name, 0, -1, 0, -1};
  T_OK(ka_model_train_parts(&model, parts, model.n_params));
  model.term_weight[KA_TERM_KL_TASK] = json_number_value(json_object_get(way, "kl"));
  model.term_weight[KA_TERM_KL_SELF] = json_number_value(json_object_get(way, "kl_self"));
  model.token_weight = token_weight_of(way);
  T_OK(ka_model_prepare(&model, rows, f->T, false));
  struct ka_optim_config config = {0.9, 0.95, 1e-8, 0.1, 1.0};
  T_OK(ka_optim_init(ctx, &optim, &model, &config, false));
  struct ka_loop loop = {.ctx = ctx,
                         .model = &model,
                         .optim = &optim,
                         .train = {get_rows, f, 6 * f->B / rows},
                         .self = {get_self, f, model.term_weight[KA_TERM_KL_SELF] > 0}};
  loop.config.accumulation = f->B / rows;
  loop.config.schedule = (struct ka_schedule){KA_SCHEDULE_CONSTANT, 0.003, 0, 0, 6};
  for (size_t s = 0; s < 6; s++) step_as_told(&loop, way, s);
  compare_weights(json_string_value(json_object_get(way, "name")), &optim);
  ka_optim_deinit(&optim);
  ka_model_close(&model);
  ka_dev_close(&dev);
}

static void six_steps_of_torch(void **state) {
  (void)state;
  struct fixture f = {0};
  const json_t *way;
  size_t i;
  open_fixture(&f);
  json_array_foreach(json_object_get(f.told, "ways"), i, way) {
    run(&f, way, f.B);
    run(&f, way, 1); /* micro-batches with different numbers of targets */
  }
  assert_true(i > 0);
  close_fixture(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(six_steps_of_torch)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
