/* SPDX-License-Identifier: Apache-2.0
 * The cases of the CUDA stand-in's own tests: kernels live in .cu files, test_cudahost.c runs them.
 */
#ifndef KAPPA_TESTS_KERNELS_CUDAHOST_CASES_H
#define KAPPA_TESTS_KERNELS_CUDAHOST_CASES_H

#ifdef __cplusplus
extern "C" {
#endif

/* Returns 0, or the line of the first check that does not hold. */
struct cudahost_case {
  const char *name;
  int (*run)(void);
  const char *report; /* of a fault: what its report must say; words between | in this order */
  int needs;          /* CASE_* */
};
enum {
  CASE_CHECKED = 1, /* needs the callbacks of check.c: not under a real sanitizer */
  CASE_ASAN = 4,    /* AddressSanitizer or UBSan reports it in its own words, where it is on */
  CASE_GCC = 8,     /* clang does not show the access */
  CASE_PRINTS = 2,  /* may write to stderr although it is correct */
};

extern const struct cudahost_case cudahost_block_cases[], cudahost_ptx_cases[],
    cudahost_host_cases[], cudahost_fault_cases[];

#ifdef __cplusplus
}
#endif

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) return __LINE__;                                                             \
  } while (0)
#define OK(call) CHECK((call) == cudaSuccess)

#endif
