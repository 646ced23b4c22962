/* SPDX-License-Identifier: Apache-2.0
 *
 * Records of data files as byte slices, in order, with file and line: lines of JSONL, elements of a
 * JSON array, records of CSV, rows of Parquet (as JSON; the line is the row's number), whole text
 * files; .gz and .zst of them. Finding a record's bytes is cheap and
 * sequential; parsing them (ka_data_record_parse) may be done by many threads. */
#ifndef KAPPA_ENGINE_DATA_RECORDS_H
#define KAPPA_ENGINE_DATA_RECORDS_H

#include "base/json.h"
#include "engine/data/files.h"

enum ka_data_record_format { KA_RECORDS_LINES, KA_RECORDS_ARRAY, KA_RECORDS_CSV, KA_RECORDS_TEXT };

struct ka_record_source; /* an open file with its CSV header */

struct ka_data_record {
  const struct ka_record_source *source;
  int64_t line; /* of its first byte, from 1; 0: a whole file */
  const char *bytes;
  size_t n;
};

enum { KA_RECORDS_BATCH = 128, KA_RECORDS_BATCH_BYTES = 16 << 20 };

struct ka_data_records {
  struct ka_ctx *ctx;
  const struct ka_data_files *files;
  const char *ds_type;        /* auto, json, csv, text, parquet */
  int64_t record, first, end; /* records found so far; those wanted: [first, end) */
  int64_t next_file;
  struct ka_record_source
      *open[KA_RECORDS_BATCH]; /* those of the current batch; the last may go on */
  int n_open;
};

/* split: "train" for all records, "train[:1000]", "[90%:]" (percent: all files are looked through
 * once more); KA_E_INPUT when it is not that;
 * `what` names the key in the message. */
ka_status ka_data_records_init(struct ka_data_records *r, struct ka_ctx *ctx,
                               const struct ka_data_files *files, const char *ds_type,
                               const char *split, const char *what);
/* Up to KA_RECORDS_BATCH records, about KA_RECORDS_BATCH_BYTES; *n 0 at the end. Records live until
 * the next call. KA_E_INPUT "file:line: ..." when the file's structure is broken. */
ka_status ka_data_records_next(struct ka_data_records *r,
                               struct ka_data_record records[KA_RECORDS_BATCH], int *n);
void ka_data_records_deinit(struct ka_data_records *r);

const char *ka_data_record_path(const struct ka_data_record *record);
bool ka_data_record_is_text(const struct ka_data_record *record);
/* Columns of its Parquet file that had values which JSON has no word for; "" none. */
const char *ka_data_record_unread(const struct ka_data_record *record);
bool ka_data_record_named(const struct ka_data_record *record); /* see struct ka_data_file */
/* The record as a JSON object (new reference): parsed JSON, or a CSV record's columns as strings.
 * Not for whole texts. Messages name no file. Thread-safe with a ctx per thread. why: as
 * ka_json_parse_row has it; NULL: such rows are refused. */
ka_status ka_data_record_parse(struct ka_ctx *ctx, const struct ka_data_record *record,
                               json_t **out, const char **why);

#endif
