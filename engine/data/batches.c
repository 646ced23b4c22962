/* SPDX-License-Identifier: Apache-2.0
 * Packed rows to micro-batches. The order of an epoch's rows depends on the seed and the epoch
 * alone. */
#include "base/rng.h"
#include "engine/data/dataset_parts.h"

#include <stdlib.h>
#include <string.h>

static ka_status shuffle_pieces(struct ka_ctx *ctx, struct ka_data_pieces *p, uint64_t seed) {
  void *order, *moved;
  KA_TRY(ka_alloc_n(ctx, &order, p->n, sizeof(int64_t), "shuffling"));
  ka_status st = ka_alloc_n(ctx, &moved, p->n, sizeof *p->items, "shuffling");
  if (ka_ok(st)) {
    ka_rng_permutation(seed, ka_rng_stream("data.pieces"), p->n, order);
    for (int64_t i = 0; i < p->n; i++)
      ((struct ka_data_piece *)moved)[i] = p->items[((int64_t *)order)[i]];
    ka_free(p->items);
    p->items = moved;
    p->cap = p->n;
  }
  ka_free(order);
  return st;
}

static ka_status pack_part(struct ka_data *d, struct ka_data_packed_split *p) {
  struct ka_ctx *ctx = d->ctx;
  int64_t *lengths;
  KA_TRY(KA_NEW_HEAP(ctx, &lengths, p->pieces.n, "lengths"));
  for (int64_t i = 0; i < p->pieces.n; i++) lengths[i] = p->pieces.items[i].n;
  ka_status st = ka_data_pack_rows(ctx, &p->packed, lengths, p->pieces.n, d->spec.sequence_len,
                                   d->spec.sample_packing ? KA_PACK_WINDOW : 1);
  ka_free(lengths);
  return st;
}

static int64_t row_length(const struct ka_data_packed_split *p, int64_t row) {
  int64_t n = 0;
  for (int64_t i = p->packed.first[row]; i < p->packed.first[row + 1]; i++)
    n += p->pieces.items[p->packed.items[i]].n;
  return n;
}

static void count(const struct ka_data *d, struct ka_data_packed_split *p,
                  struct ka_data_part_stats *s) {
  int64_t B = d->spec.micro_batch_size;
  for (int64_t i = 0; i < p->pieces.n; i++) {
    s->n_tok += p->pieces.items[i].n;
    s->n_targets += p->pieces.items[i].n_targets;
  }
  for (int64_t r = 0; r < p->packed.n_rows; r++)
    if (row_length(p, r) > p->T) p->T = row_length(p, r);
  s->n_documents = p->pieces.n;
  s->n_rows = p->packed.n_rows;
  s->longest_tok = p->T;
  s->n_batches = (s->n_rows + B - 1) / B;
  s->efficiency = 1;
  if (d->spec.sample_packing && s->n_rows > 0)
    s->efficiency = (double)s->n_tok / ((double)s->n_rows * (double)d->spec.sequence_len);
}

ka_status ka_data_split_build(struct ka_data *d, enum ka_data_split part) {
  struct ka_ctx *ctx = d->ctx;
  struct ka_data_packed_split *p = &d->parts[part];
  bool shuffle = d->spec.shuffle && part == KA_DATA_TRAIN;
  p->epoch = -1;
  if (p->pieces.n == 0) return KA_STATUS_OK;
  if (shuffle && d->spec.sample_packing)
    KA_TRY(shuffle_pieces(ctx, &p->pieces, (uint64_t)d->spec.seed));
  KA_TRY(pack_part(d, p));
  count(d, p, &d->stats.part[part]);
  if (shuffle) KA_TRY(KA_NEW_HEAP(ctx, &p->order, p->packed.n_rows, "row order"));
  if (shuffle && d->spec.group_by_length && !d->spec.sample_packing) {
    KA_TRY(KA_NEW_HEAP(ctx, &p->sized, p->packed.n_rows, "row order"));
    KA_TRY(KA_NEW_HEAP(ctx, &p->groups, p->packed.n_rows, "row order"));
  }
  int64_t B =
      d->spec.micro_batch_size < p->packed.n_rows ? d->spec.micro_batch_size : p->packed.n_rows;
  return KA_NEW_HEAP(ctx, &p->buffer, 4 * B * p->T, "micro-batch");
}

void ka_data_split_deinit(struct ka_data_packed_split *p) {
  ka_free(p->pieces.items);
  ka_data_packed_deinit(&p->packed);
  ka_free(p->order);
  ka_free(p->buffer);
  ka_free(p->sized);
  ka_free(p->groups);
  ka_free(p->clips);
  ka_free(p->files);
  *p = (struct ka_data_packed_split){0};
}

int64_t ka_data_n_batches(const struct ka_data *d, enum ka_data_split part) {
  return d->stats.part[part].n_batches;
}

/* --- clips ------------------------------------------------------------------- */

static ka_status read_frames(void *user, int64_t i, float *frames) {
  const struct ka_data_packed_split *p = user;
  return ka_speech_frames(p->ctx, p->data->spec.speech, p->files[i], frames);
}

/* The clip of a document that starts at index `at` of the batch, if it has one. */
static ka_status add_clip(struct ka_data_packed_split *p, int64_t doc, int64_t at) {
  struct ka_ctx *ctx = p->ctx;
  const struct ka_speech_clip *c = ka_data_store_clip(&p->data->store, doc);
  void *clips = p->clips, *files = (void *)(uintptr_t)p->files;
  if (!c) return KA_STATUS_OK;
  KA_TRY(ka_grow(ctx, &clips, &p->clips_cap, p->n_clips + 1, sizeof *p->clips, "clips"));
  p->clips = clips;
  KA_TRY(ka_grow(ctx, &files, &p->files_cap, p->n_clips + 1, sizeof *p->files, "clips"));
  p->files = files;
  p->clips[p->n_clips] = (struct ka_clip){c->n_frames, at + c->at, c->n_places};
  p->files[p->n_clips++] = c;
  return KA_STATUS_OK;
}

static ka_status list_clips(struct ka_data_packed_split *p, int64_t row, int64_t at) {
  struct ka_ctx *ctx = p->ctx;
  for (int64_t i = p->packed.first[row]; i < p->packed.first[row + 1]; i++) {
    const struct ka_data_piece *q = &p->pieces.items[p->packed.items[i]];
    KA_TRY(add_clip(p, q->doc, at));
    at += q->n;
  }
  return KA_STATUS_OK;
}

/* --- rows -------------------------------------------------------------------- */

struct row_out {
  int32_t *ids, *labels, *position, *doc_start;
};

/* One row: its documents one after the other, then padding. Adds to the targets and tokens. */
static void fill_row(const struct ka_data *d, const struct ka_data_packed_split *p, int64_t row,
                     int64_t T, struct row_out o, struct ka_batch *counts) {
  int64_t at = 0;
  for (int64_t i = p->packed.first[row]; i < p->packed.first[row + 1]; i++) {
    const struct ka_data_piece *q = &p->pieces.items[p->packed.items[i]];
    ka_data_store_read(&d->store, q->doc, q->start, q->n, o.ids + at, o.labels + at);
    o.labels[at] = KA_LABEL_MASKED; /* nothing to predict it from */
    for (int64_t t = 0; t < q->n; t++) {
      o.position[at + t] = (int32_t)t;
      o.doc_start[at + t] = (int32_t)at;
    }
    counts->n_targets += q->n_targets;
    at += q->n;
  }
  for (int64_t t = at; t < T; t++) {
    o.ids[t] = 0;
    o.labels[t] = KA_LABEL_MASKED;
    o.position[t] = (int32_t)(t - at);
    o.doc_start[t] = (int32_t)at;
  }
  counts->n_tok += at;
}

static int by_length(const void *a, const void *b) {
  const struct ka_data_sized_row *x = a, *y = b;
  return x->n != y->n ? (x->n < y->n ? -1 : 1) : x->row < y->row ? -1 : x->row > y->row;
}

/* The rows of each GROUP micro-batches by length; then their micro-batches in a seeded order, but
 * for one that is not full, which stays the last. */
static void group(const struct ka_data *d, struct ka_data_packed_split *p, uint64_t stream) {
  enum { GROUP = 64 };
  int64_t n = p->packed.n_rows, B = d->spec.micro_batch_size, full = n / B;
  for (int64_t i = 0; i < n; i++)
    p->sized[i] = (struct ka_data_sized_row){p->order[i], row_length(p, p->order[i])};
  for (int64_t i = 0; i < n; i += GROUP * B) {
    int64_t left = n - i < GROUP * B ? n - i : GROUP * B;
    qsort(p->sized + i, (size_t)left, sizeof *p->sized, by_length);
  }
  ka_rng_permutation((uint64_t)d->spec.seed, stream, full, p->groups);
  for (int64_t i = 0; i < n; i++) {
    int64_t batch = i / B < full ? p->groups[i / B] : i / B;
    p->order[i] = p->sized[batch * B + i % B].row;
  }
}

static int64_t row_at(struct ka_data *d, struct ka_data_packed_split *p, int64_t epoch, int64_t i) {
  if (!p->order) return i;
  if (p->epoch != epoch) {
    ka_rng_permutation((uint64_t)d->spec.seed, ka_rng_stream("data.epoch") + (uint64_t)epoch,
                       p->packed.n_rows, p->order);
    if (p->sized) group(d, p, ka_rng_stream("data.groups") + (uint64_t)epoch);
    p->epoch = epoch;
  }
  return p->order[i];
}

ka_status ka_data_batch(struct ka_ctx *ctx, struct ka_data *d, enum ka_data_split part,
                        int64_t index, struct ka_batch *out) {
  struct ka_data_packed_split *p = &d->parts[part];
  int64_t n_batches = d->stats.part[part].n_batches, B = d->spec.micro_batch_size;
  KA_NEVER(ctx, n_batches == 0 || index < 0);
  int64_t first = index % n_batches * B, n = p->packed.n_rows - first, epoch = index / n_batches;
  if (n > B) n = B;
  int64_t T = d->spec.sample_packing ? p->T : 0;
  for (int64_t b = 0; b < n; b++) {
    int64_t length = row_length(p, row_at(d, p, epoch, first + b));
    if (length > T) T = length;
  }
  T = (T + d->length_unit - 1) / d->length_unit * d->length_unit;
  if (T > p->T) T = p->T;
  int32_t *ids = p->buffer, *labels = ids + n * T, *position = labels + n * T,
          *doc_start = position + n * T;
  *out = (struct ka_batch){.B = n,
                           .T = T,
                           .input_ids = ids,
                           .labels = labels,
                           .position = position,
                           .doc_start = doc_start};
  p->n_clips = 0;
  p->ctx = ctx;
  p->data = d;
  for (int64_t b = 0; b < n && d->store.n_clips > 0; b++)
    KA_TRY(list_clips(p, row_at(d, p, epoch, first + b), b * T));
  if (p->n_clips > 0)
    out->clips = (struct ka_clips){.n = p->n_clips,
                                   .width = d->spec.speech->projector.n_features,
                                   .items = p->clips,
                                   .read = read_frames,
                                   .user = p};
  for (int64_t b = 0; b < n; b++)
    fill_row(d, p, row_at(d, p, epoch, first + b), T,
             (struct row_out){ids + b * T, labels + b * T, position + b * T, doc_start + b * T},
             out);
  return KA_STATUS_OK;
}

int64_t ka_data_document(const struct ka_data *d, enum ka_data_split part, int64_t i, int64_t max,
                         int32_t *ids, int32_t *labels) {
  const struct ka_data_packed_split *p = &d->parts[part];
  if (i < 0 || i >= p->pieces.n) return 0;
  const struct ka_data_piece *q = &p->pieces.items[i];
  int64_t n = q->n < max ? q->n : max;
  ka_data_store_read(&d->store, q->doc, q->start, n, ids, labels);
  if (n > 0 && labels) labels[0] = KA_LABEL_MASKED;
  return q->n;
}
