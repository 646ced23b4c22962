/* SPDX-License-Identifier: Apache-2.0
 * Barriers, shuffles, votes, matches and warp reductions. Each takes the caller's place as its last
 * argument, which reports name. Included by cuda_runtime.h. */
#ifndef CUDAHOST_WARP_H
#define CUDAHOST_WARP_H

#define CUDAHOST_SITE cudahost_site site = cudahost_here()

inline void __syncthreads(CUDAHOST_SITE) { cudahost_barrier(CUDAHOST_SYNC, 0, site); }
inline int __syncthreads_and(int p, CUDAHOST_SITE) {
  return cudahost_barrier(CUDAHOST_AND, p, site);
}
inline int __syncthreads_or(int p, CUDAHOST_SITE) { return cudahost_barrier(CUDAHOST_OR, p, site); }
inline int __syncthreads_count(int p, CUDAHOST_SITE) {
  return cudahost_barrier(CUDAHOST_COUNT, p, site);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDAHOST_SITE) {
  cudahost_warp(&cudahost_op_syncwarp, mask, nullptr, site);
}

/* Every thread of the block sees memory in the same order here: fibres of a block never run at the
 * same time, and blocks meet at atomics only. */
inline void __threadfence_block() { cudahost_fence(); }
inline void __threadfence() { cudahost_fence(); }
inline void __threadfence_system() { cudahost_fence(); }

template <typename T>
inline T cudahost_shfl(cudahost_shuffle_kind kind, unsigned mask, T value, int by, int width,
                       cudahost_site site) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value,
                "shuffles move up to 8 bytes");
  cudahost_shuffle lane = {kind, by, width, 0, 0};
  __builtin_memcpy(&lane.value, &value, sizeof(T));
  cudahost_warp(&cudahost_op_shuffle, mask, &lane, site);
  __builtin_memcpy(&value, &lane.result, sizeof(T));
  return value;
}
template <typename T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, CUDAHOST_SITE) {
  return cudahost_shfl(CUDAHOST_IDX, mask, value, lane, width, site);
}
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, CUDAHOST_SITE) {
  return cudahost_shfl(CUDAHOST_UP, mask, value, static_cast<int>(by), width, site);
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, CUDAHOST_SITE) {
  return cudahost_shfl(CUDAHOST_DOWN, mask, value, static_cast<int>(by), width, site);
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32, CUDAHOST_SITE) {
  return cudahost_shfl(CUDAHOST_XOR, mask, value, by, width, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CUDAHOST_SITE) {
  cudahost_ballot lane = {predicate, mask, 0};
  cudahost_warp(&cudahost_op_ballot, mask, &lane, site);
  return lane.result;
}
inline int __any_sync(unsigned mask, int predicate, CUDAHOST_SITE) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDAHOST_SITE) {
  return __ballot_sync(mask, predicate, site) == mask;
}
template <typename T> inline unsigned __match_any_sync(unsigned mask, T value, CUDAHOST_SITE) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "matches compare 4 or 8 bytes");
  cudahost_match lane = {0, mask, 0};
  __builtin_memcpy(&lane.value, &value, sizeof(T));
  cudahost_warp(&cudahost_op_match, mask, &lane, site);
  return lane.result;
}
inline unsigned __activemask() { return 1u << cudahost_lane(); } /* promises nothing more */

/* redux.sync: 32-bit integers. Each lane gathers the values of all others by shuffling. */
template <typename T, typename F>
inline T cudahost_reduce(unsigned mask, T value, F combine, cudahost_site site) {
  T total = value;
  bool first = true;
  for (int lane = 0; lane < 32; lane++) {
    if (!(mask >> lane & 1)) continue;
    T other = __shfl_sync(mask, value, lane, 32, site);
    total = first ? other : combine(total, other);
    first = false;
  }
  return total;
}
#define CUDAHOST_REDUCE(name, type, expression)                                                    \
  inline type __reduce_##name##_sync(unsigned mask, type value, CUDAHOST_SITE) {                   \
    return cudahost_reduce(                                                                        \
        mask, value, [](type a, type b) { return static_cast<type>(expression); }, site);          \
  }
CUDAHOST_REDUCE(add, int, a + b)
CUDAHOST_REDUCE(add, unsigned, a + b)
CUDAHOST_REDUCE(min, int, a < b ? a : b)
CUDAHOST_REDUCE(min, unsigned, a < b ? a : b)
CUDAHOST_REDUCE(max, int, a > b ? a : b)
CUDAHOST_REDUCE(max, unsigned, a > b ? a : b)
CUDAHOST_REDUCE(and, unsigned, a &b)
CUDAHOST_REDUCE(or, unsigned, a | b)
CUDAHOST_REDUCE(xor, unsigned, a ^ b)

#endif
