/* SPDX-License-Identifier: Apache-2.0
 *
 * What every test program includes: cmocka, a context, the fixtures' home, temporary directories,
 * and running the kappa binary. */
#ifndef KAPPA_TESTS_SUPPORT_TEST_H
#define KAPPA_TESTS_SUPPORT_TEST_H

#include "base/arena.h"
#include "base/file.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Fails the test with the recorded message unless the call succeeds. Expects `ctx`. */
#define T_OK(call) t_ok(ctx, (call), #call, __FILE__, __LINE__)
void t_ok(struct ka_ctx *ctx, ka_status st, const char *what, const char *file, int line);

/* The call must fail with this code and a message containing `part`; clears the error. */
#define T_FAILS(call, code, part) t_fails(ctx, (call), code, part, #call, __FILE__, __LINE__)
void t_fails(struct ka_ctx *ctx, ka_status st, int code, const char *part, const char *what,
             const char *file, int line);

/* The fixtures' directory ($KAPPA_TEST_DATA, default ../shared/data), or NULL: then print
 * "skipped: no KAPPA_TEST_DATA" once and call skip(). T_DATA does both. */
const char *t_data_dir(void);
#define T_DATA(var)                                                                                \
  const char *var = t_data_dir();                                                                  \
  if (!var) {                                                                                      \
    print_message("skipped: no KAPPA_TEST_DATA\n");                                                \
    skip();                                                                                        \
  }

/* The back end that the tests of devices are about: $KAPPA_TEST_DEVICE, default "cpu". */
const char *t_device(void);

/* A fresh directory removed at exit; the path is static per call site count (never freed). */
const char *t_temp_dir(void);

/* printf into a string that lives until the program ends. */
const char *t_str(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Runs `$KAPPA_BIN ARGS` through the shell; stdout and stderr into out and err (may be NULL; freed
 * by the caller with ka_str_deinit). Returns the exit code. */
int t_kappa(struct ka_str *out, struct ka_str *err, const char *args_fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
