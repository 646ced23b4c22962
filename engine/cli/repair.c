/* SPDX-License-Identifier: Apache-2.0
 * kappa repair: gives back what a tuned model forgot, without data and without training. */
#include "engine/forget/repair.h"
#include "base/str.h"
#include "engine/cli/cli.h"
#include "engine/cli/measure_options.h"
#include "engine/formats/adapter.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct request {
  struct ka_arena arena;
  struct ka_measure_options measures;
  struct ka_repair_options options;
};

/* Numbers between commas; "none": none. */
static ka_status read_strengths(struct request *r, const struct ka_cli *cli, int method) {
  struct ka_ctx *ctx = r->arena.ctx;
  const char *option = ka_repair_info((enum ka_repair_method)method)->name;
  const char *words[KA_REPAIR_STRENGTHS];
  int64_t *n = &r->options.n_strengths[method];
  if (strcmp(ka_cli_str(cli, option), "none") == 0) return KA_STATUS_OK;
  KA_TRY(ka_cli_words(&r->arena, cli, option, words, KA_REPAIR_STRENGTHS, n));
  for (int64_t i = 0; i < *n; i++) {
    double *to = &r->options.strengths[method][i];
    if (!ka_parse_f64(words[i], to) || !(*to >= 0) || isinf(*to))
      return ka_fail(ctx, KA_E_USAGE,
                     "--%s: got \"%s\", expected \"none\" or up to %d numbers of 0 or more, commas "
                     "between",
                     option, ka_cli_str(cli, option), KA_REPAIR_STRENGTHS);
  }
  return KA_STATUS_OK;
}

static ka_status read_request(struct request *r, const struct ka_cli *cli) {
  struct ka_ctx *ctx = r->arena.ctx;
  struct ka_repair_options *o = &r->options;
  o->spec.base = ka_cli_arg(cli, 0);
  o->tuned = ka_cli_arg(cli, 1);
  o->out = ka_cli_str(cli, "out");
  o->keep = ka_cli_float(cli, "keep");
  o->n_intruders = ka_cli_int(cli, "intruders");
  if (!(o->keep >= 0 && o->keep <= 1) || o->n_intruders < 0)
    return ka_fail(ctx, KA_E_USAGE, "--keep: expected 0 to 1; --intruders: 0 or more");
  if (o->out && (strcmp(o->out, o->spec.base) == 0 || strcmp(o->out, o->tuned) == 0))
    return ka_fail(ctx, KA_E_USAGE, "--out: %s is one of the models", o->out);
  if (o->out && ka_path_exists(o->out))
    return ka_fail(ctx, KA_E_USAGE, "--out: %s exists; choose another, or remove it", o->out);
  /* An adapter or a delta is over the base that is given here. */
  bool own = !ka_path_is_dir(o->tuned) || ka_adapter_is(o->tuned);
  o->tuned_base = own ? o->spec.base : NULL;
  for (int m = 0; m < KA_N_REPAIRS; m++) KA_TRY(read_strengths(r, cli, m));
  return ka_cli_measure_options(ctx, &r->arena, cli, &r->measures, &o->spec);
}

/* --- the table -------------------------------------------------------------------------------- */

static void print_number(const json_t *row, const char *key, double scale, int digits) {
  double v = ka_json_number(json_object_get(row, key));
  if (isnan(v))
    printf(" %11s", "-");
  else
    printf(" %+11.*f", digits, scale * v);
}

static void print_intruders(const json_t *report, const char *which) {
  const json_t *row = json_object_get(json_object_get(report, "intruders"), which);
  if (!row) return;
  printf("%s: %lld of %lld top singular vectors in %lld matrices are like none of the base's "
         "(cosine below %g)\n",
         which, (long long)json_integer_value(json_object_get(row, "intruders")),
         (long long)json_integer_value(json_object_get(row, "vectors")),
         (long long)json_integer_value(json_object_get(row, "matrices")),
         json_number_value(json_object_get(row, "cosine")));
}

static void print(const json_t *report) {
  const json_t *p;
  size_t i;
  printf("%-2s%-8s %8s %11s %11s %11s %11s\n", "", "repair", "strength", "learned, %", "forgot, %",
         "score, %", "KL");
  json_array_foreach(json_object_get(report, "points"), i, p) {
    double strength = ka_json_number(json_object_get(p, "strength"));
    bool chosen = json_is_true(json_object_get(p, "chosen"));
    printf("%-2s%-8s ",
           chosen                                      ? "*"
           : json_is_true(json_object_get(p, "front")) ? "|"
                                                       : "",
           json_string_value(json_object_get(p, "method")));
    if (isnan(strength))
      printf("%8s", "-");
    else
      printf("%8g", strength);
    print_number(p, "learned", 100, 2);
    print_number(p, "forgot", 100, 2);
    print_number(p, "score", 100, 2);
    print_number(p, "kl", 1, 4);
    putchar('\n');
  }
  printf("* chosen: it forgot least of those that learned %g of what TUNED did; | no other is "
         "better at both\n",
         json_number_value(json_object_get(report, "keep")));
  print_intruders(report, "tuned");
  print_intruders(report, "chosen");
}

static ka_status repair_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  json_t *report = NULL;
  const char *json = ka_cli_str(cli, "json");
  struct request *r;
  KA_TRY(KA_NEW_HEAP(ctx, &r, 1, "repair"));
  ka_arena_init(&r->arena, ctx, "repair");
  ka_status st = read_request(r, cli);
  if (ka_ok(st)) st = ka_repair_sweep(ctx, &r->options, &report);
  if (ka_ok(st) && json) st = ka_json_write(ctx, report, json);
  if (ka_ok(st) && (!json || strcmp(json, "-") != 0)) print(report);
  json_decref(report);
  ka_arena_deinit(&r->arena);
  ka_free(r);
  return st;
}

const struct ka_cli_command ka_command_repair = {
    .name = "repair",
    .args = "BASE TUNED",
    .summary =
        "gives back what a tuned model forgot, without data: shrinks its change and measures",
    .min_args = 2,
    .max_args = 2,
    .options =
        (const struct ka_cli_option[]){
            {"out", KA_OPT_STR, "DIR", NULL, "where the chosen model is written"},
            {"keep", KA_OPT_FLOAT, "X", "0.95",
             "the share of what TUNED learned that the chosen one keeps"},
#define KA_REPAIR(id, name, strengths, doc) {name, KA_OPT_STR, "A,B,...", strengths, doc},
#include "engine/forget/repair.def"
#undef KA_REPAIR
            {"intruders", KA_OPT_INT, "K", "10",
             "top singular vectors of each matrix compared with the base's; 0: no such check"},
            KA_MEASURE_CLI_OPTIONS(""),
            {"json", KA_OPT_STR, "FILE", NULL, "write the report as JSON (- for stdout)"},
            {0}},
    .run = repair_run,
};
