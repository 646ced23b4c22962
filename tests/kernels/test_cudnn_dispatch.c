/* SPDX-License-Identifier: Apache-2.0
 * Which calls of attention go to cuDNN, with what, asked of a library that only writes it down. */
#include "tests/support/test.h"

#ifdef KAPPA_HAVE_CUDNN

#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/cudnn/attn.h"
#include "tests/kernels/cudnn/fake.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- the rest of the back end ----------------------------------------------------------------- */

static int n_launched, n_allocated;

ka_status cuda_launched(struct ka_dev *dev, const char *op, cudaError_t e) {
  (void)dev, (void)op, (void)e;
  n_launched++;
  return KA_STATUS_OK;
}

ka_status cuda_scratch(struct ka_dev *dev, size_t n_bytes, void **out) {
  assert_true(n_bytes <= cuda_of(dev)->scratch_bytes); /* recordings know where it is */
  *out = cuda_of(dev)->scratch;
  return KA_STATUS_OK;
}

ka_status cuda_alloc(struct ka_dev *dev, enum ka_place place, void **out, size_t n_bytes,
                     const char *name) {
  (void)place;
  n_allocated++;
  return ka_alloc(dev->ctx, out, n_bytes > 64 ? 64 : n_bytes, name);
}

cudaError_t cudaFree(void *p) {
  ka_free(p);
  return cudaSuccess;
}

/* --- calls ------------------------------------------------------------------------------------ */

static struct fake_cudnn *fake;

struct bed {
  struct ka_ctx ctx;
  struct cuda_state s;
  struct ka_dev dev;
};

/* A device of this architecture and memory; what it is to leave for cuDNN. */
static size_t begin_without(struct bed *b, int major, size_t gigabytes, unsigned without) {
  struct ka_ctx *ctx = &b->ctx;
  size_t reserved = 1;
  memset(b, 0, sizeof *b);
  ka_ctx_init(ctx);
  ctx->log_level = KA_LOG_QUIET;
  b->s.without = without;
  b->s.props.major = major;
  b->s.props.totalGlobalMem = gigabytes << 30;
  b->s.scratch = &b->s;
  b->s.scratch_bytes = 64 << 20;
  b->dev = (struct ka_dev){.ctx = ctx, .state = &b->s};
  *fake = (struct fake_cudnn){.workspace_bytes = 100};
  n_launched = n_allocated = 0;
  T_OK(cuda_cudnn_open(&b->dev, &reserved));
  assert_int_equal(fake->n_live, 0); /* nothing is started yet */
  return reserved;
}

static size_t begin_with(struct bed *b, int major, size_t gigabytes) {
  return begin_without(b, major, gigabytes, 0);
}

static void begin(struct bed *b) { assert_int_equal(begin_with(b, 9, 80), 512 << 20); }

static void end(struct bed *b) {
  cuda_cudnn_close(&b->dev);
  assert_int_equal(fake->n_live, 0);
  assert_null(b->s.cudnn);
}

/* Memory that nobody touches: [B,T,heads,width] at this megabyte. */
static struct ka_tensor at(int megabyte, int64_t B, int64_t T, int64_t heads, int64_t width) {
  return ka_tensor_view((void *)((uintptr_t)megabyte << 20), KA_BF16, 4,
                        (int64_t[]){B, T, heads, width});
}

static struct ka_attn_fwd_args forward(int64_t B, int64_t T) {
  return (struct ka_attn_fwd_args){
      .out = at(1, B, T, 8, 64),
      .lse = ka_tensor_view((void *)(2u << 20), KA_F32, 3, (int64_t[]){B, 8, T}),
      .q = at(3, B, T, 8, 128),
      .k = at(4, B, T, 2, 128),
      .v = at(5, B, T, 2, 64),
      .scale = 0.25};
}

static struct ka_attn_bwd_args backward(int64_t B, int64_t T) {
  struct ka_attn_fwd_args f = forward(B, T);
  return (struct ka_attn_bwd_args){.dq = at(6, B, T, 8, 128),
                                   .dk = at(7, B, T, 2, 128),
                                   .dv = at(8, B, T, 2, 64),
                                   .dout = at(9, B, T, 8, 64),
                                   .q = f.q,
                                   .k = f.k,
                                   .v = f.v,
                                   .out = f.out,
                                   .lse = f.lse,
                                   .scale = 0.25};
}

static bool run_forward(struct bed *b, struct ka_attn_fwd_args a) {
  struct ka_ctx *ctx = &b->ctx;
  ka_status st = KA_STATUS_OK;
  bool taken = cuda_cudnn_attn_fwd(&b->dev, &a, &st);
  T_OK(st);
  return taken;
}

static bool run_backward(struct bed *b, struct ka_attn_bwd_args a) {
  struct ka_ctx *ctx = &b->ctx;
  ka_status st = KA_STATUS_OK;
  bool taken = cuda_cudnn_attn_bwd(&b->dev, &a, &st);
  T_OK(st);
  return taken;
}

static const struct fake_run *newest(void) { return &fake->runs[(fake->n_runs - 1) % FAKE_RUNS]; }

/* --- tests ------------------------------------------------------------------------------------ */

static void test_forward(void **state) {
  (void)state;
  struct bed b;
  begin(&b);
  struct ka_attn_fwd_args a = forward(2, 160);
  a.window = 7;
  a.softcap = 30;
  assert_true(run_forward(&b, a));
  const struct fake_run *r = newest();
  assert_ptr_equal(r->at[ATTN_Q], a.q.data);
  assert_ptr_equal(r->at[ATTN_KT], a.k.data);
  assert_ptr_equal(r->at[ATTN_V], a.v.data);
  assert_ptr_equal(r->at[ATTN_OUT], a.out.data);
  assert_ptr_equal(r->at[ATTN_LSE], a.lse.data);
  assert_ptr_equal(r->workspace, b.s.scratch);
  assert_true(r->number[ATTN_SCALE] == 0.25f && r->number[ATTN_WINDOW] == 7);
  assert_true(r->number[ATTN_SOFTCAP] == 30 && r->number[ATTN_MINUS_INFINITY] == -INFINITY);
  assert_null(r->at[ATTN_ONE]);
  assert_int_equal(n_launched, 1);
  a.window = 9; /* a number, no other plan */
  assert_true(run_forward(&b, a));
  assert_true(newest()->number[ATTN_WINDOW] == 9);
  assert_int_equal(fake->n_plans, 1);
  a.softcap = 0;
  assert_true(run_forward(&b, a));
  assert_int_equal(fake->n_plans, 2);
  assert_null(newest()->at[ATTN_SOFTCAP]);
  a.window = 0;
  assert_true(run_forward(&b, a));
  a.window = 160; /* hides nothing */
  assert_true(run_forward(&b, a));
  assert_int_equal(fake->n_plans, 3);
  assert_int_equal(fake->n_runs, 5);
  end(&b);
}

static void test_backward(void **state) {
  (void)state;
  struct bed b;
  begin(&b);
  fake->workspace_bytes = 65 << 20; /* more than the scratch */
  struct ka_attn_bwd_args a = backward(12, 2048);
  assert_true(run_backward(&b, a)); /* a row needs about 77 MiB, 512 are there: 6 at a time */
  assert_int_equal(fake->n_runs, 2);
  assert_int_equal(fake->n_plans, 1);
  assert_int_equal(n_launched, 1);
  for (int i = 0; i < 2; i++) {
    const struct fake_run *r = &fake->runs[i];
    int64_t tokens = 6 * 2048 * i;
    const struct {
      int id;
      const struct ka_tensor *t;
      int64_t bytes;
    } rows[] = {{ATTN_Q, &a.q, 2 * 8 * 128},   {ATTN_KT, &a.k, 2 * 2 * 128},
                {ATTN_VT, &a.v, 2 * 2 * 64},   {ATTN_OUT, &a.out, 2 * 8 * 64},
                {ATTN_LSE, &a.lse, 4 * 8},     {ATTN_DOUT, &a.dout, 2 * 8 * 64},
                {ATTN_DQ, &a.dq, 2 * 8 * 128}, {ATTN_DK, &a.dk, 2 * 2 * 128},
                {ATTN_DV, &a.dv, 2 * 2 * 64}};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
      assert_ptr_equal(r->at[rows[k].id], (char *)rows[k].t->data + tokens * rows[k].bytes);
    assert_true(r->number[ATTN_SCALE] == 0.25f && r->number[ATTN_ONE] == 1);
    assert_ptr_not_equal(r->workspace, b.s.scratch);
  }
  void *workspace = fake->runs[0].workspace;
  assert_true(run_backward(&b, backward(1, 512)));
  assert_ptr_equal(newest()->workspace, workspace);
  assert_int_equal(n_allocated, 1);
  end(&b);
}

static void test_not_theirs(void **state) {
  (void)state;
  struct bed b;
  begin(&b);
  struct ka_attn_fwd_args a[9];
  for (int i = 0; i < 9; i++) a[i] = forward(2, 160);
  a[0].q.dtype = KA_F32;
  a[1].lse.data = NULL;
  a[2].doc_start = ka_tensor_2d((void *)(10u << 20), KA_I32, 2, 160);
  a[3].q_offset = 4;
  a[4].k = at(4, 2, 161, 2, 128);
  a[5].v.data = (char *)a[5].v.data + 8;
  a[6] = forward(2, 127);
  a[7] = forward(0, 160);
  a[8].q = at(3, 2, 160, 8, 20);
  for (int i = 0; i < 9; i++) assert_false(run_forward(&b, a[i]));
  struct ka_attn_bwd_args g[3] = {backward(2, 160), backward(2, 160), backward(1, 1 << 20)};
  g[0].doc_start = a[2].doc_start;
  g[1].q.dtype = KA_F32;
  for (int i = 0; i < 3; i++) assert_false(run_backward(&b, g[i]));
  assert_int_equal(fake->n_graphs, 0);
  assert_int_equal(fake->n_runs, 0);
  end(&b);
}

static void test_refusals(void **state) {
  (void)state;
  struct bed b;
  struct ka_attn_fwd_args a = forward(2, 160);
  begin(&b);
  fake->no_engine = true;
  assert_false(run_forward(&b, a));
  fake->no_engine = false;
  assert_false(run_forward(&b, a)); /* remembered, so that a run keeps its bits */
  a.window = 5;
  fake->varies = true;
  assert_false(run_forward(&b, a));
  fake->varies = false;
  a.softcap = 5;
  fake->workspace_bytes = (int64_t)1 << 40;
  assert_false(run_forward(&b, a));
  fake->workspace_bytes = 0;
  a.window = 0;
  b.s.capturing = true; /* nothing new while a pass is recorded */
  assert_false(run_forward(&b, a));
  b.s.capturing = false;
  assert_true(run_forward(&b, a));
  b.s.capturing = true;
  assert_true(run_forward(&b, a));
  assert_int_equal(fake->n_runs, 2);
  end(&b);
}

static void test_failures(void **state) {
  (void)state;
  struct bed b;
  struct ka_ctx *ctx = &b.ctx;
  struct ka_attn_fwd_args a = forward(2, 160);
  ka_status st = KA_STATUS_OK;
  begin(&b);
  ctx->fail_alloc_at = 1;
  assert_true(cuda_cudnn_attn_fwd(&b.dev, &a, &st));
  T_FAILS(st, KA_E_MEMORY, "cuDNN plans");
  fake->no_execution = true;
  assert_true(cuda_cudnn_attn_fwd(&b.dev, &a, &st));
  T_FAILS(st, KA_E_DEVICE,
          "attn_fwd: cuDNN: execution: NOT_SUPPORTED: because; KAPPA_CUDA_WITHOUT=cudnn");
  fake->no_execution = false;
  assert_true(run_forward(&b, a));
  end(&b);
  size_t reserved;
  ctx->fail_alloc_at = 1;
  T_FAILS(cuda_cudnn_open(&b.dev, &reserved), KA_E_MEMORY, "cuDNN");
  end(&b);
}

static void test_memory(void **state) {
  (void)state;
  struct bed b;
  assert_int_equal(begin_with(&b, 8, 16), 256 << 20);
  assert_false(run_backward(&b, backward(1, 4096))); /* 2 * 8 * 4096^2 bytes of dS */
  assert_true(run_backward(&b, backward(4, 2048)));
  assert_int_equal(fake->n_runs, 2);
  end(&b);
  assert_int_equal(begin_with(&b, 8, 3), 0); /* the scratch is more than a 64th */
  end(&b);
  assert_int_equal(begin_with(&b, 10, 180), 0); /* no gradients, no workspace */
  assert_false(run_backward(&b, backward(1, 160)));
  assert_true(run_forward(&b, forward(1, 160)));
  end(&b);
}

static void test_doctor(void **state) {
  (void)state;
  struct bed b;
  char text[256];
  begin(&b);
  cuda_cudnn_describe(&b.dev, text, sizeof text);
  assert_string_equal(text, "cuDNN 9.19 does bf16 attention without documents: forward D 64 128 "
                            "192/128 256 window softcap; backward D 64 128 192/128 256 window "
                            "softcap");
  assert_int_equal(fake->n_plans, 0);
  b.s.props.major = 10;
  fake->no_engine = true;
  cuda_cudnn_describe(&b.dev, text, sizeof text);
  assert_non_null(strstr(text, "forward nothing: no engine takes it"));
  assert_non_null(strstr(text, "; backward own"));
  end(&b);
  assert_int_equal(begin_without(&b, 9, 80, CUDA_CUDNN), 0);
  assert_false(run_forward(&b, forward(2, 160)));
  cuda_cudnn_describe(&b.dev, text, sizeof text);
  assert_string_equal(text, "no attention by cuDNN: KAPPA_CUDA_WITHOUT names it");
  end(&b);
  begin(&b);
  fake->no_handle = true;
  assert_false(run_forward(&b, forward(2, 160)));
  cuda_cudnn_describe(&b.dev, text, sizeof text);
  assert_string_equal(text, "no attention by cuDNN: cudnnCreate: NOT_SUPPORTED: because");
  end(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_forward),    cmocka_unit_test(test_backward),
      cmocka_unit_test(test_not_theirs), cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_failures),   cmocka_unit_test(test_memory),
      cmocka_unit_test(test_doctor)};
  void *library = dlopen(FAKE_CUDNN, RTLD_NOW | RTLD_LOCAL); /* found by its name from now on */
  struct fake_cudnn *(*find)(void) = NULL;
  if (library) *(void **)&find = dlsym(library, "fake_cudnn");
  if (!find) {
    print_error("%s\n", dlerror());
    return 1;
  }
  fake = find();
  return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) {
  print_message("skipped: built without cuDNN's headers\n");
  return 0;
}

#endif
