/* SPDX-License-Identifier: Apache-2.0
 * docs/spectra.md lists every metric as metrics.def says it. */
#include "engine/spectral/metrics.h"
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

static struct ka_ctx the_ctx;

static void test_metric_table(void **state) {
  (void)state;
  struct ka_ctx *ctx = &the_ctx;
  struct ka_str page = {0};
  const char *source = getenv("KAPPA_SOURCE_DIR");
  T_OK(ka_read_file(ctx, t_str("%s/docs/spectra.md", source ? source : "."), 0, &page));
  for (int i = 0; i < KA_N_METRICS; i++) {
    const struct ka_spectral_metric_info *m = ka_spectral_metric_info((enum ka_spectral_metric)i);
    struct ka_str row = {0};
    T_OK(ka_str_printf(ctx, &row, "| %s | %s | ", m->name, m->unit));
    for (const char *c = m->formula; *c; c++)
      T_OK(ka_str_printf(ctx, &row, "%s%c", *c == '|' ? "\\" : "", *c));
    T_OK(ka_str_printf(ctx, &row, " | %s | %s |\n", m->needs_full ? "yes" : "no", m->source));
    if (!strstr(page.data, row.data)) fail_msg("docs/spectra.md lacks this row:\n%s", row.data);
    ka_str_deinit(&row);
  }
  ka_str_deinit(&page);
}

int main(void) {
  ka_ctx_init(&the_ctx);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_metric_table)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
