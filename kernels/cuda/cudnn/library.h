/* SPDX-License-Identifier: Apache-2.0
 *
 * cuDNN, opened at run time: kappa starts, and computes, without it. One struct is one device:
 * that at hand, or one told in JSON, for which plans are made but cannot run.
 *
 * A refusal is no error here: functions give false, and `why` has the reason as text. */
#ifndef KAPPA_KERNELS_CUDA_CUDNN_LIBRARY_H
#define KAPPA_KERNELS_CUDA_CUDNN_LIBRARY_H

#include <cudnn_graph.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CUDNN_OLDEST = 91100 }; /* 9.11: the versions before it have known faults in attention */

/* What is called, without the "cudnn". */
#define CUDNN_FUNCTIONS(X)                                                                         \
  X(GetVersion)                                                                                    \
  X(GetErrorString)                                                                                \
  X(GetLastErrorString)                                                                            \
  X(Create)                                                                                        \
  X(Destroy)                                                                                       \
  X(SetStream)                                                                                     \
  X(BackendCreateDescriptor)                                                                       \
  X(BackendDestroyDescriptor)                                                                      \
  X(BackendFinalize)                                                                               \
  X(BackendSetAttribute)                                                                           \
  X(BackendGetAttribute)                                                                           \
  X(BackendExecute)

struct cudnn {
#define X(name) __typeof__(&cudnn##name) name;
  CUDNN_FUNCTIONS(X)
#undef X
  cudnnHandle_t handle;            /* of the device at hand; NULL: */
  cudnnBackendDescriptor_t device; /* the properties of one that is not here */
  size_t version;                  /* 91900: 9.19.0 */
  char why[256];
};

/* The library alone. Zero-initialised before; stays loaded. */
bool cudnn_open(struct cudnn *c);

/* Then either the current CUDA device, working on this stream, */
bool cudnn_use_device(struct cudnn *c, cudaStream_t stream);
/* or that of these properties (CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION). */
bool cudnn_use_properties(struct cudnn *c, const char *json);

/* Also after failures, and twice. */
void cudnn_close(struct cudnn *c);

/* status == success; else `what` and the library's own words are in why. */
bool cudnn_good(struct cudnn *c, cudnnStatus_t status, const char *what);

#endif
