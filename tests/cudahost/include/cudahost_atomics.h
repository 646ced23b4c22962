/* SPDX-License-Identifier: Apache-2.0
 * Atomic functions, all as a loop over compare-and-swap (returning the old value), and
 * volatile-like loads. Included by cuda_runtime.h. */
#ifndef CUDAHOST_ATOMICS_H
#define CUDAHOST_ATOMICS_H

template <size_t N> struct cudahost_word;
template <> struct cudahost_word<2> { using type = unsigned short; };
template <> struct cudahost_word<4> { using type = unsigned int; };
template <> struct cudahost_word<8> { using type = unsigned long long; };

template <typename To, typename From> inline To cudahost_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a cast keeps the bytes");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

/* *p = f(*p); returns the old *p. */
template <typename T, typename F> inline T cudahost_atomic(T *p, F f) {
  using word = typename cudahost_word<sizeof(T)>::type;
  word *at = reinterpret_cast<word *>(p);
  word old = __atomic_load_n(at, __ATOMIC_RELAXED);
  for (;;) {
    word wanted = cudahost_cast<word>(f(cudahost_cast<T>(old)));
    if (__atomic_compare_exchange_n(at, &old, wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
      return cudahost_cast<T>(old);
  }
}

#define CUDAHOST_ATOMIC(name, type, expression)                                                    \
  inline type atomic##name(type *p, type value) {                                                  \
    return cudahost_atomic(p, [value](type old) { return static_cast<type>(expression); });        \
  }
#define CUDAHOST_ATOMIC_INTEGERS(name, expression)                                                 \
  CUDAHOST_ATOMIC(name, int, expression)                                                           \
  CUDAHOST_ATOMIC(name, unsigned int, expression)                                                  \
  CUDAHOST_ATOMIC(name, unsigned long long, expression)

CUDAHOST_ATOMIC_INTEGERS(Add, old + value)
CUDAHOST_ATOMIC(Add, float, old + value)
CUDAHOST_ATOMIC(Add, double, old + value)
CUDAHOST_ATOMIC(Sub, int, old - value)
CUDAHOST_ATOMIC(Sub, unsigned int, old - value)
CUDAHOST_ATOMIC_INTEGERS(Max, old > value ? old : value)
CUDAHOST_ATOMIC(Max, long long, old > value ? old : value)
CUDAHOST_ATOMIC_INTEGERS(Min, old < value ? old : value)
CUDAHOST_ATOMIC(Min, long long, old < value ? old : value)
CUDAHOST_ATOMIC_INTEGERS(Exch, (static_cast<void>(old), value))
CUDAHOST_ATOMIC(Exch, float, (static_cast<void>(old), value))
CUDAHOST_ATOMIC_INTEGERS(And, old &value)
CUDAHOST_ATOMIC_INTEGERS(Or, old | value)
CUDAHOST_ATOMIC_INTEGERS(Xor, old ^ value)
CUDAHOST_ATOMIC(Inc, unsigned int, old >= value ? 0 : old + 1)
CUDAHOST_ATOMIC(Dec, unsigned int, old == 0 || old > value ? value : old - 1)

#define CUDAHOST_ATOMIC_CAS(type)                                                                  \
  inline type atomicCAS(type *p, type compare, type value) {                                       \
    return cudahost_atomic(p, [=](type old) { return old == compare ? value : old; });             \
  }
CUDAHOST_ATOMIC_CAS(int)
CUDAHOST_ATOMIC_CAS(unsigned int)
CUDAHOST_ATOMIC_CAS(unsigned long long)
CUDAHOST_ATOMIC_CAS(unsigned short)

/* Loads with a cache hint: plain loads here. */
template <typename T> inline T __ldg(const T *p) { return *p; }
template <typename T> inline T __ldcg(const T *p) { return *p; }
template <typename T> inline T __ldcs(const T *p) { return *p; }
template <typename T> inline T __ldca(const T *p) { return *p; }
template <typename T> inline void __stcs(T *p, T value) { *p = value; }
template <typename T> inline void __stcg(T *p, T value) { *p = value; }

#endif
