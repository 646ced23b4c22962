/* SPDX-License-Identifier: Apache-2.0
 * The report room: event files read back with their checksums, log rows cut on resume, the bar, the
 * page. */
#include "tests/support/test.h"

#include "engine/report/card.h"
#include "engine/report/jsonl.h"
#include "engine/report/progress.h"
#include "engine/report/report.h"
#include "engine/report/tensorboard.h"

#include <math.h>
#include <string.h>

static void crc_known_values(void **state) {
  (void)state;
  unsigned char bytes[32];
  memset(bytes, 0, sizeof bytes); /* RFC 3720 appendix B.4 */
  assert_int_equal(ka_crc32c(bytes, 32), 0x8a9136aa);
  memset(bytes, 0xff, sizeof bytes);
  assert_int_equal(ka_crc32c(bytes, 32), 0x62a8ab43);
  assert_int_equal(ka_crc32c("123456789", 9), 0xe3069283);
}

/* A reader of its own: protobuf fields by number, nested messages flattened. */
struct event {
  double wall_time;
  int64_t step;
  char version[32], tag[64];
  float value;
  int status;
};

static uint64_t varint(const unsigned char **p) {
  uint64_t v = 0;
  for (int shift = 0;; shift += 7) {
    v |= (uint64_t)(**p & 127) << shift;
    if (*(*p)++ < 128) return v;
  }
}

static void parse(const unsigned char *p, size_t n, int depth, struct event *e) {
  for (const unsigned char *end = p + n; p < end;) {
    uint64_t key = varint(&p), field = key >> 3;
    if ((key & 7) == 0) {
      uint64_t v = varint(&p);
      if (depth == 0 && field == 2) e->step = (int64_t)v;
      if (depth == 1 && field == 1) e->status = (int)v;
    } else if ((key & 7) == 1) {
      memcpy(&e->wall_time, p, 8);
      p += 8;
    } else if ((key & 7) == 5) {
      memcpy(&e->value, p, 4);
      p += 4;
    } else {
      size_t len = varint(&p);
      assert_int_equal(key & 7, 2);
      assert_true(p + len <= end);
      if (depth == 0 && field == 3) memcpy(e->version, p, len);
      if (depth == 2 && field == 1) memcpy(e->tag, p, len);
      if (depth == 0 && (field == 5 || field == 7)) parse(p, len, 1, e);
      if (depth == 1 && field == 1) parse(p, len, 2, e);
      p += len;
    }
  }
}

static int read_events(struct ka_ctx *ctx, const char *path, struct event *events, int max) {
  struct ka_str all = {0};
  T_OK(ka_read_file(ctx, path, 0, &all));
  int n = 0;
  for (size_t at = 0; at < all.len; n++) {
    uint64_t len;
    uint32_t crc;
    assert_true(n < max);
    memcpy(&len, all.data + at, 8);
    memcpy(&crc, all.data + at + 8, 4);
    assert_int_equal(crc, ka_crc32c_masked(all.data + at, 8));
    assert_true(at + 16 + len <= all.len);
    memcpy(&crc, all.data + at + 12 + len, 4);
    assert_int_equal(crc, ka_crc32c_masked(all.data + at + 12, len));
    memset(&events[n], 0, sizeof events[n]);
    parse((const unsigned char *)all.data + at + 12, len, 0, &events[n]);
    at += 16 + len;
  }
  ka_str_deinit(&all);
  return n;
}

static void tensorboard_reads_back(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  struct ka_tensorboard tb;
  struct event e[8];
  const char *dir = t_str("%s/runs", t_temp_dir());
  T_OK(ka_tb_open(ctx, &tb, dir, 300));
  T_OK(ka_tb_scalar(ctx, &tb, "train/loss", 300, 2.5));
  T_OK(ka_tb_scalar(ctx, &tb, "eval/loss", 1000000, -0.125));
  T_OK(ka_tb_flush(ctx, &tb));
  ka_tb_close(&tb);
  T_OK(ka_tb_scalar(ctx, &tb, "after", 1, 1)); /* closed: nothing */
  assert_int_equal(read_events(ctx, tb.path, e, 8), 4);
  assert_string_equal(e[0].version, "brain.Event:2");
  assert_true(e[0].wall_time > 1e9);
  assert_int_equal(e[1].status, 1); /* start: drop what was logged from here on */
  assert_int_equal(e[1].step, 300);
  assert_string_equal(e[2].tag, "train/loss");
  assert_int_equal(e[2].step, 300);
  assert_true(e[2].value == 2.5f);
  assert_string_equal(e[3].tag, "eval/loss");
  assert_int_equal(e[3].step, 1000000);
  assert_true(e[3].value == -0.125f);
}

static void log_rows_are_cut(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  const char *path = t_str("%s/train_log.jsonl", t_temp_dir());
  const char *text = "{\"step\":1,\"loss\":0.10000000000000001}\n{\"step\":2,\"loss\":2}\n"
                     "{\"step\":2,\"eval_loss\":3}\n{\"step\":3,\"loss\":4}\n{\"step\":4,\"lo";
  T_OK(ka_write_file(ctx, path, text, strlen(text)));
  struct ka_jsonl log;
  T_OK(ka_jsonl_open(ctx, &log, path, 2));
  T_OK(ka_jsonl_row(ctx, &log, json_pack("{s:i}", "step", 3)));
  T_OK(ka_jsonl_sync(ctx, &log));
  ka_jsonl_close(&log);
  struct ka_str all = {0};
  T_OK(ka_read_file(ctx, path, 0, &all));
  assert_string_equal(all.data,
                      "{\"step\":1,\"loss\":0.10000000000000001}\n{\"step\":2,\"loss\":2}\n"
                      "{\"step\":2,\"eval_loss\":3}\n{\"step\":3}\n");
  ka_str_deinit(&all);
  json_t *rows;
  T_OK(ka_jsonl_read(ctx, path, &rows));
  assert_int_equal(json_array_size(rows), 4);
  json_decref(rows);
  T_OK(ka_jsonl_open(ctx, &log, path, -1));
  ka_jsonl_close(&log);
  T_OK(ka_jsonl_read(ctx, path, &rows));
  assert_int_equal(json_array_size(rows), 0);
  json_decref(rows);
}

static void bar_fills(void **state) {
  (void)state;
  char buf[128];
  ka_progress_bar(buf, sizeof buf, 0, 4);
  assert_string_equal(buf, "····");
  ka_progress_bar(buf, sizeof buf, 0.5, 4);
  assert_string_equal(buf, "██··");
  ka_progress_bar(buf, sizeof buf, 0.625, 4);
  assert_string_equal(buf, "██▌·");
  ka_progress_bar(buf, sizeof buf, 7, 4);
  assert_string_equal(buf, "████");
  assert_int_equal(ka_progress_bar(buf, 5, 1, 4), 3); /* no half characters */
}

static json_t *parsed(struct ka_ctx *ctx, const char *text) {
  json_t *root = NULL;
  T_OK(ka_json_parse(ctx, text, strlen(text), "report", &root));
  return root;
}

/* Writes a report, gives its page and its Markdown. */
static void written(struct ka_ctx *ctx, const char *text, struct ka_str *page, struct ka_str *md) {
  const char *dir = t_temp_dir();
  json_t *root = parsed(ctx, text), *back = NULL;
  T_OK(ka_report_write(ctx, root, dir));
  T_OK(ka_read_file(ctx, t_str("%s/report.html", dir), 0, page));
  T_OK(ka_read_file(ctx, t_str("%s/report.md", dir), 0, md));
  T_OK(ka_json_load(ctx, t_str("%s/report.json", dir), &back));
  assert_true(json_equal(root, back));
  json_decref(root);
  json_decref(back);
  assert_null(strstr(page->data, "nan"));
  assert_null(strstr(page->data, "http"));
  assert_null(strstr(page->data, "<script"));
  assert_null(strstr(md->data, "nan"));
}

static void has(const struct ka_str *text, const char *part) {
  if (!strstr(text->data, part)) fail_msg("no \"%s\" in:\n%s", part, text->data);
}

static void report_of_a_run(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  struct ka_str page = {0}, md = {0};
  ka_ctx_init(ctx);
  written(
      ctx,
      "{\"title\": \"a < b & \\\"c\\\"\", \"subtitle\": \"x|y\", \"params\": 200,"
      " \"trained_params\": 50, \"settings\": [[\"base\", \"<dir>\"]],"
      " \"measures\": [{\"name\": \"wiki\", \"role\": \"old\", \"metric\": \"loss\", \"base\": 1.0,"
      "  \"value\": 1.25, \"gain\": -0.25, \"chance\": null, \"kl\": 0.5, \"n\": 10,"
      "  \"unit\": \"tokens\"}],"
      " \"scores\": {\"learned\": null, \"forgot\": 0.25},"
      " \"curves\": {\"loss\": [[1, 100.46], [2, 100.52], [3, 100.6]], \"kl\": [[1, 0], [2, 1]]},"
      " \"units\": [{\"name\": \"x.q\", \"role\": \"q\", \"layer\": 0, \"params\": 64,"
      "   \"trained\": 1.0, \"kappa_before\": 10, \"kappa_after\": 11},"
      "  {\"name\": \"x.k\", \"role\": \"k\", \"layer\": 1, \"params\": 64, \"trained\": 0.0,"
      "   \"kappa_before\": 2462.4, \"kappa_after\": null},"
      "  {\"name\": \"norm\", \"role\": \"?\", \"layer\": 1, \"params\": 4, \"trained\": 1.0,"
      "   \"kappa_before\": null, \"kappa_after\": null}],"
      " \"commands\": [\"kappa train 'a b'\"], \"unknown\": {}}",
      &page, &md);
  has(&page, "<h1>a &lt; b &amp; &quot;c&quot;</h1>");
  has(&page, "&lt;dir&gt;");
  has(&page, "<polyline");
  has(&page, ">100.5</text>"); /* labels that differ, on an axis that is no magnifying glass */
  has(&page, ">101.0</text>");
  assert_null(strstr(page.data, "Divergence")); /* two points are in the table */
  has(&page, "Trained 25.00 % of the parameters, forgot 25.00 %.");
  assert_null(strstr(page.data, "chance")); /* no measure has one */
  has(&page, "<td class=\"bad n\">-25.00 %</td>");
  has(&page, "+10.00 %");
  has(&page, "<details><summary>The 2 trained units, the most changed first</summary>");
  has(&page, "2462, by the logarithm"); /* the scale of the heat map */
  has(&page, "largest singular value divided by its smallest");
  has(&page, ">2462</text>"); /* in the heat map */
  assert_null(strstr(page.data, "NaN"));
  has(&md, "# a \\< b & \"c\"\n\nx\\|y\n");
  has(&md, "| wiki | old | loss | 1.0000 | 1.2500 | -25.00 % |");
  has(&md, "```\nkappa train 'a b'\n```");
  assert_null(strstr(md.data, "<svg"));
  ka_str_deinit(&page);
  ka_str_deinit(&md);
}

/* Nothing but a title; then members of the wrong types. */
static void report_of_nothing(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  struct ka_str page = {0}, md = {0};
  ka_ctx_init(ctx);
  written(ctx, "{\"title\": \"empty\"}", &page, &md);
  assert_null(strstr(page.data, "<h2>"));
  ka_str_clear(&page);
  ka_str_clear(&md);
  written(ctx,
          "{\"title\": 3, \"measures\": [1, {}], \"curves\": {\"loss\": [1, [2], [\"a\", 2]]},"
          " \"units\": [null, {\"layer\": 0}], \"settings\": [[], 4], \"commands\": [5],"
          " \"comparison\": {\"series\": [{}, 7], \"verdict\": [1]}, \"curves_of\": {\"m\": 1}}",
          &page, &md);
  has(&page, "Methods");
  ka_str_deinit(&page);
  ka_str_deinit(&md);
}

/* Names with signs of tables, more columns than a word has bits, no best learning rate. */
static void report_of_a_comparison(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  struct ka_str page = {0}, md = {0}, text = {0};
  ka_ctx_init(ctx);
  T_OK(ka_str_puts(ctx, &text,
                   "{\"title\": \"methods\", \"comparison\": {\"baseline\": \"b|b\", \"control\": "
                   "\"c|c\", \"series\": [{\"method\": \"m|m\", \"trained_params\": null, "
                   "\"params\": 100, \"best\": null, \"cells\": [{\"learning_rate\": 0.5}]}]}, "
                   "\"measures\": [{\"name\": \"x|y\", \"role\": \"old\", \"metric\": \"loss\"}"));
  for (int i = 1; i < 70; i++)
    T_OK(ka_str_printf(ctx, &text, ", {\"name\": \"m%d\", \"base\": 1}", i));
  T_OK(ka_str_puts(ctx, &text, "]}"));
  written(ctx, text.data, &page, &md);
  has(&md, "| more than b/b's | against c/c |\n|---|---:|---:|---:|---:|---:|---:|---:|---|\n"
           "| m\\|m | – | – | – | – | – | – | – | – |\n");
  has(&md, "| method | x/y (old), loss | m1 (),  |");
  /* The base's row: one cell a column, the first 64 columns aligned. */
  has(&page, "<td class=\" n\">1.0000</td><td class=\"\">1.0000</td>");
  has(&page, "<td class=\"dim\">–</td></tr>");
  ka_str_deinit(&page);
  ka_str_deinit(&md);
  ka_str_deinit(&text);
}

static void put(struct ka_ctx *ctx, const char *dir, const char *text) {
  T_OK(ka_write_file(ctx, t_str("%s/README.md", dir), text, strlen(text)));
}

static void expect_card(struct ka_ctx *ctx, const json_t *root, const struct ka_report_card *card,
                        const char *part) {
  struct ka_str text = {0};
  T_OK(ka_report_card_write(ctx, root, card));
  T_OK(ka_read_file(ctx, t_str("%s/README.md", card->dir), 0, &text));
  has(&text, part);
  ka_str_deinit(&text);
}

/* A card takes the place of its own kind and of the base's; a user's file stays. */
static void card_of_a_run(void **state) {
  (void)state;
  static const char *const datasets[] = {"org/data"};
  static const char base_card[] = "---\nlicense: apache-2.0\ntags: [x]\n---\n# The base\n";
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  struct ka_report_card card = {.dir = t_temp_dir(),
                                .base_dir = t_temp_dir(),
                                .base = "org/base",
                                .datasets = datasets,
                                .n_datasets = 1};
  json_t *root = parsed(
      ctx, "{\"params\": 200, \"trained_params\": 50, \"settings\": [[\"selection\", \"2 units\"],"
           " [\"base model\", \"b\"]], \"measures\": [{\"name\": \"wiki\", \"role\": \"old\","
           " \"metric\": \"loss\", \"base\": 1.0, \"value\": 1.25, \"gain\": -0.25}]}");
  expect_card(ctx, root, &card, "---\nlibrary_name: transformers\n");
  put(ctx, card.base_dir, base_card);
  expect_card(ctx, root, &card,
              "license: apache-2.0\nbase_model: org/base\ndatasets:\n- org/data\n");
  put(ctx, card.dir, base_card);
  expect_card(ctx, root, &card, "(25 %) were trained: 2 units.");
  expect_card(ctx, root, &card, "| wiki | old | loss | 1.0000 | 1.2500 | -25.00 % |");
  put(ctx, card.dir, "mine\n");
  expect_card(ctx, root, &card, "mine\n");
  json_decref(root);
}

/* A bar of bytes sees what is published while it is open, and nothing afterwards. */
static void bytes_are_counted(void **state) {
  (void)state;
  struct ka_ctx ctx;
  struct ka_progress bar;
  ka_ctx_init(&ctx);
  ctx.log_level = KA_LOG_INFO;
  const char *path = t_str("%s/bytes", t_temp_dir());
  ka_progress_begin_bytes(&ctx, &bar, "saving", 20);
  assert_true(ka_ok(ka_write_file(&ctx, path, "0123456789", 10)));
  assert_int_equal(bar.done, 10);
  assert_int_equal(bar.total, 20);
  ka_progress_end(&bar);
  assert_true(ka_ok(ka_write_file(&ctx, path, "0123456789", 10)));
  assert_int_equal(bar.done, 10);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bytes_are_counted),
      cmocka_unit_test(crc_known_values),
      cmocka_unit_test(tensorboard_reads_back),
      cmocka_unit_test(log_rows_are_cut),
      cmocka_unit_test(bar_fills),
      cmocka_unit_test(report_of_a_run),
      cmocka_unit_test(report_of_nothing),
      cmocka_unit_test(report_of_a_comparison),
      cmocka_unit_test(card_of_a_run),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
