/* SPDX-License-Identifier: Apache-2.0
 * Walking directories and globs, and what of a directory is data. */
#include "engine/data/files.h"

#include "engine/formats/hub.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 32 };

struct found {
  const char *path;
  const char *below; /* under the directory it was found in; NULL: not found by walking */
  bool named;
  dev_t dev;
  ino_t ino;
  int64_t order;
};

struct walker {
  struct ka_ctx *ctx;
  struct ka_arena *a;
  const struct ka_data_choice *choice;
  struct found *items;
  int64_t n, cap;
};

/* --- names ------------------------------------------------------------------- */

static const struct {
  const char *end;
  enum ka_data_format format;
} formats[] = {
    {".jsonl", KA_DATA_JSON},  {".json", KA_DATA_JSON},       {".jsonlines", KA_DATA_JSON},
    {".ndjson", KA_DATA_JSON}, {".jl", KA_DATA_JSON},         {".csv", KA_DATA_CSV},
    {".tsv", KA_DATA_CSV},     {".parquet", KA_DATA_PARQUET}, {".pq", KA_DATA_PARQUET}};

/* Length of the name without .gz or .zst. */
static size_t bare_length(const char *name) {
  static const char *const ends[] = {".gz", ".gzip", ".zst", ".zstd"};
  size_t n = strlen(name);
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
    size_t k = strlen(ends[i]);
    if (n > k && strcasecmp(name + n - k, ends[i]) == 0) return n - k;
  }
  return n;
}

static bool name_ends(const char *name, const char *end) {
  size_t n = bare_length(name), k = strlen(end);
  return n >= k && strncasecmp(name + n - k, end, k) == 0;
}

enum ka_data_format ka_data_format(const char *path, const char *ds_type) {
  static const char *const words[] = {"text", "json", "csv", "parquet"};
  for (int i = 0; ds_type && i < 4; i++)
    if (strcmp(ds_type, words[i]) == 0) return (enum ka_data_format)i;
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
    if (name_ends(path, formats[i].end)) return formats[i].format;
  return KA_DATA_TEXT;
}

bool ka_data_is_tsv(const char *path) { return name_ends(path, ".tsv"); }

/* What comes with data and is none. */
static bool is_card(const char *name) {
  static const char *const texts[] = {
      "README*",    "LICENSE*", "LICENCE*",  "COPYING*",         "NOTICE*",          "CITATION*",
      "CHANGELOG*", "_SUCCESS", "_metadata", "_common_metadata", "requirements*.txt"};
  static const char *const objects[] = {"dataset_info.json", "dataset_infos.json",
                                        "dataset_dict.json", "state.json", "croissant*.json"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    if (ka_data_format(name, NULL) == KA_DATA_TEXT && fnmatch(texts[i], name, FNM_CASEFOLD) == 0)
      return true;
  for (size_t i = 0; i < sizeof objects / sizeof *objects; i++)
    if (fnmatch(objects[i], name, FNM_CASEFOLD) == 0) return true;
  return false;
}

/* --- splits ------------------------------------------------------------------ */

static const struct {
  const char *word, *split;
} split_words[] = {{"train", "train"},           {"training", "train"},   {"test", "test"},
                   {"testing", "test"},          {"eval", "test"},        {"evaluation", "test"},
                   {"validation", "validation"}, {"valid", "validation"}, {"val", "validation"},
                   {"dev", "validation"}};

static const char *split_of_word(const char *s, size_t n) {
  for (size_t i = 0; i < sizeof split_words / sizeof *split_words; i++)
    if (strlen(split_words[i].word) == n && strncasecmp(split_words[i].word, s, n) == 0)
      return split_words[i].split;
  return NULL;
}

/* The split that one component of a path names, a word of it between - _ . and digits, or NULL.
 * whole: the first word alone counts, as far as only digits and "of" follow it. */
static const char *split_of_name(const char *s, size_t n, bool whole) {
  const char *found = NULL;
  for (size_t at = 0; at < n;) {
    size_t k = 0;
    while (at + k < n && isalpha((unsigned char)s[at + k])) k++;
    const char *split = split_of_word(s + at, k);
    bool other = k > 0 && !split && !(k == 2 && strncasecmp(s + at, "of", 2) == 0);
    if (whole && (other || (split && found))) return NULL;
    if (split && !found) found = split;
    at += k > 0 ? k : 1;
  }
  return found;
}

/* Texts must be named after the split alone: "test_of_time.txt" is a text like others. */
static const char *split_of(const struct found *f, const char *ds_type) {
  const char *name = ka_path_base(f->below);
  bool text = ka_data_format(name, ds_type) == KA_DATA_TEXT;
  const char *dot = strchr(name, '.');
  size_t stem = dot && text ? (size_t)(dot - name) : bare_length(name);
  const char *split = split_of_name(name, stem, text);
  for (const char *end = name; !split && end > f->below;) { /* the directories, deepest first */
    const char *start = --end;
    while (start > f->below && start[-1] != '/') start--;
    split = split_of_name(start, (size_t)(end - start), true);
    end = start;
  }
  return split;
}

/* Is a split one of "train+validation[:10]"? */
static bool wanted_split(const char *wanted, const char *split) {
  for (const char *p = wanted; *p && *p != '[';) {
    size_t n = strcspn(p, "+[");
    const char *known = split_of_word(p, n);
    if (known && strcmp(known, split) == 0) return true;
    p += n + (p[n] == '+');
  }
  return false;
}

/* --- walking ----------------------------------------------------------------- */

static bool matches(const struct ka_key_texts *globs, const char *below) {
  for (int64_t i = 0; globs && i < globs->n; i++)
    if (fnmatch(globs->items[i], below, 0) == 0 ||
        fnmatch(globs->items[i], ka_path_base(below), 0) == 0)
      return true;
  return false;
}

static ka_status add_file(struct walker *w, const char *path, const char *below,
                          const struct stat *info, bool named) {
  struct ka_ctx *ctx = w->ctx;
  void *grown = w->items;
  KA_TRY(ka_grow(ctx, &grown, &w->cap, w->n + 1, sizeof *w->items, "data files"));
  w->items = grown;
  w->items[w->n] = (struct found){path, below, named, info->st_dev, info->st_ino, w->n};
  w->n++;
  return KA_STATUS_OK;
}

static bool narrowed(const struct walker *w) {
  return w->choice->data_files && w->choice->data_files->n > 0;
}

/* `below` is the path under the directory that the job names. */
static ka_status walk_dir(struct walker *w, const char *dir, const char *below, int depth) {
  struct ka_ctx *ctx = w->ctx;
  const char **names, *path, *rest;
  int64_t n = 0;
  if (depth == MAX_DEPTH)
    return ka_fail(ctx, KA_E_INPUT, "%s: directories nested deeper than %d", dir, MAX_DEPTH);
  KA_TRY(ka_list_dir(w->a, dir, &names, &n));
  for (int64_t i = 0; i < n; i++) {
    struct stat info, link;
    if (names[i][0] == '.') continue;
    KA_TRY(ka_path_join(w->a, &path, dir, names[i]));
    KA_TRY(ka_path_join(w->a, &rest, below, names[i]));
    if (lstat(path, &link) != 0 || stat(path, &info) != 0) continue; /* a dangling link */
    if (S_ISDIR(info.st_mode)) {
      if (!S_ISLNK(link.st_mode)) KA_TRY(walk_dir(w, path, rest, depth + 1));
    } else if (S_ISREG(info.st_mode) && (!narrowed(w) || matches(w->choice->data_files, rest)) &&
               !matches(w->choice->exclude_files, rest)) {
      KA_TRY(add_file(w, path, rest, &info, false));
    }
  }
  return KA_STATUS_OK;
}

static ka_status add_path(struct walker *w, const char *path, bool named) {
  struct ka_ctx *ctx = w->ctx;
  struct stat info;
  if (stat(path, &info) != 0) return ka_fail(ctx, KA_E_INPUT, "%s: %s", path, strerror(errno));
  if (S_ISDIR(info.st_mode)) {
    KA_TRY(ka_hub_snapshot(w->a, path, &path));
    return walk_dir(w, path, "", 0);
  }
  if (!S_ISREG(info.st_mode))
    return ka_fail(ctx, KA_E_INPUT, "%s: neither a file nor a directory", path);
  const char *kept;
  if (matches(w->choice->exclude_files, path)) return KA_STATUS_OK;
  KA_TRY(ka_arena_str(w->a, &kept, path, strlen(path)));
  return add_file(w, kept, NULL, &info, named);
}

static ka_status add_glob(struct walker *w, const char *pattern) {
  struct ka_ctx *ctx = w->ctx;
  glob_t g;
  int rc = glob(pattern, 0, NULL, &g);
  if (rc == GLOB_NOSPACE) return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", pattern);
  ka_status st = KA_STATUS_OK;
  if (rc != 0) st = ka_fail(ctx, KA_E_INPUT, "%s: no file matches", pattern);
  for (size_t i = 0; rc == 0 && i < g.gl_pathc && st.code == KA_OK; i++)
    st = add_path(w, g.gl_pathv[i], false);
  globfree(&g);
  return st;
}

static int by_inode(const void *a, const void *b) {
  const struct found *x = a, *y = b;
  if (x->dev != y->dev) return x->dev < y->dev ? -1 : 1;
  if (x->ino != y->ino) return x->ino < y->ino ? -1 : 1;
  return x->order < y->order ? -1 : 1;
}

static int by_order(const void *a, const void *b) {
  const struct found *x = a, *y = b;
  return x->order < y->order ? -1 : x->order > y->order;
}

/* Keeps the first of files that are the same. */
static void drop_repeated(struct walker *w) {
  int64_t kept = 0;
  if (w->n == 0) return;
  qsort(w->items, (size_t)w->n, sizeof *w->items, by_inode);
  for (int64_t i = 0; i < w->n; i++)
    if (i == 0 || w->items[i].dev != w->items[kept - 1].dev ||
        w->items[i].ino != w->items[kept - 1].ino)
      w->items[kept++] = w->items[i];
  w->n = kept;
  qsort(w->items, (size_t)w->n, sizeof *w->items, by_order);
}

/* --- what of it is data ------------------------------------------------------- */

enum { NAMES_SAID = 5 };

struct left_out {
  struct ka_str text;
  int64_t n;
};

static ka_status leave_out(struct ka_ctx *ctx, struct left_out *l, const struct found *f,
                           const char *why) {
  if (l->n++ >= NAMES_SAID) return KA_STATUS_OK;
  return ka_str_printf(ctx, &l->text, "%s%.200s%s", l->text.len > 0 ? ", " : "",
                       f->below ? f->below : ka_path_base(f->path), why);
}

static ka_status drop_cards(struct walker *w, struct left_out *l) {
  struct ka_ctx *ctx = w->ctx;
  const char *type = w->choice->ds_type;
  bool rows = false;
  int64_t kept = 0;
  for (int64_t i = 0; i < w->n; i++)
    rows |= w->items[i].below && !is_card(ka_path_base(w->items[i].below)) &&
            ka_data_format(w->items[i].path, type) != KA_DATA_TEXT;
  for (int64_t i = 0; i < w->n; i++) {
    struct found *f = &w->items[i];
    bool text = ka_data_format(f->path, type) == KA_DATA_TEXT;
    bool card = !f->named && !narrowed(w) && is_card(ka_path_base(f->path));
    if (card || (f->below && !narrowed(w) && rows && text && !name_ends(f->path, ".txt") &&
                 !name_ends(f->path, ".arrow")))
      KA_TRY(leave_out(ctx, l, f, ""));
    else
      w->items[kept++] = *f;
  }
  w->n = kept;
  return KA_STATUS_OK;
}

static ka_status drop_other_splits(struct walker *w, struct left_out *l) {
  struct ka_ctx *ctx = w->ctx;
  const char *wanted = w->choice->split, *type = w->choice->ds_type, *split;
  bool there = false, all;
  int64_t kept = 0, n_walked = 0;
  if (!wanted || narrowed(w)) return KA_STATUS_OK;
  for (int64_t i = 0; i < w->n; i++) {
    split = w->items[i].below ? split_of(&w->items[i], type) : NULL;
    n_walked += w->items[i].below != NULL;
    there |= split && wanted_split(wanted, split);
  }
  all = strncmp(wanted, "all", 3) == 0;
  if (!there && n_walked == w->n && n_walked > 0 && !all && !wanted_split(wanted, "train"))
    return ka_fail(ctx, KA_E_INPUT, "%s: no file whose name says that it is of split %s",
                   w->items[0].path, wanted);
  for (int64_t i = 0; i < w->n; i++) {
    split = w->items[i].below && there && !all ? split_of(&w->items[i], type) : NULL;
    if (split && !wanted_split(wanted, split))
      KA_TRY(leave_out(ctx, l, &w->items[i], " (another split)"));
    else
      w->items[kept++] = w->items[i];
  }
  w->n = kept;
  return KA_STATUS_OK;
}

static ka_status find_all(struct walker *w, const struct ka_key_texts *paths, struct left_out *l) {
  struct ka_ctx *ctx = w->ctx;
  for (int64_t i = 0; i < paths->n; i++) {
    const char *p = paths->items[i];
    if (!ka_path_exists(p) && strpbrk(p, "*?["))
      KA_TRY(add_glob(w, p));
    else
      KA_TRY(add_path(w, p, true));
  }
  drop_repeated(w);
  bool any = w->n > 0;
  KA_TRY(drop_cards(w, l));
  KA_TRY(drop_other_splits(w, l));
  if (w->n == 0)
    return ka_fail(ctx, KA_E_INPUT, "%s: no files%s", paths->n > 0 ? paths->items[0] : "data",
                   narrowed(w) ? " match data_files"
                   : any       ? " with data: a card or a licence is no training text"
                               : "");
  return KA_STATUS_OK;
}

static ka_status say_left_out(struct ka_arena *a, struct left_out *l, const char **out) {
  if (l->n > NAMES_SAID)
    return ka_arena_printf(a, out, "%s and %lld more", l->text.data, (long long)l->n - NAMES_SAID);
  return ka_arena_str(a, out, l->n > 0 ? l->text.data : "", l->text.len);
}

ka_status ka_data_files(struct ka_arena *a, const struct ka_key_texts *paths,
                        const struct ka_data_choice *choice, struct ka_data_files *out) {
  static const struct ka_data_choice everything = {0};
  struct ka_ctx *ctx = a->ctx;
  struct walker w = {.ctx = ctx, .a = a, .choice = choice ? choice : &everything};
  struct left_out l = {0};
  ka_status st = KA_STATUS_OK;
  *out = (struct ka_data_files){.left_out = ""};
  KA_TRY_GOTO(find_all(&w, paths, &l), out);
  KA_TRY_GOTO(KA_NEW(a, &out->items, w.n, "data files"), out);
  out->n = w.n;
  for (int64_t i = 0; i < w.n; i++)
    out->items[i] = (struct ka_data_file){w.items[i].path, w.items[i].named};
  st = say_left_out(a, &l, &out->left_out);
out:
  ka_str_deinit(&l.text);
  ka_free(w.items);
  return st;
}
