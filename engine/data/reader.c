/* SPDX-License-Identifier: Apache-2.0
 * Rows are found in order by one thread and made into documents by all, a batch at a time. What is
 * wrong with a row is reported with its file and line; reading stops after ten bad ones. */
#include "engine/data/reader.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BAD = 10 };

struct slot { /* a row on its way */
  struct ka_document doc;
  struct ka_ctx ctx;
  ka_status st;
};

struct reader {
  struct ka_ctx *ctx;
  const struct ka_read_options *o;
  const char *key;
  struct ka_document_maker maker;
  struct ka_chat *chat;
  struct ka_arena arena;
  struct ka_rows rows;
  struct slot *slots;
  struct ka_store *store;
  struct ka_data_stats *stats;
  int64_t first, end; /* rows of the split */
  int64_t row;        /* next one */
  int n_bad;
  struct ka_str bad;
};

/* --- split: "train", "train[:1000]", "[90%:]" -------------------------------- */

static bool parse_bound(const char *s, size_t n, int64_t n_rows, int64_t dflt, int64_t *out) {
  char text[32];
  double v;
  *out = dflt;
  if (n == 0) return true;
  if (n >= sizeof text) return false;
  memcpy(text, s, n);
  text[n] = 0;
  bool percent = text[n - 1] == '%';
  if (percent) text[n - 1] = 0;
  if (!ka_parse_f64(text, &v) || !(v >= 0) || v > (percent ? 100 : 9e15)) return false;
  if (!percent && v != floor(v)) return false;
  *out = percent ? (int64_t)floor((double)n_rows * v / 100 + 0.5) : (int64_t)v;
  return true;
}

static ka_status count_rows(struct reader *r, const struct ka_data_files *files, int64_t *n_rows) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_row rows[KA_ROWS_BATCH];
  struct ka_rows all;
  int n = 0;
  ka_status st = KA_STATUS_OK;
  ka_rows_init(&all, ctx, files, r->maker.dataset->ds_type);
  *n_rows = 0;
  do {
    st = ka_rows_next(&all, rows, &n);
    *n_rows += n;
  } while (ka_ok(st) && n > 0);
  ka_rows_deinit(&all);
  return st;
}

static ka_status parse_split(struct reader *r, const struct ka_data_files *files) {
  struct ka_ctx *ctx = r->ctx;
  const char *split = r->maker.dataset->split, *open = strchr(split, '['), *colon, *close;
  r->first = 0;
  r->end = INT64_MAX;
  if (!open) return KA_STATUS_OK;
  colon = strchr(open, ':');
  close = strchr(open, ']');
  int64_t n_rows = 0;
  if (strchr(open, '%')) KA_TRY(count_rows(r, files, &n_rows));
  if (!colon || !close || close[1] || close < colon ||
      !parse_bound(open + 1, (size_t)(colon - open - 1), n_rows, 0, &r->first) ||
      !parse_bound(colon + 1, (size_t)(close - colon - 1), n_rows, INT64_MAX, &r->end))
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: %s.split: got \"%s\", expected train, train[FROM:TO] or train[FROM%%:TO%%]",
                   ka_job_place(r->o->job, r->key), r->key, split);
  return KA_STATUS_OK;
}

/* --- rows to documents ------------------------------------------------------- */

static void make_documents(struct reader *r, const struct ka_row *rows, int n) {
#pragma omp parallel for schedule(dynamic, 1)
  for (int i = 0; i < n; i++) {
    struct slot *s = &r->slots[i];
    ka_error_clear(&s->ctx);
    s->st = ka_document_make(&s->ctx, &r->maker, &rows[i], &s->doc);
  }
}

static ka_status note_bad(struct reader *r, const struct ka_row *row, const struct slot *s) {
  struct ka_ctx *ctx = r->ctx;
  if (r->bad.len > 0) KA_TRY(ka_str_puts(ctx, &r->bad, "\n  "));
  KA_TRY(ka_str_puts(ctx, &r->bad, ka_row_path(row)));
  if (row->line > 0) KA_TRY(ka_str_printf(ctx, &r->bad, ":%lld", (long long)row->line));
  r->n_bad++;
  return ka_str_printf(ctx, &r->bad, ": %.300s", s->ctx.error.message);
}

static ka_status take_document(struct reader *r, const struct ka_row *row, struct slot *s) {
  struct ka_ctx *ctx = r->ctx;
  if (s->st.code == KA_E_INPUT) return note_bad(r, row, s);
  if (!ka_ok(s->st))
    return ka_fail(ctx, s->st.code, "%s: %s", ka_row_path(row), s->ctx.error.message);
  r->stats->n_rows++;
  if (s->doc.n == 0) {
    bool not_text = ka_row_is_text(row) && row->n > 0;
    r->stats->n_not_text += not_text;
    r->stats->n_empty += !not_text;
    return KA_STATUS_OK;
  }
  return ka_store_add(r->store, &s->doc);
}

static ka_status read_rows(struct reader *r) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_row rows[KA_ROWS_BATCH];
  for (int n = 0; r->row < r->end && r->n_bad < MAX_BAD;) {
    KA_TRY(ka_rows_next(&r->rows, rows, &n));
    if (n == 0) break;
    int from = 0, to = n;
    if (r->row + from < r->first) from = r->first - r->row < n ? (int)(r->first - r->row) : n;
    if (r->end - r->row < to) to = (int)(r->end - r->row);
    if (to > from) make_documents(r, rows + from, to - from);
    for (int i = from; i < to && r->n_bad < MAX_BAD; i++)
      KA_TRY(take_document(r, &rows[i], &r->slots[i - from]));
    r->row += n;
  }
  if (r->n_bad == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "%s%s%s", r->n_bad > 1 ? "bad rows:\n  " : "", r->bad.data,
                 r->n_bad == MAX_BAD ? "\n  reading stopped here" : "");
}

static ka_status load_chat(struct reader *r) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_job_dataset *ds = r->maker.dataset;
  if (strcmp(ds->type, "chat_template") != 0) return KA_STATUS_OK;
  if (ds->chat_template)
    KA_TRY(ka_chat_load_file(ctx, &r->chat, ds->chat_template, r->o->job->base_model));
  else
    KA_TRY(ka_chat_load_model(ctx, &r->chat, r->o->job->base_model));
  r->maker.chat = r->chat;
  if (ka_chat_has_template(r->chat)) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT,
                 "%s: %s.type: %s has no chat template; name one by %s.chat_template",
                 ka_job_place(r->o->job, r->key), r->key, r->o->job->base_model, r->key);
}

static ka_status start(struct reader *r, struct ka_data_files *files) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_job_dataset *ds = r->maker.dataset;
  void *p;
  if (!r->o->tokenizer && strcmp(ds->type, "tokenized") != 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: %s.type: %s needs a tokenizer.json in %s",
                   ka_job_place(r->o->job, r->key), r->key, ds->type, r->o->job->base_model);
  KA_TRY(ka_data_files(&r->arena, &ds->path, &ds->data_files, &ds->exclude_files, files));
  KA_TRY(parse_split(r, files));
  KA_TRY(load_chat(r));
  KA_TRY(ka_alloc_n(ctx, &p, KA_ROWS_BATCH, sizeof *r->slots, "rows"));
  r->slots = p;
  for (int i = 0; i < KA_ROWS_BATCH; i++) ka_ctx_init(&r->slots[i].ctx);
  ka_rows_init(&r->rows, ctx, files, ds->ds_type);
  r->stats->n_files += files->n;
  return KA_STATUS_OK;
}

ka_status ka_data_read(struct ka_ctx *ctx, const struct ka_read_options *o,
                       const struct ka_job_dataset *entry, const char *key, struct ka_store *store,
                       struct ka_data_stats *stats) {
  struct ka_data_files files;
  struct reader r = {.ctx = ctx, .o = o, .key = key, .store = store, .stats = stats};
  r.maker = (struct ka_document_maker){.dataset = entry,
                                       .tokenizer = o->tokenizer,
                                       .eos = o->eos,
                                       .train_on_inputs = o->job->train_on_inputs,
                                       .V = o->V};
  ka_arena_init(&r.arena, ctx, "data files");
  ka_status st = start(&r, &files);
  if (ka_ok(st)) st = read_rows(&r);
  ka_rows_deinit(&r.rows);
  ka_chat_destroy(r.chat);
  for (int i = 0; r.slots && i < KA_ROWS_BATCH; i++) ka_document_deinit(&r.slots[i].doc);
  ka_free(r.slots);
  ka_str_deinit(&r.bad);
  ka_arena_deinit(&r.arena);
  return st;
}
