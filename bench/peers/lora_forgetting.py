#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""LoRA runs by PEFT with the data, batches and schedule of bench/forgetting.sh, for kappa to measure.

    lora_forgetting.py MODEL TEXT OUT      adapters below OUT, OUT.jsonl for `kappa forget --also`
"""
import json, math, sys, time
from pathlib import Path
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

T, BATCH, STEPS, WARMUP, RATES, SEEDS, RANK = 128, 16, 60, 5, (1e-3, 4e-3, 1.6e-2), (42, 43, 44), 8
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
torch.set_num_threads(1)


def rate(step, peak):  # the cosine schedule of kappa's jobs
    if step < WARMUP:
        return peak * step / WARMUP
    return peak * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def train(base, rows, peak, seed, out):
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(
        r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=LINEAR, task_type="CAUSAL_LM"))
    trained = [p for p in model.parameters() if p.requires_grad]
    optim = torch.optim.AdamW(trained, lr=peak, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    start = time.time()
    for step in range(STEPS):
        batch = rows[order[step * BATCH:(step + 1) * BATCH]]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optim.param_groups:
            group["lr"] = rate(step, peak)
        optim.step()
        optim.zero_grad()
        if not math.isfinite(loss.item()):
            return None
    model.save_pretrained(out)
    return {"trained_params": sum(p.numel() for p in trained), "seconds": time.time() - start}


def main():
    base, text, out = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    ids = Tokenizer.from_file(str(base / "tokenizer.json")).encode(text.read_text()).ids
    rows = torch.tensor(ids[:len(ids) // T * T]).view(-1, T)
    lines = []
    for seed in SEEDS:
        for peak in RATES:
            name = f"{out.name}/lr-{peak:g}-seed-{seed}"
            made = train(base, rows, peak, seed, out.parent / name)
            line = {"method": f"LoRA r={RANK}", "learning_rate": peak, "seed": seed, "budget": 0.25}
            lines.append({**line, "model": name, **made} if made else {**line, "failed": True})
            print(lines[-1], file=sys.stderr)
    Path(f"{out}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


main()
