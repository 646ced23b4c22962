#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random models of every option of the supported families, with transformers' own logits, hidden
states, loss and gradients beside them, for `kappa verify`. Not part of the test run (it needs torch
and transformers):

  tests/model/make_goldens.py /tmp/goldens
  for d in /tmp/goldens/*/; do build/kappa verify $d --against ${d%/}.safetensors; done

With --small it writes those that are in the tree, which test_golden.c compares: tests/model/goldens.
"""
import pathlib
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, DeepseekV2Config, DeepseekV3Config, LlamaConfig,
                          MistralConfig, OlmoeConfig, Phi3Config, Qwen2Config, Qwen3Config)

BASE = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=4,
            num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=256,
            initializer_range=0.1)


def yarn(theta, **keys):
    return {"rope_type": "yarn", "rope_theta": theta, "factor": 4.0,
            "original_max_position_embeddings": 64, **keys}


LATENT = BASE | dict(num_key_value_heads=6, kv_lora_rank=20, qk_nope_head_dim=10, qk_rope_head_dim=6,
                     v_head_dim=9, moe_intermediate_size=24, n_routed_experts=8,
                     num_experts_per_tok=3, first_k_dense_replace=1)


def deepseek2(**keys):
    return DeepseekV2Config(**(LATENT | {"q_lora_rank": None} | keys))


def deepseek3(**keys):
    return DeepseekV3Config(**(LATENT | {"q_lora_rank": 22, "n_group": 2, "topk_group": 1} | keys))


TINY = dict(vocab_size=40, hidden_size=16, intermediate_size=12, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            initializer_range=0.1, pad_token_id=None)
SMALL = {
    "olmoe-clip": OlmoeConfig(**TINY, num_experts=4, num_experts_per_tok=2, clip_qkv=0.75,
                              attention_bias=True, norm_topk_prob=True),
    "phi3-longrope": Phi3Config(**TINY, original_max_position_embeddings=8, rope_parameters={
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 8,
        "short_factor": [1.1, 1.3], "long_factor": [2.0, 5.0]}),
}

CASES = {
    "llama-yarn": LlamaConfig(**BASE, rope_parameters=yarn(1e4)),
    "llama-linear": LlamaConfig(**BASE, rope_parameters={"rope_type": "linear", "rope_theta": 1e4,
                                                         "factor": 3.0}),
    "llama-bias": LlamaConfig(**BASE, attention_bias=True, mlp_bias=True,
                              hidden_act="gelu_pytorch_tanh", tie_word_embeddings=True),
    "llama-gelu": LlamaConfig(**BASE, hidden_act="gelu", head_dim=12),
    "mistral-head-dim": MistralConfig(**BASE, head_dim=20, sliding_window=7),
    "mistral-full": MistralConfig(**BASE, sliding_window=None),
    "qwen2-max-window": Qwen2Config(**BASE, use_sliding_window=True, sliding_window=5,
                                    max_window_layers=2),
    "qwen2-layer-types": Qwen2Config(**BASE, use_sliding_window=True, sliding_window=5,
                                     layer_types=["sliding_attention", "full_attention"] * 2),
    "qwen3-bias": Qwen3Config(**BASE, attention_bias=True, head_dim=16, use_sliding_window=True,
                              sliding_window=9, max_window_layers=1, tie_word_embeddings=True),
    "qwen3-yarn": Qwen3Config(**BASE, rope_parameters=yarn(1e6)),
    "deepseek2-dense": deepseek2(first_k_dense_replace=4, attention_bias=True, mlp_bias=True,
                                 q_lora_rank=16, tie_word_embeddings=True, rms_norm_eps=1e-2),
    "deepseek2-yarn": deepseek2(rope_parameters=yarn(1e4, mscale=0.707, mscale_all_dim=0.8)),
    "deepseek2-linear": deepseek2(rope_parameters={"rope_type": "linear", "rope_theta": 1e4,
                                                   "factor": 3.0, "mscale_all_dim": 1.0}),
    "deepseek2-wide": deepseek2(num_attention_heads=2, num_key_value_heads=2, qk_nope_head_dim=128,
                                qk_rope_head_dim=64, v_head_dim=128),
    "deepseek2-groups": deepseek2(topk_method="group_limited_greedy", n_group=4, topk_group=2,
                                  routed_scaling_factor=2.5, first_k_dense_replace=0),
    "deepseek3-none": deepseek3(q_lora_rank=None, rope_interleave=False, n_shared_experts=2),
    "deepseek3-yarn": deepseek3(rope_parameters=yarn(1e4, mscale=1.0, mscale_all_dim=1.0),
                                attention_bias=True, n_group=4, topk_group=2),
    "deepseek3-sums": deepseek3(n_group=1, norm_topk_prob=False, routed_scaling_factor=1.7),
}


def make(config):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    with torch.no_grad():  # norms and biases off their special values
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(torch.randn_like(p) * 0.2)
        for name, b in model.named_buffers():
            if "correction_bias" in name:
                b.add_(torch.randn_like(b) * 0.1)
    return model


def gradients(model):
    """By the names of the files, in which experts are apart: saved in place of the weights."""
    with torch.no_grad(), tempfile.TemporaryDirectory() as place:
        for p in model.parameters():
            p.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
        model.save_pretrained(place)
        found = load_file(pathlib.Path(place) / "model.safetensors")
    return {f"grad.{name}": g for name, g in found.items() if "correction_bias" not in name}


def golden(model):
    ids = torch.randint(0, model.config.vocab_size, (2, min(40, model.config.vocab_size // 3)))
    labels = ids.clone()
    labels[0, :5] = -100
    out = model(input_ids=ids, labels=labels, output_hidden_states=True)
    out.loss.backward()
    tensors = {"input_ids": ids, "labels": labels, "logits": out.logits, "loss": out.loss.reshape(1)}
    tensors |= {f"hidden.{i}": h for i, h in enumerate(out.hidden_states)}
    tensors |= gradients(model)
    return {name: t.detach().clone().contiguous() for name, t in tensors.items()}


def main(out_dir):
    small = sys.argv[2:] == ["--small"]
    for name, config in (SMALL if small else CASES).items():
        model = make(config)
        (out_dir / name).mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out_dir / name,
                              max_shard_size="60KB" if name.startswith("qwen") else "5GB")
        save_file(golden(model), out_dir / f"{name}.safetensors")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
