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

static void edit(const char *path, const char *from, const char *to) {
  struct ka_ctx *ctx = &h.ctx;
  struct ka_str text = {0}, out = {0};
  read_all(&h, path, &text);
  char *at = strstr(text.data, from);
  assert_non_null(at);
  T_OK(ka_str_append(ctx, &out, text.data, (size_t)(at - text.data)));
  T_OK(ka_str_puts(ctx, &out, to));
  T_OK(ka_str_puts(ctx, &out, at + strlen(from)));
  write_text(&h, path, out.data);
  ka_str_deinit(&text);
  ka_str_deinit(&out);
}

/* Another bit in the middle of a file. */
static void flip(const char *path) {
  struct ka_ctx *ctx = &h.ctx;
  struct ka_str bytes = {0};
  read_all(&h, path, &bytes);
  bytes.data[bytes.len - bytes.len / 3] ^= 4;
  T_OK(ka_write_file(ctx, t_str("%s/%s", h.dir, path), bytes.data, bytes.len));
  ka_str_deinit(&bytes);
}

#define FOUR "max_steps=4 save_steps=2 --resume"

static void four_steps(void) {
  struct ka_ctx *ctx = &h.ctx;
  T_OK(ka_remove_tree(ctx, t_str("%s/out", h.dir)));
  if (kappa_train("max_steps=4 save_steps=2") != 0) fail_msg("%s", said.data);
}

static void an_edited_state_is_refused(void **state) {
  (void)state;
  static const char *const cases[][3] = {
      {"\"step\": 4", "\"step\": -1", "step: got -1, expected 4"},
      {"\"step\": 4", "\"step\": 99999999999", "step: got 99999999999, expected 4"},
      {"\"version\": 1", "\"version\": 2", "version: got 2, this kappa reads 1"},
      {"\"run\": {", "\"run\": {\"weights_from\": \"../base\", ", "run.weights_from: expected"},
      {"\"run\": {", "\"run\": {\"best\": \"best-/../..\", ", "run.best: expected"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    four_steps();
    edit("out/checkpoint-4/state.json", cases[i][0], cases[i][1]);
    resumes(2, cases[i][2], FOUR);
  }
}

static void a_damaged_checkpoint_is_passed_over(void **state) {
  (void)state;
  struct ka_ctx *ctx = &h.ctx;
  static const char *const files[] = {"trained.safetensors", "selection.json", "state.json"};
  T_OK(ka_remove_tree(ctx, t_str("%s/whole", h.dir)));
  if (kappa_train(t_str("max_steps=4 save_steps=2 output_dir=%s/whole", h.dir)) != 0)
    fail_msg("%s", said.data);
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    four_steps();
    flip(t_str("out/checkpoint-4/%s", files[i]));
    resumes(0, t_str("%s/out/checkpoint-4: damaged", h.dir), FOUR);
    assert_non_null(strstr(said.data, "resumes"));
    assert_true(same_file(&h, "out/checkpoint-4/trained.safetensors",
                          "whole/checkpoint-4/trained.safetensors"));
    assert_true(same_file(&h, "out/model.safetensors", "whole/model.safetensors"));
    assert_true(ka_path_is_dir(t_str("%s/out/damaged-checkpoint-4", h.dir)));
  }
  four_steps();
  T_OK(ka_remove_tree(ctx, t_str("%s/out/checkpoint-4/selection.json", h.dir)));
  flip("out/checkpoint-2/trained.safetensors");
  resumes(2, "no checkpoint is whole", FOUR);
}

static void the_base_is_never_the_output(void **state) {
  (void)state;
  struct ka_ctx *ctx = &h.ctx;
  T_OK(ka_make_dirs(ctx, t_str("%s/a", h.dir)));
  (void)!symlink("base", t_str("%s/link", h.dir));
  const char *ways[] = {"base", "a/../base", "link", "base/"};
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    assert_int_equal(kappa_train(t_str("output_dir=%s/%s --resume", h.dir, ways[i])), 2);
    assert_non_null(strstr(said.data, "base model's own directory"));
  }
}

/* Leftovers of processes that are no more, those of living ones stay. */
static void left_over_files_are_swept(void **state) {
  (void)state;
  begin();
  write_text(&h, "out/model.safetensors.tmp.2147483646", "half");
  write_text(&h, "out/report.json.tmp.2147483645", "half");
  write_text(&h, t_str("out/mine.tmp.%ld", (long)getpid()), "half");
  resumes(0, "", "");
  assert_false(ka_path_exists(t_str("%s/out/model.safetensors.tmp.2147483646", h.dir)));
  assert_false(ka_path_exists(t_str("%s/out/report.json.tmp.2147483645", h.dir)));
  assert_true(ka_path_exists(t_str("%s/out/mine.tmp.%ld", h.dir, (long)getpid())));
}

/* A link of the base that leads out of it is named; one within it is nobody's business. */
static void links_out_of_the_model_are_named(void **state) {
  (void)state;
  struct ka_ctx *ctx = &h.ctx;
  T_OK(ka_make_dirs(ctx, t_str("%s/linked", h.dir)));
  static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json",
                                      "tokenizer_config.json"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++)
    if (ka_path_exists(t_str("%s/base/%s", h.dir, files[i])))
      T_OK(ka_copy_file(ctx, t_str("%s/base/%s", h.dir, files[i]),
                        t_str("%s/linked/%s", h.dir, files[i])));
  write_text(&h, "secret.txt", "secret");
  (void)!symlink("../secret.txt", t_str("%s/linked/notes.json", h.dir));
  (void)!symlink("config.json", t_str("%s/linked/own.json", h.dir));
  assert_int_equal(kappa_train(t_str("base_model=%s/linked output_dir=%s/l1", h.dir, h.dir)), 0);
  assert_non_null(strstr(said.data, "linked/notes.json is a link to"));
  assert_null(strstr(said.data, "own.json is a link"));
  struct ka_str err = {0};
  assert_int_equal(
      t_kappa(NULL, &err, "delta export %s/base %s/linked %s/d.safetensors", h.dir, h.dir, h.dir),
      0);
  assert_non_null(strstr(err.data, "linked/notes.json is a link to"));
  ka_str_deinit(&err);
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
  const struct CMUnitTest tests[] = {cmocka_unit_test(other_files_are_refused),
                                     cmocka_unit_test(another_base_is_refused),
                                     cmocka_unit_test(other_keys_are_refused),
                                     cmocka_unit_test(what_may_change_is_said),
                                     cmocka_unit_test(an_edited_state_is_refused),
                                     cmocka_unit_test(a_damaged_checkpoint_is_passed_over),
                                     cmocka_unit_test(the_base_is_never_the_output),
                                     cmocka_unit_test(left_over_files_are_swept),
                                     cmocka_unit_test(links_out_of_the_model_are_named)};
  return cmocka_run_group_tests(tests, make_moved, clean);
}
