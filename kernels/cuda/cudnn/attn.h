/* SPDX-License-Identifier: Apache-2.0
 *
 * Causal self-attention in bf16 as cuDNN's operation graphs: the contracts of attn_fwd and attn_bwd
 * in kernels/ops.h with S = T, q_offset 0, no documents and lse wanted. */
#ifndef KAPPA_KERNELS_CUDA_CUDNN_ATTN_H
#define KAPPA_KERNELS_CUDA_CUDNN_ATTN_H

#include "kernels/cuda/cudnn/graph.h"

/* Features of a pattern; GQA is found from H and K. */
enum { CUDNN_ATTN_BACKWARD = 1, CUDNN_ATTN_WINDOW = 2, CUDNN_ATTN_SOFTCAP = 4, CUDNN_ATTN_GQA = 8 };

/* Compared by its bytes; no padding. */
struct cudnn_attn {
  int64_t B, T, H, K, D, V; /* V: width of v and out */
  int64_t features;
};

/* Tensors of the graphs: what is in memory, numbers, what is between. */
enum {
  ATTN_Q = 1,
  ATTN_KT, /* k as its transpose; the same memory */
  ATTN_V,
  ATTN_VT,
  ATTN_OUT,
  ATTN_LSE,
  ATTN_DOUT,
  ATTN_DQ,
  ATTN_DK,
  ATTN_DV,
  ATTN_SCALE,
  ATTN_WINDOW,
  ATTN_SOFTCAP,
  ATTN_ONE,
  ATTN_MINUS_INFINITY,
  ATTN_FIRST_INNER
};

/* The pattern's graph; false: no graph for it (why in text of n bytes). sizes is the graph's. */
bool cudnn_attn_graph(const struct cudnn_attn *a, struct cudnn_graph *g, int64_t sizes[128],
                      char *why, size_t n);

/* How many of the pattern's B rows can be done at once in this workspace; a divisor of B, 0: not
 * even one. */
int64_t cudnn_attn_rows(const struct cudnn_attn *a, int64_t workspace_bytes);

/* What this device has engines for: "D 64 128 window". */
void cudnn_attn_describe(struct cudnn *c, bool backward, char *text, size_t n);

#endif
