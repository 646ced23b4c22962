#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Optimizer steps of the models of `kappa bench train` in torch + transformers, bf16.

The best of a few reasonable settings is what counts: eager or sdpa attention, autocast over f32
weights or bf16 weights, compiled or not, with or without checkpointed blocks. AdamW by torch
(fused), frozen tensors with requires_grad False. transformers holds the experts of a layer in two
tensors, so a tenth of them is trained by a mask on the gradients of both. Prints JSON as `kappa bench train --json -` does.
One setting a process, so that peak memory is its own:
  train_torch.py --shape 40M|moe --select full|upper|five|tenth --setting NAME
  train_torch.py --model DIR [--selection out/selection.json] --rows 4 --length 256    # a real model
  train_torch.py --shape 8B --device cuda --rows 4 --length 2048 --select five --setting bf16-sdpa
"""
import argparse
import json
import math
import resource
import statistics
import time

import torch
import transformers

#          C     L   H  K  F      V       rows len   tied
SHAPES = {
    "40M": (512, 8, 8, 4, 1376, 32000, 8, 256, True),
    "1B": (2048, 16, 32, 8, 8192, 128256, 8, 1024, True),
    "8B": (4096, 32, 32, 8, 14336, 128256, 4, 2048, False),
    "moe": (512, 4, 8, 8, 256, 16384, 8, 256, True),
}
EXPERTS = {"moe": (64, 8)}  # how many, how many a token takes
SETTINGS = {
    "bf16-sdpa": {"attention": "sdpa"},
    "bf16-eager": {"attention": "eager"},
    "autocast-sdpa": {"attention": "sdpa", "autocast": True},
    "bf16-sdpa-grouped": {"attention": "sdpa", "experts": "grouped_mm"},
    "bf16-sdpa-compile": {"attention": "sdpa", "compile": True},
    "bf16-sdpa-checkpoint": {"attention": "sdpa", "checkpoint": True},
    "bf16-sdpa-compile-checkpoint": {"attention": "sdpa", "compile": True, "checkpoint": True},
}


def build(shape, setting, device):
    C, L, H, K, F, V, _, _, tied = SHAPES[shape]
    E, k = EXPERTS.get(shape, (0, 0))
    family = ("Olmoe" if E else "Llama")
    more = {"num_experts": E, "num_experts_per_tok": k} if E else {}
    config = getattr(transformers, family + "Config")(
        vocab_size=V, hidden_size=C, num_hidden_layers=L, num_attention_heads=H,
        num_key_value_heads=K, intermediate_size=F, max_position_embeddings=8192,
        tie_word_embeddings=tied, attn_implementation=setting["attention"], use_cache=False, **more)
    dtype = torch.float32 if setting.get("autocast") else torch.bfloat16
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = getattr(transformers, family + "ForCausalLM")(config)
    if E:
        model.set_experts_implementation(setting.get("experts", "eager"))
    torch.set_default_dtype(torch.float32)
    if setting.get("checkpoint"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        model.enable_input_require_grads()
    return model


def five_percent(model):
    """The matrices of lowest kappa as Gaussian weights have it, up to 5 % of all of theirs."""
    matrices = [(n, p) for n, p in model.named_parameters() if "proj" in n]
    budget = 0.05 * sum(p.numel() for _, p in matrices)

    def kappa(p):
        r = math.sqrt(min(p.shape) / max(p.shape))
        return math.inf if r == 1 else (1 + r) / (1 - r)

    picked, total = set(), 0
    for name, p in sorted(matrices, key=lambda x: kappa(x[1])):
        if total + p.numel() <= budget:
            picked.add(name)
            total += p.numel()
    return picked


def load(path, setting, device):
    dtype = torch.float32 if setting.get("autocast") else torch.bfloat16
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, attn_implementation=setting["attention"], use_cache=False)
    return model.to(device)


def tenth(model):
    """Every tenth expert, counted over the layers: a mask on the gradients of what holds them all."""
    for name, p in model.named_parameters():
        p.requires_grad = ".experts." in name
        if p.requires_grad:
            layer, E = int(name.split(".")[2]), p.shape[0]
            kept = torch.tensor([(layer * E + e) % 10 == 0 for e in range(E)], device=p.device)
            p.register_hook(lambda g, kept=kept: g * kept[:, None, None])


def select(model, which, n_layers):
    if which == "full":
        return
    if which == "tenth":
        tenth(model)
        return
    upper = [f"layers.{i}.self_attn.{p}_proj" for i in range(n_layers // 2, n_layers) for p in "qko"]
    five = five_percent(model) if which == "five" else ()
    for name, p in model.named_parameters():
        p.requires_grad = name in five if which == "five" else any(x in name for x in upper)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=list(SHAPES), default="40M")
    parser.add_argument("--model", help="a model directory in place of a shape")
    parser.add_argument("--selection", help="train what a selection.json of kappa names")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--select", choices=["full", "upper", "five", "tenth"], default="full")
    parser.add_argument("--setting", choices=list(SETTINGS), default="bf16-sdpa")
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    setting, shape = SETTINGS[args.setting], SHAPES[args.shape]
    rows, length = args.rows or shape[6], args.length or shape[7]
    cuda = args.device.startswith("cuda")
    torch.manual_seed(0)
    model = load(args.model, setting, args.device) if args.model else build(args.shape, setting, args.device)
    vocab = model.config.vocab_size
    if args.selection:
        named = {u["tensor"] for u in json.load(open(args.selection))["units"]}
        for name, p in model.named_parameters():
            p.requires_grad = name in named
    else:
        select(model, args.select, shape[1])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0, fused=True)
    run = torch.compile(model) if setting.get("compile") else model
    seconds, cpu = [], []
    for step in range(args.steps + 2):
        ids = torch.randint(vocab, (rows, length), device=args.device)
        begin, cpu_begin = time.perf_counter(), time.process_time()
        with torch.autocast(args.device.split(":")[0], torch.bfloat16,
                            enabled=setting.get("autocast", False)):
            loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
        if step >= 2:
            seconds.append(time.perf_counter() - begin)
            cpu.append(time.process_time() - cpu_begin)
    print(json.dumps({
        "shape": args.model or args.shape, "setting": args.setting, "select": args.select,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(), "trained": sum(p.numel() for p in trained),
        "tok_per_s": rows * length / min(seconds),
        "tok_per_s_median": rows * length / statistics.median(seconds),
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "loss": loss.item(), "cpu_s_a_step": min(cpu)}))


if __name__ == "__main__":
    main()
