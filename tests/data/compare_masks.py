#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `kappa plan --jsonl` trains beside transformers' generation mask, over templates,
conversations and tokenizers.

  compare_masks.py --kappa KAPPA --templates DIR... --tokenizers MODEL_DIR...

Three comparisons, each counted:
  marked    templates with {% generation %}: ids and mask equal those of apply_chat_template with
            return_assistant_tokens_mask
  stripped  the same templates without the tags, so that kappa finds the turns by itself: every
            token of the mask that is not white space behind an end of turn is trained, nothing else
  built     other templates: by construction. The words of an answer are trained, those of other
            messages and everything before the answer's words in its turn are not, the special
            token behind an answer is.
Conversations that transformers refuses must be refused, and are counted apart. Needs transformers.
"""
import argparse, datetime, json, os, re, shutil, subprocess, sys, tempfile

U, A, S = (lambda c: {"role": "user", "content": c}), (lambda c, **k: {"role": "assistant", "content": c, **k}), (
    lambda c: {"role": "system", "content": c})
TALKS = [
    [U("uone"), A("Yes")],
    [U("uone utwo"), A("aone atwo.")],
    [S("sone stwo"), U("uone"), A("aone")],
    [U("uone"), A("aone"), U("utwo"), A("atwo")],
    [S("sone"), U("uone"), A("aone\natwo"), U("utwo"), A("athree"), U("uthree"), A("afour!")],
    [U("  uone "), A("aone\n\natwo\n")],
    [U("uéone 你"), A("aéone 你好 😀")],
    [U("uone"), A("1"), U("utwo"), A("22"), U("uthree"), A("333")],
    [U("uone\n\nutwo"), A("```c\nint aone;\n```")],
    [U("uone"), A("aone " * 40 + "aend"), U("utwo"), A("No")],
]
TAG = re.compile(r"\{%(-?)\s*(?:end)?generation\s*(-?)%\}")
NOW = "2024-07-26"


def strip_tags(text):
    return TAG.sub(lambda m: "{%" + m[1] + " if true " + m[2] + "%}" if "end" not in m[0] else "{%" + m[1] + " endif " + m[2] + "%}", text)


def model_dir(into, tokenizer, template):
    os.makedirs(into, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if os.path.exists(os.path.join(tokenizer, name)):
            shutil.copy(os.path.join(tokenizer, name), into)
    with open(os.path.join(into, "chat_template.jinja"), "w") as f:
        f.write(template)


def kappa_masks(kappa, base, template, talks, work):
    """ids and labels a conversation, None where kappa refuses it."""
    def run(some):
        path = os.path.join(work, "t.jinja")
        with open(path, "w") as f:
            f.write(template)
        with open(os.path.join(work, "data.jsonl"), "w") as f:
            for talk in some:
                f.write(json.dumps({"messages": talk}) + "\n")
        with open(os.path.join(work, "job.yaml"), "w") as f:
            f.write(f"base_model: {base}\noutput_dir: out\nsequence_len: 4096\nmax_steps: 1\nval_set_size: 0\n"
                    "selection: {metric: last_n, count: 1}\n"
                    "datasets: [{path: data.jsonl, type: chat_template, chat_template: t.jinja}]\n")
        p = subprocess.run([kappa, "plan", os.path.join(work, "job.yaml"), "--jsonl", "-", "--quiet"],
                           capture_output=True, text=True)
        rows = [json.loads(line) for line in p.stdout.splitlines()]
        return (rows, "") if p.returncode == 0 and len(rows) == len(some) else (None, p.stderr)
    rows, why = run(talks)
    if rows is not None:
        return [(r, "") for r in rows]
    out = []
    for talk in talks:
        rows, why = run([talk])
        out.append((rows[0], "") if rows else (None, why))
    return out


class FixedDate(datetime.datetime):
    """kappa trains with a fixed date, so that the same data gives the same tokens any day."""
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def render(tok, template, talk, prompt=False):
    return tok.apply_chat_template(talk, chat_template=template, tokenize=False, add_generation_prompt=prompt)


def prompted(tok, template, talk, whole):
    """Where each answer begins for who generates it: behind the generation prompt, by message."""
    out = {}
    for n, m in enumerate(talk):
        if n == 0 or m["role"] != "assistant":
            continue
        try:
            text, plain = render(tok, template, talk[:n], True), render(tok, template, talk[:n])
        except Exception:
            continue
        if whole.startswith(text):
            out[n] = (len(plain) if text.startswith(plain) else len(text), len(text))
        elif whole.startswith(plain) and text.startswith(plain):  # a prompt that opens what the history does not show
            shared = os.path.commonprefix([text, whole])[len(plain):]
            out[n] = (len(plain), len(plain) + (shared.rfind("\n") + 1 or len(shared)))
    return out


def their_mask(tok, template, talk):
    out = tok.apply_chat_template(talk, chat_template=template, tokenize=True, return_dict=True,
                                  return_assistant_tokens_mask=bool(TAG.search(template)))
    return out["input_ids"], out.get("assistant_masks")


def show(tok, ids, labels):
    text, on = "", False
    for i, l in zip(ids, labels):
        if (l != -100) != on:
            text += "[" if not on else "]"
            on = not on
        text += tok.decode([i])
    return text + ("]" if on else "")


def spans_of(tok, text):
    e = tok(text, add_special_tokens=False, return_offsets_mapping=True)
    return e["input_ids"], e["offset_mapping"]


def check_marked(tok, ids, labels, theirs, stripped, text, given):
    spans = spans_of(tok, text)[1]
    ours = [l != -100 for l in labels]
    if not stripped:
        return None if ours == [m == 1 for m in theirs] else "mask differs"
    for k, (o, m) in enumerate(zip(ours, theirs)):
        word = tok.decode([ids[k]])
        if o and not m:
            return f"token {k} {word!r} is trained"
        if m and not o and word.strip() and not any(b < spans[k][1] and spans[k][0] < e for b, e in given.values()):
            return f"token {k} {word!r} is not trained"
    return None


def check_built(tok, talk, ids, labels, text, given):
    tids, spans = spans_of(tok, text)
    if tids != ids:
        return "ids differ"
    at, problems = 0, None
    special = set(tok.all_special_ids) | {i for i, t in tok.added_tokens_decoder.items() if t.special}
    for n, m in enumerate(talk):
        content = m["content"].strip()
        begin = text.find(content, at)
        if begin < 0:
            continue  # the template leaves this message out, or changes it
        end = begin + len(content)
        inside = [k for k, (b, e) in enumerate(spans) if b < end and e > begin and ids[k] not in special]
        trained = [labels[k] != -100 for k in inside]
        if m["role"] == "assistant" and not all(trained):
            return f"message {n}: words not trained: {tok.decode([ids[k] for k, t in zip(inside, trained) if not t])!r}"
        if m["role"] != "assistant" and any(trained):
            return f"message {n}: words of a {m['role']} trained"
        if m["role"] == "assistant":
            head = [k for k, (b, e) in enumerate(spans) if e <= min(begin, given.get(n, (0, begin))[1]) and b >= at and e > b]
            if any(labels[k] != -100 for k in head):
                return f"message {n}: trained before the answer: {tok.decode([ids[k] for k in head if labels[k] != -100])!r}"
            behind = [k for k, (b, e) in enumerate(spans) if b >= end][:3]
            first = next((k for k in behind if ids[k] in special), None)
            if first is not None and labels[first] == -100 and n == len(talk) - 1:
                return f"message {n}: end of turn not trained: {tok.decode([ids[first]])!r}"
        at = end
    return None


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--kappa", required=True)
    a.add_argument("--base", required=True, help="a model directory whose weights plan opens")
    a.add_argument("--templates", nargs="+", required=True)
    a.add_argument("--tokenizers", nargs="+", required=True)
    a.add_argument("--limit", type=int, default=0)
    o = a.parse_args()
    from transformers import PreTrainedTokenizerFast
    files = sorted(os.path.join(d, f) for d in o.templates for f in os.listdir(d) if f.endswith(".jinja"))
    if o.limit:
        files = files[: o.limit]
    import transformers.utils.chat_template_utils as utils
    utils.datetime = FixedDate
    counts, bad = {}, []
    for tokenizer in o.tokenizers:
        config = os.path.join(tokenizer, "tokenizer_config.json")
        named = json.load(open(config)) if os.path.exists(config) else {}
        tok = PreTrainedTokenizerFast(tokenizer_file=os.path.join(tokenizer, "tokenizer.json"),
                                      **{k: v["content"] if isinstance(v, dict) else v for k, v in named.items() if k in ("bos_token", "eos_token") and v})
        for path in files:
            template = open(path).read()
            kinds = [("marked", template), ("stripped", strip_tags(template))] if TAG.search(template) else [("built", template)]
            for kind, text in kinds:
                with tempfile.TemporaryDirectory() as work:
                    base = os.path.join(work, "model")
                    model_dir(base, tokenizer, "")
                    os.remove(os.path.join(base, "chat_template.jinja"))
                    for f in ("config.json", "model.safetensors"):
                        os.symlink(os.path.join(os.path.abspath(o.base), f), os.path.join(base, f))
                    results = kappa_masks(o.kappa, base, text, TALKS, work)
                for n, (talk, (got, why)) in enumerate(zip(TALKS, results)):
                    key = kind
                    try:
                        ids, mask = their_mask(tok, template, talk)
                        whole = render(tok, template, talk)
                        given = prompted(tok, template, talk, whole)
                    except Exception as e:
                        ids = None
                    problem = None
                    if ids is None:
                        key = kind + " refused by both" if got is None else kind
                        problem = None if got is None else "transformers refuses it"
                    elif got is None:
                        problem = "refused: " + why.strip().splitlines()[-1][:200]
                    elif list(ids) != got["ids"]:
                        problem = "ids differ"
                    elif kind == "built":
                        problem = check_built(tok, talk, got["ids"], got["labels"], whole, given)
                    else:
                        problem = check_marked(tok, got["ids"], got["labels"], mask, kind == "stripped", whole, given)
                    good, all_ = counts.get(key, (0, 0))
                    counts[key] = (good + (problem is None), all_ + 1)
                    if problem:
                        bad.append((os.path.basename(path), kind, os.path.basename(tokenizer.rstrip("/")), n, problem,
                                    show(tok, got["ids"], got["labels"]) if got else ""))
    for b in bad:
        print("%s %s %s talk %d: %s\n    %r" % (b[0], b[1], b[2], b[3], b[4], b[5][:400]))
    print(f"{len(files)} templates x {len(TALKS)} conversations x {len(o.tokenizers)} tokenizers")
    for key, (good, all_) in sorted(counts.items()):
        print(f"  {key}: {good} of {all_}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
