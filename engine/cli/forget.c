/* SPDX-License-Identifier: Apache-2.0
 * kappa forget: what each way of selecting units learned and forgot, on the same job. Every method
 * is a whole `train` run under output_dir/METHOD; the table compares their held_out losses. */
#include "base/json.h"
#include "base/log.h"
#include "engine/cli/cli.h"
#include "engine/cli/job_words.h"
#include "engine/train/run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_METHODS = 16 };

struct method {
  const char *name;
  double trained_elems;
  json_t *held_out; /* the run's held_out.json */
};

struct forget {
  struct ka_arena arena;
  const char *output_dir;
  double n_elems;
  int n;
  struct method methods[MAX_METHODS];
};

static ka_status split_methods(struct ka_ctx *ctx, struct forget *f, const char *list) {
  for (const char *p = list; *p;) {
    size_t n = strcspn(p, ",");
    if (n == 0 || f->n == MAX_METHODS)
      return ka_fail(ctx, KA_E_USAGE,
                     "--methods: got \"%s\", expected 1 to %d metrics with commas between", list,
                     MAX_METHODS);
    KA_TRY(ka_arena_str(&f->arena, &f->methods[f->n++].name, p, n));
    p += n + (p[n] == ',');
  }
  return KA_STATUS_OK;
}

static ka_status read_held_out(struct ka_ctx *ctx, struct forget *f, struct method *m) {
  const char *path;
  KA_TRY(ka_arena_printf(&f->arena, &path, "%s/%s/held_out.json", f->output_dir, m->name));
  return ka_json_load(ctx, path, &m->held_out);
}

/* The job again, with this method and a directory of its own. */
static ka_status run_method(struct ka_ctx *ctx, struct forget *f, struct method *m,
                            const struct ka_cli *cli) {
  const char *extra[2];
  struct ka_job job;
  struct ka_run run;
  KA_TRY(ka_arena_printf(&f->arena, &extra[0], "selection.metric=%s", m->name));
  KA_TRY(ka_arena_printf(&f->arena, &extra[1], "output_dir=%s/%s", f->output_dir, m->name));
  struct ka_run_options options = {
      .device = ka_cli_given(cli, "device") ? ka_cli_str(cli, "device") : NULL,
      .resume = ka_cli_flag(cli, "resume"),
  };
  ka_status st = ka_cli_job(ctx, &job, cli, extra, 2);
  if (ka_ok(st)) {
    ka_info(ctx, "forget", "method %s", m->name);
    st = ka_run_open(ctx, &run, &job, &options);
    if (ka_ok(st)) st = ka_run_train(&run);
    if (ka_ok(st)) {
      f->n_elems = (double)ka_model_n_elems(&run.model);
      for (int64_t i = 0; i < run.model.n_slices; i++)
        m->trained_elems += (double)(run.model.slices[i].n_rows * run.model.slices[i].n_cols);
    }
    ka_run_close(&run);
  }
  ka_job_close(&job);
  return ka_ok(st) ? read_held_out(ctx, f, m) : st;
}

static double loss_of(const json_t *held_out, size_t i, const char *key) {
  const json_t *v = json_object_get(json_array_get(held_out, i), key);
  return json_is_number(v) ? json_number_value(v) : NAN;
}

static void print_table(const struct forget *f) {
  size_t n_texts = json_array_size(f->methods[0].held_out);
  printf("\n%-14s %9s", "method", "trained");
  for (size_t t = 0; t < n_texts; t++)
    printf("   %-26.26s",
           json_string_value(json_object_get(json_array_get(f->methods[0].held_out, t), "name")));
  printf("\n%-14s %9s", "", "");
  for (size_t t = 0; t < n_texts; t++) printf("   %8s %8s %8s", "before", "after", "change");
  putchar('\n');
  for (int i = 0; i < f->n; i++) {
    const struct method *m = &f->methods[i];
    printf("%-14s %7.1f %%", m->name, 100 * m->trained_elems / f->n_elems);
    for (size_t t = 0; t < n_texts; t++) {
      double before = loss_of(m->held_out, t, "loss_before"),
             after = loss_of(m->held_out, t, "loss_after");
      printf("   %8.4f %8.4f %+8.4f", before, after, after - before);
    }
    putchar('\n');
  }
}

static ka_status write_json(struct ka_ctx *ctx, const struct forget *f, const char *path) {
  json_t *root = json_object();
  for (int i = 0; i < f->n; i++)
    json_object_set_new(root, f->methods[i].name,
                        json_pack("{s:f, s:f, s:O}", "trained_params", f->methods[i].trained_elems,
                                  "params", f->n_elems, "held_out", f->methods[i].held_out));
  ka_status st = ka_json_write(ctx, root, path);
  json_decref(root);
  return st;
}

static ka_status compare(struct ka_ctx *ctx, struct forget *f, const struct ka_cli *cli) {
  struct ka_job job;
  ka_status st = ka_cli_job(ctx, &job, cli, NULL, 0);
  if (ka_ok(st) && job.held_out.n == 0)
    st = ka_fail(ctx, KA_E_INPUT,
                 "%s: held_out: missing; name the texts whose losses are to be compared",
                 ka_job_place(&job, "held_out"));
  if (ka_ok(st))
    st = ka_arena_str(&f->arena, &f->output_dir, job.output_dir, strlen(job.output_dir));
  ka_job_close(&job);
  KA_TRY(st);
  KA_TRY(split_methods(ctx, f, ka_cli_str(cli, "methods")));
  for (int i = 0; i < f->n; i++) KA_TRY(run_method(ctx, f, &f->methods[i], cli));
  const char *json = ka_cli_str(cli, "json");
  if (!json || strcmp(json, "-") != 0) print_table(f);
  return json ? write_json(ctx, f, json) : KA_STATUS_OK;
}

static ka_status forget_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct forget f = {0};
  ka_arena_init(&f.arena, ctx, "forget");
  ka_status st = compare(ctx, &f, cli);
  for (int i = 0; i < f.n; i++) json_decref(f.methods[i].held_out);
  ka_arena_deinit(&f.arena);
  return st;
}

const struct ka_command ka_command_forget = {
    .name = "forget",
    .args = "JOB.yaml [key=value ...]",
    .summary = "one job by several selections: what each learned, what each forgot",
    .min_args = 1,
    .max_args = -1,
    .options =
        (const struct ka_option[]){
            {"methods", KA_OPT_STR, "A,B,...", "kappa,all",
             "values of selection.metric; each trains into output_dir/METHOD"},
            {"resume", KA_OPT_FLAG, NULL, NULL, "continue each from its newest checkpoint"},
            {"json", KA_OPT_STR, "FILE", NULL, "write the table as JSON (- for stdout)"},
            {0}},
    .run = forget_run,
};
