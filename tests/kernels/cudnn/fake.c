/* SPDX-License-Identifier: Apache-2.0
 * See fake.h. */
#include "tests/kernels/cudnn/fake.h"

#include <cudnn_graph.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct item {
  cudnnBackendDescriptorType_t type;
  int64_t n, ids[FAKE_IDS];
  void *pointers[FAKE_IDS], *workspace;
};

static struct fake_cudnn fake;

struct fake_cudnn *fake_cudnn(void);
struct fake_cudnn *fake_cudnn(void) {
  return &fake;
}

size_t cudnnGetVersion(void) { return 91900; }
const char *cudnnGetErrorString(cudnnStatus_t e) { return e ? "NOT_SUPPORTED" : "SUCCESS"; }
void cudnnGetLastErrorString(char *text, size_t n) { snprintf(text, n, "because\nand more"); }

cudnnStatus_t cudnnCreate(cudnnHandle_t *out) {
  if (fake.no_handle) return CUDNN_STATUS_NOT_SUPPORTED;
  *out = malloc(1);
  fake.n_live++;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t h) {
  free(h);
  fake.n_live--;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t stream) {
  (void)h, (void)stream;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *out) {
  struct item *item = calloc(1, sizeof *item);
  item->type = type;
  *out = item;
  fake.n_live++;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d) {
  free(d);
  fake.n_live--;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d) {
  const struct item *item = d;
  fake.n_graphs += item->type == CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR;
  fake.n_plans += item->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t n,
                                       const void *value) {
  struct item *item = d;
  (void)type;
  if (name == CUDNN_ATTR_TENSOR_UNIQUE_ID) memcpy(item->ids, value, sizeof *item->ids);
  if (name == CUDNN_ATTR_TENSOR_IS_BY_VALUE && *(const bool *)value)
    fake.numbers |= 1u << item->ids[0];
  if (name == CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS) {
    item->n = n;
    memcpy(item->ids, value, (size_t)n * sizeof *item->ids);
  }
  if (name == CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)
    memcpy(item->pointers, value, (size_t)n * sizeof *item->pointers);
  if (name == CUDNN_ATTR_VARIANT_PACK_WORKSPACE) memcpy(&item->workspace, value, sizeof(void *));
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const d,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t n, int64_t *got,
                                       void *out) {
  (void)d, (void)type, (void)n;
  *got = 1;
  if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS) *got = !fake.no_engine;
  if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE) {
    *got = fake.varies;
    *(cudnnBackendNumericalNote_t *)out = CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
  }
  if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) *(int64_t *)out = fake.workspace_bytes;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack) {
  const struct item *item = pack;
  (void)h, (void)plan;
  if (fake.no_execution) return CUDNN_STATUS_NOT_SUPPORTED;
  struct fake_run *run = &fake.runs[fake.n_runs++ % FAKE_RUNS];
  memset(run, 0, sizeof *run);
  run->workspace = item->workspace;
  for (int64_t i = 0; i < item->n; i++) {
    int64_t id = item->ids[i];
    run->at[id] = item->pointers[i];
    if (fake.numbers >> id & 1) memcpy(&run->number[id], item->pointers[i], sizeof(float));
  }
  return CUDNN_STATUS_SUCCESS;
}
