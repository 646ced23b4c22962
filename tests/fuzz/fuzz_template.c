/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a chat template over a small conversation, within tight limits. It must end with
 * valid text and ordered spans, or with a message that names a place. */
#include "python/jinja/jinja.h"

#include "base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char vars_json[] =
    "{\"i\":3,\"neg\":-7,\"f\":2.5,\"s\":\"Hello World\",\"u\":\"Gr\xc3\xbc\xc3\x9f\xce\xa3 "
    "\xf0\x9f"
    "\x99\x82\",\"n\":null,\"t\":true,\"l\":[3,1,2],\"ls\":[\"b\",\"A\"],\"d\":{\"k\":1,\"b\":"
    "\"v\"},"
    "\"lm\":[{\"a\":1,\"b\":\"x\"},{\"a\":2,\"b\":\"y\"}],\"bos_token\":\"<s>\","
    "\"add_generation_prompt\":true,\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
    "{\"role\":\"user\",\"content\":\" Hi \"},{\"role\":\"assistant\",\"content\":\"Yo\","
    "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1,null]}}}]}]}";

static void render(struct ka_ctx *ctx, const struct ka_jinja *t, const json_t *vars) {
  static const struct tm day = {.tm_year = 124, .tm_mon = 6, .tm_mday = 26};
  const struct ka_jinja_options opts = {
      .now = &day,
      .limits = {.max_steps = 20000, .max_out_bytes = 1 << 16, .max_total_bytes = 8 << 20}};
  struct ka_str out = {0};
  struct ka_jinja_spans spans = {0};
  ka_status st = ka_jinja_render(ctx, t, vars, &opts, &out, &spans);
  if (ka_ok(st)) {
    size_t at = 0;
    if (out.len > 1 << 16 || ka_utf8_check(out.data, out.len) != out.len) abort();
    for (int64_t i = 0; i < spans.n; i++) {
      if (spans.at[i].begin < at || spans.at[i].end < spans.at[i].begin) abort();
      at = spans.at[i].end;
    }
    if (at > out.len) abort();
  } else if (st.code != KA_E_INPUT && st.code != KA_E_UNSUPPORTED) {
    fprintf(stderr, "%s\n", ctx->error.message);
    abort();
  }
  ka_free(spans.at);
  ka_str_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_jinja *t;
  json_t *vars;
  ka_ctx_init(&ctx);
  if (!ka_ok(ka_json_parse(&ctx, vars_json, sizeof vars_json - 1, "vars", &vars))) abort();
  for (int dialect = KA_JINJA_CHAT; dialect <= KA_JINJA_TASK; dialect++) {
    ka_status st =
        ka_jinja_parse(&ctx, &t, (enum ka_jinja_dialect)dialect, "t", (const char *)data, n);
    if (ka_ok(st))
      render(&ctx, t, vars);
    else if (st.code != KA_E_INPUT || strncmp(ctx.error.message, "t:", 2) != 0)
      abort();
    ka_jinja_destroy(t);
    ka_error_clear(&ctx);
  }
  json_decref(vars);
  return 0;
}
