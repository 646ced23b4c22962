/* SPDX-License-Identifier: Apache-2.0
 * Any JSON as a conversation: the first byte picks template and options, the rest are the
 * variables. What is masked has a label a token, each masked or the token's id. */
#include "engine/data/chat_mask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TURN "{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
#define CALLS "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
#define PROMPT "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"

static const char *const templates[] = {
    "{% for m in messages %}" TURN CALLS "{{ '<|im_end|>\n' }}{% endfor %}" PROMPT "{% endif %}",
    "{% for m in messages %}" TURN "{{ '<|im_end|>\n' }}{% endfor %}" PROMPT
    "{% else %}{{ '</s>' }}{% endif %}",
    "{% for m in messages %}{% if m.role == 'user' %}[ {{ m.content }} ]{% else %} {{ m.content }}"
    "</s>{% endif %}{% endfor %}",
    "{% for m in messages %}{{ m.role }}{% for p in m.content %}{{ p.text | trim }}{% endfor %}"
    "{{ '</s>' if loop.last else '<|im_end|>' }}{% endfor %}" PROMPT "{% endif %}",
    "{% for m in messages %}{{ m.role }}{% generation %}{{ m.content }}<|im_end|>{% endgeneration "
    "%}"
    "{% endfor %}"};
enum { N_TEMPLATES = sizeof templates / sizeof *templates };

static void must(struct ka_ctx *ctx, ka_status st) {
  if (ka_ok(st)) return;
  fprintf(stderr, "%s\n", ctx->error.message);
  abort();
}

static struct ka_tokenizer *get_tokenizer(struct ka_ctx *ctx) {
  static struct ka_tokenizer *t;
  static const char *const special[] = {"<|im_start|>", "<|im_end|>", "</s>"};
  char path[128];
  if (t) return t;
  snprintf(path, sizeof path, "%s/kappa-fuzz-chat-%ld.json",
           access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (long)getpid());
  must(ctx, ka_tokenizer_write_byte_level(ctx, path, special, 3));
  must(ctx, ka_tokenizer_open(ctx, &t, path));
  unlink(path);
  return t;
}

static void check(const struct ka_chat_masked *m) {
  int64_t end = 0;
  for (int64_t i = 0; i < m->tokens.n; i++) {
    const struct ka_tok_span *s = &m->tokens.spans[i];
    if (m->labels[i] != -100 && m->labels[i] != m->tokens.ids[i]) abort();
    if (s->begin < 0 || s->end < s->begin || (size_t)s->end > m->text.len || s->end < end) abort();
    end = s->end;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  static struct ka_chat *chats[N_TEMPLATES];
  struct ka_ctx ctx;
  json_t *vars = NULL;
  if (n == 0) return 0;
  ka_ctx_init(&ctx);
  ctx.log_level = KA_LOG_QUIET;
  const struct ka_tokenizer *t = get_tokenizer(&ctx);
  struct ka_chat **chat = &chats[data[0] % N_TEMPLATES];
  if (!*chat) {
    const char *text = templates[data[0] % N_TEMPLATES];
    must(&ctx, ka_chat_load_text(&ctx, chat, "t", text, strlen(text), NULL));
  }
  const struct ka_jinja_options small = {
      .limits = {.max_steps = 100000, .max_out_bytes = 1 << 16, .max_total_bytes = 16 << 20}};
  struct ka_chat_mask_options o = {.train_on_eos = data[0] / N_TEMPLATES % 4,
                                   .train_on_inputs = data[0] >= 128,
                                   .jinja = &small};
  struct ka_chat_masked masked = {0};
  ka_status st = ka_json_parse(&ctx, (const char *)data + 1, n - 1, "vars", &vars);
  if (ka_ok(st) && json_is_object(vars) &&
      json_array_size(json_object_get(vars, "messages")) <= 16) {
    st = ka_chat_mask(&ctx, *chat, t, vars, &o, &masked);
    if (ka_ok(st)) check(&masked);
    if (!ka_ok(st) && st.code != KA_E_INPUT && st.code != KA_E_UNSUPPORTED) must(&ctx, st);
  }
  ka_chat_masked_deinit(&masked);
  json_decref(vars);
  return 0;
}
