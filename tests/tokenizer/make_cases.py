#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes cases.jsonl: small tokenizers, one for each part and option, and what the `tokenizers`
library (0.23.3) makes of the same texts. Run it when a part is added: make_cases.py > cases.jsonl"""
import json
import sys

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders as D, models, normalizers as N, pre_tokenizers as P
from tokenizers import processors as PP

TEXTS = [
    "", " ", "Hello world", "  two  spaces ", "don't I'LL they'Ve 'ſ", "a\tb\n\nc\r\n d", "été Å ﬁ ½ x̣̂",
    "中文字 한글 日本", "👨‍👩‍👧 👍🏽", "12345 ٣٤ Ⅷ 3.14", "\x00\x01\x7f\u200b\ufeff", "▁x ▁▁ <s>foo</s> <s> ",
    "food a foo.foo  [X]  [X]", "IİǅΣς Straße", "the the thethe", "!?—…「x」$+", "<0x41>", "\u3000\u2003\u00a0end",
]
CHARS = sorted(set("abcdefghilmnoprstuwxyzABEHILTVX '.,!?<>/[]0123456789▁ĠéÃ©中ſ\n\t") | set("½ﬁΣς"))
PAIRS = [("t", "h"), ("th", "e"), ("h", "e"), ("he", "l"), ("o", "o"), ("f", "oo"), ("▁", "t"),
         ("▁t", "he"), ("Ġ", "t"), ("Ġt", "he"), (" ", "t"), ("l", "l"), ("▁", "▁"), ("Ã", "©"),
         ("1", "2"), ("Ġ", "w"), ("o", "r"), (" ", " ")]


def model(prefix=None, suffix=None, bytes_=False, chars=CHARS, drop_bytes=(), **kw):
    vocab = {}
    add = lambda s: vocab.setdefault(s, len(vocab))
    if kw.get("unk_token"):
        add(kw["unk_token"])
    if bytes_:
        for i in range(256):
            if i not in drop_bytes:
                add("<0x%02X>" % i)
    for c in chars:
        add(c)
        if prefix:
            add(prefix + c)
        if suffix:
            add(c + suffix)
        if prefix and suffix:
            add(prefix + c + suffix)
    merges = []
    for a, b in PAIRS:
        if prefix:
            b = prefix + b
        if a in vocab and b in vocab:
            add(a + b[len(prefix or ""):])
            merges.append((a, b))
    if prefix:
        kw["continuing_subword_prefix"] = prefix
    if suffix:
        kw["end_of_word_suffix"] = suffix
    return models.BPE(vocab, merges, **kw)


BYTES = dict(chars=sorted(P.ByteLevel.alphabet()))
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
BEHAVIORS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
REGEXES = [
    GPT2, CL100K, CL100K.replace("{1,3}", ""),
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
    r"|\s+(?!\S)|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}"
    r"\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\b", r"x*", r"\h+", r"[^\S\n]+", r"^.", r"o$", r"[[:alpha:]]+", r"\w+|[^\w\s]+", r"\p{Han}+",
    r"[\p{L}&&[^\p{Han}]]+", r"\p{^L}+", r"(\w)\1", r"(?=[A-Z])", r".{3}", r"\u00e9|\x{df}", r"a|ab",
    r"\d{1,2}+", r"l{2}|o{,2}d|t{1,}|w{|s{2,}+", r"(?m:e.)", r" ?[^(\s|[.,!?…。，、।۔،])]+", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+|\s+$",
]


def cases():
    for form in (N.NFC(), N.NFD(), N.NFKC(), N.NFKD(), N.Lowercase(), N.StripAccents(), N.Nmt(),
                 N.BertNormalizer(), N.BertNormalizer(False, False, False, True), N.Prepend("▁"),
                 N.Replace(" ", "▁"), N.Replace(Regex(r"\s+"), "_"), N.Replace(Regex("[aeo]"), ""),
                 N.Replace("", "x"), N.Strip(True, False), N.Strip(False, True), N.Strip(True, True),
                 N.ByteLevel(), N.Sequence([]),
                 N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁"), N.NFKC()])):
        yield dict(model=model(unk_token="<unk>", bytes_=True, byte_fallback=True), norm=form)
    for behavior in BEHAVIORS:
        for invert in (False, True):
            yield dict(model=model(), pre=P.Split(Regex(r"\s+"), behavior, invert))
            yield dict(model=model(), pre=P.Split("o", behavior, invert))
        yield dict(model=model(), pre=P.Punctuation(behavior))
    for rx in REGEXES:
        yield dict(model=model(unk_token="<unk>"), pre=P.Split(Regex(rx), "isolated"))
        yield dict(model=model(**BYTES), dec=D.ByteLevel(), pre=P.Sequence(
            [P.Split(Regex(rx), "removed", True), P.ByteLevel(False, use_regex=False)]))
    for prefix in (False, True):
        for regex in (False, True):
            yield dict(model=model(**BYTES), dec=D.ByteLevel(),
                       pre=P.ByteLevel(prefix, use_regex=regex))
    for scheme in ("first", "always", "never"):
        for split in (False, True):
            yield dict(model=model(unk_token="<unk>", fuse_unk=True), pre=P.Metaspace("▁", scheme, split),
                       dec=D.Metaspace("▁", scheme), added=[AddedToken("<s>", normalized=False)])
    for pre in (P.Digits(True), P.Digits(False), P.Whitespace(), P.WhitespaceSplit(),
                P.BertPreTokenizer(), P.CharDelimiterSplit("o"), P.FixedLength(3),
                P.Sequence([P.ByteLevel(True, use_regex=False), P.Split("o", "isolated")]),
                P.Sequence([P.Digits(True), P.Punctuation("isolated"), P.ByteLevel(False)])):
        yield dict(model=model(unk_token="<unk>"), pre=pre)
    for unk in (None, "<unk>"):
        for fuse in (False, True):
            for bytes_ in (None, (), (0xC3, 0xE4)):
                kw = {"unk_token": unk} if unk else {}
                yield dict(model=model(bytes_=bytes_ is not None, drop_bytes=bytes_ or (),
                                       byte_fallback=bytes_ is not None, fuse_unk=fuse, **kw),
                           dec=D.ByteFallback())
    yield dict(model=model(prefix="##", unk_token="<unk>"), pre=P.Whitespace(), dec=D.WordPiece("##", True))
    yield dict(model=model(suffix="</w>", unk_token="<unk>"), pre=P.Whitespace(), dec=D.BPEDecoder("</w>"))
    yield dict(model=model(prefix="##", suffix="</w>"), pre=P.ByteLevel(False))
    yield dict(model=model(ignore_merges=True), pre=P.Whitespace())
    yield dict(model=model(ignore_merges=True, **BYTES), pre=P.ByteLevel(False), dec=D.ByteLevel())
    for lstrip in (False, True):
        for rstrip in (False, True):
            for word in (False, True):
                for normalized in (False, True):
                    flags = dict(lstrip=lstrip, rstrip=rstrip, single_word=word, normalized=normalized)
                    yield dict(model=model(), norm=N.Lowercase(), added=[
                        AddedToken(c, **flags) for c in ("foo", "[X]", "<s>", "  ", "food", "中")])
    yield dict(model=model(), norm=N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]), special=[
        AddedToken(c, normalized=True) for c in ("<s>", "</s>")])
    for dec in (D.Replace("o", "0"), D.Replace(Regex("[a-e]+"), ""), D.Fuse(), D.Strip("H", 1, 0),
                D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)]),
                D.WordPiece("h", False)):
        yield dict(model=model(bytes_=True, byte_fallback=True), dec=dec)
    for post in (PP.TemplateProcessing(single="S $A", special_tokens=[("S", 1)]),
                 PP.TemplateProcessing(single="S $A S S", special_tokens=[("S", 2)]),
                 PP.RobertaProcessing(("s", 3), ("c", 4)), PP.BertProcessing(("s", 3), ("c", 4)),
                 PP.Sequence([PP.ByteLevel(), PP.TemplateProcessing(single="S $A T", special_tokens=[
                     ("S", 1), ("T", 2)])])):
        yield dict(model=model(), post=post, special=["a", "b"])


def encode(t, text):
    """[ids, ids_plain, decoded, decoded_skip], or None where the library itself panics."""
    try:
        ids, plain = t.encode(text).ids, t.encode(text, add_special_tokens=False).ids
    except BaseException:  # pyo3's PanicException is not an Exception
        return None
    return [ids, plain, t.decode(plain, skip_special_tokens=False) if plain else "",
            t.decode(ids) if ids else ""]


def main():
    models_, lines = [], []
    for case in cases():
        t = Tokenizer(case["model"])
        for field, value in (("normalizer", "norm"), ("pre_tokenizer", "pre"), ("decoder", "dec"),
                             ("post_processor", "post")):
            if value in case:
                setattr(t, field, case[value])
        t.add_tokens(case.get("added", []))
        t.add_special_tokens(case.get("special", []))
        t = Tokenizer.from_str(t.to_str())
        tokenizer = json.loads(t.to_str())
        body = tokenizer.pop("model")
        if body not in models_:
            models_.append(body)
        lines.append({"tokenizer": tokenizer, "model": models_.index(body),
                      "rows": [encode(t, text) for text in TEXTS]})
    for line in [{"texts": TEXTS, "models": models_}] + lines:
        print(json.dumps(line, separators=(",", ":")))


main()
