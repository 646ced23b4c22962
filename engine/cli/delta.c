/* SPDX-License-Identifier: Apache-2.0
 * kappa delta: what a tuned model has that its base has not, made, put back, shown. */
#include "engine/formats/delta.h"

#include "base/log.h"
#include "engine/cli/cli.h"
#include "engine/report/progress.h"

#include <stdio.h>
#include <string.h>

static void show_progress(void *user, size_t done, size_t total) {
  struct ka_progress *bar = user;
  bar->total = (int64_t)(total >> 20);
  ka_progress_update(bar, (int64_t)(done >> 20), "MiB");
}

static const char *shape_text(const struct ka_st_entry *e, char *buf, size_t n) {
  int at = snprintf(buf, n, "[");
  for (int d = 0; d < e->t.n_dim; d++)
    at += snprintf(buf + at, n - (size_t)at, "%s%lld", d ? ", " : "", (long long)e->t.shape[d]);
  snprintf(buf + at, n - (size_t)at, "]");
  return buf;
}

static void print_tensor(const struct ka_delta_tensor *t, int width) {
  char shape[160], bytes[32], form[64] = "whole";
  if (t->part)
    snprintf(form, sizeof form, "%lld of %lld x %lld of %lld", (long long)t->rows.total,
             (long long)t->n_rows, (long long)t->cols.total, (long long)t->n_cols);
  printf("%-*s  %-5s %-16s %-32s %10s%s\n", width, t->entry->name, t->entry->dtype_name,
         shape_text(t->entry, shape, sizeof shape), form,
         ka_fmt_bytes((double)t->payload->n_bytes, bytes), t->packed ? " packed" : "");
}

static const char *const from_names[] = {"the base's", "stored", "header stored"};

static void print_table(const struct ka_delta *d) {
  int width = 6;
  for (int64_t i = 0; i < d->n_tensors; i++) {
    int len = (int)strlen(d->tensors[i].entry->name);
    width = len > width ? len : width;
  }
  printf("%-*s  %-5s %-16s %-32s %10s\n", width, "tensor", "dtype", "shape", "rows x columns",
         "stored");
  for (int64_t i = 0; i < d->n_tensors; i++) print_tensor(&d->tensors[i], width);
  for (int64_t i = 0; i < d->n_files; i++) {
    char bytes[32];
    printf("%-*s  %-55s %10s\n", width, d->files[i].name, from_names[d->files[i].from],
           ka_fmt_bytes((double)d->files[i].n_bytes, bytes));
  }
}

static void print_summary(const struct ka_delta *d) {
  char own[32], whole[32];
  double all = 0;
  for (int64_t i = 0; i < d->n_files; i++) all += (double)d->files[i].n_bytes;
  printf("%s: %lld of %lld tensors differ from %s (fingerprint %s); %s for %s\n", d->path,
         (long long)d->n_tensors, (long long)d->layout.n_entries, d->base, d->fingerprint,
         ka_fmt_bytes((double)d->file.shards[0].n_bytes, own), ka_fmt_bytes(all, whole));
}

static json_t *tensor_json(const struct ka_delta_tensor *t) {
  json_t *shape = json_array();
  for (int d = 0; d < t->entry->t.n_dim; d++)
    json_array_append_new(shape, json_integer(t->entry->t.shape[d]));
  return json_pack("{s:s, s:s, s:o, s:b, s:b, s:I, s:I, s:I}", "name", t->entry->name, "dtype",
                   t->entry->dtype_name, "shape", shape, "part", t->part, "packed", t->packed,
                   "rows", (json_int_t)(t->part ? t->rows.total : t->n_rows), "cols",
                   (json_int_t)(t->part ? t->cols.total : t->n_cols), "bytes",
                   (json_int_t)t->payload->n_bytes);
}

static ka_status write_json(struct ka_ctx *ctx, const struct ka_delta *d, const char *path) {
  json_t *tensors = json_array(), *files = json_array();
  for (int64_t i = 0; i < d->n_tensors; i++)
    json_array_append_new(tensors, tensor_json(&d->tensors[i]));
  for (int64_t i = 0; i < d->n_files; i++)
    json_array_append_new(files, json_pack("{s:s, s:I, s:b}", "name", d->files[i].name, "bytes",
                                           (json_int_t)d->files[i].n_bytes, "in_base",
                                           d->files[i].from == KA_DELTA_BASE));
  json_t *root =
      json_pack("{s:s, s:s, s:I, s:I, s:o, s:o}", "base", d->base, "fingerprint", d->fingerprint,
                "bytes", (json_int_t)d->file.shards[0].n_bytes, "model_tensors",
                (json_int_t)d->layout.n_entries, "tensors", tensors, "files", files);
  if (!root) return ka_fail(ctx, KA_E_MEMORY, "delta: out of memory");
  ka_status st = ka_json_write(ctx, root, path);
  json_decref(root);
  return st;
}

/* What the delta at path holds: one line, or with `table` all of it; and the JSON. */
static ka_status show(struct ka_ctx *ctx, const struct ka_cli *cli, const char *path, bool table) {
  struct ka_delta d;
  const char *json = ka_cli_str(cli, "json");
  KA_TRY(ka_delta_open(ctx, &d, path));
  bool text = !json || strcmp(json, "-") != 0;
  if (text && table) print_table(&d);
  if (text) print_summary(&d);
  ka_status st = json ? write_json(ctx, &d, json) : KA_STATUS_OK;
  ka_delta_close(&d);
  return st;
}

static ka_status export_run(struct ka_ctx *ctx, const struct ka_cli *cli,
                            struct ka_delta_progress *progress) {
  const char *path = ka_cli_arg(cli, 3);
  struct ka_delta_options options = {.pack = ka_cli_flag(cli, "pack") || ka_cli_given(cli, "level"),
                                     .level = (int)ka_cli_int(cli, "level"),
                                     .progress = progress};
  if (ka_cli_int(cli, "level") < 1 || ka_cli_int(cli, "level") > 19)
    return ka_fail(ctx, KA_E_USAGE, "--level: got %lld, expected 1 to 19",
                   (long long)ka_cli_int(cli, "level"));
  return ka_delta_export(ctx, ka_cli_arg(cli, 1), ka_cli_arg(cli, 2), path, &options);
}

static ka_status apply_run(struct ka_ctx *ctx, const struct ka_cli *cli,
                           struct ka_delta_progress *progress) {
  return ka_delta_apply(ctx, ka_cli_arg(cli, 1), ka_cli_arg(cli, 2), ka_cli_arg(cli, 3), progress);
}

static ka_status delta_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  static const struct {
    const char *name, *args;
    int n_args;
    int file; /* which of them is the delta */
    ka_status (*run)(struct ka_ctx *ctx, const struct ka_cli *cli,
                     struct ka_delta_progress *progress);
  } verbs[] = {{"export", "BASE TUNED FILE", 3, 3, export_run},
               {"apply", "BASE FILE OUT", 3, 2, apply_run},
               {"show", "FILE", 1, 1, NULL}};
  const char *word = ka_cli_arg(cli, 0);
  size_t v = 0;
  while (v < 3 && strcmp(word, verbs[v].name) != 0) v++;
  if (v == 3)
    return ka_fail(ctx, KA_E_USAGE, "kappa delta: got \"%s\", expected export, apply or show",
                   word);
  if (ka_cli_n_args(cli) != 1 + verbs[v].n_args)
    return ka_fail(ctx, KA_E_USAGE, "usage: kappa delta %s %s", word, verbs[v].args);
  struct ka_progress bar;
  struct ka_delta_progress progress = {.show = show_progress, .user = &bar};
  if (verbs[v].run) {
    ka_progress_begin(ctx, &bar, "delta", 0, 1);
    bar.share = true;
    ka_status st = verbs[v].run(ctx, cli, &progress);
    ka_progress_end(&bar);
    KA_TRY(st);
  }
  return show(ctx, cli, ka_cli_arg(cli, verbs[v].file), !verbs[v].run);
}

static const struct ka_cli_option options[] = {
    {"pack", KA_OPT_FLAG, NULL, NULL, "export: pack losslessly against the base (zstd)"},
    {"level", KA_OPT_INT, "N", "3", "export: pack by this level of zstd, 1 to 19"},
    {"json", KA_OPT_STR, "FILE", NULL, "what the delta holds as JSON (- for stdout)"},
    {0}};

const struct ka_cli_command ka_command_delta = {
    .name = "delta",
    .args = "export BASE TUNED FILE | apply BASE FILE OUT | show FILE",
    .summary = "a tuned model as its difference from the base, and back",
    .example = "kappa delta export base tuned changes.delta",
    .min_args = 1,
    .max_args = 4,
    .options = options,
    .run = delta_run,
};
