# SPDX-License-Identifier: Apache-2.0
"""Utterances for a model that learns to hear: bench/speech_data.py OUT [N_TRAIN] [N_TEST] [--small]

Digits, dates, commands and short sentences in English and German, spoken by espeak-ng with many voices,
speeds and pitches, noise of several strengths added. Writes OUT/wav, OUT/train.jsonl,
OUT/new_voices.jsonl (sentences that are trained, voices that are not), OUT/new_sentences.jsonl (the
other way round) and a task file beside each. --small: single English digits alone, for tests. Needs
espeak-ng and nothing else; the same numbers give the same files."""
import array, json, math, os, random, subprocess, sys, wave

args = [a for a in sys.argv[1:] if a != "--small"]
small = "--small" in sys.argv
out = args[0]
n_train, n_test = (int(args[i]) if len(args) > i else d for i, d in ((1, 3000), (2, 100)))

digits = {"en": "zero one two three four five six seven eight nine".split(),
          "de": "null eins zwei drei vier fünf sechs sieben acht neun".split()}
months = {"en": "January February March April May June July August September October November December".split(),
          "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split()}
ordinals = {"en": "first second third fourth fifth sixth seventh eighth ninth tenth".split(),
            "de": "erster zweiter dritter vierter fünfter sechster siebter achter neunter zehnter".split()}
commands = {"en": (["turn on", "turn off", "open", "close", "start", "stop"],
                   ["the light", "the door", "the window", "the radio", "the heating", "the lamp"]),
            "de": (["öffne", "schließe", "starte", "suche", "finde", "nimm"],
                   ["das Licht", "die Tür", "das Fenster", "das Radio", "die Heizung", "die Lampe"])}
sentences = {"en": (["the dog", "the child", "my friend", "the teacher"], ["sees", "hears", "loves", "takes"],
                    ["the house", "a book", "the water", "an apple"]),
             "de": (["der Hund", "das Kind", "mein Freund", "der Lehrer"], ["sieht", "hört", "liebt", "nimmt"],
                    ["das Haus", "ein Buch", "das Wasser", "einen Apfel"])}
voices = {"en": ["en-us", "en-gb", "en-us+f1", "en-gb+f2", "en-us+m1", "en-gb+m3", "en-us+f4", "en-gb+m5"],
          "de": ["de", "de+f1", "de+f2", "de+m1", "de+m3", "de+f4", "de+m5", "de+m7"]}
unheard = {"en": ["en-us+f3", "en-gb+m2", "en-us+m4"], "de": ["de+f3", "de+m2", "de+m4"]}


def sentence(r, lang):
    kind = r.randrange(4)
    if small:
        return digits["en"][r.randrange(10)]
    if kind == 0:
        return " ".join(r.choice(digits[lang]) for _ in range(r.randint(1, 4)))
    if kind == 1:
        return (f"{r.choice(months[lang])} the {r.choice(ordinals[lang])}" if lang == "en"
                else f"{r.choice(ordinals[lang])} {r.choice(months[lang])}")
    if kind == 2:
        return " ".join(r.choice(x) for x in commands[lang])
    return " ".join(r.choice(x) for x in sentences[lang])


def held_out(text):
    """An eighth of all sentences, by their letters, is never trained."""
    return not small and len(text.split()) > 1 and sum(ord(c) * (i + 1) for i, c in enumerate(text)) % 8 == 0


def speak(r, text, voice, path):
    subprocess.run(["espeak-ng", "-v", voice, "-s", str(r.randint(130, 200)), "-p", str(r.randint(25, 75)), "-w", path,
                    text], check=True)
    with wave.open(path) as w:
        params, x = w.getparams(), array.array("h", w.readframes(w.getnframes()))
    strength = 0 if r.random() < 0.3 else r.uniform(10, 300)
    for i in range(len(x)):
        x[i] = max(-32768, min(32767, round(x[i] + r.gauss(0, strength)))) if strength else x[i]
    with wave.open(path, "wb") as w:
        w.setparams(params)
        w.writeframes(x.tobytes())


def write(name, n, names, wanted, seed):
    r = random.Random(seed)
    with open(f"{out}/{name}.jsonl", "w") as f:
        while n > 0:
            lang = "en" if small or r.random() < 0.5 else "de"
            text = sentence(r, lang)
            if held_out(text) != wanted:
                continue
            n -= 1
            path = f"wav/{name}-{n}.wav"
            speak(r, text, r.choice(names[lang]), f"{out}/{path}")
            f.write(json.dumps({"audio": path, "text": text}, ensure_ascii=False) + "\n")


def task(name):
    with open(f"{out}/{name}.yaml", "w") as f:
        f.write(f"""task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_audio: audio
doc_to_text: ""
doc_to_target: text
generation_kwargs: {{until: ["\\n"], max_gen_toks: 24}}
metric_list:
- {{metric: wer, ignore_case: true, ignore_punctuation: true}}
- {{metric: cer, ignore_case: true, ignore_punctuation: true}}
""")


os.makedirs(f"{out}/wav", exist_ok=True)
write("train", n_train, voices, False, 1)
write("new_voices", n_test, unheard, False, 2)
task("new_voices")
if not small:
    write("new_sentences", n_test, voices, True, 3)
    task("new_sentences")
