/* SPDX-License-Identifier: Apache-2.0
 * The built-in vector types with their real alignments, and dim3. C and C++. */
#ifndef CUDAHOST_VECTOR_TYPES_H
#define CUDAHOST_VECTOR_TYPES_H

#define CUDAHOST_ALIGN(n) __attribute__((aligned(n)))

/* T1 .. T4; the alignments of the pair and of the four are what ld.v2 and ld.v4 need. */
#define CUDAHOST_VECTOR(name, type, align2, align4)                                                \
  typedef struct name##1 {                                                                         \
    type x;                                                                                        \
  }                                                                                                \
  name##1;                                                                                         \
  typedef struct CUDAHOST_ALIGN(align2) name##2 {                                                  \
    type x, y;                                                                                     \
  }                                                                                                \
  name##2;                                                                                         \
  typedef struct name##3 {                                                                         \
    type x, y, z;                                                                                  \
  }                                                                                                \
  name##3;                                                                                         \
  typedef struct CUDAHOST_ALIGN(align4) name##4 {                                                  \
    type x, y, z, w;                                                                               \
  }                                                                                                \
  name##4;

CUDAHOST_VECTOR(char, signed char, 2, 4)
CUDAHOST_VECTOR(uchar, unsigned char, 2, 4)
CUDAHOST_VECTOR(short, short, 4, 8)
CUDAHOST_VECTOR(ushort, unsigned short, 4, 8)
CUDAHOST_VECTOR(int, int, 8, 16)
CUDAHOST_VECTOR(uint, unsigned int, 8, 16)
CUDAHOST_VECTOR(float, float, 8, 16)
CUDAHOST_VECTOR(longlong, long long, 16, 16)
CUDAHOST_VECTOR(ulonglong, unsigned long long, 16, 16)
CUDAHOST_VECTOR(double, double, 16, 16)

struct dim3 {
  unsigned int x, y, z;
#ifdef __cplusplus
  constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1)
      : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
#endif
};
typedef struct dim3 dim3;

#ifdef __cplusplus
#define CUDAHOST_MAKE(name, type)                                                                  \
  inline name##1 make_##name##1(type x) { return {x}; }                                            \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                 \
  inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                      \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

CUDAHOST_MAKE(char, signed char)
CUDAHOST_MAKE(uchar, unsigned char)
CUDAHOST_MAKE(short, short)
CUDAHOST_MAKE(ushort, unsigned short)
CUDAHOST_MAKE(int, int)
CUDAHOST_MAKE(uint, unsigned int)
CUDAHOST_MAKE(float, float)
CUDAHOST_MAKE(longlong, long long)
CUDAHOST_MAKE(ulonglong, unsigned long long)
CUDAHOST_MAKE(double, double)
#endif

#endif
