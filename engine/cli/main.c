/* SPDX-License-Identifier: Apache-2.0
 * Entry point: signals, the context, one error line, the exit code. */
#include "base/json.h"
#include "base/log.h"
#include "base/threads.h"
#include "engine/cli/cli.h"

#include <dlfcn.h>
#include <locale.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile int interrupted;

/* The first SIGINT, SIGTERM or SIGHUP asks for a clean stop (long commands save and exit 4); the
 * second is the system's default. */
static void on_signal(int sig) {
  interrupted = sig;
  signal(sig, SIG_DFL);
}

static bool returned;

/* exit() by anybody but main: a library that had no memory or no threads left (libgomp, OpenBLAS).
 * It has said what it missed, with a status of its own that means something else here. */
static void on_exit_elsewhere(void) {
  if (returned) return;
  fprintf(stderr, "kappa: a library ended the program: memory or threads are exhausted\n");
  _exit(ka_exit_code(KA_E_MEMORY));
}

/* The same by an exception that nobody took, std::bad_alloc as a rule: what C++ libraries (oneDNN)
 * throw goes through C, where nothing catches. */
static void on_terminate(void) {
  fprintf(stderr,
          "kappa: a library ended the program by an exception: memory is exhausted, or else "
          "this is an internal error, please report\n");
  _exit(ka_exit_code(KA_E_MEMORY));
}

/* std::set_terminate by its name in the ABI: no C++ here, and no library of its where none is. */
static void watch_exceptions(void) {
  void (*(*set_terminate)(void (*)(void)))(void);
  *(void **)&set_terminate = dlsym(RTLD_DEFAULT, "_ZSt13set_terminatePFvvE");
  if (set_terminate) set_terminate(on_terminate);
}

int main(int argc, char **argv) {
#ifdef M_MMAP_THRESHOLD
  /* Fixed: else glibc raises it with every large block that is freed, keeps later ones in the heap,
   * and the peak is what fragments rather than what kappa plan counts. */
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
  ka_threads_environment(argv);
  atexit(on_exit_elsewhere);
  watch_exceptions();
  setlocale(LC_ALL, "C");
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGHUP, &action, NULL);
  signal(SIGCHLD, SIG_DFL); /* ignored by some parents; then nobody could be waited for */
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN); /* a file beyond the limit is a failed write */

  struct ka_ctx ctx;
  ka_ctx_init(&ctx);
  ctx.interrupted = &interrupted;
  ka_json_init();
  ka_status st = ka_cli_main(&ctx, argc, argv);
  if (ka_ok(st)) st = ka_json_check(&ctx);
  if (fflush(stdout) != 0 && ka_ok(st)) st = ka_fail(&ctx, KA_E_IO, "stdout: write failed");
  if (!ka_ok(st) && ctx.error.message[0] && !ctx.error.elsewhere) ka_log_error(&ctx);
  returned = true;
  return ka_exit_code(st.code);
}
