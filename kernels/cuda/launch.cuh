/* SPDX-License-Identifier: Apache-2.0
 *
 * Launches and shared memory, for nvcc and for the host compiler (tests/cudahost). Kernels use
 * these names only: no <<<>>> and no __shared__ elsewhere.
 *
 *   KA_TRY_CUDA(KA_LAUNCH(k_add, grid, block, 0, stream, y, x, n));
 *   KA_LAUNCH((k_add<float, 4>), ...)      a templated kernel stands in parentheses
 *   KA_SHARED(float, tile, 256);           float tile[256], aligned to 16 bytes
 *   KA_SHARED(float[33], tile, 32);        float tile[32][33]
 *   KA_SHARED_DYNAMIC(float, tile);        float *tile: the bytes that the launch asked for
 *
 * Arguments are converted to the kernel's parameter types at the launch, which must be trivially
 * copyable. KA_LAUNCH returns the launch's own error; what the kernel does wrong shows later. */
#ifndef KAPPA_KERNELS_CUDA_LAUNCH_CUH
#define KAPPA_KERNELS_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

#ifdef KAPPA_CUDAHOST

#include <tuple>
#include <type_traits>
#include <utility>

template <typename... P> struct ka_call {
  void (*kernel)(P...);
  std::tuple<P...> arguments;
  static void run(void *call) {
    ka_call *c = static_cast<ka_call *>(call);
    std::apply(c->kernel, c->arguments);
  }
};

template <typename... P, typename... A>
inline cudaError_t ka_launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                             size_t shared_bytes, cudaStream_t stream, A... arguments) {
  static_assert((std::is_trivially_copyable<P>::value && ...), "a kernel's parameter is bytes");
  static_assert((sizeof(P) + ... + 0) <= 4096, "a kernel has at most 4 KiB of parameters");
  ka_call<P...> call = {kernel, std::tuple<P...>(static_cast<P>(arguments)...)};
  cudahost_launch launch = {reinterpret_cast<const void *>(kernel),
                            name,
                            grid,
                            block,
                            shared_bytes,
                            stream,
                            ka_call<P...>::run,
                            &call,
                            sizeof(call)};
  return cudahost_launch_kernel(&launch);
}

#define KA_LAUNCH(kernel, ...) ka_launch(#kernel, kernel, __VA_ARGS__)

#define KA_SHARED(type, name, n)                                                                   \
  using ka_type_##name = type;                                                                     \
  static const char ka_id_##name = 0;                                                              \
  ka_type_##name(&name)[n] = *static_cast<ka_type_##name(*)[n]>(                                   \
      cudahost_shared(&ka_id_##name, #name, sizeof(ka_type_##name[n])))

#define KA_SHARED_DYNAMIC(type, name) type *name = static_cast<type *>(cudahost_shared_dynamic())

#else

template <typename... P, typename... A>
inline cudaError_t ka_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                             cudaStream_t stream, A... arguments) {
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<P>(arguments)...);
  return cudaGetLastError();
}

#define KA_LAUNCH(kernel, ...) ka_launch(kernel, __VA_ARGS__)

#define KA_SHARED(type, name, n)                                                                   \
  using ka_type_##name = type;                                                                     \
  __shared__ __align__(16) ka_type_##name name[n]

#define KA_SHARED_DYNAMIC(type, name)                                                              \
  extern __shared__ __align__(16) unsigned char ka_dynamic_shared[];                               \
  type *name = reinterpret_cast<type *>(ka_dynamic_shared)

#endif

#endif
