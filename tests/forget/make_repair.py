#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# tests/forget/repair: a base and a tuned model of a few tensors, and what WiSE-FT, LiNeS and the
# hard threshold make of them, by torch; intruders counted by torch too.
#   python3 tests/forget/make_repair.py tests/forget/repair
import json
import math
import sys

import torch
from safetensors.torch import save_file

torch.manual_seed(5)
f64 = torch.float64
SHAPES = {
    "model.embed_tokens.weight": (20, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.mlp.up_proj.weight": (14, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.1.self_attn.q_proj.weight": (8, 8),
    "model.layers.1.mlp.down_proj.weight": (8, 14),
    "model.layers.2.mlp.experts.down_proj": (2, 6, 9),
    "model.layers.2.frozen.weight": (4, 4),
    "model.norm.weight": (8,),
}
LAYERS = 3


def layer_of(name):
    return int(name.split(".")[2]) if "layers." in name else None


base, tuned = {}, {}
for name, shape in SHAPES.items():
    dtype = torch.bfloat16 if "up_proj" in name else torch.float32
    w = torch.randn(shape, dtype=f64) * 0.3
    d = torch.randn(shape, dtype=f64) * 0.02
    if len(shape) == 2:  # a signal of rank one above the noise; strong in one matrix: an intruder
        u, v = torch.randn(shape[0], 1, dtype=f64), torch.randn(1, shape[1], dtype=f64)
        d += u @ v * (2.0 if "layers.1.self_attn" in name else 0.1)
    base[name] = w.to(dtype)
    tuned[name] = base[name] if "frozen" in name else (base[name].to(f64) + d).to(dtype)
tuned["lm_head.weight"] = torch.randn(20, 8)  # the base has none: it stays


def omega(beta):
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
    t = torch.linspace(low, high, 2_000_001, dtype=f64)
    density = torch.sqrt((high - t).clamp(0) * (t - low).clamp(0)) / (2 * math.pi * beta * t.clamp(1e-300))
    mass = torch.cumulative_trapezoid(density, t) if t[0] > 0 else torch.cumulative_trapezoid(
        torch.nan_to_num(density[1:]), t[1:]) + (1 - torch.trapezoid(density[1:], t[1:]))
    median = t[1:][torch.searchsorted(mass, torch.tensor(0.5, dtype=f64))] if t[0] > 0 else t[2:][
        torch.searchsorted(mass, torch.tensor(0.5, dtype=f64))]
    lam = math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + math.sqrt(beta * beta + 14 * beta + 1)))
    return lam / math.sqrt(float(median))


def hard(d, strength):
    u, s, v = torch.linalg.svd(d, full_matrices=False)
    beta = min(d.shape[-2:]) / max(d.shape[-2:])
    edge = strength * omega(beta) * s.median() if s.numel() % 2 else strength * omega(beta) * (
        s[s.numel() // 2 - 1] + s[s.numel() // 2]) / 2
    return u @ torch.diag(torch.where(s > edge, s, 0)) @ v


def repaired(method, a):
    out = {}
    for name, w in tuned.items():
        if name not in base or torch.equal(w, base[name]):
            out[name] = w
            continue
        w0 = base[name].to(f64)
        d = w.to(f64) - w0
        layer = layer_of(name)
        if method == "wise":
            d = a * d
        elif method == "lines":
            part = layer / (LAYERS - 1) if layer is not None else 0.0 if "embed" in name else 1.0
            d = (a + (1 - a) * part) * d
        elif d.dim() == 2:
            d = hard(d, a)
        elif d.dim() == 3:
            d = torch.stack([hard(m, a) for m in d])
        out[name] = (w0 + d).to(w.dtype)
    return out


def intruders(k, cosine):
    n = total = matrices = 0
    for name, w in tuned.items():
        if layer_of(name) is None or w.dim() != 2 or torch.equal(w, base[name]):
            continue
        u0 = torch.linalg.svd(base[name].to(f64), full_matrices=False)[0]
        u = torch.linalg.svd(w.to(f64), full_matrices=False)[0][:, :k]
        most = (u0.T @ u).abs().max(0).values
        n += int((most < cosine).sum())
        total += u.shape[1]
        matrices += 1
    return [n, total, matrices]


out = sys.argv[1]
save_file(base, out + "/base.safetensors")
save_file(tuned, out + "/tuned.safetensors")
cases = [("wise", 0.3), ("lines", 0.25), ("dghard", 1.0), ("dghard", 0.5)]
for i, (method, a) in enumerate(cases):
    save_file(repaired(method, a), f"{out}/expected{i}.safetensors")
json.dump({"omega": [[b, omega(b)] for b in (0.05, 0.3, 4 / 7, 0.9, 1.0)],
           "cases": cases, "intruders": [[c, *intruders(3, c)] for c in (0.5, 0.8, 0.95)]},
          open(out + "/expected.json", "w"), indent=1)
