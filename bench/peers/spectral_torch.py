# SPDX-License-Identifier: Apache-2.0
"""The usual way to condition numbers, timed: a loop of torch.linalg.svdvals in float32 over every
2-D tensor of a safetensors file, as they lie and turned tall first; beside `kappa analyze` on the
same file in the same run, on the processor or on the same GPU.

  python bench/peers/spectral_torch.py --make tinyllama.safetensors   # TinyLlama-1.1B's shapes, bf16
  python bench/peers/spectral_torch.py tinyllama.safetensors [--kappa build/kappa]
  python bench/peers/spectral_torch.py [--kappa build/kappa]      # on a GPU: Llama-3-8B's 224 tensors,
                                                                  # made in memory for the run

On a GPU both sides start from the file in the page cache. torch's loop has seconds of setting up
taken off by a first matrix; kappa's time is that of the whole command. Every kappa that kappa
reports is compared with torch's: float32 is good to about 1e-6 kappa."""
import argparse, json, math, os, re, subprocess, sys, tempfile, time
import torch
from safetensors import safe_open
from safetensors.torch import save_file

SHAPES = {
    "tinyllama": (22, 32000, 2048, [("self_attn.q_proj", 2048, 2048), ("self_attn.k_proj", 256, 2048),
                                    ("self_attn.v_proj", 256, 2048), ("self_attn.o_proj", 2048, 2048),
                                    ("mlp.gate_proj", 5632, 2048), ("mlp.up_proj", 5632, 2048),
                                    ("mlp.down_proj", 2048, 5632)]),
    "llama3-8b": (32, 128256, 4096, [("self_attn.q_proj", 4096, 4096), ("self_attn.k_proj", 1024, 4096),
                                     ("self_attn.v_proj", 1024, 4096), ("self_attn.o_proj", 4096, 4096),
                                     ("mlp.gate_proj", 14336, 4096), ("mlp.up_proj", 14336, 4096),
                                     ("mlp.down_proj", 4096, 14336)]),
}


def make(path, model, layers, ends, device):
    g = torch.Generator(device).manual_seed(0)
    n, vocab, width, tensors = SHAPES[model]
    t = {}

    def add(name, rows, cols):
        t[name] = (torch.randn(rows, cols, generator=g, device=device) * 0.02).to(torch.bfloat16).cpu()

    if ends:
        add("model.embed_tokens.weight", vocab, width)
    for i in range(layers or n):
        for name, rows, cols in tensors:
            add(f"model.layers.{i}.{name}.weight", rows, cols)
    if ends:
        add("lm_head.weight", vocab, width)
    save_file(t, path)


def torch_loop(path, tall, device, layers):
    """Seconds for the whole file, taken from its first layers when `layers` is given."""
    kappas, start = {}, None
    with safe_open(path, "pt") as f:
        every = [n for n in f.keys() if len(f.get_slice(n).get_shape()) == 2]
        names = [n for n in every if not layers or
                 int((re.findall(r"layers\.(\d+)\.", n) or [0])[0]) < layers]
        for name in names[:1] + names:  # the first one twice: libraries set up
            w = f.get_tensor(name).to(device).float()
            if tall and w.shape[0] < w.shape[1]:
                w = w.T.contiguous()
            s = torch.linalg.svdvals(w)
            kappas[name] = (s[0] / s[-1]).item()  # waits for the device
            start = start or time.time()
    return (time.time() - start) * len(every) / len(names), kappas, len(names), len(every)


def kappa_run(binary, path, precision, device, full=False):
    env = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    start, peak = time.time(), 0
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        p = subprocess.Popen([binary, "analyze", path, "--precision", precision, "--no-cache", "--quiet",
                              "--device", device, "--json", out.name] + ["--full"] * full,
                             env=env, stdout=subprocess.DEVNULL)
        while p.poll() is None:  # not ru_maxrss: it starts from this process's own size
            try:
                with open(f"/proc/{p.pid}/status") as f:
                    peak = max([peak] + [int(l.split()[1]) for l in f if l.startswith("VmHWM")])
            except OSError:
                pass
            time.sleep(0.05)
        if p.returncode != 0:
            raise SystemExit(f"{binary} analyze: exit {p.returncode}")
        took = time.time() - start
        return took, peak / 1e6, json.load(open(out.name))


def compare(ours, theirs):
    """The largest distance over what float32 and the bound allow; above 1 is a disagreement."""
    worst = 0
    for name, k in theirs.items():
        r = ours["tensors"][name]
        if r["kappa"] and math.isfinite(k):
            allowed = r["kappa_rel_bound"] + 4e-6 * r["kappa"]
            worst = max(worst, abs(k / r["kappa"] - 1) / allowed)
    return worst


def measure(a, path):
    if a.device == "cuda":
        torch.cuda.init()
        print(torch.cuda.get_device_name(0), "torch", torch.__version__)
    print(f"threads {torch.get_num_threads()}")
    ours, result = {}, None
    runs = [("auto", False), ("f64", False)] + [("f64", True)] * (a.device == "cuda" and a.full)
    for precision, full in runs:
        took, peak, result = kappa_run(a.kappa, path, precision, a.device, full)
        ours[precision + " --full" * full] = took
        print(f"kappa --precision {precision:4} {'--full' if full else '      '} {took:8.1f} s   host peak "
              f"{peak:.2f} GB   by {result.get('engine')} on {result.get('device')}  "
              f"{result.get('f64_gflops', '')}", flush=True)
    if a.skip_torch:
        return 0
    for tall in (False, True):
        t, kappas, n, every = torch_loop(path, tall, a.device, a.torch_layers)
        worst = compare(result, kappas)
        print(f"torch float32 svdvals, {'turned tall' if tall else 'as they lie'}: {t:8.1f} s "
              + (f"(from {n} of {every}) " if n < every else " ")
              + "  ".join(f"{k} {t / v:.2f}x" for k, v in ours.items())
              + f"   largest distance / allowed {worst:.2f}", flush=True)
    return 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("file", nargs="?", help="on a GPU may be left out: Llama-3-8B's shapes, made for the run")
    p.add_argument("--make", metavar="FILE")
    p.add_argument("--model", choices=SHAPES, help="with --make: whose shapes (tinyllama)")
    p.add_argument("--layers", type=int, help="of a made file")
    p.add_argument("--layers-only", action="store_true", help="with --make: no embedding, no head")
    p.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where torch has it",
                   default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--full", action="store_true", help="on a GPU: all singular values too")
    p.add_argument("--kappa", default="build/kappa")
    p.add_argument("--skip-torch", action="store_true")
    p.add_argument("--torch-layers", type=int, help="torch's time from the first layers alone (default: "
                   "all; 2 where the file is made for the run)")
    a = p.parse_args()
    if a.make:
        return make(a.make, a.model or "tinyllama", a.layers, not a.layers_only, a.device)
    if a.file:
        return measure(a, a.file)
    if a.device == "cpu":
        p.error("on a processor Llama-3-8B takes hours: give a FILE (--make makes one)")
    a.torch_layers = a.torch_layers or 2
    memory = "/dev/shm" if os.path.isdir("/dev/shm") and \
        os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize > 20e9 else None
    with tempfile.TemporaryDirectory(dir=memory) as d:
        path = os.path.join(d, "llama3-8b.safetensors")
        make(path, a.model or "llama3-8b", a.layers, False, a.device)
        return measure(a, path)


sys.exit(main())
