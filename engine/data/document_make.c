/* SPDX-License-Identifier: Apache-2.0
 * One function a type, one row of the table a function. Chat records stand in document_chat.c. */
#include "engine/data/document_make.h"

#include "engine/data/document_chat.h"
#include "engine/data/document_prompt.h"

#include <stdio.h>
#include <string.h>

/* The text of a key; a missing or null one gives NULL, or an error where it is needed. */
static ka_status text_of(struct ka_ctx *ctx, const json_t *record, const char *key, bool needed,
                         const char **text, size_t *n) {
  const json_t *v = json_object_get(record, key);
  *text = NULL;
  *n = 0;
  if (!v || json_is_null(v)) {
    if (needed && !v) return ka_document_no_key(ctx, record, key);
    if (needed) return ka_fail(ctx, KA_E_INPUT, "key \"%s\" is null, expected a string", key);
    return KA_STATUS_OK;
  }
  if (!json_is_string(v)) return ka_fail(ctx, KA_E_INPUT, "key \"%s\": expected a string", key);
  *text = json_string_value(v);
  *n = json_string_length(v);
  return KA_STATUS_OK;
}

static ka_status add_eos(struct ka_ctx *ctx, const struct ka_document_maker *m,
                         struct ka_document *d) {
  bool there = d->n > 0 && d->ids[d->n - 1] == m->eos;
  if (m->eos < 0 && d->n > 0) d->notes |= 1U << KA_NOTE_NO_EOS;
  if (m->eos < 0 || there || d->n == 0) return KA_STATUS_OK;
  return ka_document_add(ctx, d, &m->eos, 1, true);
}

static ka_status completion_text(struct ka_ctx *ctx, const struct ka_document_maker *m,
                                 const char *text, size_t n, struct ka_document *d) {
  if (n == 0) return KA_STATUS_OK;
  KA_TRY(ka_document_text(ctx, d, m->tokenizer, text, n, true, true));
  return m->dataset->add_eos ? add_eos(ctx, m, d) : KA_STATUS_OK;
}

static ka_status completion(struct ka_ctx *ctx, const struct ka_document_maker *m,
                            const json_t *record, struct ka_document *d) {
  const char *text;
  size_t n;
  KA_TRY(text_of(ctx, record, m->dataset->field, true, &text, &n));
  return completion_text(ctx, m, text, n, d);
}

/* --- alpaca: the prompts of Stanford's alpaca, as axolotl writes them -------- */

static const char *const with_input =
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.";
static const char *const without_input =
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.";
static const char *const input_format =
    "{system}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n";
static const char *const no_input_format =
    "{system}\n\n### Instruction:\n{instruction}\n\n### Response:\n";

enum { SYSTEM, INSTRUCTION, INPUT, N_FIELDS };
static const char *const field_names[N_FIELDS] = {"system", "instruction", "input"};

struct alpaca {
  const char *text[N_FIELDS];
  size_t n[N_FIELDS];
};

/* Which field's {placeholder} begins at p, with its length; -1: none. */
static int placeholder(const char *p, size_t *n) {
  for (int i = 0; i < N_FIELDS && *p == '{'; i++) {
    *n = strlen(field_names[i]) + 2;
    if (strncmp(p + 1, field_names[i], *n - 2) == 0 && p[*n - 1] == '}') return i;
  }
  return -1;
}

/* Puts the texts into {system}, {instruction} and {input}. */
static ka_status fill_in(struct ka_ctx *ctx, const char *format, const struct alpaca *a,
                         struct ka_str *out) {
  for (const char *p = format; *p;) {
    size_t n = 1;
    int i = placeholder(p, &n);
    if (i < 0) KA_TRY(ka_str_append(ctx, out, p++, 1));
    if (i < 0) continue;
    if (a->text[i]) KA_TRY(ka_str_append(ctx, out, a->text[i], a->n[i]));
    p += n;
  }
  return KA_STATUS_OK;
}

static ka_status check_format(struct ka_ctx *ctx, const char *format, const char *what,
                              const char *key) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
  bool instruction = false;
  if (!format) return KA_STATUS_OK;
  for (const char *p = format; (p = strchr(p, '{')); p++) {
    size_t n, name = strspn(p + 1, letters);
    int i = placeholder(p, &n);
    instruction |= i == INSTRUCTION;
    if (i < 0 && name > 0 && p[name + 1] == '}')
      return ka_fail(ctx, KA_E_INPUT,
                     "%s.%s: got %.*s, expected {system}, {instruction} or {input}", what, key,
                     (int)name + 2, p);
  }
  if (instruction) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT,
                 "%s.%s: {instruction} is not in it, so every prompt would be the same text", what,
                 key);
}

ka_status ka_document_check(struct ka_ctx *ctx, const struct ka_job_dataset *dataset,
                            const char *what) {
  KA_TRY(check_format(ctx, dataset->format, what, "format"));
  return check_format(ctx, dataset->no_input_format, what, "no_input_format");
}

static ka_status alpaca_prompt(struct ka_ctx *ctx, const struct ka_document_maker *m,
                               const json_t *record, struct ka_str *out) {
  const struct ka_job_dataset *ds = m->dataset;
  struct alpaca a = {0};
  KA_TRY(text_of(ctx, record, ds->field_system, false, &a.text[SYSTEM], &a.n[SYSTEM]));
  KA_TRY(
      text_of(ctx, record, ds->field_instruction, true, &a.text[INSTRUCTION], &a.n[INSTRUCTION]));
  KA_TRY(text_of(ctx, record, ds->field_input, false, &a.text[INPUT], &a.n[INPUT]));
  bool input = a.n[INPUT] > 0;
  if (a.n[SYSTEM] == 0) {
    a.text[SYSTEM] = ds->system_prompt ? ds->system_prompt : input ? with_input : without_input;
    a.n[SYSTEM] = strlen(a.text[SYSTEM]);
  }
  const char *format = input                 ? (ds->format ? ds->format : input_format)
                       : ds->no_input_format ? ds->no_input_format
                       : ds->format          ? ds->format
                                             : no_input_format;
  return fill_in(ctx, format, &a, out);
}

/* Prompt and answer are tokenised apart, so that the border between them is a border of tokens. */
static ka_status alpaca(struct ka_ctx *ctx, const struct ka_document_maker *m, const json_t *record,
                        struct ka_document *d) {
  struct ka_str prompt = {0};
  const char *answer;
  size_t n;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(text_of(ctx, record, m->dataset->field_output, true, &answer, &n), out);
  KA_TRY_GOTO(alpaca_prompt(ctx, m, record, &prompt), out);
  KA_TRY_GOTO(
      ka_document_text(ctx, d, m->tokenizer, prompt.data, prompt.len, true, m->train_on_inputs),
      out);
  if (d->n > 0 && d->ids[d->n - 1] == m->eos) d->n--; /* the text goes on */
  if (n > 0) KA_TRY_GOTO(ka_document_text(ctx, d, m->tokenizer, answer, n, false, true), out);
  KA_TRY_GOTO(add_eos(ctx, m, d), out);
  if (json_array_size(json_object_get(record, "history")) > 0) d->notes |= 1U << KA_NOTE_HISTORY;
out:
  ka_str_deinit(&prompt);
  return st;
}

/* --- input_output: segments, no special tokens added ------------------------- */

static ka_status input_output(struct ka_ctx *ctx, const struct ka_document_maker *m,
                              const json_t *record, struct ka_document *d) {
  const json_t *segments = json_object_get(record, "segments"), *s;
  size_t i;
  if (!segments) return ka_document_no_key(ctx, record, "segments");
  if (!json_is_array(segments))
    return ka_fail(ctx, KA_E_INPUT, "key \"segments\": expected a list of {label, text}");
  json_array_foreach(segments, i, s) {
    const json_t *label = json_object_get(s, "label"), *text = json_object_get(s, "text");
    if (!json_is_boolean(label) || !json_is_string(text))
      return ka_fail(ctx, KA_E_INPUT,
                     "segments[%zu]: expected {\"label\": true or false, \"text\": string}", i);
    KA_TRY(ka_document_text(ctx, d, m->tokenizer, json_string_value(text), json_string_length(text),
                            false, m->train_on_inputs || json_is_true(label)));
  }
  return KA_STATUS_OK;
}

/* --- tokenized --------------------------------------------------------------- */

static ka_status int_list(struct ka_ctx *ctx, const json_t *record, const char *key, bool needed,
                          size_t n, const json_t **out) {
  const json_t *v = json_object_get(record, key);
  *out = NULL;
  if (!needed && (!v || json_is_null(v))) return KA_STATUS_OK;
  if (!v) return ka_document_no_key(ctx, record, key);
  if (!json_is_array(v))
    return ka_fail(ctx, KA_E_INPUT, "key \"%s\": expected a list of integers", key);
  if (!needed && json_array_size(v) != n)
    return ka_fail(ctx, KA_E_INPUT, "key \"%s\": got %zu entries, input_ids has %zu", key,
                   json_array_size(v), n);
  *out = v;
  return KA_STATUS_OK;
}

static ka_status int_at(struct ka_ctx *ctx, const char *key, const json_t *list, size_t i,
                        int64_t least, int64_t most, bool masked_too, int64_t *out) {
  const json_t *v = json_array_get(list, i);
  *out = json_is_integer(v) ? (int64_t)json_integer_value(v) : INT64_MIN;
  if ((*out >= least && *out <= most) || (masked_too && *out == KA_LABEL_MASKED))
    return KA_STATUS_OK;
  if (!json_is_integer(v)) return ka_fail(ctx, KA_E_INPUT, "%s[%zu]: expected an integer", key, i);
  return ka_fail(ctx, KA_E_INPUT, "%s[%zu]: got %lld, expected %lld to %lld%s", key, i,
                 (long long)*out, (long long)least, (long long)most, masked_too ? ", or -100" : "");
}

static ka_status tokenized(struct ka_ctx *ctx, const struct ka_document_maker *m,
                           const json_t *record, struct ka_document *d) {
  const json_t *ids, *labels, *mask;
  KA_TRY(int_list(ctx, record, "input_ids", true, 0, &ids));
  size_t n = json_array_size(ids);
  KA_TRY(int_list(ctx, record, "labels", false, n, &labels));
  KA_TRY(int_list(ctx, record, "attention_mask", false, n, &mask));
  KA_TRY(ka_document_reserve(ctx, d, (int64_t)n));
  for (size_t i = 0; i < n; i++) {
    int64_t id = 0, label = 0, keep = 1;
    KA_TRY(int_at(ctx, "input_ids", ids, i, 0, m->V - 1, false, &id));
    label = id;
    if (labels) KA_TRY(int_at(ctx, "labels", labels, i, 0, m->V - 1, true, &label));
    if (mask) KA_TRY(int_at(ctx, "attention_mask", mask, i, 0, 1, false, &keep));
    if (!keep) continue; /* padding */
    d->ids[d->n] = (int32_t)id;
    d->labels[d->n++] = (int32_t)label;
  }
  return KA_STATUS_OK;
}

/* --- speech ------------------------------------------------------------------ */

/* Beside the data file, unless it is absolute. */
static ka_status sound_path(struct ka_ctx *ctx, const char *data_file, const char *name,
                            struct ka_str *out) {
  size_t n = strlen(data_file) - strlen(ka_path_base(data_file));
  ka_str_clear(out);
  if (*name != '/') KA_TRY(ka_str_append(ctx, out, data_file, n));
  return ka_str_puts(ctx, out, name);
}

static ka_status speech(struct ka_ctx *ctx, const struct ka_document_maker *m, const json_t *record,
                        struct ka_document *d) {
  const struct ka_job_dataset *ds = m->dataset;
  const char *sound, *prompt, *text;
  size_t n_sound, n_prompt, n;
  KA_TRY(text_of(ctx, record, ds->field_audio, true, &sound, &n_sound));
  KA_TRY(text_of(ctx, record, ds->field, true, &text, &n));
  KA_TRY(text_of(ctx, record, "prompt", false, &prompt, &n_prompt));
  if (!prompt && ds->prompt) {
    prompt = ds->prompt;
    n_prompt = strlen(prompt);
  }
  if (n == 0) return KA_STATUS_OK;
  KA_TRY(sound_path(ctx, d->data_file, sound, &d->clip_path));
  ka_tok_tokens_clear(&d->scratch);
  KA_TRY(ka_speech_prompt(ctx, m->speech, m->tokenizer, d->clip_path.data, prompt ? prompt : "",
                          n_prompt, &d->scratch, &d->clip));
  if (d->clip.rate != KA_AUDIO_RATE) d->notes |= 1U << KA_NOTE_RESAMPLED;
  if (d->clip.n_channels > 1) d->notes |= 1U << KA_NOTE_MIXED;
  KA_TRY(ka_document_add(ctx, d, d->scratch.ids, d->scratch.n, false));
  KA_TRY(ka_document_text(ctx, d, m->tokenizer, text, n, false, true));
  return ds->add_eos ? add_eos(ctx, m, d) : KA_STATUS_OK;
}

static ka_status (*const makers[])(struct ka_ctx *, const struct ka_document_maker *,
                                   const json_t *, struct ka_document *) = {
    [KA_DOCUMENT_COMPLETION] = completion,
    [KA_DOCUMENT_ALPACA] = alpaca,
    [KA_DOCUMENT_INPUT_OUTPUT] = input_output,
    [KA_DOCUMENT_CHAT_TEMPLATE] = ka_document_chat,
    [KA_DOCUMENT_PROMPT_COMPLETION] = ka_document_prompt,
    [KA_DOCUMENT_TOKENIZED] = tokenized,
    [KA_DOCUMENT_SPEECH] = speech,
};

static ka_status from_text(struct ka_ctx *ctx, const struct ka_document_maker *m,
                           const struct ka_data_record *record, struct ka_document *d) {
  bool rows_wanted = m->dataset->type != KA_DOCUMENT_COMPLETION;
  if (rows_wanted && !ka_data_record_named(record))
    return KA_STATUS_OK; /* a README beside the data */
  if (rows_wanted)
    return ka_fail(ctx, KA_E_INPUT,
                   "a plain text file cannot be of type %s; set ds_type if it is "
                   "JSON lines or CSV",
                   ka_job_words_type[m->dataset->type]);
  size_t good = ka_utf8_check(record->bytes, record->n);
  if (good == record->n) return completion_text(ctx, m, record->bytes, record->n, d);
  if (!ka_data_record_named(record)) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "not UTF-8 text: byte %zu", good);
}

static ka_status check_ids(struct ka_ctx *ctx, const struct ka_document_maker *m,
                           const struct ka_document *d) {
  for (int64_t i = 0; i < d->n; i++)
    if (d->ids[i] < 0 || d->ids[i] >= m->V)
      return ka_fail(ctx, KA_E_INPUT,
                     "the tokenizer gives id %d, the model knows 0 to %lld; do they belong "
                     "together?",
                     d->ids[i], (long long)m->V - 1);
  return KA_STATUS_OK;
}

/* A member that could not be held and is wanted nevertheless: says why. */
static ka_status fail_damaged(struct ka_ctx *ctx, ka_status st, const char *why) {
  char message[KA_ERROR_MAX / 2];
  if (!why || st.code != KA_E_INPUT) return st;
  snprintf(message, sizeof message, "%.1000s", ctx->error.message);
  ka_error_clear(ctx);
  return ka_fail(ctx, KA_E_INPUT, "%s; in this row %s", message, why);
}

/* Where a system message would be left out without a word. */
static ka_status check_system(struct ka_ctx *ctx, const struct ka_document_maker *m,
                              const json_t *record) {
  const char *key = m->dataset->field_system;
  return json_is_false(json_object_get(record, key))
             ? ka_fail(ctx, KA_E_INPUT, "key \"%s\": expected a string", key)
             : KA_STATUS_OK;
}

ka_status ka_document_make(struct ka_ctx *ctx, const struct ka_document_maker *m,
                           const struct ka_data_record *record, struct ka_document *d) {
  ka_document_clear(d);
  if (ka_data_record_is_text(record)) {
    KA_TRY(from_text(ctx, m, record, d));
    return check_ids(ctx, m, d);
  }
  json_t *obj = NULL;
  d->data_file = ka_data_record_path(record);
  const char *why;
  ka_status st = ka_data_record_parse(ctx, record, &obj, &why);
  if (ka_ok(st) && m->chat && why) st = check_system(ctx, m, obj);
  if (ka_ok(st) && m->chat) st = ka_document_join_messages(ctx, m, obj);
  if (ka_ok(st)) st = makers[m->dataset->type](ctx, m, obj, d);
  json_decref(obj);
  return ka_ok(st) ? check_ids(ctx, m, d) : fail_damaged(ctx, st, why);
}
