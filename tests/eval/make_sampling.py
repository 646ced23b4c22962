# SPDX-License-Identifier: Apache-2.0
"""Writes sampling_cases.json: which tokens transformers' warpers leave to be drawn.

    python tests/eval/make_sampling.py"""
import json
import pathlib
import random

import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

random.seed(3)
cases = []
for n in (1, 2, 7, 40):
    for top_k, top_p, min_p, temperature in ((0, 1, 0, 1), (3, 1, 0, 1), (0, 0.5, 0, 1), (0, 0.9, 0, 2),
                                            (5, 0.7, 0, 0.5), (0, 1, 0.1, 1), (6, 0.95, 0.2, 1.5), (100, 0.99, 0, 1),
                                            (2, 0.01, 0, 1)):
        logits = [round(random.gauss(0, 2), 2) + i * 1e-4 for i in range(n)]
        scores = TemperatureLogitsWarper(float(temperature))(None, torch.tensor([logits], dtype=torch.float64))
        if top_k:
            scores = TopKLogitsWarper(top_k)(None, scores)
        if top_p < 1:
            scores = TopPLogitsWarper(top_p)(None, scores)
        if min_p:
            scores = MinPLogitsWarper(min_p)(None, scores)
        kept = [i for i, s in enumerate(scores[0].tolist()) if s > float("-inf")]
        cases.append({"logits": logits, "top_k": top_k, "top_p": float(top_p), "min_p": float(min_p),
                      "temperature": float(temperature), "kept": kept})
text = "[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n"
(pathlib.Path(__file__).parent / "sampling_cases.json").write_text(text)
