/* SPDX-License-Identifier: Apache-2.0
 * engine/job/foreign.h: jobs of axolotl, LLaMA-Factory, torchtune and TRL in kappa's words; what is
 * off, passed over, said, refused. */
#include "engine/job/foreign.h"
#include "engine/job/job.h"
#include "engine/job/job_table.h"
#include "tests/support/fresh.h"

#include <string.h>

static const char *const least = "base_model: m\ndatasets: [{path: a.jsonl}]\n";

static ka_status parse(struct ka_job *j, const char *text) {
  return ka_job_parse(ctx, j, text, strlen(text), "job.yaml", "", NULL, 0);
}

static int n_notes(const struct ka_job *j, enum ka_key_note_kind kind, const char *key) {
  int n = 0;
  for (int64_t i = 0; i < j->file.n_notes; i++)
    n += j->file.notes[i].kind == kind && (!key || strcmp(j->file.notes[i].key, key) == 0);
  return n;
}

static void keys_that_are_off_are_passed_over(void **state) {
  (void)state;
  static const char *const offs[] = {
      "adapter:",
      "adapter: null",
      "adapter: ~",
      "adapter: ''",
      "adapter: none",
      "adapter: false",
      "load_in_8bit: no",
      "early_stopping_patience:",
      "rl: None",
      "no_such_key:",
      "deepspeed: false",
      "special_tokens: {}",
      "unfrozen_parameters: []",
      "fp16: auto",
      "strict: false",
      "label_smoothing_factor: 0.0",
  };
  struct ka_job j;
  for (size_t i = 0; i < sizeof offs / sizeof *offs; i++) {
    T_OK(parse(&j, t_str("%s%s\n", least, offs[i])));
    assert_int_equal(n_notes(&j, KA_KEY_PASSED, NULL), 1);
    assert_int_equal(j.file.n_notes, 1);
    ka_job_close(&j);
  }
  T_OK(parse(&j, t_str("%smax_grad_norm:\nlearning_rate: ~\nselection:\n", least)));
  assert_true(j.max_grad_norm == 1 && j.learning_rate == 2e-5 && j.file.n_notes == 0);
  ka_job_close(&j);
}

static void refused_ones_say_why(void **state) {
  (void)state;
  static const struct {
    const char *line, *message;
  } cases[] = {
      {"adapter: qlora", "job.yaml:3:1: adapter is not supported: kappa trains whole units"},
      {"rl: dpo", "rl is not supported: kappa fine-tunes on texts and answers"},
      {"stage: rm", "stage is not supported"},
      {"finetuning_type: lora", "there are no adapters"},
      {"load_in_4bit: true", "frozen weights keep the model's dtype"},
      {"plugins: [axolotl.integrations.diffusion.DiffusionPlugin]", "other objectives"},
      {"tokens: [<a>, <b>]", "adds no tokens"},
      {"pose_chunks: 2", "positions are not skipped"},
      {"mixture_of_depths: convert", "every token passes every layer"},
      {"neftune_noise_alpha: 5", "noise on embeddings"},
      {"sequence_len: 9\ncutoff_len: 8", "cutoff_len is sequence_len, which is given too"},
      {"lr_scheduler_type: cosine_with_restarts", "lr_scheduler: got cosine_with_restarts"},
      {"save_only_modle: true", "unknown key save_only_modle"},
  };
  struct ka_job j;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    T_FAILS(parse(&j, t_str("%s%s\n", least, cases[i].line)), KA_E_INPUT, cases[i].message);
    assert_null(strstr(ctx->error.message, "did you mean"));
    ka_error_clear(ctx);
    ka_job_close(&j);
  }
}

static void a_guess_is_made_only_at_misspellings(void **state) {
  (void)state;
  static const char *const others[] = {"bade_mode", "end", "train_set", "max_sample", "optim_bwd"};
  struct ka_job j;
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    T_FAILS(parse(&j, t_str("%s%s: 1\n", least, others[i])), KA_E_INPUT, "unknown key");
    assert_null(strstr(ctx->error.message, "did you mean"));
    ka_error_clear(ctx);
    ka_job_close(&j);
  }
}

/* What stands beside each other in published jobs and is no contradiction there. */
static void what_trainers_settle(void **state) {
  (void)state;
  struct ka_job j;
  T_OK(parse(&j, t_str("%sval_set_size: 0.0\ntest_datasets: [{path: t.jsonl}]\n", least)));
  assert_int_equal(j.test_datasets.n, 1);
  ka_job_close(&j);
  T_OK(parse(&j, t_str("%spacking: false\nneat_packing: true\n", least)));
  assert_true(j.sample_packing);
  ka_job_close(&j);
  T_OK(parse(&j, t_str("%sspecial_tokens: {pad_token: <pad>, eos_token: <|eot_id|>}\n", least)));
  assert_string_equal(j.eos_token, "<|eot_id|>");
  ka_job_close(&j);
  T_OK(parse(&j, t_str("%slr_scheduler: rex\nfloat32: true\nearly_stopping_patience: 3\n", least)));
  assert_int_equal(j.lr_scheduler, KA_SCHEDULE_COSINE);
  assert_int_equal(j.bf16, KA_BF16_FALSE);
  ka_job_close(&j);
  T_OK(parse(&j, "model_name_or_path: m\ndataset_mixer: {a.jsonl: 1.0, b.jsonl: 0.25}\n"
                 "dataset_splits: [train_sft]\nuse_flash_attention_2: true\n"));
  assert_int_equal(j.datasets.n, 2);
  assert_string_equal(j.datasets.items[1].path.items[0], "b.jsonl");
  assert_string_equal(j.datasets.items[1].split, "train[:25%]");
  ka_job_close(&j);
}

static void words_of_axolotl(void **state) {
  (void)state;
  struct ka_job j;
  T_OK(parse(
      &j, "base_model: m\n"
          "datasets:\n"
          "  - {path: a, type: sharegpt}\n"
          "  - {path: b, type: {field_instruction: q, field_output: a, format: '{instruction}'}}\n"
          "  - {path: c, type: chat_template, message_field_role: who}\n"
          "  - {path: d, type: 'alpaca:chat'}\n"
          "chat_template: llama-3\n"
          "sequence_len: 4_096\n"
          "max_steps: -1\n"
          "num_epochs: 2\n"
          "lr_scheduler: constant_with_warmup\n"
          "warmup_steps: 0.1\n"
          "report_to: wandb\n"
          "bf16: full\n"
          "gradient_checkpointing: offload\n"
          "optimizer: paged_adamw_8bit\n"
          "evals_per_epoch: 4\n"
          "saves_per_epoch: 0\n"
          "eval_steps:\n"
          "batch_size: 16\nmicro_batch_size: 4\n"
          "eta_min: 2e-6\nlearning_rate: 2e-5\n"
          "tf32: true\n"));
  const struct ka_job_dataset *d = j.datasets.items;
  assert_int_equal(d[0].type, KA_DOCUMENT_CHAT_TEMPLATE);
  assert_string_equal(d[0].field_messages, "conversations");
  assert_string_equal(d[0].message_property_mappings.role, "from");
  assert_string_equal(d[0].chat_template, "llama3");
  assert_int_equal(d[1].type, KA_DOCUMENT_ALPACA);
  assert_string_equal(d[1].field_instruction, "q");
  assert_string_equal(d[1].format, "{instruction}");
  assert_null(d[1].chat_template);
  assert_string_equal(d[2].message_property_mappings.role, "who");
  assert_string_equal(d[2].message_property_mappings.content, "content");
  assert_true(j.sequence_len == 4096 && j.max_steps == 0 && j.num_epochs == 2);
  assert_int_equal(j.lr_scheduler, KA_SCHEDULE_CONSTANT);
  assert_true(j.warmup_steps == 0 && j.warmup_ratio == 0.1);
  assert_string_equal(j.report_to.items[0], "tensorboard");
  assert_int_equal(j.bf16, KA_BF16_TRUE);
  assert_int_equal(j.gradient_checkpointing, KA_RECOMPUTE_BLOCK);
  assert_true(j.evals_per_epoch == 4 && j.saves_per_epoch == 0 && j.save_steps == 0);
  assert_true(j.micro_batch_size == 4 && j.gradient_accumulation_steps == 4);
  assert_true(j.cosine_min_lr_ratio == 0.1);
  assert_int_equal(n_notes(&j, KA_KEY_PASSED, "tf32"), 1);
  assert_int_equal(n_notes(&j, KA_KEY_OTHERWISE, NULL), 1); /* alpaca:chat */
  ka_job_close(&j);
}

static void words_of_llama_factory_and_hugging_face(void **state) {
  (void)state;
  struct ka_job j;
  T_OK(parse(&j,
             "model_name_or_path: m\nstage: sft\nfinetuning_type: full\ndataset: a.json, b.json\n"
             "cutoff_len: 512\nmax_samples: 1000\nper_device_train_batch_size: 3\n"
             "num_train_epochs: 3.0\nmax_steps: 50\nlr_scheduler_type: cosine_with_min_lr\n"
             "lr_scheduler_kwargs: {min_lr_rate: 0.1}\nwarmup_ratio: 0.1\nwarmup_steps: 20\n"
             "save_strategy: epoch\neval_strategy: 'no'\nuse_muon: true\npacking: false\n"
             "save_only_model: false\nddp_timeout: 180000000\noptim: adamw_torch\n"
             "dtype: bfloat16\nlogging_steps: 5\n"));
  assert_string_equal(j.base_model, "m");
  assert_int_equal(j.datasets.n, 2);
  assert_string_equal(j.datasets.items[1].path.items[0], "b.json");
  assert_string_equal(j.datasets.items[1].split, "train[:1000]");
  assert_true(j.sequence_len == 512 && j.micro_batch_size == 3 && !j.sample_packing);
  assert_true(j.max_steps == 50 && j.num_epochs == 0 && j.warmup_steps == 20);
  assert_true(j.warmup_ratio == 0 && j.cosine_min_lr_ratio == 0.1);
  assert_true(j.saves_per_epoch == 1 && j.eval_steps == 0 && j.save_model);
  assert_int_equal(j.lr_scheduler, KA_SCHEDULE_COSINE);
  assert_int_equal(n_notes(&j, KA_KEY_OTHERWISE, "use_muon"), 1);
  assert_int_equal(n_notes(&j, KA_KEY_OTHERWISE, NULL), 1);
  ka_job_close(&j);
}

static void words_of_torchtune_and_trl(void **state) {
  (void)state;
  struct ka_job j;
  T_OK(parse(
      &j, "checkpointer: {_component_: x.Full, checkpoint_dir: m}\n"
          "dataset: {_component_: torchtune.datasets.alpaca_dataset, split: 'train[:5%]', packed: "
          "true}\n"
          "optimizer: {_component_: torch.optim.AdamW, lr: 1e-5, betas: [0.8, 0.9], fused: True}\n"
          "lr_scheduler: {_component_: t.get_linear_schedule, num_warmup_steps: 7}\n"
          "loss: {_component_: t.LinearCrossEntropyLoss}\nepochs: 1\nbatch_size: 2\n"
          "clip_grad_norm: null\ndevice: cuda\ndtype: fp32\nseed: null\n"
          "enable_activation_checkpointing: True\n"));
  assert_string_equal(j.base_model, "m");
  assert_int_equal(j.datasets.items[0].type, KA_DOCUMENT_ALPACA);
  assert_string_equal(j.datasets.items[0].split, "train[:5%]");
  assert_true(j.learning_rate == 1e-5 && j.adam_beta1 == 0.8 && j.adam_beta2 == 0.9);
  assert_true(j.warmup_steps == 7 && j.micro_batch_size == 2 && j.num_epochs == 1);
  assert_int_equal(j.lr_scheduler, KA_SCHEDULE_LINEAR);
  assert_int_equal(j.device, KA_DEVICE_AUTO);
  assert_int_equal(j.bf16, KA_BF16_FALSE);
  assert_int_equal(j.gradient_checkpointing, KA_RECOMPUTE_BLOCK);
  ka_job_close(&j);
  T_OK(parse(&j, "model_name_or_path: m\nmax_length: 64\nreport_to: [wandb, tensorboard]\n"
                 "dataset_mixture:\n  datasets:\n  - {id: a, split: train_sft, weight: 0.5}\n"
                 "  - {id: b, split: 'train[:9]'}\n"));
  assert_true(j.datasets.n == 2 && j.datasets.items[0].weight == 0.5 && j.sequence_len == 64);
  assert_string_equal(j.datasets.items[1].split, "train[:9]");
  assert_int_equal(j.report_to.n, 1);
  ka_job_close(&j);
}

/* Files are looked into only where the job is loaded from the file system. */
static void data_that_lies_there_says_its_shape(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_job j;
#define PUT(name, text) T_OK(ka_write_file(ctx, t_str("%s/" name, dir), text, strlen(text)))
  T_OK(ka_make_dirs(ctx, t_str("%s/data", dir)));
  T_OK(ka_make_dirs(ctx, t_str("%s/m", dir)));
  PUT("data/a.json", "[\n {\"question\": \"q\", \"answer\": \"a\"}\n]\n");
  PUT("data/s.jsonl", "{\"conversations\": [{\"from\": \"human\", \"value\": \"x\"}]}\n");
  PUT("data/m.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n");
  PUT("data/dataset_info.json",
      "{\"shop\": {\"file_name\": \"a.json\", \"columns\": {\"prompt\": \"question\", "
      "\"response\": "
      "\"answer\"}},\n \"talk\": {\"file_name\": \"m.jsonl\", \"formatting\": \"sharegpt\", "
      "\"columns\": {\"messages\": \"messages\"}, \"tags\": {\"role_tag\": \"role\", "
      "\"content_tag\": \"content\"}}}\n");
  PUT("job.yaml", "model_name_or_path: m\ntemplate: qwen\n"
                  "dataset: shop,talk,data/s.jsonl,data/a.json,data/m.jsonl\n");
  T_OK(ka_job_load(ctx, &j, t_str("%s/job.yaml", dir), NULL, 0));
  const struct ka_job_dataset *d = j.datasets.items;
  assert_int_equal(j.datasets.n, 5);
  assert_int_equal(d[0].type, KA_DOCUMENT_ALPACA);
  assert_string_equal(d[0].field_instruction, "question");
  assert_string_equal(d[0].field_output, "answer");
  assert_int_equal(d[1].type, KA_DOCUMENT_CHAT_TEMPLATE);
  assert_string_equal(d[1].field_messages, "messages");
  assert_string_equal(d[1].message_property_mappings.content, "content");
  assert_string_equal(d[1].chat_template, "qwen25");
  assert_string_equal(d[2].message_property_mappings.role, "from");
  assert_string_equal(d[3].field_output, "answer");
  assert_int_equal(d[4].type, KA_DOCUMENT_CHAT_TEMPLATE);
  ka_job_close(&j);
}

static void every_row_is_complete(void **state) {
  (void)state;
  for (const struct ka_foreign_row *r = ka_foreign_rows; r->key; r++) {
    bool same = r->kind == KA_FOREIGN_SAME && !r->value;
    if (!r->value) assert_null(ka_key_find(&ka_job_table, r->scope, r->key));
    if (same) assert_non_null(ka_key_find(&ka_job_table, r->scope, r->target));
    if (r->kind == KA_FOREIGN_OTHER || r->kind == KA_FOREIGN_REFUSE) assert_true(*r->text != 0);
    for (const struct ka_foreign_row *q = ka_foreign_rows; q < r; q++) /* named once */
      assert_false(q->scope == r->scope && strcmp(q->key, r->key) == 0 && !q->value == !r->value &&
                   (!q->value || strcmp(q->value, r->value) == 0));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(keys_that_are_off_are_passed_over, fresh),
      cmocka_unit_test_setup(refused_ones_say_why, fresh),
      cmocka_unit_test_setup(a_guess_is_made_only_at_misspellings, fresh),
      cmocka_unit_test_setup(what_trainers_settle, fresh),
      cmocka_unit_test_setup(words_of_axolotl, fresh),
      cmocka_unit_test_setup(words_of_llama_factory_and_hugging_face, fresh),
      cmocka_unit_test_setup(words_of_torchtune_and_trl, fresh),
      cmocka_unit_test_setup(data_that_lies_there_says_its_shape, fresh),
      cmocka_unit_test_setup(every_row_is_complete, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
