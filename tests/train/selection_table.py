#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What kappa, kappa_mp and affinity choose in a model with experts, side by side, as docs/experts.md
has it. Trains a small Mixtral (400 steps on tests/train/affinity/rows.jsonl, half a minute), needs
nothing but kappa:

  tests/train/selection_table.py build/kappa [DIR]

DIR/model is the model, for other tables of it."""
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent.resolve()
CONFIG = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 64,
          "hidden_size": 64, "intermediate_size": 224, "num_hidden_layers": 3,
          "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 8,
          "num_experts_per_tok": 2, "max_position_embeddings": 64, "sliding_window": None,
          "output_router_logits": True, "router_aux_loss_coef": 0.02, "initializer_range": 0.05,
          "tie_word_embeddings": False}
JOB = f"""datasets: [{{path: {HERE}/affinity/rows.jsonl, type: tokenized}}]
sequence_len: 64
val_set_size: 0
micro_batch_size: 4
gradient_accumulation_steps: 1
learning_rate: 2e-3
bf16: false
"""
PICKED = 12


def main(kappa, place):
    place.mkdir(exist_ok=True)

    def run(*words):
        subprocess.run([kappa, *map(str, words)], cwd=place, check=True, capture_output=True)

    (place / "config.json").write_text(json.dumps(CONFIG))
    run("init", "--config", "config.json", "--out", "fresh", "--seed", 1)
    (place / "job.yaml").write_text(JOB)
    run("train", "job.yaml", "base_model=fresh", "output_dir=model", "selection.metric=all",
        "max_steps=400")
    run("train", "job.yaml", "base_model=model", "output_dir=by-use", "selection.metric=affinity",
        "selection.p=1", "max_steps=1")
    run("analyze", "model", "--unit", "expert", "--json", "spectra.json")
    table = {n: t for n, t in json.loads((place / "spectra.json").read_text())["tensors"].items()
             if "layer" in t}
    use = {u["name"]: u["metrics"]["affinity"] for u in
           json.loads((place / "by-use" / "selection.json").read_text())["units"]}
    names = sorted(table)
    picks = {m: set(sorted(names, key=lambda n: table[n][m])[:PICKED]) for m in ("kappa", "kappa_mp")}
    picks["affinity"] = set(sorted(use, key=lambda n: (-use[n], n))[:PICKED])
    kinds = collections.defaultdict(list)
    for n in names:
        kinds[(table[n]["role"], "x".join(map(str, table[n]["shape"])))].append(n)
    print("| matrices | | κ | kappa_mp | affinity | picked by κ | by kappa_mp | by affinity |")
    print("|---|--:|---|---|---|--:|--:|--:|")
    for (role, shape), group in sorted(kinds.items(), key=lambda k: table[k[1][0]]["kappa"]):
        ends = [f"{min(v):.3g} to {max(v):.3g}" for v in
                ([table[n][m] for n in group] for m in ("kappa", "kappa_mp"))]
        shares = [use[n] for n in group if n in use]
        ends.append(f"{min(shares):.2f} to {max(shares):.2f}" if shares else "–")
        chosen = [str(len(picks[m] & set(group)) or "") for m in ("kappa", "kappa_mp", "affinity")]
        print(f"| {role} {shape} | {len(group)} | {' | '.join(ends)} | {' | '.join(chosen)} |")
    both = [len(picks[a] & picks[b]) for a, b in (("kappa", "kappa_mp"), ("kappa", "affinity"),
                                                  ("kappa_mp", "affinity"))]
    print(f"\nOf {PICKED} picked, κ and kappa_mp share {both[0]}, κ and affinity {both[1]}, "
          f"kappa_mp and affinity {both[2]}.")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve(),
         pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()))
