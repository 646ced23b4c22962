# SPDX-License-Identifier: Apache-2.0
"""The usual way to condition numbers, timed: a loop of torch.linalg.svdvals in float32 over every
2-D tensor of a safetensors file, as they lie and turned tall first; beside `kappa analyze` on the
same file in the same run.

  python bench/peers/spectral_torch.py --make tinyllama.safetensors   # TinyLlama-1.1B's shapes, bf16
  python bench/peers/spectral_torch.py tinyllama.safetensors [--kappa build/kappa]
"""
import argparse, os, subprocess, time
import torch
from safetensors import safe_open
from safetensors.torch import save_file


def make(path, layers=22, ends=True):
    g = torch.Generator().manual_seed(0)
    t = {}

    def add(name, rows, cols):
        t[name] = (torch.randn(rows, cols, generator=g) * 0.02).to(torch.bfloat16)

    if ends:
        add("model.embed_tokens.weight", 32000, 2048)
    for i in range(layers):
        p = f"model.layers.{i}."
        for n, r, c in [("self_attn.q_proj", 2048, 2048), ("self_attn.k_proj", 256, 2048),
                        ("self_attn.v_proj", 256, 2048), ("self_attn.o_proj", 2048, 2048),
                        ("mlp.gate_proj", 5632, 2048), ("mlp.up_proj", 5632, 2048),
                        ("mlp.down_proj", 2048, 5632)]:
            add(p + n + ".weight", r, c)
    if ends:
        add("lm_head.weight", 32000, 2048)
    save_file(t, path)


def torch_loop(path, tall):
    start = time.time()
    kappas = {}
    with safe_open(path, "pt") as f:
        for name in f.keys():
            w = f.get_tensor(name).float()
            if tall and w.shape[0] < w.shape[1]:
                w = w.T.contiguous()
            s = torch.linalg.svdvals(w)
            kappas[name] = (s[0] / s[-1]).item()
    return time.time() - start, kappas


def kappa_run(binary, path, precision):
    env = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    start, peak = time.time(), 0
    p = subprocess.Popen([binary, "analyze", path, "--precision", precision, "--no-cache", "--quiet",
                          "--json", os.devnull], env=env, stdout=subprocess.DEVNULL)
    while p.poll() is None:  # not ru_maxrss: it starts from this process's own size
        try:
            with open(f"/proc/{p.pid}/status") as f:
                peak = max([peak] + [int(l.split()[1]) for l in f if l.startswith("VmHWM")])
        except OSError:
            pass
        time.sleep(0.05)
    if p.returncode != 0:
        raise SystemExit(f"{binary} analyze: exit {p.returncode}")
    return time.time() - start, peak / 1e6


def main():
    p = argparse.ArgumentParser()
    p.add_argument("file", nargs="?")
    p.add_argument("--make")
    p.add_argument("--layers", type=int, help="with --make: layers of the file")
    p.add_argument("--layers-only", action="store_true", help="with --make: no embedding, no head")
    p.add_argument("--kappa", default="build/kappa")
    p.add_argument("--skip-torch", action="store_true")
    a = p.parse_args()
    if a.make:
        return make(a.make, a.layers or 22, not a.layers_only)
    print(f"threads {torch.get_num_threads()}")
    ours = {}
    for precision in ("auto", "f64"):
        ours[precision], peak = kappa_run(a.kappa, a.file, precision)
        print(f"kappa --precision {precision:4} {ours[precision]:8.1f} s   peak {peak:.2f} GB")
    if a.skip_torch:
        return
    for tall in (False, True):
        t, _ = torch_loop(a.file, tall)
        print(f"torch float32 svdvals, {'turned tall' if tall else 'as they lie'}: {t:8.1f} s   "
              + "  ".join(f"{k} {t / v:.2f}x" for k, v in ours.items()))


main()
