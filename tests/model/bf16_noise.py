#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How far bf16 lies from a golden's f32: kappa's, transformers' own, and transformers' own with the
experts that f32 chose, so that what near ties of experts do can be told from rounding. Limits are
those of `kappa verify --dtype bf16`. Not part of the test run (it needs torch and transformers):

  tests/model/bf16_noise.py build/kappa GOLDEN_DIR ...

A line a golden: tensors above their limit and the largest relative error, of each of the three; choices
of experts that transformers' bf16 changes; the smallest distance in f32 of a score that is chosen from
one that is not, and by how much bf16 moves scores (root mean square)."""
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

TOPK = torch.topk


class Choices:
    """Records what torch.topk chooses, or gives recorded choices back and counts what differs."""

    def __init__(self, recorded=None):
        self.recorded, self.seen, self.changed, self.n = recorded, [], 0, 0
        self.scores, self.margin = [], float("inf")

    def __call__(self, x, k, dim=-1, **more):
        value, index = TOPK(x, k, dim=dim, **more)
        self.seen.append(index)
        self.scores.append(x.detach().double().clamp(-1e3, 1e3))
        if k < x.shape[-1]:
            best = TOPK(self.scores[-1], k + 1, dim=dim).values
            self.margin = min(self.margin, (best[..., k - 1] - best[..., k]).min().item())
        if self.recorded is None:
            return value, index
        want = self.recorded[len(self.seen) - 1]
        self.n += index.numel()
        self.changed += (index.sort(-1).values != want.sort(-1).values).sum().item()
        return x.gather(dim, want), want


def run(where, golden, dtype, choices):
    model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, attn_implementation="eager")
    torch.topk = choices
    try:
        out = model(input_ids=golden["input_ids"], labels=golden["labels"], output_hidden_states=True)
        out.loss.backward()
    finally:
        torch.topk = TOPK
    found = {"logits": out.logits, "loss": out.loss.reshape(1)}
    found |= {f"hidden.{i}": h for i, h in enumerate(out.hidden_states)}
    with torch.no_grad(), tempfile.TemporaryDirectory() as place:
        for p in model.parameters():
            p.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
        model.save_pretrained(place)
        found |= {f"grad.{n}": g for n, g in
                  load_file(pathlib.Path(place) / "model.safetensors").items()}
    return found


def above(found, golden, limits):
    """How many tensors are above their limits, and the largest relative error."""
    n, worst = 0, 0
    for name, limit in limits.items():
        if name not in found:
            continue
        a, b = found[name].double().flatten(), golden[name].double().flatten()
        error = ((a - b).norm() / b.norm().clamp_min(1e-30)).item()
        n += error > limit
        worst = max(worst, error)
    return f"{n:3} {worst:8.3f}"


def main(kappa, *dirs):
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    print(f"{'above the limit, worst:':24} {'kappa':>12} {'transformers':>13} {'as f32 chose':>13}"
          "  changed choices  closest  moved")
    for where in map(pathlib.Path, dirs):
        golden = load_file(where / "golden.safetensors")
        said = json.loads(subprocess.run(
            [kappa, "verify", where, "--against", where / "golden.safetensors", "--dtype", "bf16",
             "--json", "-"], capture_output=True, text=True).stdout)
        rows = said["tensors"]
        limits = {r["name"]: r["tolerance"] for r in rows}
        ours = f"{sum(not r['pass'] for r in rows):3} {max(r['rel_l2'] for r in rows):8.3f}"
        exact = Choices()
        run(where, golden, torch.float32, exact)
        theirs = above(run(where, golden, torch.bfloat16, Choices()), golden, limits)
        forced = Choices(exact.seen)
        chosen = above(run(where, golden, torch.bfloat16, forced), golden, limits)
        moved = [(a - b).flatten() for a, b in zip(exact.scores, forced.scores)]
        moved = torch.cat(moved).square().mean().sqrt().item() if moved else 0
        print(f"{where.name:24} {ours:>12} {theirs:>13} {chosen:>13}  "
              f"{f'{forced.changed} of {forced.n}':>15}  {exact.margin:.5f} {moved:.5f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
