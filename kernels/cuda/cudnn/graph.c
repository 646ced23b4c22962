/* SPDX-License-Identifier: Apache-2.0
 * See graph.h. Everything in cuDNN's graph interface is a descriptor with attributes. */
#include "kernels/cuda/cudnn/graph.h"

#include <stdio.h>
#include <string.h>

enum { CONFIGS = 8, NOTES = CUDNN_NUMERICAL_NOTE_TYPE_COUNT };

typedef cudnnBackendDescriptor_t descriptor;

struct attribute {
  cudnnBackendAttributeName_t name;
  cudnnBackendAttributeType_t type;
  int64_t n; /* 0: not set */
  const void *value;
};

struct build {
  struct cudnn *c;
  struct cudnn_plan *p; /* owns what is made */
  const struct cudnn_graph *g;
  uint8_t alias[CUDNN_TENSORS];
  descriptor tensors[CUDNN_TENSORS], nodes[CUDNN_NODES], graph;
  int n_nodes;
};

/* --- descriptors ------------------------------------------------------------------------------ */

static bool create(struct build *b, cudnnBackendDescriptorType_t type, descriptor *out) {
  struct cudnn_plan *p = b->p;
  if (p->n_made == CUDNN_MADE) {
    snprintf(b->c->why, sizeof b->c->why, "more than %d descriptors", CUDNN_MADE);
    return false;
  }
  if (!cudnn_good(b->c, b->c->BackendCreateDescriptor(type, out), "a descriptor")) return false;
  p->made[p->n_made++] = *out;
  return true;
}

static bool make(struct build *b, cudnnBackendDescriptorType_t type, descriptor *out,
                 const struct attribute *attributes, size_t n) {
  if (!create(b, type, out)) return false;
  cudnnStatus_t e = CUDNN_STATUS_SUCCESS;
  for (size_t i = 0; i < n && !e; i++) {
    const struct attribute *a = &attributes[i];
    if (a->n) e = b->c->BackendSetAttribute(*out, a->name, a->type, a->n, a->value);
  }
  if (!e) e = b->c->BackendFinalize(*out);
  return cudnn_good(b->c, e, "graph");
}

#define MAKE(b, type, out, ...)                                                                    \
  make(b, type, out, (const struct attribute[]){__VA_ARGS__},                                      \
       sizeof((const struct attribute[]){__VA_ARGS__}) / sizeof(struct attribute))

/* Attributes that are descriptors; one that is NULL is not set. */
#define DESCRIPTOR(name, value)                                                                    \
  { name, CUDNN_TYPE_BACKEND_DESCRIPTOR, *(value) ? 1 : 0, value }

static bool get(struct build *b, descriptor of, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t n, int64_t *got, void *out) {
  return cudnn_good(b->c, b->c->BackendGetAttribute(of, name, type, n, got, out), "graph");
}

/* --- tensors ---------------------------------------------------------------------------------- */

void cudnn_tensor_shape(const struct cudnn_tensor *t, const int64_t *sizes, int64_t dims[4],
                        int64_t strides[4]) {
  for (int i = 0; i < 4; i++) {
    char letter = t->dims[i];
    dims[i] = letter == '1' ? 1 : sizes[(int)letter];
    strides[i] = 1;
    if (letter == '1') continue;
    for (const char *p = strchr(t->memory, letter) + 1; *p; p++) strides[i] *= sizes[(int)*p];
  }
}

static const descriptor *tensor(struct build *b, int i) {
  static const descriptor none = NULL;
  if (i == 0) return &none;
  i = b->alias[i];
  const struct cudnn_tensor *t = &b->g->tensors[i];
  const bool inner = t->kind == CUDNN_INNER, number = t->kind == CUDNN_NUMBER;
  const bool narrow = t->type == CUDNN_DATA_BFLOAT16;
  const int64_t id = i, align = narrow ? 16 : 4;
  int64_t dims[4], strides[4];
  if (b->tensors[i]) return &b->tensors[i];
  cudnn_tensor_shape(t, b->g->sizes, dims, strides);
  bool made = MAKE(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR, &b->tensors[i],
                   {CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id},
                   {CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &t->type},
                   {CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims},
                   {CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides},
                   {CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align},
                   {CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &inner},
                   {CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &number});
  if (!made) return NULL;
  if (!inner) {
    int n = b->p->outside.n++;
    b->p->outside.id[n] = id;
    b->p->outside.bytes[n] = number ? 0 : dims[0] * strides[0] * (narrow ? 2 : 4);
  }
  return &b->tensors[i];
}

/* --- nodes ------------------------------------------------------------------------------------ */

/* What a node is made of. */
struct parts {
  const struct cudnn_node *n;
  const descriptor *y, *x, *b, *t;
  descriptor *out;
  cudnnDataType_t type; /* to compute in */
};

static bool product(struct build *b, struct parts *p) {
  descriptor how;
  return MAKE(b, CUDNN_BACKEND_MATMUL_DESCRIPTOR, &how,
              {CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &p->type}) &&
         MAKE(b, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, p->out,
              DESCRIPTOR(CUDNN_ATTR_OPERATION_MATMUL_DESC, &how),
              DESCRIPTOR(CUDNN_ATTR_OPERATION_MATMUL_ADESC, p->x),
              DESCRIPTOR(CUDNN_ATTR_OPERATION_MATMUL_BDESC, p->b),
              DESCRIPTOR(CUDNN_ATTR_OPERATION_MATMUL_CDESC, p->y));
}

static bool pointwise(struct build *b, struct parts *p) {
  const cudnnPointwiseMode_t mode = (cudnnPointwiseMode_t)p->n->mode;
  const int64_t axis = p->n->axis, indexed = mode == CUDNN_POINTWISE_GEN_INDEX;
  descriptor how;
  if (!MAKE(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, &how,
            {CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode},
            {CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &p->type},
            {CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, indexed, &axis}))
    return false;
  if (mode == CUDNN_POINTWISE_TANH_BWD)
    return MAKE(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, p->out,
                DESCRIPTOR(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &how),
                DESCRIPTOR(CUDNN_ATTR_OPERATION_POINTWISE_DYDESC, p->x),
                DESCRIPTOR(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, p->b),
                DESCRIPTOR(CUDNN_ATTR_OPERATION_POINTWISE_DXDESC, p->y));
  return MAKE(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, p->out,
              DESCRIPTOR(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &how),
              DESCRIPTOR(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, p->x),
              DESCRIPTOR(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, p->b),
              DESCRIPTOR(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, p->t),
              DESCRIPTOR(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, p->y));
}

static bool reduce(struct build *b, struct parts *p) {
  const cudnnReduceTensorOp_t mode = (cudnnReduceTensorOp_t)p->n->mode;
  const bool in_order = true;
  descriptor how;
  return MAKE(b, CUDNN_BACKEND_REDUCTION_DESCRIPTOR, &how,
              {CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode},
              {CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &p->type},
              {CUDNN_ATTR_REDUCTION_IS_DETERMINISTIC, CUDNN_TYPE_BOOLEAN, 1, &in_order}) &&
         MAKE(b, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, p->out,
              DESCRIPTOR(CUDNN_ATTR_OPERATION_REDUCTION_DESC, &how),
              DESCRIPTOR(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, p->x),
              DESCRIPTOR(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, p->y));
}

static bool reshape(struct build *b, struct parts *p) {
  return MAKE(b, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, p->out,
              DESCRIPTOR(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, p->x),
              DESCRIPTOR(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, p->y));
}

bool cudnn_node_wanted(const struct cudnn_node *n, unsigned features) {
  return (n->when & features) == n->when && !(n->unless & features);
}

static bool node(struct build *b, const struct cudnn_node *n) {
  static bool (*const makers[])(struct build *, struct parts *) = {[CUDNN_PRODUCT] = product,
                                                                   [CUDNN_POINTWISE] = pointwise,
                                                                   [CUDNN_REDUCE] = reduce,
                                                                   [CUDNN_RESHAPE] = reshape};
  bool wanted = cudnn_node_wanted(n, b->g->features);
  b->alias[n->y] = wanted ? n->y : b->alias[n->x];
  if (!wanted) return true;
  struct parts p = {.n = n,
                    .y = tensor(b, n->y),
                    .x = tensor(b, n->x),
                    .b = tensor(b, n->b),
                    .t = tensor(b, n->t),
                    .out = &b->nodes[b->n_nodes++]};
  if (!p.y || !p.x || !p.b || !p.t) return false;
  bool truth = b->g->tensors[n->y].type == CUDNN_DATA_BOOLEAN;
  p.type = truth ? CUDNN_DATA_BOOLEAN : CUDNN_DATA_FLOAT;
  return makers[n->op](b, &p);
}

static bool graph(struct build *b, struct cudnn *c, struct cudnn_plan *p,
                  const struct cudnn_graph *g) {
  *b = (struct build){.c = c, .p = p, .g = g};
  *p = (struct cudnn_plan){0};
  for (int i = 0; i < CUDNN_TENSORS; i++) b->alias[i] = (uint8_t)i;
  for (const struct cudnn_node *n = g->nodes; n->op; n++)
    if (b->n_nodes == CUDNN_NODES || !node(b, n)) return false;
  return MAKE(b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, &b->graph,
              {CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, b->n_nodes, b->nodes},
              {CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, c->handle ? 1 : 0, &c->handle});
}

/* --- plans ------------------------------------------------------------------------------------ */

/* The engine configurations of which cuDNN says that they take the graph, the best first. */
static int configs_of(struct build *b, cudnnBackendHeurMode_t mode, descriptor configs[CONFIGS]) {
  descriptor h;
  int64_t n = 0;
  if (!MAKE(b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &h,
            DESCRIPTOR(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &b->graph),
            {CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode},
            DESCRIPTOR(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, &b->c->device)))
    return 0;
  for (int i = 0; i < CONFIGS; i++)
    if (!create(b, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[i])) return 0;
  if (!get(b, h, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGS, &n,
           configs))
    return 0;
  return (int)n;
}

static bool repeats(struct build *b, descriptor config) {
  cudnnBackendNumericalNote_t notes[NOTES];
  descriptor engine;
  int64_t n = 0;
  if (!create(b, CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) ||
      !get(b, config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine) ||
      !get(b, engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, NOTES, &n,
           notes))
    return false;
  for (int64_t i = 0; i < n; i++)
    if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) {
      snprintf(b->c->why, sizeof b->c->why, "its results vary from run to run");
      return false;
    }
  return true;
}

static bool plan(struct build *b, descriptor config, int64_t workspace_bytes) {
  struct cudnn_plan *p = b->p;
  int64_t n = 0;
  if (!MAKE(b, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &p->plan,
            DESCRIPTOR(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &config),
            DESCRIPTOR(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, &b->c->device)) ||
      !get(b, p->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n,
           &p->workspace_bytes))
    return false;
  if (p->workspace_bytes <= workspace_bytes) return true;
  snprintf(b->c->why, sizeof b->c->why, "it needs %.1f MiB of workspace, more than %.1f",
           (double)p->workspace_bytes / 0x1p20, (double)workspace_bytes / 0x1p20);
  return false;
}

/* workspace_bytes < 0: only whether there is an engine. */
static bool find(struct build *b, int64_t workspace_bytes) {
  static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
  snprintf(b->c->why, sizeof b->c->why, "no engine takes it; CUDNN_LOGLEVEL_DBG=2 tells why");
  for (int m = 0; m < 2; m++) {
    descriptor configs[CONFIGS];
    int n = configs_of(b, modes[m], configs);
    for (int i = 0; i < n; i++)
      if (repeats(b, configs[i]) && (workspace_bytes < 0 || plan(b, configs[i], workspace_bytes)))
        return true;
  }
  return false;
}

bool cudnn_graph_accepted(struct cudnn *c, const struct cudnn_graph *g) {
  struct cudnn_plan p;
  struct build b;
  bool accepted = graph(&b, c, &p, g) && find(&b, -1);
  cudnn_plan_free(c, &p);
  return accepted;
}

bool cudnn_plan_make(struct cudnn *c, struct cudnn_plan *p, const struct cudnn_graph *g,
                     int64_t workspace_bytes) {
  struct build b;
  if (graph(&b, c, p, g) && find(&b, workspace_bytes)) return true;
  cudnn_plan_free(c, p);
  return false;
}

void cudnn_plan_free(struct cudnn *c, struct cudnn_plan *p) {
  while (p->n_made > 0) (void)c->BackendDestroyDescriptor(p->made[--p->n_made]);
  p->plan = NULL;
}

bool cudnn_plan_run(struct cudnn *c, const struct cudnn_plan *p, void *const *at, int64_t block,
                    void *workspace) {
  struct cudnn_plan own = {0};
  struct build b = {.c = c, .p = &own};
  void *pointers[CUDNN_TENSORS];
  descriptor pack;
  int n = p->outside.n;
  for (int i = 0; i < n; i++)
    pointers[i] = (char *)at[p->outside.id[i]] + block * p->outside.bytes[i];
  bool good = MAKE(&b, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack,
                   {CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, p->outside.id},
                   {CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, pointers},
                   {CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace}) &&
              cudnn_good(c, c->BackendExecute(c->handle, p->plan, pack), "execution");
  cudnn_plan_free(c, &own);
  return good;
}
