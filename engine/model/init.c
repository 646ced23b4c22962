/* SPDX-License-Identifier: Apache-2.0
 * See init.h. The whole model is made in memory. */
#include "engine/model/init.h"

#include "base/log.h"
#include "base/rng.h"
#include "engine/formats/safetensors.h"
#include "engine/model/family.h"

#include <string.h>

static bool is_norm(enum ka_role role) {
  return role == KA_ROLE_FINAL_NORM || role == KA_ROLE_ATTN_NORM || role == KA_ROLE_FFN_NORM ||
         role == KA_ROLE_Q_NORM || role == KA_ROLE_K_NORM;
}

static void fill(struct ka_tensor *t, const char *name, enum ka_role role, double std,
                 uint64_t seed) {
  int64_t n = ka_tensor_elems(t);
  uint64_t stream = ka_rng_stream(name);
  if (t->n_dim == 1) {
    for (int64_t i = 0; i < n; i++) ka_data_store(t->data, t->dtype, i, is_norm(role) ? 1 : 0);
    return;
  }
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < n; i++)
    ka_data_store(t->data, t->dtype, i, std * ka_rng_normal(seed, stream, (uint64_t)i));
}

static ka_status make_tensors(struct ka_arena *arena, const struct ka_family *family,
                              const struct ka_hf_config *config, enum ka_dtype dtype, uint64_t seed,
                              struct ka_st_out **out, int64_t *n_out) {
  struct ka_ctx *ctx = arena->ctx;
  struct ka_recipe recipe;
  KA_TRY(family->recipe(arena, config, &recipe));
  void *memory;
  KA_TRY(ka_arena_alloc_n(arena, &memory, (recipe.L + 1) * (int64_t)KA_N_ROLES, sizeof **out,
                          "tensor list"));
  *out = memory;
  *n_out = 0;
  for (int l = -1; l < recipe.L; l++)
    for (const struct ka_family_tensor *ft = family->tensors; ft->name; ft++) {
      int64_t rows, cols;
      ka_recipe_shape(&recipe, ft->role, &rows, &cols);
      if (rows == 0 || ka_role_per_layer(ft->role) != (l >= 0)) continue;
      char name[KA_TENSOR_NAME_MAX];
      ka_family_tensor_name(ft, l, name);
      struct ka_st_out *t = &(*out)[(*n_out)++];
      KA_TRY(ka_arena_str(arena, &t->name, name, strlen(name)));
      int64_t shape[] = {rows, cols};
      bool vector = rows == 1;
      KA_TRY(ka_tensor_alloc(arena, &t->t, "weights", dtype, vector ? 1 : 2, shape + vector));
      fill(&t->t, name, ft->role, config->initializer_range, seed);
    }
  return KA_STATUS_OK;
}

/* The config as it was, with the dtype that the weights have. */
static ka_status write_config(struct ka_ctx *ctx, const struct ka_hf_config *config,
                              enum ka_dtype dtype, const char *path) {
  const char *name = dtype == KA_BF16 ? "bfloat16" : dtype == KA_F16 ? "float16" : "float32";
  json_t *copy = json_deep_copy(config->root);
  const char *key = json_object_get(copy, "torch_dtype") ? "torch_dtype" : "dtype";
  ka_status st = KA_STATUS_OK;
  if (!copy || json_object_set_new(copy, key, json_string(name)) != 0)
    st = ka_fail(ctx, KA_E_MEMORY, "%s: could not allocate the copy", config->path);
  if (ka_ok(st)) st = ka_json_write(ctx, copy, path);
  json_decref(copy);
  return st;
}

static ka_status write_generation_config(struct ka_ctx *ctx, const struct ka_hf_config *config,
                                         const char *path) {
  json_t *g = json_object();
  json_object_set_new(g, "_from_model_config", json_true());
  if (config->bos_token_id >= 0)
    json_object_set_new(g, "bos_token_id", json_integer(config->bos_token_id));
  if (config->n_eos == 1) {
    json_object_set_new(g, "eos_token_id", json_integer(config->eos_token_ids[0]));
  } else if (config->n_eos > 1) {
    json_t *list = json_array();
    for (int i = 0; i < config->n_eos; i++)
      json_array_append_new(list, json_integer(config->eos_token_ids[i]));
    json_object_set_new(g, "eos_token_id", list);
  }
  if (config->pad_token_id >= 0)
    json_object_set_new(g, "pad_token_id", json_integer(config->pad_token_id));
  ka_status st = ka_json_write(ctx, g, path);
  json_decref(g);
  return st;
}

static ka_status init(struct ka_arena *arena, const struct ka_hf_config *config,
                      const char *out_dir, uint64_t seed, enum ka_dtype dtype) {
  struct ka_ctx *ctx = arena->ctx;
  static const char *const metadata[] = {"format", "pt"}; /* transformers insists on it */
  const struct ka_family *family = NULL;
  struct ka_st_out *tensors = NULL;
  int64_t n = 0;
  const char *weights, *index, *path;
  KA_TRY(ka_path_join(arena, &weights, out_dir, "model.safetensors"));
  KA_TRY(ka_path_join(arena, &index, out_dir, "model.safetensors.index.json"));
  if (ka_path_exists(weights) || ka_path_exists(index))
    return ka_fail(ctx, KA_E_INPUT, "%s: holds a model already; choose another directory", out_dir);
  if (dtype == KA_N_DTYPES) dtype = config->dtype;
  KA_TRY(ka_family_find(ctx, config, &family));
  KA_TRY(make_tensors(arena, family, config, dtype, seed, &tensors, &n));
  KA_TRY(ka_make_dirs(ctx, out_dir));
  KA_TRY(ka_path_join(arena, &path, out_dir, "config.json"));
  KA_TRY(write_config(ctx, config, dtype, path));
  KA_TRY(ka_path_join(arena, &path, out_dir, "generation_config.json"));
  KA_TRY(write_generation_config(ctx, config, path));
  KA_TRY(ka_st_write(ctx, weights, tensors, n, metadata, 1));
  int64_t elems = 0;
  char count[32];
  for (int64_t i = 0; i < n; i++) elems += ka_tensor_elems(&tensors[i].t);
  ka_info(ctx, "init", "%s: %s model of %s parameters, %s", out_dir, family->name,
          ka_fmt_count((double)elems, count), ka_dtype_name(dtype));
  return KA_STATUS_OK;
}

ka_status ka_model_init(struct ka_ctx *ctx, const char *config_path, const char *out_dir,
                        uint64_t seed, enum ka_dtype dtype) {
  struct ka_hf_config config = {0};
  struct ka_arena arena;
  ka_arena_init(&arena, ctx, "new model");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(ka_hf_config_open(ctx, &config, config_path), out);
  KA_TRY_GOTO(init(&arena, &config, out_dir, seed, dtype), out);
out:
  ka_hf_config_close(&config);
  ka_arena_deinit(&arena);
  return st;
}
