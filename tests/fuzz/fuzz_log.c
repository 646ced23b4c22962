/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a train_log.jsonl: read, then cut behind a step and gone on with, as a resumed run
 * does; what is left must be readable, with the row behind it. */
#include "engine/report/jsonl.h"
#include "tests/fuzz/scratch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_jsonl log = {0};
  json_t *rows = NULL;
  fuzz_ctx(&ctx);
  const char *path = fuzz_file(&ctx, "train_log.jsonl", data, n);
  fuzz_expect(&ctx, ka_jsonl_read(&ctx, path, &rows));
  json_decref(rows);
  rows = NULL;
  ka_status st = ka_jsonl_open(&ctx, &log, path, 3);
  if (ka_ok(st)) {
    fuzz_must(ka_jsonl_row(&ctx, &log, json_pack("{s:i}", "step", 4)));
    ka_jsonl_close(&log);
    fuzz_must(ka_jsonl_read(&ctx, path, &rows));
    if (json_array_size(rows) == 0) abort();
    json_decref(rows);
  }
  fuzz_expect(&ctx, st);
  return 0;
}
