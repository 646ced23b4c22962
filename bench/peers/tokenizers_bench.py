# SPDX-License-Identifier: Apache-2.0
"""kappa against Hugging Face tokenizers on the same lines of the same text, in the same run, on one
core and on two: MB/s, best of several rounds each, rounds interleaved. Token counts must agree.

  python bench/peers/tokenizers_bench.py TEXT DIR/gpt2 DIR/llama3 ... [--kappa build/kappa]
"""
import argparse, json, os, subprocess, sys, time


def peer(path, text, rounds):
    """Runs in a process of its own: the thread count is fixed when the library is loaded."""
    from tokenizers import Tokenizer
    t = Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
    t.no_truncation()
    data = open(text, encoding="utf8", newline="").read()
    lines = [l + "\n" for l in data.split("\n")[:-1]] or [data]
    best = 0
    for _ in range(rounds):
        begin = time.perf_counter()
        out = t.encode_batch_fast(lines, add_special_tokens=False)
        best = max(best, len(data.encode()) / 1e6 / (time.perf_counter() - begin))
    print(json.dumps({"mb_per_s": best, "tokens": sum(len(e.ids) for e in out)}))


def run(command, threads):
    env = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads),
               TOKENIZERS_PARALLELISM="true" if threads > 1 else "false")
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True).stdout)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("text")
    p.add_argument("models", nargs="+")
    p.add_argument("--kappa", default="build/kappa")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.peer:
        return peer(a.models[0], a.text, a.rounds)
    print("| tokenizer | threads | kappa MB/s | tokenizers MB/s | times |\n|---|---|---|---|---|")
    for model in a.models:
        for threads in (1, 2):
            ours = theirs = None
            for _ in range(2):
                k = run([a.kappa, "tokenize", model, a.text, "--bench", str(3 * a.rounds)], threads)
                h = run([sys.executable, __file__, "--peer", a.text, model, "--rounds", str(a.rounds)],
                        threads)
                assert k["tokens"] == h["tokens"], (model, k, h)
                ours = max(ours or 0, k["mb_per_s"])
                theirs = max(theirs or 0, h["mb_per_s"])
            print(f"| {os.path.basename(model.rstrip('/'))} | {threads} | {ours:.1f} | {theirs:.2f} | "
                  f"{ours / theirs:.1f} |", flush=True)


main()
