/* SPDX-License-Identifier: Apache-2.0
 * What a file is, and the window; source.h. */
#include "engine/data/source.h"

#include "base/log.h"
#include "engine/data/files.h"

#include <string.h>

enum { WINDOW = KA_DATA_WINDOW };

/* --- what is not read -------------------------------------------------------- */

static const struct {
  const char *begin;
  size_t n;
  bool always; /* it is data, however it was found */
  const char *what;
} refused[] = {
    {"version https://git-lfs.github.com/spec/", 40, true,
     "a Git LFS pointer, not the data; run `git lfs pull` there, or download it with `hf "
     "download`"},
    {"ARROW1", 6, true,
     "an Arrow file; convert it: python -c \"import pyarrow.feather as f, pyarrow.parquet as p; "
     "p.write_table(f.read_table('IN.arrow'), 'OUT.parquet')\""},
    {"\xff\xff\xff\xff", 4, true,
     "an Arrow stream, as save_to_disk writes; convert it: python -c \"from datasets import "
     "load_from_disk as l; l('DIRECTORY').to_parquet('OUT.parquet')\""},
    {"PK\x03\x04", 4, false, "a zip archive; unpack it first"},
    {"\xfd"
     "7zXZ",
     5, false, "compressed by xz; unpack it first: xz -d"},
    {"BZh", 3, false, "compressed by bzip2; unpack it first: bzip2 -d"},
    {"\x04\x22\x4d\x18", 4, false, "compressed by lz4; unpack it first: lz4 -d"},
    {"7z\xbc\xaf\x27\x1c", 6, false, "a 7z archive; unpack it first"},
    {"%PDF-", 5, false, "a PDF; kappa reads text"}};

static ka_status check_readable(struct ka_ctx *ctx, const struct ka_map *m, const char *path,
                                bool named) {
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    if (m->len < refused[i].n || memcmp(m->data, refused[i].begin, refused[i].n) != 0) continue;
    if (named || refused[i].always)
      return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: %s", path, refused[i].what);
    ka_warn(ctx, "data", "%s: left out: %s", path, refused[i].what);
  }
  if (m->len > 262 && memcmp(m->data + 257, "ustar", 5) == 0 && named)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: a tar archive; unpack it first", path);
  return KA_STATUS_OK;
}

/* --- opening ----------------------------------------------------------------- */

ka_status ka_data_text_open(struct ka_ctx *ctx, struct ka_data_text *t, const char *path,
                            bool named) {
  *t = (struct ka_data_text){0};
  KA_TRY(ka_map_file(ctx, path, &t->file));
  KA_TRY(check_readable(ctx, &t->file, path, named));
  enum ka_codec codec = ka_unpack_sniff(&t->file);
  t->seen = t->file;
  t->ended = true;
  if (ka_parquet_is(&t->file) || ka_data_format(path, NULL) == KA_DATA_PARQUET)
    KA_TRY(ka_parquet_open(ctx, &t->parquet, path, &t->file));
  else if (codec != KA_CODEC_NONE)
    KA_TRY(ka_unpack_open(ctx, &t->unpack, codec, path, &t->file));
  else
    return KA_STATUS_OK;
  t->ended = false;
  return ka_data_text_more(ctx, t, 0);
}

void ka_data_text_close(struct ka_data_text *t) {
  ka_unpack_close(t->unpack);
  ka_parquet_close(t->parquet);
  ka_str_deinit(&t->window);
  ka_map_drop(&t->file);
  *t = (struct ka_data_text){0};
}

ka_status ka_data_text_more(struct ka_ctx *ctx, struct ka_data_text *t, size_t used) {
  struct ka_str *w = &t->window;
  if (used > 0) memmove(w->data, w->data + used, w->len - used);
  w->len -= used;
  size_t want = w->len < WINDOW / 2 ? WINDOW - w->len : w->len; /* doubles for a row without end */
  if (t->unpack) KA_TRY(ka_unpack_read(ctx, t->unpack, want, w, &t->ended));
  for (size_t start = w->len; t->parquet && !t->ended && w->len - start < want;)
    KA_TRY(ka_parquet_next(ctx, t->parquet, w, &t->ended));
  t->seen = (struct ka_map){(const unsigned char *)(w->data ? w->data : ""), w->len};
  return KA_STATUS_OK;
}

const char *ka_data_text_unread(const struct ka_data_text *t) {
  return t->parquet ? ka_parquet_unread(t->parquet) : "";
}
