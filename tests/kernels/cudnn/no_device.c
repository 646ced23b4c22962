/* SPDX-License-Identifier: Apache-2.0
 * A libcuda.so.1 that has no device. cuDNN compiles kernels for a device that is only described,
 * but wants a driver, and in it these functions, of which it calls none. */

#define NO_DEVICE 100
#define NAMES(X)                                                                                   \
  X(cuCtxGetCurrent)                                                                               \
  X(cuCtxGetLimit)                                                                                 \
  X(cuCtxPopCurrent)                                                                               \
  X(cuCtxPushCurrent) X(cuDeviceGet) X(cuGetErrorName) X(cuGetErrorString) X(cuKernelGetAttribute) \
      X(cuKernelGetFunction) X(cuKernelSetAttribute) X(cuLaunchCooperativeKernel)                  \
          X(cuLaunchKernel) X(cuLaunchKernelEx) X(cuLibraryGetKernel) X(cuLibraryLoadData)         \
              X(cuLibraryLoadFromFile) X(cuLibraryUnload) X(cuLinkAddData) X(cuLinkComplete)       \
                  X(cuLinkCreate) X(cuLinkDestroy) X(cuModuleGetFunction) X(cuModuleLoadData)      \
                      X(cuModuleUnload) X(cuOccupancyMaxPotentialClusterSize) X(cuStreamGetCtx)    \
                          X(cuTensorMapEncodeIm2col) X(cuTensorMapEncodeTiled)

#define X(name)                                                                                    \
  int name(void);                                                                                  \
  int name(void) { return NO_DEVICE; }
NAMES(X)
#undef X

int cuInit(unsigned flags);
int cuInit(unsigned flags) {
  (void)flags;
  return NO_DEVICE;
}

int cuDriverGetVersion(int *version);
int cuDriverGetVersion(int *version) {
  *version = 13000;
  return 0;
}

int cuDeviceGetCount(int *n);
int cuDeviceGetCount(int *n) {
  *n = 0;
  return 0;
}
