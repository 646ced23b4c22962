/* SPDX-License-Identifier: Apache-2.0
 * See manual.h. */
#include "engine/cli/manual.h"

#include "engine/job/job_table.h"

#include <stdio.h>
#include <string.h>

#define KA_COMMAND(name) extern const struct ka_cli_command ka_command_##name;
#define KA_COMMAND_GROUP(title)
#include "engine/cli/commands.def"
#undef KA_COMMAND
#undef KA_COMMAND_GROUP

static const struct {
  const char *title; /* of a group, or NULL */
  const struct ka_cli_command *command;
} rows[] = {
#define KA_COMMAND(name) {NULL, &ka_command_##name},
#define KA_COMMAND_GROUP(title) {title, NULL},
#include "engine/cli/commands.def"
#undef KA_COMMAND
#undef KA_COMMAND_GROUP
};

static const char exit_codes[] =
    "0 good, 1 a check failed, 2 wrong use or bad input, 3 a resource (memory, disk, device), "
    "4 interrupted and resumable";

static bool takes_job(const struct ka_cli_command *c) {
  return strstr(c->args, "key=value") != NULL;
}

/* --- help -------------------------------------------------------------------- */

ka_status ka_cli_overview(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out,
                     "kappa " KAPPA_VERSION
                     ": fine-tunes a transformer by training only the units whose weights\n"
                     "have a low condition number, and shows what the model forgot.\n\n"
                     "usage: kappa COMMAND [ARGS] [key=value ...]\n"));
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (rows[i].title)
      KA_TRY(ka_str_printf(ctx, out, "\n%s\n", rows[i].title));
    else
      KA_TRY(
          ka_str_printf(ctx, out, "  %-10s %s\n", rows[i].command->name, rows[i].command->summary));
  }
  return ka_str_printf(ctx, out,
                       "\nfor example\n"
                       "  kappa plan job.yaml                        # every error, memory, time\n"
                       "  kappa train job.yaml learning_rate=1e-4    # a key of the job, changed\n"
                       "  kappa analyze path/to/model --html spectra.html\n\n"
                       "`kappa help COMMAND` lists a command's options; `kappa help job` the keys "
                       "of a job\n(docs/jobs.md says more of them).\nexit codes: %s\n",
                       exit_codes);
}

static ka_status put_option(struct ka_ctx *ctx, struct ka_str *out, const struct ka_cli_option *o) {
  char left[80];
  snprintf(left, sizeof left, "--%s%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "",
           o->kind == KA_OPT_LIST ? "..." : "");
  KA_TRY(ka_str_printf(ctx, out, "  %-32s %s", left, o->doc));
  if (o->dflt) KA_TRY(ka_str_printf(ctx, out, " (default %s)", o->dflt));
  return ka_str_puts(ctx, out, "\n");
}

ka_status ka_cli_help(struct ka_ctx *ctx, struct ka_str *out, const struct ka_cli_command *c) {
  KA_TRY(ka_str_printf(ctx, out, "usage: kappa %s %s\n\n%s\n", c->name, c->args, c->summary));
  if (c->example) KA_TRY(ka_str_printf(ctx, out, "\nfor example\n  %s\n", c->example));
  KA_TRY(ka_str_puts(ctx, out, "\noptions\n"));
  for (const struct ka_cli_option *o = c->options; o && o->name; o++)
    KA_TRY(put_option(ctx, out, o));
  for (const struct ka_cli_option *o = ka_cli_common; o->name; o++) KA_TRY(put_option(ctx, out, o));
  if (!takes_job(c)) return KA_STATUS_OK;
  return ka_str_puts(ctx, out, "\nkeys of a job: `kappa help job`, docs/jobs.md\n");
}

/* --- man pages --------------------------------------------------------------- */

/* Text of a page: a leading dot or quote and backslashes would be requests. */
static ka_status put_roff(struct ka_ctx *ctx, struct ka_str *out, const char *text) {
  bool start = true;
  for (; *text; text++) {
    if (start && (*text == '.' || *text == '\'')) KA_TRY(ka_str_puts(ctx, out, "\\&"));
    if (*text == '\\')
      KA_TRY(ka_str_puts(ctx, out, "\\e"));
    else if (*text == '-')
      KA_TRY(ka_str_puts(ctx, out, "\\-"));
    else
      KA_TRY(ka_str_append(ctx, out, text, 1));
    start = *text == '\n';
  }
  return ka_str_puts(ctx, out, "\n");
}

static ka_status put_items(struct ka_ctx *ctx, struct ka_str *out,
                           const struct ka_cli_option *options) {
  for (const struct ka_cli_option *o = options; o && o->name; o++) {
    KA_TRY(
        ka_str_printf(ctx, out, ".TP\n\\fB\\-\\-%s\\fR %s\n", o->name, o->value ? o->value : ""));
    KA_TRY(put_roff(ctx, out, o->doc));
    if (o->dflt) KA_TRY(ka_str_printf(ctx, out, "(default %s)\n", o->dflt));
  }
  return KA_STATUS_OK;
}

static ka_status man_overview(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out,
                     ".TH KAPPA 1 \"\" \"kappa " KAPPA_VERSION
                     "\"\n.SH NAME\nkappa \\- fine\\-tunes "
                     "a transformer by training only the units whose weights have a low condition "
                     "number\n.SH SYNOPSIS\n\\fBkappa\\fR COMMAND [ARGS] [key=value ...]\n"));
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (rows[i].title) {
      KA_TRY(ka_str_printf(ctx, out, ".SH %s\n", rows[i].title));
      continue;
    }
    KA_TRY(ka_str_printf(ctx, out, ".TP\n\\fBkappa\\-%s\\fR(1)\n", rows[i].command->name));
    KA_TRY(put_roff(ctx, out, rows[i].command->summary));
  }
  KA_TRY(ka_str_puts(ctx, out, ".SH EXIT STATUS\n"));
  return put_roff(ctx, out, exit_codes);
}

ka_status ka_cli_man(struct ka_ctx *ctx, struct ka_str *out, const struct ka_cli_command *c) {
  if (!c) return man_overview(ctx, out);
  KA_TRY(ka_str_printf(ctx, out,
                       ".TH KAPPA\\-%s 1 \"\" \"kappa " KAPPA_VERSION "\"\n.SH NAME\n"
                       "kappa\\-%s \\- ",
                       c->name, c->name));
  KA_TRY(put_roff(ctx, out, c->summary));
  KA_TRY(ka_str_printf(ctx, out, ".SH SYNOPSIS\n\\fBkappa %s\\fR ", c->name));
  KA_TRY(put_roff(ctx, out, c->args));
  KA_TRY(ka_str_puts(ctx, out, ".SH OPTIONS\n"));
  KA_TRY(put_items(ctx, out, c->options));
  KA_TRY(put_items(ctx, out, ka_cli_common));
  if (takes_job(c)) {
    KA_TRY(ka_str_puts(ctx, out, ".SH KEYS OF A JOB\n"));
    for (const struct ka_key *k = ka_job_table.keys; k->name; k++) {
      const char *scope = k->scope ? ka_job_table.scopes[k->scope].name : "";
      KA_TRY(ka_str_printf(ctx, out, ".TP\n\\fB%s%s%s\\fR\n", scope, *scope ? "." : "", k->name));
      KA_TRY(put_roff(ctx, out, k->doc));
    }
  }
  if (c->example) {
    KA_TRY(ka_str_puts(ctx, out, ".SH EXAMPLE\n"));
    KA_TRY(put_roff(ctx, out, c->example));
  }
  KA_TRY(ka_str_puts(ctx, out, ".SH EXIT STATUS\n"));
  KA_TRY(put_roff(ctx, out, exit_codes));
  return ka_str_puts(ctx, out, ".SH SEE ALSO\n\\fBkappa\\fR(1)\n");
}

/* --- completion -------------------------------------------------------------- */

static ka_status put_words(struct ka_ctx *ctx, struct ka_str *out,
                           const struct ka_cli_option *options) {
  for (const struct ka_cli_option *o = options; o && o->name; o++)
    KA_TRY(ka_str_printf(ctx, out, " --%s", o->name));
  return KA_STATUS_OK;
}

/* The keys that words of the command line may give: seed=, selection.count=. */
static ka_status put_keys(struct ka_ctx *ctx, struct ka_str *out) {
  for (const struct ka_key *k = ka_job_table.keys; k->name; k++) {
    const char *scope = k->scope ? ka_job_table.scopes[k->scope].name : "";
    bool of_list = k->scope == KA_SCOPE_DATASET || k->scope == KA_SCOPE_MAPPING ||
                   k->scope == KA_SCOPE_HELD_OUT;
    if (k->kind != KA_KEY_OBJECT && !of_list)
      KA_TRY(ka_str_printf(ctx, out, " %s%s%s=", scope, *scope ? "." : "", k->name));
  }
  return KA_STATUS_OK;
}

static ka_status bash(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out,
                     "# bash completion of kappa; made from its tables\n"
                     "_kappa() {\n  local cur=${COMP_WORDS[COMP_CWORD]} words\n"
                     "  if [ \"$COMP_CWORD\" -eq 1 ]; then words=\"help version"));
  for (int i = 0; ka_commands[i]; i++) KA_TRY(ka_str_printf(ctx, out, " %s", ka_commands[i]->name));
  KA_TRY(ka_str_puts(ctx, out, "\"\n  else case ${COMP_WORDS[1]} in\n"));
  for (int i = 0; ka_commands[i]; i++) {
    KA_TRY(ka_str_printf(ctx, out, "    %s) words=\"", ka_commands[i]->name));
    KA_TRY(put_words(ctx, out, ka_commands[i]->options));
    KA_TRY(put_words(ctx, out, ka_cli_common));
    if (takes_job(ka_commands[i])) KA_TRY(put_keys(ctx, out));
    KA_TRY(ka_str_puts(ctx, out, "\" ;;\n"));
  }
  return ka_str_puts(
      ctx, out,
      "  esac; fi\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\") $(compgen -f -- \"$cur\"))\n"
      "  case ${COMPREPLY[0]} in *=) compopt -o nospace ;; esac\n"
      "}\ncomplete -o filenames -F _kappa kappa\n");
}

static ka_status zsh(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out,
                     "#compdef kappa\n# made from kappa's tables\n_kappa() {\n"
                     "  local -a list\n  if (( CURRENT == 2 )); then list=(help version"));
  for (int i = 0; ka_commands[i]; i++) KA_TRY(ka_str_printf(ctx, out, " %s", ka_commands[i]->name));
  KA_TRY(ka_str_puts(ctx, out, ")\n    compadd -a list; return; fi\n  case $words[2] in\n"));
  for (int i = 0; ka_commands[i]; i++) {
    KA_TRY(ka_str_printf(ctx, out, "    %s) list=(", ka_commands[i]->name));
    KA_TRY(put_words(ctx, out, ka_commands[i]->options));
    KA_TRY(put_words(ctx, out, ka_cli_common));
    if (takes_job(ka_commands[i])) KA_TRY(put_keys(ctx, out));
    KA_TRY(ka_str_puts(ctx, out, ") ;;\n"));
  }
  return ka_str_puts(ctx, out, "  esac\n  compadd -S '' -a list\n  _files\n}\n_kappa \"$@\"\n");
}

static ka_status fish_quote(struct ka_ctx *ctx, struct ka_str *out, const char *text) {
  KA_TRY(ka_str_puts(ctx, out, "'"));
  for (; *text; text++) {
    if (*text == '\'' || *text == '\\') KA_TRY(ka_str_puts(ctx, out, "\\"));
    KA_TRY(ka_str_append(ctx, out, text, 1));
  }
  return ka_str_puts(ctx, out, "'\n");
}

static ka_status fish_options(struct ka_ctx *ctx, struct ka_str *out, const char *command,
                              const struct ka_cli_option *options) {
  for (const struct ka_cli_option *o = options; o && o->name; o++) {
    KA_TRY(ka_str_printf(ctx, out,
                         "complete -c kappa -n '__fish_seen_subcommand_from %s' -l %s%s -d ",
                         command, o->name, o->kind == KA_OPT_FLAG ? "" : " -r"));
    KA_TRY(fish_quote(ctx, out, o->doc));
  }
  return KA_STATUS_OK;
}

static ka_status fish(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out, "# fish completion of kappa; made from its tables\n"));
  for (int i = 0; ka_commands[i]; i++) {
    const struct ka_cli_command *c = ka_commands[i];
    KA_TRY(
        ka_str_printf(ctx, out, "complete -c kappa -n __fish_use_subcommand -a %s -d ", c->name));
    KA_TRY(fish_quote(ctx, out, c->summary));
    KA_TRY(fish_options(ctx, out, c->name, c->options));
    KA_TRY(fish_options(ctx, out, c->name, ka_cli_common));
    if (!takes_job(c)) continue;
    KA_TRY(ka_str_printf(ctx, out, "complete -c kappa -n '__fish_seen_subcommand_from %s' -a '",
                         c->name));
    KA_TRY(put_keys(ctx, out));
    KA_TRY(ka_str_puts(ctx, out, "'\n"));
  }
  return KA_STATUS_OK;
}

ka_status ka_cli_completion(struct ka_ctx *ctx, struct ka_str *out, const char *shell) {
  if (strcmp(shell, "bash") == 0) return bash(ctx, out);
  return strcmp(shell, "zsh") == 0 ? zsh(ctx, out) : fish(ctx, out);
}

/* --- the cheat sheet ---------------------------------------------------------- */

static const char sheet_head[] =
    "# kappa on a page\n\n"
    "<!-- Made from the tables of commands by `cmake --build build --target docs`. -->\n\n"
    "```sh\n"
    "kappa init --job MODEL data.jsonl --out job.yaml   # a commented first job\n"
    "kappa plan job.yaml                                # every error, rows with their mask, "
    "memory, "
    "time\n"
    "kappa train job.yaml learning_rate=1e-4            # any key of the job; Ctrl-C saves\n"
    "kappa train job.yaml --resume                      # goes on, bit for bit\n"
    "kappa eval out --text wiki.txt                     # loss and perplexities\n"
    "kappa generate out --chat --prompt 'Hello'         # what it says\n"
    "kappa forget MODEL out --text wiki.txt --new-text new.txt   # what it learned and forgot\n"
    "kappa export out model.gguf --type q8_0            # for llama.cpp\n"
    "```\n\n"
    "```yaml\n"
    "# job.yaml; all keys: jobs.md. Paths start at this file's directory.\n"
    "base_model: path/to/model           # or org/name, when Hugging Face's cache has it\n"
    "datasets:\n"
    "  - {path: data.jsonl, type: chat_template}   # alpaca, completion, prompt_completion, ...\n"
    "held_out: [{name: old skill, path: wiki.txt}] # what it must not forget\n"
    "selection: {metric: kappa, fraction: 0.05}    # metric: all trains everything\n"
    "sequence_len: 2048\n"
    "micro_batch_size: 2\n"
    "gradient_accumulation_steps: 8\n"
    "num_epochs: 3                       # or max_steps\n"
    "learning_rate: 2e-5\n"
    "gradient_checkpointing: block       # when memory is short; optimizer_dtype: bf16, too\n"
    "output_dir: out                     # model, report.html, train_log.jsonl, selection.json\n"
    "```\n";

/* A table's cell: | would end it. */
static ka_status put_cell(struct ka_ctx *ctx, struct ka_str *out, const char *text) {
  for (; *text; text++)
    KA_TRY(ka_str_append(ctx, out, *text == '|' ? "\\|" : text, *text == '|' ? 2 : 1));
  return KA_STATUS_OK;
}

ka_status ka_cli_cheat_sheet(struct ka_ctx *ctx, struct ka_str *out) {
  KA_TRY(ka_str_puts(ctx, out, sheet_head));
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const struct ka_cli_command *c = rows[i].command;
    if (rows[i].title) KA_TRY(ka_str_printf(ctx, out, "\n| %s | |\n|---|---|\n", rows[i].title));
    if (!c) continue;
    KA_TRY(ka_str_printf(ctx, out, "| `kappa %s%s", c->name, *c->args ? " " : ""));
    KA_TRY(put_cell(ctx, out, c->args));
    KA_TRY(ka_str_printf(ctx, out, "` | %s |\n", c->summary));
  }
  return ka_str_printf(
      ctx, out,
      "\n`kappa COMMAND --help` lists the options; MODEL is a directory, a name in "
      "Hugging Face's cache, a delta\nor an adapter. Exit codes: %s.\n",
      exit_codes);
}

/* --- version ----------------------------------------------------------------- */

ka_status ka_cli_version(struct ka_ctx *ctx, struct ka_str *out) {
  static const char *const built_in[] = {
#ifdef KAPPA_HAVE_ONEDNN
      "oneDNN",
#endif
#ifdef KAPPA_HAVE_LAPACK
      "LAPACK",
#endif
#ifdef KAPPA_HAVE_ZLIB
      "zlib",
#endif
#ifdef KAPPA_HAVE_ZSTD
      "zstd",
#endif
#ifdef KAPPA_HAVE_SNAPPY
      "snappy",
#endif
#ifdef KAPPA_HAVE_LZ4
      "lz4",
#endif
#ifdef KAPPA_HAVE_BROTLI
      "brotli",
#endif
#ifdef KAPPA_HAVE_AUDIO
      "audio",
#endif
      "OpenMP"};
  KA_TRY(ka_str_puts(ctx, out, "kappa " KAPPA_VERSION " (with"));
  for (size_t i = 0; i < sizeof built_in / sizeof *built_in; i++)
    KA_TRY(ka_str_printf(ctx, out, "%s %s", i ? "," : "", built_in[i]));
  return ka_str_puts(ctx, out, "; plug-ins: see kappa doctor)\n");
}
