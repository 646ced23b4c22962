/* SPDX-License-Identifier: Apache-2.0
 * See sampling.h. Tokens come off a heap, the likeliest first, until what is left may not be drawn:
 * a sort of the vocabulary would cost more than the model's head. */
#include "engine/eval/sampling.h"

#include "engine/model/decode.h"

#include <math.h>

/* --- a heap of tokens -------------------------------------------------------- */

/* Of equals the first token is the likelier one. */
static bool likelier(const float *logits, int32_t a, int32_t b) {
  return logits[a] > logits[b] || (!(logits[a] < logits[b]) && a < b);
}

static void sink(const float *logits, int32_t *heap, int64_t n, int64_t at) {
  for (;;) {
    int64_t child = 2 * at + 1;
    if (child >= n) return;
    if (child + 1 < n && likelier(logits, heap[child + 1], heap[child])) child++;
    if (!likelier(logits, heap[child], heap[at])) return;
    int32_t swap = heap[at];
    heap[at] = heap[child];
    heap[child] = swap;
    at = child;
  }
}

/* The top goes behind the end of the heap, which moves up: the first one popped lies last. */
static int32_t pop(const float *logits, int32_t *heap, int64_t *n) {
  int32_t top = heap[0];
  heap[0] = heap[--*n];
  heap[*n] = top;
  sink(logits, heap, *n, 0);
  return top;
}

/* --- what may be drawn ------------------------------------------------------- */

static double weight(const struct ka_eval_sampling *s, const float *logits, int32_t id, float top) {
  return exp(((double)logits[id] - (double)top) / s->temperature);
}

/* How many of the likeliest tokens top_k leaves, equals of the last among them, and their
 * weight. */
static double take_top_k(const struct ka_eval_sampling *s, const float *logits, int64_t V,
                         int32_t *heap, float top, int64_t *n_kept) {
  int64_t left = V;
  double total = 0;
  while (left > 0) {
    bool equal = left < V && !(logits[heap[0]] < logits[heap[left]]);
    if (V - left >= s->top_k && !equal) break;
    total += weight(s, logits, pop(logits, heap, &left), top);
  }
  *n_kept = V - left;
  return total;
}

static void restrict_to_likely(const struct ka_eval_sampling *s, float *logits, int64_t V,
                               int32_t *heap) {
  for (int64_t i = 0; i < V; i++) heap[i] = (int32_t)i;
  for (int64_t i = V / 2; i-- > 0;) sink(logits, heap, V, i);
  float top = logits[heap[0]];
  int64_t n = 0, left = V;
  double total = 0, sum = 0;
  if (s->top_k > 0 && s->top_k < V) {
    total = take_top_k(s, logits, V, heap, top, &n);
    left = V - n;
  } else {
    for (int64_t i = 0; i < V; i++) total += weight(s, logits, (int32_t)i, top);
  }
  int64_t kept = s->top_p < 1 ? 0 : n;
  while (s->top_p < 1 && (kept == 0 || sum < s->top_p * total) &&
         (kept < n || (n == 0 && left > 0))) {
    if (n == 0) pop(logits, heap, &left);
    sum += weight(s, logits, heap[V - ++kept], top);
  }
  for (int64_t i = 0; i < V - kept; i++) logits[heap[i]] = -INFINITY;
}

ka_status ka_eval_check_logits(struct ka_ctx *ctx, const float *logits, int64_t V) {
  for (int64_t i = 0; i < V; i++)
    if (!isfinite(logits[i]))
      return ka_fail(ctx, KA_E_CHECK,
                     "the logit of token %lld is %g, expected a finite number; the model's weights "
                     "are damaged or too large for its arithmetic",
                     (long long)i, (double)logits[i]);
  return KA_STATUS_OK;
}

ka_status ka_eval_sample(struct ka_ctx *ctx, const struct ka_eval_sampling *s, float *logits,
                         int64_t V, int32_t *heap, uint64_t seed, uint64_t index, int32_t *out) {
  KA_TRY(ka_eval_check_logits(ctx, logits, V));
  if (s->temperature > 0 && (s->top_p < 1 || (s->top_k > 0 && s->top_k < V)))
    restrict_to_likely(s, logits, V, heap);
  if (s->temperature > 0 && s->min_p > 0) {
    float top = -INFINITY;
    for (int64_t i = 0; i < V; i++) top = fmaxf(top, logits[i]);
    for (int64_t i = 0; i < V; i++)
      if (weight(s, logits, (int32_t)i, top) < s->min_p) logits[i] = -INFINITY;
  }
  *out = ka_sample(logits, V, s->temperature, seed, index);
  return KA_STATUS_OK;
}
