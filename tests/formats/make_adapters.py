# SPDX-License-Identifier: Apache-2.0
"""Adapters as PEFT saves them, and what PEFT merges them to: python make_adapters.py [OUT]

Needs torch, transformers and peft (made with 2.15, 5.24 and 0.21). OUT (default: adapters beside this
file) receives base-NAME/ with tiny random models and CASE/ with an adapter, merged.safetensors: the
tensors of merge_and_unload that differ from the base's, and for float32 logits.safetensors of the
unmerged model, for `kappa verify`. Where PEFT's merge is not what was trained (a tied embedding changed
in place, for both its uses) merged has the two tensors as the unmerged model uses them.
"""
import json
import pathlib
import shutil
import sys
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

warnings.filterwarnings("ignore")
OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "adapters")

SIZES = dict(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, max_position_embeddings=32)
BASES = {
    "llama": (LlamaConfig(**SIZES, tie_word_embeddings=False), torch.float32),
    "bf16": (LlamaConfig(**SIZES, tie_word_embeddings=False), torch.bfloat16),
    "f16": (LlamaConfig(**SIZES, tie_word_embeddings=False), torch.float16),
    "tied": (LlamaConfig(**SIZES, tie_word_embeddings=True), torch.float32),
    "qwen2": (Qwen2Config(**SIZES, tie_word_embeddings=False), torch.float32),
    "gpt2": (GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2, n_positions=16), torch.float32),
}
CASES = {
    "plain": ("llama", dict(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"])),
    "rslora": ("llama", dict(r=3, lora_alpha=4, use_rslora=True, target_modules="all-linear")),
    "patterns": ("llama", dict(r=2, lora_alpha=4, target_modules=["q_proj", "k_proj", "o_proj", "up_proj"],
                               rank_pattern={"q_proj": 1, r".*\.1\.self_attn\.k_proj": 3,
                                             "^model.layers.0.mlp.up_proj": 4},
                               alpha_pattern={r"layers\.[01]\.self_attn\.o_proj": 5, "k_proj": 1})),
    "regex": ("llama", dict(r=2, lora_alpha=4, target_modules=r".*\.1\.(self_attn\.q|mlp\.gate)_proj")),
    "one-layer": ("llama", dict(r=2, lora_alpha=4, target_modules=["q_proj"], layers_to_transform=[1])),
    "saved": ("llama", dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["lm_head", "norm"])),
    "embedding": ("llama", dict(r=2, lora_alpha=4, target_modules=["embed_tokens", "lm_head"])),
    "ignored-flag": ("llama", dict(r=2, lora_alpha=4, target_modules=["q_proj"], fan_in_fan_out=True)),
    "bf16": ("bf16", dict(r=2, lora_alpha=4, target_modules="all-linear")),
    "f16": ("f16", dict(r=2, lora_alpha=4, target_modules="all-linear")),
    "tied-head-saved": ("tied", dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "tied-saved": ("tied", dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"],
                                ensure_weight_tying=True)),
    "tied-embedding": ("tied", dict(r=2, lora_alpha=4, target_modules=["embed_tokens"])),
    "tied-head": ("tied", dict(r=2, lora_alpha=4, target_modules=["lm_head"])),
    "bias": ("qwen2", dict(r=2, lora_alpha=4, target_modules=["q_proj"], bias="all")),
    "lora-bias": ("qwen2", dict(r=2, lora_alpha=4, target_modules=["q_proj"], lora_bias=True)),
    "conv1d": ("gpt2", dict(r=2, lora_alpha=4, target_modules=["c_attn", "c_proj", "c_fc"])),
}


def open_base(name):
    return AutoModelForCausalLM.from_pretrained(OUT / f"base-{name}", dtype=BASES[name][1])


def tied_truth(model):
    """Embedding and head as the unmerged model uses them."""
    def weight(module):
        base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        delta = module.get_delta_weight("default") if hasattr(module, "get_delta_weight") else 0
        return (base.weight + delta).detach().clone()
    inner = model.base_model.model
    return {"model.embed_tokens.weight": weight(inner.model.embed_tokens), "lm_head.weight": weight(inner.lm_head)}


def make(case, base, options):
    torch.manual_seed(sum(map(ord, case)))
    model = get_peft_model(open_base(base), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **options))
    for p in model.parameters():
        if p.requires_grad:
            p.data += torch.randn_like(p) * 0.1
    model.save_pretrained(OUT / case)
    (OUT / case / "README.md").unlink()
    config = json.loads((OUT / case / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = f"base-{base}"
    config["fan_in_fan_out"] = options.get("fan_in_fan_out", config["fan_in_fan_out"])  # PEFT corrects it
    (OUT / case / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    loaded = PeftModel.from_pretrained(open_base(base), OUT / case).eval()
    if BASES[base][1] == torch.float32:
        ids = torch.randint(0, 11, (2, 9))
        with torch.no_grad():
            logits = loaded(ids).logits.contiguous()
        save_file({"input_ids": ids, "labels": ids.clone(), "logits": logits}, OUT / case / "logits.safetensors")
    truth = tied_truth(loaded) if case in ("tied-embedding", "tied-head") else {}
    merged = {**loaded.merge_and_unload().state_dict(), **truth}
    old = load_file(OUT / f"base-{base}" / "model.safetensors")
    if base in ("tied", "gpt2") and torch.equal(merged["lm_head.weight"], merged[
            "model.embed_tokens.weight" if base == "tied" else "transformer.wte.weight"]):
        del merged["lm_head.weight"]
    changed = {k: v.clone() for k, v in merged.items() if k not in old or not torch.equal(v, old[k])}
    save_file(changed, OUT / case / "merged.safetensors")


shutil.rmtree(OUT, ignore_errors=True)
for name, (config, dtype) in BASES.items():
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    for p in model.parameters():
        p.data = (torch.randn(p.shape) * 0.3).to(dtype)
    model.save_pretrained(OUT / f"base-{name}")
    (OUT / f"base-{name}" / "generation_config.json").unlink(missing_ok=True)
for name, (base, options) in CASES.items():
    make(name, base, options)
