#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`kappa init` beside transformers' own initialisation: for every family of families_sweep.py, mean
and standard deviation of every tensor of both. Not part of the test run (it needs torch and
transformers); prints what differs and exits 1:

  tests/model/compare_init.py build/kappa
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging

import families_sweep as sweep

SIZES = {"hidden_size": 96, "intermediate_size": 112, "vocab_size": 301, "initializer_range": 0.05}


def config_of(family):
    change = SIZES | ({"n_embd": 96, "n_layer": 4} if family == "gpt2" else {})
    if family != "gpt2" and not family.startswith("deepseek"):
        change["head_dim"] = 16
    return sweep.config_of(family, change)


def by_kind(path):
    """Tensors of all layers and experts together; None of the parts that see."""
    kinds = {}
    for name, t in load_file(path).items():
        name = re.sub(r"^(model\.language_model|language_model\.model)\.", "model.", name)
        if "vision" in name or "projector" in name:
            continue
        name = re.sub(r"\.\d+\.", ".#.", re.sub(r"experts\.\d+", "experts.#", name))
        kinds.setdefault(name, []).append(t.flatten().double())
    return {name: torch.cat(t) for name, t in kinds.items()}


def differs(a, b):
    room = 4 / len(a) ** 0.5
    std = max(a.std(correction=0), b.std(correction=0))
    return (abs(a.mean() - b.mean()) > std * room + 1e-9
            or abs(a.std(correction=0) - b.std(correction=0)) > (0.02 + room) * std)


def main(kappa):
    n, n_wrong = 0, 0
    logging.disable_progress_bar()
    for family in sweep.FAMILIES:
        place = pathlib.Path(tempfile.mkdtemp())
        (place / "config.json").write_text(json.dumps(config_of(family)))
        config = AutoConfig.from_pretrained(place)
        torch.manual_seed(0)
        auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        auto.from_config(config).float().save_pretrained(place / "theirs")
        subprocess.run([kappa, "init", "--config", place / "config.json", "--out", place / "ours"],
                       check=True, capture_output=True)
        theirs, ours = (by_kind(place / d / "model.safetensors") for d in ("theirs", "ours"))
        for name in sorted(theirs | ours):
            a, b = theirs.get(name), ours.get(name)
            n += 1
            if a is None or b is None or differs(a, b):
                n_wrong += 1
                print(family, name, [t is not None and (t.mean().item(), t.std().item())
                                     for t in (a, b)])
        pads = [w[next(k for k in w if "embed_tokens" in k or "wte" in k)][0].abs().max().item() == 0
                for w in (load_file(place / d / "model.safetensors") for d in ("theirs", "ours"))]
        if pads[0] != pads[1]:
            n_wrong += 1
            print(family, "the padding's row is 0:", pads)
    print(f"{n} kinds of tensors of {len(sweep.FAMILIES)} families, {n_wrong} differ")
    sys.exit(n_wrong > 0)


if __name__ == "__main__":
    main(sys.argv[1])
