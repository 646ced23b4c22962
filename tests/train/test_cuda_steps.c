/* SPDX-License-Identifier: Apache-2.0
 * What a step on a device of its own may not do, and what happens when the device fails: asked of
 * the stand-in's counters and planted failures. Skipped on a real device. */
#include "engine/model/buffers.h"
#include "engine/train/loop.h"
#include "tests/model/tiny.h"
#include "tests/support/fresh.h"
#include "tests/support/host.h"

#include <math.h>

enum { B = 2, T = 12, ACCUMULATION = 3 };

/* A tiny model in training, all parameters. */
struct bed {
  struct ka_dev dev;
  struct ka_model m;
  struct ka_optim o;
  struct tiny_batch batch;
  struct ka_loop loop;
};

static ka_status get(void *user, int64_t index, struct ka_batch *out) {
  (void)index;
  *out = ((struct bed *)user)->batch.batch;
  return KA_STATUS_OK;
}

/* How the model is anchored to what it was. */
struct anchor {
  double kl_weight, pull;
};
static const struct anchor none = {0, 0}, both = {0.5, 2};

static ka_status bed_open_on(struct bed *b, const char *device, const char *dir,
                             enum ka_dtype compute, bool offload, struct anchor anchor) {
  int32_t ids[B * T];
  struct ka_train_part parts[64];
  const struct ka_optim_config config = {.beta1 = 0.9,
                                         .beta2 = 0.99,
                                         .eps = 1e-8,
                                         .max_grad_norm = 1,
                                         .offload = offload,
                                         .pull = anchor.pull};
  memset(b, 0, sizeof *b);
  for (int i = 0; i < B * T; i++) ids[i] = i * 7 % TINY_V;
  b->batch = tiny_batch(B, T, ids);
  KA_TRY(ka_dev_open(ctx, &b->dev, device));
  KA_TRY(ka_model_open(ctx, &b->m, &b->dev, dir, compute));
  b->m.term_weight[KA_TERM_KL_TASK] = anchor.kl_weight;
  for (int64_t i = 0; i < b->m.n_params; i++)
    parts[i] = (struct ka_train_part){b->m.params[i].name, 0, -1, 0, -1};
  KA_TRY(ka_model_train_parts(&b->m, parts, b->m.n_params));
  KA_TRY(ka_model_prepare(&b->m, B, T, false));
  KA_TRY(ka_optim_init(ctx, &b->o, &b->m, &config, false));
  b->loop = (struct ka_loop){.ctx = ctx,
                             .model = &b->m,
                             .optim = &b->o,
                             .train = {get, b, 1 << 20},
                             .config = {.schedule = {KA_SCHEDULE_CONSTANT, 1e-2, 0, 0, 1 << 20},
                                        .accumulation = ACCUMULATION}};
  return KA_STATUS_OK;
}

static ka_status bed_open(struct bed *b, const char *dir, enum ka_dtype compute, bool offload,
                          struct anchor anchor) {
  return bed_open_on(b, "cuda", dir, compute, offload, anchor);
}

static void bed_close(struct bed *b) {
  ka_optim_deinit(&b->o);
  ka_model_close(&b->m);
  ka_dev_close(&b->dev);
}

static ka_status step(struct bed *b, double *loss) {
  struct ka_loop_step s = {0};
  ka_status st = ka_loop_step(&b->loop, &s);
  *loss = s.term[KA_TERM_CE];
  return st;
}

/* From the third micro-batch on: nothing allocated, one recording a micro-batch, and one wait a
 * step, at its end. The arenas and the back end's own are all that is allocated. */
static void a_step_allocates_nothing_and_waits_once(void **state) {
  (void)state;
  const char *dir = tiny_make(ctx, tiny_qwen3, KA_F32);
  const enum ka_dtype types[] = {KA_F32, KA_BF16};
  for (int t = 0; t < 4; t++) {
    struct bed b;
    struct cudahost_counters before, after;
    double loss, first = 0;
    T_OK(bed_open(&b, dir, types[t % 2], false, t < 2 ? none : both));
    host.count(&before);
    size_t arenas = b.m.run.used_bytes + b.m.step.used_bytes + b.o.arena.used_bytes;
    size_t planned = arenas + b.dev.own_bytes;
    if (fabs((double)before.live_bytes / (double)planned - 1) > 0.03)
      fail_msg("planned %zu, allocated %lld", planned, before.live_bytes);
    T_OK(step(&b, &first));
    for (int s = 0; s < 4; s++) {
      host.count(&before);
      T_OK(step(&b, &loss));
      host.count(&after);
      assert_int_equal(after.allocations, before.allocations);
      assert_int_equal(after.pinned_allocations, before.pinned_allocations);
      assert_int_equal(after.syncs - before.syncs, 1);
      assert_int_equal(after.graph_launches - before.graph_launches, ACCUMULATION);
    }
    assert_true(loss < first);
    bed_close(&b);
    host.count(&after);
    assert_int_equal(after.live_bytes, 0);
  }
}

/* What KAPPA_CUDA_WITHOUT leaves out is gone, and the loss is the same. */
static void choices_can_be_left_out(void **state) {
  (void)state;
  const char *dir = tiny_make(ctx, tiny_llama, KA_F32);
  const char *const without[] = {"", "cudnn,graphs", "tuning,tiles"};
  double loss[3];
  for (int i = 0; i < 3; i++) {
    struct bed b;
    struct cudahost_counters before, after;
    setenv("KAPPA_CUDA_WITHOUT", without[i], 1);
    T_OK(bed_open(&b, dir, KA_F32, false, none));
    for (int s = 0; s < 2; s++) T_OK(step(&b, &loss[i]));
    host.count(&before);
    T_OK(step(&b, &loss[i]));
    host.count(&after);
    assert_int_equal(after.graph_launches - before.graph_launches, i == 1 ? 0 : ACCUMULATION);
    bed_close(&b);
  }
  assert_true(loss[1] == loss[0]);
  assert_true(fabs(loss[2] - loss[0]) < 1e-5 * loss[0]);
  struct bed b;
  setenv("KAPPA_CUDA_WITHOUT", "graphs,speed", 1);
  ka_status st = bed_open(&b, dir, KA_F32, false, none);
  unsetenv("KAPPA_CUDA_WITHOUT");
  T_FAILS(st, KA_E_USAGE, "got \"speed\", expected words of cudnn, graphs, tuning, tiles");
}

/* The state in the host's memory gives the same weights, to the bit; with the same matmul
 * algorithms, which another device would have measured for itself. */
static void offloading_changes_no_bit(void **state) {
  (void)state;
  const char *dir = tiny_make(ctx, tiny_llama, KA_F32);
  struct bed b[2];
  struct ka_str choices = {0};
  float *w[2];
  for (int i = 0; i < 2; i++) {
    double loss;
    T_OK(bed_open(&b[i], dir, KA_BF16, i == 1, both));
    if (i == 1) T_OK(ka_dev_choices_get(&b[0].dev, &choices));
    if (i == 1) T_OK(ka_dev_choices_set(&b[1].dev, choices.data));
    for (int s = 0; s < 3; s++) T_OK(step(&b[i], &loss));
  }
  for (int64_t p = 0; p < b[0].o.n; p++) {
    const int64_t *shape = b[0].o.slices[p].w.shape;
    int64_t n = shape[0] * shape[1];
    for (int i = 0; i < 2; i++) {
      w[i] = malloc((size_t)n * sizeof(float));
      T_OK(ka_dev_get(&b[i].dev, ka_tensor_2d(w[i], KA_F32, shape[0], shape[1]),
                      b[i].o.slices[p].w));
    }
    assert_memory_equal(w[0], w[1], (size_t)n * sizeof(float));
    free(w[0]);
    free(w[1]);
  }
  bed_close(&b[0]);
  bed_close(&b[1]);
  ka_str_deinit(&choices);
}

/* Text that begins with another library version or device is ignored, all of it. */
static void choices_of_another_device_are_not_taken(void **state) {
  (void)state;
  struct bed b;
  struct ka_dev dev;
  struct ka_str choices = {0}, none_yet = {0}, taken = {0};
  double loss;
  setenv("KAPPA_CUDA_WITHOUT", "tuning", 1); /* and so without those on disk */
  T_OK(bed_open(&b, tiny_make(ctx, tiny_llama, KA_F32), KA_F32, false, none));
  T_OK(step(&b, &loss));
  T_OK(ka_dev_choices_get(&b.dev, &choices));
  assert_int_equal(strncmp(choices.data, "cuBLASLt ", 9), 0);
  const char *lines = strchr(choices.data, '\n') + 1;
  T_OK(ka_dev_open(ctx, &dev, "cuda"));
  unsetenv("KAPPA_CUDA_WITHOUT");
  T_OK(ka_dev_choices_set(&dev, ""));
  T_OK(ka_dev_choices_set(&dev, lines));
  T_OK(ka_dev_choices_set(&dev, t_str("cuBLASLt 1, another\n%s", lines)));
  T_OK(ka_dev_choices_get(&dev, &none_yet));
  assert_int_equal(none_yet.len, 0);
  T_OK(ka_dev_choices_set(&dev, choices.data));
  T_OK(ka_dev_choices_get(&dev, &taken));
  assert_string_equal(taken.data, choices.data);
  ka_dev_close(&dev);
  bed_close(&b);
  ka_str_deinit(&choices);
  ka_str_deinit(&none_yet);
  ka_str_deinit(&taken);
}

/* Divergence, loss and weights after some steps are those of the cpu. */
static void anchors_as_on_the_cpu(void **state) {
  (void)state;
  const char *dir = tiny_make(ctx, tiny_qwen3, KA_F32);
  struct bed b[2];
  struct ka_loop_step s[2];
  for (int i = 0; i < 2; i++) {
    T_OK(bed_open_on(&b[i], i ? "cuda" : "cpu", dir, KA_F32, false, both));
    for (int k = 0; k < 4; k++) T_OK(ka_loop_step(&b[i].loop, &s[i]));
  }
  assert_true(s[0].term[KA_TERM_KL_TASK] > 0.01 &&
              fabs(s[1].term[KA_TERM_KL_TASK] / s[0].term[KA_TERM_KL_TASK] - 1) < 1e-3);
  assert_true(fabs(s[1].term[KA_TERM_CE] / s[0].term[KA_TERM_CE] - 1) < 1e-4);
  for (int64_t p = 0; p < b[0].o.n; p++) {
    struct ka_tensor w = b[0].o.slices[p].w, got = w;
    got.data = malloc(ka_tensor_bytes(&w));
    T_OK(ka_dev_get(&b[1].dev, got, b[1].o.slices[p].w));
    double sum = 0;
    int64_t n = ka_tensor_elems(&w);
    for (int64_t k = 0; k < n; k++)
      sum += pow((double)((float *)got.data)[k] - (double)((float *)w.data)[k], 2);
    if (!(sqrt(sum / (double)n) < 2e-4))
      fail_msg("%s: RMS %g", b[0].o.slices[p].tensor, sqrt(sum / (double)n));
    free(got.data);
  }
  bed_close(&b[0]);
  bed_close(&b[1]);
}

/* The Nth call of a kind fails, for every N until all goes well: a message and a code, and after
 * closing nothing is left. A recording or a product's algorithm that fails is done without: the
 * losses are the same but for the order of sums. */
static void every_failure_is_told_and_leaves_nothing(void **state) {
  (void)state;
  static const char *const kinds[] = {"fail_alloc", "fail_pinned", "fail_create", "fail_copy",
                                      "fail_launch"};
  const char *dir = tiny_make(ctx, tiny_mistral, KA_F32);
  struct bed whole;
  double right = 0;
  T_OK(bed_open(&whole, dir, KA_BF16, false, both));
  for (int s = 0; s < 2; s++) T_OK(step(&whole, &right));
  bed_close(&whole);
  host.reset();
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
    int failed = 0, unrecorded = 0, stride = 1;
    bool launch = strcmp(kinds[k], "fail_launch") == 0;
    for (int n = 1; n < 4000; n += stride) {
      struct bed b;
      struct cudahost_counters c;
      double loss;
      host.set(kinds[k], t_str("%d", n));
      ka_status st = bed_open(&b, dir, KA_BF16, false, both);
      for (int s = 0; s < 2 && ka_ok(st); s++) st = step(&b, &loss);
      host.count(&c);
      bool planted = c.injected > 0, never = ka_ok(st) && b.m.buffers->recorded[0].replay.never;
      if (launch && ka_ok(st) && fabs(loss / right - 1) > 1e-5)
        fail_msg("%s %d: loss %.9g, not %.9g", kinds[k], n, loss, right);
      if (planted && ka_ok(st) && !never && !launch) fail_msg("%s %d went unnoticed", kinds[k], n);
      if (never && isnan(loss)) fail_msg("%s %d: the unrecorded step lost its loss", kinds[k], n);
      unrecorded += never;
      if (!planted && !ka_ok(st)) fail_msg("%s %d: %s", kinds[k], n, ctx->error.message);
      bool told = planted && !ka_ok(st);
      if (told && st.code != KA_E_MEMORY && st.code != KA_E_DEVICE)
        fail_msg("%s %d: code %d, %s", kinds[k], n, st.code, ctx->error.message);
      if (told && !strstr(ctx->error.message, ": "))
        fail_msg("%s %d: \"%s\" names nothing", kinds[k], n, ctx->error.message);
      ka_error_clear(ctx);
      host.set(kinds[k], "0");
      bed_close(&b);
      host.count(&c);
      if (c.live_bytes != 0) fail_msg("%s %d: %lld bytes are left", kinds[k], n, c.live_bytes);
      host.reset();
      if (!planted) break;
      failed++;
      stride = n < 40 ? 1 : 29; /* the beginning one by one, the steps by samples */
    }
    assert_true(failed > 0);
    assert_int_equal(unrecorded > 0, launch || strcmp(kinds[k], "fail_create") == 0);
  }
}

/* A kernel that goes wrong shows at the next wait, with the newest op's name, and stays. */
static void a_faulting_kernel_is_reported(void **state) {
  (void)state;
  static const char *const errors[] = {"IllegalAddress",   "Contained",      "NvlinkUncorrectable",
                                       "TensorMemoryLeak", "ExternalDevice", "MpsClientTerminated"};
  const char *dir = tiny_make(ctx, tiny_llama, KA_F32);
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
    struct bed b;
    double loss;
    host.set("on_fault", "sticky");
    T_OK(bed_open(&b, dir, KA_F32, false, none));
    T_OK(step(&b, &loss));
    host.set("fail_kernel", t_str("5:%s", errors[i]));
    T_FAILS(step(&b, &loss), KA_E_DEVICE, "KAPPA_CUDA_SYNC=1");
    T_FAILS(step(&b, &loss), KA_E_DEVICE, "cuda: ");
    bed_close(&b);
    host.reset();
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(a_step_allocates_nothing_and_waits_once, fresh),
      cmocka_unit_test_setup(choices_can_be_left_out, fresh),
      cmocka_unit_test_setup(offloading_changes_no_bit, fresh),
      cmocka_unit_test_setup(choices_of_another_device_are_not_taken, fresh),
      cmocka_unit_test_setup(anchors_as_on_the_cpu, fresh),
      cmocka_unit_test_setup(every_failure_is_told_and_leaves_nothing, fresh),
      cmocka_unit_test_setup(a_faulting_kernel_is_reported, fresh),
  };
  if (!find_host()) {
    print_message("skipped: this is about the cuda back end on its stand-in\n");
    return 0;
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
