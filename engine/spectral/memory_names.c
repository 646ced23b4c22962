/* SPDX-License-Identifier: Apache-2.0
 * See memory_names.h. Checked against loaded models by tests/spectral/make_names.py. */
#include "engine/spectral/memory_names.h"

#include "base/str.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* An expert's matrix, by the end of its name. */
static const struct {
  const char *file, *memory;
  enum ka_expert_part part;
} experts[] = {
    {"gate_proj.weight", "gate_up_proj", KA_EXPERT_GATE},
    {"up_proj.weight", "gate_up_proj", KA_EXPERT_UP},
    {"down_proj.weight", "down_proj", KA_EXPERT_WHOLE},
    {"w1.weight", "gate_up_proj", KA_EXPERT_GATE},
    {"w3.weight", "gate_up_proj", KA_EXPERT_UP},
    {"w2.weight", "down_proj", KA_EXPERT_WHOLE},
};
enum { N_EXPERTS = sizeof experts / sizeof *experts };

/* Beginnings that differ: GPT-2 as its authors published it, and models that wrap a language
 * model. */
static const struct {
  const char *file, *memory;
} beginnings[] = {
    {"h.", "transformer.h."},
    {"wte.", "transformer.wte."},
    {"wpe.", "transformer.wpe."},
    {"ln_f.", "transformer.ln_f."},
    {"language_model.model.", "model.language_model."},
    {"language_model.lm_head.", "lm_head."},
};
enum { N_BEGINNINGS = sizeof beginnings / sizeof *beginnings };

static const char mixtral[] = ".block_sparse_moe.";

/* "model.layers.3.mlp.experts.7.up_proj.weight" */
static ka_status expert_name(struct ka_arena *arena, const char *tensor,
                             struct ka_memory_name *out) {
  static const char mark[] = ".experts.";
  const char *at = strstr(tensor, mark), *number = at ? at + strlen(mark) : "";
  char *end = NULL;
  if (!isdigit((unsigned char)*number)) return KA_STATUS_OK;
  long long expert = strtoll(number, &end, 10);
  for (int i = 0; i < N_EXPERTS; i++) {
    if (*end != '.' || strcmp(end + 1, experts[i].file) != 0) continue;
    const char *old = strstr(tensor, mixtral);
    bool renamed = old && old + strlen(mixtral) - 1 == at;
    int n = (int)((renamed ? old : at) - tensor);
    out->expert = expert;
    out->part = experts[i].part;
    return ka_arena_printf(arena, &out->name, "%.*s%s.experts.%s", n, tensor, renamed ? ".mlp" : "",
                           experts[i].memory);
  }
  return KA_STATUS_OK;
}

ka_status ka_memory_name_of(struct ka_arena *arena, const char *tensor,
                            struct ka_memory_name *out) {
  struct ka_ctx *ctx = arena->ctx;
  *out = (struct ka_memory_name){.name = tensor, .expert = -1};
  for (int i = 0; i < N_BEGINNINGS; i++)
    if (ka_starts_with(tensor, beginnings[i].file)) {
      KA_TRY(ka_arena_printf(arena, &tensor, "%s%s", beginnings[i].memory,
                             tensor + strlen(beginnings[i].file)));
      out->name = tensor;
      break;
    }
  const char *old = strstr(tensor, mixtral);
  if (old && strcmp(old + strlen(mixtral), "gate.weight") == 0)
    return ka_arena_printf(arena, &out->name, "%.*s.mlp.gate.weight", (int)(old - tensor), tensor);
  return expert_name(arena, tensor, out);
}

bool ka_memory_is_router(const char *name) {
  return ka_ends_with(name, ".mlp.gate.weight") || ka_ends_with(name, ".router.weight") ||
         ka_ends_with(name, ".feed_forward.gate.weight");
}
