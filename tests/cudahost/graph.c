/* SPDX-License-Identifier: Apache-2.0
 *
 * Captures and graphs. A capturing stream puts its ops into a graph instead of its queue; `last` is
 * the set of nodes that its next op depends on. Events carry such sets to other streams, which join
 * the capture by waiting. A launched graph is one op that runs the nodes in an order that their
 * dependencies allow: the first possible one with order=eager, the last one otherwise, so that a
 * missing edge shows. What captures forbid is forbidden here, and ends the capture, as in reality.
 */
#include "tests/cudahost/stream.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct CUgraphNode_st {
  struct ch_op *op;
  struct ch_set needs;
};
struct CUgraph_st {
  struct CUgraph_st *next; /* all live ones */
  int references;          /* the handle, instances, launches in queues */
  bool live;               /* the handle is */
  struct CUgraphNode_st **node;
  int n_nodes, max_nodes;
};
struct CUgraphExec_st {
  struct CUgraphExec_st *next;
  struct CUgraph_st *graph;
};
struct ch_capture {
  struct ch_capture *next; /* all that are active */
  uint64_t number;
  struct CUgraph_st *graph;
  struct CUstream_st *origin, *joined[64];
  int n_joined;
  enum cudaStreamCaptureMode mode;
  pthread_t thread;
  bool invalid;
};

static struct CUgraph_st *graphs;
static struct CUgraphExec_st *execs;
static struct ch_capture *captures;

/* --- sets and nodes --------------------------------------------------------------------------- */
static bool has(const struct ch_set *s, int node) {
  for (int i = 0; i < s->n; i++)
    if (s->node[i] == node) return true;
  return false;
}

static bool put(struct ch_set *s, int node) {
  if (has(s, node)) return true;
  if (s->n == s->max) {
    int n = s->max ? 2 * s->max : 4, *more = realloc(s->node, (size_t)n * sizeof *more);
    if (!more) return false;
    s->node = more;
    s->max = n;
  }
  s->node[s->n++] = node;
  return true;
}

static bool put_all(struct ch_set *to, const struct ch_set *from) {
  bool ok = true;
  for (int i = 0; i < from->n && ok; i++) ok = put(to, from->node[i]);
  return ok;
}

static void release(struct CUgraph_st *g) {
  if (--g->references) return;
  for (int i = 0; i < g->n_nodes; i++) {
    ch_op_drop(g->node[i]->op);
    free(g->node[i]->needs.node);
    free(g->node[i]);
  }
  for (struct CUgraph_st **at = &graphs; *at; at = &(*at)->next)
    if (*at == g) {
      *at = g->next;
      break;
    }
  free(g->node);
  free(g);
}

static struct CUgraph_st *graph_create(void) {
  struct CUgraph_st *g = calloc(1, sizeof *g);
  if (!g) return NULL;
  *g = (struct CUgraph_st){.next = graphs, .references = 1, .live = true};
  return graphs = g;
}

static struct CUgraphNode_st *add_node(struct CUgraph_st *g, struct ch_op *op,
                                       const struct ch_set *needs) {
  if (g->n_nodes == g->max_nodes) {
    int n = g->max_nodes ? 2 * g->max_nodes : 64;
    struct CUgraphNode_st **more = realloc(g->node, (size_t)n * sizeof *more);
    if (!more) return NULL;
    g->node = more;
    g->max_nodes = n;
  }
  struct CUgraphNode_st *node = calloc(1, sizeof *node);
  if (!node || !put_all(&node->needs, needs)) return free(node), NULL;
  node->op = op;
  return g->node[g->n_nodes++] = node;
}

/* --- captures --------------------------------------------------------------------------------- */
struct ch_capture *ch_capture_find(uint64_t number) {
  struct ch_capture *c = captures;
  while (c && c->number != number) c = c->next;
  return c;
}

cudaError_t ch_capture_forbid(struct ch_capture *c, cudaError_t error) {
  c->invalid = true;
  return error;
}

cudaError_t ch_capture_unsafe(void) {
  cudaError_t e = cudaSuccess;
  for (struct ch_capture *c = captures; c; c = c->next)
    if (c->mode == cudaStreamCaptureModeGlobal ||
        (c->mode == cudaStreamCaptureModeThreadLocal && pthread_equal(c->thread, pthread_self())))
      e = ch_capture_forbid(c, cudaErrorStreamCaptureUnsupported);
  return e;
}

cudaError_t ch_capture_implicit(int device) {
  cudaError_t e = cudaSuccess;
  for (struct ch_capture *c = captures; c; c = c->next)
    for (int i = 0; i < c->n_joined; i++)
      if (!(c->joined[i]->flags & cudaStreamNonBlocking) && c->joined[i]->device == device)
        e = ch_capture_forbid(c, cudaErrorStreamCaptureImplicit);
  return e;
}

cudaError_t ch_capture_add(struct CUstream_st *s, struct ch_op *op) {
  struct ch_capture *c = s->capture;
  if (c->invalid) return ch_op_drop(op), cudaErrorStreamCaptureInvalidated;
  struct CUgraphNode_st *node = add_node(c->graph, op, &s->last);
  s->last.n = 0;
  if (node && put(&s->last, c->graph->n_nodes - 1)) return cudaSuccess;
  if (!node) ch_op_drop(op);
  return ch_capture_forbid(c, cudaErrorMemoryAllocation);
}

cudaError_t ch_capture_record(struct CUevent_st *e, struct CUstream_st *s) {
  if (s->capture->invalid) return cudaErrorStreamCaptureInvalidated;
  e->capture = s->capture->number;
  e->recorded = false;
  e->nodes.n = 0;
  return put_all(&e->nodes, &s->last) ? cudaSuccess
                                      : ch_capture_forbid(s->capture, cudaErrorMemoryAllocation);
}

static cudaError_t join(struct ch_capture *c, struct CUstream_st *s) {
  if (s->legacy) return ch_capture_forbid(c, cudaErrorStreamCaptureImplicit);
  if (c->n_joined == (int)(sizeof c->joined / sizeof *c->joined))
    return ch_capture_forbid(c, cudaErrorMemoryAllocation);
  c->joined[c->n_joined++] = s;
  s->capture = c;
  s->last.n = 0;
  return cudaSuccess;
}

cudaError_t ch_capture_wait(struct CUstream_st *s, struct CUevent_st *e) {
  struct ch_capture *c = ch_capture_find(e->capture);
  if (s->capture && s->capture->invalid) return cudaErrorStreamCaptureInvalidated;
  if (!e->capture) /* of work that is not in the capture */
    return e->recorded ? ch_capture_forbid(s->capture, cudaErrorStreamCaptureIsolation)
                       : cudaSuccess;
  if (!c)
    return s->capture ? ch_capture_forbid(s->capture, cudaErrorCapturedEvent)
                      : cudaErrorCapturedEvent;
  if (c->invalid) return cudaErrorStreamCaptureInvalidated;
  if (s->capture && s->capture != c)
    return ch_capture_forbid(s->capture, ch_capture_forbid(c, cudaErrorStreamCaptureMerge));
  cudaError_t error = s->capture ? cudaSuccess : join(c, s);
  if (!error && !put_all(&s->last, &e->nodes))
    error = ch_capture_forbid(c, cudaErrorMemoryAllocation);
  return error;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUstream_st *s = e ? NULL : ch_stream(stream);
  if (!e && !s) e = cudaErrorInvalidResourceHandle;
  if (!e && s->legacy) e = cudaErrorStreamCaptureUnsupported;
  if (!e && s->capture) e = cudaErrorIllegalState;
  if (!e) e = ch_inject(CH_FAIL_CREATE, cudaErrorMemoryAllocation);
  struct ch_capture *c = e ? NULL : calloc(1, sizeof *c);
  struct CUgraph_st *g = c ? graph_create() : NULL;
  if (!e && !g) free(c), e = cudaErrorMemoryAllocation;
  if (!e) {
    static uint64_t n_captures;
    *c = (struct ch_capture){.next = captures,
                             .number = ++n_captures,
                             .graph = g,
                             .origin = s,
                             .mode = mode,
                             .thread = pthread_self()};
    captures = c;
    join(c, s);
  }
  return ch_leave(e);
}

/* Every node must lie before the origin's last ones. */
static bool all_joined(const struct ch_capture *c) {
  struct ch_set before = {0};
  bool ok = put_all(&before, &c->origin->last);
  for (int i = 0; i < before.n && ok; i++)
    ok = put_all(&before, &c->graph->node[before.node[i]]->needs);
  ok = ok && before.n == c->graph->n_nodes;
  free(before.node);
  return ok;
}

static void remove_capture(struct ch_capture *c) {
  for (struct ch_capture **at = &captures; *at; at = &(*at)->next)
    if (*at == c) {
      *at = c->next;
      break;
    }
  free(c);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUstream_st *s = e ? NULL : ch_stream(stream);
  struct ch_capture *c = s ? s->capture : NULL;
  *graph = NULL;
  if (!e && !s) e = cudaErrorInvalidResourceHandle;
  if (!e && !c) e = cudaErrorIllegalState;
  if (!e && c->origin != s)
    e = ch_capture_forbid(c, cudaErrorStreamCaptureUnmatched);
  else if (!e && c->mode != cudaStreamCaptureModeRelaxed &&
           !pthread_equal(c->thread, pthread_self()))
    e = cudaErrorStreamCaptureWrongThread;
  else if (!e) {
    e = c->invalid      ? cudaErrorStreamCaptureInvalidated
        : all_joined(c) ? cudaSuccess
                        : cudaErrorStreamCaptureUnjoined;
    for (int i = 0; i < c->n_joined; i++) c->joined[i]->capture = NULL;
    if (e)
      release(c->graph);
    else
      *graph = c->graph;
    remove_capture(c);
  }
  return ch_leave(e);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUstream_st *s = e ? NULL : ch_stream(stream);
  if (!e && !s) e = cudaErrorInvalidResourceHandle;
  if (!e)
    *status = !s->capture           ? cudaStreamCaptureStatusNone
              : s->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                    : cudaStreamCaptureStatusActive;
  return ch_leave(e);
}

/* --- graphs ----------------------------------------------------------------------------------- */
static struct CUgraph_st *look_up(cudaGraph_t handle, cudaError_t *e) {
  struct CUgraph_st *g = *e ? NULL : graphs;
  while (g && (g != handle || !g->live)) g = g->next;
  if (!*e && !g) *e = cudaErrorInvalidValue;
  return g;
}

static struct CUgraphExec_st *look_up_exec(cudaGraphExec_t handle, cudaError_t *e) {
  struct CUgraphExec_st *x = *e ? NULL : execs;
  while (x && x != handle) x = x->next;
  if (!*e && !x) *e = cudaErrorInvalidValue;
  return x;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t handle, cudaGraphNode_t *nodes, size_t *n_nodes) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUgraph_st *g = look_up(handle, &e);
  for (size_t i = 0; !e && nodes && i < *n_nodes; i++)
    nodes[i] = i < (size_t)g->n_nodes ? g->node[i] : NULL;
  if (!e && (!nodes || *n_nodes > (size_t)g->n_nodes)) *n_nodes = (size_t)g->n_nodes;
  return ch_leave(e);
}

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, enum cudaGraphNodeType *type) {
  cudaError_t e = ch_enter(CH_NORMAL);
  if (!e) *type = node->op->type->node;
  return ch_leave(e);
}

cudaError_t cudaGraphDestroy(cudaGraph_t handle) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUgraph_st *g = look_up(handle, &e);
  if (g) g->live = false, release(g);
  return ch_leave(e);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t handle,
                                 unsigned long long flags) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUgraph_st *g = look_up(handle, &e);
  (void)flags;
  if (!e) e = ch_inject(CH_FAIL_CREATE, cudaErrorMemoryAllocation);
  struct CUgraphExec_st *x = e ? NULL : calloc(1, sizeof *x);
  if (!e && !x) e = cudaErrorMemoryAllocation;
  if (!e) {
    *x = (struct CUgraphExec_st){execs, g};
    g->references++;
    *exec = execs = x;
  }
  return ch_leave(e);
}

/* Same nodes with the same edges: only what they do may differ. */
static enum cudaGraphExecUpdateResult compare(const struct CUgraph_st *a,
                                              const struct CUgraph_st *b) {
  if (a->n_nodes != b->n_nodes) return cudaGraphExecUpdateErrorTopologyChanged;
  for (int i = 0; i < a->n_nodes; i++) {
    const struct ch_set *x = &a->node[i]->needs, *y = &b->node[i]->needs;
    if (a->node[i]->op->type->node != b->node[i]->op->type->node)
      return cudaGraphExecUpdateErrorNodeTypeChanged;
    if (x->n != y->n || (x->n && memcmp(x->node, y->node, (size_t)x->n * sizeof *x->node)))
      return cudaGraphExecUpdateErrorTopologyChanged;
  }
  return cudaGraphExecUpdateSuccess;
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t handle,
                                cudaGraphExecUpdateResultInfo *info) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUgraphExec_st *x = look_up_exec(exec, &e);
  struct CUgraph_st *g = look_up(handle, &e);
  if (!e) {
    *info = (cudaGraphExecUpdateResultInfo){.result = compare(x->graph, g)};
    if (info->result != cudaGraphExecUpdateSuccess) e = cudaErrorGraphExecUpdateFailure;
  }
  if (!e) {
    g->references++;
    release(x->graph);
    x->graph = g;
  }
  return ch_leave(e);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUgraphExec_st *x = look_up_exec(exec, &e);
  for (struct CUgraphExec_st **at = &execs; x && *at; at = &(*at)->next)
    if (*at == x) {
      *at = x->next;
      release(x->graph);
      free(x);
      break;
    }
  return ch_leave(e);
}

/* --- launching -------------------------------------------------------------------------------- */
struct graph_op {
  struct ch_op op;
  struct CUgraph_st *graph;
};

static bool may_run(const struct CUgraphNode_st *node, const bool *ran) {
  for (int i = 0; i < node->needs.n; i++)
    if (!ran[node->needs.node[i]]) return false;
  return true;
}

static cudaError_t run_graph(struct ch_op *op) {
  const struct CUgraph_st *g = ((struct graph_op *)op)->graph;
  bool *ran = calloc((size_t)g->n_nodes + 1, 1), first = ch_setting(CH_ORDER) == CH_ORDER_EAGER;
  cudaError_t e = ran ? cudaSuccess : cudaErrorMemoryAllocation;
  for (int n = 0; n < g->n_nodes && !e; n++) {
    int i = first ? 0 : g->n_nodes - 1;
    while (ran[i] || !may_run(g->node[i], ran)) i += first ? 1 : -1;
    ran[i] = true;
    e = ch_op_run(g->node[i]->op);
  }
  free(ran);
  return e;
}

static void issue_graph(struct ch_op *op) {
  const struct CUgraph_st *g = ((struct graph_op *)op)->graph;
  for (int i = 0; i < g->n_nodes; i++)
    if (g->node[i]->op->type->issue) g->node[i]->op->type->issue(g->node[i]->op);
}

static void drop_graph(struct ch_op *op) { release(((struct graph_op *)op)->graph); }

static const struct ch_op_type graph_type = {"a graph", true,        cudaGraphNodeTypeGraph,
                                             run_graph, issue_graph, drop_graph};

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  cudaError_t e = ch_enter(CH_NORMAL);
  struct CUgraphExec_st *x = look_up_exec(exec, &e);
  if (!e) e = ch_inject(CH_FAIL_LAUNCH, cudaErrorLaunchOutOfResources);
  if (!e) {
    struct graph_op *op = ch_op_create(&graph_type, sizeof *op, "cudaGraphLaunch", CH_CALLER);
    if (op) {
      op->graph = x->graph;
      x->graph->references++;
      ch_counters.graph_launches++;
    }
    e = ch_op_enqueue(stream, op ? &op->op : NULL);
  }
  return ch_leave(e);
}

void ch_graph_reset(void) {
  while (execs) {
    struct CUgraphExec_st *x = execs;
    execs = x->next;
    release(x->graph);
    free(x);
  }
  while (captures) {
    struct ch_capture *c = captures;
    release(c->graph);
    remove_capture(c);
  }
  for (struct CUgraph_st *g = graphs, *next; g; g = next) {
    next = g->next;
    if (g->live) g->live = false, release(g);
  }
}
