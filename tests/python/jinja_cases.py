# SPDX-License-Identifier: Apache-2.0
"""Renders every template of jinja_cases.json anew with transformers, and of jinja_task_cases.json
with lm-evaluation-harness, and writes the files back.

A file holds {"vars": {...}, "cases": [[template, text or null for an error], ...]}. To add cases, put
[template, null] into the list and run: python tests/python/jinja_cases.py (needs both packages)."""
import copy
import datetime
import json
import pathlib

import lm_eval.utils
import transformers.utils.chat_template_utils as hf


class FixedDay(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime(2024, 7, 26)


hf.datetime = FixedDay


def render_all(name, render):
    path = pathlib.Path(__file__).with_name(name)
    data = json.loads(path.read_text())
    lines = []
    for template, _ in data["cases"]:
        try:
            text = render(template, copy.deepcopy(data["vars"]))
        except Exception:
            text = None
        lines.append(json.dumps([template, text], ensure_ascii=False))
    head = json.dumps(data["vars"], ensure_ascii=False)
    path.write_text('{"vars": ' + head + ',\n"cases": [\n' + ",\n".join(lines) + "\n]}\n")
    print(len(lines), "cases")


render_all("jinja_cases.json", lambda t, v: hf._compile_jinja_template(t).render(**v))
render_all("jinja_task_cases.json", lm_eval.utils.apply_template)
