/* SPDX-License-Identifier: Apache-2.0
 *
 * libFuzzer target: any bytes as a tokenizer.json. What opens must encode a few texts to ids of its
 * vocabulary, with spans inside the text, and decode them to valid UTF-8. Build: -DKAPPA_FUZZ=ON
 * with clang; run: build/tests/fuzz_tokenizer tests/fuzz/corpus/tokenizer. */
#include "tokenizer/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MUST(x)                                                                                    \
  do {                                                                                             \
    if (!(x)) {                                                                                    \
      fprintf(stderr, "failed: %s\n", #x);                                                         \
      abort();                                                                                     \
    }                                                                                              \
  } while (0)

static const char *const texts[] = {
    "",
    "Hello  world's\r\n <s>foo</s> 12345",
    "\xC3\xA9t\x65\xCC\x81 \xE4\xB8\xAD\xE6\x96\x87 "
    "\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9\x01\x7F",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa          x",
};

static void use(struct ka_ctx *ctx, const struct ka_tokenizer *t, const char *text) {
  struct ka_tok_tokens out = {.want_spans = true};
  struct ka_str back = {0};
  size_t n = strlen(text);
  if (ka_ok(ka_tokenizer_encode(ctx, t, text, n, true, &out))) {
    for (int64_t i = 0; i < out.n; i++) {
      MUST(out.ids[i] >= 0);
      MUST(out.spans[i].begin >= 0 && out.spans[i].begin <= out.spans[i].end);
      MUST(out.spans[i].end <= (int64_t)n);
    }
    if (ka_ok(ka_tokenizer_decode(ctx, t, out.ids, out.n, true, &back)))
      MUST(ka_utf8_check(back.data, back.len) == back.len);
  }
  ka_error_clear(ctx);
  ka_tok_tokens_deinit(&out);
  ka_str_deinit(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx context, *ctx = &context;
  struct ka_tokenizer *t;
  char path[64];
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  int fd = memfd_create("tokenizer.json", MFD_CLOEXEC);
  MUST(fd >= 0 && write(fd, data, n) == (ssize_t)n);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (ka_ok(ka_tokenizer_open(ctx, &t, path)))
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) use(ctx, t, texts[i]);
  else
    MUST(ctx->error.message[0]);
  ka_tokenizer_close(t);
  close(fd);
  return 0;
}
