/* SPDX-License-Identifier: Apache-2.0
 *
 * Models small enough for finite differences, and batches for them. */
#ifndef KAPPA_TESTS_MODEL_TINY_H
#define KAPPA_TESTS_MODEL_TINY_H

#include "engine/model/init.h"
#include "engine/model/model.h"
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

enum { TINY_V = 29, TINY_C = 12, TINY_MAX = 1024 };

#define TINY_COMMON                                                                                \
  "\"vocab_size\":29,\"hidden_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4,"        \
  "\"num_key_value_heads\":2,\"intermediate_size\":20,\"max_position_embeddings\":64,"             \
  "\"initializer_range\":0.3,\"rms_norm_eps\":1e-5,\"hidden_act\":\"silu\",\"head_dim\":6"

static const char *const tiny_llama =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," TINY_COMMON
    ",\"tie_word_embeddings\":false,\"attention_bias\":true,\"mlp_bias\":true,"
    "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":4.0,\"low_freq_factor\":1.0,"
    "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":16}}";
static const char *const tiny_mistral =
    "{\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\"," TINY_COMMON
    ",\"sliding_window\":5,\"tie_word_embeddings\":true}";
static const char *const tiny_qwen2 =
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\"," TINY_COMMON
    ",\"tie_word_embeddings\":true,\"use_sliding_window\":true,\"sliding_window\":4,"
    "\"max_window_layers\":1}";
static const char *const tiny_qwen3 =
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\"," TINY_COMMON
    ",\"tie_word_embeddings\":false}";

static const char *const tiny_olmo2 =
    "{\"architectures\":[\"Olmo2ForCausalLM\"],\"model_type\":\"olmo2\"," TINY_COMMON
    ",\"attention_bias\":true,\"tie_word_embeddings\":false}";
static const char *const tiny_gpt2 =
    "{\"architectures\":[\"GPT2LMHeadModel\"],\"model_type\":\"gpt2\",\"vocab_size\":29,"
    "\"n_embd\":12,\"n_layer\":2,\"n_head\":3,\"n_inner\":20,\"n_positions\":512,"
    "\"initializer_range\":0.3,\"layer_norm_epsilon\":1e-5,\"activation_function\":\"gelu_new\"}";

static const char *const tiny_olmo3 =
    "{\"architectures\":[\"Olmo3ForCausalLM\"],\"model_type\":\"olmo3\"," TINY_COMMON
    ",\"sliding_window\":4,\"layer_types\":[\"sliding_attention\",\"full_attention\"],"
    "\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
    "\"original_max_position_embeddings\":16},\"tie_word_embeddings\":false}";
static const char *const tiny_smollm3 =
    "{\"architectures\":[\"SmolLM3ForCausalLM\"],\"model_type\":\"smollm3\"," TINY_COMMON
    ",\"no_rope_layers\":[0,1],\"mlp_bias\":true}";
static const char *const tiny_granite =
    "{\"architectures\":[\"GraniteForCausalLM\"],\"model_type\":\"granite\"," TINY_COMMON
    ",\"embedding_multiplier\":3,\"attention_multiplier\":0.3,\"residual_multiplier\":0.7,"
    "\"logits_scaling\":1.5,\"tie_word_embeddings\":true}";
/* Documents of more than 8 tokens turn by long_factor. */
static const char *const tiny_phi3 =
    "{\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi3\"," TINY_COMMON
    ",\"sliding_window\":7,\"partial_rotary_factor\":0.7,\"rope_scaling\":{\"type\":\"longrope\","
    "\"factor\":2.0,\"short_factor\":[1.1,2.5],\"long_factor\":[2.0,5.0]},"
    "\"original_max_position_embeddings\":8}";
#define TINY_GEMMA                                                                                 \
  TINY_COMMON ",\"hidden_activation\":\"gelu_pytorch_tanh\",\"query_pre_attn_scalar\":5,"          \
              "\"layer_types\":[\"sliding_attention\",\"full_attention\"],\"sliding_window\":4"
static const char *const tiny_gemma2 =
    "{\"architectures\":[\"Gemma2ForCausalLM\"],\"model_type\":\"gemma2\"," TINY_GEMMA
    ",\"attn_logit_softcapping\":1.5,\"final_logit_softcapping\":2.5}";
static const char *const tiny_gemma3 =
    "{\"architectures\":[\"Gemma3ForConditionalGeneration\"],\"model_type\":\"gemma3\","
    "\"text_config\":{\"model_type\":\"gemma3_text\"," TINY_GEMMA "}}";
/* With the load-balancing loss. */
#define TINY_EXPERTS                                                                               \
  ",\"num_experts_per_tok\":2,\"output_router_logits\":true,\"router_aux_loss_coef\":0.5"
static const char *const tiny_olmoe =
    "{\"architectures\":[\"OlmoeForCausalLM\"],\"model_type\":\"olmoe\"," TINY_COMMON TINY_EXPERTS
    ",\"num_experts\":5,\"clip_qkv\":1.5,\"attention_bias\":true,\"tie_word_embeddings\":false}";
static const char *const tiny_mixtral =
    "{\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\"," TINY_COMMON
        TINY_EXPERTS ",\"num_local_experts\":3,\"sliding_window\":5,\"tie_word_embeddings\":true}";
static const char *const tiny_qwen2_moe =
    "{\"architectures\":[\"Qwen2MoeForCausalLM\"],\"model_type\":\"qwen2_moe\"," TINY_COMMON
        TINY_EXPERTS
    ",\"num_experts\":4,\"moe_intermediate_size\":9,\"shared_expert_intermediate_size\":11,"
    "\"mlp_only_layers\":[0],\"norm_topk_prob\":true}";
static const char *const tiny_qwen3_moe =
    "{\"architectures\":[\"Qwen3MoeForCausalLM\"],\"model_type\":\"qwen3_moe\"," TINY_COMMON
        TINY_EXPERTS ",\"num_experts\":6,\"moe_intermediate_size\":7,\"decoder_sparse_step\":2}";
static const char *const tiny_gpt_oss =
    "{\"architectures\":[\"GptOssForCausalLM\"],\"model_type\":\"gpt_oss\"," TINY_COMMON
        TINY_EXPERTS
    ",\"num_local_experts\":3,\"sliding_window\":4,\"rope_scaling\":{\"rope_type\":\"yarn\","
    "\"factor\":4.0,\"original_max_position_embeddings\":16,\"truncate\":false}}";

#define TINY_DEEPSEEK                                                                              \
  "\"vocab_size\":29,\"hidden_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":3,"        \
  "\"intermediate_size\":20,\"max_position_embeddings\":64,\"initializer_range\":0.3,"             \
  "\"kv_lora_rank\":7,\"qk_nope_head_dim\":3,\"qk_rope_head_dim\":4,\"v_head_dim\":5,"             \
  "\"tie_word_embeddings\":false,\"first_k_dense_replace\":1,"                                     \
  "\"moe_intermediate_size\":7,\"n_routed_experts\":4,\"num_experts_per_tok\":2"
static const char *const tiny_deepseek2 =
    "{\"architectures\":[\"DeepseekV2ForCausalLM\"],\"model_type\":\"deepseek_v2\"," TINY_DEEPSEEK
    ",\"q_lora_rank\":null,\"topk_method\":\"group_limited_greedy\",\"n_group\":2,\"topk_group\":1,"
    "\"routed_scaling_factor\":1.7,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,"
    "\"original_max_position_embeddings\":16,\"mscale\":0.7,\"mscale_all_dim\":0.8}}";
static const char *const tiny_deepseek3 =
    "{\"architectures\":[\"DeepseekV3ForCausalLM\"],\"model_type\":\"deepseek_v3\"," TINY_DEEPSEEK
    ",\"q_lora_rank\":6,\"attention_bias\":true,\"n_group\":2,\"topk_group\":2}";

/* The config in a directory of its own; its path. */
static inline const char *tiny_config(struct ka_ctx *ctx, const char *text) {
  const char *path = t_str("%s/config.json", t_temp_dir());
  T_OK(ka_write_file(ctx, path, text, strlen(text)));
  return path;
}

/* A fresh model of this config; its directory. */
static inline const char *tiny_make(struct ka_ctx *ctx, const char *text, enum ka_dtype dtype) {
  const char *dir = t_temp_dir();
  T_OK(ka_model_init(ctx, tiny_config(ctx, text), dir, 3, dtype));
  return dir;
}

/* Holds its arrays: keep it in place while batch is in use. */
struct tiny_batch {
  struct ka_batch batch;
  int32_t *ints; /* freed by nobody: tests are short */
};

/* B rows of T tokens, every label a target, one document a row. */
static inline struct tiny_batch tiny_batch(int64_t B, int64_t T, const int32_t *ids) {
  int64_t n = B * T;
  static int32_t memory[16][4 * TINY_MAX];
  static int next;
  int32_t *at = memory[next++ % 16];
  assert_true(n <= TINY_MAX);
  for (int64_t i = 0; i < n; i++) {
    at[i] = ids[i];
    at[n + i] = ids[i];
    at[2 * n + i] = (int32_t)(i % T);
    at[3 * n + i] = 0;
  }
  return (struct tiny_batch){.batch = {.B = B,
                                       .T = T,
                                       .input_ids = at,
                                       .labels = at + n,
                                       .position = at + 2 * n,
                                       .doc_start = at + 3 * n,
                                       .n_targets = B * (T - 1)},
                             .ints = at};
}

#endif
