/* SPDX-License-Identifier: Apache-2.0
 * See card.h. */
#include "engine/report/card.h"

#include "base/file.h"
#include "base/log.h"
#include "engine/report/report_parts.h"

#include <string.h>

/* What tells kappa's own cards from a user's. */
static const char mark[] =
    "<!-- Written by kappa; without this line kappa leaves the file alone. -->";

enum { CARD_MOST = 4 << 20 };

static ka_status read_if_there(struct ka_arena *a, const char *dir, const char **path,
                               struct ka_str *text) {
  struct ka_ctx *ctx = a->ctx;
  KA_TRY(ka_path_join(a, path, dir, "README.md"));
  return ka_path_is_file(*path) ? ka_read_file(ctx, *path, CARD_MOST, text) : KA_STATUS_OK;
}

/* The line KEY: VALUE of a card's front matter; NULL: none. */
static const char *front_line(const struct ka_str *card, const char *key, size_t *n) {
  const char *p = card->data;
  if (!p || !ka_starts_with(p, "---\n")) return NULL;
  for (p += 4; *p && !ka_starts_with(p, "---"); p += strcspn(p, "\n"), p += *p == '\n')
    if (ka_starts_with(p, key)) {
      *n = strcspn(p, "\n");
      return p;
    }
  return NULL;
}

static ka_status front_matter(struct ka_ctx *ctx, struct ka_str *out, const struct ka_str *base,
                              const struct ka_report_card *card) {
  static const char *const kept[] = {"license:", "license_name:", "license_link:"};
  KA_TRY(ka_str_puts(ctx, out, "---\nlibrary_name: transformers\npipeline_tag: text-generation\n"));
  for (int i = 0; i < 3; i++) {
    size_t n;
    const char *line = front_line(base, kept[i], &n);
    if (line) KA_TRY(ka_str_printf(ctx, out, "%.*s\n", (int)n, line));
  }
  if (card->base) KA_TRY(ka_str_printf(ctx, out, "base_model: %s\n", card->base));
  if (card->n_datasets > 0) KA_TRY(ka_str_puts(ctx, out, "datasets:\n"));
  for (int64_t i = 0; i < card->n_datasets; i++)
    KA_TRY(ka_str_printf(ctx, out, "- %s\n", card->datasets[i]));
  KA_TRY(ka_str_puts(ctx, out, "tags:\n- kappa\n- kappatune\n---\n\n"));
  return ka_str_printf(ctx, out, "%s\n\n", mark);
}

static bool is_repair(const json_t *root) {
  return strcmp(ka_report_text(root, "kind"), "repair") == 0;
}

static const char *setting(const json_t *root, const char *name) {
  const json_t *pair;
  size_t i;
  json_array_foreach(json_object_get(root, "settings"), i, pair) {
    const char *key = json_string_value(json_array_get(pair, 0));
    if (key && strcmp(key, name) == 0) return json_string_value(json_array_get(pair, 1));
  }
  return NULL;
}

static void settings(struct ka_page *p, const json_t *root) {
  const json_t *pair;
  size_t i;
  ka_page_section(p, is_repair(root) ? "How it was made" : "How it was trained");
  ka_page_table(p, "|");
  json_array_foreach(json_object_get(root, "settings"), i, pair) {
    const char *name = json_string_value(json_array_get(pair, 0));
    const char *value = json_string_value(json_array_get(pair, 1));
    ka_page_cell(p, "dim", "%s", name ? name : "");
    ka_page_cell(p, "long", "%s", value ? value : "");
  }
  ka_page_table_end(p);
}

static void fill(struct ka_page *p, const json_t *root, const char *name) {
  const char *what = setting(root, "selection");
  double params = ka_report_number(root, "params"),
         trained = ka_report_number(root, "trained_params");
  if (params > 0 && trained == params)
    ka_page_text(p, "", "All of its %.4g million parameters were trained.", params / 1e6);
  else if (params > 0)
    ka_page_text(
        p, "",
        "Of its %.4g million parameters %.4g million (%.3g %%) were trained: %s. All other "
        "weights are those of the base model, byte for byte. selection.json says which "
        "parts changed.",
        params / 1e6, trained / 1e6, 100 * trained / params, what ? what : "all of them");
  ka_report_measures(p, root);
  settings(p, root);
  ka_page_section(p, "Use");
  char code[512];
  snprintf(code, sizeof code,
           "from transformers import pipeline\n\ngenerate = pipeline(\"text-generation\", "
           "\"%.200s\")\nprint(generate(\"...\", max_new_tokens=50)[0][\"generated_text\"])",
           name);
  ka_page_code(p, code);
}

static ka_status write_card(struct ka_arena *a, const json_t *root,
                            const struct ka_report_card *card, struct ka_str texts[3]) {
  struct ka_ctx *ctx = a->ctx;
  const char *path, *base_path, *base = setting(root, "base model");
  struct ka_str *there = &texts[0], *old = &texts[1], *out = &texts[2];
  struct ka_page page;
  KA_TRY(read_if_there(a, card->dir, &path, there));
  KA_TRY(read_if_there(a, card->base_dir, &base_path, old));
  bool carried = there->data && old->data && there->len == old->len &&
                 memcmp(there->data, old->data, old->len) == 0;
  if (there->data && !carried && !strstr(there->data, mark)) {
    ka_info(ctx, "train", "%s is not kappa's: left as it is", path);
    return KA_STATUS_OK;
  }
  KA_TRY(front_matter(ctx, out, old, card));
  const char *name = ka_path_base(card->dir), *subtitle;
  KA_TRY(ka_arena_printf(a, &subtitle, "%s, %s by kappa.", base ? base : "A model",
                         is_repair(root) ? "tuned, then repaired" : "fine-tuned"));
  ka_page_begin(ctx, &page, name, subtitle);
  fill(&page, root, name);
  ka_status st = ka_page_end(&page);
  if (ka_ok(st)) st = ka_str_append(ctx, out, page.md.data, page.md.len);
  if (ka_ok(st)) st = ka_write_file(ctx, path, out->data, out->len);
  ka_page_deinit(&page);
  return st;
}

ka_status ka_report_card_write(struct ka_ctx *ctx, const json_t *root,
                               const struct ka_report_card *card) {
  struct ka_arena a;
  struct ka_str texts[3] = {{0}};
  ka_arena_init(&a, ctx, "model card");
  ka_status st = write_card(&a, root, card, texts);
  for (int i = 0; i < 3; i++) ka_str_deinit(&texts[i]);
  ka_arena_deinit(&a);
  return st;
}
