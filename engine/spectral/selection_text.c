/* SPDX-License-Identifier: Apache-2.0
 * A selection in words: "kappa lowest 20", "snr highest 5%", "random 50M", "all"; and what was
 * chosen, told to people. */
#include "base/str.h"
#include "engine/spectral/selection.h"

#include <stdio.h>
#include <string.h>

static ka_status parse_budget(struct ka_ctx *ctx, const char *word, struct ka_select_spec *out) {
  char number[32];
  size_t n = strlen(word);
  const char *units = "KMB", *unit = n > 1 ? strchr(units, word[n - 1]) : NULL;
  bool percent = n > 1 && word[n - 1] == '%';
  double v = 0;
  snprintf(number, sizeof number, "%.*s", (int)(unit || percent ? n - 1 : n), word);
  if (n < sizeof number && ka_parse_f64(number, &v) && v > 0) {
    if (percent) {
      out->fraction = v / 100;
    } else if (unit) {
      for (v *= 1000; unit > units; unit--) v *= 1000;
      out->params = (int64_t)v;
    } else if (strchr(word, '.')) {
      out->fraction = v;
    } else {
      out->count = (int64_t)v;
    }
    return KA_STATUS_OK;
  }
  return ka_fail(ctx, KA_E_USAGE,
                 "selection: got \"%s\", expected a count (20), a share (5%% or 0.05) or a number "
                 "of parameters (50M)",
                 word);
}

ka_status ka_select_quotas(struct ka_ctx *ctx, struct ka_arena *arena, const char *const *words,
                           int64_t n, struct ka_select_spec *spec) {
  struct ka_select_quota *quotas;
  KA_TRY(KA_NEW(arena, &quotas, n + 1, "quotas"));
  for (int64_t i = 0; i < n; i++) {
    const char *colon = strrchr(words[i], ':');
    int64_t count = -1;
    if (!colon || colon == words[i] || !ka_parse_i64(colon + 1, &count) || count < 0)
      return ka_fail(ctx, KA_E_INPUT, "selection.quotas: got \"%s\", expected ROLE:COUNT, as q:4",
                     words[i]);
    KA_TRY(ka_arena_str(arena, &quotas[i].role, words[i], (size_t)(colon - words[i])));
    quotas[i].count = count;
  }
  spec->quotas = quotas;
  spec->n_quotas = n;
  return KA_STATUS_OK;
}

enum { MAX_QUOTAS = 32 };

ka_status ka_select_parse(struct ka_ctx *ctx, struct ka_arena *arena, const char *text,
                          struct ka_select_spec *out) {
  *out = ka_select_spec_default();
  const char *p = text, *quotas[MAX_QUOTAS];
  int64_t n_quotas = 0;
  for (int word = 0; *(p += strspn(p, " \t")); word++) {
    const char *w = NULL;
    size_t n = strcspn(p, " \t");
    KA_TRY(ka_arena_str(arena, &w, p, n));
    p += n;
    if (word == 0)
      out->metric = w;
    else if (strcmp(w, "lowest") == 0 || strcmp(w, "highest") == 0)
      out->highest = w[0] == 'h';
    else if (strchr(w, ':') && n_quotas < MAX_QUOTAS)
      quotas[n_quotas++] = w;
    else
      KA_TRY(parse_budget(ctx, w, out));
  }
  KA_TRY(ka_select_quotas(ctx, arena, quotas, n_quotas, out));
  return ka_select_check(ctx, out);
}

const char *ka_selection_words(const struct ka_selection *s, char text[128]) {
  static const struct {
    const char *metric, *format;
  } without_order[] = {{"all", "%lld units, all there are"},
                       {"random", "%lld units drawn at random"},
                       {"first_n", "the first %lld units"},
                       {"last_n", "the last %lld units"}};
  long long n = s->n_units;
  if (!s->metric) {
    snprintf(text, 128, "%lld units of a file", n);
    return text;
  }
  for (size_t i = 0; i < sizeof without_order / sizeof *without_order; i++)
    if (strcmp(s->metric, without_order[i].metric) == 0) {
      snprintf(text, 128, without_order[i].format, n);
      return text;
    }
  snprintf(text, 128, "%lld units by %s, %s first", n, s->metric,
           s->highest ? "highest" : "lowest");
  return text;
}
