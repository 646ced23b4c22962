/* SPDX-License-Identifier: Apache-2.0
 * What all branches share; see branch.h. The tables of activations, a kind's and the one here, say
 * what there is; who keeps what is decided once, by the same code that measures. */
#include "engine/model/branch.h"

#include "engine/model/buffers.h"

#include <math.h>

#include <string.h>

static const struct ka_value own_acts[] = {
    KA_VALUE(ka_branch_acts, s, C),
    KA_VALUE_STAT(ka_branch_acts, mean, ONE),
    KA_VALUE_STAT(ka_branch_acts, rstd, ONE),
    KA_VALUE(ka_branch_acts, y, C),
    KA_VALUE_STAT(ka_branch_acts, post_mean, ONE),
    KA_VALUE_STAT(ka_branch_acts, post_rstd, ONE),
    {0},
};
enum { OWN_S, OWN_MEAN, OWN_RSTD, OWN_Y, OWN_POST_MEAN, OWN_POST_RSTD, N_OWN };

/* The norms before and after a branch, by its place. */
struct norms {
  struct ka_norm pre, post;
};
static struct norms norms_of(const struct ka_layer_weights *w, int place) {
  return place == 0 ? (struct norms){{w->attn_norm, w->attn_norm_bias}, {w->attn_post_norm, NULL}}
                    : (struct norms){{w->ffn_norm, w->ffn_norm_bias}, {w->ffn_post_norm, NULL}};
}

bool ka_branch_norm(enum ka_role role) {
  return role == KA_ROLE_ATTN_NORM || role == KA_ROLE_ATTN_NORM_BIAS ||
         role == KA_ROLE_ATTN_POST_NORM || role == KA_ROLE_FFN_NORM ||
         role == KA_ROLE_FFN_NORM_BIAS || role == KA_ROLE_FFN_POST_NORM;
}

void ka_branches_kv_width(const struct ka_recipe *r, int64_t layer, int64_t width[2]) {
  width[0] = width[1] = 0;
  for (int i = 0; i < KA_BRANCHES; i++) {
    const struct ka_branch_kind *kind = r->layers[layer].branch[i];
    if (kind->kv_width) kind->kv_width(r, width);
  }
}

/* --- what is needed and kept ------------------------------------------------------------------ */

static void needs_of(const struct ka_branch_kind *kind, const struct ka_layer_weights *w, int place,
                     bool below, struct ka_branch_needs *n) {
  struct norms norms = norms_of(w, place);
  *n = (struct ka_branch_needs){.below = below};
  n->input = below || KA_TRAINED(norms.pre.w, norms.pre.bias);
  kind->needs(w, n);
  n->any = n->grad || KA_TRAINED(norms.post.w, norms.post.bias);
}

void ka_branches_needs(struct ka_model *m, struct ka_stack *s, bool below) {
  int64_t L = s->recipe->L;
  s->lowest = below ? -1 : L;
  for (int64_t l = 0; l < L; l++) {
    struct ka_layer *layer = &s->layers[l];
    bool here = below;
    for (int i = 0; i < KA_BRANCHES; i++) {
      struct ka_branch_needs *n = &layer->branch[i].needs;
      needs_of(s->recipe->layers[l].branch[i], &m->weights->layers[KA_TUNED][l], i, here, n);
      here = here || n->any;
    }
    if (here && s->lowest == L) s->lowest = l;
    below = here;
    int64_t lowest = s->lowest > 0 ? s->lowest : 0;
    layer->recompute = here && l - lowest < m->recompute;
  }
}

/* keep[] of own_acts. start: somebody starts again from the branch's input. */
static void own_keeps(const struct ka_recipe *r, const struct ka_layer_weights *w, int place,
                      const struct ka_branch_needs *n, bool start, enum ka_keep *keep) {
  struct norms norms = norms_of(w, place);
  bool pre = norms.pre.w != NULL, post = norms.post.w != NULL;
  keep[OWN_S] = start || n->reads_h || (pre && n->input) ? KA_KEPT : KA_SHARED;
  keep[OWN_RSTD] = pre && n->input ? KA_KEPT : KA_ABSENT;
  keep[OWN_MEAN] = r->layer_norm ? keep[OWN_RSTD] : KA_ABSENT;
  keep[OWN_Y] = !post ? KA_ABSENT : n->any ? KA_KEPT : KA_SHARED;
  keep[OWN_POST_RSTD] = post && n->any ? KA_KEPT : KA_ABSENT;
  keep[OWN_POST_MEAN] = r->layer_norm ? keep[OWN_POST_RSTD] : KA_ABSENT;
}

/* --- memory ----------------------------------------------------------------------------------- */

/* One table of activations of one set of branches, with what its values need. */
struct table {
  struct ka_branch_set *set;
  const struct ka_value *acts;
  bool own; /* own_acts, else the kind's */
  bool shared[KA_MAX_VALUES], full[KA_MAX_VALUES];
};

static struct ka_tensor *value(const struct table *t, struct ka_branch *b, int i) {
  char *acts = t->own ? (char *)&b->own : b->acts;
  return (struct ka_tensor *)(void *)(acts + t->acts[i].at);
}

static void keeps_of(const struct ka_model *m, const struct ka_stack *s, int64_t l,
                     const struct table *t, bool backward, enum ka_keep *keep) {
  static const struct ka_branch_needs none;
  int place = t->set->place;
  const struct ka_layer *layer = &s->layers[l];
  const struct ka_layer_weights *w = &m->weights->layers[KA_TUNED][l];
  const struct ka_branch_needs *needs = backward ? &layer->branch[place].needs : &none;
  bool start = backward && place == 0 && (layer->recompute || l == s->base);
  if (t->own)
    own_keeps(s->recipe, w, place, needs, start, keep);
  else
    t->set->kind->keeps(s->recipe, w, needs, keep);
}

static struct ka_branch_set *set_of(struct ka_stack *s, int64_t l, int place) {
  const struct ka_branch_kind *kind = s->recipe->layers[l].branch[place];
  int i = 0;
  while (i < s->n_sets && (s->sets[i].kind != kind || s->sets[i].place != place)) i++;
  if (i == s->n_sets) s->sets[s->n_sets++] = (struct ka_branch_set){.kind = kind, .place = place};
  return &s->sets[i];
}

struct ka_branch *ka_branch_shared(struct ka_stack *s, int64_t layer, int place) {
  return &set_of(s, layer, place)->shared;
}

/* Where a value of a layer lies. */
enum where { NOWHERE, SHARED, FULL, OWN };
static enum where where_of(const struct table *t, const struct ka_layer *layer, int i,
                           enum ka_keep keep) {
  bool start = t->own && i == OWN_S && t->set->place == 0; /* a block is recomputed from there */
  if (keep == KA_ABSENT) return NOWHERE;
  if (keep == KA_KEPT) return layer->recompute && !start ? FULL : OWN;
  return layer->recompute && t->full[i] ? FULL : SHARED;
}

static void count_uses(struct ka_model *m, struct ka_stack *s, struct table *t) {
  enum ka_keep keep[KA_MAX_VALUES];
  for (int pass = 0; pass < 2; pass++)
    for (int64_t l = 0; l < s->recipe->L; l++) {
      if (set_of(s, l, t->set->place) != t->set) continue;
      keeps_of(m, s, l, t, true, keep);
      for (int i = 0; t->acts[i].name; i++) {
        enum where where = where_of(t, &s->layers[l], i, keep[i]);
        if (where == FULL) t->full[i] = true;
        if (where == SHARED && pass == 1) t->shared[i] = true;
      }
      if (l < s->base) continue; /* the base's pass works in the shared set alone */
      keeps_of(m, s, l, t, false, keep);
      for (int i = 0; t->acts[i].name; i++) t->shared[i] = t->shared[i] || keep[i] == KA_SHARED;
    }
}

static ka_status alloc(struct ka_model *m, const struct ka_recipe *r, const struct table *t,
                       struct ka_branch *b, int i, const char *name) {
  const struct ka_value *a = &t->acts[i];
  enum ka_dtype dtype = a->is_int ? KA_I32 : a->is_stat ? ka_accum_dtype(m) : m->compute;
  int64_t rows = a->once ? 1 : m->buffers->B * m->buffers->T;
  return ka_tensor_alloc(&m->step, value(t, b, i), name, dtype, 2,
                         (int64_t[]){rows, ka_recipe_dim(r, a->width)});
}

static ka_status plan_sets(struct ka_model *m, struct ka_stack *s, struct table *t) {
  struct ka_ctx *ctx = m->ctx;
  for (int i = 0; t->acts[i].name; i++) {
    bool sum = t->own && i == OWN_S; /* one for all: a sum may take the place of its addend */
    if (t->shared[i] && (!sum || s->sum.n_dim == 0))
      KA_TRY(alloc(m, s->recipe, t, &t->set->shared, i, "scratch"));
    if (t->shared[i] && sum && s->sum.n_dim == 0) s->sum = t->set->shared.own.s;
    if (sum) t->set->shared.own.s = s->sum;
    if (t->full[i]) KA_TRY(alloc(m, s->recipe, t, &t->set->full, i, "activations"));
  }
  return KA_STATUS_OK;
}

static ka_status plan_layers(struct ka_model *m, struct ka_stack *s, const struct table *t) {
  struct ka_ctx *ctx = m->ctx;
  enum ka_keep keep[KA_MAX_VALUES];
  for (int64_t l = 0; l < s->recipe->L; l++) {
    struct ka_branch *b = &s->layers[l].branch[t->set->place];
    if (set_of(s, l, t->set->place) != t->set) continue;
    keeps_of(m, s, l, t, true, keep);
    for (int i = 0; t->acts[i].name; i++) {
      enum where where = where_of(t, &s->layers[l], i, keep[i]);
      struct ka_tensor *v = value(t, b, i);
      *v = where == SHARED ? *value(t, &t->set->shared, i)
           : where == FULL ? *value(t, &t->set->full, i)
                           : (struct ka_tensor){0};
      if (where == OWN) KA_TRY(alloc(m, s->recipe, t, b, i, "activations"));
    }
  }
  return KA_STATUS_OK;
}

ka_status ka_branches_plan(struct ka_model *m, struct ka_stack *s) {
  struct ka_ctx *ctx = m->ctx;
  s->n_sets = 0;
  s->sum = (struct ka_tensor){0};
  for (int64_t l = 0; l < s->recipe->L; l++)
    for (int i = 0; i < KA_BRANCHES; i++) (void)set_of(s, l, i);
  for (int i = 0; i < 2 * s->n_sets; i++) {
    bool own = i % 2 == 0;
    struct ka_branch_set *set = &s->sets[i / 2];
    struct table t = {.set = set, .acts = own ? own_acts : set->kind->acts, .own = own};
    count_uses(m, s, &t);
    KA_TRY(plan_sets(m, s, &t));
    KA_TRY(plan_layers(m, s, &t));
  }
  for (int i = 0; i < s->n_sets; i++) s->sets[i].shared.own.s = s->sum;
  return KA_STATUS_OK;
}

static void set_rows(struct ka_branch *b, const struct ka_branch_kind *kind, int64_t N) {
  struct table t = {.acts = own_acts, .own = true};
  for (int i = 0; t.acts[i].name; i++) value(&t, b, i)->shape[0] = N;
  t = (struct table){.acts = kind->acts};
  for (int i = 0; t.acts[i].name; i++)
    if (!t.acts[i].once) value(&t, b, i)->shape[0] = N;
}

void ka_branches_begin(struct ka_model *m, struct ka_stack *s) {
  int64_t N = m->buffers->batch_B * m->buffers->batch_T;
  for (int i = 0; i < s->n_sets; i++) set_rows(&s->sets[i].shared, s->sets[i].kind, N);
  for (int64_t l = 0; l < s->recipe->L; l++)
    for (int i = 0; i < KA_BRANCHES; i++)
      set_rows(&s->layers[l].branch[i], s->recipe->layers[l].branch[i], N);
}

/* --- the passes ------------------------------------------------------------------------------- */

static struct ka_tensor stream(const struct ka_branch_call *c, void *data) {
  return ka_mat(c->m, data, c->N, c->r->C);
}

/* out = a + b, contiguous matrices. */
static ka_status add(struct ka_model *m, struct ka_tensor out, struct ka_tensor a,
                     struct ka_tensor b) {
  int64_t n = ka_tensor_elems(&out);
  return ka_add(m->dev, &(struct ka_add_args){.out = ka_tensor_1d(out.data, m->compute, n),
                                              .a = ka_tensor_1d(a.data, m->compute, n),
                                              .b = ka_tensor_1d(b.data, m->compute, n)});
}

/* x *= residual_scale. */
static ka_status scale(const struct ka_branch_call *c, struct ka_tensor x) {
  if (c->r->residual_scale == 1) return KA_STATUS_OK;
  return ka_scale(c->m->dev, &(struct ka_scale_args){
                                 .x = ka_tensor_1d(x.data, c->m->compute, ka_tensor_elems(&x)),
                                 .value = c->r->residual_scale});
}

static struct ka_norm_stats stats_of(struct ka_tensor mean, struct ka_tensor rstd) {
  return (struct ka_norm_stats){mean.data, rstd.data};
}

ka_status ka_branch_fwd(const struct ka_branch_call *c, struct ka_stream *x) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  const struct ka_branch_acts *a = &c->branch->own;
  struct norms norms = norms_of(c->w, c->place);
  struct ka_tensor in = stream(c, x->x), delta = stream(c, b->delta);
  struct ka_tensor s = x->delta ? stream(c, a->s.data) : in;
  struct ka_tensor h = norms.pre.w ? stream(c, b->h) : s, y = norms.post.w ? a->y : delta;
  if (norms.pre.w)
    KA_TRY(ka_norm_fwd(m, h, stats_of(a->mean, a->rstd), in, x->delta ? s.data : NULL, norms.pre));
  else if (x->delta)
    KA_TRY(add(m, s, in, delta));
  KA_TRY(c->layer->branch[c->place]->fwd(c, y, h));
  if (norms.post.w)
    KA_TRY(ka_norm_fwd(m, delta, stats_of(a->post_mean, a->post_rstd), y, NULL, norms.post));
  KA_TRY(scale(c, delta));
  *x = (struct ka_stream){s.data, true};
  return KA_STATUS_OK;
}

ka_status ka_branch_h(const struct ka_branch_call *c, struct ka_tensor *h) {
  const struct ka_branch_acts *a = &c->branch->own;
  struct norms norms = norms_of(c->w, c->place);
  *h = norms.pre.w ? stream(c, c->m->buffers->h) : a->s;
  if (!norms.pre.w) return KA_STATUS_OK;
  return ka_norm_fwd(c->m, *h, (struct ka_norm_stats){0}, a->s, NULL, norms.pre);
}

void ka_kv_behind(const struct ka_branch_call *c, struct ka_tensor *k, struct ka_tensor *v) {
  struct ka_tensor *const fresh[] = {k, v};
  void *const past[] = {c->kv->k, c->kv->v};
  for (int i = 0; i < 2; i++) {
    int64_t at = c->kv->past * fresh[i]->shape[1];
    fresh[i]->data = (char *)past[i] + (size_t)at * ka_dtype_bytes(c->m->compute);
  }
}

ka_status ka_kv_append(const struct ka_branch_call *c, struct ka_tensor k, struct ka_tensor v) {
  struct ka_ctx *ctx = c->m->ctx;
  const struct ka_tensor fresh[] = {k, v};
  void *const past[] = {c->kv->k, c->kv->v};
  for (int i = 0; i < 2; i++) {
    int64_t width = fresh[i].shape[1], n = c->T * width;
    struct ka_tensor all = ka_mat(c->m, past[i], c->B, c->kv->capacity * width);
    struct ka_tensor out = ka_tensor_slice(all, 0, c->B, c->kv->past * width, n);
    KA_TRY(ka_copy(c->m->dev,
                   &(struct ka_copy_args){.out = out, .in = ka_mat(c->m, fresh[i].data, c->B, n)}));
  }
  return KA_STATUS_OK;
}

ka_status ka_branch_bwd(const struct ka_branch_call *c) {
  struct ka_model *m = c->m;
  struct ka_ctx *ctx = m->ctx;
  struct ka_model_buffers *b = m->buffers;
  const struct ka_branch_acts *a = &c->branch->own;
  struct norms norms = norms_of(c->w, c->place);
  struct ka_tensor dx = stream(c, b->dx), dh = stream(c, b->delta), dy = dx;
  if (!c->needs->any) return KA_STATUS_OK;
  if (c->r->residual_scale != 1) {
    dy = stream(c, b->dy);
    KA_TRY(ka_copy(m->dev, &(struct ka_copy_args){.out = dy, .in = dx}));
    KA_TRY(scale(c, dy));
  }
  if (norms.post.w) {
    struct ka_tensor above = dy;
    dy = stream(c, b->dy);
    KA_TRY(
        ka_norm_bwd(m, dy, above, a->y, stats_of(a->post_mean, a->post_rstd), norms.post, false));
  }
  if (!c->needs->grad) return KA_STATUS_OK;
  KA_TRY(c->layer->branch[c->place]->bwd(c, dh, dy));
  if (!c->needs->input) return KA_STATUS_OK;
  if (norms.pre.w) return ka_norm_bwd(m, dx, dh, a->s, stats_of(a->mean, a->rstd), norms.pre, true);
  return add(m, dx, dx, dh);
}

double ka_model_key_flops(const struct ka_model *m, int64_t first, double S) {
  const struct ka_recipe *r = &m->recipe;
  double n = 0;
  for (int64_t l = first; l < r->L; l++) {
    const struct ka_layer_recipe *layer = &r->layers[l];
    double seen = layer->window > 0 ? fmin(S, (double)layer->window) : S;
    for (int i = 0; i < KA_BRANCHES; i++)
      if (layer->branch[i]->flops) n += layer->branch[i]->flops(r, seen);
  }
  return n;
}
