#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What transformers' routers do with the tokens of rows.jsonl (each row alone), as ESFT (arXiv
2407.01906) sums it up: expected.json, which test_affinity.c compares with selection.json of a run.
The model is tests/model/goldens/olmoe-clip. Not part of the test run (it needs torch and transformers):

  tests/train/make_affinity.py
"""
import json
import pathlib

import numpy
import torch
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
MODEL = HERE.parent / "model" / "goldens" / "olmoe-clip"
SHARES = (0.2, 0.5, 0.8, 1.0)


def rows():
    """Tokens that count up, a stretch of the vocabulary to each row, so that experts differ."""
    rng = numpy.random.default_rng(7)
    return [[int((start + step) % 40) for step in range(n)]
            for start, n in zip(rng.integers(0, 12, 30), rng.integers(5, 21, 30))]


def sums(model, data):
    """[layers, experts] of choices, and of the weights that they were given."""
    layers, experts = model.config.num_hidden_layers, model.config.num_experts
    token, gate = numpy.zeros((layers, experts)), numpy.zeros((layers, experts))
    for layer, block in enumerate(model.model.layers):
        def count(module, args, out, layer=layer):
            _, weights, chosen = out
            numpy.add.at(token[layer], chosen.flatten().numpy(), 1)
            numpy.add.at(gate[layer], chosen.flatten().numpy(), weights.double().flatten().numpy())
        block.mlp.gate.register_forward_hook(count)
    with torch.no_grad():
        for row in data:
            model(input_ids=torch.tensor([row]))
    return {"token": token, "gate": gate}


def smallest(share, p):
    """The fewest experts with a sum of at least p, the first of equals."""
    order, total, out = sorted(range(len(share)), key=lambda e: (-share[e], e)), 0, []
    for expert in order:
        if total >= p * (1 - 1e-12):
            break
        total += share[expert]
        out.append(expert)
    return sorted(out)


def main():
    data = rows()
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    out = {"tokens": sum(map(len, data))}
    for score, table in sums(model, data).items():
        share = table / table.sum(axis=1, keepdims=True)
        out[score] = {"share": share.tolist(),
                      "experts": {str(p): [smallest(layer, p) for layer in share] for p in SHARES}}
    place = HERE / "affinity"
    (place / "rows.jsonl").write_text("".join(json.dumps({"input_ids": r}) + "\n" for r in data))
    (place / "expected.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
