# SPDX-License-Identifier: Apache-2.0
"""Writes the data of the tasks here from the Hugging Face hub: data/TASK/SPLIT.jsonl beside this file.

    python configs/tasks/export.py hellaswag arc_easy     (needs the datasets package; no name: all)"""
import pathlib
import sys

from datasets import get_dataset_config_names, load_dataset

SOURCES = {  # task: data set, configuration, splits
    "wikitext": ("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", ["test"]),
    "lambada_openai": ("EleutherAI/lambada_openai", "default", ["test"]),
    "hellaswag": ("Rowan/hellaswag", None, ["train", "validation"]),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", ["train", "validation", "test"]),
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge", ["train", "validation", "test"]),
    "piqa": ("baber/piqa", None, ["train", "validation"]),
    "winogrande": ("allenai/winogrande", "winogrande_xl", ["train", "validation"]),
    "boolq": ("aps/super_glue", "boolq", ["train", "validation"]),
    "gsm8k": ("openai/gsm8k", "main", ["train", "test"]),
    "mmlu": ("cais/mmlu", None, ["test", "dev"]),  # every subject a directory
}


def export(home, dataset, config, splits):
    home.mkdir(parents=True, exist_ok=True)
    for split in splits:
        load_dataset(dataset, config, split=split).to_json(home / f"{split}.jsonl", force_ascii=False)


for task in sys.argv[1:] or SOURCES:
    dataset, config, splits = SOURCES[task]
    home = pathlib.Path(__file__).parent / "data" / task
    if task != "mmlu":
        export(home, dataset, config, splits)
        continue
    for subject in set(get_dataset_config_names(dataset)) - {"all", "auxiliary_train"}:
        export(home / subject, dataset, subject, splits)
