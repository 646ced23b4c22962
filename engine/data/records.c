/* SPDX-License-Identifier: Apache-2.0
 * Finding records. A file stays mapped until the batch after its last record; pages behind the
 * current batch are given back, so that a large file costs no memory. What is compressed, and
 * Parquet, is seen through a window that moves between batches: a record that is found at the
 * window's end is looked for again with more of the text (source.h). */
#include "engine/data/records.h"

#include "base/log.h"
#include "engine/data/source.h"

#include <math.h>
#include <string.h>

struct ka_record_source {
  const struct ka_data_file *file;
  struct ka_data_text text;
  struct ka_map map; /* text.seen, all of it or a window */
  enum ka_data_record_format format;
  char separator;       /* CSV */
  struct ka_str header; /* CSV: the first record */
  size_t pos;           /* of the next record */
  size_t forgotten;     /* pages before it were given back */
  int64_t line;         /* at pos */
  bool done;
};

static void close_source(struct ka_record_source *s) {
  ka_data_text_close(&s->text);
  ka_str_deinit(&s->header);
  ka_free(s);
}

void ka_data_records_deinit(struct ka_data_records *r) {
  for (int i = 0; i < r->n_open; i++) close_source(r->open[i]);
  r->n_open = 0;
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Moves past white space. */
static void skip_space(struct ka_record_source *s) {
  const char *p = (const char *)s->map.data;
  for (; s->pos < s->map.len && is_space(p[s->pos]); s->pos++) s->line += p[s->pos] == '\n';
}

/* Moves past lines that are blank; the blanks of others belong to their first field, as pandas has
 * it. Where tabs separate, a line of tabs has fields. At the end where nothing but blanks
 * follows. */
static void skip_blank_lines(struct ka_record_source *s) {
  const char *p = (const char *)s->map.data;
  for (size_t i = s->pos; i < s->map.len && is_space(p[i]) && p[i] != s->separator; i++) {
    if (p[i] != '\n') continue;
    s->pos = i + 1;
    s->line++;
  }
  size_t rest = s->pos;
  while (rest < s->map.len && is_space(p[rest])) rest++;
  if (rest == s->map.len) s->pos = rest;
}

static ka_status broken(struct ka_data_records *r, const struct ka_record_source *s,
                        const char *what) {
  return ka_fail(r->ctx, KA_E_INPUT, "%s:%lld: %s", s->file->path, (long long)s->line, what);
}

static enum ka_data_record_format format_of(const struct ka_data_records *r,
                                            const struct ka_record_source *s) {
  switch (s->text.parquet ? KA_DATA_JSON : ka_data_format(s->file->path, r->ds_type)) {
  case KA_DATA_CSV:
    return KA_RECORDS_CSV;
  case KA_DATA_JSON:
    return s->pos < s->map.len && s->map.data[s->pos] == '[' ? KA_RECORDS_ARRAY : KA_RECORDS_LINES;
  default:
    return KA_RECORDS_TEXT;
  }
}

/* One CSV record from pos: quoted fields may hold separators and line ends. */
static ka_status csv_record(struct ka_data_records *r, struct ka_record_source *s,
                            struct ka_data_record *record) {
  const char *p = (const char *)s->map.data;
  size_t i = s->pos;
  int64_t line = s->line;
  bool quoted = false;
  for (; i < s->map.len && (quoted || p[i] != '\n'); i++) {
    quoted ^= p[i] == '"';
    line += p[i] == '\n';
  }
  if (quoted) {
    s->pos = s->map.len;
    return broken(r, s, "CSV: a quoted field has no closing quote");
  }
  size_t end = i > s->pos && p[i - 1] == '\r' ? i - 1 : i;
  *record = (struct ka_data_record){s, s->line, p + s->pos, end - s->pos};
  s->pos = i < s->map.len ? i + 1 : i;
  s->line = line + 1;
  return KA_STATUS_OK;
}

static ka_status json_line(struct ka_record_source *s, struct ka_data_record *record) {
  const char *p = (const char *)s->map.data;
  const char *end = memchr(p + s->pos, '\n', s->map.len - s->pos);
  size_t stop = end ? (size_t)(end - p) : s->map.len;
  *record = (struct ka_data_record){s, s->line, p + s->pos, stop - s->pos};
  s->pos = stop;
  return KA_STATUS_OK;
}

/* One element of an array: up to the comma or bracket that ends it. The element itself is checked
 * when it is parsed. */
static ka_status array_element(struct ka_data_records *r, struct ka_record_source *s,
                               struct ka_data_record *record) {
  const char *p = (const char *)s->map.data;
  size_t i = s->pos;
  int64_t depth = 0, line = s->line;
  bool quoted = false;
  for (; i < s->map.len; i++) {
    char c = p[i];
    line += c == '\n';
    if (quoted) {
      if (c == '\\') i++;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      depth++;
    } else if (depth > 0 && (c == '}' || c == ']')) {
      depth--;
    } else if (depth == 0 && (c == ',' || c == ']' || c == '}')) {
      break;
    }
  }
  if (i >= s->map.len) {
    s->pos = s->map.len;
    return broken(r, s, "not valid JSON: the array or this element has no end");
  }
  *record = (struct ka_data_record){s, s->line, p + s->pos, i - s->pos};
  s->pos = i;
  s->line = line;
  if (record->n == 0) return broken(r, s, "not valid JSON: expected an element");
  return KA_STATUS_OK;
}

/* After an element or the opening bracket: on to the next element, or the end. */
static ka_status array_next(struct ka_data_records *r, struct ka_record_source *s, bool first) {
  const char *p = (const char *)s->map.data;
  skip_space(s);
  bool end = s->pos < s->map.len && p[s->pos] == ']';
  if (!end && !first) {
    if (s->pos >= s->map.len || p[s->pos] != ',')
      return broken(r, s, "not valid JSON: expected , or ]");
    s->pos++;
    skip_space(s);
  }
  if (!end) return KA_STATUS_OK;
  s->pos++;
  skip_space(s);
  s->done = true;
  return s->pos < s->map.len ? broken(r, s, "not valid JSON: text after the array") : KA_STATUS_OK;
}

/* Text that looks like records is trained as it stands: say so. */
static void warn_rows_as_text(struct ka_data_records *r, const struct ka_record_source *s) {
  if (strcmp(r->ds_type, "auto") == 0 && s->pos < s->map.len && s->map.data[s->pos] == '{')
    ka_warn(r->ctx, "data",
            "%s: begins with { but is plain text by its name; set ds_type: json if these are rows",
            s->file->path);
}

static ka_status start_csv(struct ka_data_records *r, struct ka_record_source *s, size_t start) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_data_record record = {0};
  s->separator = ka_data_is_tsv(s->file->path) ? '\t' : ',';
  s->pos = start;
  s->line = 1;
  skip_blank_lines(s);
  KA_TRY(csv_record(r, s, &record));
  KA_TRY(ka_str_append(ctx, &s->header, record.bytes, record.n));
  skip_blank_lines(s);
  s->done = s->pos == s->map.len;
  return KA_STATUS_OK;
}

static ka_status open_source(struct ka_data_records *r, struct ka_record_source **out) {
  struct ka_ctx *ctx = r->ctx;
  *out = NULL;
  struct ka_record_source *s;
  KA_TRY(KA_NEW_HEAP(ctx, &s, 1, "data file"));
  s->file = &r->files->items[r->next_file++];
  s->line = 1;
  r->open[r->n_open++] = *out = s; /* ka_data_records_deinit closes it, whatever follows */
  KA_TRY(ka_data_text_open(ctx, &s->text, s->file->path, s->file->named));
  bool whole = !s->text.parquet && ka_data_format(s->file->path, r->ds_type) == KA_DATA_TEXT;
  while (whole && !s->text.ended) KA_TRY(ka_data_text_more(ctx, &s->text, 0));
  s->map = s->text.seen;
  if (s->map.len >= 3 && memcmp(s->map.data, "\xef\xbb\xbf", 3) == 0) s->pos = 3;
  size_t start = s->pos;
  skip_space(s);
  s->format = format_of(r, s);
  s->done = s->pos == s->map.len;
  if (s->format == KA_RECORDS_TEXT) {
    warn_rows_as_text(r, s);
    s->pos = start;
    s->line = 0;
  } else if (s->format == KA_RECORDS_ARRAY) {
    s->pos++;
    return array_next(r, s, true);
  } else if (s->format == KA_RECORDS_CSV && !s->done) {
    return start_csv(r, s, start);
  }
  return KA_STATUS_OK;
}

static ka_status next_row(struct ka_data_records *r, struct ka_record_source *s,
                          struct ka_data_record *record) {
  struct ka_ctx *ctx = r->ctx;
  switch (s->format) {
  case KA_RECORDS_TEXT:
    *record =
        (struct ka_data_record){s, 0, (const char *)s->map.data + s->pos, s->map.len - s->pos};
    s->done = true;
    return KA_STATUS_OK;
  case KA_RECORDS_ARRAY:
    KA_TRY(array_element(r, s, record));
    return array_next(r, s, false);
  case KA_RECORDS_LINES:
    KA_TRY(json_line(s, record));
    break;
  case KA_RECORDS_CSV:
    KA_TRY(csv_record(r, s, record));
    skip_blank_lines(s);
    s->done = s->pos == s->map.len;
    return KA_STATUS_OK;
  }
  skip_space(s);
  s->done = s->pos == s->map.len;
  return KA_STATUS_OK;
}

static ka_status move_window(struct ka_ctx *ctx, struct ka_record_source *s) {
  KA_TRY(ka_data_text_more(ctx, &s->text, s->pos));
  s->map = s->text.seen;
  s->pos = 0;
  return KA_STATUS_OK;
}

/* The next record, where the text at hand holds all of it. *wait: it does not, and records before
 * it in the batch keep the window where it is. */
static ka_status whole_row(struct ka_data_records *r, struct ka_record_source *s, bool others,
                           struct ka_data_record *record, bool *wait) {
  struct ka_ctx *ctx = r->ctx;
  for (;;) {
    size_t pos = s->pos;
    int64_t line = s->line;
    ka_status st = next_row(r, s, record);
    *wait = !s->text.ended && s->pos == s->map.len;
    if (!*wait) return st;
    if (!ka_ok(st)) ka_error_clear(ctx);
    s->pos = pos;
    s->line = line;
    s->done = false;
    if (others) return KA_STATUS_OK;
    KA_TRY(move_window(ctx, s));
  }
}

/* Closes what the batch before this one has used up, and moves windows on. */
static ka_status start_batch(struct ka_data_records *r) {
  struct ka_ctx *ctx = r->ctx;
  int kept = 0;
  for (int i = 0; i < r->n_open; i++) {
    struct ka_record_source *s = r->open[i];
    if (s->done) {
      close_source(s);
      continue;
    }
    r->open[kept++] = s;
    if (ka_data_text_is_window(&s->text)) continue;
    ka_map_forget(&s->map, s->forgotten, s->pos - s->forgotten);
    s->forgotten = s->pos;
  }
  r->n_open = kept;
  struct ka_record_source *last = kept > 0 ? r->open[kept - 1] : NULL;
  bool enough = !last || !ka_data_text_is_window(&last->text) || last->text.ended ||
                last->map.len - last->pos > KA_DATA_WINDOW / 4;
  return enough ? KA_STATUS_OK : move_window(ctx, last);
}

static ka_status next_batch(struct ka_data_records *r,
                            struct ka_data_record records[KA_RECORDS_BATCH], int *n) {
  struct ka_ctx *ctx = r->ctx;
  size_t n_bytes = 0;
  bool wait = false;
  *n = 0;
  KA_TRY(start_batch(r));
  while (*n < KA_RECORDS_BATCH && n_bytes < KA_RECORDS_BATCH_BYTES) {
    struct ka_record_source *s = r->n_open > 0 ? r->open[r->n_open - 1] : NULL;
    if (!s || s->done) {
      if (r->next_file == r->files->n) break;
      if (r->n_open == KA_RECORDS_BATCH) {
        if (*n > 0) break;
        KA_TRY(start_batch(r)); /* nothing but empty files so far */
      }
      KA_TRY(open_source(r, &s));
      continue;
    }
    KA_TRY(whole_row(r, s, *n > 0, &records[*n], &wait));
    if (wait) break;
    n_bytes += records[(*n)++].n;
  }
  return KA_STATUS_OK;
}

ka_status ka_data_records_next(struct ka_data_records *r,
                               struct ka_data_record records[KA_RECORDS_BATCH], int *n) {
  struct ka_ctx *ctx = r->ctx;
  for (*n = 0; r->record < r->end;) {
    int found = 0;
    KA_TRY(next_batch(r, records, &found));
    if (found == 0) break;
    int from = r->first > r->record
                   ? (r->first - r->record < found ? (int)(r->first - r->record) : found)
                   : 0;
    int to = r->end - r->record < found ? (int)(r->end - r->record) : found;
    r->record += found;
    if (to <= from) continue;
    *n = to - from;
    memmove(records, records + from, (size_t)*n * sizeof *records);
    break;
  }
  return KA_STATUS_OK;
}

/* --- split ------------------------------------------------------------------- */

static ka_status count_rows(struct ka_data_records *r, int64_t *n_rows) {
  struct ka_data_record records[KA_RECORDS_BATCH];
  struct ka_data_records all = {.ctx = r->ctx, .files = r->files, .ds_type = r->ds_type};
  int n = 1;
  ka_status st = KA_STATUS_OK;
  for (*n_rows = 0; ka_ok(st) && n > 0; *n_rows += n) st = next_batch(&all, records, &n);
  ka_data_records_deinit(&all);
  return st;
}

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

ka_status ka_data_records_init(struct ka_data_records *r, struct ka_ctx *ctx,
                               const struct ka_data_files *files, const char *ds_type,
                               const char *split, const char *what) {
  *r = (struct ka_data_records){.ctx = ctx, .files = files, .ds_type = ds_type, .end = INT64_MAX};
  const char *open = strchr(split, '['), *colon, *close;
  if (!open) return KA_STATUS_OK;
  int64_t n_rows = 0;
  colon = strchr(open, ':');
  close = strchr(open, ']');
  if (strchr(open, '%')) KA_TRY(count_rows(r, &n_rows));
  if (!colon || !close || close[1] || close < colon ||
      !parse_bound(open + 1, (size_t)(colon - open - 1), n_rows, 0, &r->first) ||
      !parse_bound(colon + 1, (size_t)(close - colon - 1), n_rows, INT64_MAX, &r->end))
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: got \"%s\", expected train, train[FROM:TO] or train[FROM%%:TO%%]", what,
                   split);
  return KA_STATUS_OK;
}

/* --- parsing ----------------------------------------------------------------- */

const char *ka_data_record_path(const struct ka_data_record *record) {
  return record->source->file->path;
}
bool ka_data_record_is_text(const struct ka_data_record *record) {
  return record->source->format == KA_RECORDS_TEXT;
}
const char *ka_data_record_unread(const struct ka_data_record *record) {
  return ka_data_text_unread(&record->source->text);
}
bool ka_data_record_named(const struct ka_data_record *record) {
  return record->source->file->named;
}

/* The next field of a CSV record into text; *at behind its separator. False at the end. */
static ka_status csv_field(struct ka_ctx *ctx, const char *rec, size_t n, char separator,
                           size_t *at, struct ka_str *text) {
  ka_str_clear(text);
  size_t i = *at;
  bool quoted = i < n && rec[i] == '"';
  for (i += quoted; i < n; i++) {
    if (quoted && rec[i] == '"') {
      if (i + 1 < n && rec[i + 1] == '"') {
        i++;
      } else {
        quoted = false;
        continue;
      }
    } else if (!quoted && rec[i] == separator) {
      break;
    }
    KA_TRY(ka_str_append(ctx, text, rec + i, 1));
  }
  *at = i + 1; /* n + 1 behind the last field */
  return KA_STATUS_OK;
}

static ka_status csv_object(struct ka_ctx *ctx, const struct ka_data_record *record, json_t *obj,
                            struct ka_str *key, struct ka_str *value) {
  const struct ka_record_source *s = record->source;
  size_t at = 0, header_at = 0;
  while (header_at <= s->header.len) {
    KA_TRY(csv_field(ctx, s->header.data, s->header.len, s->separator, &header_at, key));
    if (at > record->n) return ka_fail(ctx, KA_E_INPUT, "CSV: fewer fields than the header has");
    KA_TRY(csv_field(ctx, record->bytes, record->n, s->separator, &at, value));
    json_t *v = json_stringn(value->data ? value->data : "", value->len);
    if (!v) return ka_fail(ctx, KA_E_INPUT, "CSV: the text is not valid UTF-8");
    if (json_object_set_new(obj, key->data ? key->data : "", v) != 0)
      return ka_fail(ctx, KA_E_INPUT, "CSV: the header is not valid UTF-8");
  }
  if (at <= record->n) return ka_fail(ctx, KA_E_INPUT, "CSV: more fields than the header has");
  return KA_STATUS_OK;
}

ka_status ka_data_record_parse(struct ka_ctx *ctx, const struct ka_data_record *record,
                               json_t **out, const char **why) {
  const char *damage = NULL;
  if (why) *why = NULL;
  if (record->source->format == KA_RECORDS_CSV) {
    struct ka_str key = {0}, value = {0};
    *out = json_object();
    ka_status st = *out ? csv_object(ctx, record, *out, &key, &value)
                        : ka_fail(ctx, KA_E_MEMORY, "CSV: out of memory");
    ka_str_deinit(&key);
    ka_str_deinit(&value);
    return st;
  }
  KA_TRY(ka_json_parse_row(ctx, record->bytes, record->n, out, &damage));
  if (why) *why = damage;
  if (!why && damage) return ka_fail(ctx, KA_E_INPUT, "not valid JSON: %s", damage);
  if (!json_is_object(*out)) return ka_fail(ctx, KA_E_INPUT, "expected a JSON object");
  return KA_STATUS_OK;
}
