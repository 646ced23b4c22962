/* SPDX-License-Identifier: Apache-2.0
 * docs/tasks.md from the tables of keys, metrics, aggregations and filters. */
#include "engine/eval/metrics.h"
#include "engine/eval/task_config.h"

#include <string.h>

static const struct {
  int scope;
  const char *head;
} sections[] = {
    {KA_SCOPE_TASK, "## At the top of a task\n"},
    {KA_SCOPE_DATA, "## Below `dataset_kwargs:`\n"},
    {KA_SCOPE_PROCESS, "## Below `process_docs:`\n"},
    {KA_SCOPE_FEWSHOT, "## Below `fewshot_config:`\n"},
    {KA_SCOPE_GENERATION, "## Below `generation_kwargs:`\n"},
    {KA_SCOPE_METRIC, "## Entries of `metric_list:`\n"},
    {KA_SCOPE_FILTER, "## Entries of `filter_list:`\n"},
    {KA_SCOPE_STEP, "## Entries of a `filter:`\n"},
    {KA_SCOPE_GROUP, "## At the top of a group\n"},
    {KA_SCOPE_AGGREGATE, "## Entries of `aggregate_metric_list:`\n"},
};

static const char *const intro =
    "# Task files\n"
    "\n"
    "<!-- Made from engine/eval/*.def by `cmake --build build --target docs`. -->\n"
    "\n"
    "A task file is YAML, with lm-evaluation-harness's keys; what they mean together is in\n"
    "[evaluation.md](evaluation.md). Every problem of a file is reported with file:line:column.\n"
    "Relative paths start at the directory of the file that they stand in.\n";

static ka_status put_metrics(struct ka_ctx *ctx, struct ka_str *out) {
  static const struct {
    char letter;
    const char *name;
  } outputs[] = {{'l', "loglikelihood"},
                 {'r', "loglikelihood_rolling"},
                 {'c', "multiple_choice"},
                 {'g', "generate_until"}};
  KA_TRY(ka_str_puts(ctx, out,
                     "\n## Metrics\n\n| metric | of (bold: by itself) | aggregation | "
                     "better | meaning |\n|---|---|---|---|---|\n"));
  for (const struct ka_eval_metric *m = ka_metrics; m->name; m++) {
    KA_TRY(ka_str_printf(ctx, out, "| `%s` | ", m->name));
    for (int i = 0, n = 0; i < 4; i++) {
      const char *bold = strchr(m->dflt, outputs[i].letter) ? "**" : "";
      if (!strchr(m->outputs, outputs[i].letter)) continue;
      KA_TRY(ka_str_printf(ctx, out, "%s%s%s%s", n++ ? ", " : "", bold, outputs[i].name, bold));
    }
    KA_TRY(ka_str_printf(ctx, out, " | `%s` | %s | %s |\n", m->aggregation,
                         m->higher_is_better ? "higher" : "lower", m->doc));
  }
  return KA_STATUS_OK;
}

static ka_status put_aggregations(struct ka_ctx *ctx, struct ka_str *out) {
  static const char *const errors[] = {[KA_STDERR_NONE] = "none",
                                       [KA_STDERR_FORMULA] = "formula",
                                       [KA_STDERR_BOOTSTRAP] = "bootstrap"};
  KA_TRY(ka_str_puts(ctx, out,
                     "\n## Aggregations\n\n| aggregation | standard error | meaning "
                     "|\n|---|---|---|\n"));
  for (const struct ka_eval_aggregation *a = ka_aggregations; a->name; a++)
    KA_TRY(
        ka_str_printf(ctx, out, "| `%s` | %s | %s |\n", a->name, errors[a->stderr_kind], a->doc));
  return KA_STATUS_OK;
}

static ka_status put_filters(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out,
                     "\n## Filter functions\n\n| function | keys | meaning |\n|---|---|---|\n"));
#define KA_FILTER_STEP(name, keys, doc)                                                            \
  KA_TRY(ka_str_printf(ctx, out, "| `%s` | %s | %s |\n", #name, keys, doc));
#include "engine/eval/filters.def"
#undef KA_FILTER_STEP
  return KA_STATUS_OK;
}

ka_status ka_task_doc_markdown(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out, intro));
  for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
    KA_TRY(ka_str_printf(ctx, out, "\n%s\n", sections[i].head));
    KA_TRY(ka_key_doc(ctx, out, &ka_task_table, sections[i].scope));
  }
  KA_TRY(put_metrics(ctx, out));
  KA_TRY(put_aggregations(ctx, out));
  KA_TRY(put_filters(ctx, out));
  KA_TRY(ka_str_puts(ctx, out, "\n## Keys of the harness that kappa refuses\n\n"));
  return ka_key_doc_aliases(ctx, out, &ka_task_table);
}
