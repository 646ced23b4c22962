/* SPDX-License-Identifier: Apache-2.0
 * See attn.h. The masks are the comparisons of row and column that cuDNN's engines know, each with
 * indices of its own; a graph that says the same in other words may find no engine. */
#include "kernels/cuda/cudnn/attn.h"

#include <stdio.h>
#include <string.h>

enum { TILE = 128, SLACK_BYTES = 4096 }; /* of workspaces */

enum {
  SCORE = ATTN_FIRST_INNER,
  SCALED,
  RATIO, /* scaled / softcap */
  TANH,
  CAPPED,
  UNMASKED,
  ROW,
  COLUMN,
  PAST, /* row >= column */
  CAUSAL,
  ROW_2,
  COLUMN_2,
  END,  /* column + window */
  NEAR, /* end > row */
  MASKED,
  MAX,
  LESS, /* masked - max */
  EXP,
  SUM,
  LOG,
  P,
  PRODUCT, /* dout out */
  DELTA_1,
  DELTA,
  PT,
  DV_HEADS, /* by query head */
  DP,
  DP_DELTA,
  DS,
  DS_CAP, /* through c tanh(s / c) */
  DS_TANH,
  DS_RATIO,
  DS_SCALED,
  DST,
  DK_HEADS,
  K,
  N_TENSORS
};
_Static_assert((int)N_TENSORS <= (int)CUDNN_TENSORS, "more tensors than a graph takes");

#define BF16(dims, memory, kind)                                                                   \
  { dims, memory, CUDNN_DATA_BFLOAT16, CUDNN_##kind }
#define F32(dims, memory, kind)                                                                    \
  { dims, memory, CUDNN_DATA_FLOAT, CUDNN_##kind }
#define SCORES(type)                                                                               \
  { "BHTS", "BHTS", CUDNN_DATA_##type, CUDNN_INNER }
#define ROWS                                                                                       \
  { "BHT1", "BHT", CUDNN_DATA_FLOAT, CUDNN_INNER }
#define NUMBER                                                                                     \
  { "1111", "", CUDNN_DATA_FLOAT, CUDNN_NUMBER }

static const struct cudnn_tensor tensors[CUDNN_TENSORS] = {
    [ATTN_Q] = BF16("BHTD", "BTHD", MEMORY),
    [ATTN_KT] = BF16("BKDS", "BSKD", MEMORY),
    [ATTN_V] = BF16("BKSV", "BSKV", MEMORY),
    [ATTN_VT] = BF16("BKVS", "BSKV", MEMORY),
    [ATTN_OUT] = BF16("BHTV", "BTHV", MEMORY),
    [ATTN_LSE] = F32("BHT1", "BHT", MEMORY),
    [ATTN_DOUT] = BF16("BHTV", "BTHV", MEMORY),
    [ATTN_DQ] = BF16("BHTD", "BTHD", MEMORY),
    [ATTN_DK] = BF16("BKSD", "BSKD", MEMORY),
    [ATTN_DV] = BF16("BKSV", "BSKV", MEMORY),
    [ATTN_SCALE] = NUMBER,
    [ATTN_WINDOW] = NUMBER,
    [ATTN_SOFTCAP] = NUMBER,
    [ATTN_ONE] = NUMBER,
    [ATTN_MINUS_INFINITY] = NUMBER,
    [SCORE] = SCORES(FLOAT),
    [SCALED] = SCORES(FLOAT),
    [RATIO] = SCORES(FLOAT),
    [TANH] = SCORES(FLOAT),
    [CAPPED] = SCORES(FLOAT),
    [UNMASKED] = SCORES(FLOAT),
    [ROW] = SCORES(INT32),
    [COLUMN] = SCORES(INT32),
    [PAST] = SCORES(BOOLEAN),
    [CAUSAL] = SCORES(FLOAT),
    [ROW_2] = SCORES(INT32),
    [COLUMN_2] = SCORES(INT32),
    [END] = SCORES(FLOAT),
    [NEAR] = SCORES(BOOLEAN),
    [MASKED] = SCORES(FLOAT),
    [MAX] = ROWS,
    [LESS] = SCORES(FLOAT),
    [EXP] = SCORES(FLOAT),
    [SUM] = ROWS,
    [LOG] = ROWS,
    [P] = SCORES(BFLOAT16),
    [PRODUCT] = F32("BHTV", "BHTV", INNER),
    [DELTA_1] = ROWS,
    [DELTA] = ROWS,
    [PT] = BF16("BHST", "BHTS", INNER),
    [DV_HEADS] = F32("BHSV", "BHSV", INNER),
    [DP] = SCORES(FLOAT),
    [DP_DELTA] = SCORES(FLOAT),
    [DS] = SCORES(FLOAT),
    [DS_CAP] = SCORES(FLOAT),
    [DS_TANH] = SCORES(FLOAT),
    [DS_RATIO] = SCORES(FLOAT),
    [DS_SCALED] = SCORES(FLOAT),
    [DST] = BF16("BHST", "BHTS", INNER),
    [DK_HEADS] = F32("BHSD", "BHSD", INNER),
    [K] = BF16("BKSD", "BSKD", INNER),
};

#define CAP .when = CUDNN_ATTN_SOFTCAP
#define WIN .when = CUDNN_ATTN_WINDOW
#define GQA .when = CUDNN_ATTN_GQA
#define MHA .unless = CUDNN_ATTN_GQA
#define NEVER .when = ~0u /* a name for x */

#define MATMUL(y, x, b, ...)                                                                       \
  { CUDNN_PRODUCT, 0, y, x, b, __VA_ARGS__ }
#define POINT(mode, y, x, ...)                                                                     \
  { CUDNN_POINTWISE, CUDNN_POINTWISE_##mode, y, x, __VA_ARGS__ }
#define INDEX(y, x, of, ...)                                                                       \
  { CUDNN_POINTWISE, CUDNN_POINTWISE_GEN_INDEX, y, x, .axis = of, __VA_ARGS__ }
#define REDUCE(mode, y, x, ...)                                                                    \
  { CUDNN_REDUCE, CUDNN_REDUCE_TENSOR_##mode, y, x, __VA_ARGS__ }
#define RESHAPE(y, x)                                                                              \
  { CUDNN_RESHAPE, 0, y, x }

#define SCORE_NODES                                                                                \
  MATMUL(SCORE, ATTN_Q, ATTN_KT), POINT(MUL, SCALED, SCORE, ATTN_SCALE),                           \
      POINT(DIV, RATIO, SCALED, ATTN_SOFTCAP, CAP), POINT(TANH_FWD, TANH, RATIO, CAP),             \
      POINT(MUL, CAPPED, TANH, ATTN_SOFTCAP, CAP)

#define CAUSAL_NODES                                                                               \
  INDEX(ROW, UNMASKED, 2), INDEX(COLUMN, UNMASKED, 3), POINT(CMP_GE, PAST, ROW, COLUMN),           \
      POINT(BINARY_SELECT, CAUSAL, UNMASKED, ATTN_MINUS_INFINITY, PAST)

#define WINDOW_NODES                                                                               \
  INDEX(ROW_2, CAUSAL, 2, WIN), INDEX(COLUMN_2, CAUSAL, 3, WIN),                                   \
      POINT(ADD, END, COLUMN_2, ATTN_WINDOW, WIN), POINT(CMP_GT, NEAR, END, ROW_2, WIN),           \
      POINT(BINARY_SELECT, MASKED, CAUSAL, ATTN_MINUS_INFINITY, NEAR, WIN)

static const struct cudnn_node forward_nodes[] = {SCORE_NODES,
                                                  POINT(IDENTITY, UNMASKED, CAPPED, NEVER),
                                                  CAUSAL_NODES,
                                                  WINDOW_NODES,
                                                  REDUCE(MAX, MAX, MASKED),
                                                  POINT(SUB, LESS, MASKED, MAX),
                                                  POINT(EXP, EXP, LESS),
                                                  REDUCE(ADD, SUM, EXP),
                                                  POINT(LOG, LOG, SUM),
                                                  POINT(ADD, ATTN_LSE, MAX, LOG),
                                                  POINT(DIV, P, EXP, SUM),
                                                  MATMUL(ATTN_OUT, P, ATTN_V),
                                                  {0}};

/* dq comes from one product over whole rows of dS, so cuDNN keeps dS, in its workspace. The usual
 * graph has dq in f32 in between, which tiles add to as they finish: its sums vary from run to run,
 * which cuDNN does not note. */
static const struct cudnn_node backward_nodes[] = {
    POINT(MUL, PRODUCT, ATTN_DOUT, ATTN_OUT),
    REDUCE(ADD, DELTA_1, PRODUCT),
    POINT(MUL, DELTA, DELTA_1, ATTN_ONE), /* a place that engines look for; dropout scales there */
    SCORE_NODES,
    POINT(SUB, UNMASKED, CAPPED, ATTN_LSE),
    CAUSAL_NODES,
    WINDOW_NODES,
    POINT(EXP, EXP, MASKED),
    RESHAPE(PT, EXP),
    MATMUL(ATTN_DV, PT, ATTN_DOUT, MHA),
    MATMUL(DV_HEADS, PT, ATTN_DOUT, GQA),
    REDUCE(ADD, ATTN_DV, DV_HEADS, GQA),
    MATMUL(DP, ATTN_DOUT, ATTN_VT),
    POINT(SUB, DP_DELTA, DP, DELTA),
    POINT(MUL, DS, DP_DELTA, EXP),
    POINT(MUL, DS_CAP, DS, ATTN_SOFTCAP, CAP),
    POINT(TANH_BWD, DS_TANH, DS_CAP, RATIO, CAP),
    POINT(DIV, DS_RATIO, DS_TANH, ATTN_SOFTCAP, CAP),
    POINT(MUL, DS_SCALED, DS_RATIO, ATTN_SCALE),
    RESHAPE(DST, DS_SCALED),
    MATMUL(ATTN_DK, DST, ATTN_Q, MHA),
    MATMUL(DK_HEADS, DST, ATTN_Q, GQA),
    REDUCE(ADD, ATTN_DK, DK_HEADS, GQA),
    RESHAPE(K, ATTN_KT),
    MATMUL(ATTN_DQ, DS_SCALED, K),
    {0}};

/* Beyond what engines refuse themselves: gradients of one token are nothing but dv, of which NVIDIA
 * says that its engines fail; windows are compared in f32. */
bool cudnn_attn_graph(const struct cudnn_attn *a, struct cudnn_graph *g, int64_t sizes[128],
                      char *why, size_t n) {
  const struct {
    bool bad;
    const char *why;
  } rules[] = {
      {a->B < 1 || a->T < 2 || a->T >= 1 << 24, "there is no row, or T is not in [2,2^24)"},
      {a->K < 1 || a->H < 1 || a->H % a->K, "H is no multiple of K"},
      {a->D < 8 || a->V < 8 || a->D % 8 || a->V % 8, "head sizes are no multiples of 8"},
  };
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
    if (rules[i].bad) {
      snprintf(why, n, "%s", rules[i].why);
      return false;
    }
  memset(sizes, 0, 128 * sizeof *sizes);
  sizes['B'] = a->B;
  sizes['T'] = sizes['S'] = a->T;
  sizes['H'] = a->H;
  sizes['K'] = a->K;
  sizes['D'] = a->D;
  sizes['V'] = a->V;
  *g = (struct cudnn_graph){
      .tensors = tensors,
      .nodes = a->features & CUDNN_ATTN_BACKWARD ? backward_nodes : forward_nodes,
      .sizes = sizes,
      .features = (unsigned)a->features | (a->H == a->K ? 0 : CUDNN_ATTN_GQA)};
  return true;
}

int64_t cudnn_attn_rows(const struct cudnn_attn *a, int64_t workspace_bytes) {
  if (!(a->features & CUDNN_ATTN_BACKWARD)) return a->B;
  /* dS, dk and dv by query head, delta; in floating point, since sizes may be anything */
  double T = (double)((a->T + TILE - 1) / TILE * TILE);
  double row = (double)a->H * T * (2 * T + 4 * (double)(a->D + a->V + 1));
  for (int64_t rows = a->B; rows > 0; rows--)
    if (a->B % rows == 0 && (double)rows * row + SLACK_BYTES <= (double)workspace_bytes)
      return rows;
  return 0;
}

void cudnn_attn_describe(struct cudnn *c, bool backward, char *text, size_t n) {
  static const struct {
    const char *name;
    int64_t D, V, features;
  } patterns[] = {{"D 64", 64, 64, 0},
                  {"128", 128, 128, 0},
                  {"192/128", 192, 128, 0},
                  {"256", 256, 256, 0},
                  {"window", 128, 128, CUDNN_ATTN_WINDOW},
                  {"softcap", 128, 128, CUDNN_ATTN_SOFTCAP}};
  size_t at = 0;
  *text = 0;
  for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
    struct cudnn_attn a = {1, 1024, 8, 4, patterns[i].D, patterns[i].V, patterns[i].features};
    struct cudnn_graph g;
    int64_t sizes[128];
    if (backward) a.features |= CUDNN_ATTN_BACKWARD;
    if (!cudnn_attn_graph(&a, &g, sizes, c->why, sizeof c->why) || !cudnn_graph_accepted(c, &g))
      continue;
    at += (size_t)snprintf(text + at, n - at, "%s%s", at ? " " : "", patterns[i].name);
    if (at >= n) return;
  }
  if (at == 0) snprintf(text, n, "nothing: %s", c->why);
}
