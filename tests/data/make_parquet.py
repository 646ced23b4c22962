# SPDX-License-Identifier: Apache-2.0
# Writes tests/data/parquet/: small Parquet files of pyarrow, polars and DuckDB, and the rows they
# hold as JSON lines (without nulls in objects, as parquet.h says): NAME.jsonl where there is one,
# else flat.jsonl for encoding_* and rows.jsonl for all others.
#   pip install pyarrow polars duckdb; python tests/data/make_parquet.py [OUT [ROWS]]
import json, math, os, random, sys
import pyarrow as pa, pyarrow.parquet as pq
import polars as pl, duckdb

out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "parquet")
rows = int(sys.argv[2]) if len(sys.argv) > 2 else 40
os.makedirs(out, exist_ok=True)
rng = random.Random(1)
words = ["hello", "world", "Wörter", "日本", "\"quoted\"", "tab\tand\nline", "back\\slash", "\u0001", "🙂", ""]

def text(n=6): return " ".join(rng.choice(words) for _ in range(rng.randrange(n)))
def message(i):
    m = {"role": ["system", "user", "assistant"][i % 3], "content": text()}
    if rng.random() < .3:
        m["tool_calls"] = [{"name": "f", "arguments": {"x": rng.randrange(9)}} for _ in range(rng.randrange(3))]
    if rng.random() < .2: m["train"] = rng.random() < .5
    return m
def row(i):
    r = {"id": i, "text": text(20), "messages": [message(k) for k in range(rng.randrange(5))],
         "score": rng.choice([0.5, -1e30, 3.25, float(i)]), "good": rng.random() < .5,
         "ids": [rng.randrange(-5, 1 << 40) for _ in range(rng.randrange(4))],
         "nested": [[text(2) for _ in range(rng.randrange(3))] for _ in range(rng.randrange(3))],
         "info": {"source": "same", "n": {"deep": rng.randrange(3)}}}
    for k in ("text", "messages", "score", "good", "ids", "nested", "info"):
        if rng.random() < .15: r[k] = None
    if r["nested"] and rng.random() < .3: r["nested"][0] = None
    return r
data = [row(i) for i in range(rows)]

schema = pa.schema([
    ("id", pa.int32()), ("text", pa.string()),
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()),
        ("tool_calls", pa.list_(pa.struct([("name", pa.string()), ("arguments", pa.struct([("x", pa.int64())]))]))),
        ("train", pa.bool_())]))),
    ("score", pa.float64()), ("good", pa.bool_()), ("ids", pa.list_(pa.int64())),
    ("nested", pa.list_(pa.list_(pa.string()))),
    ("info", pa.struct([("source", pa.string()), ("n", pa.struct([("deep", pa.int8())]))]))])
table = pa.Table.from_pylist(data, schema=schema)

def bare(v):  # what the reader gives
    if isinstance(v, dict): return {k: bare(x) for k, x in v.items() if x is not None and not (isinstance(x, float) and not math.isfinite(x))}
    if isinstance(v, list): return [bare(x) for x in v]
    return v
def golden(name, rows):
    with open(f"{out}/{name}.jsonl", "w") as f:
        for r in rows: f.write(json.dumps(bare(r), ensure_ascii=False) + "\n")
def arrow(name, t=table, **k): pq.write_table(t, f"{out}/{name}.parquet", **k)
golden("rows", data)

for codec in ("none", "snappy", "gzip", "brotli", "zstd", "lz4"):
    arrow("codec_" + codec, compression=codec, row_group_size=max(1, rows * 3 // 8))
arrow("version_2", data_page_version="2.0", compression="zstd", version="2.6", data_page_size=256)
arrow("version_2_plain", data_page_version="2.0", compression="none", use_dictionary=False)
arrow("pages", data_page_size=64, write_batch_size=3, use_dictionary=["text"], dictionary_pagesize_limit=64)
flat = pa.table({"i": pa.array([rng.randrange(-1 << 40, 1 << 40) if i % 7 else None for i in range(300)], pa.int64()),
                 "j": pa.array([i * 3 - 7 for i in range(300)], pa.int32()),
                 "u": pa.array([(1 << 32) - 1 - i for i in range(300)], pa.uint32()),
                 "d": pa.array([i / 8 for i in range(300)], pa.float64()),
                 "f": pa.array([i / 4 if i % 9 else None for i in range(300)], pa.float32()),
                 "s": pa.array([f"prefix {i // 9} {text(3)}" if i % 11 else None for i in range(300)]),
                 "b": pa.array([i % 3 == 0 if i % 5 else None for i in range(300)])})
golden("flat", flat.to_pylist())
for name, e in {"delta": {"i": "DELTA_BINARY_PACKED", "j": "DELTA_BINARY_PACKED", "s": "DELTA_BYTE_ARRAY", "b": "RLE"},
                "delta_length": {"s": "DELTA_LENGTH_BYTE_ARRAY", "u": "DELTA_BINARY_PACKED"},
                "split": {"d": "BYTE_STREAM_SPLIT", "f": "BYTE_STREAM_SPLIT", "i": "BYTE_STREAM_SPLIT", "u": "BYTE_STREAM_SPLIT"}}.items():
    arrow("encoding_" + name, flat, use_dictionary=False, column_encoding=e, data_page_size=700)
arrow("empty", table.slice(0, 0))
golden("empty", [])
arrow("old_lists", use_compliant_nested_type=False)
# Things without a word in JSON, beside a text.
import datetime, decimal
odd = pa.table({"text": ["a", "b"], "when": [datetime.datetime(2024, 1, 2), None], "price": [decimal.Decimal("1.25"), None],
                "day": [datetime.date(2024, 1, 2)] * 2, "image": [{"bytes": b"\xff\x00", "path": "x.png"}, {"bytes": None, "path": "y"}],
                "raw": [b"bytes that are text", b"\xfe"], "nan": [float("nan"), 1.5]})
pq.write_table(odd, f"{out}/odd.parquet")
golden("odd", [{"text": "a", "image": {"path": "x.png"}, "raw": "bytes that are text"}, {"text": "b", "image": {"path": "y"}, "nan": 1.5}])
maps = pa.table({"m": pa.array([[("k", 1), ("l", 2)], [], None], pa.map_(pa.string(), pa.int64()))})
arrow("map", maps)
golden("map", [{"m": {"k": 1, "l": 2}}, {"m": {}}, {}])

frame = pl.from_arrow(table)
for name, k in {"polars": {}, "polars_small": dict(data_page_size=200, row_group_size=7, compression="snappy"), "polars_none": dict(compression="uncompressed")}.items():
    frame.write_parquet(f"{out}/{name}.parquet", **k)
con = duckdb.connect()
con.register("t", table)
for name, k in {"duckdb": "", "duckdb_v2": ", parquet_version v2", "duckdb_gzip": ", compression gzip, row_group_size 2048", "duckdb_lz4": ", compression lz4_raw"}.items():
    con.execute(f"copy t to '{out}/{name}.parquet' (format parquet{k})")
