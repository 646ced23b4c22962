/* SPDX-License-Identifier: Apache-2.0
 * The CUDA stand-in: correct programs run in every order without a report, wrong ones are reported
 * and end with exit code 86. Each case runs in a child process. */
#include "tests/cudahost/cudahost.h"
#include "tests/kernels/cudahost/cases.h"
#include "tests/support/test.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
enum { ASAN = 1, TSAN = 0 };
#elif defined(__SANITIZE_THREAD__)
enum { ASAN = 0, TSAN = 1 };
#elif defined(__has_feature)
enum { ASAN = __has_feature(address_sanitizer), TSAN = __has_feature(thread_sanitizer) };
#else
enum { ASAN, TSAN = 0 };
#endif

static const char *const orders[][2] = {
    {"lazy", "forward"}, {"lazy", "reverse"}, {"eager", "forward"}, {"random", "reverse"}};
enum { N_ORDERS = 4, EXIT_CODE = 86 };

/* ThreadSanitizer would wait a second for the threads of each child. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "atexit_sleep_ms=0"; }

/* Runs the case in a child; its stderr goes to text. Returns the exit code; 255: a signal. */
static int run(const struct cudahost_case *c, const char *const order[2], char *text,
               size_t bytes) {
  int ends[2], status;
  size_t n = 0;
  assert_int_equal(pipe(ends), 0);
  fflush(NULL);
  pid_t child = fork();
  assert_true(child >= 0);
  if (!child) {
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    if (!cudahost_set("order", order[0]) || !cudahost_set("threads", order[1])) _exit(1);
    int line = c->run();
    cudahost_reset();
    if (line) fprintf(stderr, "the check in line %d failed\n", line);
    _exit(line != 0);
  }
  close(ends[1]);
  for (ssize_t got; (got = read(ends[0], text + n, bytes - 1 - n)) > 0;) n += (size_t)got;
  text[n] = 0;
  close(ends[0]);
  assert_int_equal(waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static bool says(const char *text, const char *words) {
  char copy[512], *rest = copy;
  snprintf(copy, sizeof copy, "%s", words);
  for (const char *word; (word = strsep(&rest, "|"));) {
    text = strstr(text, word);
    if (!text) return false;
    text += strlen(word);
  }
  return true;
}

/* What this build cannot run. */
static int unfit(void) {
  int flags = ASAN || TSAN ? CASE_CHECKED : 0;
  if (TSAN) flags |= CASE_ASAN;
#ifdef __clang__
  flags |= CASE_GCC;
#endif
  return flags;
}

static void run_in_every_order(const struct cudahost_case *c) {
  char text[16384];
  for (; c->name; c++)
    for (int i = 0; i < N_ORDERS; i++) {
      if (c->needs & unfit()) continue;
      int code = run(c, orders[i], text, sizeof text);
      if (code || (*text && !(c->needs & CASE_PRINTS)))
        fail_msg("%s in order %s, threads %s: exit %d\n%s", c->name, orders[i][0], orders[i][1],
                 code, text);
    }
}

static void blocks_compute(void **state) {
  (void)state;
  run_in_every_order(cudahost_block_cases);
}
static void instructions_have_twins(void **state) {
  (void)state;
  run_in_every_order(cudahost_ptx_cases);
}
static void the_host_interface_works(void **state) {
  (void)state;
  run_in_every_order(cudahost_host_cases);
}

static void wrong_programs_are_reported(void **state) {
  char text[16384];
  int n_missed = 0;
  (void)state;
  for (const struct cudahost_case *c = cudahost_fault_cases; c->name; c++) {
    if (c->needs & unfit()) continue;
    int code = run(c, orders[0], text, sizeof text);
    if (code == EXIT_CODE && says(text, c->report)) continue;
    if (ASAN && c->needs & CASE_ASAN && code &&
        (says(text, "ERROR: A") || says(text, "runtime error")))
      continue;
    print_error("%s: exit %d, expected %d and a report with %s; got\n%s\n", c->name, code,
                EXIT_CODE, c->report, text);
    n_missed++;
  }
  assert_int_equal(n_missed, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(blocks_compute),
      cmocka_unit_test(instructions_have_twins),
      cmocka_unit_test(the_host_interface_works),
      cmocka_unit_test(wrong_programs_are_reported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
