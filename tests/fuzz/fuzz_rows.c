/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a data file: the first byte picks the format and the type, the rest is the file.
 * What opens must give well-formed batches. */
#include "engine/train/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { V = 258 };

static const char *const names[] = {"jsonl", "json", "csv", "txt"};
static const char *const types[] = {"completion", "alpaca", "input_output", "tokenized",
                                    "chat_template"};

struct home { /* a model directory with a tokenizer and a template; made once */
  char dir[64];
  struct ka_tokenizer *tokenizer;
};

static void must(struct ka_ctx *ctx, ka_status st) {
  if (ka_ok(st)) return;
  fprintf(stderr, "%s\n", ctx->error.message);
  abort();
}

static const struct home *get_home(struct ka_ctx *ctx) {
  static struct home h;
  static const char *const special[] = {"<|im_start|>", "<|im_end|>"};
  static const char template[] = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
                                 "{{ m.content }}<|im_end|>\n{% endfor %}";
  char path[128];
  if (h.tokenizer) return &h;
  snprintf(h.dir, sizeof h.dir, "%s/kappa-fuzz-rows-%ld",
           access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (long)getpid());
  must(ctx, ka_make_dirs(ctx, h.dir));
  snprintf(path, sizeof path, "%s/chat_template.jinja", h.dir);
  must(ctx, ka_write_file(ctx, path, template, strlen(template)));
  snprintf(path, sizeof path, "%s/tokenizer.json", h.dir);
  must(ctx, ka_tokenizer_write_byte_level(ctx, path, special, 2));
  must(ctx, ka_tokenizer_open(ctx, &h.tokenizer, path));
  return &h;
}

static void check_batches(struct ka_ctx *ctx, struct ka_data *d) {
  for (int64_t i = 0; i < ka_data_n_batches(d, KA_DATA_TRAIN); i++) {
    struct ka_batch b;
    must(ctx, ka_data_batch(ctx, d, KA_DATA_TRAIN, i, &b));
    int64_t n_targets = 0;
    for (int64_t k = 0; k < b.B * b.T; k++) {
      int64_t t = k % b.T;
      if (b.input_ids[k] < 0 || b.input_ids[k] >= V || b.doc_start[k] < 0 || b.doc_start[k] > t ||
          b.position[k] != t - b.doc_start[k])
        abort();
      if (b.labels[k] != -100 && (b.labels[k] < 0 || b.labels[k] >= V || b.doc_start[k] == t))
        abort();
      n_targets += b.labels[k] != -100;
    }
    if (n_targets != b.n_targets || n_targets == 0) abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_job job;
  struct ka_data *d;
  char path[128], yaml[512];
  if (n == 0) return 0;
  ka_ctx_init(&ctx);
  ctx.log_level = KA_LOG_QUIET;
  const struct home *h = get_home(&ctx);
  snprintf(path, sizeof path, "%s/a.%s", h->dir, names[data[0] % 4]);
  must(&ctx, ka_write_file(&ctx, path, data + 1, n - 1));
  int len = snprintf(yaml, sizeof yaml,
                     "base_model: .\nsequence_len: 16\nlength_policy: split\nval_set_size: 0\n"
                     "datasets: [{path: a.%s, type: %s}]\n",
                     names[data[0] % 4], types[data[0] / 4 % 5]);
  must(&ctx, ka_job_parse(&ctx, &job, yaml, (size_t)len, "job.yaml", h->dir, NULL, 0));
  struct ka_data_spec spec = ka_train_data_spec(&job, NULL);
  ka_status st = ka_data_open(&ctx, &d, &spec, h->tokenizer, V);
  if (ka_ok(st))
    check_batches(&ctx, d);
  else if (st.code != KA_E_INPUT && st.code != KA_E_UNSUPPORTED)
    must(&ctx, st);
  ka_data_close(d);
  ka_job_close(&job);
  unlink(path);
  return 0;
}
