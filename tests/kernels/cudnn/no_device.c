/* SPDX-License-Identifier: Apache-2.0
 * A libcuda.so.1 that has no device. cuDNN compiles kernels for a device that is only described,
 * but wants a driver, and in it these functions, of which it calls none. */

#define NO_DEVICE 100
#define NOTHING(name)                                                                              \
  int name(void);                                                                                  \
  int name(void) { return NO_DEVICE; }

NOTHING(cuCtxGetCurrent)
NOTHING(cuCtxGetLimit)
NOTHING(cuCtxPopCurrent)
NOTHING(cuCtxPushCurrent)
NOTHING(cuDeviceGet)
NOTHING(cuGetErrorName)
NOTHING(cuGetErrorString)
NOTHING(cuKernelGetAttribute)
NOTHING(cuKernelGetFunction)
NOTHING(cuKernelSetAttribute)
NOTHING(cuLaunchCooperativeKernel)
NOTHING(cuLaunchKernel)
NOTHING(cuLaunchKernelEx)
NOTHING(cuLibraryGetKernel)
NOTHING(cuLibraryLoadData)
NOTHING(cuLibraryLoadFromFile)
NOTHING(cuLibraryUnload)
NOTHING(cuLinkAddData)
NOTHING(cuLinkComplete)
NOTHING(cuLinkCreate)
NOTHING(cuLinkDestroy)
NOTHING(cuModuleGetFunction)
NOTHING(cuModuleLoadData)
NOTHING(cuModuleUnload)
NOTHING(cuOccupancyMaxPotentialClusterSize)
NOTHING(cuStreamGetCtx)
NOTHING(cuTensorMapEncodeIm2col)
NOTHING(cuTensorMapEncodeTiled)

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
