/* SPDX-License-Identifier: Apache-2.0
 * Collectives between real processes: this program starts itself under mpirun, once a case and
 * number of ranks. Root and oversubscription are for test machines alone. */
#include "tests/support/test.h"

#include "base/log.h"
#include "base/rng.h"
#include "engine/dist/dist.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- what a rank does ------------------------------------------------------------------------- */
struct rank {
  struct ka_ctx ctx;
  struct ka_dist *d;
  int r, n;
};

#define R_CHECK(cond)                                                                              \
  do {                                                                                             \
    if (!(cond)) return ka_fail(&k->ctx, KA_E_CHECK, "line %d: %s", __LINE__, #cond);              \
  } while (0)

static float value(int rank, int64_t i) {
  return (float)ka_rng_normal(7, (uint64_t)rank, (uint64_t)i);
}

/* The ring's order: part c begins at rank c + 1 and ends at rank c. */
static float ring_sum(int n, int part, int64_t i) {
  float sum = value((part + 1) % n, i);
  for (int s = 2; s <= n; s++) sum = value((part + s) % n, i) + sum;
  return sum;
}

static int part_of(const int64_t *starts, int64_t i) {
  int p = 0;
  while (i >= starts[p + 1]) p++;
  return p;
}

static ka_status sums(struct rank *k) {
  struct ka_ctx *ctx = &k->ctx;
  const int64_t sizes[] = {0, 1, 2, 3, 1000, 3 << 20};
  for (int t = 0; t < 6; t++) {
    int64_t n = sizes[t], starts[9];
    float *x = malloc((size_t)(n + 1) * sizeof *x);
    for (int r = 0; r <= k->n; r++) starts[r] = n / k->n * r + n % k->n * r / k->n;
    for (int64_t i = 0; i < n; i++) x[i] = value(k->r, i);
    x[n] = 5;
    KA_TRY(ka_dist_all_reduce(k->d, "floats", x, n, KA_F32));
    KA_TRY(ka_dist_wait(k->d));
    for (int64_t i = 0; i < n; i += 1 + n / 997)
      R_CHECK(x[i] == ring_sum(k->n, part_of(starts, i), i));
    R_CHECK(x[n] == 5);
    for (int64_t i = 0; i < n; i++) x[i] = value(k->r, i);
    KA_TRY(ka_dist_reduce_scatter(k->d, "floats", x, starts, KA_F32));
    KA_TRY(ka_dist_wait(k->d));
    for (int64_t i = starts[k->r]; i < starts[k->r + 1]; i++)
      R_CHECK(x[i] == ring_sum(k->n, k->r, i));
    free(x);
  }
  double mine[2] = {k->r + 1, 0.5};
  KA_TRY(ka_dist_sum(k->d, "two numbers", mine, 2));
  R_CHECK(mine[0] == k->n * (k->n + 1) / 2 && mine[1] == 0.5 * k->n);
  return KA_STATUS_OK;
}

static ka_status moves(struct rank *k) {
  struct ka_ctx *ctx = &k->ctx;
  int64_t starts[9] = {0}, in_starts[9] = {0};
  for (int r = 0; r < k->n; r++)
    starts[r + 1] = starts[r] + 5000000 * r + 3; /* rank 0's is small */
  unsigned char *x = malloc((size_t)starts[k->n]);
  for (int64_t i = starts[k->r]; i < starts[k->r + 1]; i++) x[i] = (unsigned char)(i * 7 + k->r);
  KA_TRY(ka_dist_all_gather(k->d, "parts", x, starts));
  KA_TRY(ka_dist_wait(k->d));
  for (int64_t i = 0; i < starts[k->n]; i++)
    R_CHECK(x[i] == (unsigned char)(i * 7 + part_of(starts, i)));
  for (int root = 0; root < k->n; root++) {
    for (int64_t i = 0; i < starts[k->n]; i++) x[i] = k->r == root ? (unsigned char)(i + root) : 0;
    KA_TRY(ka_dist_broadcast(k->d, "weights", x, starts[k->n], root));
    KA_TRY(ka_dist_wait(k->d));
    for (int64_t i = 0; i < starts[k->n]; i++) R_CHECK(x[i] == (unsigned char)(i + root));
  }
  free(x);
  /* rank a sends a * 10 + b + 1 bytes to rank b */
  unsigned char in[2048], out[2048];
  for (int r = 0; r < k->n; r++) {
    in_starts[r + 1] = in_starts[r] + k->r * 10 + r + 1;
    starts[r + 1] = (r ? starts[r] : 0) + r * 10 + k->r + 1;
    memset(in + in_starts[r], 16 * k->r + r, (size_t)(in_starts[r + 1] - in_starts[r]));
  }
  starts[0] = 0;
  KA_TRY(ka_dist_all_to_all(k->d, "tokens", out, starts, in, in_starts));
  KA_TRY(ka_dist_wait(k->d));
  for (int r = 0; r < k->n; r++)
    for (int64_t i = starts[r]; i < starts[r + 1]; i++) R_CHECK(out[i] == 16 * r + k->r);
  return ka_dist_agree(k->d, "the job", "same");
}

/* Many calls at once, none waited for but the last. */
static ka_status queued(struct rank *k) {
  struct ka_ctx *ctx = &k->ctx;
  enum { N = 300 };
  double x[N];
  for (int i = 0; i < N; i++) {
    x[i] = i + k->r;
    KA_TRY(ka_dist_all_reduce(k->d, "one", &x[i], 1, KA_F64));
  }
  KA_TRY(ka_dist_wait(k->d));
  for (int i = 0; i < N; i++) R_CHECK(x[i] == i * k->n + k->n * (k->n - 1) / 2);
  R_CHECK(ka_dist_stats(k->d).n_calls == N + 1); /* and the host names */
  return KA_STATUS_OK;
}

static ka_status fails(struct rank *k) {
  struct ka_ctx *ctx = &k->ctx;
  double x = 1;
  if (k->r == k->n - 1) return ka_fail(ctx, KA_E_INPUT, "data.jsonl:3: no text");
  for (int i = 0; i < 1000; i++) KA_TRY(ka_dist_sum(k->d, "a loss", &x, 1));
  return ka_fail(ctx, KA_E_INTERNAL, "went on");
}

static ka_status out_of_order(struct rank *k) {
  double x = 1;
  return ka_dist_sum(k->d, k->r == 1 ? "the norm" : "the loss", &x, 1);
}

static ka_status ends_early(struct rank *k) {
  double x = 1;
  return k->r == 1 ? KA_STATUS_OK : ka_dist_sum(k->d, "the loss", &x, 1);
}

static ka_status differs(struct rank *k) {
  return ka_dist_agree(k->d, "base_model", k->r == 1 ? "b" : "a");
}

static ka_status dies(struct rank *k) {
  double x = 1;
  if (k->r == 1) raise(SIGKILL);
  return ka_dist_sum(k->d, "the loss", &x, 1);
}

static ka_status stops(struct rank *k) {
  double x = 1;
  if (k->r == 1) raise(SIGSTOP);
  return ka_dist_sum(k->d, "the loss", &x, 1);
}

/* Alive, computing for ever. */
static ka_status stuck(struct rank *k) {
  double x = 1;
  while (k->r == 1) sleep(1);
  return ka_dist_sum(k->d, "the loss", &x, 1);
}

static const struct {
  const char *name;
  ka_status (*run)(struct rank *k);
  double timeout_s;
} cases[] = {{"sums", sums, 60},       {"moves", moves, 60},        {"queued", queued, 60},
             {"fails", fails, 60},     {"order", out_of_order, 60}, {"early", ends_early, 60},
             {"differs", differs, 60}, {"dies", dies, 6},           {"stops", stops, 6},
             {"stuck", stuck, 6}};

static int rank_main(const char *name) {
  struct rank k;
  ka_ctx_init(&k.ctx);
  k.ctx.log_level = KA_LOG_QUIET;
  ka_status st = KA_STATUS_OK;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    if (strcmp(cases[i].name, name) != 0) continue;
    st = ka_dist_open(&k.ctx, &k.d, cases[i].timeout_s);
    k.r = ka_dist_rank(k.d);
    k.n = ka_dist_n(k.d);
    if (ka_ok(st)) st = cases[i].run(&k);
    ka_status end = ka_dist_close(k.d, st);
    if (ka_ok(st)) st = end;
  }
  if (!ka_ok(st) && !k.ctx.error.elsewhere) ka_log_error(&k.ctx);
  return ka_exit_code(st.code);
}

/* --- the tests -------------------------------------------------------------------------------- */
static bool have_mpirun(void) { return system("command -v mpirun >/dev/null 2>&1") == 0; }

/* Runs a case; its stderr without the launcher's own words into err. */
static int run_ranks(struct ka_ctx *ctx, struct ka_str *err, int n, const char *name) {
  const char *file = t_str("%s/err", t_temp_dir());
  const char *command = t_str("timeout 120 mpirun --allow-run-as-root --oversubscribe -q -np %d "
                              "/proc/%d/exe --rank %s 2>%s "
                              ">/dev/null",
                              n, (int)getpid(), name, file);
  int state = system(command);
  FILE *f = fopen(file, "r");
  char line[4096];
  while (f && fgets(line, sizeof line, f)) T_OK(ka_str_puts(ctx, err, line));
  if (f) fclose(f);
  if (!err->data) T_OK(ka_str_puts(ctx, err, ""));
  return WIFEXITED(state) ? WEXITSTATUS(state) : 255;
}

static int count(const char *text, const char *part) {
  int n = 0;
  for (const char *p = text; (p = strstr(p, part)); p++) n++;
  return n;
}

static void ranks(int n, const char *name, int code, const char *part) {
  struct ka_ctx ctx_, *ctx = &ctx_;
  struct ka_str err = {0};
  ka_ctx_init(ctx);
  if (!have_mpirun()) {
    print_message("skipped: no mpirun\n");
    skip();
  }
  int got = run_ranks(ctx, &err, n, name);
  if (got != code || (part && !strstr(err.data, part)))
    fail_msg("%s of %d ranks: exit %d, expected %d with \"%s\":\n%s", name, n, got, code,
             part ? part : "", err.data);
  assert_int_equal(count(err.data, "kappa: "), part ? 1 : 0); /* one voice */
  ka_str_deinit(&err);
}

static void collectives(void **state) {
  (void)state;
  for (int n = 1; n <= 4; n++) {
    ranks(n, "sums", 0, NULL);
    ranks(n, "moves", 0, NULL);
  }
  ranks(3, "queued", 0, NULL);
}

static void failures_reach_all(void **state) {
  (void)state;
  ranks(3, "fails", 2, "rank 2 on ");
  ranks(3, "fails", 2, "data.jsonl:3: no text");
  ranks(3, "differs", 2, "base_model differs between ranks: rank 0 on ");
}

static void leaving_the_order(void **state) {
  (void)state;
  ranks(2, "order", 3, "the norm");
  ranks(3, "early", 3, "the end of the job");
}

/* mpirun itself ends the others of a killed rank, with the signal's code. */
static void the_dead_and_the_stuck(void **state) {
  (void)state;
  struct ka_ctx ctx_, *ctx = &ctx_;
  struct ka_str err = {0};
  ka_ctx_init(ctx);
  if (!have_mpirun()) skip();
  assert_int_not_equal(run_ranks(ctx, &err, 3, "dies"), 0);
  ka_str_deinit(&err);
  ranks(3, "stops", 3, "rank 1 on ");
  ranks(3, "stuck", 3, "rank 1 on ");
}

static void alone(void **state) {
  (void)state;
  struct ka_ctx ctx_, *ctx = &ctx_;
  struct ka_dist *d;
  double x = 3;
  ka_ctx_init(ctx);
  T_OK(ka_dist_open(ctx, &d, 60));
  assert_int_equal(ka_dist_n(d), 1);
  T_OK(ka_dist_sum(d, "x", &x, 1));
  assert_true(x == 3);
  T_OK(ka_dist_close(d, KA_STATUS_OK));
  setenv("SLURM_STEP_NUM_TASKS", "4", 1);
  setenv("SLURM_PROCID", "0", 1);
  T_FAILS(ka_dist_open(ctx, &d, 60), KA_E_DEVICE, "srun --mpi=pmix");
  unsetenv("SLURM_STEP_NUM_TASKS");
  setenv("PMI_SIZE", "4", 1); /* another MPI's launcher: ours sees one rank */
  setenv("PMI_RANK", "0", 1);
  if (have_mpirun()) T_FAILS(ka_dist_open(ctx, &d, 60), KA_E_DEVICE, "are of different MPIs");
  setenv("KAPPA_MPI", "/nowhere/kappa_mpi.so", 1);
  T_FAILS(ka_dist_open(ctx, &d, 60), KA_E_DEVICE, "/nowhere/kappa_mpi.so");
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "--rank") == 0) return rank_main(argv[2]);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(collectives),
      cmocka_unit_test(failures_reach_all),
      cmocka_unit_test(leaving_the_order),
      cmocka_unit_test(the_dead_and_the_stuck),
      cmocka_unit_test(alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
