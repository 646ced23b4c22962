/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a Parquet file: rows, each a line of JSON, or an error. */
#include "base/json.h"
#include "engine/data/parquet.h"

#include <stdlib.h>

enum { MAX_OUT = 4 << 20, MAX_ROWS = 20000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_parquet *p;
  struct ka_str out = {0};
  const struct ka_map m = {data, n};
  bool end = false;
  ka_ctx_init(&ctx);
  ctx.log_level = KA_LOG_QUIET;
  ka_status st = ka_parquet_open(&ctx, &p, "x", &m);
  size_t total = 0;
  for (int i = 0; i < MAX_ROWS && total < MAX_OUT && ka_ok(st) && !end; i++) {
    ka_str_clear(&out);
    st = ka_parquet_next(&ctx, p, &out, &end);
    if (!ka_ok(st) || end) break;
    total += out.len;
    json_error_t e;
    json_t *row = json_loadb(out.data, out.len, 0, &e);
    int code = row ? 0 : (int)json_error_code(&e);
    /* Text that is not UTF-8, and two columns of one name, are for the row's reader to refuse. */
    if (!row && code != json_error_invalid_utf8 && code != json_error_null_character &&
        code != json_error_null_byte_in_key && code != json_error_stack_overflow &&
        code != json_error_numeric_overflow)
      abort();
    json_decref(row);
  }
  if (!ka_ok(st) && st.code != KA_E_INPUT && st.code != KA_E_UNSUPPORTED && st.code != KA_E_MEMORY)
    abort();
  ka_str_deinit(&out);
  ka_parquet_close(p);
  return 0;
}
