#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Parameters of the configs in configs.jsonl as transformers counts them (on the meta device).

  tests/model/public_configs.py            # writes the counts into configs.jsonl
A new checkpoint is a line {"model": NAME, "refused": null or the key, "config": {the keys of its
config.json}}; tied tensors count once, buffers that files hold (the correction bias) too.
"""
import copy
import json
import pathlib

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

PATH = pathlib.Path(__file__).with_name("configs.jsonl")


def count(keys):
    keys = {k: copy.deepcopy(v) for k, v in keys.items() if k not in ("auto_map", "quantization_config")}
    config = CONFIG_MAPPING[keys["model_type"]].from_dict(keys).get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    stored = [b for name, b in model.named_buffers() if name.endswith("e_score_correction_bias")]
    return sum(t.numel() for t in [*model.parameters(), *stored])


lines = [json.loads(line) for line in PATH.read_text().splitlines()]
for line in lines:
    if line["refused"] != "architectures":
        line["parameters"] = count(line["config"])
PATH.write_text("".join(json.dumps(line) + "\n" for line in lines))
