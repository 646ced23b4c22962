/* SPDX-License-Identifier: Apache-2.0
 * A resumed run is the run that was interrupted, or it says what differs: the contents of every
 * file that the job names and every key that decides what is computed. */
#include "tests/train/home.h"

#include <unistd.h>

#define TEXT_JOB                                                                                   \
  "base_model: base\ndatasets: [{path: new.txt}]\nsequence_len: 32\nmicro_batch_size: 2\n"         \
  "gradient_accumulation_steps: 1\nmax_steps: 2\nlearning_rate: 1e-2\nval_set_size: 0\n"           \
  "save_steps: 2\nlogging_steps: 1\nbf16: false\nthreads: 1\nreport_to: none\n"                    \
  "selection: {metric: kappa, count: 3}\nheld_out: [{name: old, path: old.txt}]\n"                 \
  "forgetting: {tasks: [qa.yaml]}\noutput_dir: out\n"

static struct home h;

static int set_up(void **state) {
  (void)state;
  ka_ctx_init(&h.ctx);
  h.dir = t_temp_dir();
  write_text(&h, "config.json",
             "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
             "\"vocab_size\":257,\"hidden_size\":32,\"num_hidden_layers\":2,"
             "\"num_attention_heads\":2,\"intermediate_size\":40,\"hidden_act\":\"silu\","
             "\"max_position_embeddings\":128,\"rms_norm_eps\":1e-5,"
             "\"tie_word_embeddings\":true,\"bos_token_id\":256,\"eos_token_id\":256}");
  write_text(&h, "new.txt", "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabc");
  write_text(&h, "old.txt", "The quick brown fox jumps over the lazy dog, which sleeps on.");
  write_text(&h, "qa.jsonl", "{\"q\": \"ab\", \"c\": [\"c\", \"x\"], \"g\": 0}\n");
  write_text(&h, "qa.yaml",
             "task: qa\ndataset_path: json\ndataset_kwargs: {data_files: {test: qa.jsonl}}\n"
             "output_type: multiple_choice\ntest_split: test\ndoc_to_text: q\n"
             "doc_to_choice: c\ndoc_to_target: g\n");
  write_text(&h, "job.yaml", TEXT_JOB);
  return t_kappa(NULL, NULL, "init --config %s/config.json --out %s/base --tokenizer bytes", h.dir,
                 h.dir);
}

static struct ka_str said;

static int kappa_train(const char *words) {
  ka_str_clear(&said);
  return t_kappa(NULL, &said, "train %s/job.yaml %s", h.dir, words);
}

/* A run of two steps in out/. */
static void begin(void) {
  struct ka_ctx *ctx = &h.ctx;
  T_OK(ka_remove_tree(ctx, t_str("%s/out", h.dir)));
  if (kappa_train("") != 0) fail_msg("%s", said.data);
}

/* Resuming with these words must give the exit code and say `part`; nothing in out/ changes when it
 * is refused. */
static void resumes(int code, const char *part, const char *words) {
  struct ka_str before = {0}, after = {0};
  read_all(&h, "out/job.json", &before);
  int rc = kappa_train(t_str("max_steps=4 --resume %s", words));
  if (rc != code || !strstr(said.len ? said.data : "", part))
    fail_msg("%s: got %d, expected %d with %s\n%s", words, rc, code, part, said.data);
  read_all(&h, "out/job.json", &after);
  if (code != 0) assert_string_equal(before.data, after.data);
  ka_str_deinit(&before);
  ka_str_deinit(&after);
}

static void replace(const char *name, const char *text) {
  struct ka_str old = {0};
  read_all(&h, name, &old);
  write_text(&h, "kept", old.data ? old.data : "");
  write_text(&h, name, text);
  ka_str_deinit(&old);
}

static void put_back(const char *name) {
  struct ka_ctx *ctx = &h.ctx;
  T_OK(ka_copy_file(ctx, t_str("%s/kept", h.dir), t_str("%s/%s", h.dir, name)));
}

static void other_files_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *name, *text, *said;
  } cases[] = {
      {"old.txt", "A text of another kind, as long as it likes to be.",
       "held_out.0.path: old.txt is not the file that it was"},
      {"new.txt", "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabd",
       "datasets.0.path: new.txt is not the file that it was; resume_other_data"},
      {"qa.jsonl", "{\"q\": \"ab\", \"c\": [\"c\", \"y\"], \"g\": 0}\n",
       "forgetting.tasks: qa.jsonl is not the file that it was"},
      {"base/generation_config.json", "{}",
       "base_model: generation_config.json is not the file that it was"},
      {"base/chat_template.jinja", "{{ messages }}",
       "base_model: chat_template.jinja is not the file that it was"},
  };
  write_text(&h, "base/generation_config.json", "{\"a\": 1}");
  write_text(&h, "base/chat_template.jinja", "{{ messages[0] }}");
  begin();
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    replace(cases[i].name, cases[i].text);
    resumes(2, cases[i].said, "");
    put_back(cases[i].name);
  }
  write_text(&h, "base/added.json", "{}");
  resumes(2, "base_model: added.json is not the file that it was", "");
  unlink(t_str("%s/base/added.json", h.dir));
  resumes(0, "max_steps was 2, is 4", "");
}

static void another_base_is_refused(void **state) {
  (void)state;
  struct ka_ctx *ctx = &h.ctx;
  begin();
  assert_int_equal(t_kappa(NULL, NULL,
                           "init --config %s/config.json --out %s/base2 --seed 9 "
                           "--tokenizer bytes",
                           h.dir, h.dir),
                   0);
  T_OK(ka_rename(ctx, t_str("%s/base/model.safetensors", h.dir), t_str("%s/first", h.dir)));
  T_OK(ka_copy_file(ctx, t_str("%s/base2/model.safetensors", h.dir),
                    t_str("%s/base/model.safetensors", h.dir)));
  resumes(2, "base_model: model.safetensors is not the file that it was", "");
  T_OK(ka_rename(ctx, t_str("%s/first", h.dir), t_str("%s/base/model.safetensors", h.dir)));
}

static void other_keys_are_refused(void **state) {
  (void)state;
  static const char *const cases[][2] = {
      {"selection.count=2", "selection.count was 3, is 2"},
      {"selection.metric=random", "selection.metric was \"kappa\", is \"random\""},
      {"selection.exclude=[down]", "selection.exclude was"},
      {"held_out.0.name=other", "held_out.0.name was \"old\", is \"other\""},
      {"held_out=[]", "held_out.0.name was \"old\", is absent"},
      {"sequence_len=16", "sequence_len was 32, is 16"},
      {"bf16=true", "bf16 was false, is true"},
      {"seed=7", "seed was 42, is 7"},
      {"train_on_inputs=true", "train_on_inputs was false, is true; resume_other_data"},
      {"datasets.0.split=train[:50%]", "datasets.0.split was"},
      {"anchor.kind=l2", "anchor.kind was"},
  };
  begin();
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) resumes(2, cases[i][1], cases[i][0]);
}

static void what_may_change_is_said(void **state) {
  (void)state;
  begin();
  resumes(0, "learning_rate was 0.01, is 0.001", "learning_rate=1e-3");
  begin();
  replace("new.txt", "xyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyz");
  resumes(0, "datasets.0.path: new.txt is not the file that it was", "resume_other_data=true");
  put_back("new.txt");
  begin(); /* a file of another name with the same contents is the same */
  write_text(&h, "moved/old.txt", "The quick brown fox jumps over the lazy dog, which sleeps on.");
  resumes(0, "max_steps was 2, is 4", t_str("held_out.0.path=%s/moved/old.txt", h.dir));
}

static int make_moved(void **state) {
  struct ka_ctx *ctx = &h.ctx;
  int rc = set_up(state);
  T_OK(ka_make_dirs(ctx, t_str("%s/moved", h.dir)));
  return rc;
}

static int clean(void **state) {
  (void)state;
  ka_str_deinit(&said);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(other_files_are_refused), cmocka_unit_test(another_base_is_refused),
      cmocka_unit_test(other_keys_are_refused), cmocka_unit_test(what_may_change_is_said)};
  return cmocka_run_group_tests(tests, make_moved, clean);
}
