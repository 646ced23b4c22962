/* SPDX-License-Identifier: Apache-2.0
 * Rows of train_log.jsonl; see jsonl.h. */
#include "engine/report/jsonl.h"

#include "base/file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static ka_status read_rows(struct ka_ctx *ctx, const char *path, const struct ka_str *text,
                           json_t *rows) {
  for (size_t at = 0; at < text->len;) {
    const char *line = text->data + at, *end = memchr(line, '\n', text->len - at);
    if (!end) break; /* cut off by a kill */
    json_t *row = NULL;
    KA_TRY(ka_json_parse(ctx, line, (size_t)(end - line), path, &row));
    if (json_array_append_new(rows, row) != 0)
      return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", path);
    at += (size_t)(end - line) + 1;
  }
  return KA_STATUS_OK;
}

ka_status ka_jsonl_read(struct ka_ctx *ctx, const char *path, json_t **rows) {
  struct ka_str text = {0};
  ka_status st = KA_STATUS_OK;
  *rows = json_array();
  if (!*rows) return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", path);
  if (ka_path_exists(path)) {
    KA_TRY_GOTO(ka_read_file(ctx, path, 0, &text), out);
    KA_TRY_GOTO(read_rows(ctx, path, &text, *rows), out);
  }
out:
  ka_str_deinit(&text);
  if (!ka_ok(st)) {
    json_decref(*rows);
    *rows = NULL;
  }
  return st;
}

/* Byte for byte the lines that stay: reading and printing again could change a number. */
static ka_status keep_rows(struct ka_ctx *ctx, const char *path, const struct ka_str *text,
                           int64_t keep_through, struct ka_str *kept) {
  for (size_t at = 0; at < text->len;) {
    const char *line = text->data + at, *end = memchr(line, '\n', text->len - at);
    if (!end) break;
    size_t n = (size_t)(end - line);
    json_t *row = NULL;
    KA_TRY(ka_json_parse(ctx, line, n, path, &row));
    int64_t step = 0;
    ka_status st = ka_json_i64(ctx, path, row, "step", &step);
    json_decref(row);
    KA_TRY(st);
    if (step <= keep_through) KA_TRY(ka_str_append(ctx, kept, line, n + 1));
    at += n + 1;
  }
  return KA_STATUS_OK;
}

ka_status ka_jsonl_open(struct ka_ctx *ctx, struct ka_jsonl *j, const char *path,
                        int64_t keep_through) {
  *j = (struct ka_jsonl){.path = path};
  struct ka_str text = {0}, kept = {0};
  ka_status st = KA_STATUS_OK;
  if (ka_path_exists(path)) {
    KA_TRY_GOTO(ka_read_file(ctx, path, 0, &text), out);
    KA_TRY_GOTO(keep_rows(ctx, path, &text, keep_through, &kept), out);
    if (kept.len != text.len)
      KA_TRY_GOTO(ka_write_file(ctx, path, kept.data ? kept.data : "", kept.len), out);
  }
  j->f = fopen(path, "ab");
  if (!j->f) st = ka_fail(ctx, KA_E_IO, "%s: %s", path, strerror(errno));
out:
  ka_str_deinit(&text);
  ka_str_deinit(&kept);
  return st;
}

ka_status ka_jsonl_row(struct ka_ctx *ctx, struct ka_jsonl *j, json_t *row) {
  if (!row) return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", j->path ? j->path : "log");
  if (!j->f) {
    json_decref(row);
    return KA_STATUS_OK;
  }
  ka_str_clear(&j->line);
  ka_status st = ka_json_dump_line(ctx, row, &j->line);
  json_decref(row);
  KA_TRY(st);
  if (j->line.len == 0 || j->line.data[j->line.len - 1] != '\n')
    KA_TRY(ka_str_puts(ctx, &j->line, "\n"));
  if (fwrite(j->line.data, 1, j->line.len, j->f) != j->line.len || fflush(j->f) != 0)
    return ka_fail(ctx, KA_E_IO, "%s: write failed: %s", j->path, strerror(errno));
  return KA_STATUS_OK;
}

ka_status ka_jsonl_sync(struct ka_ctx *ctx, struct ka_jsonl *j) {
  if (!j->f) return KA_STATUS_OK;
  if (fflush(j->f) != 0 || fsync(fileno(j->f)) != 0)
    return ka_fail(ctx, KA_E_IO, "%s: write failed: %s", j->path, strerror(errno));
  return KA_STATUS_OK;
}

void ka_jsonl_close(struct ka_jsonl *j) {
  if (j->f) fclose(j->f);
  j->f = NULL;
  ka_str_deinit(&j->line);
}
