/* SPDX-License-Identifier: Apache-2.0
 * A small model, made here, learns to hear: four words that are pairs of tones, in voices that
 * differ in pitch and speed, with noise. What is trained, saved, resumed, measured and refused. */
#include "base/json.h"
#include "base/rng.h"
#include "engine/audio/audio.h"
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct ka_ctx context;
static struct ka_ctx *ctx = &context;

static const char *const words[] = {"ba", "di", "gu", "lo"};
static const double tones[][2] = {{300, 900}, {400, 2200}, {350, 650}, {700, 1300}};
enum { N_WORDS = 4, RATE = 16000 };

static void put(unsigned char *p, uint32_t v, int n) {
  for (int i = 0; i < n; i++) p[i] = (unsigned char)(v >> 8 * i);
}

/* One or two words of a voice. */
static void write_wav(const char *path, const int *spoken, int n_words, double pitch, double length,
                      uint64_t seed) {
  int each = (int)(length * RATE), n = n_words * each;
  unsigned char *bytes = calloc(1, 44 + 2 * (size_t)n);
  memcpy(bytes, "RIFF....WAVEfmt ", 16);
  put(bytes + 4, (uint32_t)(36 + 2 * n), 4);
  put(bytes + 16, 16, 4);
  put(bytes + 20, 1, 2);
  put(bytes + 22, 1, 2);
  put(bytes + 24, RATE, 4);
  put(bytes + 28, 2 * RATE, 4);
  put(bytes + 32, 2, 2);
  put(bytes + 34, 16, 2);
  memcpy(bytes + 36, "data", 4);
  put(bytes + 40, (uint32_t)(2 * n), 4);
  for (int i = 0; i < n; i++) {
    const double *f = tones[spoken[i / each]];
    double t = (double)i / RATE, window = sin(M_PI * (i % each) / each);
    double x = window * (sin(2 * M_PI * f[0] * pitch * t) + sin(2 * M_PI * f[1] * pitch * t));
    x = 6000 * x + 100 * ka_rng_normal(seed, 1, (uint64_t)i);
    put(bytes + 44 + 2 * i, (uint32_t)(int32_t)x & 0xffff, 2);
  }
  T_OK(ka_write_file(ctx, path, bytes, 44 + 2 * (size_t)n));
  free(bytes);
}

/* n rows; low, high: the range of pitches. */
static void write_rows(const char *dir, const char *name, int n, double low, double high) {
  struct ka_str rows = {0};
  for (int i = 0; i < n; i++) {
    uint64_t at = (uint64_t)i, stream = ka_rng_stream(name);
    int spoken[2] = {(int)ka_rng_below(1, stream, 4 * at, N_WORDS),
                     (int)ka_rng_below(1, stream, 4 * at + 1, N_WORDS)};
    double pitch = low + (high - low) * ka_rng_uniform(1, stream, 4 * at + 2);
    double length = 0.16 + 0.08 * ka_rng_uniform(1, stream, 4 * at + 3);
    write_wav(t_str("%s/%s-%d.wav", dir, name, i), spoken, 2, pitch, length, stream + at);
    T_OK(ka_str_printf(ctx, &rows, "{\"audio\": \"%s-%d.wav\", \"text\": \"%s %s\"}\n", name, i,
                       words[spoken[0]], words[spoken[1]]));
  }
  T_OK(ka_write_file(ctx, t_str("%s/%s.jsonl", dir, name), rows.data, rows.len));
  ka_str_deinit(&rows);
}

static void write_text(const char *path, const char *text) {
  T_OK(ka_write_file(ctx, path, text, strlen(text)));
}

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":257,"
    "\"hidden_size\":48,\"num_hidden_layers\":2,\"num_attention_heads\":2,"
    "\"intermediate_size\":96,\"hidden_act\":\"silu\",\"max_position_embeddings\":256,"
    "\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true,\"bos_token_id\":256,"
    "\"eos_token_id\":256}";
static const char job[] = "base_model: base\n"
                          "datasets: [{path: train.jsonl, type: speech}]\n"
                          "projector: {stack: 4, hidden: 64, learning_rate: 3e-3}\n"
                          "sequence_len: 64\nmicro_batch_size: 4\ngradient_accumulation_steps: 1\n"
                          "learning_rate: 3e-3\nval_set_size: 8\nbf16: false\nthreads: 1\n"
                          "selection: {metric: all}\nlr_scheduler: constant\n";
static const char task[] =
    "task: heard\ndataset_path: json\ndataset_kwargs: {data_files: {test: test.jsonl}}\n"
    "test_split: test\noutput_type: generate_until\ndoc_to_audio: audio\ndoc_to_text: \"\"\n"
    "doc_to_target: text\ngeneration_kwargs: {until: [\"\\n\"], max_gen_toks: 12}\n"
    "metric_list: [{metric: wer}, {metric: cer}]\n";

static const char *dir;

static int set_up(void **state) {
  (void)state;
  ka_ctx_init(ctx);
  if (!ka_ok(ka_audio_there(ctx))) return 0; /* dir stays NULL */
  ka_error_clear(ctx);
  dir = t_temp_dir();
  write_rows(dir, "train", 160, 0.8, 1.25);
  write_rows(dir, "test", 12, 0.9, 1.1);
  write_text(t_str("%s/config.json", dir), config);
  write_text(t_str("%s/job.yaml", dir), job);
  write_text(t_str("%s/heard.yaml", dir), task);
  assert_int_equal(t_kappa(NULL, NULL,
                           "init --config %s/config.json --out %s/base --tokenizer bytes --quiet",
                           dir, dir),
                   0);
  return 0;
}

#define T_AUDIO                                                                                    \
  if (!dir) skip();

static void train(const char *out, const char *words_) {
  struct ka_str err = {0};
  int code =
      t_kappa(NULL, &err, "train %s/job.yaml output_dir=%s/%s %s --quiet", dir, dir, out, words_);
  if (code != 0) fail_msg("train %s: exit %d: %s", out, code, err.data);
  ka_str_deinit(&err);
}

static double wer_of(const char *out) {
  struct ka_str text = {0}, err = {0};
  json_t *root = NULL;
  int code =
      t_kappa(&text, &err, "eval %s/%s --tasks %s/heard.yaml --json - --quiet", dir, out, dir);
  if (code != 0) fail_msg("eval %s: exit %d: %s", out, code, err.data);
  T_OK(ka_json_parse(ctx, text.data, text.len, "eval", &root));
  const json_t *of = json_object_get(json_object_get(root, "results"), "heard");
  double wer = json_number_value(json_object_get(of, "wer,none"));
  json_decref(root);
  ka_str_deinit(&text);
  ka_str_deinit(&err);
  return wer;
}

static void same_file(const char *a, const char *b, const char *name) {
  struct ka_str x = {0}, y = {0};
  T_OK(ka_read_file(ctx, t_str("%s/%s/%s", dir, a, name), 0, &x));
  T_OK(ka_read_file(ctx, t_str("%s/%s/%s", dir, b, name), 0, &y));
  assert_int_equal(x.len, y.len);
  assert_memory_equal(x.data, y.data, x.len);
  ka_str_deinit(&x);
  ka_str_deinit(&y);
}

/* Voices that were not trained are understood; the projector alone, before a model that knows no
 * word, cannot say what it hears. */
static void learns_to_hear(void **state) {
  (void)state;
  T_AUDIO
  train("tuned", "max_steps=260");
  train("alone", "max_steps=260 projector.only=true");
  double tuned = wer_of("tuned"), alone = wer_of("alone");
  print_message("WER %g, of the projector alone %g\n", tuned, alone);
  assert_true(tuned < 0.2);
  assert_true(alone > 3 * tuned);
  same_file("base", "alone", "model.safetensors");
  struct ka_str text = {0};
  assert_int_equal(
      t_kappa(&text, NULL, "generate %s/tuned --audio %s/test-0.wav --quiet", dir, dir), 0);
  struct ka_str rows = {0};
  T_OK(ka_read_file(ctx, t_str("%s/test.jsonl", dir), 0, &rows));
  text.data[strcspn(text.data, "\n")] = 0;
  assert_non_null(strstr(rows.data, text.data)); /* some words of the language */
  ka_str_deinit(&rows);
  ka_str_deinit(&text);
}

/* Stopped and resumed: the same bits. A prepared path, convolutions: other jobs of the same
 * kind. */
static void resumed(void **state) {
  (void)state;
  T_AUDIO
  const char *more = "save_steps=4 projector.conv=[1,2] projector.conv_width=24 projector.layers=1 "
                     "projector.heads=2 selection.metric=kappa "
                     "selection.count=3 gradient_accumulation_steps=2";
  train("whole", t_str("%s max_steps=8", more));
  train("half", t_str("%s max_steps=4 dataset_prepared_path=%s/kept", more, dir));
  train("half", t_str("%s max_steps=8 dataset_prepared_path=%s/kept --resume", more, dir));
  same_file("whole", "half", "model.safetensors");
  same_file("whole", "half", "projector.safetensors");
  same_file("whole", "half", "projector.json");
}

/* Two processes: the same bits again, and the numbers of one within float's summation. */
static void two_ranks(void **state) {
  (void)state;
  T_AUDIO
  if (!getenv("KAPPA_MPI") || system("command -v mpirun >/dev/null 2>&1") != 0) skip();
  const char *more = "max_steps=4 gradient_accumulation_steps=4 save_steps=0";
  train("one", more);
  for (int i = 0; i < 2; i++)
    assert_int_equal(system(t_str("timeout 120 mpirun --allow-run-as-root --oversubscribe -q -np 2 "
                                  "%s train %s/job.yaml output_dir=%s/two%d %s --quiet",
                                  getenv("KAPPA_BIN"), dir, dir, i, more)),
                     0);
  same_file("two0", "two1", "model.safetensors");
  same_file("two0", "two1", "projector.safetensors");
  double loss[2];
  static const char *const runs[] = {"one", "two0"};
  for (int i = 0; i < 2; i++) {
    json_t *root = NULL;
    T_OK(ka_json_load(ctx, t_str("%s/%s/trainer_state.json", dir, runs[i]), &root));
    const json_t *rows = json_object_get(root, "log_history");
    const json_t *last = json_array_get(rows, json_array_size(rows) - 1);
    loss[i] = json_number_value(json_object_get(last, "eval_loss"));
    json_decref(root);
  }
  assert_true(loss[0] > 0 && fabs(loss[0] - loss[1]) < 1e-5);
}

/* One report: learning in WER, forgetting of a text. */
static void forgotten(void **state) {
  (void)state;
  T_AUDIO
  write_text(t_str("%s/old.txt", dir), "the quick brown fox jumps over the lazy dog");
  struct ka_str text = {0}, err = {0};
  int code = t_kappa(&text, &err,
                     "forget %s/job.yaml output_dir=%s/forget max_steps=3 selection.metric=kappa "
                     "selection.fraction=0.3 'held_out=[{name: old, path: %s/old.txt}]' "
                     "forgetting.new_tasks=%s/heard.yaml forgetting.every=1000000 "
                     "--methods projector,kappa_lowest --seeds 1 --json -",
                     dir, dir, dir, dir);
  if (code != 0) fail_msg("forget: exit %d: %s", code, err.data);
  assert_non_null(strstr(text.data, "\"wer\""));
  assert_non_null(strstr(strstr(err.data, " runs, "), " tok/s, peak memory "));
  assert_non_null(strstr(text.data, "\"old\""));
  ka_str_deinit(&text);
  ka_str_deinit(&err);
}

/* Another sound under the same name is other data. */
static void other_sound(void **state) {
  (void)state;
  T_AUDIO
  struct ka_str err = {0};
  const int spoken[] = {0, 1};
  const char *path = t_str("%s/train-3.wav", dir), *kept = t_str("%s/kept.wav", dir);
  train("changed", "max_steps=2 save_steps=1");
  T_OK(ka_copy_file(ctx, path, kept));
  write_wav(path, spoken, 2, 1.1, 0.2, 99);
  assert_int_equal(t_kappa(NULL, &err,
                           "train %s/job.yaml output_dir=%s/changed max_steps=4 save_steps=1 "
                           "--resume --quiet",
                           dir, dir),
                   2);
  assert_non_null(strstr(err.data, "sound files"));
  T_OK(ka_copy_file(ctx, kept, path));
  ka_str_deinit(&err);
}

/* A tuned model is where another run starts from; its projector with it. */
static void goes_on(void **state) {
  (void)state;
  T_AUDIO
  train("first", "max_steps=2");
  train("second", t_str("max_steps=1 learning_rate=1e-30 projector.learning_rate=1e-30 "
                        "base_model=%s/first",
                        dir));
  same_file("first", "second", "projector.safetensors");
  write_text(t_str("%s/text.txt", dir), "ba di gu lo ba di gu lo ba di gu lo ba di gu lo");
  train("third", t_str("max_steps=1 base_model=%s/first 'datasets=[{path: %s/text.txt}]' "
                       "val_set_size=0",
                       dir, dir)); /* it learns to write and does not forget to hear */
  same_file("first", "third", "projector.safetensors");
  same_file("first", "third", "projector.json");
  struct ka_str err = {0};
  assert_int_equal(t_kappa(NULL, &err,
                           "train %s/job.yaml 'datasets=[{path: %s/text.txt}]' output_dir=%s/none "
                           "projector.only=true --quiet",
                           dir, dir, dir),
                   2);
  assert_non_null(strstr(err.data, "no dataset is of type speech"));
  ka_str_deinit(&err);
  assert_int_equal(t_kappa(NULL, NULL, "generate %s/third --audio %s/test-0.wav --quiet", dir, dir),
                   0);
}

static struct ka_str said_of(const char *options) {
  struct ka_str err = {0};
  assert_int_equal(
      t_kappa(NULL, &err, "generate %s/told --audio %s/test-0.wav %s", dir, dir, options), 0);
  return err;
}

/* What stood behind the sound in training stands there afterwards, unless something else is
 * said. */
static void prompt_is_kept(void **state) {
  (void)state;
  T_AUDIO
  json_t *root = NULL;
  train("told", t_str("max_steps=1 'datasets=[{path: %s/train.jsonl, type: speech, "
                      "prompt: \"Heard: \"}]'",
                      dir));
  T_OK(ka_json_load(ctx, t_str("%s/told/projector.json", dir), &root));
  assert_string_equal(json_string_value(json_object_get(root, "prompt")), "Heard: ");
  json_decref(root);
  struct ka_str ids[3] = {{0}};
  static const char *const ways[] = {"", "--prompt 'Heard: '", "--prompt ''"};
  for (int i = 0; i < 3; i++)
    assert_int_equal(t_kappa(&ids[i], NULL, "generate %s/told --audio %s/test-0.wav --ids %s", dir,
                             dir, ways[i]),
                     0);
  assert_string_equal(ids[0].data, ids[1].data);
  assert_string_not_equal(ids[0].data, ids[2].data);
  struct ka_str err = said_of(""), other = said_of("--prompt x");
  assert_non_null(strstr(err.data, "\"Heard: \""));
  assert_null(strstr(other.data, "Heard"));
  train("told_on", t_str("max_steps=1 base_model=%s/told", dir));
  T_OK(ka_json_load(ctx, t_str("%s/told_on/projector.json", dir), &root));
  assert_null(json_object_get(root, "prompt"));
  json_decref(root);
  for (int i = 0; i < 3; i++) ka_str_deinit(&ids[i]);
  ka_str_deinit(&err);
  ka_str_deinit(&other);
}

/* Bad sound stops a run with its sentence, or is left out and counted. */
static void bad_sound(void **state) {
  (void)state;
  T_AUDIO
  struct ka_str rows = {0}, err = {0}, out = {0};
  T_OK(ka_read_file(ctx, t_str("%s/train.jsonl", dir), 0, &rows));
  T_OK(ka_str_puts(ctx, &rows,
                   "{\"audio\": \"none.wav\", \"text\": \"ba\"}\n"
                   "{\"audio\": \"heard.yaml\", \"text\": \"ba\"}\n"));
  T_OK(ka_write_file(ctx, t_str("%s/bad.jsonl", dir), rows.data, rows.len));
  const char *words_ = t_str("datasets.0.path=%s/bad.jsonl output_dir=%s/bad", dir, dir);
  assert_int_equal(t_kappa(NULL, &err, "train %s/job.yaml %s --quiet", dir, words_), 2);
  assert_non_null(strstr(err.data, "bad.jsonl:161: "));
  assert_non_null(strstr(err.data, "none.wav"));
  assert_non_null(strstr(err.data, "heard.yaml: not audio"));
  assert_int_equal(
      t_kappa(&out, NULL, "plan %s/job.yaml %s datasets.0.on_bad_row=skip --quiet", dir, words_),
      0);
  assert_non_null(strstr(out.data, "2 bad rows left out"));
  assert_non_null(strstr(out.data, "160 sound files"));
  ka_str_deinit(&rows);
  ka_str_deinit(&err);
  ka_str_deinit(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(learns_to_hear), cmocka_unit_test(resumed),
      cmocka_unit_test(two_ranks),      cmocka_unit_test(forgotten),
      cmocka_unit_test(other_sound),    cmocka_unit_test(goes_on),
      cmocka_unit_test(bad_sound),      cmocka_unit_test(prompt_is_kept)};
  return cmocka_run_group_tests(tests, set_up, NULL);
}
