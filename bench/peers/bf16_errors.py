#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How far bf16 is from f32: transformers' own bf16 and kappa's, each against the same f32 references.

  bf16_errors.py GOLDENS [--kappa build/kappa]     # GOLDENS/NAME: a model, golden.safetensors beside it

Relative L2 errors: of the logits, the loss, the gradients all together, and the worst gradient.
What near ties of experts do to them: tests/model/bf16_noise.py, whose transformers this is.
"""
import argparse
import json
import pathlib
import subprocess
import sys

import torch
from safetensors.torch import load_file

sys.path.append(str(pathlib.Path(__file__).parents[2] / "tests/model"))
from bf16_noise import Choices, run  # noqa: E402


def error(a, b):
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


def by_torch(path, want):
    got = run(path, want, torch.bfloat16, Choices())
    return {n: error(t.detach().double().flatten(), want[n].double().flatten()) for n, t in got.items() if n in want}


def by_kappa(kappa, path):
    command = [kappa, "verify", path, "--against", path / "golden.safetensors", "--dtype", "bf16", "--device", "cpu",
               "--quiet", "--json", "-"]
    table = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    return {row["name"]: row["rel_l2"] for row in table["tensors"]}


def total(errors, want):
    """Of all gradients as one vector."""
    top = sum((e * want[n].double().norm().item()) ** 2 for n, e in errors.items() if n.startswith("grad."))
    return (top / sum(want[n].double().norm().item() ** 2 for n in errors if n.startswith("grad."))) ** 0.5


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("goldens", type=pathlib.Path)
    parser.add_argument("--kappa", default="build/kappa")
    args = parser.parse_args()
    print("| model | logits: transformers, kappa | loss | gradients | worst gradient |\n|---|---|---|---|---|")
    for path in sorted(p.parent for p in args.goldens.glob("*/golden.safetensors")):
        want = load_file(path / "golden.safetensors")
        theirs, ours = by_torch(path, want), by_kappa(args.kappa, path)
        ours = {n: e for n, e in ours.items() if n in theirs}
        cells = [f"{theirs[n]:.1e}, {ours[n]:.1e}" if n in theirs else "-" for n in ("logits", "loss")]
        cells.append(f"{total(theirs, want):.3f}, {total(ours, want):.3f}")
        worst = [max(e for n, e in side.items() if n.startswith("grad.")) for side in (theirs, ours)]
        print(f"| {path.name} | {' | '.join(cells)} | {worst[0]:.3f}, {worst[1]:.3f} |", flush=True)


main()
