/* SPDX-License-Identifier: Apache-2.0
 * Test helpers; see test.h. */
#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

void t_ok(struct ka_ctx *ctx, ka_status st, const char *what, const char *file, int line) {
  if (ka_ok(st)) return;
  print_error("%s:%d: %s\n  %s: %s\n", file, line, what, ka_code_text(st.code), ctx->error.message);
  for (int i = 0; i < ctx->error.n_trace; i++)
    print_error("  at %s:%d\n", ctx->error.trace[i].file, ctx->error.trace[i].line);
  _fail(file, line);
}

void t_fails(struct ka_ctx *ctx, ka_status st, int code, const char *part, const char *what,
             const char *file, int line) {
  bool good = st.code == code && strstr(ctx->error.message, part) != NULL;
  if (!good) {
    print_error("%s:%d: %s\n  got code %d \"%s\"\n  expected %d with \"%s\"\n", file, line, what,
                st.code, ctx->error.message, code, part);
    _fail(file, line);
  }
  ka_error_clear(ctx);
}

const char *t_data_dir(void) {
  const char *dir = getenv("KAPPA_TEST_DATA");
  if (!dir || !*dir) dir = "../shared/data";
  return ka_path_is_dir(dir) ? dir : NULL;
}

const char *t_str(const char *fmt, ...) {
  char *s = NULL;
  va_list args;
  va_start(args, fmt);
  if (vasprintf(&s, fmt, args) < 0) abort();
  va_end(args);
  static char *kept[4096];
  static int n;
  free(kept[n % 4096]);
  return kept[n++ % 4096] = s;
}

static char temp_root[64];

static void remove_temp(void) {
  struct ka_ctx ctx;
  ka_ctx_init(&ctx);
  (void)ka_remove_tree(&ctx, temp_root);
}

const char *t_temp_dir(void) {
  static char **paths; /* all of them, for as long as the process runs */
  static size_t n;
  if (!temp_root[0]) {
    snprintf(temp_root, sizeof temp_root, "/tmp/kappa-test-XXXXXX");
    if (!mkdtemp(temp_root)) abort();
    atexit(remove_temp);
  }
  struct ka_ctx ctx;
  ka_ctx_init(&ctx);
  char **more = realloc(paths, (n + 1) * sizeof *paths);
  if (!more || asprintf(&more[n], "%s/%zu", temp_root, n) < 0) abort();
  paths = more;
  if (!ka_ok(ka_make_dirs(&ctx, paths[n]))) abort();
  return paths[n++];
}

int t_kappa(struct ka_str *out, struct ka_str *err, const char *args_fmt, ...) {
  struct ka_ctx context, *ctx = &context;
  ka_ctx_init(ctx);
  char args[4096];
  va_list ap;
  va_start(ap, args_fmt);
  int n = vsnprintf(args, sizeof args, args_fmt, ap);
  va_end(ap);
  assert_true(n >= 0 && (size_t)n < sizeof args);
  const char *bin = getenv("KAPPA_BIN"), *dir = t_temp_dir();
  const char *out_path = t_str("%s/stdout", dir), *err_path = t_str("%s/stderr", dir);
  int rc = system(
      t_str("%s %s >%s 2>%s </dev/null", bin ? bin : "build/kappa", args, out_path, err_path));
  if (out) T_OK(ka_read_file(ctx, out_path, 0, out));
  if (err) T_OK(ka_read_file(ctx, err_path, 0, err));
  return WIFEXITED(rc) ? WEXITSTATUS(rc) : 128 + WTERMSIG(rc);
}

const char *t_device(void) {
  const char *name = getenv("KAPPA_TEST_DEVICE");
  return name && *name ? name : "cpu";
}
