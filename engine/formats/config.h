/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json of a Hugging Face model directory, in its older form (rope_theta + rope_scaling,
 * torch_dtype) and its newer one (rope_parameters, dtype), flat or with a nested text_config.
 *
 * The fields that decoder-only families share are checked and resolved here; a family reads its own
 * keys with the ka_hf_* getters. Does not know families: which defaults differ by family is said by
 * the has_ fields. */
#ifndef KAPPA_ENGINE_FORMATS_CONFIG_H
#define KAPPA_ENGINE_FORMATS_CONFIG_H

#include "base/file.h"
#include "base/json.h"
#include "kernels/tensor.h"

enum ka_hf_rope_kind {
  KA_ROPE_DEFAULT,
  KA_ROPE_LINEAR,
  KA_ROPE_LLAMA3,
  KA_ROPE_YARN,
  KA_ROPE_LONGROPE,
  KA_ROPE_OTHER
};

/* What transformers' modeling_rope_utils.py computes the frequencies from. A field that the kind
 * does not use is 0, unless a default is said. */
struct ka_hf_rope_params {
  enum ka_hf_rope_kind kind;
  const char *kind_name; /* as in the file; models refuse KA_ROPE_OTHER by this name */
  double theta;          /* default 10000 */
  double factor;         /* linear, llama3, yarn, longrope */
  double low_freq_factor, high_freq_factor; /* llama3 */
  double original_max_position_embeddings;  /* all but linear; default: max_position_embeddings */
  double beta_fast, beta_slow;              /* yarn; defaults 32 and 1 */
  double attention_factor;                  /* yarn, longrope; 0: absent, to be computed */
  double mscale;                            /* yarn; 0: absent */
  double mscale_all_dim;      /* yarn; of latent attention every kind but default; 0: absent */
  bool truncate;              /* yarn: whole-numbered correction range; default true */
  const double *short_factor; /* [n_short] longrope: of each frequency, for sequences within
                                   original_max_position_embeddings */
  int64_t n_short;
  const double *long_factor; /* [n_long] the same for longer ones; none is given: 0 */
  int64_t n_long;
  double partial_rotary_factor; /* share of head_dim that is rotated; default 1 */
};

enum { KA_MAX_EOS = 64 };

struct ka_hf_config {
  const char *path; /* for messages */
  json_t *root;     /* the whole file, owned */
  json_t *body;     /* where the text model's keys are: root, or its text_config; borrowed */
  json_t *defaults; /* of the family, for keys that the file lacks; NULL: none, owned */
  struct ka_arena arena;

  const char *model_type;   /* NULL when absent; one of the two is there */
  const char *architecture; /* architectures[0], NULL when absent */
  int64_t vocab_size, hidden_size, num_hidden_layers, num_attention_heads; /* required */
  int64_t intermediate_size;       /* 0 when absent or null (n_inner of GPT-2) */
  int64_t num_key_value_heads;     /* default num_attention_heads */
  int64_t head_dim;                /* default hidden_size / num_attention_heads */
  int64_t max_position_embeddings; /* default 2048 */
  double rms_norm_eps;             /* or layer_norm_epsilon; default 1e-6 */
  double initializer_range;        /* default 0.02 */
  const char *hidden_act; /* hidden_activation, hidden_act or activation_function; default "silu" */
  bool attention_bias, mlp_bias; /* default false */
  bool has_tie_word_embeddings, tie_word_embeddings;
  int64_t sliding_window; /* 0: absent or null */
  bool has_use_sliding_window, use_sliding_window;
  int64_t max_window_layers;      /* -1: absent */
  const char *const *layer_types; /* [num_hidden_layers] "full_attention", ...; NULL when absent */
  bool has_dtype;
  enum ka_dtype dtype;               /* dtype or torch_dtype; default F32 */
  int64_t bos_token_id;              /* -1: absent or null */
  int64_t eos_token_id;              /* the first of config.json; -1: absent or null */
  int64_t eos_token_ids[KA_MAX_EOS]; /* of generation_config.json, once a model is open */
  int n_eos;
  int64_t pad_token_id;                /* -1: absent or null */
  struct ka_hf_rope_params rope;       /* of all layers, or of the full_attention ones */
  bool has_rope_local;                 /* sliding_attention layers have their own */
  struct ka_hf_rope_params rope_local; /* equal to rope without */
};

/* `path`: config.json or the directory that holds it. KA_E_INPUT with file and key on a missing
 * required key (all of them in one message), a wrong type or a senseless value. Free with
 * ka_hf_config_close, also after a failure. */
ka_status ka_hf_config_open(struct ka_ctx *ctx, struct ka_hf_config *c, const char *path);
/* The same from memory; `what` names the source in messages. */
ka_status ka_hf_config_parse(struct ka_ctx *ctx, struct ka_hf_config *c, const char *text, size_t n,
                             const char *what);
void ka_hf_config_close(struct ka_hf_config *c);
bool ka_hf_is_eos(const struct ka_hf_config *c, int64_t id); /* one of eos_token_ids? */

/* What a family's config.json means where it lacks a key: a JSON object as text, NULL: nothing but
 * the defaults above. Names may be NULL. The table of families answers (engine/model/families.c),
 * so that rooms below it need not be told. */
const char *ka_hf_defaults_of(const char *architecture, const char *model_type);

/* A family's own keys: from the body, else from the root, else its default; null counts as absent,
 * and null in the body has no default. */
const json_t *ka_hf_get(const struct ka_hf_config *c, const char *key); /* NULL when absent */
ka_status ka_hf_i64_or(struct ka_ctx *ctx, const struct ka_hf_config *c, const char *key,
                       int64_t dflt, int64_t *out);
ka_status ka_hf_f64_or(struct ka_ctx *ctx, const struct ka_hf_config *c, const char *key,
                       double dflt, double *out);
ka_status ka_hf_bool_or(struct ka_ctx *ctx, const struct ka_hf_config *c, const char *key,
                        bool dflt, bool *out);
ka_status ka_hf_str_or(struct ka_ctx *ctx, const struct ka_hf_config *c, const char *key,
                       const char *dflt, const char **out);

/* What a file at the top of a model directory is, by its name. */
enum ka_hf_file_kind {
  KA_FILE_MODEL,         /* config, tokenizer, templates, and everything not known as another */
  KA_FILE_WEIGHTS,       /* safetensors and their index */
  KA_FILE_OTHER_WEIGHTS, /* the same in other formats */
  KA_FILE_SELECTION,     /* selection.json: what was trained */
  KA_FILE_RUN,           /* logs and reports of a training run */
};
enum ka_hf_file_kind ka_hf_file_kind_of(const char *name);

/* Warns where dir/name is a link to something outside of dir: what lies there goes along. The store
 * of the Hugging Face cache (../../blobs) is the model's own. */
void ka_model_dir_say_link(struct ka_ctx *ctx, const char *dir, const char *name);

/* Copies every regular file at the top of base_dir into out_dir, byte for byte, links followed,
 * except safetensors and their index (ka_st_rewrite's), weights in other formats and what an
 * earlier run of kappa left there (named in a log line). Existing files are replaced. Nothing is
 * done when both are the same directory. */
ka_status ka_model_dir_carry(struct ka_ctx *ctx, const char *base_dir, const char *out_dir);

/* Makes `text` (id) the end token in the files of dir that name one: tokenizer_config.json,
 * special_tokens_map.json, config.json; generation_config.json stops at it too. */
ka_status ka_model_dir_set_eos(struct ka_ctx *ctx, const char *dir, const char *text, int64_t id);

#endif
