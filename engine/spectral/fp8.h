/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights stored in 8 bits with scales beside them (X.weight and X.weight_scale_inv or
 * X.weight_scale): the matrix that they stand for, a unit at a time. Scales: one of the tensor, one
 * a row, or one a block (128 x 128, or what divides the sides evenly); of a three-dimensional
 * tensor the same of each of its matrices. */
#ifndef KAPPA_ENGINE_SPECTRAL_FP8_H
#define KAPPA_ENGINE_SPECTRAL_FP8_H

#include "engine/formats/safetensors.h"
#include "engine/spectral/spectral.h"

struct ka_fp8 {
  const char *dtype_name;
  bool e5m2;
  int64_t rows, cols;              /* of one matrix */
  const struct ka_st_entry *scale; /* NULL: 1 */
  const void *scales;              /* its elements */
  int64_t block[2], stride[3];     /* rows and columns that share a scale; of scale: matrix, row,
                                      column */
};

bool ka_fp8_is(const struct ka_st_entry *e);
/* Is it the scale of another entry, and no weight? */
bool ka_fp8_is_scale(const struct ka_safetensors *files, const struct ka_st_entry *e);

/* e as a unit whose view holds the stored bytes (U8) until ka_fp8_load; where its scales cannot be
 * understood, unit->skip says so. In the arena. */
ka_status ka_fp8_unit(struct ka_arena *arena, const struct ka_safetensors *files,
                      const struct ka_st_entry *e, struct ka_unit *unit);

/* The unit's matrix as F32 into data, ka_unit_elems of them; *unit becomes a view of that. */
void ka_fp8_load(struct ka_unit *unit, float *data);

#endif
