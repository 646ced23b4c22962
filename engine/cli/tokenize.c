/* SPDX-License-Identifier: Apache-2.0
 *
 * kappa tokenize MODEL [FILE]: what a tokenizer makes of a text, or (--chat) a chat template of a
 * conversation. Lines of --jsonl are worked on by all threads, a batch at a time, and written in
 * order. */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/cli/cli.h"
#include "engine/data/chat.h"
#include "engine/formats/model_source.h"
#include "tokenizer/tokenizer.h"

#include <errno.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH_LINES = 4096, BATCH_BYTES = 8 << 20 };

static ka_status put_ids(struct ka_ctx *ctx, struct ka_str *out, const int32_t *ids, int64_t n,
                         const char *separator) {
  for (int64_t i = 0; i < n; i++) {
    char digits[16];
    int len = snprintf(digits, sizeof digits, "%s%d", i ? separator : "", ids[i]);
    KA_TRY(ka_str_append(ctx, out, digits, (size_t)len));
  }
  return KA_STATUS_OK;
}

static ka_status put_json_ids(struct ka_ctx *ctx, struct ka_str *out, const char *key,
                              const struct ka_tok_tokens *t) {
  KA_TRY(ka_str_printf(ctx, out, "\"%s\": [", key));
  KA_TRY(put_ids(ctx, out, t->ids, t->n, ", "));
  return ka_str_puts(ctx, out, "]");
}

static ka_status put_json_text(struct ka_ctx *ctx, struct ka_str *out, const char *key,
                               const struct ka_tokenizer *t, const struct ka_tok_tokens *tokens,
                               bool skip_special, struct ka_str *decoded) {
  ka_str_clear(decoded);
  KA_TRY(ka_tokenizer_decode(ctx, t, tokens->ids, tokens->n, skip_special, decoded));
  KA_TRY(ka_str_printf(ctx, out, ", \"%s\": ", key));
  return ka_json_quote(ctx, out, decoded->data, decoded->len);
}

/* {"text": ...} in, {"ids", "ids_plain", "decoded", "decoded_skip"} out. */
static ka_status jsonl_line(struct ka_ctx *ctx, const struct ka_tokenizer *t, const char *where,
                            const char *line, size_t n, struct ka_str *out) {
  json_t *row = NULL;
  struct ka_tok_tokens ids = {0}, plain = {0};
  struct ka_str decoded = {0};
  ka_status st = KA_STATUS_OK;
  KA_TRY(ka_json_parse(ctx, line, n, where, &row));
  const json_t *text = json_object_get(row, "text");
  if (!json_is_string(text)) {
    st = ka_fail(ctx, KA_E_INPUT, "%s: expected {\"text\": a string}", where);
    goto out;
  }
  const char *s = json_string_value(text);
  size_t len = json_string_length(text);
  KA_TRY_GOTO(ka_tokenizer_encode(ctx, t, s, len, true, &ids), out);
  KA_TRY_GOTO(ka_tokenizer_encode(ctx, t, s, len, false, &plain), out);
  KA_TRY_GOTO(ka_str_puts(ctx, out, "{"), out);
  KA_TRY_GOTO(put_json_ids(ctx, out, "ids", &ids), out);
  KA_TRY_GOTO(ka_str_puts(ctx, out, ", "), out);
  KA_TRY_GOTO(put_json_ids(ctx, out, "ids_plain", &plain), out);
  KA_TRY_GOTO(put_json_text(ctx, out, "decoded", t, &plain, false, &decoded), out);
  KA_TRY_GOTO(put_json_text(ctx, out, "decoded_skip", t, &ids, true, &decoded), out);
  KA_TRY_GOTO(ka_str_puts(ctx, out, "}\n"), out);
out:
  json_decref(row);
  ka_tok_tokens_deinit(&ids);
  ka_tok_tokens_deinit(&plain);
  ka_str_deinit(&decoded);
  return st;
}

struct batch {
  char *lines[BATCH_LINES]; /* from getline */
  size_t room[BATCH_LINES], n_bytes[BATCH_LINES];
  struct ka_str out[BATCH_LINES];
  int n;
};

static bool blank(const char *s, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!strchr(" \t\r\n", s[i]) || !s[i]) return false;
  return true;
}

static ka_status read_batch(struct ka_ctx *ctx, FILE *in, const char *name, struct batch *b) {
  size_t total = 0;
  b->n = 0;
  while (b->n < BATCH_LINES && total < BATCH_BYTES) {
    errno = 0;
    ssize_t len = getline(&b->lines[b->n], &b->room[b->n], in);
    if (len < 0) {
      if (ferror(in) || errno == ENOMEM)
        return ka_fail(ctx, errno == ENOMEM ? KA_E_MEMORY : KA_E_INPUT, "%s: %s", name,
                       strerror(errno));
      break;
    }
    b->n_bytes[b->n] = (size_t)len;
    total += (size_t)len;
    b->n++;
  }
  return KA_STATUS_OK;
}

static ka_status run_jsonl(struct ka_ctx *ctx, const struct ka_tokenizer *t, FILE *in,
                           const char *name) {
  long long first = 1;
  struct batch *b;
  KA_TRY(KA_NEW_HEAP(ctx, &b, 1, "lines"));
  ka_status st = KA_STATUS_OK;
  json_object_seed(0); /* before threads parse */
  for (;;) {
    KA_TRY_GOTO(read_batch(ctx, in, name, b), out);
    KA_TRY_GOTO(ka_check_interrupted(ctx, name), out);
    if (b->n == 0) break;
    int failed = 0;
#pragma omp parallel for schedule(dynamic, 8)
    for (int i = 0; i < b->n; i++) {
      char where[300];
      int stop;
#pragma omp atomic read
      stop = failed;
      ka_str_clear(&b->out[i]);
      if (stop || blank(b->lines[i], b->n_bytes[i])) continue;
      snprintf(where, sizeof where, "%.250s:%lld", name, first + i);
      if (ka_ok(jsonl_line(ctx, t, where, b->lines[i], b->n_bytes[i], &b->out[i]))) continue;
#pragma omp atomic write
      failed = 1;
    }
    if (failed) {
      st = (ka_status){ctx->error.code};
      goto out;
    }
    for (int i = 0; i < b->n; i++)
      if (b->out[i].len > 0 && fwrite(b->out[i].data, 1, b->out[i].len, stdout) != b->out[i].len) {
        st = ka_fail(ctx, KA_E_IO, "stdout: write failed");
        goto out;
      }
    first += b->n;
  }
out:
  for (int i = 0; i < BATCH_LINES; i++) {
    free(b->lines[i]);
    ka_str_deinit(&b->out[i]);
  }
  ka_free(b);
  return st;
}

/* One line a token: where it stands in the text, its id, and the text it covers. */
static ka_status put_table(struct ka_ctx *ctx, const struct ka_tokenizer *t,
                           const struct ka_tok_tokens *tokens, struct ka_str *out) {
  for (int64_t i = 0; i < tokens->n; i++) {
    size_t n = 0;
    const char *token = ka_tokenizer_token_text(t, tokens->ids[i], &n);
    KA_TRY(ka_str_printf(ctx, out, "%8lld %8lld %8d ", (long long)tokens->spans[i].begin,
                         (long long)tokens->spans[i].end, tokens->ids[i]));
    KA_TRY(ka_json_quote(ctx, out, token ? token : "", n));
    KA_TRY(ka_str_puts(ctx, out, "\n"));
  }
  return KA_STATUS_OK;
}

static ka_status read_all(struct ka_ctx *ctx, FILE *in, const char *name, struct ka_str *out) {
  for (;;) {
    KA_TRY(ka_str_reserve(ctx, out, 1 << 16));
    size_t got = fread(out->data + out->len, 1, 1 << 16, in);
    out->len += got;
    out->data[out->len] = 0;
    if (got < 1 << 16) break;
  }
  if (ferror(in)) return ka_fail(ctx, KA_E_INPUT, "%s: %s", name, strerror(errno));
  return KA_STATUS_OK;
}

static ka_status run_text(struct ka_ctx *ctx, const struct ka_cli *cli,
                          const struct ka_tokenizer *t, FILE *in, const char *name) {
  struct ka_str text = {0}, out = {0};
  struct ka_tok_tokens tokens = {.want_spans = !ka_cli_flag(cli, "ids")};
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(read_all(ctx, in, name, &text), out);
  size_t valid = ka_utf8_check(text.data, text.len);
  if (valid < text.len) {
    st = ka_fail(ctx, KA_E_INPUT, "%s: byte %zu (0x%02X) is not valid UTF-8", name, valid,
                 (unsigned char)text.data[valid]);
    goto out;
  }
  bool special = !ka_cli_flag(cli, "no-special");
  KA_TRY_GOTO(ka_tokenizer_encode(ctx, t, text.data, text.len, special, &tokens), out);
  if (tokens.want_spans) {
    KA_TRY_GOTO(put_table(ctx, t, &tokens, &out), out);
  } else {
    KA_TRY_GOTO(put_ids(ctx, &out, tokens.ids, tokens.n, " "), out);
    KA_TRY_GOTO(ka_str_puts(ctx, &out, "\n"), out);
  }
  if (fwrite(out.data, 1, out.len, stdout) != out.len)
    st = ka_fail(ctx, KA_E_IO, "stdout: write failed");
out:
  ka_tok_tokens_deinit(&tokens);
  ka_str_deinit(&text);
  ka_str_deinit(&out);
  return st;
}

/* A day "2024-07-26" somewhere in the text, as strftime_now's clock. */
static ka_status read_clock(struct ka_ctx *ctx, const char *text, struct tm *out) {
  const char *digits = strpbrk(text, "0123456789");
  int year = 0, month = 0, day = 0;
  memset(out, 0, sizeof *out);
  if (!digits || sscanf(digits, "%4d-%2d-%2d", &year, &month, &day) != 3)
    return ka_fail(ctx, KA_E_INPUT, "strftime_now: got \"%.60s\", expected a day like 2024-07-26",
                   text);
  out->tm_year = year - 1900;
  out->tm_mon = month - 1;
  out->tm_mday = day;
  if (timegm(out) == -1) /* fills in the day of the week and of the year */
    return ka_fail(ctx, KA_E_INPUT, "strftime_now: \"%.60s\" is no day", text);
  return KA_STATUS_OK;
}

/* FILE: an object of variables, or the messages alone. */
static ka_status render_chat(struct ka_ctx *ctx, const struct ka_cli *cli, const char *model,
                             struct ka_str *out) {
  const char *file = ka_cli_str(cli, "chat"), *template = ka_cli_str(cli, "template");
  struct ka_chat *chat = NULL;
  struct tm day;
  struct ka_jinja_options opts = {0};
  json_t *vars = NULL;
  ka_status st = KA_STATUS_OK;
  if (!ka_path_exists(model)) {
    st = ka_fail(ctx, KA_E_INPUT, "%s: no such model directory", model);
    goto out;
  }
  KA_TRY_GOTO(template ? ka_chat_load_file(ctx, &chat, template, model)
                       : ka_chat_load_model(ctx, &chat, model),
              out);
  KA_TRY_GOTO(ka_json_load(ctx, file, &vars), out);
  if (json_is_array(vars)) vars = json_pack("{s:o}", "messages", vars);
  if (!json_is_object(vars)) {
    st = ka_fail(ctx, KA_E_INPUT, "%s: expected an object with messages, or a list of messages",
                 file);
    goto out;
  }
  const char *clock = json_string_value(json_object_get(vars, "strftime_now"));
  if (clock) {
    KA_TRY_GOTO(read_clock(ctx, clock, &day), out);
    opts.now = &day;
    json_object_del(vars, "strftime_now");
  }
  KA_TRY_GOTO(ka_chat_render(ctx, chat, vars, &opts, out, NULL), out);
out:
  json_decref(vars);
  ka_chat_destroy(chat);
  return st;
}

static ka_status run_chat(struct ka_ctx *ctx, const struct ka_cli *cli, const char *model) {
  struct ka_str text = {0}, out = {0};
  struct ka_tok_tokens tokens = {.want_spans = !ka_cli_flag(cli, "ids")};
  struct ka_tokenizer *t = NULL;
  ka_status st = KA_STATUS_OK;
  KA_TRY_GOTO(render_chat(ctx, cli, model, &text), out);
  if (ka_cli_flag(cli, "text")) {
    KA_TRY_GOTO(ka_str_append(ctx, &out, text.data, text.len), out);
  } else { /* the template writes the special tokens itself */
    KA_TRY_GOTO(ka_tokenizer_open(ctx, &t, model), out);
    KA_TRY_GOTO(ka_tokenizer_encode(ctx, t, text.data ? text.data : "", text.len, false, &tokens),
                out);
    KA_TRY_GOTO(tokens.want_spans ? put_table(ctx, t, &tokens, &out)
                                  : put_ids(ctx, &out, tokens.ids, tokens.n, " "),
                out);
    if (!tokens.want_spans) KA_TRY_GOTO(ka_str_puts(ctx, &out, "\n"), out);
  }
  if (fwrite(out.data ? out.data : "", 1, out.len, stdout) != out.len)
    st = ka_fail(ctx, KA_E_IO, "stdout: write failed");
out:
  ka_tokenizer_close(t);
  ka_tok_tokens_deinit(&tokens);
  ka_str_deinit(&text);
  ka_str_deinit(&out);
  return st;
}

/* Lines of a text, each encoded on its own, spread over the threads; the best of n rounds. */
static ka_status run_bench(struct ka_ctx *ctx, const struct ka_tokenizer *t, FILE *in,
                           const char *name, int64_t rounds) {
  struct ka_str text = {0};
  void *p = NULL;
  int64_t n_lines = 0, cap = 0, n_tok = 0;
  double best = 0;
  int failed = 0;
  ka_status st = read_all(ctx, in, name, &text);
  for (size_t at = 0; st.code == KA_OK && at < text.len; n_lines++) {
    st = ka_grow(ctx, &p, &cap, n_lines + 2, sizeof(size_t), "lines");
    const char *end = memchr(text.data + at, '\n', text.len - at);
    at = end ? (size_t)(end - text.data) + 1 : text.len;
    if (st.code == KA_OK) ((size_t *)p)[n_lines + 1] = at;
  }
  const size_t *starts = p;
  for (int64_t k = 0; st.code == KA_OK && k < rounds && !failed; k++) {
    double begin = ka_now_s();
    n_tok = 0;
#pragma omp parallel reduction(+ : n_tok) reduction(| : failed)
    {
      struct ka_tok_tokens out = {0};
#pragma omp for schedule(dynamic, 64)
      for (int64_t i = 0; i < n_lines; i++) {
        ka_tok_tokens_clear(&out);
        failed |= !ka_ok(ka_tokenizer_encode(ctx, t, text.data + starts[i],
                                             starts[i + 1] - starts[i], false, &out));
        n_tok += out.n;
      }
      ka_tok_tokens_deinit(&out);
    }
    double rate = (double)text.len / 1e6 / (ka_now_s() - begin);
    if (rate > best) best = rate;
  }
  if (st.code == KA_OK && failed) st = (ka_status){ctx->error.code};
  if (st.code == KA_OK)
    printf("{\"mb_per_s\": %.2f, \"tokens\": %lld, \"bytes\": %zu, \"threads\": %d}\n", best,
           (long long)n_tok, text.len, omp_get_max_threads());
  ka_free(p);
  ka_str_deinit(&text);
  return st;
}

static ka_status run(struct ka_ctx *ctx, const struct ka_cli *cli, const char *model) {
  if (ka_cli_str(cli, "chat")) return run_chat(ctx, cli, model);
  if (ka_cli_flag(cli, "text") || ka_cli_str(cli, "template"))
    return ka_fail(ctx, KA_E_USAGE, "--text and --template go with --chat FILE.json");
  const char *name = ka_cli_n_args(cli) > 1 ? ka_cli_arg(cli, 1) : "-";
  struct ka_tokenizer *t;
  KA_TRY(ka_tokenizer_open(ctx, &t, model));
  bool from_stdin = strcmp(name, "-") == 0;
  FILE *in = stdin;
  ka_status st = from_stdin ? KA_STATUS_OK : ka_open_file(ctx, name, &in);
  if (from_stdin) name = "stdin";
  if (in && ka_cli_given(cli, "bench"))
    st = run_bench(ctx, t, in, name, ka_cli_int(cli, "bench"));
  else if (in)
    st = ka_cli_flag(cli, "jsonl") ? run_jsonl(ctx, t, in, name) : run_text(ctx, cli, t, in, name);
  if (in && !from_stdin) fclose(in);
  ka_tokenizer_close(t);
  return st;
}

static ka_status tokenize_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  struct ka_model_source source;
  ka_status st =
      ka_model_source_open_dir(ctx, &source, ka_cli_arg(cli, 0), ka_cli_str(cli, "base"));
  if (ka_ok(st)) st = run(ctx, cli, source.dir);
  ka_model_source_close(&source);
  return st;
}

static const struct ka_cli_option options[] = {
    {"jsonl", KA_OPT_FLAG, NULL, NULL,
     "one {\"text\"} a line in; one {\"ids\", \"ids_plain\", \"decoded\", \"decoded_skip\"} a line "
     "out"},
    {"ids", KA_OPT_FLAG, NULL, NULL, "print the ids alone, on one line"},
    {"no-special", KA_OPT_FLAG, NULL, NULL, "do not add the post-processor's special tokens"},
    {"chat", KA_OPT_STR, "FILE.json", NULL,
     "render a conversation by the chat template: an object of messages and other variables "
     "(tools, "
     "add_generation_prompt, bos_token, ...; \"strftime_now\": \"2024-07-26\" sets the clock), or "
     "the messages alone"},
    {"text", KA_OPT_FLAG, NULL, NULL, "with --chat: print the text, not its tokens"},
    {"template", KA_OPT_STR, "FILE.jinja", NULL, "with --chat: this template, not the model's own"},
    {"bench", KA_OPT_INT, "N", NULL,
     "encode every line N times and print the best rate; see bench/tokenizer.sh"},
    KA_OPT_BASE,
    {0},
};

const struct ka_cli_command ka_command_tokenize = {
    .name = "tokenize",
    .args = "MODEL [FILE]",
    .summary = "ids and text of a model directory's tokenizer (FILE, or stdin)",
    .example = "kappa tokenize path/to/model text.txt",
    .min_args = 1,
    .max_args = 2,
    .options = options,
    .run = tokenize_run,
};
