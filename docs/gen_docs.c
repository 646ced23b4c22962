/* SPDX-License-Identifier: Apache-2.0
 * Writes jobs.md, job.schema.json, cheat-sheet.md, features.md, tasks.md and families.md into a
 * directory: `cmake --build build --target docs`; with --share man pages and shell completion, for
 * `cmake --install`. */
#include "base/file.h"
#include "base/log.h"
#include "engine/cli/manual.h"
#include "engine/eval/task_config.h"
#include "engine/job/foreign.h"
#include "engine/job/job_table.h"
#include "engine/model/family.h"

#include <stdio.h>

static ka_status write_docs(struct ka_ctx *ctx, struct ka_arena *a, const char *dir) {
  static const struct {
    const char *name;
    ka_status (*make)(struct ka_ctx *, struct ka_str *);
  } files[] = {{"jobs.md", ka_job_doc_markdown},       {"job.schema.json", ka_job_doc_schema},
               {"cheat-sheet.md", ka_cli_cheat_sheet}, {"features.md", ka_job_doc_features},
               {"tasks.md", ka_task_doc_markdown},     {"families.md", ka_family_doc_markdown}};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    struct ka_str text = {0};
    const char *path;
    KA_TRY(ka_path_join(a, &path, dir, files[i].name));
    ka_status st = files[i].make(ctx, &text);
    if (ka_ok(st)) st = ka_write_file(ctx, path, text.data, text.len);
    ka_str_deinit(&text);
    KA_TRY(st);
  }
  return KA_STATUS_OK;
}

typedef ka_status maker(struct ka_ctx *ctx, struct ka_str *out, const void *of);

static ka_status man(struct ka_ctx *ctx, struct ka_str *out, const void *of) {
  return ka_cli_man(ctx, out, of);
}

static ka_status completion(struct ka_ctx *ctx, struct ka_str *out, const void *of) {
  return ka_cli_completion(ctx, out, of);
}

static ka_status write_one(struct ka_arena *a, const char *dir, const char *name, maker *make,
                           const void *of) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_str text = {0};
  const char *path, *parent;
  KA_TRY(ka_path_join(a, &path, dir, name));
  KA_TRY(ka_path_dir(a, &parent, path));
  KA_TRY(ka_make_dirs(ctx, parent));
  ka_status st = make(ctx, &text, of);
  if (ka_ok(st)) st = ka_write_file(ctx, path, text.data, text.len);
  ka_str_deinit(&text);
  return st;
}

/* Man pages and completions, laid out as below a prefix's share/. */
static ka_status write_share(struct ka_ctx *ctx, struct ka_arena *a, const char *dir) {
  static const struct {
    const char *shell, *name;
  } shells[] = {{"bash", "bash-completion/completions/kappa"},
                {"zsh", "zsh/site-functions/_kappa"},
                {"fish", "fish/vendor_completions.d/kappa.fish"}};
  const char *name;
  KA_TRY(write_one(a, dir, "man/man1/kappa.1", man, NULL));
  for (int i = 0; ka_commands[i]; i++) {
    KA_TRY(ka_arena_printf(a, &name, "man/man1/kappa-%s.1", ka_commands[i]->name));
    KA_TRY(write_one(a, dir, name, man, ka_commands[i]));
  }
  for (size_t i = 0; i < sizeof shells / sizeof *shells; i++)
    KA_TRY(write_one(a, dir, shells[i].name, completion, shells[i].shell));
  return KA_STATUS_OK;
}

int main(int argc, char **argv) {
  struct ka_ctx ctx;
  struct ka_arena a;
  ka_ctx_init(&ctx);
  ka_arena_init(&a, &ctx, "docs");
  ka_status st = argc == 2 ? write_docs(&ctx, &a, argv[1])
                 : argc == 3
                     ? write_share(&ctx, &a, argv[2])
                     : ka_fail(&ctx, KA_E_USAGE, "usage: gen_docs DIRECTORY | --share DIRECTORY");
  if (!ka_ok(st)) ka_log_error(&ctx);
  ka_arena_deinit(&a);
  return ka_exit_code(st.code);
}
