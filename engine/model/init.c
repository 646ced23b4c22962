/* SPDX-License-Identifier: Apache-2.0
 * See init.h. The whole model is made in memory. */
#include "engine/model/init.h"

#include "base/log.h"
#include "base/rng.h"
#include "engine/formats/safetensors.h"
#include "engine/model/family.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct new_model {
  const struct ka_family *family;
  struct ka_recipe recipe;
  enum ka_dtype dtype;
  uint64_t seed;
  double std;
  int64_t pad;               /* id of the padding; -1: none */
  struct ka_st_out *tensors; /* NULL: they are counted */
  int64_t n, n_elems;
};

/* As the families' authors: normal by initializer_range. */
static double std_of(const struct new_model *nm, enum ka_role role) {
  bool last = role == KA_ROLE_O || role == KA_ROLE_DOWN;
  return nm->family->init_by_depth && last ? nm->std / sqrt(2 * (double)nm->recipe.L) : nm->std;
}

/* The row of the padding is 0 where the padding is told to the embedding (not in GPT-2). */
static void clear_padding(struct ka_tensor *t, enum ka_role role, const struct new_model *nm) {
  bool told = role == KA_ROLE_EMBED && !ka_tensor_map_row(&nm->family->map, KA_ROLE_POSITIONS);
  if (!told || nm->pad < 0 || nm->pad >= t->shape[0]) return;
  for (int64_t i = 0; i < t->shape[1]; i++)
    ka_data_store(t->data, t->dtype, nm->pad * t->shape[1] + i, 0);
}

/* A weight of a norm starts where the norm changes nothing. */
static void fill(struct ka_tensor *t, const char *name, enum ka_role role,
                 const struct new_model *nm) {
  int64_t n = ka_tensor_elems(t);
  uint64_t stream = ka_rng_stream(name);
  char fresh = ka_role_info(role)->fresh;
  if (fresh != 'n') {
    double value = fresh == '1' ? 1 - nm->recipe.norm_offset : 0;
    for (int64_t i = 0; i < n; i++) ka_data_store(t->data, t->dtype, i, value);
    return;
  }
  double std = std_of(nm, role);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < n; i++)
    ka_data_store(t->data, t->dtype, i, std * ka_rng_normal(nm->seed, stream, (uint64_t)i));
  clear_padding(t, role, nm);
}

/* The tensor of a row and of those fused with it. */
static ka_status make_tensor(struct ka_arena *arena, struct new_model *nm,
                             const struct ka_tensor_row *row, int layer, int expert) {
  struct ka_ctx *ctx = arena->ctx;
  char name[KA_TENSOR_NAME_MAX];
  struct ka_tensor_match match;
  int64_t shape[KA_MAX_DIM];
  ka_tensor_map_name(&nm->family->map, row, layer, expert, name);
  bool found = ka_tensor_map_match(&nm->family->map, name, &match);
  if (!found || match.row != row) return KA_STATUS_OK; /* a later part of a fused one */
  int n_dim = ka_family_shape(&nm->recipe, row, match.n_rows, shape);
  int64_t n_elems = 1;
  for (int d = 0; d < n_dim; d++) n_elems *= shape[d];
  nm->n_elems += n_elems;
  nm->n++;
  if (!nm->tensors) return KA_STATUS_OK;
  struct ka_st_out *t = &nm->tensors[nm->n - 1];
  KA_TRY(ka_arena_str(arena, &t->name, name, strlen(name)));
  KA_TRY(ka_tensor_alloc(arena, &t->t, "weights", nm->dtype, n_dim, shape));
  fill(&t->t, name, row->role, nm);
  return KA_STATUS_OK;
}

static ka_status make_tensors(struct ka_arena *arena, struct new_model *nm) {
  struct ka_ctx *ctx = arena->ctx;
  int64_t E = ka_recipe_dim(&nm->recipe, KA_DIM_E);
  nm->n = nm->n_elems = 0;
  for (int l = -1; l < nm->recipe.L; l++)
    for (const struct ka_tensor_row *row = nm->family->map.rows; row->name; row++) {
      if (!ka_family_has(nm->family, &nm->recipe, row->role, l)) continue;
      if (row != ka_tensor_map_row(&nm->family->map, row->role)) continue; /* another name of it */
      bool each = strstr(row->name, "{expert}") != NULL;
      for (int e = 0; e < (each ? E : 1); e++) KA_TRY(make_tensor(arena, nm, row, l, e));
    }
  return KA_STATUS_OK;
}

/* The config as it was, with the dtype that the weights have. */
static ka_status write_config(struct ka_ctx *ctx, const struct ka_hf_config *config,
                              enum ka_dtype dtype, const char *path) {
  const char *name = dtype == KA_BF16  ? "bfloat16"
                     : dtype == KA_F16 ? "float16"
                     : dtype == KA_F64 ? "float64"
                                       : "float32";
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
  struct new_model nm = {
      .seed = seed, .std = config->initializer_range, .pad = config->pad_token_id};
  const char *weights, *index, *path;
  KA_TRY(ka_path_join(arena, &weights, out_dir, "model.safetensors"));
  KA_TRY(ka_path_join(arena, &index, out_dir, "model.safetensors.index.json"));
  if (ka_path_exists(weights) || ka_path_exists(index))
    return ka_fail(ctx, KA_E_INPUT, "%s: holds a model already; choose another directory", out_dir);
  if (dtype == KA_N_DTYPES) dtype = config->dtype;
  nm.dtype = dtype;
  if (ka_hf_get(config, "quantization_config"))
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: quantization_config: a new model is not quantised: take the key out, and "
                   "say with --dtype how weights are stored",
                   config->path);
  KA_TRY(ka_family_find(ctx, config, &nm.family));
  KA_TRY(ka_family_recipe(nm.family, arena, config, &nm.recipe));
  KA_TRY(make_tensors(arena, &nm)); /* how many */
  KA_TRY(KA_NEW(arena, &nm.tensors, nm.n, "tensor list"));
  KA_TRY(make_tensors(arena, &nm));
  KA_TRY(ka_make_dirs(ctx, out_dir));
  KA_TRY(ka_path_join(arena, &path, out_dir, "config.json"));
  KA_TRY(write_config(ctx, config, dtype, path));
  KA_TRY(ka_path_join(arena, &path, out_dir, "generation_config.json"));
  KA_TRY(write_generation_config(ctx, config, path));
  KA_TRY(ka_st_write(ctx, weights, nm.tensors, nm.n, metadata, 1));
  char count[32];
  ka_info(ctx, "init", "%s: %s model of %s parameters, %s", out_dir, nm.family->name,
          ka_fmt_count((double)nm.n_elems, count), ka_dtype_name(dtype));
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

static ka_status measure(struct ka_arena *arena, const struct ka_hf_config *config,
                         struct ka_model_size *out) {
  struct ka_ctx *ctx = arena->ctx;
  struct new_model nm = {0};
  KA_TRY(ka_family_find(ctx, config, &nm.family));
  KA_TRY(ka_family_recipe(nm.family, arena, config, &nm.recipe));
  KA_TRY(make_tensors(arena, &nm));
  *out = (struct ka_model_size){.n_tensors = nm.n, .n_elems = nm.n_elems};
  snprintf(out->family, sizeof out->family, "%s", nm.family->name);
  return KA_STATUS_OK;
}

ka_status ka_model_measure(struct ka_ctx *ctx, const char *config_path, struct ka_model_size *out) {
  struct ka_hf_config config = {0};
  struct ka_arena arena;
  ka_arena_init(&arena, ctx, "new model");
  ka_status st = ka_hf_config_open(ctx, &config, config_path);
  if (ka_ok(st)) st = measure(&arena, &config, out);
  ka_hf_config_close(&config);
  ka_arena_deinit(&arena);
  return st;
}
