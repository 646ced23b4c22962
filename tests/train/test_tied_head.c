/* SPDX-License-Identifier: Apache-2.0
 * Models whose config.json ties the head to the embedding and whose file holds a head all the
 * same. */
#include "tests/train/home.h"

#include "engine/model/model.h"

static const char embed_name[] = "model.embed_tokens.weight", head_name[] = "lm_head.weight";

/* `name`: base, tied, with a head that is the embedding but for the first value, times scale. */
static void make_base(struct home *h, const char *name, float scale) {
  struct ka_ctx *ctx = &h->ctx;
  struct ka_safetensors base;
  struct ka_st_out out[64];
  struct ka_tensor embed;
  json_t *config = load(h, "base/config.json");
  struct ka_str text = {0};
  const char *dir = t_str("%s/%s", h->dir, name);
  T_OK(ka_make_dirs(ctx, dir));
  assert_int_equal(json_object_set_new(config, "tie_word_embeddings", json_true()), 0);
  T_OK(ka_json_dump(ctx, config, &text));
  T_OK(ka_write_file(ctx, t_str("%s/config.json", dir), text.data, text.len));
  T_OK(ka_st_open(ctx, &base, t_str("%s/base", h->dir)));
  T_OK(ka_st_get(ctx, &base, embed_name, &embed));
  float *values = malloc(ka_tensor_bytes(&embed));
  assert_non_null(values);
  memcpy(values, embed.data, ka_tensor_bytes(&embed));
  values[0] *= scale;
  assert_in_range(base.n_entries, 1, 64);
  for (int64_t i = 0; i < base.n_entries; i++) {
    out[i] = (struct ka_st_out){.name = base.entries[i].name, .t = base.entries[i].t};
    if (strcmp(out[i].name, head_name) == 0) out[i].t.data = values;
  }
  T_OK(ka_st_write(ctx, t_str("%s/model.safetensors", dir), out, base.n_entries, NULL, 0));
  free(values);
  ka_st_close(&base);
  json_decref(config);
  ka_str_deinit(&text);
}

static bool same(struct home *h, const char *a, const char *name_a, const char *b,
                 const char *name_b) {
  struct ka_ctx *ctx = &h->ctx;
  struct ka_safetensors x, y;
  struct ka_tensor s, t;
  T_OK(ka_st_open(ctx, &x, t_str("%s/%s", h->dir, a)));
  T_OK(ka_st_open(ctx, &y, t_str("%s/%s", h->dir, b)));
  T_OK(ka_st_get(ctx, &x, name_a, &s));
  T_OK(ka_st_get(ctx, &y, name_b, &t));
  bool equal = memcmp(s.data, t.data, ka_tensor_bytes(&s)) == 0;
  ka_st_close(&x);
  ka_st_close(&y);
  return equal;
}

static void the_stored_head_follows(void **state) {
  struct home *h = *state;
  make_base(h, "twice", 1);
  write_text(h, "rows.json",
             "{\"units\": [{\"name\": \"model.embed_tokens.weight\", \"rows\": [8, 16]}]}");
  const char *const words[] = {
      "selection.metric=all selection.count=",
      t_str("selection.metric= selection.count= selection.file=%s/rows.json", h->dir)};
  for (int i = 0; i < 2; i++) {
    const char *out = t_str("follows%d", i);
    assert_int_equal(train(h, out, t_str("base_model=%s/twice max_steps=2 %s", h->dir, words[i])),
                     0);
    assert_false(same(h, out, embed_name, "twice", embed_name));
    assert_true(same(h, out, embed_name, out, head_name));
  }
}

/* Nothing to follow: the embedding stays, and so does the head. */
static void a_frozen_one_stays(void **state) {
  struct home *h = *state;
  assert_int_equal(train(h, "stays", t_str("base_model=%s/twice max_steps=2", h->dir)), 0);
  assert_true(same(h, "stays", head_name, "twice", head_name));
}

/* transformers 5.23: "both are present in the checkpoints with different values, so we will NOT tie
 * them". */
static void another_head_is_its_own(void **state) {
  struct home *h = *state;
  struct ka_ctx *ctx = &h->ctx;
  make_base(h, "other", 2);
  struct ka_str err = {0};
  assert_int_equal(t_kappa(NULL, &err,
                           "train %s/job.yaml output_dir=%s/own base_model=%s/other max_steps=2 "
                           "selection.metric=all selection.count=",
                           h->dir, h->dir, h->dir),
                   0);
  assert_non_null(strstr(err.data, "ties the head to the embedding"));
  ka_str_deinit(&err);
  assert_false(same(h, "own", embed_name, "other", embed_name));
  assert_false(same(h, "own", head_name, "other", head_name));
  assert_false(same(h, "own", head_name, "own", embed_name));
  struct ka_dev dev;
  struct ka_model a, b;
  T_OK(ka_dev_open(ctx, &dev, "ref"));
  T_OK(ka_model_open(ctx, &a, &dev, t_str("%s/twice", h->dir), KA_F32));
  T_OK(ka_model_open(ctx, &b, &dev, t_str("%s/other", h->dir), KA_F32));
  assert_string_equal(a.params[ka_model_param(&a, head_name)].name, embed_name);
  assert_string_equal(b.params[ka_model_param(&b, head_name)].name, head_name);
  assert_int_equal(ka_model_n_elems(&b) - ka_model_n_elems(&a), 64 * 32);
  ka_model_close(&a);
  ka_model_close(&b);
  ka_dev_close(&dev);
}

static void spectra_list_it_once(void **state) {
  struct home *h = *state;
  struct ka_str one = {0}, two = {0};
  make_base(h, "twice", 1);
  make_base(h, "other", 2);
  assert_int_equal(t_kappa(&one, NULL, "analyze %s/twice --no-cache", h->dir), 0);
  assert_int_equal(t_kappa(&two, NULL, "analyze %s/other --no-cache", h->dir), 0);
  assert_null(strstr(one.data, "lm_head"));
  assert_non_null(strstr(two.data, "lm_head"));
  ka_str_deinit(&one);
  ka_str_deinit(&two);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_stored_head_follows),
      cmocka_unit_test(a_frozen_one_stays),
      cmocka_unit_test(another_head_is_its_own),
      cmocka_unit_test(spectra_list_it_once),
  };
  return cmocka_run_group_tests(tests, setup, NULL);
}
