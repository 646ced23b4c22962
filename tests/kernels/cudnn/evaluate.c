/* SPDX-License-Identifier: Apache-2.0
 * See evaluate.h. */
#include "tests/kernels/cudnn/evaluate.h"

#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>

struct value {
  int64_t dims[4], strides[4];
  double *data;
};

/* The element that stands for element `index` of a tensor of these sizes: sizes that differ by a
 * factor go in groups. */
static double *element(const struct value *v, const int64_t index[4], const int64_t dims[4]) {
  int64_t at = 0;
  for (int i = 0; i < 4; i++) at += index[i] * v->dims[i] / dims[i] * v->strides[i];
  return &v->data[at];
}

static bool next(int64_t index[4], const int64_t dims[4]) {
  for (int i = 3; i >= 0; i--) {
    if (++index[i] < dims[i]) return true;
    index[i] = 0;
  }
  return false;
}

static void product(struct value *y, const struct value *x, const struct value *b) {
  int64_t i[4] = {0};
  do {
    double sum = 0;
    for (int64_t k = 0; k < x->dims[3]; k++)
      sum += *element(x, (int64_t[]){i[0], i[1], i[2], k},
                      (int64_t[]){y->dims[0], y->dims[1], y->dims[2], x->dims[3]}) *
             *element(b, (int64_t[]){i[0], i[1], k, i[3]},
                      (int64_t[]){y->dims[0], y->dims[1], b->dims[2], y->dims[3]});
    *element(y, i, y->dims) = sum;
  } while (next(i, y->dims));
}

static double point(int mode, double x, double b, double t) {
  switch (mode) {
  case CUDNN_POINTWISE_ADD:
    return x + b;
  case CUDNN_POINTWISE_SUB:
    return x - b;
  case CUDNN_POINTWISE_MUL:
    return x * b;
  case CUDNN_POINTWISE_DIV:
    return x / b;
  case CUDNN_POINTWISE_EXP:
    return exp(x);
  case CUDNN_POINTWISE_LOG:
    return log(x);
  case CUDNN_POINTWISE_TANH_FWD:
    return tanh(x);
  case CUDNN_POINTWISE_TANH_BWD:
    return x * (1 - tanh(b) * tanh(b));
  case CUDNN_POINTWISE_CMP_GE:
    return x >= b;
  case CUDNN_POINTWISE_CMP_GT:
    return x > b;
  case CUDNN_POINTWISE_BINARY_SELECT:
    return t != 0 ? x : b;
  }
  fail_msg("pointwise mode %d is not known here", mode);
  return NAN;
}

static void pointwise(const struct cudnn_node *n, struct value *y, const struct value *x,
                      const struct value *b, const struct value *t) {
  int64_t i[4] = {0};
  do {
    double xv = *element(x, i, y->dims), bv = n->b ? *element(b, i, y->dims) : 0,
           tv = n->t ? *element(t, i, y->dims) : 0;
    *element(y, i, y->dims) =
        n->mode == CUDNN_POINTWISE_GEN_INDEX ? (double)i[n->axis] : point(n->mode, xv, bv, tv);
  } while (next(i, y->dims));
}

static void reduce(const struct cudnn_node *n, struct value *y, const struct value *x) {
  int64_t i[4] = {0};
  bool max = n->mode == CUDNN_REDUCE_TENSOR_MAX;
  do *element(y, i, y->dims) = max ? -INFINITY : 0;
  while (next(i, y->dims));
  do {
    double *to = element(y, i, x->dims), v = *element(x, i, x->dims);
    *to = max ? fmax(*to, v) : *to + v;
  } while (next(i, x->dims));
}

void evaluate(const struct cudnn_graph *g, double *const at[CUDNN_TENSORS]) {
  struct value values[CUDNN_TENSORS] = {0};
  double *owned[CUDNN_TENSORS] = {0};
  int alias[CUDNN_TENSORS];
  for (int i = 0; i < CUDNN_TENSORS; i++) {
    const struct cudnn_tensor *t = &g->tensors[i];
    struct value *v = &values[i];
    alias[i] = i;
    if (!t->dims) continue;
    cudnn_tensor_shape(t, g->sizes, v->dims, v->strides);
    size_t n = (size_t)(v->dims[0] * v->dims[1] * v->dims[2] * v->dims[3]);
    v->data = t->kind == CUDNN_INNER ? owned[i] = calloc(n, sizeof(double)) : at[i];
  }
  for (const struct cudnn_node *n = g->nodes; n->op; n++) {
    bool wanted = cudnn_node_wanted(n, g->features);
    alias[n->y] = wanted ? n->y : alias[n->x];
    if (!wanted) continue;
    struct value *y = &values[n->y], *x = &values[alias[n->x]], *b = &values[alias[n->b]];
    if (n->op == CUDNN_PRODUCT) product(y, x, b);
    if (n->op == CUDNN_POINTWISE) pointwise(n, y, x, b, &values[alias[n->t]]);
    if (n->op == CUDNN_REDUCE) reduce(n, y, x);
    if (n->op == CUDNN_RESHAPE) y->data = x->data; /* the same memory in other words */
  }
  for (int i = 0; i < CUDNN_TENSORS; i++) free(owned[i]);
}
