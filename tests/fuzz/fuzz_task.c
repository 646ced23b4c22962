/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a task file beside three documents: it loads, or there is one message. */
#include "engine/eval/tasks.h"

#include "base/file.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char documents[] =
    "{\"q\":\"One?\",\"c\":[\"a\",\"b\"],\"g\":1,\"t\":\"x\"}\n"
    "{\"q\":\"Two \u00e9?\",\"c\":[\"c\",\"d\"],\"g\":0,\"t\":\"[1, 2]\",\"n\":null}\n"
    "{\"q\":\"\",\"c\":[],\"g\":-5,\"t\":\"\",\"n\":2.5}\n";

static char dir[] = "/tmp/kappa-fuzz-XXXXXX";

static void clean_up(void) {
  struct ka_ctx ctx;
  ka_ctx_init(&ctx);
  if (!ka_ok(ka_remove_tree(&ctx, dir))) abort();
}

static const char *home(struct ka_ctx *ctx) {
  static char path[64];
  if (*path) return path;
  if (!mkdtemp(dir) || atexit(clean_up) != 0) abort();
  snprintf(path, sizeof path, "%s/d.jsonl", dir);
  if (!ka_ok(ka_write_file(ctx, path, documents, sizeof documents - 1))) abort();
  snprintf(path, sizeof path, "%s/task", dir);
  return path;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_tasks *tasks;
  ka_ctx_init(&ctx);
  ctx.log_level = KA_LOG_QUIET;
  const char *path = home(&ctx);
  FILE *f = fopen(path, "wb");
  if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0) abort();
  struct ka_tasks_options options = KA_TASKS_DEFAULTS;
  static const char template[] = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
  struct ka_chat *chat = NULL;
  if (n % 2) { /* half of them as conversations */
    if (!ka_ok(ka_chat_load_text(&ctx, &chat, "t", template, sizeof template - 1, NULL))) abort();
    options.chat = (struct ka_eval_chat){chat, n % 4 == 1, "Be brief."};
  }
  ka_status st = ka_tasks_load(&ctx, &tasks, &path, 1, &options);
  if (ka_ok(st) ? !tasks || ka_tasks_n_requests(tasks) < 0
                : tasks || st.code == KA_E_INTERNAL || !*ctx.error.message)
    abort();
  ka_tasks_close(tasks);
  ka_chat_destroy(chat);
  return 0;
}
