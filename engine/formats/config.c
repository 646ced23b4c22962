/* SPDX-License-Identifier: Apache-2.0
 * config.json: one table for plain numbers, then what needs more than a type and a range. RoPE
 * stands in config_rope.c. */
#include "engine/formats/config.h"

#include "engine/formats/config_rope.h"

#include <string.h>

static bool holds(const json_t *object, const char *key) {
  const json_t *v = json_object_get(object, key);
  return v && !json_is_null(v);
}

/* The object that holds the key, for the typed getters of base/json.h. */
static const json_t *home(const struct ka_hf_config *c, const char *key) {
  if (holds(c->body, key)) return c->body;
  if (holds(c->root, key)) return c->root;
  return json_object_get(c->body, key) ? c->body : c->defaults;
}

const json_t *ka_hf_get(const struct ka_hf_config *c, const char *key) {
  const json_t *object = home(c, key);
  return holds(object, key) ? json_object_get(object, key) : NULL;
}

ka_status ka_hf_i64_or(struct ka_ctx *ctx, const struct ka_hf_config *c, const char *key,
                       int64_t dflt, int64_t *out) {
  return ka_json_i64_or(ctx, c->path, home(c, key), key, dflt, out);
}

ka_status ka_hf_f64_or(struct ka_ctx *ctx, const struct ka_hf_config *c, const char *key,
                       double dflt, double *out) {
  return ka_json_f64_or(ctx, c->path, home(c, key), key, dflt, out);
}

ka_status ka_hf_bool_or(struct ka_ctx *ctx, const struct ka_hf_config *c, const char *key,
                        bool dflt, bool *out) {
  return ka_json_bool_or(ctx, c->path, home(c, key), key, dflt, out);
}

ka_status ka_hf_str_or(struct ka_ctx *ctx, const struct ka_hf_config *c, const char *key,
                       const char *dflt, const char **out) {
  return ka_json_str_or(ctx, c->path, home(c, key), key, dflt, out);
}

/* key, its GPT-2 name, field, default, smallest, largest. The default may lie outside the range
 * and then means absent; REQUIRED has none. */
#define REQUIRED INT64_MIN
#define FIELD(name) offsetof(struct ka_hf_config, name)
static const struct {
  const char *key, *other;
  size_t field;
  int64_t dflt, least, most;
} numbers[] = {
    {"vocab_size", NULL, FIELD(vocab_size), REQUIRED, 1, INT32_MAX},
    {"hidden_size", "n_embd", FIELD(hidden_size), REQUIRED, 1, 1 << 24},
    {"num_hidden_layers", "n_layer", FIELD(num_hidden_layers), REQUIRED, 1, 1 << 16},
    {"num_attention_heads", "n_head", FIELD(num_attention_heads), REQUIRED, 1, 1 << 16},
    {"intermediate_size", "n_inner", FIELD(intermediate_size), 0, 1, 1 << 26},
    {"num_key_value_heads", NULL, FIELD(num_key_value_heads), 0, 1, 1 << 16},
    {"head_dim", NULL, FIELD(head_dim), 0, 1, 1 << 16},
    {"max_position_embeddings", "n_positions", FIELD(max_position_embeddings), 2048, 1, 1 << 30},
    {"sliding_window", NULL, FIELD(sliding_window), 0, 0, INT32_MAX},
    {"max_window_layers", NULL, FIELD(max_window_layers), -1, 0, INT32_MAX},
    {"bos_token_id", NULL, FIELD(bos_token_id), -1, -1, INT32_MAX},
    {"pad_token_id", NULL, FIELD(pad_token_id), -1, -1, INT32_MAX},
};

static ka_status read_numbers(struct ka_ctx *ctx, struct ka_hf_config *c) {
  struct ka_str missing = {0};
  ka_status st = KA_STATUS_OK;
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    const char *key = numbers[i].key;
    int64_t *out = (int64_t *)((char *)c + numbers[i].field);
    if (!ka_hf_get(c, key) && numbers[i].other && ka_hf_get(c, numbers[i].other))
      key = numbers[i].other;
    KA_TRY_GOTO(ka_hf_i64_or(ctx, c, key, numbers[i].dflt, out), out);
    if (!ka_hf_get(c, key)) {
      if (numbers[i].dflt == REQUIRED)
        KA_TRY_GOTO(ka_str_printf(ctx, &missing, "%s%s", missing.len ? ", " : "", key), out);
    } else if (*out < numbers[i].least || *out > numbers[i].most) {
      st = ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": got %lld, expected %lld to %lld", c->path, key,
                   (long long)*out, (long long)numbers[i].least, (long long)numbers[i].most);
      goto out;
    }
  }
  if (missing.len > 0)
    st = ka_fail(ctx, KA_E_INPUT, "%s: required keys are missing: %s", c->path, missing.data);
out:
  ka_str_deinit(&missing);
  return st;
}

static ka_status read_heads(struct ka_ctx *ctx, struct ka_hf_config *c) {
  int64_t heads = c->num_attention_heads;
  if (c->num_key_value_heads == 0) c->num_key_value_heads = heads;
  if (heads % c->num_key_value_heads != 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: key \"num_key_value_heads\": got %lld, expected a divisor of the %lld "
                   "attention heads",
                   c->path, (long long)c->num_key_value_heads, (long long)heads);
  if (c->head_dim > 0) return KA_STATUS_OK;
  if (c->hidden_size % heads != 0)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: no head_dim, and hidden_size %lld is not a multiple of "
                   "num_attention_heads %lld",
                   c->path, (long long)c->hidden_size, (long long)heads);
  c->head_dim = c->hidden_size / heads;
  return KA_STATUS_OK;
}

static ka_status read_eos(struct ka_ctx *ctx, struct ka_hf_config *c) {
  const json_t *v = ka_hf_get(c, "eos_token_id");
  size_t n = !v ? 0 : json_is_array(v) ? json_array_size(v) : 1;
  bool good = n <= KA_MAX_EOS;
  for (size_t i = 0; good && i < n; i++) {
    const json_t *e = json_is_array(v) ? json_array_get(v, i) : v;
    int64_t id = json_is_integer(e) ? (int64_t)json_integer_value(e) : -2;
    good = id >= -1 && id <= INT32_MAX;
    if (good && id >= 0) c->eos_token_ids[c->n_eos++] = id;
  }
  if (!good)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: key \"eos_token_id\": expected a token id or a list of at most %d of them",
                   c->path, KA_MAX_EOS);
  c->eos_token_id = c->n_eos > 0 ? c->eos_token_ids[0] : -1;
  return KA_STATUS_OK;
}

static ka_status read_layer_types(struct ka_ctx *ctx, struct ka_hf_config *c) {
  const json_t *v = ka_hf_get(c, "layer_types");
  if (!v) return KA_STATUS_OK;
  if (!json_is_array(v) || (int64_t)json_array_size(v) != c->num_hidden_layers)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: key \"layer_types\": expected a list of %lld strings, one a layer", c->path,
                   (long long)c->num_hidden_layers);
  const char **types;
  KA_TRY(KA_NEW(&c->arena, &types, c->num_hidden_layers, "layer types"));
  for (int64_t i = 0; i < c->num_hidden_layers; i++) {
    types[i] = json_string_value(json_array_get(v, (size_t)i));
    if (!types[i])
      return ka_fail(ctx, KA_E_INPUT, "%s: key \"layer_types\": entry %lld: expected a string",
                     c->path, (long long)i);
  }
  c->layer_types = types;
  return KA_STATUS_OK;
}

static ka_status read_names(struct ka_ctx *ctx, struct ka_hf_config *c) {
  const json_t *list = json_object_get(c->root, "architectures");
  if (list && !json_is_null(list)) {
    const json_t *first = json_array_get(list, 0);
    if (!json_is_array(list) || (first && !json_is_string(first)))
      return ka_fail(ctx, KA_E_INPUT, "%s: key \"architectures\": expected a list of strings",
                     c->path);
    c->architecture = json_string_value(first);
  }
  KA_TRY(ka_hf_str_or(ctx, c, "model_type", NULL, &c->model_type));
  if (!c->architecture && !c->model_type)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: neither \"architectures\" nor \"model_type\" says what model this is",
                   c->path);
  return KA_STATUS_OK;
}

static ka_status read_act(struct ka_ctx *ctx, struct ka_hf_config *c) {
  KA_TRY(ka_hf_str_or(ctx, c, "activation_function", "silu", &c->hidden_act));
  KA_TRY(ka_hf_str_or(ctx, c, "hidden_act", c->hidden_act, &c->hidden_act));
  return ka_hf_str_or(ctx, c, "hidden_activation", c->hidden_act, &c->hidden_act);
}

static ka_status read_dtype(struct ka_ctx *ctx, struct ka_hf_config *c) {
  const char *key = ka_hf_get(c, "dtype") ? "dtype" : "torch_dtype", *name;
  KA_TRY(ka_hf_str_or(ctx, c, key, NULL, &name));
  c->has_dtype = name != NULL;
  c->dtype = KA_F32;
  if (name && ka_starts_with(name, "torch.")) name += strlen("torch.");
  if (name && !ka_dtype_parse(name, &c->dtype))
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: key \"%s\": got \"%s\", expected float32, bfloat16 or float16", c->path,
                   key, name);
  return KA_STATUS_OK;
}

static ka_status read_flag(struct ka_ctx *ctx, struct ka_hf_config *c, const char *key, bool *has,
                           bool *out) {
  *has = ka_hf_get(c, key) != NULL;
  return ka_hf_bool_or(ctx, c, key, false, out);
}

static ka_status read_small(struct ka_ctx *ctx, struct ka_hf_config *c) {
  static const char *const eps_keys[] = {"rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps",
                                         "norm_epsilon"};
  const char *eps = eps_keys[0];
  for (int i = 3; i >= 0; i--)
    if (ka_hf_get(c, eps_keys[i])) eps = eps_keys[i];
  KA_TRY(ka_hf_f64_or(ctx, c, eps, 1e-6, &c->rms_norm_eps));
  if (!(c->rms_norm_eps >= 0 && c->rms_norm_eps < 1))
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": got %g, expected 0 to 1", c->path, eps,
                   c->rms_norm_eps);
  KA_TRY(ka_hf_f64_or(ctx, c, "initializer_range", 0.02, &c->initializer_range));
  if (!(c->initializer_range >= 0 && c->initializer_range < 1e3))
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"initializer_range\": got %g, expected 0 to 1000",
                   c->path, c->initializer_range);
  KA_TRY(ka_hf_bool_or(ctx, c, "attention_bias", false, &c->attention_bias));
  KA_TRY(ka_hf_bool_or(ctx, c, "mlp_bias", false, &c->mlp_bias));
  KA_TRY(read_flag(ctx, c, "tie_word_embeddings", &c->has_tie_word_embeddings,
                   &c->tie_word_embeddings));
  return read_flag(ctx, c, "use_sliding_window", &c->has_use_sliding_window,
                   &c->use_sliding_window);
}

static ka_status resolve(struct ka_ctx *ctx, struct ka_hf_config *c) {
  if (!json_is_object(c->root))
    return ka_fail(ctx, KA_E_INPUT, "%s: expected a JSON object", c->path);
  json_t *text = json_object_get(c->root, "text_config");
  c->body = json_is_object(text) ? text : c->root;
  KA_TRY(read_names(ctx, c));
  const char *defaults = ka_hf_defaults_of(c->architecture, c->model_type);
  if (defaults)
    KA_TRY(ka_json_parse(ctx, defaults, strlen(defaults), "defaults of the family", &c->defaults));
  KA_TRY(read_act(ctx, c));
  KA_TRY(read_numbers(ctx, c));
  KA_TRY(read_heads(ctx, c));
  KA_TRY(read_small(ctx, c));
  KA_TRY(read_dtype(ctx, c));
  KA_TRY(read_eos(ctx, c));
  KA_TRY(read_layer_types(ctx, c));
  return ka_hf_config_rope(ctx, c);
}

ka_status ka_hf_config_parse(struct ka_ctx *ctx, struct ka_hf_config *c, const char *text, size_t n,
                             const char *what) {
  *c = (struct ka_hf_config){0};
  ka_arena_init(&c->arena, ctx, "config.json");
  KA_TRY(ka_arena_str(&c->arena, &c->path, what, strlen(what)));
  KA_TRY(ka_json_parse(ctx, text, n, what, &c->root));
  return resolve(ctx, c);
}

ka_status ka_hf_config_open(struct ka_ctx *ctx, struct ka_hf_config *c, const char *path) {
  *c = (struct ka_hf_config){0};
  struct ka_arena a;
  struct ka_str text = {0};
  ka_arena_init(&a, ctx, "config path");
  ka_status st = KA_STATUS_OK;
  if (ka_path_is_dir(path)) KA_TRY_GOTO(ka_path_join(&a, &path, path, "config.json"), out);
  KA_TRY_GOTO(ka_read_file(ctx, path, (size_t)64 << 20, &text), out);
  KA_TRY_GOTO(ka_hf_config_parse(ctx, c, text.data, text.len, path), out);
out:
  ka_str_deinit(&text);
  ka_arena_deinit(&a);
  return st;
}

bool ka_hf_is_eos(const struct ka_hf_config *c, int64_t id) {
  for (int i = 0; i < c->n_eos; i++)
    if (c->eos_token_ids[i] == id) return true;
  return false;
}

void ka_hf_config_close(struct ka_hf_config *c) {
  json_decref(c->root);
  json_decref(c->defaults);
  ka_arena_deinit(&c->arena);
  *c = (struct ka_hf_config){0};
}
