/* SPDX-License-Identifier: Apache-2.0
 * Files below an output directory, named and laid out as the harness does: results_DATE.json and a
 * line for every document and filter in samples_TASK_DATE.jsonl. The hashes are the harness's:
 * equal ones say that documents, prompts and targets are equal. */
#include "base/sha256.h"
#include "engine/eval/judge.h"
#include "engine/job/yaml_json.h"

#include <string.h>
#include <time.h>

struct writer {
  struct ka_ctx *ctx;
  const struct ka_task *task;
  struct ka_eval_judge judge;
  struct ka_publish file;
  struct ka_sha256 all; /* of the task's hashes */
  struct ka_str scratch;
};

static json_t *text(const char *p, size_t n) { return json_stringn(p ? p : "", n); }

static ka_status add_hash(struct writer *w, json_t *line, const char *key, const char *p,
                          size_t n) {
  struct ka_sha256 s;
  char hex[65];
  ka_sha256_init(&s);
  ka_sha256_add(&s, p, n);
  ka_sha256_hex(&s, hex);
  ka_sha256_add(&w->all, hex, 64);
  return ka_json_set(w->ctx, line, key, json_string(hex));
}

/* function(v) as a string. */
static ka_status call(struct writer *w, enum ka_py_function f, const json_t *v) {
  ka_str_clear(&w->scratch);
  return ka_py_call(w->ctx, w->task->py, f, v, &w->scratch);
}

static ka_status number_text(struct writer *w, double v, json_t **out) {
  json_t *number = json_real(v);
  ka_status st =
      number ? call(w, KA_PY_STR, number) : ka_fail(w->ctx, KA_E_MEMORY, "samples: out of memory");
  json_decref(number);
  *out = ka_ok(st) ? text(w->scratch.data, w->scratch.len) : NULL;
  return st;
}

/* What a request came to: a text, a log-likelihood, or that and whether it was greedy. */
static ka_status response(struct writer *w, const struct ka_eval_answer *a, int64_t k,
                          json_t **out) {
  struct ka_ctx *ctx = w->ctx;
  if (w->task->output == KA_OUT_GENERATE) {
    const struct ka_str *s = &a->texts[k < a->n_texts ? k : 0];
    *out = text(s->data, s->len);
    return KA_STATUS_OK;
  }
  KA_TRY(number_text(w, a->ll, out));
  if (w->task->output != KA_OUT_ROLLING)
    *out = json_pack("[o, s]", *out, a->greedy ? "True" : "False");
  return KA_STATUS_OK;
}

static ka_status add_responses(struct writer *w, const struct ka_eval_item *item, json_t *line) {
  struct ka_ctx *ctx = w->ctx;
  json_t *all = json_array(), *kept = json_array(), *one;
  KA_TRY(ka_json_set(w->ctx, line, "resps", all));
  KA_TRY(ka_json_set(w->ctx, line, "filtered_resps", kept));
  for (int64_t i = 0; i < item->n_requests; i++) {
    const struct ka_eval_answer *a = &w->judge.answers[item->first + i];
    json_t *repeats = json_array();
    json_array_append_new(all, repeats);
    for (int64_t k = 0; k < w->task->config.repeats; k++) {
      KA_TRY(response(w, a, k, &one));
      json_array_append_new(repeats, one);
    }
    if (w->task->output == KA_OUT_GENERATE) continue;
    KA_TRY(response(w, a, 0, &one));
    json_array_append_new(kept, one);
  }
  if (w->task->output != KA_OUT_GENERATE) return KA_STATUS_OK;
  json_t *list = w->judge.filtered.one ? kept : json_array();
  if (list != kept) json_array_append_new(kept, list);
  for (int64_t i = 0; i < w->judge.filtered.n; i++) {
    const struct ka_str *s = &w->judge.filtered.texts[i];
    json_array_append_new(list, text(s->data, s->len));
  }
  return KA_STATUS_OK;
}

static ka_status generation_args(struct writer *w, json_t **out) {
  struct ka_ctx *ctx = w->ctx;
  const struct ka_yaml *keys = ka_yaml_get(w->task->config.keys, "generation_kwargs");
  const struct ka_key_texts *until = &w->task->config.generation_kwargs.until;
  json_t *list = json_array();
  *out = NULL;
  if (keys && keys->kind == KA_YAML_MAP)
    KA_TRY(ka_yaml_json(ctx, keys, out));
  else
    *out = json_pack("{s:f, s:b, s:I}", "temperature", 0.0, "do_sample", 0, "max_gen_toks",
                     (json_int_t)w->task->max_gen_toks);
  for (int64_t i = 0; i < until->n; i++) json_array_append_new(list, json_string(until->items[i]));
  return ka_json_set(w->ctx, *out, "until", list);
}

static ka_status add_arguments(struct writer *w, const struct ka_eval_item *item, json_t *line) {
  struct ka_ctx *ctx = w->ctx;
  json_t *args = json_object(), *second;
  KA_TRY(ka_json_set(w->ctx, line, "arguments", args));
  for (int64_t i = 0; i < item->n_requests; i++) {
    const struct ka_eval_request *r = &w->task->requests[item->first + i];
    char key[32];
    snprintf(key, sizeof key, "gen_args_%lld", (long long)i);
    json_t *one = json_object();
    KA_TRY(ka_json_set(w->ctx, args, key, one));
    if (w->task->output == KA_OUT_ROLLING) {
      KA_TRY(ka_json_set(w->ctx, one, "arg_0", text(r->continuation.p, r->continuation.n)));
      continue;
    }
    KA_TRY(ka_json_set(w->ctx, one, "arg_0", text(r->context.p, r->context.n)));
    if (w->task->output == KA_OUT_GENERATE)
      KA_TRY(generation_args(w, &second));
    else
      second = text(r->continuation.p, r->continuation.n);
    KA_TRY(ka_json_set(w->ctx, one, "arg_1", second));
  }
  return KA_STATUS_OK;
}

static ka_status add_metrics(struct writer *w, json_t *line) {
  struct ka_ctx *ctx = w->ctx;
  const struct ka_task *t = w->task;
  json_t *names = json_array();
  KA_TRY(ka_json_set(w->ctx, line, "metrics", names));
  for (int64_t m = 0; m < t->n_metrics; m++)
    json_array_append_new(names, json_string(t->metrics[m].metric->name));
  for (int64_t m = 0; m < t->n_metrics; m++) {
    const struct ka_eval_metric_item *item = &w->judge.items[m];
    json_t *v = json_real(item->a), *list;
    switch (t->metrics[m].metric->items) {
    case KA_ITEMS_VALUE:
      break;
    case KA_ITEMS_WEIGHTED:
      v = json_pack("[o, I]", v, (json_int_t)item->b);
      break;
    case KA_ITEMS_PAIR:
      json_decref(v);
      v = json_pack("[I, I]", (json_int_t)item->a, (json_int_t)item->b);
      break;
    case KA_ITEMS_PROBABILITIES:
      json_decref(v);
      list = json_array();
      for (int64_t k = 0; k < item->n; k++) json_array_append_new(list, json_real(item->p[k]));
      v = json_pack("[I, o]", (json_int_t)item->a, list);
      break;
    }
    KA_TRY(ka_json_set(w->ctx, line, t->metrics[m].metric->name, v ? v : json_null()));
  }
  return KA_STATUS_OK;
}

static ka_status add_hashes(struct writer *w, const struct ka_eval_item *item, json_t *line) {
  struct ka_ctx *ctx = w->ctx;
  const struct ka_eval_request *r = &w->task->requests[item->first];
  bool rolling = w->task->output == KA_OUT_ROLLING;
  const struct ka_eval_text *prompt = rolling ? &r->continuation : &r->context;
  KA_TRY(call(w, KA_PY_DUMPS, item->doc));
  KA_TRY(add_hash(w, line, "doc_hash", w->scratch.data, w->scratch.len));
  KA_TRY(add_hash(w, line, "prompt_hash", prompt->p, prompt->n));
  KA_TRY(call(w, KA_PY_STR, item->target));
  return add_hash(w, line, "target_hash", w->scratch.data, w->scratch.len);
}

static ka_status fill_line(struct writer *w, int64_t i, int64_t filter, json_t *line) {
  struct ka_ctx *ctx = w->ctx;
  const struct ka_eval_item *item = &w->task->items[i];
  KA_TRY(ka_eval_judge_document(&w->judge, i, filter));
  KA_TRY(ka_json_set(w->ctx, line, "doc_id", json_integer((json_int_t)i)));
  KA_TRY(ka_json_set(w->ctx, line, "doc", json_incref(item->doc)));
  KA_TRY(call(w, KA_PY_STR, item->target));
  KA_TRY(ka_json_set(w->ctx, line, "target", text(w->scratch.data, w->scratch.len)));
  KA_TRY(add_arguments(w, item, line));
  KA_TRY(add_responses(w, item, line));
  KA_TRY(ka_json_set(w->ctx, line, "filter", json_string(w->task->filters[filter].name)));
  KA_TRY(add_hashes(w, item, line));
  return add_metrics(w, line);
}

static ka_status write_line(struct writer *w, int64_t i, int64_t filter) {
  struct ka_ctx *ctx = w->ctx;
  struct ka_str out = {0};
  json_t *line = json_object();
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(fill_line(w, i, filter, line), out);
  KA_TRY_GOTO(ka_json_dump_line(ctx, line, &out), out);
  if (out.len == 0 || out.data[out.len - 1] != '\n') KA_TRY_GOTO(ka_str_puts(ctx, &out, "\n"), out);
  KA_TRY_GOTO(ka_publish_write(ctx, &w->file, out.data, out.len), out);
out:
  json_decref(line);
  ka_str_deinit(&out);
  return st;
}

static ka_status write_samples(struct ka_ctx *ctx, const struct ka_task *task,
                               const struct ka_eval_answer *answers, const char *path,
                               char hash[65]) {
  struct writer w = {.ctx = ctx, .task = task};
  ka_status st = KA_STATUS_OK;
  ka_sha256_init(&w.all);
  KA_TRY_GOTO(ka_eval_judge_open(ctx, &w.judge, task, answers), out);
  KA_TRY_GOTO(ka_publish_begin(ctx, &w.file, path), out);
  for (int64_t f = 0; f < task->n_filters; f++)
    for (int64_t i = 0; i < task->n_items; i++) KA_TRY_GOTO(write_line(&w, i, f), out);
  KA_TRY_GOTO(ka_publish_commit(ctx, &w.file), out);
  ka_sha256_hex(&w.all, hash);
out:
  ka_publish_abort(&w.file);
  ka_eval_judge_close(&w.judge);
  ka_str_deinit(&w.scratch);
  return st;
}

/* --- names ------------------------------------------------------------------- */

/* The model's name as the harness makes a directory of it: runs of "<>:/|\?*[] become __. */
static ka_status directory_name(struct ka_arena *a, const char *model, const char **out) {
  struct ka_ctx *ctx = a->ctx;
  struct ka_str s = {0};
  ka_status st = KA_STATUS_OK;
  for (const char *p = model; *p && ka_ok(st);) {
    size_t n = strspn(p, "\"<>:/|\\?*[]");
    st = n > 0 ? ka_str_puts(ctx, &s, "__") : ka_str_append(ctx, &s, p, 1);
    p += n > 0 ? n : 1;
  }
  if (ka_ok(st)) st = ka_arena_str(a, out, s.data ? s.data : "", s.len);
  ka_str_deinit(&s);
  return st;
}

/* 2026-08-21T10-20-30.123456 */
static void date_text(char out[40]) {
  struct timespec now;
  struct tm tm;
  clock_gettime(CLOCK_REALTIME, &now);
  localtime_r(&now.tv_sec, &tm);
  size_t n = strftime(out, 40, "%Y-%m-%dT%H-%M-%S", &tm);
  snprintf(out + n, 40 - n, ".%06ld", now.tv_nsec / 1000);
}

static ka_status write_all(struct ka_arena *a, const struct ka_tasks *t, const struct ka_results *r,
                           const struct ka_run_info *info, json_t *root, const char *dir,
                           bool log_samples) {
  struct ka_ctx *ctx = a->ctx;
  const char *name, *home, *path;
  char date[40], hash[65];
  date_text(date);
  KA_TRY(directory_name(a, info->model, &name));
  KA_TRY(ka_path_join(a, &home, dir, name));
  KA_TRY(ka_make_dirs(ctx, home));
  json_object_set_new(root, "model_name_sanitized", json_string(name));
  for (int64_t i = 0; i < t->n_tasks && log_samples; i++) {
    KA_TRY(ka_arena_printf(a, &path, "%s/samples_%s_%s.jsonl", home, t->tasks[i]->name, date));
    KA_TRY(write_samples(ctx, t->tasks[i], r->answers[i], path, hash));
    json_object_set_new(json_object_get(root, "task_hashes"), t->tasks[i]->name, json_string(hash));
  }
  KA_TRY(ka_arena_printf(a, &path, "%s/results_%s.json", home, date));
  return ka_json_write(ctx, root, path);
}

ka_status ka_results_write(struct ka_ctx *ctx, const struct ka_tasks *t, const struct ka_results *r,
                           const struct ka_run_info *info, json_t *root, const char *dir,
                           bool log_samples) {
  struct ka_arena a;
  ka_arena_init(&a, ctx, "results");
  ka_status st = write_all(&a, t, r, info, root, dir, log_samples);
  ka_arena_deinit(&a);
  return st;
}
