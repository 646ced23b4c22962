/* SPDX-License-Identifier: Apache-2.0
 * See export.h. */
#include "engine/spectral/export.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/spectral/memory_names.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct ka_spectral_export_info infos[KA_N_EXPORTS] = {
#define X(id, name, file, selection, full) {name, file, selection, full},
    KA_EXPORT_TABLE(X)
#undef X
};

const struct ka_spectral_export_info *ka_spectral_export_info(enum ka_spectral_export format) {
  return &infos[format];
}

bool ka_spectral_export_parse(const char *name, enum ka_spectral_export *out) {
  for (int i = 0; i < KA_N_EXPORTS; i++)
    if (strcmp(infos[i].name, name) == 0) {
      *out = (enum ka_spectral_export)i;
      return true;
    }
  return false;
}

/* Bytes of the module's name: the tensor's without ".weight". */
static size_t module_len(const char *tensor) {
  size_t n = strlen(tensor);
  return ka_ends_with(tensor, ".weight") ? n - 7 : n;
}

/* A stored tensor; of one that stacks experts, which are units of their own, one of these. */
static bool listed(const struct ka_spectrum *r) {
  const struct ka_unit *u = r->unit;
  bool part = strchr(u->name, '#');
  return u->n_dim == 3 && (u->has_parts || part) ? u->expert >= 0 && part : !part;
}

/* The expert that a selected unit belongs to, whichever way it is stored; -1: none. */
static int64_t expert_of(const struct ka_selected *u, const struct ka_memory_name *m) {
  const char *at = strstr(u->name, "#expert");
  return at ? atoi(at + strlen("#expert")) : m->expert;
}

/* Lines of a list or an object, with what their tensors are called in memory. */
struct writer {
  struct ka_arena *arena;
  struct ka_str *out;
  const struct ka_spectrum *results;
  int64_t n;
  const struct ka_selection *selection;
  struct ka_memory_name *names; /* of the results, or of the selected */
  int64_t n_lost;               /* tensors of which less can be said than is known */
  const char *lost;             /* the first of them */
};

static void lose(struct writer *w, const char *name) {
  if (w->n_lost++ == 0) w->lost = name;
}

static bool of_expert(const struct writer *w, int64_t i) {
  return w->names[i].expert >= 0 || w->results[i].unit->expert >= 0;
}

static ka_status name_all(struct writer *w, bool selected) {
  struct ka_ctx *ctx = w->arena->ctx;
  int64_t n = selected ? w->selection->n_units : w->n;
  KA_TRY(KA_NEW(w->arena, &w->names, n + 1, "names"));
  for (int64_t i = 0; i < n; i++)
    KA_TRY(ka_memory_name_of(w->arena,
                             selected ? w->selection->units[i].tensor : w->results[i].unit->tensor,
                             &w->names[i]));
  return KA_STATUS_OK;
}

/* --- kappatune -------------------------------------------------------------------------------- */

/* kappa of what has this name in memory: the geometric mean over the experts that lie in it. */
static double kappa_of(const struct writer *w, int64_t first) {
  double sum = 0, n = 0;
  for (int64_t i = first; i < w->n; i++) {
    if (!listed(&w->results[i]) || w->results[i].error) continue;
    if (strcmp(w->names[i].name, w->names[first].name) != 0) continue;
    double kappa = w->results[i].metrics[KA_METRIC_KAPPA];
    sum += isfinite(kappa) ? log(kappa) : INFINITY;
    n++;
  }
  return n == 1 ? w->results[first].metrics[KA_METRIC_KAPPA] : exp(sum / n);
}

static bool written(const struct writer *w, int64_t i) {
  for (int64_t k = 0; k < i && of_expert(w, i); k++)
    if (listed(&w->results[k]) && !w->results[k].error &&
        strcmp(w->names[k].name, w->names[i].name) == 0)
      return true;
  return false;
}

static ka_status write_kappatune(struct ka_ctx *ctx, struct writer *w) {
  struct ka_str *out = w->out;
  bool first = true;
  KA_TRY(name_all(w, false));
  KA_TRY(ka_str_puts(ctx, out, "{"));
  for (int64_t i = 0; i < w->n; i++) {
    const char *name = w->names[i].name;
    if (!listed(&w->results[i]) || w->results[i].error || written(w, i)) continue;
    double kappa = kappa_of(w, i);
    if (of_expert(w, i)) lose(w, name);
    KA_TRY(ka_str_puts(ctx, out, first ? "\n  " : ",\n  "));
    KA_TRY(ka_json_quote(ctx, out, name, strlen(name)));
    if (isfinite(kappa))
      KA_TRY(ka_str_printf(ctx, out, ": %.17g", kappa));
    else
      KA_TRY(ka_str_puts(ctx, out, ": Infinity"));
    first = false;
  }
  if (w->n_lost > 0)
    ka_warn(ctx, "export",
            "%lld names (%s, ...) stand for the experts of a layer together, as transformers 5 has "
            "them in "
            "memory: their kappa is the geometric mean of the experts'",
            (long long)w->n_lost, w->lost);
  return ka_str_puts(ctx, out, "\n}\n");
}

/* --- peft ------------------------------------------------------------------------------------- */

static bool repeats(const struct writer *w, int64_t i) {
  for (int64_t j = 0; j < i; j++)
    if (strcmp(w->names[j].name, w->names[i].name) == 0) return true;
  return false;
}

/* A module that PEFT can adapt is a Linear; what is none is a parameter. In models with experts
 * PEFT 0.21 takes these words for the experts of every layer, however much stands before them;
 * parameters it takes at their word. */
static bool is_module(const struct writer *w, const char *name) {
  static const char *const words[] = {".gate_proj.weight", ".up_proj.weight", ".down_proj.weight"};
  bool experts = false, taken = false;
  for (int64_t i = 0; i < w->n && !experts; i++)
    experts = strstr(w->results[i].unit->tensor, ".experts.") != NULL;
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) taken |= ka_ends_with(name, words[i]);
  return ka_ends_with(name, ".weight") && !ka_memory_is_router(name) && !(experts && taken);
}

static ka_status write_list(struct ka_ctx *ctx, const struct writer *w, bool modules) {
  bool first = true;
  for (int64_t i = 0; i < w->selection->n_units; i++) {
    const char *name = w->names[i].name;
    if (is_module(w, name) != modules || repeats(w, i)) continue;
    KA_TRY(ka_str_puts(ctx, w->out, first ? "\n    " : ",\n    "));
    KA_TRY(ka_json_quote(ctx, w->out, name, modules ? module_len(name) : strlen(name)));
    first = false;
  }
  return KA_STATUS_OK;
}

static ka_status write_peft(struct ka_ctx *ctx, struct writer *w) {
  KA_TRY(name_all(w, true));
  KA_TRY(ka_str_puts(ctx, w->out, "{\n  \"target_modules\": ["));
  KA_TRY(write_list(ctx, w, true));
  KA_TRY(ka_str_puts(ctx, w->out, "\n  ],\n  \"target_parameters\": ["));
  KA_TRY(write_list(ctx, w, false));
  for (int64_t i = 0; i < w->selection->n_units; i++) {
    const struct ka_selected *u = &w->selection->units[i];
    if (w->names[i].expert >= 0 || u->rows[0] >= 0 || u->cols[0] >= 0) lose(w, u->name);
  }
  if (w->n_lost > 0)
    ka_warn(ctx, "export",
            "PEFT adapts whole parameters: %lld selected experts or parts of tensors (%s, ...) "
            "open all of the parameter that they lie in",
            (long long)w->n_lost, w->lost);
  return ka_str_puts(ctx, w->out, "\n  ]\n}\n");
}

/* --- axolotl ---------------------------------------------------------------------------------- */

/* axolotl takes "." literally and a range of the first index after "$": rows of a matrix, experts
 * of a layer. Columns, and one of gate and up, it cannot say: such a part opens what it lies in. */
static ka_status write_pattern(struct ka_ctx *ctx, struct writer *w, int64_t i) {
  const struct ka_selected *u = &w->selection->units[i];
  const struct ka_memory_name *m = &w->names[i];
  int64_t range[2] = {-1, -1};
  int64_t expert = expert_of(u, m);
  if (expert >= 0) {
    range[0] = expert;
    range[1] = expert + 1;
  } else if (u->rows[0] >= 0 && u->cols[0] < 0) {
    memcpy(range, u->rows, sizeof range);
  }
  bool more = u->cols[0] >= 0 || m->part != KA_EXPERT_WHOLE || (m->expert >= 0 && u->rows[0] >= 0);
  if (more) lose(w, u->name);
  for (int64_t j = 0; j < i; j++) {
    const struct ka_selected *other = &w->selection->units[j];
    bool same = strcmp(w->names[j].name, m->name) == 0 && expert_of(other, &w->names[j]) == expert;
    if (same &&
        (range[0] < 0 || expert >= 0 || memcmp(other->rows, u->rows, sizeof other->rows) == 0))
      return KA_STATUS_OK;
  }
  KA_TRY(ka_str_printf(ctx, w->out, "  - ^%s$", m->name));
  if (range[0] >= 0)
    KA_TRY(ka_str_printf(ctx, w->out, "[%lld:%lld]", (long long)range[0], (long long)range[1]));
  return ka_str_puts(ctx, w->out, "\n");
}

static ka_status write_axolotl(struct ka_ctx *ctx, struct writer *w) {
  KA_TRY(name_all(w, true));
  KA_TRY(ka_str_puts(ctx, w->out, "unfrozen_parameters:\n"));
  for (int64_t i = 0; i < w->selection->n_units; i++) KA_TRY(write_pattern(ctx, w, i));
  if (w->n_lost > 0)
    ka_warn(
        ctx, "export",
        "axolotl can say rows and experts, not columns nor one of an expert's gate and up: %lld "
        "selected units (%s, ...) open more than themselves",
        (long long)w->n_lost, w->lost);
  return KA_STATUS_OK;
}

/* --- spectrum --------------------------------------------------------------------------------- */

/* "model.layers.3.mlp.up_proj" -> "mlp.up_proj": what stands after the last number. */
static const char *type_of(const char *name) {
  const char *type = name;
  for (const char *p = name; *p; p++)
    if (isdigit((unsigned char)*p) && p > name && p[-1] == '.') {
      while (isdigit((unsigned char)*p)) p++;
      if (*p == '.') type = p + 1;
      if (!*p) break;
    }
  return type;
}

static ka_status write_spectrum(struct ka_ctx *ctx, struct writer *w) {
  struct ka_str *out = w->out;
  bool first = true;
  KA_TRY(name_all(w, false));
  KA_TRY(ka_str_puts(ctx, out, "{"));
  for (int64_t i = 0; i < w->n; i++) {
    const struct ka_spectrum *r = &w->results[i];
    const char *name = w->names[i].name, *type = type_of(name);
    double snr = r->metrics[KA_METRIC_SNR];
    if (!listed(r) || r->error || !isfinite(snr)) continue;
    if (of_expert(w, i)) {
      lose(w, r->unit->name);
      continue;
    }
    KA_TRY(ka_str_puts(ctx, out, first ? "\n    " : ",\n    "));
    KA_TRY(ka_json_quote(ctx, out, name, module_len(name)));
    KA_TRY(ka_str_printf(ctx, out, ": {\n        \"snr\": %.17g,\n        \"type\": ", snr));
    KA_TRY(ka_json_quote(ctx, out, type, module_len(type)));
    KA_TRY(ka_str_puts(ctx, out, "\n    }"));
    first = false;
  }
  if (w->n_lost > 0)
    ka_warn(ctx, "export",
            "%lld tensors of single experts (%s, ...) are left out: transformers 5 has no module "
            "for them",
            (long long)w->n_lost, w->lost);
  return ka_str_puts(ctx, out, "\n}\n");
}

ka_status ka_spectral_export_write(struct ka_ctx *ctx, enum ka_spectral_export format,
                                   const struct ka_spectrum *results, int64_t n,
                                   const struct ka_selection *selection, const char *path) {
  struct ka_str out = {0};
  struct ka_arena arena;
  struct writer w = {
      .arena = &arena, .out = &out, .results = results, .n = n, .selection = selection};
  ka_status st = KA_STATUS_OK;
  if (infos[format].needs_selection && !selection)
    return ka_fail(ctx, KA_E_USAGE, "--export %s writes a selection: give one with --select",
                   infos[format].name);
  ka_arena_init(&arena, ctx, "export");
  switch (format) {
  case KA_EXPORT_KAPPATUNE:
    st = write_kappatune(ctx, &w);
    break;
  case KA_EXPORT_PEFT:
    st = write_peft(ctx, &w);
    break;
  case KA_EXPORT_AXOLOTL:
    st = write_axolotl(ctx, &w);
    break;
  default:
    st = write_spectrum(ctx, &w);
    break;
  }
  if (ka_ok(st)) st = ka_write_file(ctx, path, out.data, out.len);
  ka_str_deinit(&out);
  ka_arena_deinit(&arena);
  return st;
}
