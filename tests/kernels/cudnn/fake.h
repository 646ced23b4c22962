/* SPDX-License-Identifier: Apache-2.0
 *
 * A libcudnn.so.9 that takes every graph and computes nothing, for tests of who calls it with what.
 * The program that loads it finds fake_cudnn() with dlsym. */
#ifndef KAPPA_TESTS_KERNELS_CUDNN_FAKE_H
#define KAPPA_TESTS_KERNELS_CUDNN_FAKE_H

#include <stdbool.h>
#include <stdint.h>

enum { FAKE_IDS = 64, FAKE_RUNS = 16 };

struct fake_cudnn {
  /* what it shall do */
  int64_t workspace_bytes;
  bool no_handle, no_engine, varies, no_execution;
  /* what was asked of it */
  int n_graphs, n_plans, n_runs, n_live; /* n_live: descriptors and handles */
  struct fake_run {
    void *at[FAKE_IDS];
    float number[FAKE_IDS]; /* of ids below 16 that `numbers` has */
    void *workspace;
  } runs[FAKE_RUNS]; /* the newest at n_runs - 1, modulo */
  unsigned numbers;  /* bit i: id i is a number */
};

#endif
