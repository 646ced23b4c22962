#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# tests/spectral/names.json: what tensors of model files are called once transformers 5 has loaded
# them. For each family below: a tiny random model, saved as its publishers save it (save_pretrained
# writes the file's names), and the parameter that each tensor lies in.
#   python3 tests/spectral/make_names.py > tests/spectral/names.json
import json
import tempfile

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = dict(
    hidden_size=8, intermediate_size=12, moe_intermediate_size=10, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, head_dim=4, vocab_size=32, num_experts=3,
    num_local_experts=3, n_routed_experts=4, num_experts_per_tok=2, shared_expert_intermediate_size=6,
    kv_lora_rank=4, q_lora_rank=4, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4, n_group=2,
    topk_group=1, first_k_dense_replace=1, n_embd=8, n_head=2, n_layer=2, pad_token_id=0,
    bos_token_id=1, eos_token_id=2)
FAMILIES = ["llama", "gpt2", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2",
            "deepseek_v3", "gpt_oss", "phi3", "gemma2"]

out = {}
for family in FAMILIES:
    known = AutoConfig.for_model(family)
    config = AutoConfig.for_model(family, **{k: v for k, v in SMALL.items() if hasattr(known, k)})
    model = AutoModelForCausalLM.from_config(config)
    # Every element is a number of its own, so a value says where it lies.
    at = 1
    for p in model.parameters():
        p.data = torch.arange(at, at + p.numel(), dtype=torch.float64).reshape(p.shape)
        at += p.numel()
    owners = {}
    for name, p in model.named_parameters():
        owners[name] = (float(p.min()), float(p.max()), p)
    with tempfile.TemporaryDirectory() as d:
        model.save_pretrained(d)
        with safe_open(d + "/model.safetensors", "pt") as f:
            rows = {}
            for tensor in sorted(f.keys()):
                value = float(f.get_tensor(tensor).flatten()[0])
                for name, (low, high, p) in owners.items():
                    if low <= value <= high:
                        place = (p == value).nonzero()[0].tolist()
                        fused = f.get_tensor(tensor).numel() != p.numel()
                        rows[tensor] = [name, place[0] if fused else -1]
    out[family] = rows
lines = ['"%s": {\n%s}' % (f, ",\n".join('  "%s": %s' % (t, json.dumps(v)) for t, v in rows.items()))
         for f, rows in out.items()]
print("{\n%s\n}" % ",\n".join(lines))
