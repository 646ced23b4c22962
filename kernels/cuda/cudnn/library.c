/* SPDX-License-Identifier: Apache-2.0
 * See library.h. */
#include "kernels/cuda/cudnn/library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static bool find_functions(struct cudnn *c, void *library) {
  const struct {
    const char *name;
    size_t at;
  } functions[] = {
#define X(name) {"cudnn" #name, offsetof(struct cudnn, name)},
      CUDNN_FUNCTIONS(X)
#undef X
  };
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    void *f = dlsym(library, functions[i].name);
    memcpy((char *)c + functions[i].at, &f, sizeof f);
    if (f) continue;
    snprintf(c->why, sizeof c->why, "libcudnn.so.9 has no %s", functions[i].name);
    return false;
  }
  return true;
}

bool cudnn_open(struct cudnn *c) {
  void *library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    snprintf(c->why, sizeof c->why, "%s", dlerror());
    return false;
  }
  if (!find_functions(c, library)) return false;
  c->version = c->GetVersion();
  if (c->version >= CUDNN_OLDEST) return true;
  snprintf(c->why, sizeof c->why, "it is version %zu.%zu, older than 9.11", c->version / 10000,
           c->version % 10000 / 100);
  return false;
}

bool cudnn_use_device(struct cudnn *c, cudaStream_t stream) {
  return cudnn_good(c, c->Create(&c->handle), "cudnnCreate") &&
         cudnn_good(c, c->SetStream(c->handle, stream), "cudnnSetStream");
}

bool cudnn_use_properties(struct cudnn *c, const char *json) {
  cudnnStatus_t e = c->BackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &c->device);
  if (!e)
    e = c->BackendSetAttribute(c->device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                               CUDNN_TYPE_CHAR, (int64_t)strlen(json), json);
  if (!e) e = c->BackendFinalize(c->device);
  return cudnn_good(c, e, "device properties");
}

void cudnn_close(struct cudnn *c) {
  if (c->device) (void)c->BackendDestroyDescriptor(c->device);
  if (c->handle) (void)c->Destroy(c->handle);
  c->device = NULL;
  c->handle = NULL;
}

bool cudnn_good(struct cudnn *c, cudnnStatus_t status, const char *what) {
  char reason[160] = "";
  if (status == CUDNN_STATUS_SUCCESS) return true;
  c->GetLastErrorString(reason, sizeof reason);
  reason[strcspn(reason, "\n")] = 0;
  snprintf(c->why, sizeof c->why, "%s: %s%s%s", what, c->GetErrorString(status),
           *reason ? ": " : "", reason);
  return false;
}
