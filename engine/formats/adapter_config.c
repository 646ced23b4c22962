/* SPDX-License-Identifier: Apache-2.0
 * Reading adapter_config.json; see adapter_config.h. */
#include "engine/formats/adapter_config.h"

#include "base/pattern.h"

#include <math.h>
#include <string.h>

/* Keys read below, and keys whose value does not matter to a trained adapter that is merged: which
 * modules it was put on shows in its tensors, and for fan_in_fan_out PEFT itself goes by the type
 * of the layer. Every other key of the file, also of a later PEFT, must be off. */
static const char *const known[] = {"auto_mapping",
                                    "base_model_name_or_path",
                                    "corda_config",
                                    "ensure_weight_tying",
                                    "eva_config",
                                    "exclude_modules",
                                    "fan_in_fan_out",
                                    "inference_mode",
                                    "layers_pattern",
                                    "layers_to_transform",
                                    "loftq_config",
                                    "lora_bias",
                                    "lora_dropout",
                                    "lora_ga_config",
                                    "megatron_core",
                                    "modules_to_save",
                                    "peft_version",
                                    "qalora_group_size",
                                    "revision",
                                    "runtime_config",
                                    "target_modules",
                                    "task_type",
                                    "peft_type",
                                    "r",
                                    "lora_alpha",
                                    "rank_pattern",
                                    "alpha_pattern",
                                    "use_rslora",
                                    "bias",
                                    "init_lora_weights",
                                    NULL};

/* Initialisations that leave the base's weights alone; the others subtract from them, and the saved
 * adapter belongs to that other base unless PEFT converted it, which sets true. */
static const char *const initialisations[] = {"gaussian", "eva", "orthogonal", "mica", NULL};

static bool listed(const char *word, const char *const *list) {
  for (; *list; list++)
    if (strcmp(word, *list) == 0) return true;
  return false;
}

static bool off(const json_t *v) {
  return json_is_null(v) || json_is_false(v) || (json_is_object(v) && json_object_size(v) == 0) ||
         (json_is_array(v) && json_array_size(v) == 0);
}

static ka_status refuse(struct ka_ctx *ctx, const struct ka_adapter_config *c, const char *key,
                        const char *why) {
  struct ka_str text = {0};
  KA_TRY(ka_json_dump_line(ctx, json_object_get(c->root, key), &text));
  ka_status st = ka_fail(ctx, KA_E_UNSUPPORTED, "%s: %s: got %.*s; %s", c->path, key,
                         text.len > 101 ? 100 : (int)text.len - 1, text.data, why);
  ka_str_deinit(&text);
  return st;
}

static ka_status check_keys(struct ka_ctx *ctx, const struct ka_adapter_config *c) {
  const char *key, *word;
  json_t *v;
  v = json_object_get(c->root, "peft_type"); /* another method's keys need no mention */
  if (!v || !json_is_string(v) || strcmp(json_string_value(v), "LORA") != 0)
    return v ? refuse(ctx, c, "peft_type", "kappa merges \"LORA\"")
             : ka_fail(ctx, KA_E_INPUT, "%s: peft_type: missing, expected \"LORA\"", c->path);
  json_object_foreach(c->root, key, v) if (!listed(key, known) && !off(v)) return refuse(
      ctx, c, key, "kappa merges plain LoRA, which has it off or absent");
  v = json_object_get(c->root, "init_lora_weights");
  word = json_string_value(v);
  if (v && !json_is_boolean(v) && !json_is_null(v) && !(word && listed(word, initialisations)))
    return refuse(ctx, c, "init_lora_weights",
                  "it changed the base's weights: save the adapter with PEFT's "
                  "path_initial_model_for_weight_conversion");
  KA_TRY(ka_json_str_or(ctx, c->path, c->root, "bias", "none", &word));
  if (strcmp(word, "none") != 0 && strcmp(word, "all") != 0 && strcmp(word, "lora_only") != 0)
    return refuse(ctx, c, "bias", "expected none, all or lora_only");
  return KA_STATUS_OK;
}

/* NULL for an absent or empty one. */
static ka_status read_pattern(struct ka_ctx *ctx, const struct ka_adapter_config *c,
                              const char *key, const json_t **out) {
  const json_t *v = json_object_get(c->root, key), *number;
  const char *pattern;
  *out = NULL;
  if (!v || off(v)) return KA_STATUS_OK;
  if (!json_is_object(v))
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: expected an object of numbers", c->path, key);
  json_object_foreach(
      (json_t *)(uintptr_t)v, pattern,
      number) if (!json_is_number(number)) return ka_fail(ctx, KA_E_INPUT,
                                                          "%s: %s: \"%s\": expected a number",
                                                          c->path, key, pattern);
  *out = v;
  return KA_STATUS_OK;
}

ka_status ka_adapter_config_open(struct ka_ctx *ctx, struct ka_adapter_config *c, const char *dir) {
  *c = (struct ka_adapter_config){0};
  ka_arena_init(&c->arena, ctx, "adapter_config.json");
  KA_TRY(ka_path_join(&c->arena, &c->path, dir, "adapter_config.json"));
  KA_TRY(ka_json_load(ctx, c->path, &c->root));
  if (!json_is_object(c->root))
    return ka_fail(ctx, KA_E_INPUT, "%s: expected a JSON object", c->path);
  KA_TRY(ka_json_str_or(ctx, c->path, c->root, "base_model_name_or_path", "", &c->base));
  KA_TRY(check_keys(ctx, c));
  KA_TRY(ka_json_i64_or(ctx, c->path, c->root, "r", 8, &c->r));
  KA_TRY(ka_json_f64_or(ctx, c->path, c->root, "lora_alpha", 8, &c->alpha));
  KA_TRY(ka_json_bool_or(ctx, c->path, c->root, "use_rslora", false, &c->rslora));
  KA_TRY(read_pattern(ctx, c, "rank_pattern", &c->rank_pattern));
  return read_pattern(ctx, c, "alpha_pattern", &c->alpha_pattern);
}

void ka_adapter_config_close(struct ka_adapter_config *c) {
  json_decref(c->root);
  ka_arena_deinit(&c->arena);
  *c = (struct ka_adapter_config){0};
}

/* PEFT's get_pattern_key: re.match of (.*\.)?(PATTERN)$. */
static ka_status matches(struct ka_ctx *ctx, const char *path, const char *key, const char *pattern,
                         const char *module, bool *out) {
  struct ka_str text = {0};
  struct ka_pattern_error error;
  pcre2_code *re;
  KA_TRY(ka_str_printf(ctx, &text, "^(.*\\.)?(%s)$", pattern));
  ka_status st = ka_pattern_compile(ctx, &re, text.data, text.len, PCRE2_UTF, &error);
  ka_str_deinit(&text);
  KA_TRY(st);
  if (!re)
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: \"%s\": not a regular expression: %s", path, key,
                   pattern, error.why);
  pcre2_match_data *data = pcre2_match_data_create_from_pattern(re, NULL);
  int rc = data ? pcre2_match(re, (PCRE2_SPTR)module, strlen(module), 0, 0, data, NULL)
                : PCRE2_ERROR_NOMEMORY;
  pcre2_match_data_free(data);
  pcre2_code_free(re);
  *out = rc >= 0;
  if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH) return KA_STATUS_OK;
  return ka_fail(ctx, ka_pattern_match_code(rc), "%s: %s: \"%s\" takes too long on %s", path, key,
                 pattern, module);
}

/* The number of the first pattern that matches, in the file's order. */
static ka_status look_up(struct ka_ctx *ctx, const struct ka_adapter_config *c, const char *key,
                         const json_t *patterns, const char *module, double *out) {
  const char *pattern;
  json_t *v;
  json_object_foreach((json_t *)(uintptr_t)patterns, pattern, v) {
    bool hit = false;
    KA_TRY(matches(ctx, c->path, key, pattern, module, &hit));
    if (!hit) continue;
    *out = json_number_value(v);
    break;
  }
  return KA_STATUS_OK;
}

ka_status ka_adapter_scale(struct ka_ctx *ctx, const struct ka_adapter_config *c,
                           const char *module, int64_t *r, double *scale) {
  double rank = (double)c->r, alpha = c->alpha;
  KA_TRY(look_up(ctx, c, "rank_pattern", c->rank_pattern, module, &rank));
  KA_TRY(look_up(ctx, c, "alpha_pattern", c->alpha_pattern, module, &alpha));
  if (!(rank >= 1 && rank <= 1e9) || rank != floor(rank) || !isfinite(alpha))
    return ka_fail(ctx, KA_E_INPUT, "%s: %s: got rank %g and alpha %g", c->path, module, rank,
                   alpha);
  *r = (int64_t)rank;
  *scale = alpha / (c->rslora ? sqrt(rank) : rank);
  return KA_STATUS_OK;
}
