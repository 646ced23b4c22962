/* SPDX-License-Identifier: Apache-2.0
 *
 * Operation graphs as tables, and what cuDNN makes of them: an execution plan, or a refusal (false;
 * why in struct cudnn). Plans whose results may vary from run to run are refused too, as far as
 * cuDNN notes it. */
#ifndef KAPPA_KERNELS_CUDA_CUDNN_GRAPH_H
#define KAPPA_KERNELS_CUDA_CUDNN_GRAPH_H

#include "kernels/cuda/cudnn/library.h"

enum { CUDNN_TENSORS = 64, CUDNN_NODES = 64, CUDNN_MADE = 256 };

/* Four sizes by letter, '1' for one: as the graph sees them, and as they lie in memory, the slowest
 * first. {"BHTD", "BTHD"} is what we call [B,T,H,D]. */
struct cudnn_tensor {
  const char *dims, *memory;
  cudnnDataType_t type;
  enum { CUDNN_INNER, CUDNN_MEMORY, CUDNN_NUMBER } kind; /* an f32 on the host is a number */
};

/* y = op(x, b, t) of tensors by their index, 0: none. Products are x b; a select is t ? x : b;
 * gradients of activations have b as the activation's input. Sizes that differ by a factor
 * broadcast, and are summed over in reductions, in groups. */
struct cudnn_node {
  enum { CUDNN_PRODUCT = 1, CUDNN_POINTWISE, CUDNN_REDUCE, CUDNN_RESHAPE } op;
  int mode; /* cudnnPointwiseMode_t, cudnnReduceTensorOp_t */
  uint8_t y, x, b, t;
  uint8_t axis; /* of an index */
  /* The node is there when all of `when` and none of `unless` are wanted; where it is not, those
   * that read y read x. */
  unsigned when, unless;
};

struct cudnn_graph {
  const struct cudnn_tensor *tensors; /* [CUDNN_TENSORS] */
  const struct cudnn_node *nodes;     /* ends with op 0 */
  const int64_t *sizes;               /* by letter [128] */
  unsigned features;
};

struct cudnn_plan {
  cudnnBackendDescriptor_t plan;
  int64_t workspace_bytes;
  struct {
    int64_t id[CUDNN_TENSORS], bytes[CUDNN_TENSORS]; /* 0 bytes: a number */
    int n;
  } outside;                                 /* the tensors that are not inner */
  cudnnBackendDescriptor_t made[CUDNN_MADE]; /* live as long as the plan */
  int n_made;
};

bool cudnn_node_wanted(const struct cudnn_node *n, unsigned features);
/* Sizes and strides in elements. */
void cudnn_tensor_shape(const struct cudnn_tensor *t, const int64_t *sizes, int64_t dims[4],
                        int64_t strides[4]);

/* Would there be a plan? A tenth of the time that making it takes. */
bool cudnn_graph_accepted(struct cudnn *c, const struct cudnn_graph *g);

/* The first plan that the heuristics name and that needs no more workspace. Compiles. */
bool cudnn_plan_make(struct cudnn *c, struct cudnn_plan *p, const struct cudnn_graph *g,
                     int64_t workspace_bytes);
void cudnn_plan_free(struct cudnn *c, struct cudnn_plan *p);

/* Enqueues. at[id]: device memory, 16-byte aligned, which block times the tensor's bytes are added
 * to; or where the number is now. */
bool cudnn_plan_run(struct cudnn *c, const struct cudnn_plan *p, void *const *at, int64_t block,
                    void *workspace);

#endif
