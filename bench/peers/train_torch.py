#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Optimizer steps of the 39.6M Llama of `kappa bench train` in torch + transformers, bf16.

The best of a few reasonable settings is what counts: eager or sdpa attention, autocast over f32
weights or bf16 weights. AdamW by torch (foreach, fused where it exists), frozen tensors with
requires_grad False. Prints JSON as `kappa bench train --json -` does. One setting a process, so
that peak memory is its own:  train_torch.py --select full|part --setting NAME
"""
import argparse
import json
import resource
import statistics
import time

import torch
import transformers

ROWS, LENGTH, VOCAB = 8, 256, 32000


def build(setting, dtype):
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=512, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, intermediate_size=1376, max_position_embeddings=2048,
        tie_word_embeddings=True, attn_implementation=setting["attention"], use_cache=False)
    return transformers.LlamaForCausalLM(config).to(dtype)


SETTINGS = {
    "bf16-sdpa": {"attention": "sdpa", "autocast": False},
    "bf16-eager": {"attention": "eager", "autocast": False},
    "autocast-sdpa": {"attention": "sdpa", "autocast": True},
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--select", choices=["full", "part"], default="full")
    parser.add_argument("--setting", choices=list(SETTINGS), default="bf16-sdpa")
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    setting = SETTINGS[args.setting]
    torch.manual_seed(0)
    model = build(setting, torch.float32 if setting["autocast"] else torch.bfloat16)
    if args.select == "part":
        picked = [f"layers.{i}.self_attn.{p}_proj" for i in range(4, 8) for p in "qko"]
        for name, p in model.named_parameters():
            p.requires_grad = any(x in name for x in picked)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0, fused=True)
    seconds = []
    for step in range(args.steps + 2):
        ids = torch.randint(VOCAB, (ROWS, LENGTH))
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=setting["autocast"]):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= 2:
            seconds.append(time.perf_counter() - begin)
    print(json.dumps({
        "setting": args.setting, "select": args.select, "threads": torch.get_num_threads(),
        "trained": sum(p.numel() for p in trained), "tok_per_s": ROWS * LENGTH / min(seconds),
        "tok_per_s_median": ROWS * LENGTH / statistics.median(seconds),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "loss": loss.item()}))


if __name__ == "__main__":
    main()
