/* SPDX-License-Identifier: Apache-2.0
 * kappa analyze: spectra of a model directory or a bare file, as a table, JSON or HTML; what a
 * selection would take. */
#include "base/json.h"
#include "base/log.h"
#include "engine/cli/analyze_table.h"
#include "engine/cli/cli.h"
#include "engine/formats/model_source.h"
#include "engine/report/progress.h"
#include "engine/report/spectral_html.h"
#include "engine/spectral/cache.h"
#include "engine/spectral/choose.h"
#include "engine/spectral/export.h"
#include "engine/spectral/spectral_json.h"
#include "engine/spectral/units.h"
#include "kernels/device.h"

#include <stdio.h>
#include <string.h>

static const double SMALL_MODEL = 5e7; /* weights */

struct analysis {
  struct ka_ctx *ctx;
  const struct ka_cli *cli;
  struct ka_arena arena;
  struct ka_model_source source;
  struct ka_dev dev;
  struct ka_hf_config config;
  bool has_config; /* a model directory: parts of fused tensors, heads and experts are known */
  struct ka_unit *units;
  struct ka_spectrum *results;
  int64_t n;
  struct ka_spectral_options options;
  struct ka_spectral_phases phases;
  struct ka_select_spec spec;
  bool selects;
  struct ka_selection selection;
  struct ka_progress bar;
  enum ka_spectral_metric metric;
  bool exports;
  enum ka_spectral_export format;
};

/* The bar counts millions of operations, so that its ETA goes by work, not by tensors. */
static void on_progress(void *user, double done, double all, const char *unit) {
  struct analysis *a = user;
  (void)all;
  ka_progress_update(&a->bar, (int64_t)(done * 1e-6), unit);
}

static ka_status read_options(struct analysis *a) {
  struct ka_ctx *ctx = a->ctx;
  const struct ka_cli *cli = a->cli;
  struct ka_spectral_options *o = &a->options;
  const char *metric = ka_cli_str(cli, "metric"), *select = ka_cli_str(cli, "select");
  if (!ka_spectral_metric_parse(metric, &a->metric))
    return ka_fail(ctx, KA_E_USAGE, "--metric: got \"%s\", expected %s", metric,
                   ka_spectral_metric_choices());
  if (select) {
    KA_TRY(ka_select_parse(ctx, &a->arena, select, &a->spec));
    a->selects = true;
  }
  const char *unit = ka_cli_str(cli, "unit");
  a->spec.unit = unit[0] == 'h' ? KA_UNIT_HEAD : unit[0] == 'e' ? KA_UNIT_EXPERT : KA_UNIT_TENSOR;
  const char *format = ka_cli_str(cli, "export");
  a->exports = format && ka_spectral_export_parse(format, &a->format);
  if (a->exports && ka_spectral_export_info(a->format)->needs_selection && !a->selects)
    return ka_fail(ctx, KA_E_USAGE, "--export %s writes a selection: give one with --select",
                   format);
  o->full = ka_cli_flag(cli, "full") ||
            (a->exports && ka_spectral_export_info(a->format)->needs_full) ||
            ka_spectral_metric_info(a->metric)->needs_full ||
            (a->selects && ka_select_needs_full(&a->spec));
  o->precision =
      strcmp(ka_cli_str(cli, "precision"), "auto") == 0 ? KA_PRECISION_AUTO : KA_PRECISION_F64;
  o->rtol = ka_cli_float(cli, "rtol");
  if (ka_cli_given(cli, "rtol") && !(o->rtol > 0 && o->rtol <= 0.1))
    return ka_fail(ctx, KA_E_USAGE, "--rtol: got %g, expected above 0, at most 0.1", o->rtol);
  o->max_dim = ka_cli_int(cli, "max-dim");
  o->max_bytes = ka_cli_int(cli, "memory") * (int64_t)1000000;
  if (o->max_dim < 0 || o->max_bytes < 0 || ka_cli_int(cli, "top") < 0)
    return ka_fail(ctx, KA_E_USAGE, "--max-dim, --memory and --top must not be negative");
  if (!ka_cli_flag(cli, "no-cache")) {
    o->cache = ka_cli_str(cli, "cache");
    if (!o->cache) KA_TRY(ka_spectral_cache_default_path(&a->arena, &o->cache));
  }
  return KA_STATUS_OK;
}

static ka_status open_config(struct analysis *a) {
  struct ka_ctx *ctx = a->ctx;
  const char *path = NULL, *dir = a->source.dir;
  KA_TRY(ka_path_join(&a->arena, &path, dir, "config.json"));
  if (!ka_path_is_dir(dir) || !ka_path_exists(path)) {
    if (a->spec.unit == KA_UNIT_TENSOR) return KA_STATUS_OK;
    return ka_fail(ctx, KA_E_USAGE,
                   "--unit %s: %s has no config.json, so its tensors have no parts",
                   ka_cli_str(a->cli, "unit"), dir);
  }
  a->has_config = true;
  return ka_hf_config_open(ctx, &a->config, path);
}

static const struct ka_spectrum *first_bad(const struct analysis *a) {
  for (int64_t i = 0; i < a->n; i++)
    if (a->results[i].bad_index >= 0) return &a->results[i];
  return NULL;
}

/* The engine that computes `flops`: by measured rates, or as asked. */
static ka_status open_engine(struct analysis *a, double flops) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_linalg_engine *e = &a->options.engine;
  KA_TRY(ka_dev_open(ctx, &a->dev, ka_cli_str(a->cli, "device")));
  if (strcmp(ka_cli_str(a->cli, "f64"), "auto") == 0)
    return ka_linalg_engine_choose(ctx, &a->dev, flops, e);
  *e = ka_linalg_engine_of(&a->dev);
  if (!e->blas) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_USAGE,
                 "--f64 device: got the device \"%s\", which has no engine for spectra; use "
                 "--device cuda, or leave --f64 out",
                 a->dev.backend->name);
}

static ka_status compute(struct analysis *a) {
  struct ka_ctx *ctx = a->ctx;
  const struct ka_hf_config *config = a->has_config ? &a->config : NULL;
  KA_TRY(ka_units_of_file(ctx, &a->arena, &a->source.files, config, a->spec.unit, false, &a->units,
                          &a->n));
  if (a->n == 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: no tensor of two or more dimensions",
                   a->source.files.path);
  KA_TRY(KA_NEW(&a->arena, &a->results, a->n, "results"));
  /* A page without spectra is poor: small models get them unasked. */
  double elems = 0;
  for (int64_t i = 0; i < a->n; i++) elems += (double)ka_unit_elems(&a->units[i]);
  if (ka_cli_given(a->cli, "html") && elems < SMALL_MODEL) a->options.full = true;
  double flops = ka_spectral_flops(a->units, a->n, &a->options);
  KA_TRY(open_engine(a, flops));
  const char *slow = ka_blas_slow_core();
  if (slow && flops > 1e10 && a->options.engine.blas) ka_warn(ctx, "analyze", "%s", slow);
  ka_progress_begin(ctx, &a->bar, "analyze", 0, (int64_t)(flops * 1e-6));
  a->bar.share = true;
  a->options.progress = on_progress;
  a->options.user = a;
  ka_status st = a->selects ? ka_select_units(ctx, &a->arena, &a->selection, a->results, &a->spec,
                                              a->units, a->n, true, &a->options, &a->phases)
                            : ka_spectral_analyze(ctx, &a->arena, a->results, a->units, a->n,
                                                  &a->options, &a->phases);
  ka_progress_end(&a->bar);
  if (st.code == KA_E_INPUT && first_bad(a)) { /* the table shows it, and the exit code is 1 */
    ka_error_clear(ctx);
    a->selects = false;
    st = KA_STATUS_OK;
  }
  KA_TRY(st);
  const struct ka_spectral_phases *p = &a->phases;
  ka_debug(ctx, "analyze",
           "all threads together: read %.2f s, gram %.2f s (%.0f Gflop), cholesky %.2f s, Lanczos "
           "%.2f s, inverse %.2f s, svd %.2f s, hash %.2f s; elapsed %.2f s",
           p->read_s, p->gram_s, p->gram_flops * 1e-9, p->cholesky_s, p->lanczos_s, p->inverse_s,
           p->svd_s, p->hash_s, p->total_s);
  a->selection.base = ka_cli_arg(a->cli, 0);
  return KA_STATUS_OK;
}

/* Which path was taken, and what is selected. */
static json_t *json_extra(const struct analysis *a) {
  const struct ka_linalg_engine *e = &a->options.engine;
  const double *rate = a->dev.f64_flops;
  json_t *extra = json_pack("{s:s, s:s}", "engine", ka_linalg_engine_name(e), "device",
                            e->blas ? "cpu" : a->dev.backend->name);
  if (rate[0] > 0)
    json_object_set_new(
        extra, "f64_gflops",
        json_pack("{s:f, s:f}", "cpu", rate[0] * 1e-9, a->dev.backend->name, rate[1] * 1e-9));
  if (!a->selects) return extra;
  json_t *names = json_array();
  for (int64_t i = 0; i < a->selection.n_units; i++)
    json_array_append_new(names, json_string(a->selection.units[i].name));
  json_object_set_new(extra, "selected", names);
  return extra;
}

static ka_status print(struct analysis *a) {
  struct ka_ctx *ctx = a->ctx;
  const char *json = ka_cli_str(a->cli, "json");
  if (json) KA_TRY(ka_spectral_write_json(ctx, a->results, a->n, json_extra(a), json));
  if (!json || strcmp(json, "-") != 0)
    KA_TRY(ka_cli_analyze_table(ctx, a->results, a->n, a->metric, ka_cli_int(a->cli, "top"),
                                a->selects ? &a->selection : NULL, &a->phases, &a->options.engine));
  const struct ka_spectrum *bad = first_bad(a);
  if (!bad) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_CHECK, "%s: %s; such a model cannot be trained", bad->unit->name,
                 bad->error);
}

/* The last part of the path, which is what people call a model. */
static const char *title_of(struct analysis *a) {
  const char *path = ka_cli_arg(a->cli, 0), *base = ka_path_base(path);
  return base && base[0] ? base : path;
}

static ka_status write_files(struct analysis *a) {
  struct ka_ctx *ctx = a->ctx;
  const char *save = ka_cli_str(a->cli, "save"), *output = ka_cli_str(a->cli, "output");
  if (a->selects && save) KA_TRY(ka_selection_write(ctx, &a->selection, save));
  const char *html = ka_cli_str(a->cli, "html");
  if (html)
    KA_TRY(ka_spectral_html_write(ctx, title_of(a), a->results, a->n, a->metric,
                                  a->selects ? &a->selection : NULL, html));
  if (!a->exports) return KA_STATUS_OK;
  if (!output) output = ka_spectral_export_info(a->format)->file;
  KA_TRY(ka_spectral_export_write(ctx, a->format, a->results, a->n,
                                  a->selects ? &a->selection : NULL, output));
  ka_info(ctx, "analyze", "wrote %s", output);
  return KA_STATUS_OK;
}

static ka_status analyze_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct analysis a = {.ctx = ctx, .cli = cli};
  ka_arena_init(&a.arena, ctx, "analyze");
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(read_options(&a), out);
  KA_TRY_GOTO(ka_model_source_open(ctx, &a.source, ka_cli_arg(cli, 0), ka_cli_str(cli, "base")),
              close);
  KA_TRY_GOTO(open_config(&a), close);
  KA_TRY_GOTO(compute(&a), close);
  KA_TRY_GOTO(write_files(&a), close);
  KA_TRY_GOTO(print(&a), close);
close:
  ka_dev_close(&a.dev);
  if (a.has_config) ka_hf_config_close(&a.config);
  ka_model_source_close(&a.source);
out:
  ka_arena_deinit(&a.arena);
  return st;
}

static const struct ka_cli_option options[] = {
    {"metric", KA_OPT_STR, "NAME", "kappa", "what the table draws: one of"
#define KA_METRIC(id, name, full, unit, formula, source) " " name
#include "engine/job/metrics.def"
    },
    {"unit", KA_OPT_STR, "tensor|head|expert", "tensor", "what counts as one"},
    {"full", KA_OPT_FLAG, NULL, NULL, "all singular values, and the metrics that need them"},
    {"rtol", KA_OPT_FLOAT, "X", NULL, "wanted relative bound of kappa (see docs/spectra.md)"},
    {"f64", KA_OPT_STR, "auto|device", "auto",
     "where float64 is computed; auto: on the device unless the processor is measured faster"},
    {"precision", KA_OPT_STR, "auto|f64", "f64", "auto: only as sure as the order needs"},
    {"top", KA_OPT_INT, "N", "0", "of the table only the N lowest by the metric; 0: all"},
    {"select", KA_OPT_STR, "WORDS", NULL, "show what a selection takes: \"kappa lowest 20\""},
    {"save", KA_OPT_STR, "FILE", NULL, "write the selection as selection.json"},
    {"json", KA_OPT_STR, "FILE", NULL, "results as JSON; - for stdout"},
    {"html", KA_OPT_STR, "FILE", NULL, "a page to look at; spectra need --full on large models"},
    {"export", KA_OPT_STR, "kappatune|peft|axolotl|spectrum", NULL, "write for another tool"},
    {"output", KA_OPT_STR, "FILE", NULL, "where --export writes (default: the format's own name)"},
    {"max-dim", KA_OPT_INT, "N", "0", "skip tensors with a longer side; 0: none"},
    {"memory", KA_OPT_INT, "MB", "0", "limit of the workspaces; 0: none"},
    {"cache", KA_OPT_STR, "FILE", NULL, "where results are kept (~/.cache/kappa/spectra.bin)"},
    {"no-cache", KA_OPT_FLAG, NULL, NULL, "compute everything, keep nothing"},
    KA_OPT_BASE,
    {0}};

const struct ka_cli_command ka_command_analyze = {
    .name = "analyze",
    .args = "MODEL|FILE.safetensors",
    .summary = "condition numbers with proven bounds, and other spectra of the weights",
    .example = "kappa analyze path/to/model --select \"kappa lowest 20\" --html spectra.html",
    .min_args = 1,
    .max_args = 1,
    .options = options,
    .run = analyze_run,
};
