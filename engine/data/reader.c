/* SPDX-License-Identifier: Apache-2.0
 * Records are found in order by one thread and made into documents by all, a batch at a time. What
 * is wrong with a record is reported with its file and line; reading stops after ten bad ones. */
#include "engine/data/reader.h"
#include "engine/data/document_make.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BAD = 10 }; /* shown */

struct slot { /* a record on its way */
  struct ka_document doc;
  struct ka_ctx ctx;
  ka_status st;
};

struct reader {
  struct ka_ctx *ctx;
  const struct ka_data_read_options *o;
  const char *key;
  struct ka_document_maker maker;
  struct ka_chat *chat;
  struct ka_arena arena;
  struct ka_data_records records;
  struct slot *slots;
  struct ka_data_store *store;
  struct ka_data_stats *stats;
  bool skip; /* bad records are left out */
  int64_t n_bad;
  struct ka_str bad; /* the first of them */
};

/* --- records to documents ------------------------------------------------------- */

static void make_documents(struct reader *r, const struct ka_data_record *records, int n) {
#pragma omp parallel for schedule(dynamic, 1)
  for (int i = 0; i < n; i++) {
    struct slot *s = &r->slots[i];
    ka_error_clear(&s->ctx);
    s->ctx.interrupted = r->ctx->interrupted;
    s->ctx.log_level = r->ctx->log_level;
    s->st = ka_document_make(&s->ctx, &r->maker, &records[i], &s->doc);
  }
}

static ka_status note_bad(struct reader *r, const struct ka_data_record *record,
                          const struct slot *s) {
  struct ka_ctx *ctx = r->ctx;
  if (++r->n_bad > MAX_BAD) return KA_STATUS_OK;
  if (r->bad.len > 0) KA_TRY(ka_str_puts(ctx, &r->bad, "\n  "));
  KA_TRY(ka_str_puts(ctx, &r->bad, ka_data_record_path(record)));
  if (record->line > 0) KA_TRY(ka_str_printf(ctx, &r->bad, ":%lld", (long long)record->line));
  KA_TRY(ka_str_printf(ctx, &r->bad, ": %.300s", s->ctx.error.message));
  const char *unread = ka_data_record_unread(record);
  return *unread ? ka_str_printf(ctx, &r->bad, "; columns that are not read: %.300s", unread)
                 : KA_STATUS_OK;
}

/* Counts a document's notes, and its roles if it has no target. */
static void count_notes(struct ka_data_stats *s, const struct ka_document *d) {
  bool trained = false;
  for (int k = 0; k < KA_N_NOTES; k++) s->n_noted[k] += d->notes >> k & 1;
  for (int64_t i = 1; i < d->n && !trained; i++) trained = d->labels[i] != KA_LABEL_MASKED;
  for (const char *p = d->roles; *p && !trained;) {
    size_t n = strcspn(p, ",");
    ka_document_add_role(s->masked_roles, p, n);
    p += n + (p[n] ? 2 : 0);
  }
}

static ka_status take_document(struct reader *r, const struct ka_data_record *record,
                               struct slot *s) {
  struct ka_ctx *ctx = r->ctx;
  if (s->st.code == KA_E_INPUT) return note_bad(r, record, s);
  if (!ka_ok(s->st))
    return ka_fail(ctx, s->st.code, "%s: %s", ka_data_record_path(record), s->ctx.error.message);
  r->stats->n_rows++;
  count_notes(r->stats, &s->doc);
  r->stats->n_clips += s->doc.clip.n_places > 0;
  r->stats->audio_s += s->doc.clip.seconds;
  if (s->doc.n == 0) {
    bool not_text = ka_data_record_is_text(record) && record->n > 0;
    r->stats->n_not_text += not_text;
    r->stats->n_empty += !not_text;
    return KA_STATUS_OK;
  }
  return ka_data_store_add(r->store, &s->doc);
}

static ka_status read_rows(struct reader *r) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_data_record records[KA_RECORDS_BATCH];
  bool stop = false;
  for (int n = 1; n > 0 && !stop;) {
    KA_TRY(ka_data_records_next(&r->records, records, &n));
    make_documents(r, records, n);
    for (int i = 0; i < n && !stop; i++) {
      KA_TRY(take_document(r, &records[i], &r->slots[i]));
      stop = !r->skip && r->n_bad == MAX_BAD;
    }
    if (r->o->spec->on_rows) r->o->spec->on_rows(r->o->spec->user, r->stats->n_rows);
  }
  if (r->n_bad == 0) return KA_STATUS_OK;
  r->stats->n_bad += r->n_bad;
  if (r->skip) {
    ka_warn(ctx, "data", "%lld bad rows left out (on_bad_row: skip)%s:\n  %s", (long long)r->n_bad,
            r->n_bad > MAX_BAD ? ", the first ten" : "", r->bad.data);
    return KA_STATUS_OK;
  }
  return ka_fail(ctx, KA_E_INPUT, "%s%s%s", r->n_bad > 1 ? "bad rows:\n  " : "", r->bad.data,
                 r->n_bad == MAX_BAD ? "\n  reading stopped here" : "");
}

static ka_status load_chat(struct reader *r) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_job_dataset *ds = r->maker.dataset;
  if (ds->type != KA_DOCUMENT_CHAT_TEMPLATE) return KA_STATUS_OK;
  if (ds->chat_template)
    KA_TRY(ka_chat_load_file(ctx, &r->chat, ds->chat_template, r->o->spec->base_model));
  else
    KA_TRY(ka_chat_load_model(ctx, &r->chat, r->o->spec->base_model));
  const char *eos = r->o->spec->eos_token;
  if (eos && ka_tokenizer_token_id(r->o->tokenizer, eos, strlen(eos)) >= 0)
    KA_TRY(ka_chat_set_token(ctx, r->chat, "eos_token", eos));
  r->maker.chat = r->chat;
  if (ka_chat_has_template(r->chat)) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT,
                 "%s: %s.type: %s has no chat template; name one by %s.chat_template",
                 ka_key_place(r->o->spec->file, r->key), r->key, r->o->spec->base_model, r->key);
}

static ka_status start(struct reader *r, struct ka_data_files *files) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_job_dataset *ds = r->maker.dataset;
  const char *what;
  if (!r->o->tokenizer && ds->type != KA_DOCUMENT_TOKENIZED)
    return ka_fail(ctx, KA_E_INPUT, "%s: %s.type: %s needs a tokenizer in %s",
                   ka_key_place(r->o->spec->file, r->key), r->key, ka_job_words_type[ds->type],
                   r->o->spec->base_model);
  const struct ka_data_choice choice = {&ds->data_files, &ds->exclude_files, ds->ds_type,
                                        ds->split};
  KA_TRY(ka_data_files(&r->arena, &ds->path, &choice, files));
  if (*files->left_out)
    ka_info(ctx, "data", "%s: no data, left out: %s", ds->path.items[0], files->left_out);
  KA_TRY(load_chat(r));
  KA_TRY(KA_NEW_HEAP(ctx, &r->slots, KA_RECORDS_BATCH, "rows"));
  for (int i = 0; i < KA_RECORDS_BATCH; i++) ka_ctx_init(&r->slots[i].ctx);
  KA_TRY(ka_arena_printf(&r->arena, &what, "%s: %s.split", ka_key_place(r->o->spec->file, r->key),
                         r->key));
  KA_TRY(ka_data_records_init(&r->records, ctx, files, ds->ds_type, ds->split, what));
  r->stats->n_files += files->n;
  return KA_STATUS_OK;
}

ka_status ka_data_read(struct ka_ctx *ctx, const struct ka_data_read_options *o,
                       const struct ka_job_dataset *entry, const char *key,
                       struct ka_data_store *store, struct ka_data_stats *stats) {
  struct ka_data_files files;
  struct reader r = {.ctx = ctx, .o = o, .key = key, .store = store, .stats = stats};
  r.skip = strcmp(entry->on_bad_row, "skip") == 0;
  r.maker = (struct ka_document_maker){.dataset = entry,
                                       .tokenizer = o->tokenizer,
                                       .eos = o->eos,
                                       .train_on_inputs = o->spec->train_on_inputs,
                                       .V = o->V,
                                       .speech = o->spec->speech};
  ka_arena_init(&r.arena, ctx, "data files");
  ka_status st = start(&r, &files);
  if (ka_ok(st)) st = read_rows(&r);
  ka_data_records_deinit(&r.records);
  ka_chat_destroy(r.chat);
  for (int i = 0; r.slots && i < KA_RECORDS_BATCH; i++) ka_document_deinit(&r.slots[i].doc);
  ka_free(r.slots);
  ka_str_deinit(&r.bad);
  ka_arena_deinit(&r.arena);
  return st;
}
