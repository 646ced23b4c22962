/* SPDX-License-Identifier: Apache-2.0
 * The same weights by other names, in another dtype, or the tied one as the head alone: the same
 * model, for every family. */
#include "engine/formats/safetensors.h"
#include "tests/model/bed.h"

enum { MOST = 128 };

/* What a variant makes of a model's file. */
struct variant {
  const char *front; /* in place of the usual word before ".layers" and the like; NULL: it stays */
  const char *wrap;  /* before every name */
  bool wide;         /* F64 */
  bool head_alone;
};

static const char *renamed(const char *name, const struct variant *v) {
  static const char *const usual[] = {"model.language_model.", "language_model.model.", "model.",
                                      "transformer."};
  const char *rest = name;
  for (size_t i = 0; v->front && rest == name && i < 4; i++)
    if (ka_starts_with(name, usual[i])) rest = t_str("%s%s", v->front, name + strlen(usual[i]));
  if (v->head_alone && (strstr(name, "embed_tokens") || strstr(name, "wte")))
    rest = "lm_head.weight";
  return t_str("%s%s", v->wrap ? v->wrap : "", rest);
}

static struct ka_tensor widened(struct ka_tensor t) {
  struct ka_tensor wide = ka_tensor_view(NULL, KA_F64, t.n_dim, t.shape);
  wide.data = malloc(ka_tensor_bytes(&wide));
  for (int64_t i = 0; i < ka_tensor_elems(&t); i++)
    ka_data_store(wide.data, KA_F64, i, ka_load(t.data, t.dtype, i));
  return wide;
}

static const char *make(const char *dir, const struct variant *v) {
  struct ka_safetensors files;
  struct ka_st_out out[MOST];
  const char *to = t_temp_dir();
  T_OK(ka_copy_file(ctx, t_str("%s/config.json", dir), t_str("%s/config.json", to)));
  T_OK(ka_st_open(ctx, &files, dir));
  assert_in_range(files.n_entries, 1, MOST);
  for (int64_t i = 0; i < files.n_entries; i++) {
    const struct ka_st_entry *e = &files.entries[i];
    out[i] = (struct ka_st_out){renamed(e->name, v), v->wide ? widened(e->t) : e->t};
  }
  T_OK(ka_st_write(ctx, t_str("%s/model.safetensors", to), out, files.n_entries, NULL, 0));
  for (int64_t i = 0; v->wide && i < files.n_entries; i++) free(out[i].t.data);
  ka_st_close(&files);
  return to;
}

/* Of a step of training everything. */
static double loss_and_norm(const char *dir, double *norm) {
  struct bed t;
  bed_open(&t, dir, "cpu", KA_F32);
  train_all(&t.m);
  T_OK(ka_model_prepare(&t.m, B, T, false));
  double loss = gradient(&t);
  *norm = 0;
  for (int64_t s = 0; s < t.m.n_slices; s++)
    for (int64_t i = 0; i < ka_tensor_elems(&t.m.slices[s].grad); i++)
      *norm += pow(ka_load(t.m.slices[s].grad.data, KA_F32, i), 2);
  bed_close(&t);
  return loss;
}

static void same_model_by_other_names(void **state) {
  (void)state;
  static const struct variant variants[] = {{.front = ""},
                                            {.front = "language_model."},
                                            {.front = "language_model.model."},
                                            {.front = "model.language_model."},
                                            {.front = "transformer."},
                                            {.wrap = "_orig_mod."},
                                            {.wrap = "base_model.model."},
                                            {.wide = true},
                                            {.head_alone = true}};
  for (int c = 0; c < N_CONFIGS; c++) {
    const char *dir = tiny_make(ctx, configs[c], KA_F32);
    double norm, loss = loss_and_norm(dir, &norm);
    bool tied = false;
    struct bed t;
    bed_open(&t, dir, "cpu", KA_F32);
    tied = t.m.recipe.without[KA_ROLE_HEAD];
    bed_close(&t);
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
      double other_norm;
      if (variants[i].head_alone && !tied) continue;
      double other = loss_and_norm(make(dir, &variants[i]), &other_norm);
      if (loss != other || fabs(norm - other_norm) > 1e-12 * norm)
        fail_msg("config %d, variant %zu: loss %.9g, not %.9g; norm %.12g, not %.12g", c, i, other,
                 loss, other_norm, norm);
    }
  }
}

static void one_weight_by_two_names_is_refused(void **state) {
  (void)state;
  struct ka_safetensors files;
  struct ka_st_out out[MOST];
  struct ka_dev dev;
  struct ka_model m;
  const char *dir = tiny_make(ctx, tiny_llama, KA_F32), *to = t_temp_dir();
  T_OK(ka_copy_file(ctx, t_str("%s/config.json", dir), t_str("%s/config.json", to)));
  T_OK(ka_st_open(ctx, &files, dir));
  int64_t n = files.n_entries;
  for (int64_t i = 0; i < n; i++)
    out[i] = (struct ka_st_out){files.entries[i].name, files.entries[i].t};
  for (int64_t i = 0; i < files.n_entries; i++)
    if (strcmp(out[i].name, "model.norm.weight") == 0)
      out[n++] = (struct ka_st_out){"norm.weight", out[i].t};
  T_OK(ka_st_write(ctx, t_str("%s/model.safetensors", to), out, n, NULL, 0));
  T_OK(ka_dev_open(ctx, &dev, "ref"));
  T_FAILS(ka_model_open(ctx, &m, &dev, to, KA_F32), KA_E_INPUT, "the same weight as norm.weight");
  ka_dev_close(&dev);
  ka_st_close(&files);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(same_model_by_other_names, fresh),
      cmocka_unit_test_setup(one_weight_by_two_names_is_refused, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
