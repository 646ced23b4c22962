/* SPDX-License-Identifier: Apache-2.0
 * Writes jobs.md, job.schema.json and tasks.md into a directory: `cmake --build build --target
 * docs`. */
#include "base/file.h"
#include "base/log.h"
#include "engine/eval/task_config.h"
#include "engine/job/job_table.h"

#include <stdio.h>

static ka_status write_docs(struct ka_ctx *ctx, struct ka_arena *a, const char *dir) {
  static const struct {
    const char *name;
    ka_status (*make)(struct ka_ctx *, struct ka_str *);
  } files[] = {{"jobs.md", ka_job_doc_markdown},
               {"job.schema.json", ka_job_doc_schema},
               {"tasks.md", ka_task_doc_markdown}};
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

int main(int argc, char **argv) {
  struct ka_ctx ctx;
  struct ka_arena a;
  ka_ctx_init(&ctx);
  ka_arena_init(&a, &ctx, "docs");
  ka_status st = argc == 2 ? write_docs(&ctx, &a, argv[1])
                           : ka_fail(&ctx, KA_E_USAGE, "usage: gen_docs DIRECTORY");
  if (!ka_ok(st)) ka_log_error(&ctx);
  ka_arena_deinit(&a);
  return ka_exit_code(st.code);
}
