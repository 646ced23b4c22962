/* SPDX-License-Identifier: Apache-2.0
 * See measure_options.h. */
#include "engine/cli/measure_options.h"

#include <string.h>

/* A text's name in tables is that of its file. */
static ka_status read_texts(struct ka_ctx *ctx, const struct ka_cli *cli, const char *option,
                            int role, struct ka_measure_options *m, int64_t *n_texts) {
  const char *const *files;
  int n = ka_cli_list(cli, option, &files);
  for (int i = 0; i < n; i++) {
    if (*n_texts == KA_MEASURE_WORDS)
      return ka_fail(ctx, KA_E_USAGE, "--%s: more than %d texts", option, KA_MEASURE_WORDS);
    m->texts[(*n_texts)++] =
        (struct ka_job_held_out){.name = ka_path_base(files[i]),
                                 .path = {(const char **)(uintptr_t)&files[i], 1},
                                 .role = role,
                                 .split = "train",
                                 .field = "text"};
  }
  return KA_STATUS_OK;
}

ka_status ka_cli_measure_options(struct ka_ctx *ctx, struct ka_arena *arena,
                                 const struct ka_cli *cli, struct ka_measure_options *m,
                                 struct ka_forget_scoring_spec *spec) {
  struct ka_measures_spec *s = &spec->measures;
  spec->device = ka_cli_str(cli, "device");
  spec->weight = ka_cli_float(cli, "weight");
  spec->window = ka_cli_int(cli, "window");
  spec->dtype = strcmp(ka_cli_str(cli, "dtype"), "bf16") == 0 ? KA_BF16 : KA_F32;
  if (ka_cli_given(cli, "window") && spec->window < 1)
    return ka_fail(ctx, KA_E_USAGE, "--window: got %lld, expected 1 or more",
                   (long long)spec->window);
  s->texts = m->texts;
  s->limit = ka_cli_float(cli, "limit");
  if (!(s->limit >= 0) || !(spec->weight >= 0))
    return ka_fail(ctx, KA_E_USAGE, "--limit, --weight: expected 0 or more");
  KA_TRY(ka_cli_words(arena, cli, "tasks", m->tasks[0], KA_MEASURE_WORDS, &s->old_tasks.n));
  KA_TRY(ka_cli_words(arena, cli, "new-tasks", m->tasks[1], KA_MEASURE_WORDS, &s->new_tasks.n));
  s->old_tasks.items = m->tasks[0];
  s->new_tasks.items = m->tasks[1];
  KA_TRY(read_texts(ctx, cli, "new-text", KA_ROLE_NEW, m, &s->n_texts));
  return read_texts(ctx, cli, "text", KA_ROLE_OLD, m, &s->n_texts);
}
