#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random models of every option of the supported families, with transformers' own logits, hidden
states, loss and gradients beside them, for `kappa verify`. Not part of the test run (it needs torch
and transformers):

  tests/model/make_goldens.py /tmp/goldens
  for d in /tmp/goldens/*/; do build/kappa verify $d --against ${d%/}.safetensors; done
"""
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

BASE = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=4,
            num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=256,
            initializer_range=0.1)


def yarn(theta):
    return {"rope_type": "yarn", "rope_theta": theta, "factor": 4.0,
            "original_max_position_embeddings": 64}


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
}


def make(config):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    with torch.no_grad():  # norms and biases off their special values
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(torch.randn_like(p) * 0.2)
    return model


def golden(model):
    ids = torch.randint(0, BASE["vocab_size"], (2, 40))
    labels = ids.clone()
    labels[0, :5] = -100
    out = model(input_ids=ids, labels=labels, output_hidden_states=True)
    out.loss.backward()
    tensors = {"input_ids": ids, "labels": labels, "logits": out.logits, "loss": out.loss.reshape(1)}
    tensors |= {f"hidden.{i}": h for i, h in enumerate(out.hidden_states)}
    tensors |= {f"grad.{name}": p.grad for name, p in model.named_parameters()}
    return {name: t.detach().clone().contiguous() for name, t in tensors.items()}


def main(out_dir):
    for name, config in CASES.items():
        model = make(config)
        (out_dir / name).mkdir(parents=True, exist_ok=True)
        save_file(golden(model), out_dir / f"{name}.safetensors")
        model.save_pretrained(out_dir / name,
                              max_shard_size="60KB" if name.startswith("qwen") else "5GB")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
