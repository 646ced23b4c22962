#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A kappa run in Weights & Biases, MLflow or Trackio, while it trains or afterwards.

  kappa train job.yaml &
  python3 configs/tools/follow_log.py out --to wandb          # or mlflow, trackio; ends with the run
  python3 configs/tools/follow_log.py out --to mlflow --once  # what is there now

Rows of OUT/train_log.jsonl become metrics at their steps, OUT/job.json the run's settings. Nothing leaves
the machine but what the chosen tool sends: WANDB_MODE=offline keeps it in ./wandb, MLFLOW_TRACKING_URI says
where MLflow writes, Trackio is local. A resumed run goes on where the log was cut: rows that were sent are
not sent again.
"""
import argparse
import json
import os
import time

NAMES = {"loss": "train/loss", "lr": "train/learning_rate", "grad_norm": "train/grad_norm",
         "epoch": "train/epoch", "tok": "train/tokens", "tok_per_s": "train/tokens_per_second",
         "kl": "train/kl", "eval_loss": "eval/loss", "learned": "forgetting/learned",
         "forgot": "forgetting/forgot", "score": "forgetting/score"}


def metrics(row):
    out = {NAMES[k]: v for k, v in row.items() if k in NAMES and isinstance(v, (int, float))}
    for name, v in (row.get("measures") or {}).items():
        if isinstance(v, (int, float)):
            out["measures/" + name] = v
    return out


def rows(out, once):
    """Whole lines as they come; a log that became shorter is read again. Ends with report.json."""
    path, at, rest = os.path.join(out, "train_log.jsonl"), 0, ""
    while True:
        done = once or os.path.exists(os.path.join(out, "report.json"))
        if os.path.exists(path):
            if os.path.getsize(path) < at:
                at, rest = 0, ""
            with open(path, encoding="utf-8") as f:
                f.seek(at)
                text = rest + f.read()
                at = f.tell()
            *lines, rest = text.split("\n")
            yield from (json.loads(line) for line in lines if line.strip())
        if done:
            return
        time.sleep(2)


def flat(value, prefix=""):
    if isinstance(value, dict):
        for k, v in value.items():
            yield from flat(v, f"{prefix}.{k}" if prefix else k)
    else:
        yield prefix, value if isinstance(value, (int, float, str)) else json.dumps(value)


def open_run(tool, project, name, settings):
    """A function of (metrics, step) and one that ends the run."""
    if tool == "mlflow":
        import mlflow
        mlflow.set_experiment(project)
        mlflow.start_run(run_name=name)
        for k, v in settings.items():
            mlflow.log_param(k.replace("[", ".").replace("]", ""), str(v)[:500])
        clean = str.maketrans({c: "_" for c in "()[]{}#%&,;*?!'\"+="})
        return (lambda m, step: mlflow.log_metrics({k.translate(clean): v for k, v in m.items()}, step=step),
                mlflow.end_run)
    module = __import__(tool)  # wandb and trackio have the same words
    run = module.init(project=project, name=name, config=settings)
    return (lambda m, step: run.log(m, step=step)), module.finish


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out", help="output_dir of the job")
    p.add_argument("--to", required=True, choices=["wandb", "mlflow", "trackio"])
    p.add_argument("--project", default="kappa")
    p.add_argument("--name", help="default: the directory's")
    p.add_argument("--once", action="store_true", help="send what is there and end")
    a = p.parse_args()
    job = os.path.join(a.out, "job.json")
    while not a.once and not os.path.exists(job) and not os.path.exists(os.path.join(a.out, "train_log.jsonl")):
        time.sleep(1)
    settings = dict(flat(json.load(open(job, encoding="utf-8")))) if os.path.exists(job) else {}
    log, finish = open_run(a.to, a.project, a.name or os.path.basename(os.path.abspath(a.out)), settings)
    pending, sent = {}, -1  # all rows of a step go together: some tools take a step once
    for row in rows(a.out, a.once):
        step = row.get("step", 0)
        if pending and step != pending["step"]:
            if pending["step"] > sent:
                sent = pending["step"]
                log(pending["metrics"], sent)
            pending = {}
        pending = {"step": step, "metrics": {**pending.get("metrics", {}), **metrics(row)}}
    if pending and pending["step"] > sent:
        log(pending["metrics"], pending["step"])
    finish()


if __name__ == "__main__":
    main()
