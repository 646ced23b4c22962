# SPDX-License-Identifier: Apache-2.0
"""Renders every built-in chat template with transformers: python tests/data/make_templates.py writes
templates.json beside it (needs transformers)."""
import json
import pathlib

import transformers.utils.chat_template_utils as hf

here = pathlib.Path(__file__)
def says(role):
    return lambda text: {"role": role, "content": text}


user, answer, system = says("user"), says("assistant"), says("system")
talks = [
    [user("Hello"), answer("Hi.")],
    [system(" Be short. "), user("One?"), answer(" 1 "), user("Two\n?"), answer("2")],
    [user("a"), answer("b"), user("c")],
]
cases = []
for path in sorted((here.parents[2] / "engine/data/templates").glob("*.jinja")):
    for talk in talks:
        for ask in (False, True):
            v = {"messages": talk, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": ask}
            text = hf._compile_jinja_template(path.read_text()).render(**v)
            cases.append({"name": path.stem, "vars": v, "text": text})
here.with_name("templates.json").write_text(
    "[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]\n")
print(len(cases), "cases")
