# SPDX-License-Identifier: Apache-2.0
"""Writes yaml_cases.json: texts, and what PyYAML's CSafeLoader makes of them ([text, value]).

    python tests/job/make_yaml_cases.py

inf and nan become the texts that Python prints, dates as well."""
import datetime
import json
import math
import os
import random

import yaml

WORDS = """yes Yes YES no No NO on On ON off Off OFF true True TRUE false False FALSE y n Y N ~ null
Null NULL None 0 00 0o17 017 08 0x1F 0X1f -0x_1 0b101 1_000 +5 -5 1_ _1 12:30 1:2:3 -1:30 1:60 01:30
1:30.5 1:2.5e+3 1. .5 -.5 +.5 1.5e3 1.5e+3 1e5 1e+5 1.e-5 685_230.15 .inf -.inf +.inf .Inf .INF .nan
.NaN -.nan 99999999999999999999 2024-01-01 0.0 0_ 0b2 0x 1__2 1.2.3 :5 190:20:30 190:20:30.15 0:59
0.1_5 1_0.5e-3 0:5.5 12:345 12:5x 1.5e 1.5e+ 0x_1f 0b1_0 -0 +0.5 -1_0.5""".split()

TEXTS = [
    "a: [\n  {q: x, a: y}\n]\n",
    "a:\n  b: [\n    1,\n  ]\nc: \"one\ntwo\"\n",
    "a: 'one\n two'\nb: \"x\\\n  y \\\n  \\ z\"\n",
    "a: \"$\\\\\\\n  frac\"\n",
    "a: 1\nb: 2\na: 3\n",
    "a: {b: 1, b: 2}\n",
    "a: !!str 12\nb: !!int \"3\"\nc: !!null x\nd: !!str\ng: !!bool \"yes\"\nh: ! 12\n",
    "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3, c: 4}\nz: [*x, *x]\n",
    "x: &x\n" + "".join(f"  k{i}: {i}\n" for i in range(40)) + "y:\n  <<: *x\n" +
    "".join(f"  k{i}: 7\n" for i in range(20, 60)),
    "a: |\n  one\n  two\nb: >-\n  one\n  two\n\n  three\nc: |+\n  x\n\n",
    "a:\n- 1\n- - 2\n  - 3\n- {}\n- []\n-\n",
    "{a: [1, {b: c}], 'd': \"\\u00e9\\x41\", e: }\n",
    "? a\n: b\n? 'c'\n",
    "a: b#c\nd: 'it''s' # comment\n",
    "%YAML 1.1\n---\na: no\n...\n",
]


def value(v):
    if isinstance(v, dict):
        return {k: value(x) for k, x in v.items()}
    if isinstance(v, list):
        return [value(x) for x in v]
    if isinstance(v, float) and not math.isfinite(v) or isinstance(v, datetime.date):
        return str(v)
    if isinstance(v, int) and not isinstance(v, bool) and not -2**63 <= v < 2**63:
        return str(v)
    return v


def main():
    random.seed(7)
    words = list(WORDS)
    while len(words) < 600:
        words.append("".join(random.choice("0123456789_:.+-exXbo") for _ in range(random.randint(1, 6))))
    lines = []
    for word in words:
        try:
            yaml.load("- " + word, Loader=yaml.CSafeLoader)
            lines.append("- " + word + "\n")
        except Exception:
            pass
    texts = ["".join(lines)] + TEXTS
    cases = [[t, value(yaml.load(t, Loader=yaml.CSafeLoader))] for t in texts]
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "yaml_cases.json")
    with open(path, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


main()
