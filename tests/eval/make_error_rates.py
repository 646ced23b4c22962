# SPDX-License-Identifier: Apache-2.0
"""Makes error_rates.json: pairs of texts and their rates by jiwer (pip install jiwer), with its default
transformations: words between blanks, characters with the blanks at both ends left out."""
import json, os, random
import jiwer

pairs = [("one two three", "one two three"), ("one two three", "one three"), ("one two three", ""),
         ("one two three", "one too three four"), ("a", "b"), ("a b c d", "d c b a"), ("öffne die Tür", "öffne die Tur"),
         ("January the first", "january the First"), ("  spaced   out ", "spaced out"), ("Ω ß 漢字", "Ω ss 漢"),
         ("null eins", "null eins zwei drei vier"), ("don't stop", "dont stop")]
r = random.Random(5)
words = "der die das Haus Hund one two öffne Tür the light".split()
for _ in range(40):
    right = [r.choice(words) for _ in range(r.randint(1, 9))]
    answer = [w for w in right if r.random() > 0.2]
    for _ in range(r.randint(0, 3)):
        answer.insert(r.randint(0, len(answer)), r.choice(words))
    pairs.append((" ".join(right), " ".join(answer)))
rows = [{"right": a, "answer": b, "wer": jiwer.wer(a, b), "cer": jiwer.cer(a, b)} for a, b in pairs]
rights, answers = [a for a, _ in pairs], [b for _, b in pairs]
out = {"jiwer": jiwer.__name__, "pairs": rows, "wer": jiwer.wer(rights, answers), "cer": jiwer.cer(rights, answers)}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "error_rates.json"), "w") as f:
    json.dump(out, f, ensure_ascii=False, indent=0)
print(out["wer"], out["cer"])
