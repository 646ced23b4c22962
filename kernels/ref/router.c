/* SPDX-License-Identifier: Apache-2.0
 * Routing of tokens to experts, and the load-balancing loss (Fedus, Zoph and Shazeer 2021, eq. 4;
 * groups and the bias of the choice: DeepSeek-V3, section 2.1.2). */
#include "kernels/ref/ref.h"

#include <math.h>

/* The best of n values that are not taken, ties to the lower index, NaN below everything. */
static int64_t best_of(const double *value, const bool *taken, int64_t n) {
  int64_t best = -1;
  double top = 0;
  for (int64_t i = 0; i < n; i++) {
    double v = isnan(value[i]) ? -INFINITY : value[i];
    if (taken[i] || (best >= 0 && !(v > top))) continue;
    best = i;
    top = v;
  }
  return best;
}

static void take_closed_groups(const struct ka_router_fwd_args *args, const double *choice,
                               bool *taken) {
  double rank[64];
  bool open[64] = {0}, none[1024] = {0};
  int64_t n_group = args->n_group, size = args->logits.shape[1] / n_group;
  for (int64_t g = 0; g < n_group; g++) {
    const double *c = choice + g * size;
    bool *mine = none + g * size;
    int64_t first = best_of(c, mine, size);
    rank[g] = c[first];
    mine[first] = true;
    if (args->group_by_two && size > 1) rank[g] += c[best_of(c, mine, size)];
  }
  for (int64_t j = 0; j < args->topk_group; j++) open[best_of(rank, open, n_group)] = true;
  for (int64_t e = 0; e < n_group * size; e++) taken[e] = !open[e / size];
}

static void score_row(const struct ka_router_fwd_args *args, int64_t t, double *score) {
  int64_t n = args->logits.shape[1];
  double max = -INFINITY, sum = 0;
  for (int64_t e = 0; e < n; e++) {
    score[e] = get2(&args->logits, t, e);
    if (score[e] > max || isnan(score[e])) max = score[e];
  }
  for (int64_t e = 0; e < n; e++) {
    bool soft = args->kind == KA_ROUTER_SOFTMAX;
    score[e] = soft ? exp(score[e] - max) : 1 / (1 + exp(-score[e]));
    sum += score[e];
  }
  for (int64_t e = 0; e < n; e++) {
    if (args->kind == KA_ROUTER_SOFTMAX) score[e] /= sum;
    put2(&args->scores, t, e, score[e]);
  }
}

static void route(const struct ka_router_fwd_args *args, int64_t t) {
  int64_t n = args->logits.shape[1], n_top = args->index.shape[1];
  double score[1024], choice[1024], sum = 0;
  bool taken[1024] = {0}, by_score = args->kind == KA_ROUTER_SIGMOID || args->bias.data;
  score_row(args, t, score);
  for (int64_t e = 0; e < n; e++)
    choice[e] = by_score ? score[e] + (args->bias.data ? get(&args->bias, e) : 0)
                         : get2(&args->logits, t, e);
  if (args->n_group > 1) take_closed_groups(args, choice, taken);
  int32_t *index = (int32_t *)args->index.data + t * n_top;
  for (int64_t j = 0; j < n_top; j++) {
    index[j] = (int32_t)best_of(choice, taken, n);
    taken[index[j]] = true;
    sum += score[index[j]];
  }
  for (int64_t j = 0; j < n_top; j++)
    put2(&args->weight, t, j, args->factor * score[index[j]] / (args->normalise ? sum : 1));
}

ka_status router_fwd_ref(struct ka_dev *dev, const struct ka_router_fwd_args *args) {
  (void)dev;
#pragma omp parallel for
  for (int64_t t = 0; t < args->logits.shape[0]; t++) route(args, t);
  return KA_STATUS_OK;
}

/* Gradient of the scores of one token. */
static void score_gradient(const struct ka_router_bwd_args *args, int64_t t, double *ds) {
  int64_t n = args->scores.shape[1], n_top = args->index.shape[1];
  bool live = !args->live.data || get_id(&args->live, t) != 0;
  double sum = 0, dot = 0, load = args->load_factor;
  if (args->scale.data) load *= get(&args->scale, 0);
  for (int64_t e = 0; e < n; e++)
    ds[e] = args->count.data && live ? load * get(&args->count, e) : 0;
  for (int64_t j = 0; j < n_top && args->dweight.data; j++) {
    double s = get2(&args->scores, t, get_id(&args->index, t * n_top + j));
    sum += s;
    dot += s * get2(&args->dweight, t, j);
  }
  for (int64_t j = 0; j < n_top && args->dweight.data; j++) {
    double d = get2(&args->dweight, t, j);
    ds[get_id(&args->index, t * n_top + j)] +=
        args->factor * (args->normalise ? d / sum - dot / (sum * sum) : d);
  }
}

ka_status router_bwd_ref(struct ka_dev *dev, const struct ka_router_bwd_args *args) {
  (void)dev;
  int64_t n = args->scores.shape[1];
#pragma omp parallel for
  for (int64_t t = 0; t < args->scores.shape[0]; t++) {
    double ds[1024], dot = 0;
    score_gradient(args, t, ds);
    for (int64_t e = 0; e < n; e++) dot += ds[e] * get2(&args->scores, t, e);
    for (int64_t e = 0; e < n; e++) {
      double s = get2(&args->scores, t, e);
      put2(&args->dlogits, t, e,
           args->kind == KA_ROUTER_SOFTMAX ? s * (ds[e] - dot) : s * (1 - s) * ds[e]);
    }
  }
  return KA_STATUS_OK;
}

ka_status router_load_ref(struct ka_dev *dev, const struct ka_router_load_args *args) {
  (void)dev;
  int64_t n = args->scores.shape[1], n_top = args->index.shape[1];
  double *count = args->count.data, *score_sum = args->score_sum.data;
#pragma omp parallel for
  for (int64_t e = 0; e < n; e++)
    for (int64_t t = 0; t < args->scores.shape[0]; t++) {
      if (args->live.data && get_id(&args->live, t) == 0) continue;
      score_sum[e] += get2(&args->scores, t, e);
      for (int64_t j = 0; j < n_top; j++) count[e] += get_id(&args->index, t * n_top + j) == e;
    }
  return KA_STATUS_OK;
}

ka_status router_loss_ref(struct ka_dev *dev, const struct ka_router_loss_args *args) {
  (void)dev;
  double sum = 0;
  for (int64_t e = 0; e < args->count.shape[0]; e++)
    sum += get(&args->count, e) * get(&args->score_sum, e);
  if (args->scale.data) sum *= get(&args->scale, 0);
  inc(&args->loss, 0, args->load_factor * sum);
  return KA_STATUS_OK;
}
