/* SPDX-License-Identifier: Apache-2.0
 * What llama.cpp's architectures are, for gguf*.c. */
#ifndef KAPPA_ENGINE_MODEL_GGUF_ARCHS_H
#define KAPPA_ENGINE_MODEL_GGUF_ARCHS_H

#include "engine/formats/gguf.h"
#include "engine/model/moe.h"
#include "engine/model/weights.h"

enum {
  KA_ARCH_PAIRS = 1 << 0,    /* RoPE rotates neighbours: rows of q and k change places */
  KA_ARCH_QKV_BIAS = 1 << 1, /* biases that it reads */
  KA_ARCH_O_BIAS = 1 << 2,
  KA_ARCH_MLP_BIAS = 1 << 3,
  KA_ARCH_FUSED_QKV = 1 << 4,  /* q, k and v in one tensor */
  KA_ARCH_FUSED_UP = 1 << 5,   /* gate and up in one tensor */
  KA_ARCH_SCALES = 1 << 6,     /* embedding, residual, scores, logits have factors as facts */
  KA_ARCH_OWN_SCALES = 1 << 7, /* Gemma's, in its code */
  KA_ARCH_CAPS = 1 << 8,       /* soft caps of scores and logits are facts */
  KA_ARCH_HEAD_CAP = 1 << 9,   /* of logits alone */
  KA_ARCH_YARN = 1 << 10,      /* kinds of RoPE besides the default and the linear one */
  KA_ARCH_LLAMA3 = 1 << 11,
  KA_ARCH_LONGROPE = 1 << 12,
  KA_ARCH_SLIDING_ROPE = 1 << 13, /* sliding layers have an unscaled RoPE of their own */
  KA_ARCH_SLIDING_BASE = 1 << 14, /* and with a base of its own */
  KA_ARCH_NORMALISED = 1 << 15,   /* weights of the chosen experts sum to 1 */
  KA_ARCH_POST_NAMED = 1 << 16, /* the feed-forward's norm has the name of a norm after attention */
};

struct ka_arch {
  const char *family; /* ours */
  const char *name;   /* llama.cpp's */
  enum ka_act act;
  int full_every;    /* every so many a layer is full, the others slide; 0: it knows no window */
  int no_rope_every; /* every so many a layer has no RoPE; 0: all have it */
  int large_layers;  /* so many layers scale scores by the stream's width a head, not a head's */
  unsigned flags;
};

/* KA_E_UNSUPPORTED by key when llama.cpp would not compute this model. */
ka_status ka_arch_of(const struct ka_model *m, const struct ka_arch **out);
/* Facts of the architecture. */
ka_status ka_arch_facts(const struct ka_model *m, const struct ka_arch *arch, struct ka_gguf *g);

/* Factors on the wavelengths of RoPE that are a tensor there: of llama3 (n = R/2 factors). */
void ka_arch_llama3_factors(const struct ka_hf_rope_params *p, int64_t R, float *out);

#endif
