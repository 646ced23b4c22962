/* SPDX-License-Identifier: Apache-2.0
 *
 * What reading and packing a job's data counted. */
#ifndef KAPPA_ENGINE_DATA_STATS_H
#define KAPPA_ENGINE_DATA_STATS_H

#include "engine/data/document.h"

enum ka_data_split { KA_DATA_TRAIN, KA_DATA_VALIDATION };

enum { KA_DATA_HISTOGRAM = 24 };

struct ka_data_stats {
  /* Of reading, both parts together. */
  int64_t n_files, n_not_text; /* not_text: found files left out, not UTF-8 or without rows */
  int64_t n_rows, n_empty;     /* rows; those without tokens */
  int64_t n_bad;               /* rows left out by on_bad_row: skip; not among n_rows */
  int64_t n_too_long;          /* documents longer than sequence_len: */
  int64_t n_dropped, n_truncated, n_split, n_pieces; /* what became of them; pieces of split ones */
  int64_t n_all_masked;                 /* documents or pieces without a target, left out */
  int64_t n_clips;                      /* sound files, and */
  double audio_s;                       /* how long they are together */
  int64_t n_noted[KA_N_NOTES];          /* documents by enum ka_document_note */
  char masked_roles[KA_ROLES_MAX];      /* of conversations without a target */
  int64_t longest_tok;                  /* before the length policy */
  int64_t histogram[KA_DATA_HISTOGRAM]; /* documents of [2^i, 2^(i+1)) tokens, before the policy */
  /* Of each part. */
  struct ka_data_part_stats {
    int64_t n_documents, n_tok, n_targets, n_rows; /* of one epoch; rows after packing */
    int64_t n_batches;                             /* micro-batches of one epoch */
    int64_t longest_tok;                           /* of a row */
    double efficiency; /* n_tok / (n_rows * sequence_len); 1 without packing */
  } part[2];
};

#endif
