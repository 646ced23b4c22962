/* SPDX-License-Identifier: Apache-2.0
 *
 * The PTX instructions that CUDA C++ has no name for, one inline function each; nothing else in
 * kernels/cuda is written in PTX. All of them exist from sm_80 on. With the host compiler the same
 * functions are twins of the instructions (tests/cudahost/include/cudahost_ptx.h).
 *
 *   mma_bf16_16816(d, a, b)      d[4] f32 += a[4] b[2]; a 16 x 16 and b 16 x 8 bf16, two to a
 *                                register
 *   mma_f16_16816(d, a, b)       the same with f16
 *   mma_tf32_1688(d, a, b)       d[4] f32 += a[4] b[2]; a 16 x 8 and b 8 x 8 tf32 (low 13 bits
 *                                ignored)
 *   tf32(x)                      x rounded to tf32, as a register
 *   ldmatrix_x1/_x2/_x4(r, row)  1, 2, 4 matrices of 8 x 8 16-bit elements from shared memory;
 *   ldmatrix_..._trans(r, row)   lane 8 i + j names row j of matrix i (16 bytes, aligned)
 *   movmatrix_trans(r)           one such matrix, transposed across the warp
 *   cp_async_16/_8/_4(shared, global, n)  n of 16, 8, 4 bytes, zeros after; n = 0 reads nothing
 *   cp_async_commit()            ends a group of them
 *   cp_async_wait<N>()           all but the last N groups have arrived (for this thread's own)
 *   exp2_approx(x) log2_approx(x) rcp_approx(x) rsqrt_approx(x) tanh_approx(x)
 *
 * Who holds what, for lane = 4 g + t (g = 0..7, t = 0..3):
 *   16816: a[0] = A[g][2t, 2t+1]      a[1] = A[g+8][2t, 2t+1]    b[0] = B[2t, 2t+1][g]
 *          a[2] = A[g][2t+8, 2t+9]    a[3] = A[g+8][2t+8, 2t+9]  b[1] = B[2t+8, 2t+9][g]
 *   1688:  a[0] = A[g][t]  a[1] = A[g+8][t]  a[2] = A[g][t+4]  a[3] = A[g+8][t+4]
 *          b[0] = B[t][g]  b[1] = B[t+4][g]
 *   both:  d[0], d[1] = D[g][2t, 2t+1]    d[2], d[3] = D[g+8][2t, 2t+1]
 *   ldmatrix: r[i] = M_i[g][2t, 2t+1]     transposed: r[i] = M_i[2t, 2t+1][g]
 * The first of two elements is in the low half of the register. So ldmatrix_x4 with lanes 0-7 at
 * rows 0-7, 8-15 at rows 8-15, 16-23 at rows 0-7 column 8, 24-31 at rows 8-15 column 8 loads `a`.
 */
#ifndef KAPPA_KERNELS_CUDA_PTX_CUH
#define KAPPA_KERNELS_CUDA_PTX_CUH

#include <cuda_runtime.h>

#ifdef KAPPA_CUDAHOST
#include <cudahost_ptx.h>
#else

static __device__ __forceinline__ void mma_bf16_16816(float (&d)[4], const unsigned (&a)[4],
                                                      const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void mma_f16_16816(float (&d)[4], const unsigned (&a)[4],
                                                     const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void mma_tf32_1688(float (&d)[4], const unsigned (&a)[4],
                                                     const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ unsigned tf32(float x) {
  unsigned r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}

static __device__ __forceinline__ unsigned ptx_shared(const void *p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

static __device__ __forceinline__ void ldmatrix_x1(unsigned (&r)[1], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(ptx_shared(row))
               : "memory");
}
static __device__ __forceinline__ void ldmatrix_x1_trans(unsigned (&r)[1], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(ptx_shared(row))
               : "memory");
}
static __device__ __forceinline__ void ldmatrix_x2(unsigned (&r)[2], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(ptx_shared(row))
               : "memory");
}
static __device__ __forceinline__ void ldmatrix_x2_trans(unsigned (&r)[2], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(ptx_shared(row))
               : "memory");
}
static __device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(ptx_shared(row))
               : "memory");
}
static __device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(ptx_shared(row))
               : "memory");
}

static __device__ __forceinline__ unsigned movmatrix_trans(unsigned a) {
  unsigned r;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(a));
  return r;
}

static __device__ __forceinline__ void cp_async_16(void *shared, const void *global,
                                                   unsigned n = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(ptx_shared(shared)),
               "l"(global), "r"(n)
               : "memory");
}
static __device__ __forceinline__ void cp_async_8(void *shared, const void *global,
                                                  unsigned n = 8) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(ptx_shared(shared)),
               "l"(global), "r"(n)
               : "memory");
}
static __device__ __forceinline__ void cp_async_4(void *shared, const void *global,
                                                  unsigned n = 4) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(ptx_shared(shared)),
               "l"(global), "r"(n)
               : "memory");
}
static __device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> static __device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

static __device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
static __device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
static __device__ __forceinline__ float rcp_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
static __device__ __forceinline__ float rsqrt_approx(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
static __device__ __forceinline__ float tanh_approx(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#endif

#endif
