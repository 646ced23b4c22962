/* SPDX-License-Identifier: Apache-2.0
 * See pattern.h. */
#include "base/pattern.h"

#include <stdatomic.h>
#include <stdlib.h>

static atomic_llong fail_at;
static atomic_bool failed;

static void *take(size_t n, void *user) {
  (void)user;
  bool fail = atomic_load(&fail_at) > 0 && atomic_fetch_sub(&fail_at, 1) == 1;
  if (fail) atomic_store(&failed, true);
  return fail ? NULL : malloc(n);
}

static void give(void *p, void *user) {
  (void)user;
  free(p);
}

pcre2_general_context *ka_pattern_memory(void) {
  return pcre2_general_context_create(take, give, NULL);
}

int ka_pattern_match_code(int rc) { return rc == PCRE2_ERROR_NOMEMORY ? KA_E_MEMORY : KA_E_INPUT; }

void ka_pattern_fail_at(int64_t n) {
  atomic_store(&failed, false);
  atomic_store(&fail_at, n);
}

bool ka_pattern_failed(void) { return atomic_load(&failed); }

ka_status ka_pattern_compile(struct ka_ctx *ctx, pcre2_code **out, const char *text, size_t n,
                             uint32_t options, struct ka_pattern_error *error) {
  int code = PCRE2_ERROR_HEAP_FAILED;
  pcre2_general_context *memory = ka_pattern_memory();
  pcre2_compile_context *context = memory ? pcre2_compile_context_create(memory) : NULL;
  *error = (struct ka_pattern_error){0};
  *out = NULL;
  if (context) {
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    *out = pcre2_compile((PCRE2_SPTR)text, n, options, &code, &error->at, context);
  }
  pcre2_compile_context_free(context);
  pcre2_general_context_free(memory);
  if (*out) return KA_STATUS_OK;
  if (code == PCRE2_ERROR_HEAP_FAILED)
    return ka_fail(ctx, KA_E_MEMORY, "pattern \"%.80s\": out of memory", text);
  pcre2_get_error_message(code, (PCRE2_UCHAR *)error->why, sizeof error->why);
  return KA_STATUS_OK;
}
