/* SPDX-License-Identifier: Apache-2.0
 * Command-line parsing from the option tables. Everything wrong is one message and exit code 2. */
#include "engine/cli/cli.h"

#include "base/arena.h"
#include "base/str.h"
#include "base/threads.h"
#include "engine/cli/manual.h"
#include "engine/dist/dist.h"
#include "engine/job/job_table.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KA_COMMAND_GROUP(title)
#define KA_COMMAND(name) extern const struct ka_cli_command ka_command_##name;
#include "engine/cli/commands.def"
#undef KA_COMMAND

const struct ka_cli_command *const ka_commands[] = {
#define KA_COMMAND(name) &ka_command_##name,
#include "engine/cli/commands.def"
#undef KA_COMMAND
    NULL};
#undef KA_COMMAND_GROUP

const struct ka_cli_option ka_cli_common[] = {
    {"device", KA_OPT_STR, "auto|cpu|cuda|ref|cuda:80GB", "auto",
     "where to compute; with a size of memory: what to plan for"},
    {"threads", KA_OPT_INT, "N", NULL, "CPU threads (default: all cores, or OMP_NUM_THREADS)"},
    {"verbose", KA_OPT_FLAG, NULL, NULL, "more log lines, and where an error came from"},
    {"quiet", KA_OPT_FLAG, NULL, NULL, "warnings only"},
    {"help", KA_OPT_FLAG, NULL, NULL, "this text"},
    {0}};

enum { MAX_OPTIONS = 48 };

struct ka_cli {
  const struct ka_cli_command *command;
  const char **args;
  int n_args;
  struct value {
    const struct ka_cli_option *option;
    bool given;
    const char *text;
    const char **words;
    int n_words;
    int64_t i;
    double f;
  } values[MAX_OPTIONS];
  int n_values;
  struct ka_str line;
};

static const struct value *find(const struct ka_cli *cli, const char *name) {
  for (int i = 0; i < cli->n_values; i++)
    if (strcmp(cli->values[i].option->name, name) == 0) return &cli->values[i];
  return NULL;
}

static const struct value *known(const struct ka_cli *cli, const char *name) {
  const struct value *v = find(cli, name);
  assert(v && "option is not in the command's table");
  return v;
}

const char *ka_cli_line(const struct ka_cli *cli) { return cli->line.data; }
int ka_cli_n_args(const struct ka_cli *cli) { return cli->n_args; }
const char *ka_cli_arg(const struct ka_cli *cli, int i) {
  return i < cli->n_args ? cli->args[i] : NULL;
}
bool ka_cli_given(const struct ka_cli *cli, const char *name) { return known(cli, name)->given; }
bool ka_cli_flag(const struct ka_cli *cli, const char *name) { return known(cli, name)->given; }
const char *ka_cli_str(const struct ka_cli *cli, const char *name) {
  return known(cli, name)->text;
}
int64_t ka_cli_int(const struct ka_cli *cli, const char *name) { return known(cli, name)->i; }
double ka_cli_float(const struct ka_cli *cli, const char *name) { return known(cli, name)->f; }
int ka_cli_list(const struct ka_cli *cli, const char *name, const char *const **words) {
  *words = known(cli, name)->words;
  return known(cli, name)->n_words;
}

ka_status ka_cli_words(struct ka_arena *arena, const struct ka_cli *cli, const char *name,
                       const char **words, int64_t max, int64_t *n) {
  struct ka_ctx *ctx = arena->ctx;
  const char *list = ka_cli_str(cli, name), *word = list;
  size_t len;
  *n = 0;
  while (list && ka_list_next(&list, ',', &word, &len)) {
    if (len == 0) continue;
    if (*n == max)
      return ka_fail(ctx, KA_E_USAGE, "--%s: more than %lld between commas", name, (long long)max);
    KA_TRY(ka_arena_str(arena, &words[(*n)++], word, len));
  }
  return KA_STATUS_OK;
}

/* Text made by manual.c, to stdout. */
static ka_status print(struct ka_str *text, ka_status st) {
  if (ka_ok(st) && text->len) fwrite(text->data, 1, text->len, stdout);
  ka_str_deinit(text);
  return st;
}

static ka_status print_help(struct ka_ctx *ctx, const struct ka_cli_command *c) {
  struct ka_str text = {0};
  return print(&text, c ? ka_cli_help(ctx, &text, c) : ka_cli_overview(ctx, &text));
}

/* The keys of a job, as docs/jobs.md has them. */
static ka_status print_keys(struct ka_ctx *ctx) {
  struct ka_str text = {0};
  return print(&text, ka_job_doc_markdown(ctx, &text));
}

/* value "a|b|c:80": is word one of them, or one with something else behind the colon? Values
 * without
 * '|' accept anything. */
static bool allowed(const char *choices, const char *word) {
  if (!choices || !strchr(choices, '|')) return true;
  size_t n = strlen(word), head = strcspn(word, ":");
  for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL) {
    if (strncmp(p, word, n) == 0 && (p[n] == '|' || p[n] == 0)) return true;
    if (word[head] == ':' && strncmp(p, word, head + 1) == 0) return true;
  }
  return false;
}

static ka_status set_value(struct ka_ctx *ctx, struct value *v, const char *text) {
  const struct ka_cli_option *o = v->option;
  if (!allowed(o->value, text))
    return ka_fail(ctx, KA_E_USAGE, "--%s: got \"%s\", expected %s", o->name, text, o->value);
  v->text = text;
  if (o->kind == KA_OPT_INT && !ka_parse_i64(text, &v->i))
    return ka_fail(ctx, KA_E_USAGE, "--%s: got \"%s\", expected an integer", o->name, text);
  if (o->kind == KA_OPT_FLOAT && !ka_parse_f64(text, &v->f))
    return ka_fail(ctx, KA_E_USAGE, "--%s: got \"%s\", expected a number", o->name, text);
  return KA_STATUS_OK;
}

static ka_status unknown_option(struct ka_ctx *ctx, const struct ka_cli *cli, const char *name) {
  const char *names[MAX_OPTIONS + 1] = {0};
  for (int i = 0; i < cli->n_values; i++) names[i] = cli->values[i].option->name;
  const char *near = ka_nearest(name, names);
  return ka_fail(ctx, KA_E_USAGE, "kappa %s: unknown option --%s%s%s%s; see `kappa %s --help`",
                 cli->command->name, name, near ? ", did you mean --" : "", near ? near : "",
                 near ? "?" : "", cli->command->name);
}

static ka_status parse_option(struct ka_ctx *ctx, struct ka_cli *cli, int argc, char **argv,
                              int *at) {
  char name[64];
  const char *word = argv[*at] + 2, *equals = strchr(word, '=');
  snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - word) : 63, word);
  for (char *p = name; *p; p++) /* --apply_chat_template is the word of other tools */
    if (*p == '_') *p = '-';
  struct value *v = (struct value *)(uintptr_t)find(cli, name);
  if (!v) return unknown_option(ctx, cli, name);
  ++*at;
  v->given = true;
  if (v->option->kind == KA_OPT_FLAG) {
    if (equals) return ka_fail(ctx, KA_E_USAGE, "--%s takes no value", name);
    return KA_STATUS_OK;
  }
  if (v->option->kind == KA_OPT_LIST) {
    if (equals) v->words[v->n_words++] = equals + 1;
    while (!equals && *at < argc && strncmp(argv[*at], "--", 2) != 0)
      v->words[v->n_words++] = argv[(*at)++];
    if (v->n_words == 0)
      return ka_fail(ctx, KA_E_USAGE, "--%s needs at least one %s", name, v->option->value);
    return KA_STATUS_OK;
  }
  if (equals) return set_value(ctx, v, equals + 1);
  if (*at == argc)
    return ka_fail(ctx, KA_E_USAGE, "--%s needs a value: %s", name, v->option->value);
  return set_value(ctx, v, argv[(*at)++]);
}

static ka_status add_options(struct ka_ctx *ctx, struct ka_cli *cli,
                             const struct ka_cli_option *table, int argc) {
  for (const struct ka_cli_option *o = table; o && o->name; o++) {
    KA_NEVER(ctx, cli->n_values == MAX_OPTIONS);
    struct value *v = &cli->values[cli->n_values++];
    v->option = o;
    if (o->dflt) KA_TRY(set_value(ctx, v, o->dflt));
    if (o->kind == KA_OPT_LIST) {
      KA_TRY(KA_NEW_HEAP(ctx, &v->words, argc, "option words"));
    }
  }
  return KA_STATUS_OK;
}

static ka_status parse(struct ka_ctx *ctx, struct ka_cli *cli, int argc, char **argv) {
  void *args;
  KA_TRY(ka_alloc_n(ctx, &args, argc, sizeof *cli->args, "arguments"));
  cli->args = args;
  KA_TRY(add_options(ctx, cli, cli->command->options, argc));
  KA_TRY(add_options(ctx, cli, ka_cli_common, argc));
  for (int i = 2; i < argc;) {
    if (strcmp(argv[i], "--") == 0) {
      for (i++; i < argc; i++) cli->args[cli->n_args++] = argv[i];
    } else if (strcmp(argv[i], "-h") == 0) {
      ((struct value *)(uintptr_t)find(cli, "help"))->given = true;
      i++;
    } else if (strncmp(argv[i], "--", 2) == 0) {
      KA_TRY(parse_option(ctx, cli, argc, argv, &i));
    } else {
      cli->args[cli->n_args++] = argv[i++];
    }
  }
  return KA_STATUS_OK;
}

/* The line as it may be given to a shell again. */
static ka_status remember_line(struct ka_ctx *ctx, struct ka_str *out, int argc, char **argv) {
  KA_TRY(ka_str_puts(ctx, out, "kappa"));
  for (int i = 1; i < argc; i++) {
    size_t plain = strspn(argv[i], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                   "-_./=:,+@%");
    bool quote = argv[i][plain] || !*argv[i];
    KA_TRY(ka_str_puts(ctx, out, quote ? " '" : " "));
    for (const char *p = argv[i]; *p; p++)
      KA_TRY(*p == '\'' ? ka_str_puts(ctx, out, "'\\''") : ka_str_append(ctx, out, p, 1));
    if (quote) KA_TRY(ka_str_puts(ctx, out, "'"));
  }
  return KA_STATUS_OK;
}

/* Of several ranks the first one speaks; errors of the others reach it (engine/dist). */
static ka_status fall_silent(struct ka_ctx *ctx) {
  if (ctx->rank == 0) return KA_STATUS_OK;
  if (ctx->log_level < KA_LOG_DEBUG) ctx->log_level = KA_LOG_QUIET;
  if (!freopen("/dev/null", "w", stdout))
    return ka_fail(ctx, KA_E_IO, "/dev/null: cannot be opened");
  return KA_STATUS_OK;
}

static ka_status run_ranks(struct ka_ctx *ctx, const struct ka_cli *cli) {
  enum { TIMEOUT_S = 600 }; /* until a job says how long */
  const struct ka_cli_command *c = cli->command;
  KA_TRY(ka_dist_open(ctx, &ctx->dist, TIMEOUT_S));
  ka_status st = fall_silent(ctx);
  if (ka_ok(st) && ka_dist_n(ctx->dist) > 1 && !c->ranks)
    st = ka_fail(ctx, KA_E_USAGE, "kappa %s runs in one process: start it without mpirun or srun",
                 c->name);
  if (ka_ok(st)) st = c->run(ctx, cli);
  KA_TRY_KEEP(ka_dist_close(ctx->dist, st));
  ctx->dist = NULL;
  return st;
}

static ka_status run(struct ka_ctx *ctx, struct ka_cli *cli, int argc, char **argv) {
  KA_TRY(parse(ctx, cli, argc, argv));
  KA_TRY(remember_line(ctx, &cli->line, argc, argv));
  const struct ka_cli_command *c = cli->command;
  if (ka_cli_flag(cli, "help")) return print_help(ctx, c);
  if (cli->n_args < c->min_args || (c->max_args >= 0 && cli->n_args > c->max_args))
    return ka_fail(ctx, KA_E_USAGE, "got %d arguments; usage: kappa %s %s", cli->n_args, c->name,
                   c->args);
  if (ka_cli_flag(cli, "verbose")) ctx->log_level = KA_LOG_DEBUG;
  if (ka_cli_flag(cli, "quiet")) ctx->log_level = KA_LOG_WARN;
  int64_t n_threads = ka_cli_given(cli, "threads") ? ka_cli_int(cli, "threads") : 0;
  if (ka_cli_given(cli, "threads") && (n_threads < 1 || n_threads > KA_THREADS_MOST))
    return ka_fail(ctx, KA_E_USAGE, "--threads: got %lld, expected 1 to %d", (long long)n_threads,
                   KA_THREADS_MOST);
  KA_TRY(ka_threads_set(ctx, n_threads));
  return run_ranks(ctx, cli);
}

static bool is_one(const char *word, const char *a, const char *b, const char *c) {
  return strcmp(word, a) == 0 || strcmp(word, b) == 0 || strcmp(word, c) == 0;
}

static const struct ka_cli_command *find_command(const char *name) {
  for (int i = 0; ka_commands[i]; i++)
    if (strcmp(name, ka_commands[i]->name) == 0) return ka_commands[i];
  return NULL;
}

static ka_status unknown_command(struct ka_ctx *ctx, const char *name) {
  const char *names[64] = {0};
  for (int i = 0; ka_commands[i]; i++) names[i] = ka_commands[i]->name;
  const char *near = ka_nearest(name, names);
  return ka_fail(ctx, KA_E_USAGE, "unknown command \"%s\"%s%s%s; see `kappa help`", name,
                 near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
}

/* kappa help, kappa help train, kappa help job */
static ka_status help(struct ka_ctx *ctx, const char *topic) {
  const struct ka_cli_command *c = topic ? find_command(topic) : NULL;
  if (topic && (strcmp(topic, "job") == 0 || strcmp(topic, "jobs") == 0)) return print_keys(ctx);
  return topic && !c ? unknown_command(ctx, topic) : print_help(ctx, c);
}

ka_status ka_cli_main(struct ka_ctx *ctx, int argc, char **argv) {
  struct ka_str text = {0};
  if (argc < 2) {
    KA_TRY(print_help(ctx, NULL));
    return ka_fail(ctx, KA_E_USAGE, "no command given");
  }
  if (is_one(argv[1], "help", "--help", "-h")) return help(ctx, argc > 2 ? argv[2] : NULL);
  if (is_one(argv[1], "version", "--version", "-V"))
    return print(&text, ka_cli_version(ctx, &text));
  struct ka_cli cli = {.command = find_command(argv[1])};
  if (!cli.command) return unknown_command(ctx, argv[1]);
  ka_status st = run(ctx, &cli, argc, argv);
  for (int i = 0; i < cli.n_values; i++) ka_free(cli.values[i].words);
  ka_free(cli.args);
  ka_str_deinit(&cli.line);
  return st;
}
