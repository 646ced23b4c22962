/* SPDX-License-Identifier: Apache-2.0
 * See init_job.h. */
#include "engine/cli/init_job.h"

#include "base/log.h"
#include "engine/data/chat.h"
#include "engine/data/records.h"
#include "engine/formats/config.h"
#include "engine/formats/hub.h"
#include "tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MOST_TOKENS = 4096, FEWEST_TOKENS = 256, STEPS_WANTED = 30, MOST_ACCUMULATED = 8 };

struct survey {
  struct ka_arena arena;
  struct ka_tokenizer *tokenizer;
  struct ka_chat *chat;
  const char *model_dir; /* what the words stand for */
  int64_t positions;
  /* the entry of datasets */
  const char *type;
  struct ka_str keys; /* ", field: story" */
  const char *why;
  /* of the rows that were looked at */
  int64_t n_rows, n_tokens, longest;
  double n_bytes, all_bytes;
};

/* --- what a row is ---------------------------------------------------------------------------- */

static const char *const chats[] = {"messages", "conversations", "conversation", "dialog", "chat"};
static const char *const questions[] = {"instruction", "question", "query", "prompt", "input"};
static const char *const answers[] = {"output", "response", "answer", "completion", "target"};
static const char *const texts[] = {"text", "content", "document", "body", "story"};
enum { N_NAMES = 5 };

static const char *first_of(const json_t *row, const char *const names[N_NAMES]) {
  for (int i = 0; i < N_NAMES; i++)
    if (json_is_string(json_object_get(row, names[i]))) return names[i];
  return NULL;
}

static const char *word_of(const json_t *message, const char *a, const char *b) {
  return json_is_string(json_object_get(message, a)) ? a : json_object_get(message, b) ? b : NULL;
}

/* A list of messages under one of the usual names; in a CSV it is a JSON text. */
static ka_status as_chat(struct ka_ctx *ctx, struct survey *s, const json_t *row) {
  for (int i = 0; i < N_NAMES && !s->type; i++) {
    const json_t *v = json_object_get(row, chats[i]), *first = json_array_get(v, 0);
    bool text = json_is_string(v) && json_string_value(v)[0] == '[';
    if (!text && !json_is_object(first)) continue;
    const char *role = text ? "role" : word_of(first, "role", "from");
    const char *content = text ? "content" : word_of(first, "content", "value");
    if (!role || !content) continue;
    s->type = "chat_template";
    s->why = "each row is a conversation";
    if (i > 0) KA_TRY(ka_str_printf(ctx, &s->keys, ", field_messages: %s", chats[i]));
    if (strcmp(role, "role") != 0 || strcmp(content, "content") != 0)
      KA_TRY(ka_str_printf(ctx, &s->keys, ", message_property_mappings: {role: %s, content: %s}",
                           role, content));
    if (!ka_chat_has_template(s->chat))
      KA_TRY(ka_str_puts(ctx, &s->keys, ", chat_template: chatml"));
  }
  return KA_STATUS_OK;
}

static ka_status as_pair(struct ka_ctx *ctx, struct survey *s, const json_t *row) {
  const char *question = first_of(row, questions), *answer = first_of(row, answers);
  bool plain = question && answer && strcmp(question, "prompt") == 0;
  if (!question || !answer) return KA_STATUS_OK;
  if (plain && strcmp(answer, "completion") == 0) {
    s->type = "prompt_completion";
    s->why = "each row is a prompt and its completion, which alone is trained";
    return KA_STATUS_OK;
  }
  s->type = "alpaca";
  s->why = "each row is a question and its answer, which alone is trained";
  if (strcmp(question, "instruction") != 0)
    KA_TRY(ka_str_printf(ctx, &s->keys, ", field_instruction: %s", question));
  if (strcmp(question, "input") == 0) KA_TRY(ka_str_puts(ctx, &s->keys, ", field_input: none"));
  if (strcmp(answer, "output") != 0)
    KA_TRY(ka_str_printf(ctx, &s->keys, ", field_output: %s", answer));
  return KA_STATUS_OK;
}

static ka_status as_text(struct ka_ctx *ctx, struct survey *s, const json_t *row) {
  const char *name = first_of(row, texts), *key;
  json_t *v;
  int64_t n = 0;
  if (!name) json_object_foreach((json_t *)(uintptr_t)row, key, v) {
      n += json_is_string(v);
      if (json_is_string(v)) name = key;
    }
  if (!name || n > 1) return KA_STATUS_OK;
  s->type = "completion";
  s->why = "each row is a text, trained whole";
  return strcmp(name, "text") == 0 ? KA_STATUS_OK
                                   : ka_str_printf(ctx, &s->keys, ", field: %s", name);
}

static ka_status refuse(struct ka_ctx *ctx, const json_t *row, const char *data) {
  char names[400] = "";
  const char *key;
  json_t *v;
  json_object_foreach((json_t *)(uintptr_t)row, key, v) {
    size_t n = strlen(names);
    snprintf(names + n, sizeof names - n, "%s\"%.40s\"", n ? ", " : "", key);
  }
  return ka_fail(ctx, KA_E_INPUT,
                 "%s: rows with the keys %s: expected messages, a question and an answer, or a "
                 "text; name the keys yourself (docs/data.md)",
                 data, *names ? names : "(none)");
}

static ka_status recognise(struct ka_ctx *ctx, struct survey *s, const json_t *row,
                           const char *data) {
  if (json_object_get(row, "chosen") && json_object_get(row, "rejected"))
    return ka_fail(ctx, KA_E_UNSUPPORTED,
                   "%s: preferences (chosen, rejected): kappa trains answers, not choices between "
                   "two; keep the chosen ones",
                   data);
  if (json_is_array(json_object_get(row, "input_ids"))) {
    s->type = "tokenized";
    s->why = "each row is ids";
  } else if (json_is_array(json_object_get(row, "segments"))) {
    s->type = "input_output";
    s->why = "each row is segments, of which the labelled ones are trained";
  }
  if (!s->type) KA_TRY(as_chat(ctx, s, row));
  if (!s->type) KA_TRY(as_pair(ctx, s, row));
  if (!s->type) KA_TRY(as_text(ctx, s, row));
  return s->type ? KA_STATUS_OK : refuse(ctx, row, data);
}

/* --- how long rows are ------------------------------------------------------------------------ */

static ka_status gather(struct ka_ctx *ctx, const json_t *v, struct ka_str *out, int64_t *n_ids) {
  const char *key;
  json_t *one;
  size_t i;
  *n_ids += json_is_integer(v);
  if (json_is_string(v))
    return ka_str_append(ctx, out, json_string_value(v), json_string_length(v));
  json_array_foreach(v, i, one) KA_TRY(gather(ctx, one, out, n_ids));
  json_object_foreach((json_t *)(uintptr_t)v, key, one) KA_TRY(gather(ctx, one, out, n_ids));
  return KA_STATUS_OK;
}

static ka_status count(struct ka_ctx *ctx, struct survey *s, const char *text, size_t n,
                       int64_t n_ids) {
  struct ka_tok_tokens ids = {0};
  ka_status st = KA_STATUS_OK;
  if (s->tokenizer) st = ka_tokenizer_encode(ctx, s->tokenizer, text, n, false, &ids);
  int64_t n_tokens = strcmp(s->type, "tokenized") == 0 ? n_ids : ids.n;
  ka_tok_tokens_deinit(&ids);
  s->n_rows++;
  s->n_tokens += n_tokens;
  s->longest = n_tokens > s->longest ? n_tokens : s->longest;
  return st;
}

static ka_status look_at(struct ka_ctx *ctx, struct survey *s, const struct ka_data_record *record,
                         const char *data) {
  json_t *row = NULL;
  struct ka_str text = {0};
  int64_t n_ids = 0;
  s->n_bytes += (double)record->n;
  if (ka_data_record_is_text(record)) {
    s->type = "completion";
    s->why = "a text, trained whole";
    return count(ctx, s, record->bytes, record->n < 1 << 20 ? record->n : 0, 0);
  }
  const char *why; /* a column that is not read is no matter here */
  ka_status st = ka_data_record_parse(ctx, record, &row, &why);
  if (ka_ok(st) && !s->type) st = recognise(ctx, s, row, data);
  if (ka_ok(st)) st = gather(ctx, row, &text, &n_ids);
  if (ka_ok(st)) st = count(ctx, s, text.data ? text.data : "", text.len, n_ids);
  json_decref(row);
  ka_str_deinit(&text);
  return st;
}

static ka_status look_at_data(struct ka_ctx *ctx, struct survey *s, const char *data) {
  const char *paths[] = {data};
  struct ka_key_texts list = {.items = paths, .n = 1};
  struct ka_data_choice choice = {.ds_type = "auto", .split = "train"};
  struct ka_data_files files;
  struct ka_data_records records;
  struct ka_data_record batch[KA_RECORDS_BATCH];
  struct stat file;
  int n = 0;
  KA_TRY(ka_data_files(&s->arena, &list, &choice, &files));
  for (int64_t i = 0; i < files.n; i++)
    if (stat(files.items[i].path, &file) == 0) s->all_bytes += (double)file.st_size;
  KA_TRY(ka_data_records_init(&records, ctx, &files, "auto", "train", "split"));
  ka_status st = ka_data_records_next(&records, batch, &n);
  for (int i = 0; i < n && ka_ok(st); i++) st = look_at(ctx, s, &batch[i], data);
  ka_data_records_deinit(&records);
  if (ka_ok(st) && n == 0) st = ka_fail(ctx, KA_E_INPUT, "%s: no rows", data);
  return st;
}

/* --- the job ---------------------------------------------------------------------------------- */

/* As a job in job_dir names it; quoted where YAML needs it. */
static ka_status put_path(struct ka_ctx *ctx, struct ka_str *out, const char *job_dir,
                          const char *path) {
  static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-";
  bool here = strcmp(job_dir, ".") == 0 || path[0] == '/' || !ka_path_exists(path);
  char *whole = here ? NULL : realpath(path, NULL);
  const char *text = whole ? whole : path;
  bool quote = text[strspn(text, plain)] != 0 || text[0] == '-';
  ka_status st = quote ? ka_json_quote(ctx, out, text, strlen(text)) : ka_str_puts(ctx, out, text);
  free(whole);
  return st;
}

static int64_t sequence_len(const struct survey *s) {
  int64_t n = FEWEST_TOKENS, most = s->positions < MOST_TOKENS ? s->positions : MOST_TOKENS;
  bool texts_go_on = strcmp(s->type, "completion") == 0; /* longer ones are split */
  while (n < (texts_go_on ? 2048 : s->longest + s->longest / 4)) n *= 2;
  return n < most ? n : most;
}

/* Micro-batches a step: an epoch should have some thirty steps, as long as there are rows for
 * it. */
static int64_t accumulated(const struct survey *s, int64_t micro, int64_t len) {
  double share = s->n_bytes > 0 ? s->all_bytes / s->n_bytes : 1;
  double rows = (double)s->n_tokens * (share > 1 ? share : 1) / (double)len;
  int64_t n = 1;
  while (n < MOST_ACCUMULATED && (double)(2 * n * micro * STEPS_WANTED) <= rows) n *= 2;
  return n;
}

static ka_status write_job(struct ka_ctx *ctx, struct survey *s, const char *model,
                           const char *data, const char *job_dir, struct ka_str *out) {
  int64_t len = sequence_len(s), micro = len > 2048 ? 1 : 2, n = accumulated(s, micro, len);
  KA_TRY(
      ka_str_puts(ctx, out,
                  "# Written by kappa init --job. All keys: docs/jobs.md\n"
                  "#   kappa plan JOB.yaml    what it will do: the rows with their mask, memory, "
                  "time\n"
                  "#   kappa train JOB.yaml\n"
                  "base_model: "));
  KA_TRY(put_path(ctx, out, job_dir, model));
  KA_TRY(ka_str_printf(ctx, out, "\ndatasets:             # %s\n  - {path: ", s->why));
  KA_TRY(put_path(ctx, out, job_dir, data));
  KA_TRY(ka_str_printf(ctx, out, ", type: %s%s}\n", s->type, s->keys.data ? s->keys.data : ""));
  KA_TRY(ka_str_printf(ctx, out,
                       "val_set_size: %-7s # documents set aside to measure what it learns\n",
                       s->n_rows < KA_RECORDS_BATCH ? "0.1" : "0.02"));
  KA_TRY(ka_str_puts(
      ctx, out,
      "# held_out: [{name: old skill, path: wiki.txt}]   # a text of what it must not forget: "
      "measured before and after\n\n"
      "# learns most and forgets least: all weights, and some text that the base writes itself; "
      "without this line and\n# with the next one a part is trained, in less memory\n"
      "recipe: keep\n"
      "# selection: {metric: kappa, order: lowest, fraction: 0.05}\n\n"));
  KA_TRY(ka_str_printf(ctx, out,
                       "sequence_len: %-7lld # the longest of the first %lld rows has about %lld "
                       "tokens; the model has %lld positions\n",
                       (long long)len, (long long)s->n_rows, (long long)s->longest,
                       (long long)s->positions));
  KA_TRY(ka_str_printf(ctx, out,
                       "micro_batch_size: %lld   # rows at once; more is quicker, and takes more "
                       "memory\ngradient_accumulation_steps: %lld   # times that many rows a step\n"
                       "num_epochs: %d\nlearning_rate: 2e-5   # try 1e-5 to 1e-4\nwarmup_ratio: "
                       "0.03\n\noutput_dir: out\n",
                       (long long)micro, (long long)n, strcmp(s->type, "completion") == 0 ? 1 : 3));
  return KA_STATUS_OK;
}

static ka_status look_at_model(struct ka_ctx *ctx, struct survey *s, const char *model) {
  struct ka_hf_config config;
  s->model_dir = model;
  KA_TRY(ka_hub_model(&s->arena, &s->model_dir));
  KA_TRY(ka_hub_snapshot(&s->arena, s->model_dir, &s->model_dir));
  ka_status st = ka_hf_config_open(ctx, &config, s->model_dir);
  s->positions = ka_ok(st) ? config.max_position_embeddings : 0;
  ka_hf_config_close(&config);
  KA_TRY(st);
  if (ka_tokenizer_is_in(s->model_dir)) KA_TRY(ka_tokenizer_open(ctx, &s->tokenizer, s->model_dir));
  return ka_chat_load_model(ctx, &s->chat, s->model_dir);
}

ka_status ka_cli_init_job(struct ka_ctx *ctx, const char *model, const char *data,
                          const char *job_dir, struct ka_str *out) {
  struct survey s = {0};
  const char *found = NULL;
  ka_arena_init(&s.arena, ctx, "survey");
  ka_status st = look_at_model(ctx, &s, model);
  if (ka_ok(st) && !ka_path_exists(data)) st = ka_hub_find(&s.arena, KA_HUB_DATASET, data, &found);
  if (ka_ok(st)) st = look_at_data(ctx, &s, found ? found : data);
  if (ka_ok(st)) st = write_job(ctx, &s, model, data, job_dir, out);
  ka_tokenizer_close(s.tokenizer);
  ka_chat_destroy(s.chat);
  ka_str_deinit(&s.keys);
  ka_arena_deinit(&s.arena);
  return st;
}
