/* SPDX-License-Identifier: Apache-2.0
 * Learning-rate schedules; see schedule.h. */
#include "engine/train/schedule.h"

#include <math.h>

static double max1(int64_t n) { return n > 1 ? (double)n : 1; }

double ka_schedule_lr(const struct ka_schedule *s, int64_t step) {
  int64_t i = step - 1;
  if (i < s->warmup_steps) return s->peak_lr * ((double)i / max1(s->warmup_steps));
  double progress = (double)(i - s->warmup_steps) / max1(s->n_steps - s->warmup_steps);
  if (progress > 1) progress = 1;
  double factor = 1;
  if (s->kind == KA_SCHEDULE_COSINE) factor = 0.5 * (1 + cos(M_PI * progress));
  if (s->kind == KA_SCHEDULE_LINEAR) factor = 1 - progress;
  if (s->kind != KA_SCHEDULE_CONSTANT) factor = factor * (1 - s->min_ratio) + s->min_ratio;
  return s->peak_lr * factor;
}
