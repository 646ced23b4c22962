#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kappa of tensors that are fused in memory: of their units (kappa analyze), as PEFT's KappaTuneSelector
has it, and of the whole in float32 as [d0, rest], as svdvals over every 2-D tensor has it. The table of
docs/spectra.md. Needs torch, transformers and peft:

  tests/spectral/fused_table.py build/kappa MODEL_DIR ...
"""
import json
import re
import subprocess
import sys

import torch
from peft.helpers import KappaTuneSelector
from transformers import AutoModelForCausalLM
from transformers.utils import logging


def units(kappa, where, name, n_experts):
    """kappa of the units that lie in the tensor of this name in memory."""
    said = json.loads(subprocess.run([kappa, "analyze", where, "--unit", "expert", "--json", "-"],
                                     capture_output=True, text=True, check=True).stdout)["tensors"]
    layer = re.search(r"layers\.(\d+)\.", name)[1]
    if n_experts:
        words = "w1|w3|gate|up" if "gate_up" in name else "w2|down"
        pattern = rf"layers\.{layer}\..*experts.*({words})(_proj)?\b"
    else:
        pattern = rf"^{re.escape(name)}#"
    return [t["kappa"] for n, t in said.items() if re.search(pattern, n)]


def main(kappa, *dirs):
    logging.disable_progress_bar()
    print("| in memory | shape | its units here | PEFT | svdvals of the whole |\n|---|---|---|--:|--:|")
    for where in dirs:
        model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
        selector = KappaTuneSelector(model, show_progress=False)
        selector._compute_kappas()
        theirs = {n + ".weight": k for n, k in selector._condition_numbers.items()}
        theirs |= selector._parameter_condition_numbers
        for name, p in model.named_parameters():
            if not re.search(r"layers\.0\..*(qkv_proj|gate_up_proj|experts\.down_proj)", name):
                continue
            own = units(kappa, where, name, p.dim() == 3)
            s = torch.linalg.svdvals(p.detach().reshape(len(p), -1))
            whole = "skipped (3-D)" if p.dim() == 3 else f"{(s[0] / s[-1]).item():.4g}"
            print(f"| {name} | {'x'.join(map(str, p.shape))} | {len(own)}: {min(own):.4g} to "
                  f"{max(own):.4g} | {theirs[name]:.4g} | {whole} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
