/* SPDX-License-Identifier: Apache-2.0
 * See plan_ranks.h; docs/scaling.md has the formulas. */
#include "engine/train/plan_ranks.h"

#include <math.h>

/* How often a step of n_rounds gathers the layers: up, and down to the lowest that is trained, but
 * for two that are still there at a turn; the base's pass in between leaves none of them at the
 * top. */
static double gatherings(const struct ka_model *m, double n_rounds) {
  double L = (double)m->recipe.L, low = fmax(0, (double)m->lowest_trained_layer), back = L - low;
  bool anchored = ka_model_reads_base(m);
  double up = low > 0 ? L * n_rounds : (L - 2) * n_rounds + 2;
  return (up + n_rounds * (anchored ? 2 * back : fmax(0, back - 2))) / L;
}

/* Bytes of a step over a ring, with `trained` parameters of which `layered` lie in split layers of
 * layer_bytes. */
static double bytes_of(const struct ka_run *r, double n, double n_rounds, double trained,
                       double layered, double layer_bytes) {
  const struct ka_model *m = &r->open.model;
  double size = (double)ka_dtype_bytes(m->compute), once = (n - 1) / n;
  double n_gathered = gatherings(m, n_rounds);
  if (r->shard == KA_SHARD_NONE) return once * 2 * 4 * trained;
  double rest = once * (4 + size) * (trained - layered);
  return rest + once * (n_gathered * layer_bytes + 4 * n_rounds * layered);
}

struct ka_plan_ranks ka_plan_ranks_of(const struct ka_run *r, const struct ka_plan_figures *f,
                                      double link) {
  const struct ka_model *m = &r->open.model;
  double n = (double)r->options.n_ranks, micro = (double)r->loop.accumulation;
  double n_rounds = ceil(micro / n), layer_bytes = 0, layered = 0, all_layered = 0;
  struct ka_plan_ranks out = {.n = r->options.n_ranks, .n_rounds = (int64_t)n_rounds};
  for (int64_t i = 0; i < m->n_params; i++)
    if (m->params[i].split) layer_bytes += (double)ka_tensor_bytes(&m->params[i].weight);
  for (int64_t i = 0; i < m->n_slices; i++)
    if (m->params[m->slices[i].param].split)
      layered += (double)(m->slices[i].n_rows * m->slices[i].n_cols);
  for (int64_t i = 0; i < m->n_params && m->shards.weights; i++)
    if (m->params[i].layer >= 0) all_layered += (double)ka_tensor_elems(&m->params[i].stored);
  out.wire_bytes = bytes_of(r, n, n_rounds, (double)ka_model_n_trained(m), layered, layer_bytes);
  out.full_bytes = bytes_of(r, n, n_rounds, (double)ka_model_n_elems(m), all_layered,
                            all_layered * (double)ka_dtype_bytes(m->compute));
  if (link > 0) out.wire_s = out.wire_bytes / (link * 1e9);
  if (!f->timed || link <= 0) return out;
  double one = f->flops / (double)ka_loop_n_micro(&r->loop) / (0.5 * f->rate);
  out.compute_s = n_rounds * one;
  out.least = micro * one / (n * (out.compute_s + out.wire_s));
  out.most = micro * one / (n * fmax(out.compute_s, out.wire_s));
  return out;
}
