/* SPDX-License-Identifier: Apache-2.0
 * See export.h. */
#include "engine/spectral/export.h"

#include "base/file.h"
#include "base/json.h"

#include <ctype.h>
#include <math.h>
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

static bool whole(const struct ka_spectrum *r) { return !strchr(r->unit->name, '#'); }

static ka_status write_kappatune(struct ka_ctx *ctx, const struct ka_spectrum *r, int64_t n,
                                 struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out, "{"));
  bool first = true;
  for (int64_t i = 0; i < n; i++) {
    if (!whole(&r[i]) || r[i].error) continue;
    double kappa = r[i].metrics[KA_METRIC_KAPPA];
    KA_TRY(ka_str_puts(ctx, out, first ? "\n  " : ",\n  "));
    KA_TRY(ka_json_quote(ctx, out, r[i].unit->name, strlen(r[i].unit->name)));
    if (isfinite(kappa))
      KA_TRY(ka_str_printf(ctx, out, ": %.17g", kappa));
    else
      KA_TRY(ka_str_puts(ctx, out, ": Infinity"));
    first = false;
  }
  return ka_str_puts(ctx, out, "\n}\n");
}

static bool repeats(const struct ka_selection *s, int64_t i) {
  for (int64_t j = 0; j < i; j++)
    if (strcmp(s->units[j].tensor, s->units[i].tensor) == 0) return true;
  return false;
}

static ka_status write_list(struct ka_ctx *ctx, const struct ka_selection *s, bool modules,
                            struct ka_str *out) {
  bool first = true;
  for (int64_t i = 0; i < s->n_units; i++) {
    const char *tensor = s->units[i].tensor;
    if (ka_ends_with(tensor, ".weight") != modules || repeats(s, i)) continue;
    KA_TRY(ka_str_puts(ctx, out, first ? "\n    " : ",\n    "));
    KA_TRY(ka_json_quote(ctx, out, tensor, module_len(tensor)));
    first = false;
  }
  return KA_STATUS_OK;
}

static ka_status write_peft(struct ka_ctx *ctx, const struct ka_selection *s, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out, "{\n  \"target_modules\": ["));
  KA_TRY(write_list(ctx, s, true, out));
  KA_TRY(ka_str_puts(ctx, out, "\n  ],\n  \"target_parameters\": ["));
  KA_TRY(write_list(ctx, s, false, out));
  return ka_str_puts(ctx, out, "\n  ]\n}\n");
}

/* axolotl takes "." literally and a row range after "$"; columns it cannot say, so such a part
 * opens its whole tensor. */
static ka_status write_axolotl(struct ka_ctx *ctx, const struct ka_selection *s,
                               struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out, "unfrozen_parameters:\n"));
  for (int64_t i = 0; i < s->n_units; i++) {
    const struct ka_selected *u = &s->units[i];
    bool rows = u->rows[0] >= 0 && u->cols[0] < 0;
    if (!rows && repeats(s, i)) continue;
    KA_TRY(ka_str_printf(ctx, out, "  - ^%s$", u->tensor));
    if (rows)
      KA_TRY(ka_str_printf(ctx, out, "[%lld:%lld]", (long long)u->rows[0], (long long)u->rows[1]));
    KA_TRY(ka_str_puts(ctx, out, "\n"));
  }
  return KA_STATUS_OK;
}

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

static ka_status write_spectrum(struct ka_ctx *ctx, const struct ka_spectrum *r, int64_t n,
                                struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out, "{"));
  bool first = true;
  for (int64_t i = 0; i < n; i++) {
    const char *name = r[i].unit->name, *type = type_of(name);
    double snr = r[i].metrics[KA_METRIC_SNR];
    if (!whole(&r[i]) || r[i].error || !isfinite(snr)) continue;
    KA_TRY(ka_str_puts(ctx, out, first ? "\n    " : ",\n    "));
    KA_TRY(ka_json_quote(ctx, out, name, module_len(name)));
    KA_TRY(ka_str_printf(ctx, out, ": {\n        \"snr\": %.17g,\n        \"type\": ", snr));
    KA_TRY(ka_json_quote(ctx, out, type, module_len(type)));
    KA_TRY(ka_str_puts(ctx, out, "\n    }"));
    first = false;
  }
  return ka_str_puts(ctx, out, "\n}\n");
}

ka_status ka_spectral_export_write(struct ka_ctx *ctx, enum ka_spectral_export format,
                                   const struct ka_spectrum *results, int64_t n,
                                   const struct ka_selection *selection, const char *path) {
  struct ka_str out = {0};
  ka_status st = KA_STATUS_OK;
  if (infos[format].needs_selection && !selection)
    return ka_fail(ctx, KA_E_USAGE, "--export %s writes a selection: give one with --select",
                   infos[format].name);
  switch (format) {
  case KA_EXPORT_KAPPATUNE:
    st = write_kappatune(ctx, results, n, &out);
    break;
  case KA_EXPORT_PEFT:
    st = write_peft(ctx, selection, &out);
    break;
  case KA_EXPORT_AXOLOTL:
    st = write_axolotl(ctx, selection, &out);
    break;
  default:
    st = write_spectrum(ctx, results, n, &out);
    break;
  }
  if (ka_ok(st)) st = ka_write_file(ctx, path, out.data, out.len);
  ka_str_deinit(&out);
  return st;
}
