#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Data of bench/keep.sh, from the standard library alone: three new tasks with a right answer that a
# small model can learn, and one old skill as multiple choice. Everything is drawn by a seed.
#   python3 bench/keep_tasks.py OUT [TWEETEVAL_IRONY_DIR]
#
#   sums      two-step arithmetic in words; four answers to choose from
#   notation  values of a made-up notation of nested operations that no corpus has
#   irony     TweetEval's irony (train_text.txt, train_labels.txt, ...), where its directory is given
#   opposites an old skill: the opposite of a common word, four to choose from; never trained
import json
import os
import random
import sys

SEED = 20260
N_TRAIN, N_TEST = 4000, 400

NAMES = ["Ann", "Ben", "Cara", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jon", "Kim", "Leo"]
THINGS = ["apples", "books", "coins", "marbles", "pens", "shells", "stamps", "stones", "tickets"]
OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("tall", "short"), ("old", "young"), ("fast", "slow"),
    ("happy", "sad"), ("light", "dark"), ("good", "bad"), ("rich", "poor"), ("strong", "weak"),
    ("full", "empty"), ("open", "closed"), ("early", "late"), ("high", "low"), ("wet", "dry"),
    ("hard", "soft"), ("clean", "dirty"), ("near", "far"), ("left", "right"), ("up", "down"),
    ("day", "night"), ("love", "hate"), ("war", "peace"), ("black", "white"), ("first", "last"),
    ("true", "false"), ("long", "short"), ("wide", "narrow"), ("thick", "thin"), ("deep", "shallow"),
    ("buy", "sell"), ("win", "lose"), ("begin", "end"), ("push", "pull"), ("north", "south"),
    ("east", "west"), ("inside", "outside"), ("above", "below"), ("before", "after"), ("loud", "quiet"),
]


def numbers_near(rng, answer):
    """The answer among three others that look like it, and its place."""
    near = [answer + d for d in (-10, -3, -2, -1, 1, 2, 3, 10) if answer + d >= 0]
    choices = rng.sample(near, 3) + [answer]
    rng.shuffle(choices)
    return [str(c) for c in choices], choices.index(answer)


def sums(rng):
    a, b = rng.sample(NAMES, 2)
    what, x, y, z = rng.choice(THINGS), rng.randint(5, 40), rng.randint(2, 20), rng.randint(2, 9)
    kind = rng.randrange(3)
    if kind == 0:
        text = f"{a} has {x} {what}. {b} gives {a} {y} more, and then {a} gives away {z}. How many {what} does {a} have?"
        answer = x + y - z
    elif kind == 1:
        text = f"{a} buys {z} boxes with {y} {what} each, and loses {z} of the {what}. How many {what} are left?"
        answer = z * y - z
    else:
        text = f"{a} has {x} {what} and {b} has {y} more than {a}. How many {what} do they have together?"
        answer = 2 * x + y
    choices, gold = numbers_near(rng, answer)
    return "Question: " + text + "\nAnswer:", choices, gold


def notation(rng):
    def make(depth):
        if depth == 0:
            n = rng.randint(0, 9)
            return str(n), n
        (p, x), (q, y) = make(rng.randrange(depth)), make(rng.randrange(depth))
        sign = rng.choice("^_~")
        return f"<{p}{sign}{q}>", max(x, y) if sign == "^" else min(x, y) if sign == "_" else (x + y) % 10

    text, answer = make(2)
    choices, gold = numbers_near(rng, answer)
    return f"Value of {text}:", choices, gold


def opposites(rng, i):
    word, answer = OPPOSITES[i % len(OPPOSITES)]
    choices = rng.sample([b for a, b in OPPOSITES if b != answer and a != answer], 3) + [answer]
    rng.shuffle(choices)
    return f"The opposite of {word} is", choices, choices.index(answer)


def irony(directory, part):
    def lines(kind):
        with open(f"{directory}/{part}_{kind}.txt", encoding="utf-8") as f:
            return f.read().split("\n")

    for text, label in zip(lines("text"), lines("labels")):
        if label.strip():
            yield "Tweet: " + text.strip() + "\nIronic:", ["no", "yes"], int(label)


def write(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_task(out, name, train, test):
    if train:
        write(f"{out}/{name}-train.jsonl", [
            {"segments": [{"label": False, "text": text}, {"label": True, "text": " " + choices[gold]}]}
            for text, choices, gold in train])
    write(f"{out}/{name}-test.jsonl",
          [{"text": text, "choices": choices, "gold": gold} for text, choices, gold in test])
    with open(f"{out}/{name}.yaml", "w", encoding="utf-8") as f:
        f.write(f"task: {name}\ndataset_path: json\n"
                f"dataset_kwargs: {{data_files: {{test: {name}-test.jsonl}}}}\n"
                "output_type: multiple_choice\ntest_split: test\ndoc_to_text: text\n"
                "doc_to_choice: choices\ndoc_to_target: gold\n"
                "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n")


def split(rng, make):
    """Test questions are none of the training's."""
    seen, train, test = set(), [], []
    while len(test) < N_TEST or len(train) < N_TRAIN:
        row = make(rng)
        if row[0] in seen:
            continue
        seen.add(row[0])
        (test if len(test) < N_TEST else train).append(row)
    return train, test


out = sys.argv[1]
os.makedirs(out, exist_ok=True)
for name, make in (("sums", sums), ("notation", notation)):
    write_task(out, name, *split(random.Random(f"{SEED} {name}"), make))
rng = random.Random(f"{SEED} opposites")
write_task(out, "opposites", None, [opposites(rng, i) for i in range(200)])
if len(sys.argv) > 2:
    write_task(out, "irony", list(irony(sys.argv[2], "train")), list(irony(sys.argv[2], "test")))
