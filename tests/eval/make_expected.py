# SPDX-License-Identifier: Apache-2.0
"""What lm-evaluation-harness (0.4.13) makes of the tasks in cases/, for test_harness.c.

    python tests/eval/make_expected.py build/kappa ../shared/data [FIRST]

FIRST: the runs before this one stay as they are. Writes expected_bytes.json for a random model of bytes that `kappa init` makes from bytes.json, and
expected_stories.json for weights/stories260K-hf of the second argument. Offline; needs lm_eval,
torch and transformers. float32, batch 1, bootstrap_iters 3000."""
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false",
                  HF_HOME=tempfile.mkdtemp())
logging.disable(logging.WARNING)
import datasets
import torch
import transformers
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import hash_string, sanitize_list

datasets.disable_progress_bars()
torch.set_num_threads(1)

HERE = pathlib.Path(__file__).parent.resolve()
# with process_docs and process_results: functions/ for kappa, functions_of_harness/ for the harness
LATER = ["fn_columns", "fn_mass", "fn_texts", "gen_choices"]
ALL = sorted(p.stem for p in (HERE / "cases").glob("*.yaml")
             if p.name[0] != "_" and not p.name.startswith("group") and p.stem not in LATER)
CHAT = ["mc_shots", "mc_gen_prefix", "mc_blank", "gen_plain", "gen_filters", "ll_shots", "ll_spaces", "mc_all",
        "mc_classes", "mc_shot_config", "chat_prefix", "chat_contexts", "roll"]
# options of simple_evaluate (template: apply_chat_template, with that file of templates/), tasks
RUNS = [
    ({}, ALL),
    ({}, ["group_all"]),
    ({}, ["group_changed"]),
    ({"limit": 3, "num_fewshot": 1}, ["mc_shots", "mc_blank_plain", "mc_all", "gen_filters", "ll_last"]),
    ({"limit": 0.3}, ["parts", "gen_plain"]),
    ({}, ["group_builtin"]),
    ({"template": "turns", "fewshot_as_multiturn": True}, CHAT),
    ({"template": "turns", "fewshot_as_multiturn": False, "system_instruction": "Be brief."}, CHAT),
    ({"template": "no_system", "fewshot_as_multiturn": True, "system_instruction": "Be brief."}, CHAT),
    ({"system_instruction": "Be brief."}, CHAT[:4]),
    ({}, LATER),
]


def plain(o):
    return o.tolist() if hasattr(o, "tolist") else str(o)


def number(text):
    return round(float(text), 4)


def brief(kind, resp):
    """A response: a text, a log-likelihood, or that and whether it was greedy."""
    if kind == "generate_until":
        return resp
    return [number(resp[0]), resp[1] == "True"] if isinstance(resp, (list, tuple)) else number(resp)


def document(doc):
    """The hash of a document without what the harness's hellaswag puts into it; ours stays as it is."""
    made = ("query", "choices", "gold") if "activity_label" in doc else ()
    kept = {k: v for k, v in doc.items() if k not in made}
    return hash_string(json.dumps(kept, indent=2, default=plain, ensure_ascii=False))


def sample(kind, s):
    hashes = document(s["doc"])[:8] + s["prompt_hash"][:8] + s["target_hash"][:8]
    resps = [brief(kind, r[0]) for r in sanitize_list(s["resps"])]
    kept = [r if kind == "generate_until" else brief(kind, r) for r in sanitize_list(s["filtered_resps"])]
    values = [s[m] for m in s["metrics"]]
    values = json.loads(json.dumps(values, default=plain))
    return [hashes, s["filter"], resps, kept if kind == "generate_until" else None,
            values if kind == "generate_until" else None]


def run(lm, options, tasks):
    builtin = tasks == ["group_builtin"]
    manager = TaskManager(include_path=[str(HERE / "cases"), str(HERE / "functions_of_harness")], include_defaults=builtin)
    template = options.get("template")
    if template:
        lm.tokenizer.chat_template = (HERE / "templates" / f"{template}.jinja").read_text()
    more = {k: v for k, v in options.items() if k != "template"}
    r = simple_evaluate(lm, tasks=tasks, task_manager=manager, log_samples=True, bootstrap_iters=3000,
                        apply_chat_template=bool(template), **{"fewshot_as_multiturn": False, **more})
    keep = ("results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples")
    out = {"tasks": tasks, "options": options, **{k: r[k] for k in keep if k in r}}
    out["samples"] = {t: [sample(r["configs"][t]["output_type"], s) for s in all_of]
                      for t, all_of in r["samples"].items()}
    return json.loads(json.dumps(out, default=plain))


def write(name, model_dir):
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(model_dir)
    # its cache of logits mixes up requests that cut one sequence at different places
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu", logits_cache=False)
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    runs = json.loads((HERE / name).read_text())[:first] if first else []
    runs += [run(lm, dict(o), t) for o, t in RUNS[first:]]
    lines = []
    for r in runs:
        samples = r.pop("samples")
        head = json.dumps(r, ensure_ascii=False)[:-1]
        body = ",\n".join(f"{json.dumps(t)}: [\n" + ",\n".join(json.dumps(s, ensure_ascii=False) for s in x)
                          + "]" for t, x in samples.items())
        lines.append(head + ', "samples": {\n' + body + "}}")
    (HERE / name).write_text("[\n" + ",\n".join(lines) + "\n]\n")


def main():
    kappa, data = (pathlib.Path(p).resolve() for p in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run([kappa, "init", "--config", HERE / "bytes.json", "--out", tmp, "--seed", "1",
                        "--tokenizer", "bytes", "--dtype", "f32"], check=True)
        os.chdir(HERE / "cases")
        write("expected_bytes.json", tmp)
        write("expected_stories.json", data / "weights/stories260K-hf")


if __name__ == "__main__":
    main()
