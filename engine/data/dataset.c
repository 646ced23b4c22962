/* SPDX-License-Identifier: Apache-2.0
 * Opening: read, cut, set aside, weigh, pack. Micro-batches stand in batches.c. */
#include "engine/data/dataset.h"
#include "engine/data/document_make.h"

#include "base/log.h"
#include "base/rng.h"
#include "engine/data/dataset_parts.h"
#include "engine/data/reader.h"
#include "engine/data/token_cache.h"
#include "engine/formats/config.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

enum { MEMORY_BYTES = 256 << 20, FORGET_DOCUMENTS = 16384 };

static ka_status add_piece(struct ka_ctx *ctx, struct ka_data_pieces *p,
                           struct ka_data_piece piece) {
  void *grown = p->items;
  KA_TRY(ka_grow(ctx, &grown, &p->cap, p->n + 1, sizeof piece, "pieces"));
  p->items = grown;
  p->items[p->n++] = piece;
  return KA_STATUS_OK;
}

/* --- length policy ----------------------------------------------------------- */

static int policy_of(const struct ka_data_spec *spec, const struct ka_job_dataset *entry) {
  if (spec->length_policy != KA_LENGTH_AUTO) return spec->length_policy;
  return entry->type == KA_DOCUMENT_COMPLETION ? KA_LENGTH_SPLIT : KA_LENGTH_DROP;
}

static ka_status keep(struct ka_data *d, struct ka_data_pieces *out, int64_t doc, int64_t start,
                      int64_t n) {
  int64_t n_targets = ka_data_store_targets(&d->store, doc, start, n);
  if (n_targets > 0)
    return add_piece(d->ctx, out, (struct ka_data_piece){doc, start, n, n_targets});
  d->stats.n_all_masked += n > 1 || start == 0; /* not the last token of a cut */
  return KA_STATUS_OK;
}

static ka_status cut_document(struct ka_data *d, struct ka_data_pieces *out, int64_t doc,
                              int policy) {
  struct ka_ctx *ctx = d->ctx;
  struct ka_data_stats *s = &d->stats;
  int64_t n = d->store.docs[doc].n, T = d->spec.sequence_len;
  int bucket = 0;
  while (bucket < KA_DATA_HISTOGRAM - 1 && n >> (bucket + 1)) bucket++;
  s->histogram[bucket]++;
  if (n > s->longest_tok) s->longest_tok = n;
  if (n <= T) return keep(d, out, doc, 0, n);
  s->n_too_long++;
  if (ka_data_store_clip(&d->store, doc)) policy = KA_LENGTH_DROP; /* half a clip says nothing */
  if (policy == KA_LENGTH_TRUNCATE) {
    s->n_truncated++;
    return keep(d, out, doc, 0, T);
  }
  if (policy != KA_LENGTH_SPLIT) {
    s->n_dropped++;
    return KA_STATUS_OK;
  }
  s->n_split++;
  int64_t before = out->n;
  for (int64_t start = 0; start < n; start += T)
    KA_TRY(keep(d, out, doc, start, n - start < T ? n - start : T));
  s->n_pieces += out->n - before;
  return KA_STATUS_OK;
}

/* Entry i of datasets, then test_datasets. */
static const struct ka_job_dataset *entry_at(const struct ka_data *d, int64_t i) {
  const struct ka_data_spec *spec = &d->spec;
  return i < spec->datasets.n ? &spec->datasets.items[i]
                              : &spec->test_datasets.items[i - spec->datasets.n];
}

static ka_status read_entries(struct ka_data *d, const struct ka_data_read_options *o, int64_t n,
                              int64_t *ends) {
  struct ka_ctx *ctx = d->ctx;
  for (int64_t i = 0; i < n; i++) {
    int64_t n_train = d->spec.datasets.n;
    const char *key, *place;
    KA_TRY(ka_arena_printf(&d->arena, &key, "%s.%lld", i < n_train ? "datasets" : "test_datasets",
                           (long long)(i < n_train ? i : i - n_train)));
    KA_TRY(ka_arena_printf(&d->arena, &place, "%s: %s", ka_key_place(d->spec.file, key), key));
    KA_TRY(ka_document_check(ctx, entry_at(d, i), place));
    KA_TRY(ka_data_read(ctx, o, entry_at(d, i), key, &d->store, &d->stats));
    ends[i] = d->store.n_docs;
  }
  return ka_data_store_seal(&d->store);
}

/* From the cache, or from the files and into the cache. ends: documents up to each entry's last. */
static ka_status fill_store(struct ka_data *d, const struct ka_data_read_options *o, int64_t n,
                            int64_t *ends) {
  struct ka_ctx *ctx = d->ctx;
  struct ka_data_cache cache;
  bool hit = false;
  /* A sound's frames are kept by themselves; which files there are, the cache does not know. */
  if (!d->spec.dataset_prepared_path || d->spec.speech) return read_entries(d, o, n, ends);
  KA_TRY(ka_data_cache_init(&cache, &d->arena, o, &d->stats));
  KA_TRY(ka_data_cache_load(&cache, &d->store, &hit));
  if (hit) {
    ka_info(ctx, "data", "%s: tokenised before", cache.path);
    memcpy(ends, cache.ends, (size_t)n * sizeof *ends);
    return KA_STATUS_OK;
  }
  KA_TRY(read_entries(d, o, n, ends));
  memcpy(cache.ends, ends, (size_t)n * sizeof *ends);
  return ka_data_cache_save(&cache, &d->store);
}

/* All entries are read before any is cut: a sealed store can be read back. */
static ka_status read_all(struct ka_data *d, const struct ka_data_read_options *o) {
  struct ka_ctx *ctx = d->ctx;
  const struct ka_data_spec *spec = &d->spec;
  void *ends;
  int64_t n_train = spec->datasets.n, n = n_train + spec->test_datasets.n;
  KA_TRY(KA_NEW(&d->arena, &d->entry_pieces, n_train, "entries"));
  KA_TRY(ka_arena_alloc_n(&d->arena, &ends, n, sizeof(int64_t), "entries"));
  KA_TRY(fill_store(d, o, n, ends));
  for (int64_t i = 0, doc = 0; i < n; i++) {
    struct ka_data_pieces *out =
        i < n_train ? &d->entry_pieces[i] : &d->parts[KA_DATA_VALIDATION].pieces;
    for (; doc < ((int64_t *)ends)[i]; doc++) {
      KA_TRY(cut_document(d, out, doc, policy_of(spec, entry_at(d, i))));
      if (doc % FORGET_DOCUMENTS == 0) ka_data_store_forget(&d->store);
    }
  }
  ka_data_store_forget(&d->store);
  if (d->stats.n_too_long > 0 && spec->length_policy == KA_LENGTH_ERROR)
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: length_policy is error: %lld documents are longer than sequence_len %lld, "
                   "the longest has %lld tokens",
                   ka_key_place(spec->file, "length_policy"), (long long)d->stats.n_too_long,
                   (long long)spec->sequence_len, (long long)d->stats.longest_tok);
  return KA_STATUS_OK;
}

/* --- validation and weights -------------------------------------------------- */

static ka_status validation_size(struct ka_data *d, int64_t n, int64_t *out) {
  double v = d->spec.val_set_size;
  *out = v < 1 ? (int64_t)floor(v * (double)n + 0.5) : (int64_t)v;
  if (v > 0 && *out == 0 && n > 1) *out = 1;
  if (v < 1 && *out >= n) *out = 0;
  if (*out >= n && n > 0)
    return ka_fail(d->ctx, KA_E_INPUT,
                   "%s: val_set_size: got %lld of %lld documents, which leaves nothing to train on",
                   ka_key_place(d->spec.file, "val_set_size"), (long long)*out, (long long)n);
  return KA_STATUS_OK;
}

/* Moves a choice of the pieces of all entries to validation: the same for every seed, so that runs
 * with other seeds are measured on the same text. */
static ka_status set_aside(struct ka_data *d) {
  struct ka_ctx *ctx = d->ctx;
  void *p;
  int64_t n = 0, n_val = 0, at = 0;
  for (int64_t e = 0; e < d->spec.datasets.n; e++) n += d->entry_pieces[e].n;
  KA_TRY(validation_size(d, n, &n_val));
  if (n_val == 0) return KA_STATUS_OK;
  int64_t *order;
  KA_TRY(KA_NEW_HEAP(ctx, &order, n, "validation"));
  ka_rng_permutation(0, ka_rng_stream("data.validation"), n, order);
  ka_status st = ka_alloc_n(ctx, &p, n, 1, "validation");
  unsigned char *chosen = p;
  for (int64_t i = 0; ka_ok(st) && i < n_val; i++) chosen[order[i]] = 1;
  for (int64_t e = 0; ka_ok(st) && e < d->spec.datasets.n; e++) {
    struct ka_data_pieces *from = &d->entry_pieces[e];
    int64_t kept = 0;
    for (int64_t i = 0; ka_ok(st) && i < from->n; i++, at++) {
      if (chosen[at])
        st = add_piece(ctx, &d->parts[KA_DATA_VALIDATION].pieces, from->items[i]);
      else
        from->items[kept++] = from->items[i];
    }
    from->n = kept;
  }
  ka_free(order);
  ka_free(chosen);
  return st;
}

/* weight 2.5: every piece twice, and a seeded half of them once more. */
static ka_status weigh(struct ka_data *d, int64_t e) {
  struct ka_ctx *ctx = d->ctx;
  const struct ka_data_pieces *from = &d->entry_pieces[e];
  struct ka_data_pieces *to = &d->parts[KA_DATA_TRAIN].pieces;
  double weight = d->spec.datasets.items[e].weight, whole = floor(weight);
  int64_t n_more = (int64_t)floor((weight - whole) * (double)from->n + 0.5);
  for (double k = 0; k < whole; k++)
    for (int64_t i = 0; i < from->n; i++) KA_TRY(add_piece(ctx, to, from->items[i]));
  if (n_more == 0) return KA_STATUS_OK;
  int64_t *order;
  KA_TRY(KA_NEW_HEAP(ctx, &order, from->n, "weights"));
  ka_rng_permutation((uint64_t)d->spec.seed, ka_rng_stream("data.weight") + (uint64_t)e, from->n,
                     order);
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < n_more && ka_ok(st); i++) st = add_piece(ctx, to, from->items[order[i]]);
  ka_free(order);
  return st;
}

/* --- opening ----------------------------------------------------------------- */

/* The job's, the tokenizer's end of text, else config.json's. */
static int32_t eos_of(struct ka_ctx *ctx, const struct ka_data_spec *spec,
                      const struct ka_tokenizer *tokenizer) {
  int32_t eos = tokenizer ? ka_tokenizer_eos(tokenizer) : -1;
  if (tokenizer && spec->eos_token) {
    int32_t other = ka_tokenizer_token_id(tokenizer, spec->eos_token, strlen(spec->eos_token));
    if (other >= 0) return other;
    ka_warn(
        ctx, "data",
        "eos_token: %s is not in the vocabulary: the tokenizer's own end token is used (kappa init "
        "--from MODEL --tokens makes a model that has it)",
        spec->eos_token);
  }
  return eos >= 0 || !tokenizer ? eos : (int32_t)spec->eos_token_id;
}

/* A directory that exists: the one for prepared data, else the nearest one above output_dir. */
static ka_status find_spill_dir(struct ka_data *d, const char **out) {
  struct ka_ctx *ctx = d->ctx;
  const char *dir = d->spec.dataset_prepared_path;
  *out = dir;
  if (dir) return ka_make_dirs(ctx, dir);
  for (dir = d->spec.output_dir; !ka_path_is_dir(dir);) KA_TRY(ka_path_dir(&d->arena, &dir, dir));
  *out = dir;
  return KA_STATUS_OK;
}

static void warn(const struct ka_data *d) {
  static const char *const texts[KA_N_NOTES] = {
      [KA_NOTE_NO_EOS] = "end without EOS, as the model names none (eos_token in "
                         "tokenizer_config.json): it may not learn to stop",
      [KA_NOTE_ENDLESS] =
          "have answers behind which the chat template writes no special token: the "
          "model may not learn to stop",
      [KA_NOTE_HISTORY] = "have a \"history\", which type alpaca does not read; make them "
                          "chat_template records",
      [KA_NOTE_RESAMPLED] = "have sound of another rate than 16 kHz: it is resampled",
      [KA_NOTE_MIXED] = "have sound of several channels: their mean is taken"};
  const struct ka_data_stats *s = &d->stats;
  for (int k = 0; k < KA_N_NOTES; k++)
    if (s->n_noted[k] > 0 && k < KA_NOTE_RESAMPLED)
      ka_warn(d->ctx, "data", "%lld of %lld records %s", (long long)s->n_noted[k],
              (long long)s->n_rows, texts[k]);
    else if (s->n_noted[k] > 0)
      ka_info(d->ctx, "data", "%lld of %lld records %s", (long long)s->n_noted[k],
              (long long)s->n_rows, texts[k]);
  if (s->masked_roles[0])
    ka_warn(d->ctx, "data",
            "conversations of the roles %s have no token to train and are left out; see "
            "roles_to_train",
            s->masked_roles);
}

static void say(const struct ka_data *d) {
  const struct ka_data_stats *s = &d->stats;
  const struct ka_data_part_stats *t = &s->part[KA_DATA_TRAIN], *v = &s->part[KA_DATA_VALIDATION];
  char a[32], b[32];
  ka_info(d->ctx, "data", "%lld rows: %s tokens to train (%s of them targets), %s to validate",
          (long long)s->n_rows, ka_fmt_count((double)t->n_tok, a),
          ka_fmt_count((double)t->n_targets, b), v->n_tok > 0 ? "the rest" : "none");
  if (s->n_clips > 0)
    ka_info(d->ctx, "data", "%lld sound files, %s", (long long)s->n_clips,
            ka_fmt_duration(s->audio_s, a));
  if (s->n_too_long > 0)
    ka_info(d->ctx, "data",
            "%lld documents longer than %lld tokens: %lld cut into %lld, %lld "
            "truncated, %lld dropped",
            (long long)s->n_too_long, (long long)d->spec.sequence_len, (long long)s->n_split,
            (long long)s->n_pieces, (long long)s->n_truncated, (long long)s->n_dropped);
  if (s->n_all_masked + s->n_empty + s->n_not_text > 0)
    ka_info(d->ctx, "data",
            "left out: %lld without a token to train, %lld empty, %lld files that are not UTF-8 or "
            "hold no rows",
            (long long)s->n_all_masked, (long long)s->n_empty, (long long)s->n_not_text);
  if (d->spec.sample_packing)
    ka_info(d->ctx, "data", "%lld documents in %lld rows of %lld: %.1f %% full",
            (long long)t->n_documents, (long long)t->n_rows, (long long)d->spec.sequence_len,
            100 * t->efficiency);
  warn(d);
}

/* Nothing to train on: why. */
static ka_status no_targets(const struct ka_data *d) {
  const struct ka_data_stats *s = &d->stats;
  const char *roles = s->masked_roles[0] ? s->masked_roles : NULL;
  return ka_fail(d->ctx, KA_E_INPUT,
                 "%s: datasets: nothing to train on: of %lld rows %lld are empty, %lld too long "
                 "and %lld have no token to train%s%s%s",
                 ka_key_place(d->spec.file, "datasets"), (long long)s->n_rows,
                 (long long)s->n_empty, (long long)s->n_dropped, (long long)s->n_all_masked,
                 roles ? "; the roles seen are " : "", roles ? roles : "",
                 roles ? ": name those that answer in roles_to_train" : "");
}

static ka_status build(struct ka_data *d, const struct ka_tokenizer *tokenizer, int64_t V) {
  struct ka_ctx *ctx = d->ctx;
  struct ka_data_read_options o = {
      .spec = &d->spec, .tokenizer = tokenizer, .eos = eos_of(ctx, &d->spec, tokenizer), .V = V};
  const char *spill_dir;
  KA_TRY(find_spill_dir(d, &spill_dir));
  ka_data_store_init(&d->store, ctx, spill_dir, MEMORY_BYTES);
  KA_TRY(read_all(d, &o));
  if (d->spec.test_datasets.n == 0) KA_TRY(set_aside(d));
  for (int64_t e = 0; e < d->spec.datasets.n; e++) KA_TRY(weigh(d, e));
  if (d->parts[KA_DATA_TRAIN].pieces.n == 0) return no_targets(d);
  for (int part = 0; part < 2; part++) KA_TRY(ka_data_split_build(d, (enum ka_data_split)part));
  say(d);
  return KA_STATUS_OK;
}

ka_status ka_data_open(struct ka_ctx *ctx, struct ka_data **out, const struct ka_data_spec *spec,
                       const struct ka_tokenizer *tokenizer, int64_t V) {
  *out = NULL;
  struct ka_data *d;
  KA_TRY(KA_NEW_HEAP(ctx, &d, 1, "data"));
  d->ctx = ctx;
  d->spec = *spec;
  d->length_unit = 1;
  ka_arena_init(&d->arena, ctx, "data");
  ka_status st = build(d, tokenizer, V);
  if (ka_ok(st))
    *out = d;
  else
    ka_data_close(d);
  return st;
}

void ka_data_sound_hash(const struct ka_data *d, char out[KA_HASH_TEXT]) {
  XXH128_hash_t h = {0};
  *out = 0;
  for (int64_t i = 0; i < d->store.n_clips; i++) {
    const char *hash = d->store.clips[i].clip.hash;
    h = XXH3_128bits_withSeed(hash, strlen(hash), h.low64 ^ (h.high64 << 1));
  }
  if (d->store.n_clips > 0) ka_fmt_hash(h.high64, h.low64, out);
}

void ka_data_round_lengths(struct ka_data *d, int64_t unit) { d->length_unit = unit; }

void ka_data_close(struct ka_data *d) {
  if (!d) return;
  for (int64_t e = 0; d->entry_pieces && e < d->spec.datasets.n; e++)
    ka_free(d->entry_pieces[e].items);
  for (int part = 0; part < 2; part++) ka_data_split_deinit(&d->parts[part]);
  ka_data_store_deinit(&d->store);
  ka_arena_deinit(&d->arena);
  ka_free(d);
}

const struct ka_data_stats *ka_data_get_stats(const struct ka_data *d) { return &d->stats; }

int64_t ka_data_n_documents(const struct ka_data *d) { return d->store.n_docs; }

int64_t ka_data_document_tok(const struct ka_data *d, int64_t i) { return d->store.docs[i].n; }

void ka_data_read_document(const struct ka_data *d, int64_t i, int32_t *ids, int32_t *labels) {
  ka_data_store_read(&d->store, i, 0, d->store.docs[i].n, ids, labels);
}
