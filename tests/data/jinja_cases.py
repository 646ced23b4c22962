# SPDX-License-Identifier: Apache-2.0
"""Renders every template of jinja_cases.json anew with transformers and writes the file back.

The file holds {"vars": {...}, "cases": [[template, text or null for an error], ...]}. To add cases,
put [template, null] into the list and run: python tests/data/jinja_cases.py (needs transformers)."""
import copy
import datetime
import json
import pathlib

import transformers.utils.chat_template_utils as hf


class FixedDay(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime(2024, 7, 26)


hf.datetime = FixedDay
path = pathlib.Path(__file__).with_name("jinja_cases.json")
data = json.loads(path.read_text())
lines = []
for template, _ in data["cases"]:
    try:
        text = hf._compile_jinja_template(template).render(**copy.deepcopy(data["vars"]))
    except Exception:
        text = None
    lines.append(json.dumps([template, text], ensure_ascii=False))
head = json.dumps(data["vars"], ensure_ascii=False)
path.write_text('{"vars": ' + head + ',\n"cases": [\n' + ",\n".join(lines) + "\n]}\n")
print(len(lines), "cases")
