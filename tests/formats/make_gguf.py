#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goldens of test_gguf.c by the public gguf package: a small file, and blocks of Q8_0 with what it
makes of them.

  tests/formats/make_gguf.py        # writes tests/formats/gguf
"""
import pathlib

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent / "gguf"


def small():
    w = gguf.GGUFWriter(HERE / "small.gguf", "llama")
    w.add_uint32("llama.block_count", 3)
    w.add_float32("llama.rope.freq_base", 10000.5)
    w.add_bool("tokenizer.ggml.add_bos_token", True)
    w.add_array("tokenizer.ggml.tokens", ["a", "", "\u00fc\u4e2d"])
    w.add_array("tokenizer.ggml.token_type", [1, 3, 6])
    w.add_array("tokenizer.ggml.scores", [0.5, -1.0, 2.25])
    w.add_tensor("odd", np.arange(15, dtype=np.float32).reshape(3, 5))
    q = gguf.GGMLQuantizationType
    rows = (np.arange(128, dtype=np.float32).reshape(2, 2, 32) - 40) / 7
    w.add_tensor("blocks", gguf.quants.quantize(rows, q.Q8_0), raw_dtype=q.Q8_0)
    w.add_tensor("halves", gguf.quants.quantize(rows[0, :, :7].copy(), q.BF16), raw_dtype=q.BF16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def blocks():
    rng = np.random.default_rng(5)
    rows = [rng.standard_normal(32) * 10.0 ** e for e in (-9, -5, -2, 0, 3, 6)]
    rows += [np.zeros(32), np.arange(32) * 127 / 31, (np.arange(32) - 16) / 2 + 0.25,
             np.where(np.arange(32) == 3, 1e-30, 0), np.where(np.arange(32) % 2, 63.5, 127)]
    v = np.array(rows, dtype=np.float32)
    v.tofile(HERE / "values.f32")
    gguf.quants.quantize(v, gguf.GGMLQuantizationType.Q8_0).tofile(HERE / "values.q8_0")


HERE.mkdir(exist_ok=True)
small()
blocks()
