/* SPDX-License-Identifier: Apache-2.0
 * Log-likelihoods do not depend on how sequences are packed, shared and cut into passes; answers do
 * not on what is answered beside them; tasks are scored on a model in training as on any other. */
#include "engine/eval/generator.h"
#include "engine/eval/scorer.h"
#include "engine/eval/tasks.h"
#include "tests/model/tiny.h"
#include "tests/support/fresh.h"

#include <math.h>

enum { N = 40, LONGEST = 60 };

static int32_t pool[N][LONGEST];
static struct ka_eval_sequence sequences[N];
static double ll[N];
static bool greedy[N];

/* Questions with choices: common beginnings, one-token ends, repeats, beginnings of others. */
static void make_sequences(void) {
  for (int i = 0; i < N; i++) {
    int64_t shared = 20 + i / 8 % 3 * 10, n = shared + 2 + i % 5 * 2;
    if (i % 11 == 0) n = LONGEST;
    for (int64_t t = 0; t < n; t++)
      pool[i][t] = (int32_t)((t < shared ? t * 7 + i / 8 : t * 5 + i * 3) % TINY_V);
    int64_t targets = i % 3 == 0 ? 1 : n - shared + (i % 7 == 0 ? 3 : 0);
    sequences[i] = (struct ka_eval_sequence){pool[i], n, targets, &ll[i], &greedy[i]};
  }
  memcpy(pool[5], pool[4], sizeof *pool); /* the same twice */
  sequences[5].n = sequences[4].n;
  sequences[5].n_targets = sequences[4].n_targets;
  sequences[6].ids = pool[4]; /* the beginning of another */
  sequences[6].n = sequences[4].n - 1;
  sequences[6].n_targets = 1;
}

static void score(struct ka_model *m, const struct ka_eval_scoring *o) {
  for (int i = 0; i < N; i++) {
    ll[i] = 0;
    greedy[i] = true;
  }
  T_OK(ka_eval_score_sequences(ctx, m, sequences, N, o));
}

/* From the logits of a whole pass. */
static void reference(struct ka_model *m, double want[N], bool want_greedy[N]) {
  static float logits[LONGEST * TINY_V];
  for (int i = 0; i < N; i++) {
    const struct ka_eval_sequence *s = &sequences[i];
    struct tiny_batch b = tiny_batch(1, s->n, s->ids);
    T_OK(ka_model_forward(m, &b.batch, logits, NULL));
    want[i] = 0;
    want_greedy[i] = true;
    for (int64_t t = s->n - s->n_targets; t < s->n; t++) {
      const float *z = logits + (t - 1) * TINY_V;
      double sum = 0;
      int32_t best = 0;
      for (int32_t v = 0; v < TINY_V; v++) {
        sum += exp((double)z[v]);
        if (z[v] > z[best]) best = v;
      }
      want[i] += (double)z[s->ids[t]] - log(sum);
      want_greedy[i] = want_greedy[i] && best == s->ids[t];
    }
  }
}

static void likelihoods_depend_on_nothing_else(void **state) {
  (void)state;
  const char *const configs[] = {tiny_llama, tiny_mistral, tiny_qwen3};
  static const struct ka_eval_scoring ways[] = {{.share_min = -1},
                                                {.share_min = 1},
                                                {.share_min = 25},
                                                {.batch_size = 1},
                                                {.batch_size = 3, .share_min = 1}};
  static const int64_t rows[] = {2048, LONGEST, 16};
  bool on_cpu = strcmp(t_device(), "cpu") == 0;
  make_sequences();
  for (int c = 0; c < (on_cpu ? 3 : 1); c++) {
    struct ka_dev dev;
    struct ka_model m;
    double want[N];
    bool want_greedy[N];
    T_OK(ka_dev_open(ctx, &dev, on_cpu && c == 0 ? "ref" : t_device()));
    T_OK(ka_model_open(ctx, &m, &dev, tiny_make(ctx, configs[c], KA_F32), KA_F32));
    T_OK(ka_model_prepare(&m, 1, LONGEST, false));
    reference(&m, want, want_greedy);
    for (int r = 0; r < 3; r++) {
      m.max_position = LONGEST;
      T_OK(ka_model_prepare(&m, 1, rows[r], false));
      for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        score(&m, &ways[w]);
        for (int i = 0; i < N; i++) {
          if (fabs(ll[i] - want[i]) > 1e-4 || greedy[i] != want_greedy[i])
            fail_msg("config %d, %lld rows, way %zu, sequence %d: got %g %d, expected %g %d", c,
                     (long long)rows[r], w, i, ll[i], greedy[i], want[i], want_greedy[i]);
        }
      }
    }
    sequences[3].ids = (const int32_t[]){1, TINY_V, 2};
    sequences[3].n = 3;
    T_FAILS(ka_eval_score_sequences(ctx, &m, sequences, N, &ways[0]), KA_E_INPUT,
            "vocabulary of 29");
    make_sequences();
    ka_model_close(&m);
    ka_dev_close(&dev);
  }
}

/* --- a byte model ------------------------------------------------------------ */

static const char byte_config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":257,"
    "\"hidden_size\":16,\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":"
    "1,"
    "\"intermediate_size\":24,\"max_position_embeddings\":96,\"initializer_range\":0.5,"
    "\"rms_norm_eps\":1e-5,\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,"
    "\"bos_token_id\":256,\"eos_token_id\":256}";

struct bench {
  struct ka_dev dev;
  struct ka_model model;
  struct ka_tokenizer *tokenizer;
};

static void open_bench(struct bench *b) {
  const char *dir = t_temp_dir();
  static const char *const special[] = {"<|endoftext|>"};
  static const char tokens[] = "{\"bos_token\":\"<|endoftext|>\",\"eos_token\":\"<|endoftext|>\"}";
  T_OK(ka_dev_open(ctx, &b->dev, t_device()));
  T_OK(ka_model_init(ctx, tiny_config(ctx, byte_config), dir, 5, KA_F32));
  T_OK(ka_tokenizer_write_byte_level(ctx, t_str("%s/tokenizer.json", dir), special, 1));
  T_OK(ka_write_file(ctx, t_str("%s/tokenizer_config.json", dir), tokens, sizeof tokens - 1));
  T_OK(ka_model_open(ctx, &b->model, &b->dev, dir, KA_F32));
  T_OK(ka_tokenizer_open(ctx, &b->tokenizer, dir));
}

static void close_bench(struct bench *b) {
  ka_tokenizer_close(b->tokenizer);
  ka_model_close(&b->model);
  ka_dev_close(&b->dev);
}

static void answers(struct bench *b, const struct ka_eval_generation *g,
                    struct ka_eval_prompt *prompts, int n) {
  static int32_t ids[16][24];
  for (int i = 0; i < n; i++) {
    prompts[i] = (struct ka_eval_prompt){.ids = ids[i], .n = 3 + i * 5 % 20, .draw = (uint64_t)i};
    for (int t = 0; t < prompts[i].n; t++) ids[i][t] = 'a' + (t * 3 + i * 7) % 26;
  }
  T_OK(ka_eval_generate_answers(ctx, &b->model, prompts, n, g));
}

static void answers_depend_on_nothing_else(void **state) {
  (void)state;
  struct bench b;
  struct ka_eval_prompt one[12], many[12], drawn[12];
  const char *stop[] = {"e", "zz"};
  const struct ka_key_texts until = {stop, 2};
  struct ka_eval_generation g = {.until = &until, .max_tokens = 20, .batch_size = 1};
  open_bench(&b);
  g.tokenizer = b.tokenizer;
  b.model.max_position = 64;
  T_OK(ka_model_prepare(&b.model, 1, 64, false));
  answers(&b, &g, one, 12);
  g.batch_size = 5;
  answers(&b, &g, many, 12);
  g.sampling = (struct ka_eval_sampling){.temperature = 1, .top_p = 1};
  answers(&b, &g, drawn, 12);
  int differ = 0, long_ones = 0;
  for (int i = 0; i < 12; i++) {
    assert_int_equal(one[i].text.len, many[i].text.len);
    if (one[i].text.len > 0)
      assert_memory_equal(one[i].text.data, many[i].text.data, one[i].text.len);
    if (one[i].text.len > 0) assert_null(memmem(one[i].text.data, one[i].text.len, "e", 1));
    differ += drawn[i].text.len != one[i].text.len ||
              memcmp(drawn[i].text.data ? drawn[i].text.data : "",
                     one[i].text.data ? one[i].text.data : "", one[i].text.len) != 0;
    long_ones += one[i].text.len > 3;
    ka_str_deinit(&one[i].text);
    ka_str_deinit(&many[i].text);
    ka_str_deinit(&drawn[i].text);
  }
  assert_true(differ > 6 && long_ones > 6);
  close_bench(&b);
}

static const char task_text[] = "task: t\n"
                                "dataset_path: json\n"
                                "dataset_kwargs: {data_files: {test: d.jsonl}}\n"
                                "output_type: multiple_choice\n"
                                "test_split: test\n"
                                "doc_to_text: q\n"
                                "doc_to_choice: c\n"
                                "doc_to_target: g\n"
                                "num_fewshot: 1\n";

static const char *task_file(void) {
  const char *dir = t_temp_dir();
  struct ka_str rows = {0};
  for (int i = 0; i < 6; i++)
    T_OK(ka_str_printf(ctx, &rows, "{\"q\":\"Number %d?\",\"c\":[\"one\",\"two%s\"],\"g\":%d}\n", i,
                       i % 2 ? "\",\"three" : "", i % 2));
  T_OK(ka_write_file(ctx, t_str("%s/d.jsonl", dir), rows.data, rows.len));
  T_OK(ka_write_file(ctx, t_str("%s/t.yaml", dir), task_text, sizeof task_text - 1));
  ka_str_deinit(&rows);
  return t_str("%s/t.yaml", dir);
}

/* Values are plain numbers; a model that is prepared for training gives the same ones, whatever its
 * batches, and goes on training as before. */
static void values_of_a_model_in_training(void **state) {
  (void)state;
  struct bench b;
  struct ka_tasks *tasks;
  struct ka_results r[2];
  const char *path = task_file();
  const struct ka_tasks_options o = KA_TASKS_DEFAULTS;
  const struct ka_eval_encode_options encoding = {
      .max_length = 96, .prefix_token = -1, .add_bos = -1};
  const struct ka_eval_score_options scoring = KA_SCORE_DEFAULTS;
  const struct ka_train_part part = {"model.layers.0.mlp.down_proj.weight", 0, -1, 0, -1};
  T_OK(ka_tasks_load(ctx, &tasks, &path, 1, &o));
  for (int i = 0; i < 2; i++) {
    open_bench(&b);
    T_OK(ka_tasks_encode(ctx, tasks, b.tokenizer, &encoding));
    assert_int_equal(ka_tasks_n_requests(tasks), 15);
    assert_true(ka_tasks_positions(tasks) > 25);
    if (i == 1) T_OK(ka_model_train_parts(&b.model, &part, 1));
    b.model.max_position = ka_tasks_positions(tasks);
    T_OK(ka_model_prepare(&b.model, i == 1 ? 2 : 1, i == 1 ? 10 : 400, false));
    T_OK(ka_tasks_score(ctx, tasks, &b.model, &scoring, &r[i]));
    close_bench(&b);
  }
  assert_int_equal(r[0].n_values, 2);
  for (int i = 0; i < 2; i++) {
    const struct ka_task_value *v = ka_results_find(&r[i], "t", "acc", "none");
    assert_non_null(v);
    assert_true(v->value == r[0].values[0].value && v->stderr_ == r[0].values[0].stderr_);
    assert_true(fabs(v->chance - (0.5 + 1 / 3.0) / 2) < 1e-12);
    assert_true(v->higher_is_better && !v->is_group && v->n_docs == 6);
    assert_null(ka_results_find(&r[i], "t", "f1", NULL));
  }
  for (int i = 0; i < 2; i++) ka_results_close(&r[i]);
  ka_tasks_close(tasks);
}

/* A model that computes NaN fails, with where. */
static void no_score_without_numbers(void **state) {
  (void)state;
  struct bench b;
  struct ka_tasks *tasks;
  struct ka_results r;
  const char *path = task_file();
  const struct ka_tasks_options o = KA_TASKS_DEFAULTS;
  const struct ka_eval_encode_options encoding = {
      .max_length = 96, .prefix_token = -1, .add_bos = -1};
  const struct ka_eval_score_options scoring = KA_SCORE_DEFAULTS;
  const struct ka_train_part norm = {"model.norm.weight", 0, -1, 0, -1};
  const float nan = NAN;
  T_OK(ka_tasks_load(ctx, &tasks, &path, 1, &o));
  open_bench(&b);
  T_OK(ka_tasks_encode(ctx, tasks, b.tokenizer, &encoding));
  b.model.max_position = ka_tasks_positions(tasks);
  T_OK(ka_model_train_parts(&b.model, &norm, 1));
  T_OK(ka_model_prepare(&b.model, 1, 96, false));
  for (int64_t i = 0; i < b.model.n_params; i++)
    if (strcmp(b.model.params[i].name, norm.tensor) == 0)
      T_OK(ka_dev_upload(&b.dev, b.model.params[i].weight.data, &nan, sizeof nan));
  T_OK(ka_model_weights_changed(&b.model));
  T_FAILS(ka_tasks_score(ctx, tasks, &b.model, &scoring, &r), KA_E_CHECK, "task t, document 0: ");
  ka_results_close(&r);
  close_bench(&b);
  ka_tasks_close(tasks);
}

/* Every allocation of loading, encoding and scoring may fail. */
static void memory_may_run_out(void **state) {
  (void)state;
  struct bench b;
  const char *path = task_file();
  const struct ka_tasks_options o = KA_TASKS_DEFAULTS;
  const struct ka_eval_encode_options encoding = {
      .max_length = 96, .prefix_token = -1, .add_bos = -1};
  const struct ka_eval_score_options scoring = {.bootstrap_iters = 10};
  open_bench(&b);
  b.model.max_position = 96;
  T_OK(ka_model_prepare(&b.model, 1, 96, false));
  int n = 1;
  for (;; n += n < 300 ? 1 : 23) {
    struct ka_tasks *tasks;
    struct ka_results r = {0};
    ctx->fail_alloc_at = n;
    ka_status st = ka_tasks_load(ctx, &tasks, &path, 1, &o);
    if (ka_ok(st)) st = ka_tasks_encode(ctx, tasks, b.tokenizer, &encoding);
    if (ka_ok(st)) st = ka_tasks_score(ctx, tasks, &b.model, &scoring, &r);
    ka_results_close(&r);
    ka_tasks_close(tasks);
    if (ka_ok(st) && ctx->fail_alloc_at > 0) break;
    if (!ka_ok(st)) assert_int_equal(st.code, KA_E_MEMORY);
    ka_error_clear(ctx);
  }
  ctx->fail_alloc_at = 0;
  assert_true(n > 100);
  close_bench(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(likelihoods_depend_on_nothing_else, fresh),
      cmocka_unit_test_setup(answers_depend_on_nothing_else, fresh),
      cmocka_unit_test_setup(values_of_a_model_in_training, fresh),
      cmocka_unit_test_setup(no_score_without_numbers, fresh),
      cmocka_unit_test_setup(memory_may_run_out, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
