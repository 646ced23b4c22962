/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line: one const struct ka_cli_command per subcommand (engine/cli/NAME.c), one row in
 * commands.def. Help, usage errors and completion come from the tables. */
#ifndef KAPPA_ENGINE_CLI_CLI_H
#define KAPPA_ENGINE_CLI_CLI_H

#include "base/arena.h"

enum ka_cli_opt_kind {
  KA_OPT_FLAG,  /* --resume */
  KA_OPT_STR,   /* --device cpu, --device=cpu */
  KA_OPT_INT,   /* --max-tokens 20 */
  KA_OPT_FLOAT, /* --rtol 1e-8 */
  KA_OPT_LIST,  /* --text A B C: words up to the next option; may repeat */
};

struct ka_cli_option {
  const char *name; /* without dashes; NULL ends the table */
  enum ka_cli_opt_kind kind;
  const char *value; /* "FILE" in help, or "auto|cpu|cuda": then only these words are accepted */
  const char *dflt;  /* NULL: absent unless given */
  const char *doc;
};

/* The row of every command that takes a MODEL. */
#define KA_OPT_BASE                                                                                \
  {                                                                                                \
    "base", KA_OPT_STR, "DIR", NULL,                                                               \
        "the base of a MODEL that is a delta or an adapter (default: what it names)"               \
  }

struct ka_cli; /* a parsed command line */

struct ka_cli_command {
  const char *name;
  const char *args; /* "JOB.yaml [key=value ...]" */
  const char *summary;
  const char *example;                 /* a line for help; may be NULL */
  int min_args, max_args;              /* positional words; max -1: any number */
  const struct ka_cli_option *options; /* besides --help, --device, --threads, --verbose, --quiet */
  ka_status (*run)(struct ka_ctx *ctx, const struct ka_cli *cli);
  bool ranks; /* several processes started by mpirun share its work; others run in one alone */
};

/* The whole line, quoted for a shell: "kappa train job.yaml 'a b'". */
const char *ka_cli_line(const struct ka_cli *cli);
int ka_cli_n_args(const struct ka_cli *cli);
const char *ka_cli_arg(const struct ka_cli *cli, int i);
/* Name must be in the command's table (or a common one); asserts otherwise. */
bool ka_cli_given(const struct ka_cli *cli, const char *name);
bool ka_cli_flag(const struct ka_cli *cli, const char *name);
const char *ka_cli_str(const struct ka_cli *cli,
                       const char *name);                        /* NULL when absent, no default */
int64_t ka_cli_int(const struct ka_cli *cli, const char *name);  /* 0 when absent */
double ka_cli_float(const struct ka_cli *cli, const char *name); /* 0 when absent */
int ka_cli_list(const struct ka_cli *cli, const char *name, const char *const **words);
/* The words between the commas of one value, at most `max`, in the arena: without blanks round them
 * and without empty ones. An absent option has none. KA_E_USAGE: there are more. */
ka_status ka_cli_words(struct ka_arena *arena, const struct ka_cli *cli, const char *name,
                       const char **words, int64_t max, int64_t *n);

/* Parses argv[1..], runs the command. */
ka_status ka_cli_main(struct ka_ctx *ctx, int argc, char **argv);

/* Options that every command has. */
extern const struct ka_cli_option ka_cli_common[];

/* Every command, NULL-terminated. */
extern const struct ka_cli_command *const ka_commands[];

#endif
