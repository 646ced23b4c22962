/* SPDX-License-Identifier: Apache-2.0
 * Help, man pages and shell completion, all from the tables of commands, options and job keys. */
#ifndef KAPPA_ENGINE_CLI_MANUAL_H
#define KAPPA_ENGINE_CLI_MANUAL_H

#include "base/str.h"
#include "engine/cli/cli.h"

/* Appended to out: `kappa help`; `kappa help NAME`; kappa.1 (command NULL) or kappa-NAME.1; the
 * completion of a shell, "bash", "zsh" or "fish". */
ka_status ka_cli_overview(struct ka_ctx *ctx, struct ka_str *out);
ka_status ka_cli_help(struct ka_ctx *ctx, struct ka_str *out, const struct ka_cli_command *c);
ka_status ka_cli_man(struct ka_ctx *ctx, struct ka_str *out, const struct ka_cli_command *c);
ka_status ka_cli_completion(struct ka_ctx *ctx, struct ka_str *out, const char *shell);
/* docs/cheat-sheet.md */
ka_status ka_cli_cheat_sheet(struct ka_ctx *ctx, struct ka_str *out);
/* What this program is and what was built in. */
ka_status ka_cli_version(struct ka_ctx *ctx, struct ka_str *out);

#endif
