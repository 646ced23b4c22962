/* SPDX-License-Identifier: Apache-2.0
 * See front.h. Benchmarks have tens of points: simple loops. */
#include "engine/forget/front.h"

#include <math.h>

static bool dominates(struct ka_forget_point a, struct ka_forget_point b) {
  return a.learned >= b.learned && a.forgot <= b.forgot &&
         (a.learned > b.learned || a.forgot < b.forgot);
}

static bool known(struct ka_forget_point p) { return !isnan(p.learned) && !isnan(p.forgot); }

int64_t ka_forget_front(const struct ka_forget_point *points, int64_t n, int64_t *order) {
  int64_t n_front = 0;
  for (int64_t i = 0; i < n; i++) {
    bool on = known(points[i]);
    for (int64_t k = 0; k < n && on; k++) {
      bool equal = points[k].learned == points[i].learned && points[k].forgot == points[i].forgot;
      on = !(known(points[k]) && (dominates(points[k], points[i]) || (equal && k < i)));
    }
    if (!on) continue;
    int64_t at = n_front++;
    for (; at > 0 && points[order[at - 1]].learned > points[i].learned; at--)
      order[at] = order[at - 1];
    order[at] = i;
  }
  return n_front;
}

/* Left to right along the learned axis: at each stretch the least forgetting of the points that
 * reach it counts. */
double ka_forget_front_area(const struct ka_forget_point *points, int64_t n,
                            struct ka_forget_point reference) {
  double area = 0, from = reference.learned;
  for (;;) {
    double to = INFINITY, least = reference.forgot;
    for (int64_t i = 0; i < n; i++) {
      if (!known(points[i]) || points[i].learned <= from) continue;
      least = fmin(least, points[i].forgot);
      to = fmin(to, points[i].learned);
    }
    if (isinf(to)) return area;
    area += (to - from) * (reference.forgot - least);
    from = to;
  }
}

double ka_forget_front_at(struct ka_forget_point *points, int64_t n, int64_t *order,
                          double learned) {
  int64_t n_known = 0;
  for (int64_t i = 0; i < n; i++) n_known += known(points[i]);
  if (n_known == 0) return NAN;
  points[n] = (struct ka_forget_point){0, 0};
  int64_t n_front = ka_forget_front(points, n + 1, order);
  struct ka_forget_point from = points[order[0]];
  if (learned <= from.learned) return from.forgot;
  for (int64_t i = 1; i < n_front; i++) {
    struct ka_forget_point to = points[order[i]];
    double part = (learned - from.learned) / (to.learned - from.learned);
    if (learned <= to.learned) return from.forgot + part * (to.forgot - from.forgot);
    from = to;
  }
  return NAN;
}
