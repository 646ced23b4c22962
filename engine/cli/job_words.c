/* SPDX-License-Identifier: Apache-2.0
 * The job of the command line; see job_words.h. */
#include "engine/cli/job_words.h"

#include "base/log.h"
#include "base/str.h"
#include "base/threads.h"

#include <string.h>

enum { MAX_WORDS = 256 };

/* What was passed over, in one line; what kappa does otherwise, a line each; and what is trained,
 * where the job comes from a trainer that trains everything. */
static ka_status say_foreign(struct ka_ctx *ctx, const struct ka_job *job) {
  const struct ka_key_file *f = &job->file;
  struct ka_str passed = {0};
  ka_status st = KA_STATUS_OK;
  int n = 0;
  bool chosen = false;
  for (int64_t i = 0; ka_ok(st) && i < f->n_notes; i++) {
    const struct ka_key_note *note = &f->notes[i];
    if (note->kind == KA_KEY_PASSED)
      st = ka_str_printf(ctx, &passed, "%s%s", n++ ? ", " : "", note->key);
    if (note->kind == KA_KEY_OTHERWISE)
      ka_warn(ctx, "job", "%s: %s: %s", note->place, note->key, note->text);
  }
  for (int64_t i = 0; i < f->n_places; i++)
    chosen |= f->places[i].place && ka_starts_with(f->places[i].key, "selection");
  if (n > 0) ka_info(ctx, "job", "%d keys without a meaning here passed over: %s", n, passed.data);
  if (f->n_notes > 0 && !chosen)
    ka_info(ctx, "job",
            "no selection in the job: the 20 units of the lowest kappa are trained; "
            "selection.metric=all trains everything");
  ka_str_deinit(&passed);
  return st;
}

/* One key=value; a shell makes three words of "key = value". */
static ka_status next_word(struct ka_ctx *ctx, const struct ka_cli *cli, int *at,
                           struct ka_str *joined, const char **out) {
  const char *word = ka_cli_arg(cli, (*at)++), *next = ka_cli_arg(cli, *at);
  bool more = next && (*next == '=' || (ka_ends_with(word, "=") && !strchr(next, '=')));
  *out = word;
  if (!more || (*next == '=' && strchr(word, '='))) return KA_STATUS_OK;
  KA_TRY(ka_str_puts(ctx, joined, word));
  KA_TRY(ka_str_puts(ctx, joined, ka_cli_arg(cli, (*at)++)));
  next = ka_cli_arg(cli, *at);
  if (joined->data[joined->len - 1] == '=' && next && !strchr(next, '='))
    KA_TRY(ka_str_puts(ctx, joined, ka_cli_arg(cli, (*at)++)));
  *out = joined->data;
  return KA_STATUS_OK;
}

ka_status ka_cli_job(struct ka_ctx *ctx, struct ka_job *job, const struct ka_cli *cli,
                     const char *const *extra, int n_extra) {
  const char *words[MAX_WORDS];
  int64_t n = 0;
  *job = (struct ka_job){0};
  struct ka_str joined[MAX_WORDS] = {0};
  ka_status st = KA_STATUS_OK;
  for (int i = 1; ka_ok(st) && i < ka_cli_n_args(cli); n++) {
    if (n == MAX_WORDS - n_extra)
      st = ka_fail(ctx, KA_E_USAGE, "more than %d key=value words; put them into the job file",
                   MAX_WORDS - n_extra);
    else
      st = next_word(ctx, cli, &i, &joined[n], &words[n]);
  }
  int64_t n_joined = n;
  for (int i = 0; ka_ok(st) && i < n_extra; i++) words[n++] = extra[i];
  if (ka_ok(st)) st = ka_job_load(ctx, job, ka_cli_arg(cli, 0), words, n);
  for (int64_t i = 0; i < n_joined; i++) ka_str_deinit(&joined[i]);
  KA_TRY(st);
  bool own = job->threads > 0 && !ka_cli_given(cli, "threads");
  if (own) KA_TRY(ka_threads_set(ctx, job->threads));
  return say_foreign(ctx, job);
}
