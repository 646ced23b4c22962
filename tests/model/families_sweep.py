#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Configurations of the supported families, each as a config.json in one of its forms: transformers
reads it, makes a random model and computes logits, hidden states, loss and gradients; `kappa verify`
must give the same, or refuse the file by a key's name. Not part of the test run (it needs torch and
transformers):

  tests/model/families_sweep.py build/kappa [--device cuda] [--keep DIR] [PATTERN ...]

Prints one line a configuration: match, refused and why, or WRONG; exits 1 when one is wrong. A dash
is before what transformers itself refuses."""
import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging

BASE = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=4,
            num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=256,
            initializer_range=0.1, bos_token_id=1, eos_token_id=2, pad_token_id=0)
ABSENT = object()


def yarn(**more):
    return {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64} | more


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "factor": 3.0}


def longrope(n, kind="longrope"):
    return {"type": kind, "short_factor": [1 + 0.1 * i for i in range(n)],
            "long_factor": [2 + 0.3 * i for i in range(n)]}


def layers(pattern):
    return [{"s": "sliding_attention", "f": "full_attention"}[c] for c in pattern]


def two(full, sliding):
    return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}


DEFAULT = {"rope_type": "default"}
HEADS = {"mha": {"num_key_value_heads": 6}, "mqa": {"num_key_value_heads": 1},
         "no-kv": {"num_key_value_heads": ABSENT}, "head-dim": {"head_dim": 20},
         "eps": {"rms_norm_eps": 1e-3}, "no-eps": {"rms_norm_eps": ABSENT},
         "tied": {"tie_word_embeddings": True}, "untied": {"tie_word_embeddings": False}}
ROPES = {"theta": {"rope_theta": 5e5}, "theta-5": {"rope_parameters": DEFAULT | {"rope_theta": 777.0}},
         "linear": {"rope_scaling": LINEAR}, "llama3": {"rope_scaling": LLAMA3, "rope_theta": 5e5},
         "llama3-5": {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
         "yarn": {"rope_scaling": yarn()}, "yarn-type": {"rope_scaling": {
             "type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128}},
         "two-forms": {"rope_scaling": LINEAR, "rope_parameters": DEFAULT | {"rope_theta": 9e3}},
         "yarn-5": {"rope_parameters": yarn(rope_theta=1e5, beta_fast=16.0, beta_slow=2.0,
                                            attention_factor=1.3)},
         "yarn-mscale": {"rope_scaling": yarn(mscale=0.8, mscale_all_dim=0.6)},
         "yarn-untruncated": {"rope_scaling": yarn(truncate=False)},
         "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
         "longrope": {"rope_scaling": longrope(4) | {"factor": 4.0}},
         "partial": {"partial_rotary_factor": 0.5}, "window": {"sliding_window": 7}}
BIASES = {"bias": {"attention_bias": True}, "mlp-bias": {"mlp_bias": True},
          "acts": {"hidden_act": "gelu_pytorch_tanh"}, "gelu": {"hidden_act": "gelu"},
          "relu": {"hidden_act": "relu"}}
TYPES = {"types": {"layer_types": layers("fsfs"), "sliding_window": 5},
         "all-full": {"layer_types": layers("ffff")},
         "all-sliding": {"layer_types": layers("ssss"), "sliding_window": 5},
         "no-window": {"sliding_window": None}}
GEMMA = {"scalar": {"query_pre_attn_scalar": 11}, "act": {"hidden_act": "silu"},
         "activation": {"hidden_activation": "silu"}, "bidirectional": {
             "use_bidirectional_attention": True}, "cap": {"attn_logit_softcapping": 2.0},
         "no-cap": {"attn_logit_softcapping": None}, "final-cap": {"final_logit_softcapping": 1.5},
         "no-final-cap": {"final_logit_softcapping": None}, "no-kv": {"num_key_value_heads": 4,
                                                                      "num_attention_heads": 8}}
TWO_ROPES = {"both": two(DEFAULT | {"rope_theta": 7e5}, DEFAULT | {"rope_theta": 2e3}),
             "both-yarn": two(yarn(rope_theta=5e5), DEFAULT | {"rope_theta": 5e5}),
             "both-linear": two(LINEAR | {"rope_theta": 5e5}, LINEAR | {"rope_theta": 1e3}),
             "one": {"rope_parameters": {"full_attention": DEFAULT | {"rope_theta": 3e4}}},
             "other": {"rope_parameters": {"sliding_attention": DEFAULT | {"rope_theta": 3e4}}},
             "both-untruncated": two(yarn(rope_theta=5e5, truncate=False),
                                     DEFAULT | {"rope_theta": 5e5})}

EXPERTS = {"top-1": {"num_experts_per_tok": 1}, "top-all": {"num_experts_per_tok": 6},
           "balance": {"output_router_logits": True, "router_aux_loss_coef": 0.3},
           "balance-default": {"output_router_logits": True},
           "balance-top-1": {"output_router_logits": True, "router_aux_loss_coef": 1.0,
                             "num_experts_per_tok": 1},
           "no-balance": {"output_router_logits": False, "router_aux_loss_coef": 0.3}}
NORMS = {"sums": {"norm_topk_prob": True}, "sums-top-1": {"norm_topk_prob": True,
                                                          "num_experts_per_tok": 1}}
SPARSE = {"dense": {"mlp_only_layers": [0, 2]}, "step": {"decoder_sparse_step": 2},
          "step-dense": {"decoder_sparse_step": 2, "mlp_only_layers": [1]},
          "all-dense": {"mlp_only_layers": [0, 1, 2, 3]}}
LATENT = {"num_key_value_heads": 6, "kv_lora_rank": 20, "qk_nope_head_dim": 10,
          "qk_rope_head_dim": 6, "v_head_dim": 9, "moe_intermediate_size": 24,
          "n_routed_experts": 8, "num_experts_per_tok": 3, "first_k_dense_replace": 1}
LATENTS = {"q-lora": {"q_lora_rank": 14}, "no-q-lora": {"q_lora_rank": None},
           "rank-1": {"kv_lora_rank": 1}, "wide-v": {"v_head_dim": 21}, "as-k": {"v_head_dim": 16},
           "heads": {"num_attention_heads": 3, "num_key_value_heads": 3},
           "gqa": {"num_key_value_heads": 2}, "head-dim": {"head_dim": 6},
           "other-head-dim": {"head_dim": 20},
           "odd-rope": {"qk_rope_head_dim": 5}, "no-dense": {"first_k_dense_replace": 0},
           "dense": {"first_k_dense_replace": 4}, "freq": {"moe_layer_freq": 2},
           "shared-0": {"n_shared_experts": 0}, "shared-3": {"n_shared_experts": 3},
           "no-shared": {"n_shared_experts": None}, "top-1": {"num_experts_per_tok": 1},
           "factor": {"routed_scaling_factor": 3.5}, "sums": {"norm_topk_prob": True},
           "no-sums": {"norm_topk_prob": False}, "bias-q-lora": {"attention_bias": True,
                                                                 "q_lora_rank": 14},
           "bias-no-q": {"attention_bias": True, "q_lora_rank": None}, "seq-aux": {
               "seq_aux": True, "aux_loss_alpha": 0.01, "output_router_logits": True},
           "yarn-mscale-1": {"rope_scaling": yarn(mscale=1.0, mscale_all_dim=1.0)},
           "linear-mscale": {"rope_scaling": LINEAR | {"mscale_all_dim": 0.7}}}

# family: architecture, model_type, what all of its configurations have, its configurations
FAMILIES = {
    "llama": ("LlamaForCausalLM", "llama", {}, HEADS | ROPES | BIASES),
    "mistral": ("MistralForCausalLM", "mistral", {"sliding_window": 9}, HEADS | ROPES | TYPES | BIASES),
    "qwen2": ("Qwen2ForCausalLM", "qwen2", {}, HEADS | ROPES | TYPES | BIASES | {
        "max-window": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
        "used-types": {"use_sliding_window": True, "sliding_window": 5,
                       "layer_types": layers("sfsf")}}),
    "qwen3": ("Qwen3ForCausalLM", "qwen3", {"head_dim": 16}, HEADS | ROPES | TYPES | BIASES | {
        "max-window": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}}),
    "olmo2": ("Olmo2ForCausalLM", "olmo2", {}, HEADS | ROPES | BIASES),
    "olmo3": ("Olmo3ForCausalLM", "olmo3", {"sliding_window": 6}, HEADS | ROPES | TYPES | BIASES
              | TWO_ROPES | {"real": {"rope_theta": 500000, "rope_scaling": yarn(
                  attention_factor=1.2, beta_fast=32, beta_slow=1)}}),
    "smollm3": ("SmolLM3ForCausalLM", "smollm3", {}, HEADS | ROPES | BIASES | {
        "interval": {"no_rope_layer_interval": 2}, "none": {"no_rope_layers": [1, 1, 1, 1]},
        "all": {"no_rope_layers": [0, 0, 0, 0]}, "null": {"no_rope_layers": None},
        "longer": {"no_rope_layers": [0, 1, 1, 0, 0, 1]},
        "used-window": {"use_sliding_window": True, "sliding_window": 5},
        "used-types": {"use_sliding_window": True, "sliding_window": 5,
                       "layer_types": layers("sfsf")}} | TYPES),
    "granite": ("GraniteForCausalLM", "granite", {
        "embedding_multiplier": 7.3, "attention_multiplier": 0.11, "residual_multiplier": 0.31,
        "logits_scaling": 3.0}, HEADS | ROPES | BIASES | {
            "no-multipliers": {k: ABSENT for k in (
                "embedding_multiplier", "attention_multiplier", "residual_multiplier",
                "logits_scaling")}}),
    "phi3": ("Phi3ForCausalLM", "phi3", {"original_max_position_embeddings": 256},
             HEADS | ROPES | BIASES | {
                 "su": {"rope_scaling": longrope(4, "su"), "max_position_embeddings": 1024},
                 "longrope-partial": {"rope_scaling": longrope(2), "partial_rotary_factor": 0.5,
                                      "max_position_embeddings": 1024},
                 "longrope-5": {"rope_parameters": longrope(4) | {"rope_theta": 5e4},
                                "max_position_embeddings": 2048},
                 "longrope-short": {"rope_scaling": longrope(3)},
                 "longrope-beyond": {"rope_scaling": longrope(4),
                                     "original_max_position_embeddings": 16}}),
    "gemma2": ("Gemma2ForCausalLM", "gemma2", {"head_dim": 12, "query_pre_attn_scalar": 24,
                                               "sliding_window": 7},
               HEADS | ROPES | TYPES | BIASES | GEMMA),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text", {"head_dim": 12, "query_pre_attn_scalar": 24,
                                                    "sliding_window": 7, "num_hidden_layers": 7},
               HEADS | ROPES | BIASES | GEMMA | TWO_ROPES | {
                   "pattern": {"sliding_window_pattern": 3},
                   "types": {"layer_types": layers("fsfsssf")},
                   "local": {"rope_theta": 1e5, "rope_local_base_freq": 1e3,
                             "rope_scaling": {"rope_type": "linear", "factor": 8.0}}}),
    "gemma3-nested": ("Gemma3ForConditionalGeneration", "gemma3", {
        "head_dim": 12, "query_pre_attn_scalar": 24, "sliding_window": 7, "num_hidden_layers": 7},
        HEADS | TWO_ROPES | GEMMA | {"hub": {
            "num_attention_heads": ABSENT, "num_key_value_heads": ABSENT, "head_dim": ABSENT,
            "query_pre_attn_scalar": ABSENT, "max_position_embeddings": ABSENT,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 9}}),
    "gpt2": ("GPT2LMHeadModel", "gpt2", {"n_embd": 48, "n_layer": 3, "n_head": 6,
                                         "n_positions": 256}, {
        "plain": {}, "inner": {"n_inner": 60}, "relu": {"activation_function": "relu"},
        "gelu": {"activation_function": "gelu"}, "unscaled": {"scale_attn_weights": False},
        "by-layer": {"scale_attn_by_inverse_layer_idx": True},
        "upcast": {"reorder_and_upcast_attn": True}, "untied": {"tie_word_embeddings": False}}),
    "olmoe": ("OlmoeForCausalLM", "olmoe", {"num_experts": 6, "num_experts_per_tok": 2,
                                            "intermediate_size": 28},
              HEADS | ROPES | BIASES | EXPERTS | NORMS | {
                  "clip": {"clip_qkv": 0.7}, "clip-none": {"clip_qkv": None},
                  "clip-far": {"clip_qkv": 50.0}, "clip-zero": {"clip_qkv": 0.0},
                  "clip-bias": {"clip_qkv": 1.1, "attention_bias": True},
                  "clip-mqa": {"clip_qkv": 0.9, "num_key_value_heads": 1}}),
    "mixtral": ("MixtralForCausalLM", "mixtral", {"num_local_experts": 6, "num_experts_per_tok": 2,
                                                  "intermediate_size": 28},
                HEADS | ROPES | BIASES | EXPERTS | {"jitter": {"router_jitter_noise": 0.1},
                                                    "clip": {"clip_qkv": 1.0}}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", "qwen2_moe", {
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20,
        "shared_expert_intermediate_size": 36}, HEADS | ROPES | BIASES | EXPERTS | NORMS | SPARSE | {
            "no-qkv-bias": {"qkv_bias": False}, "window-off": {"sliding_window": 5},
            "max-window": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 3},
            "used-types": {"use_sliding_window": True, "sliding_window": 5,
                           "layer_types": layers("fssf")},
            "types-unused": {"sliding_window": 5, "layer_types": layers("fssf")}}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "qwen3_moe", {
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "head_dim": 16},
        HEADS | ROPES | BIASES | EXPERTS | NORMS | SPARSE | {
            "window-on": {"use_sliding_window": True, "sliding_window": 5},
            "window-max": {"use_sliding_window": True, "sliding_window": 5,
                           "max_window_layers": 2}}),
    "gpt_oss": ("GptOssForCausalLM", "gpt_oss", {
        "num_local_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 28, "head_dim": 8,
        "sliding_window": 6, "rope_scaling": yarn(truncate=False), "rope_theta": 1e4},
        HEADS | ROPES | TYPES | EXPERTS | {
            "no-bias": {"attention_bias": False}, "limit": {"swiglu_limit": 5.0},
            "alpha": {"swiglu_alpha": 1.5}, "act": {"hidden_act": "gelu"},
            "no-rope": {"rope_scaling": ABSENT}}),
    "deepseek_v2": ("DeepseekV2ForCausalLM", "deepseek_v2", LATENT | {"q_lora_rank": None},
                    HEADS | ROPES | BIASES | LATENTS | {
                        "groups": {"topk_method": "group_limited_greedy", "n_group": 4,
                                   "topk_group": 2},
                        "one-group": {"topk_method": "group_limited_greedy", "n_group": 8,
                                      "topk_group": 3},
                        "few": {"topk_method": "group_limited_greedy", "n_group": 4,
                                "topk_group": 1},
                        "greedy-groups": {"n_group": 4, "topk_group": 2},
                        "noaux": {"topk_method": "noaux_tc"},
                        "sigmoid": {"scoring_func": "sigmoid"},
                        "bias-mlp-dense": {"mlp_bias": True, "first_k_dense_replace": 4},
                        "bias-mlp-alone": {"mlp_bias": True, "n_shared_experts": 0}}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "deepseek_v3", LATENT | {
        "q_lora_rank": 22, "n_group": 2, "topk_group": 1}, HEADS | ROPES | BIASES | LATENTS | {
            "groups": {"n_group": 4, "topk_group": 2}, "all-groups": {"n_group": 4,
                                                                      "topk_group": 4},
            "one-group": {"n_group": 1, "topk_group": 1}, "no-groups": {"n_group": None,
                                                                        "topk_group": None},
            "groups-of-one": {"n_group": 8, "topk_group": 4},
            "halves": {"rope_interleave": False}, "softmax": {"scoring_func": "softmax"},
            "greedy": {"topk_method": "greedy"}, "mtp": {"num_nextn_predict_layers": 1},
            "yarn-halves": {"rope_interleave": False, "rope_scaling": yarn(mscale=1.0,
                                                                           mscale_all_dim=1.0)}}),
}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "model_type":
          "siglip_vision_model"}


def config_of(family, change):
    arch, model_type, common, _ = FAMILIES[family]
    keys = {k: v for k, v in (BASE | common | change).items() if v is not ABSENT}
    if family == "gpt2":
        keys = {k: v for k, v in keys.items() if k not in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "max_position_embeddings")}
    if family == "gemma3-nested":
        return {"architectures": [arch], "model_type": model_type, "vision_config": VISION,
                "mm_tokens_per_image": 4, "image_token_index": 96, "boi_token_index": 94,
                "eoi_token_index": 95, "text_config": keys | {"model_type": "gemma3_text"}}
    return {"architectures": [arch], "model_type": model_type} | keys


def make(where):
    """The model that transformers makes of config.json, with norms and biases off 0 and 1, and
    routers that tell experts apart."""
    config = AutoConfig.from_pretrained(where)
    torch.manual_seed(1)
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation="eager").float()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(torch.randn_like(p) * 0.2)
        for name, b in model.named_buffers():
            if "correction_bias" in name:
                b.add_(torch.randn_like(b) * 0.1)
    return model.eval()  # without dropout


def saved(model, where):
    """The tensors by the names of the files, in which experts are apart."""
    model.save_pretrained(where)
    return load_file(where / "model.safetensors")


def golden(model):
    ids = torch.randint(3, 90, (2, 40))
    labels = ids.clone()
    labels[0, :5] = -100
    more = {"token_type_ids": torch.zeros_like(ids)} if hasattr(model.config, "vision_config") else {}
    out = model(input_ids=ids, labels=labels, output_hidden_states=True, **more)
    out.loss.backward()
    tensors = {"input_ids": ids, "labels": labels, "logits": out.logits, "loss": out.loss.reshape(1)}
    tensors |= {f"hidden.{i}": h for i, h in enumerate(out.hidden_states)}
    with torch.no_grad(), tempfile.TemporaryDirectory() as place:
        for p in model.parameters():
            p.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
        tensors |= {f"grad.{name}": g for name, g in saved(model, pathlib.Path(place)).items()
                    if g.abs().max() > 0 and "correction_bias" not in name}
    return {name: t.detach().clone().contiguous() for name, t in tensors.items()}


def hub_names(weights):
    """The names of multimodal Gemma-3 before transformers 4.52."""
    return {re.sub(r"^model\.language_model\.", "language_model.model.", n): t
            for n, t in weights.items()}


def try_one(args, family, name, where):
    where.mkdir(parents=True)
    (where / "config.json").write_text(json.dumps(config_of(family, FAMILIES[family][3][name])))
    try:
        model = make(where)
        with tempfile.TemporaryDirectory() as place:
            weights = saved(model, pathlib.Path(place))
        want = golden(model)
    except Exception as e:  # what transformers itself refuses is nothing to compare with
        return "-", f"transformers: {type(e).__name__}: {str(e).splitlines()[0][:90]}"
    if family == "gemma3-nested" and name in ("hub", "mha"):
        weights = hub_names(weights)
        want = hub_names({n.replace("grad.model.language_model.", "grad.language_model.model."): t
                          for n, t in want.items()})
    save_file(weights, where / "model.safetensors", metadata={"format": "pt"})
    save_file(want, where / "golden")
    (where / "golden").rename(where.with_suffix(".safetensors"))
    run = subprocess.run([args.kappa, "verify", where, "--against",
                          where.with_suffix(".safetensors"), "--device", args.device],
                         capture_output=True, text=True)
    if run.returncode == 0:
        return "match", ""
    said = [line for line in run.stderr.splitlines() if "config.json" in line or "input" in line
            or "unsupported" in line]
    if run.returncode == 2:
        return "refused", (said or run.stderr.splitlines() or [""])[0].strip()
    failed = [line for line in run.stdout.splitlines() if "FAIL" in line]
    return "WRONG", f"exit {run.returncode}: {len(failed)} rows, {failed[:1] or run.stderr[-300:]}"


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("kappa")
    p.add_argument("patterns", nargs="*")
    p.add_argument("--device", default="cpu")
    p.add_argument("--keep", type=pathlib.Path)
    args = p.parse_args()
    logging.disable_progress_bar()
    root = args.keep or pathlib.Path(tempfile.mkdtemp())
    counts = collections.Counter()
    for family, (_, _, _, cases) in FAMILIES.items():
        cases["plain"] = {}
        for name in cases:
            full = f"{family}/{name}"
            if args.patterns and not any(re.search(x, full) for x in args.patterns):
                continue
            verdict, why = try_one(args, family, name, root / family / name)
            counts[verdict] += 1
            print(f"{verdict:8} {full:28} {why}", flush=True)
    print(", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items())))
    sys.exit(counts["WRONG"] > 0)


if __name__ == "__main__":
    main()
