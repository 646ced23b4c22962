#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# tests/train/recipes: six steps of torch for every way to keep the old, on a Llama of 5,000
# parameters: what the loss is a sum of, which weight a target has, which entries move.
#   python3 tests/train/make_recipes.py tests/train/recipes
# Four rows a step, the second with masked labels; one row a step that the base wrote (any ids do).
import json
import math
import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

out = sys.argv[1]
B, T, STEPS, V = 4, 16, 6, 48
torch.manual_seed(11)
torch.set_default_dtype(torch.float64)
config = LlamaConfig(vocab_size=V, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                     num_key_value_heads=1, intermediate_size=24, max_position_embeddings=64,
                     rms_norm_eps=1e-5, tie_word_embeddings=False, initializer_range=0.25)
model = LlamaForCausalLM(config)
os.makedirs(f"{out}/base", exist_ok=True)
start = {k: v.to(torch.float32) for k, v in model.state_dict().items()}
save_file({k: v.contiguous() for k, v in start.items()}, f"{out}/base/model.safetensors",
          {"format": "pt"})
with open(f"{out}/base/config.json", "w") as f:
    json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": V,
               "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
               "num_key_value_heads": 1, "intermediate_size": 24, "max_position_embeddings": 64,
               "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
               "torch_dtype": "float32", "bos_token_id": 1}, f)
ids = torch.randint(0, V, (STEPS, B, T))
labels = ids.clone()
labels[:, 1, :6] = -100
self_ids = torch.randint(0, V, (STEPS, 1, T))


def fresh():
    m = LlamaForCausalLM(config)
    m.load_state_dict({k: v.to(torch.float64) for k, v in start.items()})
    return m


base = fresh()


def divergence(tuned, x):
    """KL(base || tuned) behind every token of x."""
    with torch.no_grad():
        log_p0 = F.log_softmax(base(x).logits, -1)
    log_p = F.log_softmax(tuned(x).logits, -1)
    return (log_p0.exp() * (log_p0 - log_p)).sum(-1)


def weights_of(how, logits, target, x):
    """Of every target [B,T-1], NaN-free where the label is masked; no gradient goes through."""
    logits = logits.detach()
    ce = F.cross_entropy(logits.flatten(0, 1), target.clamp(min=0).flatten(),
                         reduction="none").view(target.shape)
    if how == "eaft":
        p = torch.softmax(logits.topk(20, -1).values, -1)
        return -(p * p.log()).sum(-1) / 3
    if how == "dft":
        return torch.exp(-ce)
    if how == "talr":  # a sequence's weights have the mean 1
        w = torch.zeros_like(ce)
        for b in range(len(ce)):
            on = target[b] >= 0
            tau = ce[b][on].median()  # of an even number the lower of the middle two
            e = torch.exp(-ce[b][on] / tau)
            w[b][on] = e / e.sum() * on.sum()
        return w
    if how == "stm":
        with torch.no_grad():
            z = base(x).logits[:, :-1]
        ce0 = F.cross_entropy(z.flatten(0, 1), target.clamp(min=0).flatten(),
                              reduction="none").view(target.shape)
        return (ce0 <= math.log(2.5)).to(ce)
    return torch.ones_like(ce)


def losses(m, step, how):
    x, y = ids[step], labels[step]
    logits, target = m(x).logits[:, :-1], y[:, 1:]
    on = (target >= 0).to(logits)
    n = on.sum()
    ce = F.cross_entropy(logits.flatten(0, 1), target.clamp(min=0).flatten(),
                         reduction="none").view(target.shape)
    w = weights_of(how.get("token_weight", "none"), logits, target, x)
    terms = {"loss": (ce * on).sum() / n, "weighted": (w * ce * on).sum() / n}
    total = terms["weighted"]
    if how.get("kl"):
        terms["kl"] = (divergence(m, x)[:, :-1] * on).sum() / n
        total = total + how["kl"] * terms["kl"]
    if how.get("kl_self"):
        terms["kl_self"] = divergence(m, self_ids[step]).mean()
        total = total + how["kl_self"] * terms["kl_self"]
    return total, terms


WAYS = {
    "self": {"kl_self": 3.0},
    "both": {"kl": 0.5, "kl_self": 0.5},
    "eaft": {"token_weight": "eaft"},
    "dft": {"token_weight": "dft", "kl": 0.5},
    "talr": {"token_weight": "talr", "kl_self": 1.0},
}

told = {"B": B, "T": T, "ids": ids.flatten().tolist(), "labels": labels.flatten().tolist(),
        "self_ids": self_ids.flatten().tolist(), "ways": []}
for name, how in WAYS.items():
    m = fresh()
    opt = torch.optim.AdamW(m.parameters(), lr=0.003, betas=(0.9, 0.95), eps=1e-8,
                            weight_decay=0.1)
    steps = []
    for step in range(STEPS):
        opt.zero_grad()
        total, terms = losses(m, step, how)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        opt.step()
        steps.append({**{k: v.item() for k, v in terms.items()}, "grad_norm": norm.item()})
    save_file({k: v.to(torch.float32).contiguous() for k, v in m.state_dict().items()},
              f"{out}/{name}.safetensors")
    told["ways"].append({"name": name, **how, "steps": steps})
for name in [*WAYS, "base/model"]:
    os.chmod(f"{out}/{name}.safetensors", 0o644)
with open(f"{out}/recipes.json", "w") as f:
    json.dump(told, f, separators=(",", ":"))
    f.write("\n")
