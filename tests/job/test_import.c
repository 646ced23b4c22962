/* SPDX-License-Identifier: Apache-2.0
 * engine/job/job_import.h: what is written is a job that says the same. */
#include "engine/job/job.h"
#include "engine/job/job_import.h"
#include "tests/support/test.h"

#include <string.h>

static void a_job_comes_out_in_our_words(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  struct ka_str out = {0};
  struct ka_job j;
  int64_t n = 0;
  const char *path = t_str("%s/theirs.yaml", t_temp_dir());
  const char *text = "model_name_or_path: m\n"
                     "stage: sft\nfinetuning_type: lora\nlora_rank: 8\n"
                     "dataset: a.json, b.json\n"
                     "datasets_more: 7\n"
                     "cutoff_len: 512\n"
                     "use_muon: true\n"
                     "chat_template: \"{{ messages[0]['content'] }}\"\n"
                     "wandb_project:\nddp_timeout: 18000\n"
                     "max_samples: 10\nnum_train_epochs: 2.0\n";
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  T_OK(ka_write_file(ctx, path, text, strlen(text)));
  T_OK(ka_job_import(ctx, path, &out, &n));
  assert_int_equal(n, 3); /* lora, data that is not there, and a key that nobody knows */
  static const char *const lines[] = {
      "# DECIDE, left out: finetuning_type: kappa trains whole units; there are no adapters\n",
      "# DECIDE, left out: datasets_more: kappa does not know this key\n",
      "# DECIDE, left out: datasets[].type: the data is not there to look at; completion unless it "
      "is "
      "said: chat_template, alpaca, ...\n",
      "# otherwise: use_muon: the optimizer is AdamW\n",
      "# without a meaning here, left out: stage, lora_rank, wandb_project, ddp_timeout\n",
      "\nbase_model: m  # was model_name_or_path\n",
      "\nsequence_len: 512  # was cutoff_len\n",
      "\nnum_epochs: 2.0  # was num_train_epochs\n",
      "\nselection:\n  metric: kappa\n",
  };
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
    if (!strstr(out.data, lines[i])) fail_msg("no line \"%s\" in\n%s", lines[i], out.data);
  T_OK(ka_job_parse(ctx, &j, out.data, out.len, "ours.yaml", "", NULL, 0));
  assert_int_equal(j.file.n_notes, 0);
  assert_int_equal(j.datasets.n, 2);
  assert_string_equal(j.datasets.items[1].path.items[0], "b.json");
  assert_string_equal(j.datasets.items[1].split, "train[:10]");
  ka_job_close(&j);
  ka_str_deinit(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_job_comes_out_in_our_words)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
