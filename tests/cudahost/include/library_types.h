/* SPDX-License-Identifier: Apache-2.0
 * Types of numbers, as CUDA's libraries name them. */
#ifndef CUDAHOST_LIBRARY_TYPES_H
#define CUDAHOST_LIBRARY_TYPES_H

typedef enum {
  CUDA_R_32F = 0,
  CUDA_R_64F = 1,
  CUDA_R_16F = 2,
  CUDA_R_32I = 10,
  CUDA_R_16BF = 14
} cudaDataType_t;
typedef cudaDataType_t cudaDataType;

#endif
