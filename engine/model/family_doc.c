/* SPDX-License-Identifier: Apache-2.0
 * docs/families.md from the tables: what a family has is read off its tensor map and off the kinds
 * of branches that own its weights. What is the same for all of them is so because passes, devices
 * and ranks know no families; the page says which tests hold it. */
#include "engine/model/branch.h"
#include "engine/model/family.h"

#include <string.h>

static const struct ka_branch_kind *const kinds[] = {&ka_attn_gqa, &ka_attn_mla, &ka_ffn_glu,
                                                     &ka_ffn_mlp, &ka_ffn_moe};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static bool has(const struct ka_family *f, enum ka_role role) {
  return ka_tensor_map_row(&f->map, role) != NULL;
}

static bool owns(const struct ka_branch_kind *kind, enum ka_role role) {
  const enum ka_role *r = kind->roles;
  while (*r != role && *r != KA_N_ROLES) r++;
  return *r == role;
}

/* The kind of the family's attention. */
static const struct ka_branch_kind *attention(const struct ka_family *f) {
  return has(f, KA_ROLE_KV_B) ? &ka_attn_mla : &ka_attn_gqa;
}

/* Has every weight inside the layers a backward pass? */
static bool trains(const struct ka_family *f) {
  for (const struct ka_tensor_row *r = f->map.rows; r->name; r++) {
    bool found = ka_role_info(r->role)->scope == KA_SCOPE_MODEL || ka_branch_norm(r->role);
    for (int i = 0; i < N_KINDS && !found; i++) found = kinds[i]->bwd && owns(kinds[i], r->role);
    if (!found) return false;
  }
  return true;
}

static ka_status list(struct ka_ctx *ctx, struct ka_str *out, const char *const *words) {
  for (int i = 0; words[i]; i++) KA_TRY(ka_str_printf(ctx, out, "%s`%s`", i ? ", " : "", words[i]));
  return KA_STATUS_OK;
}

static ka_status layers(struct ka_ctx *ctx, struct ka_str *out, const struct ka_family *f) {
  const char *shared = has(f, KA_ROLE_SHARED_SWITCH) ? ", a shared one behind a switch"
                       : has(f, KA_ROLE_SHARED_DOWN) ? ", shared ones"
                                                     : "";
  KA_TRY(ka_str_printf(ctx, out, "%s%s; ",
                       attention(f) == &ka_attn_mla ? "latent attention" : "grouped attention",
                       has(f, KA_ROLE_SINKS) ? " with sinks" : ""));
  if (has(f, KA_ROLE_EXPERT_DOWN)) return ka_str_printf(ctx, out, "experts%s", shared);
  return ka_str_printf(ctx, out, "%s", has(f, KA_ROLE_GATE) ? "gated" : "plain");
}

/* The matrices that one tensor of the files holds together. */
static ka_status fused(struct ka_ctx *ctx, struct ka_str *out, const struct ka_family *f) {
  bool any = false;
  for (const struct ka_tensor_row *r = f->map.rows, *next; r->name; r = next) {
    for (next = r + 1; next->name && strcmp(next->name, r->name) == 0;) next++;
    if (next - r < 2 || ka_role_info(r->role)->rows == KA_DIM_ONE) continue;
    KA_TRY(ka_str_printf(ctx, out, "%s", any ? ", " : "in one: "));
    for (const struct ka_tensor_row *p = r; p < next; p++)
      KA_TRY(ka_str_printf(ctx, out, "%s%s", p > r ? "+" : "", ka_role_info(p->role)->name));
    if (r->transposed) KA_TRY(ka_str_printf(ctx, out, " [in, out]"));
    any = true;
  }
  return any ? KA_STATUS_OK : ka_str_printf(ctx, out, "each its own");
}

static ka_status heads(struct ka_ctx *ctx, struct ka_str *out, const struct ka_family *f) {
  const char *gap = "";
  for (int role = 0; role < KA_N_ROLES; role++) {
    const struct ka_role_info *info = ka_role_info((enum ka_role)role);
    if (info->heads == '-' || !has(f, (enum ka_role)role)) continue;
    KA_TRY(ka_str_printf(ctx, out, "%s%s", gap, info->name));
    gap = ", ";
  }
  return KA_STATUS_OK;
}

/* How the files may hold experts. */
struct held {
  bool apart, stacked;
};

static struct held experts(const struct ka_family *f) {
  struct held h = {0};
  for (const struct ka_tensor_row *r = f->map.rows; r->name; r++)
    if (ka_role_info(r->role)->scope == KA_SCOPE_EXPERT) {
      h.apart = h.apart || !r->stacked;
      h.stacked = h.stacked || r->stacked;
    }
  return h;
}

static ka_status row(struct ka_ctx *ctx, struct ka_str *out, const struct ka_family *f) {
  struct held h = experts(f);
  const char *apart = h.apart ? "one matrix each" : "", *both = h.apart && h.stacked ? ", " : "";
  bool any = h.apart || h.stacked;
  KA_TRY(ka_str_printf(ctx, out, "| "));
  KA_TRY(list(ctx, out, f->architectures));
  KA_TRY(ka_str_printf(ctx, out, " | "));
  KA_TRY(list(ctx, out, f->model_types));
  KA_TRY(ka_str_printf(ctx, out, " | "));
  KA_TRY(layers(ctx, out, f));
  KA_TRY(ka_str_printf(ctx, out, " | %s | ", trains(f) ? "all" : "not all"));
  KA_TRY(fused(ctx, out, f));
  KA_TRY(ka_str_printf(ctx, out, " | "));
  KA_TRY(heads(ctx, out, f));
  KA_TRY(ka_str_printf(ctx, out, " | %s%s%s | ", apart, both,
                       h.stacked ? "stacked [E, ..]"
                       : any     ? ""
                                 : "–"));
  KA_TRY(ka_str_printf(ctx, out, "%s | %s |\n",
                       !h.stacked ? "any matrix"
                       : h.apart  ? "any matrix; experts where they lie apart"
                                  : "any matrix but the experts'",
                       !attention(f)->kv_width        ? "–"
                       : attention(f) == &ka_attn_mla ? "k, v of all heads"
                                                      : "k, v of the kv heads"));
  return KA_STATUS_OK;
}

static ka_status keys(struct ka_ctx *ctx, struct ka_str *out, const struct ka_family *f) {
  if (!f->keys && !f->defaults) return KA_STATUS_OK;
  KA_TRY(ka_str_printf(ctx, out, "| `%s` | ", f->name));
  if (f->keys) KA_TRY(list(ctx, out, f->keys));
  KA_TRY(ka_str_printf(ctx, out, " | %s%s%s |\n", f->defaults ? "`" : "",
                       f->defaults ? f->defaults : "", f->defaults ? "`" : ""));
  return KA_STATUS_OK;
}

ka_status ka_family_doc_markdown(struct ka_ctx *ctx, struct ka_str *out) {
  const struct ka_family *f;
  KA_TRY(ka_str_printf(
      ctx, out,
      "# Families\n\n"
      "Made from the tables by `cmake --build build --target docs`. How one is added:\n"
      "[adding-a-family.md](adding-a-family.md); what is done with experts: "
      "[experts.md](experts.md); "
      "how units are\ncounted and ordered: [spectra.md](spectra.md).\n\n"
      "- **trains:** which weights have gradients. Every family: dense or by slices, with "
      "recomputation, "
      "anchors and\n  prefix caches (`tests/model/test_grad.c`, `test_anchor.c`).\n"
      "- **spectra:** each matrix is a unit, also where the files hold several in one tensor.\n"
      "- **heads:** the matrices that `unit: head` cuts into heads.\n"
      "- **adapters read:** where PEFT's LoRA may lie ([deltas.md](deltas.md)); any tensor may be "
      "in "
      "`modules_to_save`.\n"
      "- **KV cache:** what decoding keeps of a layer.\n"
      "- **CUDA** and **ranks:** every family. Passes, devices and ranks know no families: the "
      "back end "
      "has every op\n  (`kappa doctor`), and `tests/model/test_golden.c` runs all of them on it; "
      "ranks "
      "split micro-batches and\n  stored tensors (`tests/dist`).\n\n"
      "| architectures | model_type | layers | trains | spectra | heads | experts | adapters read "
      "| KV cache "
      "|\n|---|---|---|---|---|---|---|---|---|\n"));
  for (int i = 0; (f = ka_family_at(i)); i++) KA_TRY(row(ctx, out, f));
  KA_TRY(ka_str_printf(
      ctx, out,
      "\n## Keys of config.json\n\n"
      "A key that changes the result and that the family does not know is an error that names it; "
      "`quantization_config`\nhas a sentence of its own, `auto_map` a note: code that comes with a "
      "model is "
      "not run. Keys that only some\nfamilies know, and what a missing key means where "
      "transformers' "
      "configuration class says something else than\nLlama's:\n\n"
      "| family | keys of its own | a missing key means |\n|---|---|---|\n"));
  for (int i = 0; (f = ka_family_at(i)); i++) KA_TRY(keys(ctx, out, f));
  return KA_STATUS_OK;
}
