/* SPDX-License-Identifier: Apache-2.0
 * Writes the byte-level tokenizer.json that needs no training: every byte is a token. */
#include "base/file.h"
#include "base/json.h"
#include "tokenizer/bpe.h"

#include <string.h>

static ka_status write_special(struct ka_ctx *ctx, struct ka_str *s, const char *const *special,
                               int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    KA_TRY(ka_str_printf(ctx, s, "%s\n  {\"id\": %lld, \"content\": ", i ? "," : "",
                         (long long)(256 + i)));
    KA_TRY(ka_json_quote(ctx, s, special[i], strlen(special[i])));
    KA_TRY(ka_str_puts(ctx, s,
                       ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                       "\"normalized\": false, \"special\": true}"));
  }
  return KA_STATUS_OK;
}

static ka_status write_all(struct ka_ctx *ctx, struct ka_str *s, const char *const *special,
                           int64_t n_special) {
  static const char options[] = "\"add_prefix_space\": false, \"trim_offsets\": true, "
                                "\"use_regex\": ";
  KA_TRY(ka_str_puts(ctx, s,
                     "{\n \"version\": \"1.0\",\n \"truncation\": null,\n"
                     " \"padding\": null,\n \"added_tokens\": ["));
  KA_TRY(write_special(ctx, s, special, n_special));
  KA_TRY(
      ka_str_printf(ctx, s,
                    "\n ],\n \"normalizer\": null,\n"
                    " \"pre_tokenizer\": {\"type\": \"ByteLevel\", %strue},\n"
                    " \"post_processor\": null,\n"
                    " \"decoder\": {\"type\": \"ByteLevel\", %strue},\n"
                    " \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null,\n"
                    "  \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null,\n"
                    "  \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false,\n"
                    "  \"vocab\": {",
                    options, options));
  for (int i = 0; i < 256; i++) {
    char c[4];
    int n = ka_utf8_encode(ka_tok_byte_char((unsigned char)i), c);
    KA_TRY(ka_str_puts(ctx, s, i ? ", " : ""));
    KA_TRY(ka_json_quote(ctx, s, c, (size_t)n));
    KA_TRY(ka_str_printf(ctx, s, ": %d", i));
  }
  for (int64_t i = 0; i < n_special; i++) {
    KA_TRY(ka_str_puts(ctx, s, ", "));
    KA_TRY(ka_json_quote(ctx, s, special[i], strlen(special[i])));
    KA_TRY(ka_str_printf(ctx, s, ": %lld", (long long)(256 + i)));
  }
  return ka_str_puts(ctx, s, "},\n  \"merges\": []}\n}\n");
}

ka_status ka_tokenizer_write_byte_level(struct ka_ctx *ctx, const char *path,
                                        const char *const *special, int64_t n_special) {
  struct ka_str s = {0};
  ka_status st = write_all(ctx, &s, special, n_special);
  if (st.code == KA_OK) st = ka_write_file(ctx, path, s.data, s.len);
  ka_str_deinit(&s);
  return st;
}
