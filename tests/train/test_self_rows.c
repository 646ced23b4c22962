/* SPDX-License-Identifier: Apache-2.0
 * Rows that the base writes: each token is the draw from what the whole row's forward pass
 * predicts; the cache gives them back, grows, and survives damage. */
#include "engine/model/decode.h"
#include "engine/train/self_rows.h"
#include "tests/train/home.h"

enum { T = 12 };

static struct ka_self_rows_spec spec_of(struct home *h, int64_t n_steps) {
  return (struct ka_self_rows_spec){.share = 0.4,
                                    .task_rows = 4,
                                    .n_steps = n_steps,
                                    .T = T,
                                    .micro_batch_size = 2,
                                    .seed = 9,
                                    .base_model = t_str("%s/base", h->dir),
                                    .cache_dir = t_str("%s/rows", h->dir)};
}

static void draw(struct home *h, struct ka_dev *dev, struct ka_self_rows *s, int64_t n_steps) {
  struct ka_ctx *ctx = &h->ctx;
  struct ka_self_rows_spec spec = spec_of(h, n_steps);
  struct ka_model m;
  json_t *key = json_string("a model");
  T_OK(ka_model_open(ctx, &m, dev, spec.base_model, KA_F32));
  T_OK(ka_self_rows_init(ctx, s, &spec, &m, NULL));
  T_OK(ka_self_rows_draw(ctx, s, &spec, dev, KA_F32, key));
  json_decref(key);
  ka_model_close(&m);
}

/* Token t of row i against the logits of the row up to it, computed at once. */
static void check_draws(struct home *h, struct ka_dev *dev, const struct ka_self_rows *s) {
  struct ka_ctx *ctx = &h->ctx;
  struct ka_model m;
  void *logits = NULL;
  T_OK(ka_model_open(ctx, &m, dev, t_str("%s/base", h->dir), KA_F32));
  T_OK(ka_model_prepare(&m, 1, T, false));
  T_OK(ka_alloc_n(ctx, &logits, T * m.recipe.V, sizeof(float), "logits"));
  for (int64_t i = 0; i < s->n; i++) {
    const int32_t *ids = s->ids + i * T;
    struct ka_batch batch = {.B = 1,
                             .T = T,
                             .input_ids = ids,
                             .labels = ids,
                             .position = s->position,
                             .doc_start = s->doc_start};
    T_OK(ka_model_forward(&m, &batch, logits, NULL));
    assert_int_equal(ids[0], 7);
    for (int64_t t = 1; t < T; t++)
      assert_int_equal(ids[t], ka_sample((float *)logits + (t - 1) * m.recipe.V, m.recipe.V, 1, 9,
                                         (uint64_t)(i * T + t)));
  }
  ka_free(logits);
  ka_model_close(&m);
}

static void rows_are_draws(void **state) {
  struct home *h = *state;
  struct ka_ctx *ctx = &h->ctx;
  struct ka_dev dev;
  struct ka_self_rows few, again, more, damaged;
  struct ka_arena a;
  const char **names;
  int64_t n = 0;
  ka_arena_init(&a, ctx, "test");
  T_OK(ka_dev_open(ctx, &dev, "cpu"));
  draw(h, &dev, &few, 2);
  assert_int_equal(few.per_step, 3); /* of 4: 3 of 7 are nearest to 0.4 */
  assert_int_equal(few.n, 6);
  check_draws(h, &dev, &few);
  draw(h, &dev, &again, 2);
  assert_memory_equal(few.ids, again.ids, (size_t)(few.n * T) * sizeof(int32_t));
  draw(h, &dev, &more, 15);
  assert_memory_equal(few.ids, more.ids, (size_t)(few.n * T) * sizeof(int32_t));
  check_draws(h, &dev, &more);
  T_OK(ka_list_dir(&a, t_str("%s/rows", h->dir), &names, &n));
  assert_int_equal(n, 1);
  T_OK(ka_write_file(ctx, t_str("%s/rows/%s", h->dir, names[0]), "kappa rows 1", 12));
  draw(h, &dev, &damaged, 15);
  assert_memory_equal(damaged.ids, more.ids, (size_t)(more.n * T) * sizeof(int32_t));
  struct ka_self_rows *all[] = {&few, &again, &more, &damaged};
  for (int i = 0; i < 4; i++) ka_self_rows_deinit(all[i]);
  ka_dev_close(&dev);
  ka_arena_deinit(&a);
}

/* Every row once, two a micro-batch and then the one that is left, every position a target. */
static void each_row_once(void **state) {
  struct home *h = *state;
  struct ka_ctx *ctx = &h->ctx;
  struct ka_dev dev;
  struct ka_self_rows s;
  T_OK(ka_dev_open(ctx, &dev, "cpu"));
  draw(h, &dev, &s, 5);
  struct ka_train_batch_source source = ka_self_rows_source(&s);
  assert_int_equal(source.n, 2);
  for (int64_t i = 0, row = 0; i < 10; i++) {
    struct ka_batch b;
    T_OK(source.get(source.user, i, &b));
    assert_int_equal(b.B, i % 2 ? 1 : 2);
    assert_true(b.rows == KA_ROWS_SELF && b.n_targets == b.B * T);
    assert_ptr_equal(b.input_ids, s.ids + row * T);
    row += b.B;
  }
  ka_self_rows_deinit(&s);
  ka_dev_close(&dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(rows_are_draws),
                                     cmocka_unit_test(each_row_once)};
  return cmocka_run_group_tests(tests, setup, NULL);
}
