/* SPDX-License-Identifier: Apache-2.0
 * kappa doctor: what this machine has, what is missing, which back end supports which op. Every
 * line is found out by asking: library versions from the libraries, support by running the op's
 * smallest test case. */
#include "base/json.h"
#include "base/machine.h"
#include "engine/cli/cli.h"
#include "kernels/op_cases.h"
#include "linalg/blas.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <omp.h>
#include <pcre2.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>
#include <yaml.h>
#ifdef KAPPA_HAVE_ZSTD
#include <zstd.h>
#endif
#ifdef KAPPA_HAVE_ONEDNN
#include <dnnl.h>
#endif
#ifdef KAPPA_HAVE_OPENBLAS
#include <cblas.h>
#endif
#ifdef KAPPA_HAVE_AUDIO
#include <sndfile.h>
#include <soxr.h>
#endif

static ka_status set_text(struct ka_ctx *ctx, json_t *object, const char *key, const char *text) {
  return ka_json_set(ctx, object, key, json_string(text));
}

static ka_status libraries(struct ka_ctx *ctx, json_t *out) {
  char text[128];
  pcre2_config(PCRE2_CONFIG_VERSION, text);
  KA_TRY(set_text(ctx, out, "pcre2", text));
  KA_TRY(set_text(ctx, out, "libyaml", yaml_get_version_string()));
  KA_TRY(set_text(ctx, out, "jansson", jansson_version_str()));
  KA_TRY(set_text(ctx, out, "utf8proc", utf8proc_version()));
  unsigned xx = XXH_versionNumber();
  snprintf(text, sizeof text, "%u.%u.%u", xx / 10000, xx / 100 % 100, xx % 100);
  KA_TRY(set_text(ctx, out, "xxhash", text));
#ifdef KAPPA_HAVE_ZSTD
  KA_TRY(set_text(ctx, out, "zstd", ZSTD_versionString()));
#endif
#ifdef KAPPA_HAVE_ONEDNN
  const dnnl_version_t *v = dnnl_version();
  snprintf(text, sizeof text, "%d.%d.%d", v->major, v->minor, v->patch);
  KA_TRY(set_text(ctx, out, "oneDNN", text));
#endif
#ifdef KAPPA_HAVE_OPENBLAS
  snprintf(text, sizeof text, "%s, kernels for %s", openblas_get_config(), openblas_get_corename());
  KA_TRY(set_text(ctx, out, "OpenBLAS", text));
#endif
#ifdef KAPPA_HAVE_AUDIO
  KA_TRY(set_text(ctx, out, "libsndfile", sf_version_string()));
  KA_TRY(set_text(ctx, out, "libsoxr", soxr_version()));
#endif
  return KA_STATUS_OK;
}

/* The processor's name and the vector extensions that the kernels care about. */
static ka_status processor(struct ka_ctx *ctx, json_t *out) {
  char features[128] = "";
#if defined(__x86_64__)
#define HAS(name)                                                                                  \
  if (__builtin_cpu_supports(name)) strcat(strcat(features, *features ? " " : ""), name);
  HAS("avx2")
  HAS("fma")
  HAS("avx512f")
  HAS("avx512bw")
  HAS("avx512vnni")
  HAS("avx512bf16")
#undef HAS
#endif
  struct ka_machine machine;
  ka_machine_read(&machine);
  KA_TRY(set_text(ctx, out, "name", machine.processor));
  KA_TRY(set_text(ctx, out, "features", features));
  KA_TRY(ka_json_set(ctx, out, "threads", json_integer(omp_get_max_threads())));
  return ka_json_set(ctx, out, "memory_bytes", json_integer((json_int_t)machine.memory_bytes));
}

/* "own", "ref" (by the reference kernel) or "none", by running the op's first case. */
static const char *support(struct ka_dev *dev, enum ka_op op, enum ka_dtype x) {
  const struct ka_op_case *c = ka_op_cases;
  while (c->op != op) c++;
  struct ka_arena a;
  struct ka_op_call call;
  struct ka_op_mirror mirror = {0};
  ka_arena_init(&a, dev->ctx, "doctor");
  ka_status st = ka_op_call_make(dev, &a, c, x, 1, (struct ka_op_layout){0}, &call);
  if (ka_ok(st)) st = ka_op_mirror_open(dev, &mirror, &call, (struct ka_op_layout){0}, true);
  if (ka_ok(st)) st = ka_op_call_run(dev, &mirror.call);
  if (ka_ok(st)) st = ka_op_mirror_fetch(&mirror);
  ka_op_mirror_close(&mirror);
  ka_arena_deinit(&a);
  if (!ka_ok(st)) ka_error_clear(dev->ctx);
  if (!ka_ok(st)) return "none";
  bool own = ka_dev_own_memory(dev) || x != KA_F64; /* the processor's f64 is ref's */
  return ka_op_overridden(dev->backend, op) && own ? "own" : "ref";
}

static ka_status matrix(struct ka_ctx *ctx, struct ka_dev *dev, json_t *out) {
  static const enum ka_dtype types[] = {KA_F32, KA_BF16, KA_F64};
  for (int op = 0; op < KA_N_OPS; op++) {
    json_t *row = json_object();
    KA_TRY(ka_json_set(ctx, out, ka_op_name((enum ka_op)op), row));
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
      KA_TRY(set_text(ctx, row, ka_dtype_name(types[i]), support(dev, (enum ka_op)op, types[i])));
  }
  return KA_STATUS_OK;
}

static ka_status device(struct ka_ctx *ctx, json_t *devices, const char *name) {
  struct ka_dev dev;
  char text[512] = "";
  json_t *row = json_object(), *ops = json_object();
  KA_TRY(ka_json_set(ctx, devices, name, row));
  KA_TRY(ka_json_set(ctx, row, "ops", ops));
  KA_TRY(ka_dev_open(ctx, &dev, name));
  if (dev.backend->describe) dev.backend->describe(&dev, text, sizeof text);
  size_t len = strlen(text);
  if (dev.backend->details && len + 3 < sizeof text) {
    memcpy(text + len, "; ", 3);
    dev.backend->details(&dev, text + len + 2, sizeof text - len - 2);
  }
  ka_status st = set_text(ctx, row, "kernels", text);
  if (ka_ok(st)) st = ka_json_set(ctx, row, "fast_bf16", json_boolean(dev.has_bf16));
  if (ka_ok(st)) st = matrix(ctx, &dev, ops);
  ka_dev_close(&dev);
  return st;
}

/* The cuda device, or in `missing` why there is none. */
static ka_status cuda(struct ka_ctx *ctx, json_t *devices, char *missing, size_t n) {
  struct ka_dev dev;
  ka_status st = ka_dev_open(ctx, &dev, "cuda");
  *missing = 0;
  if (ka_ok(st)) {
    ka_dev_close(&dev);
    return device(ctx, devices, "cuda");
  }
  snprintf(missing, n, "%.2000s", ctx->error.message);
  ka_error_clear(ctx);
  return KA_STATUS_OK;
}

static ka_status advice(struct ka_ctx *ctx, json_t *list, json_t *devices, const char *no_cuda) {
  const char *lines[8];
  int n = 0;
  const char *slow = ka_blas_slow_core();
#ifndef KAPPA_HAVE_ONEDNN
  lines[n++] = "oneDNN is missing: matrix products are slow (apt install libdnnl-dev, build again)";
#endif
#ifndef KAPPA_HAVE_LAPACK
  lines[n++] =
      "LAPACKE is missing: spectra by plain C, slowly (apt install liblapacke-dev libopenblas-dev)";
#endif
#ifndef KAPPA_HAVE_ZSTD
  lines[n++] = "zstd is missing: no packed deltas (apt install libzstd-dev, build again)";
#endif
#ifndef KAPPA_HAVE_AUDIO
  lines[n++] = "libsndfile, libsoxr or KissFFT is missing: no audio (apt install libsndfile1-dev "
               "libsoxr-dev libkissfft-dev, build again)";
#endif
  if (slow) lines[n++] = slow;
  if (!json_is_true(json_object_get(json_object_get(devices, "cpu"), "fast_bf16")))
    lines[n++] = "no bf16 instructions: `bf16: auto` computes in f32";
  if (*no_cuda) lines[n++] = no_cuda;
  for (int i = 0; i < n; i++) KA_TRY(ka_json_append(ctx, list, json_string(lines[i])));
  return KA_STATUS_OK;
}

static ka_status gather(struct ka_ctx *ctx, json_t *root) {
  json_t *libs = json_object(), *cpu = json_object(), *devices = json_object();
  json_t *notes = json_array();
  char no_cuda[2048];
  KA_TRY(set_text(ctx, root, "kappa", KAPPA_VERSION));
  KA_TRY(ka_json_set(ctx, root, "processor", cpu));
  KA_TRY(ka_json_set(ctx, root, "libraries", libs));
  KA_TRY(ka_json_set(ctx, root, "devices", devices));
  KA_TRY(ka_json_set(ctx, root, "notes", notes));
  KA_TRY(processor(ctx, cpu));
  KA_TRY(libraries(ctx, libs));
  KA_TRY(device(ctx, devices, "cpu"));
  KA_TRY(device(ctx, devices, "ref"));
  KA_TRY(cuda(ctx, devices, no_cuda, sizeof no_cuda));
  return advice(ctx, notes, devices, no_cuda);
}

static void print_fields(const char *title, json_t *object) {
  const char *key;
  json_t *value;
  printf("%s\n", title);
  json_object_foreach(object, key, value) {
    if (json_is_string(value)) printf("  %-14s %s\n", key, json_string_value(value));
    if (json_is_integer(value)) printf("  %-14s %lld\n", key, json_integer_value(value));
  }
}

static void print_matrix(json_t *devices) {
  const char *name, *dtype, *op;
  json_t *device, *row, *cell;
  printf("support (own: the back end's kernel, ref: the reference kernel, none)\n  %-14s", "");
  json_object_foreach(devices, name, device)
      json_object_foreach(json_object_get(json_object_get(device, "ops"), "fill"), dtype, cell)
          printf(" %3s %-4s", name, dtype);
  printf("\n");
  json_object_foreach(json_object_get(json_object_get(devices, "cpu"), "ops"), op, row) {
    printf("  %-14s", op);
    json_object_foreach(devices, name, device)
        json_object_foreach(json_object_get(json_object_get(device, "ops"), op), dtype, cell)
            printf(" %-8s", json_string_value(cell));
    printf("\n");
  }
}

static void print(json_t *root) {
  size_t i;
  const char *name;
  json_t *note, *device, *devices = json_object_get(root, "devices");
  printf("kappa %s\n", KAPPA_VERSION);
  print_fields("processor", json_object_get(root, "processor"));
  print_fields("libraries", json_object_get(root, "libraries"));
  json_object_foreach(devices, name, device) {
    char title[64];
    snprintf(title, sizeof title, "device %s", name);
    print_fields(title, device);
  }
  print_matrix(devices);
  printf("notes\n");
  json_array_foreach(json_object_get(root, "notes"), i, note)
      printf("  %s\n", json_string_value(note));
}

static ka_status doctor_run(struct ka_ctx *ctx, const struct ka_cli *cli) {
  const char *json = ka_cli_str(cli, "json");
  json_t *root = json_object();
  ka_status st = gather(ctx, root);
  if (ka_ok(st) && json) st = ka_json_write(ctx, root, json);
  if (ka_ok(st) && (!json || strcmp(json, "-") != 0)) print(root);
  json_decref(root);
  return st;
}

static const struct ka_cli_option options[] = {
    {"json", KA_OPT_STR, "FILE", NULL, "write everything as JSON (- for stdout)"},
    {0},
};

const struct ka_cli_command ka_command_doctor = {
    .name = "doctor",
    .args = "",
    .summary = "versions, devices, libraries, support matrix, what is missing",
    .example = "kappa doctor",
    .max_args = 0,
    .options = options,
    .run = doctor_run,
};
