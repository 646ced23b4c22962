/* SPDX-License-Identifier: Apache-2.0
 *
 * Fronts of runs that learned and forgot: what no other run beats at both, and the area below it.
 * Learning is better when larger, forgetting when smaller. */
#ifndef KAPPA_ENGINE_FORGET_FRONT_H
#define KAPPA_ENGINE_FORGET_FRONT_H

#include "base/status.h"

struct ka_forget_point {
  double learned, forgot;
};

/* The points that none other dominates (at least as good in both, better in one), by ascending
 * learned; equal points once. order [n] receives their indices; returns how many. Points with NaN
 * are left out. */
int64_t ka_forget_front(const struct ka_forget_point *points, int64_t n, int64_t *order);

/* The area between the front and a reference point that is worse than all: the hypervolume
 * indicator (Zitzler and Thiele 1998) in two dimensions, of what lies beyond the reference in both.
 *
 *   forgot
 *   worst +------------------- reference (nothing learned, the most forgotten)
 *         |###|               each point covers the rectangle between itself and the reference;
 *         |###+----o          the union of them is the area
 *         |########|
 *         +---o----+-- learned
 */
double ka_forget_front_area(const struct ka_forget_point *points, int64_t n,
                            struct ka_forget_point reference);

/* What is forgotten where this much is learned: the front and the untouched base (0, 0), straight
 * between neighbours. NaN beyond what any point learned,
 * and without a known point. order [n + 1] is scratch, points [n + 1]
 * has room for the base. */
double ka_forget_front_at(struct ka_forget_point *points, int64_t n, int64_t *order,
                          double learned);

#endif
