/* SPDX-License-Identifier: Apache-2.0
 * engine/data/dataset.h: every type and file format, bad rows, masks, length policies. */
#include "tests/data/bed.h"

#include <stdio.h>

static void tokenized_rows_keep_their_labels(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_job j;
  put(dir, "a.jsonl",
      "{\"input_ids\":[1,2,3]}\n\n"
      "{\"input_ids\":[4,5,6],\"labels\":[-100,-100,6]}\r\n"
      "{\"input_ids\":[7,8,9,0],\"attention_mask\":[1,1,1,0],\"labels\":[7,8,-100,-100]}\n"
      "{\"input_ids\":[1,2],\"labels\":[1,-100]}\n"
      "{\"input_ids\":[]}\n"
      "  {\"input_ids\":[1,2,3],\"labels\":[9,8,7]}");
  job(&j, dir, "[{path: a.jsonl, type: tokenized}]", "sample_packing: false");
  struct ka_data *d = open_data(&j, NULL);
  const struct ka_data_stats *s = ka_data_get_stats(d);
  assert_int_equal(s->n_rows, 6);
  assert_int_equal(s->n_empty, 1);
  assert_int_equal(s->n_all_masked, 1);
  assert_string_equal(shown(d, KA_DATA_TRAIN, 0), "1 2* 3*");
  assert_string_equal(shown(d, KA_DATA_TRAIN, 1), "4 5 6*");
  assert_string_equal(shown(d, KA_DATA_TRAIN, 2), "7 8* 9");
  int32_t labels[3];
  assert_int_equal(ka_data_document(d, KA_DATA_TRAIN, 3, 3, NULL, labels), 3);
  assert_true(labels[0] == -100 && labels[1] == 8 && labels[2] == 7);
  assert_int_equal(ka_data_n_batches(d, KA_DATA_TRAIN), 2);
  struct ka_batch b;
  T_OK(ka_data_batch(ctx, d, KA_DATA_TRAIN, 0, &b));
  assert_true(b.B == 2 && b.T == 3 && b.n_targets == 3);
  const int32_t ids[6] = {1, 2, 3, 4, 5, 6}, lab[6] = {-100, 2, 3, -100, -100, 6};
  assert_memory_equal(b.input_ids, ids, sizeof ids);
  assert_memory_equal(b.labels, lab, sizeof lab);
  ka_data_close(d);
  ka_job_close(&j);
}

/* Integers beyond 64 bits and NaN in columns that nobody reads; whole documents are handed out. */
static void odd_columns_are_nobodys_business(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t = byte_tokenizer(dir);
  struct ka_job j;
  put(dir, "a.jsonl",
      "{\"text\":\"ab\",\"id\":123456789012345678901234567890}\n{\"text\":\"c\",\"score\":NaN}\n");
  job(&j, dir, "[{path: a.jsonl}]", "sample_packing: false");
  struct ka_data *d = open_data(&j, t);
  assert_string_equal(shown(d, KA_DATA_TRAIN, 0), "97 98* 256*");
  assert_string_equal(shown(d, KA_DATA_TRAIN, 1), "99 256*");
  assert_int_equal(ka_data_n_documents(d), 2);
  int32_t ids[3], labels[3];
  assert_int_equal(ka_data_document_tok(d, 0), 3);
  ka_data_read_document(d, 0, ids, labels);
  assert_true(ids[0] == 97 && labels[0] == 97 && labels[2] == EOS);
  ka_data_close(d);
  ka_job_close(&j);
  ka_tokenizer_close(t);
}

/* A BOS that the text has is not doubled; without EOS there is a note; history is noted. */
static void bos_and_eos_are_looked_after(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  static const char *const special[] = {"<s>"};
  struct ka_tokenizer *t;
  struct ka_job j;
  struct ka_str text = {0};
  T_OK(ka_tokenizer_write_byte_level(ctx, t_str("%s/tokenizer.json", dir), special, 1));
  T_OK(ka_read_file(ctx, t_str("%s/tokenizer.json", dir), 0, &text));
  char *at = strstr(text.data, "\"post_processor\"");
  assert_non_null(at);
  size_t head = (size_t)(at - text.data);
  const char *rest = strchr(at, '}') ? strstr(at, "\"decoder\"") : NULL;
  assert_non_null(rest);
  put(dir, "tokenizer.json",
      t_str("%.*s\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
            "[{\"SpecialToken\": "
            "{\"id\": \"<s>\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], "
            "\"pair\": [], \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [256], "
            "\"tokens\": "
            "[\"<s>\"]}}}, %s",
            (int)head, text.data, rest));
  ka_str_deinit(&text);
  T_OK(ka_tokenizer_open(ctx, &t, dir));
  put(dir, "a.jsonl", "{\"text\":\"<s>a\"}\n{\"text\":\"a\"}\n");
  put(dir, "b.jsonl", "{\"instruction\":\"i\",\"output\":\"o\",\"history\":[[\"a\",\"b\"]]}\n");
  job(&j, dir, "[{path: a.jsonl}, {path: b.jsonl, type: alpaca, format: \"<s>{instruction}\"}]",
      "sample_packing: false");
  struct ka_data *d = open_data(&j, t);
  assert_string_equal(shown(d, KA_DATA_TRAIN, 0), "256 97*");
  assert_string_equal(shown(d, KA_DATA_TRAIN, 1), "256 97*");
  assert_string_equal(shown(d, KA_DATA_TRAIN, 2), "256 105 111*");
  assert_int_equal(ka_data_get_stats(d)->n_noted[KA_NOTE_NO_EOS], 3);
  assert_int_equal(ka_data_get_stats(d)->n_noted[KA_NOTE_HISTORY], 1);
  ka_data_close(d);
  ka_job_close(&j);
  ka_tokenizer_close(t);
}

static void formats_are_checked(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t = byte_tokenizer(dir);
  struct ka_data *d;
  struct ka_job j;
  put(dir, "a.jsonl", "{\"instruction\":\"i\",\"output\":\"o\"}\n");
  static const struct {
    const char *format, *message;
  } cases[] = {{"'[INST] {prompt} [/INST]'", "datasets.0.format: got {prompt}, expected {system}"},
               {"'{system} Q:'", "{instruction} is not in it"},
               {"'{instruction} {Input}'", "got {Input}"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    job(&j, dir, t_str("[{path: a.jsonl, type: alpaca, format: %s}]", cases[i].format), "");
    T_FAILS(open_job(&d, &j, t, 258), KA_E_INPUT, cases[i].message);
    ka_job_close(&j);
  }
  ka_tokenizer_close(t);
}

static void a_signal_ends_tokenizing(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t = byte_tokenizer(dir);
  volatile int signal = 15;
  struct ka_data *d;
  struct ka_job j;
  put(dir, "a.jsonl", "{\"text\":\"a b\"}\n");
  job(&j, dir, "[{path: a.jsonl}]", "");
  ctx->interrupted = &signal;
  T_FAILS(open_job(&d, &j, t, 258), KA_E_INTERRUPTED, "interrupted");
  ctx->interrupted = NULL;
  ka_job_close(&j);
  ka_tokenizer_close(t);
}

/* What Python's json reads and no text can hold is no matter where nobody reads it. */
static void columns_that_are_not_read_may_hold_anything(void **state) {
  (void)state;
  static const char rows[] =
      "{\"text\":\"abc\",\"x\":\"\\ud83d\",\"y\":[{\"\\u0000\":\"\\udc00\"}]}\n"
      "{\"\\u0000\":1,\"text\\ud800\":\"no\",\"id\":\"\\u0000\",\"text\":\"abc\"}\n"
      "{\"text\":7,\"x\":{\"a\":1,\"a\":2},\"text\":\"abc\",\"x\":1}\n"
      "{\"text\":\"\\ud83d\",\"text\":\"abc\"}\n";
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t = byte_tokenizer(dir);
  struct ka_data *d;
  struct ka_job j;
  put(dir, "a.jsonl", rows);
  job(&j, dir, "[{path: a.jsonl}]", "");
  T_OK(open_job(&d, &j, t, 258));
  assert_int_equal(ka_data_get_stats(d)->n_rows, 4);
  ka_data_close(d);
  ka_job_close(&j);
  ka_tokenizer_close(t);
}

static void bad_rows_name_file_and_line(void **state) {
  (void)state;
  static const struct {
    const char *type, *row, *message;
  } cases[] = {
      {"tokenized", "{", "a.jsonl:2: not valid JSON"},
      {"tokenized", "[1]", "a.jsonl:2: expected a JSON object"},
      {"tokenized", "{\"input_ids\":[1],\"input_ids\":3}", "expected a list of integers"},
      {"completion", "{\"text\":\"a\\ud83d\"}", "half of a surrogate pair"},
      {"completion", "{\"text\":\"a\",\"text\":\"\\udc00\"}", "half of a surrogate pair"},
      {"completion", "{\"text\\u0000\":\"a\"}", "a key with a NUL"},
      {"completion", "{\"text\\ud800\":\"a\"}", "key \"text\" is missing"},
      {"alpaca", "{\"instruction\":\"a\",\"output\":\"b\",\"input\":\"\\ud800\"}",
       "half of a surrogate pair"},
      {"input_output", "{\"segments\":[{\"label\":true,\"text\":\"\\ud800\"}]}",
       "half of a surrogate pair"},
      {"tokenized", "{\"x\":\"\xff\"}", "not valid JSON"},
      {"tokenized", "{}", "a.jsonl:2: key \"input_ids\" is missing"},
      {"tokenized", "{\"input_ids\":[1,258]}", "input_ids[1]: got 258, expected 0 to 257"},
      {"tokenized", "{\"input_ids\":[-1]}", "input_ids[0]: got -1"},
      {"tokenized", "{\"input_ids\":[1.5]}", "input_ids[0]: expected an integer"},
      {"tokenized", "{\"input_ids\":[1],\"labels\":[1,2]}", "labels\": got 2 entries"},
      {"tokenized", "{\"input_ids\":[1],\"labels\":[-1]}", "or -100"},
      {"tokenized", "{\"input_ids\":[1],\"attention_mask\":[2]}", "attention_mask[0]: got 2"},
      {"completion", "{\"txt\":\"a\"}", "key \"text\" is missing"},
      {"completion", "{\"text\":3}", "key \"text\": expected a string"},
      {"alpaca", "{\"instruction\":\"a\"}", "key \"output\" is missing"},
      {"alpaca", "{\"output\":\"a\"}", "key \"instruction\" is missing"},
      {"alpaca", "{\"instruction\":\"a\",\"output\":\"b\",\"input\":{}}", "key \"input\""},
      {"input_output", "{\"segments\":{}}", "key \"segments\""},
      {"input_output", "{\"segments\":[{\"label\":1,\"text\":\"a\"}]}", "segments[0]"},
  };
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t = byte_tokenizer(dir);
  struct ka_data *d;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct ka_job j;
    put(dir, "a.jsonl", t_str("\n%s\n", cases[i].row));
    job(&j, dir, t_str("[{path: a.jsonl, type: %s}]", cases[i].type), "");
    T_FAILS(open_job(&d, &j, t, 258), KA_E_INPUT, cases[i].message);
    assert_null(d);
    ka_job_close(&j);
  }
  /* Several at once, then no more. */
  struct ka_str many = {0};
  for (int i = 0; i < 30; i++) T_OK(ka_str_puts(ctx, &many, "{\n"));
  put(dir, "a.jsonl", many.data);
  struct ka_job j;
  job(&j, dir, "[{path: a.jsonl, type: tokenized}]", "");
  T_FAILS(open_job(&d, &j, NULL, 258), KA_E_INPUT, "a.jsonl:10: not valid JSON");
  T_FAILS(open_job(&d, &j, NULL, 258), KA_E_INPUT, "reading stopped here");
  ka_job_close(&j);
  ka_str_deinit(&many);
  put(dir, "a.jsonl", "{\"text\":\"abc\"}\n");
  job(&j, dir, "[{path: a.jsonl}]", "");
  T_FAILS(open_job(&d, &j, t, 99), KA_E_INPUT, "the model knows 0 to 98");
  T_FAILS(open_job(&d, &j, NULL, 99), KA_E_INPUT, "completion needs a tokenizer in");
  ka_job_close(&j);
  put(dir, "a.jsonl", "\n\n");
  job(&j, dir, "[{path: a.jsonl}]", "");
  T_FAILS(open_job(&d, &j, t, 258), KA_E_INPUT, "nothing to train on");
  ka_job_close(&j);
  ka_tokenizer_close(t);
}

static void bad_rows_may_be_left_out(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_str rows = {0};
  struct ka_job j;
  for (int i = 0; i < 40; i++)
    T_OK(ka_str_puts(ctx, &rows, i % 2 ? "nonsense\n" : "{\"input_ids\":[1,2,3]}\n"));
  put(dir, "a.jsonl", rows.data);
  for (int run = 0; run < 2; run++) { /* the second from the cache */
    job(&j, dir, "[{path: a.jsonl, type: tokenized, on_bad_row: skip}]",
        "dataset_prepared_path: prepared");
    struct ka_data *d = open_data(&j, NULL);
    assert_int_equal(ka_data_get_stats(d)->n_bad, 20);
    assert_int_equal(ka_data_get_stats(d)->n_rows, 20);
    assert_int_equal(ka_data_get_stats(d)->part[KA_DATA_TRAIN].n_documents, 20);
    ka_data_close(d);
    ka_job_close(&j);
  }
  ka_str_deinit(&rows);
}

/* The same documents from JSON lines and from what other programs made of them. */
static void parquet_gives_the_documents_of_its_rows(void **state) {
  (void)state;
  static const char *const names[] = {"rows.jsonl", "polars.parquet", "duckdb.parquet",
                                      "version_2.parquet", "codec_none.parquet"};
  const char *dir = t_temp_dir(), *first[64];
  struct ka_tokenizer *t = byte_tokenizer(dir);
  int64_t n_first = 0;
  for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
    struct ka_job j;
    const char *path = t_str("%s/tests/data/parquet/%s", getenv("KAPPA_SOURCE_DIR"), names[k]);
    job(&j, dir, t_str("[{path: %s, on_bad_row: skip}]", path), "length_policy: truncate");
    struct ka_data *d = open_data(&j, t);
    int64_t n = ka_data_get_stats(d)->part[KA_DATA_TRAIN].n_documents;
    assert_true(n > 20 && n < 64 && (k == 0 || n == n_first));
    assert_true(ka_data_get_stats(d)->n_bad > 0);
    for (int64_t i = 0; i < n; i++) {
      if (k > 0) assert_string_equal(shown(d, KA_DATA_TRAIN, i), first[i]);
      if (k == 0) first[i] = shown(d, KA_DATA_TRAIN, i);
    }
    n_first = n;
    ka_data_close(d);
    ka_job_close(&j);
  }
  ka_tokenizer_close(t);
}

static void prompts_are_masked(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t = byte_tokenizer(dir);
  struct ka_job j;
  struct ka_data *d;
  put(dir, "a.jsonl",
      "{\"prompt\":\"ab\",\"completion\":\"cd\"}\n"
      "{\"prompt\":\"\",\"completion\":\"cd<eos>\"}\n");
  job(&j, dir, "[{path: a.jsonl, type: prompt_completion}]", "");
  d = open_data(&j, t);
  assert_string_equal(shown(d, KA_DATA_TRAIN, 0), "97 98 99* 100* 256*");
  assert_string_equal(shown(d, KA_DATA_TRAIN, 1), "99 100* 256*");
  ka_data_close(d);
  ka_job_close(&j);
  job(&j, dir, "[{path: a.jsonl, type: prompt_completion, add_eos: false}]",
      "train_on_inputs: true");
  d = open_data(&j, t);
  assert_string_equal(shown(d, KA_DATA_TRAIN, 0), "97 98* 99* 100*");
  ka_data_close(d);
  ka_job_close(&j);
  put(dir, "a.jsonl",
      "{\"prompt\":[{\"role\":\"user\",\"content\":\"q\"},"
      "{\"role\":\"assistant\",\"content\":\"r\"},"
      "{\"role\":\"user\",\"content\":\"s\"}],"
      "\"completion\":[{\"role\":\"assistant\",\"content\":\"t\"}]}\n");
  put(dir, "c.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
  job(&j, dir, "[{path: a.jsonl, type: chat_template, chat_template: c.jinja}]", "");
  d = open_data(&j, t);
  assert_string_equal(shown(d, KA_DATA_TRAIN, 0), "113 114 115 116*");
  ka_data_close(d);
  ka_job_close(&j);
  job(&j, dir, "[{path: a.jsonl, type: prompt_completion}]", "");
  T_FAILS(open_job(&d, &j, t, 258), KA_E_INPUT, "is a list of messages: the type is chat_template");
  ka_job_close(&j);
  ka_tokenizer_close(t);
}

static void completion_ends_with_eos(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t = byte_tokenizer(dir);
  struct ka_job j;
  put(dir, "a.jsonl", "{\"body\":\"ab\"}\n{\"body\":\"\"}\n");
  put(dir, "b.txt", "hi\n");
  job(&j, dir, "[{path: [a.jsonl], field: body}, {path: b.txt, add_eos: false}]", "");
  struct ka_data *d = open_data(&j, t);
  assert_string_equal(shown(d, KA_DATA_TRAIN, 0), "97 98* 256*");
  assert_string_equal(shown(d, KA_DATA_TRAIN, 1), "104 105* 10*");
  assert_int_equal(ka_data_get_stats(d)->n_empty, 1);
  ka_data_close(d);
  ka_job_close(&j);
  ka_tokenizer_close(t);
}

static void alpaca_masks_the_prompt(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t = byte_tokenizer(dir);
  struct ka_job j;
  put(dir, "a.jsonl",
      "{\"instruction\":\"i\",\"input\":\"x\",\"output\":\"ok\"}\n"
      "{\"instruction\":\"i\",\"input\":\"\",\"output\":\"ok\"}\n"
      "{\"instruction\":\"i\",\"output\":\"ok\",\"system\":\"s\"}\n");
  const char *set = "[{path: a.jsonl, type: alpaca, format: '{instruction}|{input}|', "
                    "no_input_format: '{system}{instruction}>', system_prompt: 'S'}]";
  job(&j, dir, set, "");
  struct ka_data *d = open_data(&j, t);
  assert_string_equal(shown(d, KA_DATA_TRAIN, 0), "105 124 120 124 111* 107* 256*");
  assert_string_equal(shown(d, KA_DATA_TRAIN, 1), "83 105 62 111* 107* 256*");
  assert_string_equal(shown(d, KA_DATA_TRAIN, 2), "115 105 62 111* 107* 256*");
  ka_data_close(d);
  ka_job_close(&j);
  job(&j, dir, set, "train_on_inputs: true");
  d = open_data(&j, t);
  assert_string_equal(shown(d, KA_DATA_TRAIN, 1), "83 105* 62* 111* 107* 256*");
  ka_data_close(d);
  ka_job_close(&j);
  /* The usual preamble, as axolotl and Stanford's alpaca have it. */
  const char *text = t_str("base_model: m\nsequence_len: 4096\nval_set_size: 0\nshuffle: false\n"
                           "datasets: [{path: a.jsonl, type: alpaca}]\n");
  T_OK(ka_job_parse(ctx, &j, text, strlen(text), "job.yaml", dir, NULL, 0));
  d = open_data(&j, t);
  int32_t ids[1024];
  int64_t n = ka_data_document(d, KA_DATA_TRAIN, 0, 1024, ids, NULL);
  struct ka_str s = {0};
  T_OK(ka_tokenizer_decode(ctx, t, ids, n, true, &s));
  assert_string_equal(
      s.data, "Below is an instruction that describes a task, paired with an input that provides "
              "further context. Write a response that appropriately completes the request.\n\n"
              "### Instruction:\ni\n\n### Input:\nx\n\n### Response:\nok");
  ka_str_deinit(&s);
  ka_data_close(d);
  ka_job_close(&j);
  ka_tokenizer_close(t);
}

static void segments_are_trained_as_labelled(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t = byte_tokenizer(dir);
  struct ka_job j;
  put(dir, "a.json",
      "[{\"segments\":[{\"label\":false,\"text\":\"a\"},{\"label\":true,\"text\":"
      "\"b<eos>\"},{\"label\":false,\"text\":\"c\"}]}]");
  job(&j, dir, "[{path: a.json, type: input_output}]", "");
  struct ka_data *d = open_data(&j, t);
  assert_string_equal(shown(d, KA_DATA_TRAIN, 0), "97 98* 256* 99");
  ka_data_close(d);
  ka_job_close(&j);
  ka_tokenizer_close(t);
}

static void every_format_gives_the_same_rows(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t = byte_tokenizer(dir);
  static const struct {
    const char *name, *text;
  } files[] = {
      {"a.jsonl", "{\"n\":1,\"text\":\"a,\\\"b\\n\"}\n\n{\"n\":2,\"text\":\"c\"}"},
      {"b.json", "\xef\xbb\xbf [ {\"n\":1,\n\"text\":\"a,\\\"b\\n\"} ,\n {\"text\":\"c\"}\n]\n"},
      {"c.csv", "n,text\r\n1,\"a,\"\"b\n\"\r\n2,c\r\n"},
      {"d.tsv", "n\ttext\n1\t\"a,\"\"b\n\"\n\n2\tc"},
  };
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    struct ka_job j;
    put(dir, files[i].name, files[i].text);
    job(&j, dir, t_str("[{path: %s}]", files[i].name), "");
    struct ka_data *d = open_data(&j, t);
    assert_int_equal(ka_data_get_stats(d)->n_rows, 2);
    assert_string_equal(shown(d, KA_DATA_TRAIN, 0), "97 44* 34* 98* 10* 256*");
    assert_string_equal(shown(d, KA_DATA_TRAIN, 1), "99 256*");
    ka_data_close(d);
    ka_job_close(&j);
  }
  static const struct {
    const char *name, *text, *message;
  } broken[] = {
      {"e.csv", "a,text\n1,2\n1\n", "e.csv:3: CSV: fewer fields"},
      {"f.csv", "a,text\n1,2,3\n", "f.csv:2: CSV: more fields"},
      {"g.csv", "a,text\n1,\"2\n", "g.csv:2: CSV: a quoted field has no closing quote"},
      {"h.csv", "a,b\n1,2\n", "key \"text\" is missing"},
      {"i.json", "[{\"text\":\"a\"}",
       "i.json:1: not valid JSON: the array or this element has no end"},
      {"j.json", "[{\"text\":\"a\"},]", "not valid JSON"},
      {"k.json", "[{\"text\":\"a\"}] x", "k.json:1: not valid JSON: text after the array"},
      {"l.json", "[{\"text\":\"a\"} {\"text\":\"a\"}]", "not valid JSON"},
      {"m.json", "[\n{\"text\":\"a", "m.json:2: not valid JSON"},
      {"n.json", "[,]", "expected an element"},
      {"o.txt", "\xff\xfe", "o.txt: not UTF-8 text: byte 0"},
  };
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
    struct ka_job j;
    struct ka_data *d;
    put(dir, broken[i].name, broken[i].text);
    job(&j, dir, t_str("[{path: %s}]", broken[i].name), "");
    T_FAILS(open_job(&d, &j, t, 258), KA_E_INPUT, broken[i].message);
    ka_job_close(&j);
  }
  ka_tokenizer_close(t);
}

static void directories_and_globs_are_walked(void **state) {
  (void)state;
  const char *dir = t_temp_dir();
  struct ka_tokenizer *t = byte_tokenizer(t_temp_dir());
  T_OK(ka_make_dirs(ctx, t_str("%s/x/sub", dir)));
  put(dir, "x/b.txt", "b");
  put(dir, "x/a.txt", "a");
  put(dir, "x/sub/c.txt", "c");
  put(dir, "x/.hidden", "h");
  put(dir, "x/z.bin", "\xff\xff");
  put(dir, "x/skip.txt", "s");
  struct ka_job j;
  job(&j, dir, "[{path: x, exclude_files: [skip.*]}]", "");
  struct ka_data *d = open_data(&j, t);
  assert_int_equal(ka_data_get_stats(d)->n_files, 4);
  assert_int_equal(ka_data_get_stats(d)->n_not_text, 1);
  assert_string_equal(shown(d, KA_DATA_TRAIN, 0), "97 256*");
  assert_string_equal(shown(d, KA_DATA_TRAIN, 2), "99 256*");
  ka_data_close(d);
  ka_job_close(&j);
  job(&j, dir,
      "[{path: ['x/*.txt', x/a.txt], data_files: [nothing]}, {path: x, data_files: [sub/*]}]", "");
  d = open_data(&j, t);
  assert_int_equal(ka_data_get_stats(d)->n_files, 4); /* a.txt once */
  ka_data_close(d);
  ka_job_close(&j);
  struct ka_data *none;
  put(dir, "x/rows.jsonl", "{\"input_ids\":[1,2]}\n"); /* the texts beside it hold no rows */
  job(&j, dir, "[{path: x, type: tokenized}]", "");
  d = open_data(&j, t);
  assert_int_equal(ka_data_get_stats(d)->part[0].n_documents, 1);
  ka_data_close(d);
  ka_job_close(&j);
  job(&j, dir, "[{path: x/a.txt, type: tokenized}]", "");
  T_FAILS(open_job(&none, &j, t, 258), KA_E_INPUT, "cannot be of type tokenized");
  ka_job_close(&j);
  job(&j, dir, "[{path: 'y*'}]", "");
  T_FAILS(open_job(&none, &j, t, 258), KA_E_INPUT, "no file matches");
  ka_job_close(&j);
  job(&j, dir, "[{path: x, data_files: [q]}]", "");
  T_FAILS(open_job(&none, &j, t, 258), KA_E_INPUT, "match data_files");
  ka_job_close(&j);
  ka_tokenizer_close(t);
}

static void splits_choose_rows(void **state) {
  (void)state;
  static const struct {
    const char *split;
    int first, n;
  } cases[] = {{"train", 0, 300},
               {"train[:10]", 0, 10},
               {"[290:]", 290, 10},
               {"train[90%:]", 270, 30},
               {"train[:10%]", 0, 30},
               {"train[129:131]", 129, 2},
               {"train[100:99999]", 100, 200}};
  const char *dir = t_temp_dir();
  struct ka_str s = {0};
  for (int i = 0; i < 300; i++)
    T_OK(ka_str_printf(ctx, &s, "{\"input_ids\":[%d,%d]}\n", i % 250, i / 250));
  put(dir, "a.jsonl", s.data);
  ka_str_deinit(&s);
  struct ka_job j;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    job(&j, dir, t_str("[{path: a.jsonl, type: tokenized, split: '%s'}]", cases[i].split), "");
    struct ka_data *d = open_data(&j, NULL);
    assert_int_equal(ka_data_get_stats(d)->part[0].n_documents, cases[i].n);
    assert_string_equal(shown(d, KA_DATA_TRAIN, 0),
                        t_str("%d %d*", cases[i].first % 250, cases[i].first / 250));
    ka_data_close(d);
    ka_job_close(&j);
  }
  static const char *const bad[] = {"train[1]", "train[a:]", "train[:101%]", "train[1:2", "[-1:]"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct ka_data *d;
    job(&j, dir, t_str("[{path: a.jsonl, type: tokenized, split: '%s'}]", bad[i]), "");
    T_FAILS(open_job(&d, &j, NULL, 258), KA_E_INPUT, "datasets.0.split: got");
    ka_job_close(&j);
  }
}

static void long_documents_follow_the_policy(void **state) {
  (void)state;
  static const struct {
    const char *policy;
    int64_t documents, dropped, truncated, split, pieces;
  } cases[] = {{"drop", 1, 1, 0, 0, 0},
               {"truncate", 2, 0, 1, 0, 0},
               {"split", 4, 0, 0, 1, 3},
               {"auto", 1, 1, 0, 0, 0}};
  const char *dir = t_temp_dir();
  put(dir, "a.jsonl",
      "{\"input_ids\":[1,2,3]}\n"
      "{\"input_ids\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19]}\n");
  struct ka_job j;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    job(&j, dir, "[{path: a.jsonl, type: tokenized}]", t_str("length_policy: %s", cases[i].policy));
    struct ka_data *d = open_data(&j, NULL);
    const struct ka_data_stats *s = ka_data_get_stats(d);
    assert_int_equal(s->n_too_long, 1);
    assert_int_equal(s->longest_tok, 19);
    assert_int_equal(s->part[0].n_documents, cases[i].documents);
    assert_int_equal(s->n_dropped, cases[i].dropped);
    assert_int_equal(s->n_truncated, cases[i].truncated);
    assert_int_equal(s->n_split, cases[i].split);
    assert_int_equal(s->n_pieces, cases[i].pieces);
    assert_int_equal(s->histogram[1], 1);
    assert_int_equal(s->histogram[4], 1);
    ka_data_close(d);
    ka_job_close(&j);
  }
  struct ka_data *d;
  job(&j, dir, "[{path: a.jsonl, type: tokenized}]", "length_policy: error");
  T_FAILS(open_job(&d, &j, NULL, 258), KA_E_INPUT, "1 documents are longer");
  ka_job_close(&j);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(tokenized_rows_keep_their_labels, fresh),
      cmocka_unit_test_setup(prompts_are_masked, fresh),
      cmocka_unit_test_setup(bad_rows_may_be_left_out, fresh),
      cmocka_unit_test_setup(parquet_gives_the_documents_of_its_rows, fresh),
      cmocka_unit_test_setup(bad_rows_name_file_and_line, fresh),
      cmocka_unit_test_setup(columns_that_are_not_read_may_hold_anything, fresh),
      cmocka_unit_test_setup(odd_columns_are_nobodys_business, fresh),
      cmocka_unit_test_setup(bos_and_eos_are_looked_after, fresh),
      cmocka_unit_test_setup(formats_are_checked, fresh),
      cmocka_unit_test_setup(a_signal_ends_tokenizing, fresh),
      cmocka_unit_test_setup(completion_ends_with_eos, fresh),
      cmocka_unit_test_setup(alpaca_masks_the_prompt, fresh),
      cmocka_unit_test_setup(segments_are_trained_as_labelled, fresh),
      cmocka_unit_test_setup(every_format_gives_the_same_rows, fresh),
      cmocka_unit_test_setup(directories_and_globs_are_walked, fresh),
      cmocka_unit_test_setup(splits_choose_rows, fresh),
      cmocka_unit_test_setup(long_documents_follow_the_policy, fresh),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
