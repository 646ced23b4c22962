/* SPDX-License-Identifier: Apache-2.0
 * engine/data/chat_mask.h: what is trained stands in [brackets]; one token a byte, so that every
 * boundary is visible. */
#include "engine/data/chat_mask.h"
#include "tests/support/test.h"

#include <string.h>

/* Turns as ChatML has them, a system turn of its own only when there is one. */
static const char chatml[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/* The same, but earlier turns lose their thoughts. */
static const char forgets[] =
    "{% for m in messages %}{% set c = m.content %}{% if not loop.last and '</think>' in c %}"
    "{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/* No generation prompt, content trimmed, end only behind answers. */
static const char brackets[] =
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'user' %}{{ '(' + m.content|trim + ')' }}"
    "{% else %}{{ ' ' + m.content|trim + '</s>' }}{% endif %}{% endfor %}";
static const char tools[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{% for c in m.tool_calls or [] %}{{ 'CALL ' + c.function.name + c.function.arguments|tojson }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
static const char marked[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/* EOS behind the whole conversation: always, where nothing is to follow, without any other end. */
static const char eos_at_end[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}"
    "{{ '</s>' }}{% endif %}";
static const char eos_always[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{{ '</s>' }}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif "
    "%}";
static const char eos_alone[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '\n' }}{% endfor %}"
    "{{ '</s>' }}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/* The prompt opens a thought that the history does not show, or shows as an empty one. */
static const char opens[] =
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<u>' + m.content }}{% else %}"
    "{{ '<a>' + m.content + '<e>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<a><think>\n' }}{% endif %}";
static const char opens_line[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + ('<think></think>' if m.role == "
    "'assistant' else '') + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}";
static const char opens_tag[] =
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<u>' + m.content }}{% else %}"
    "{{ '<a></think>' + m.content + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<a><think>' }}{% endif %}";
/* The end of turn stands behind the block. */
static const char marked_words[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ '~' + m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}";

/* The last answer ends otherwise; no prompt behind a tool, but a header. */
static const char odd_ends[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + "
    "('</s>' if loop.last and m.role == 'assistant' else '<|im_end|>') }}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'tool' %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}";

static struct ka_tokenizer *tokenizer(struct ka_ctx *ctx) {
  static const char *const special[] = {"<|im_start|>", "<|im_end|>", "<s>", "</s>"};
  struct ka_tokenizer *t;
  const char *path = t_str("%s/tokenizer.json", t_temp_dir());
  T_OK(ka_tokenizer_write_byte_level(ctx, path, special, 4));
  T_OK(ka_tokenizer_open(ctx, &t, path));
  return t;
}

/* The rendering with trained stretches in brackets. */
static const char *shown(struct ka_ctx *ctx, const struct ka_chat_masked *m) {
  struct ka_str s = {0};
  bool inside = false;
  size_t at = 0;
  for (int64_t i = 0; i < m->tokens.n; i++) {
    bool train = m->labels[i] != -100;
    if (train) assert_int_equal(m->labels[i], m->tokens.ids[i]);
    size_t begin = (size_t)m->tokens.spans[i].begin;
    T_OK(ka_str_append(ctx, &s, m->text.data + at, begin - at));
    if (train != inside) T_OK(ka_str_puts(ctx, &s, train ? "[" : "]"));
    inside = train;
    at = begin;
  }
  T_OK(ka_str_append(ctx, &s, m->text.data + at, m->text.len - at));
  if (inside) T_OK(ka_str_puts(ctx, &s, "]"));
  const char *text = t_str("%s", s.data ? s.data : "");
  ka_str_deinit(&s);
  return text;
}

static ka_status mask(struct ka_ctx *ctx, const struct ka_tokenizer *t, const char *template,
                      const char *vars_json, const struct ka_chat_mask_options *opts,
                      struct ka_chat_masked *out) {
  struct ka_chat *chat;
  json_t *vars;
  T_OK(ka_chat_load_text(ctx, &chat, "t", template, strlen(template), NULL));
  T_OK(ka_json_parse(ctx, vars_json, strlen(vars_json), "vars", &vars));
  ka_status st = ka_chat_mask(ctx, chat, t, vars, opts, out);
  json_decref(vars);
  ka_chat_destroy(chat);
  return st;
}

#define TALK                                                                                       \
  "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":"     \
  "\"Yo\"},{\"role\":\"user\",\"content\":\"So?\"},{\"role\":\"assistant\",\"content\":\"No\"}]}"
#define U(text) "<|im_start|>user\n" text "\n"
#define A(text) "<|im_start|>assistant\n" text "\n"

static void the_trained_text_is_what_it_should_be(void **state) {
  (void)state;
  static const char *const both[] = {"user", "assistant"}, *const user[] = {"user"};
  static const struct {
    const char *template, *vars;
    struct ka_chat_mask_options opts;
    const char *expected;
  } cases[] = {
      {eos_at_end,
       TALK,
       {0},
       U("Hi<|im_end|>") A("[Yo<|im_end|>]") U("So?<|im_end|>") A("[No<|im_end|>]") "[</s>]"},
      {eos_always,
       TALK,
       {0},
       U("Hi<|im_end|>") A("[Yo<|im_end|>]") U("So?<|im_end|>") A("[No<|im_end|>]") "[</s>]"},
      {eos_alone, TALK, {0}, U("Hi") A("[Yo]") U("So?") A("[No]") "[</s>]"},
      {chatml,
       TALK,
       {0},
       U("Hi<|im_end|>") A("[Yo<|im_end|>]") U("So?<|im_end|>") A("[No<|im_end|>]")},
      {chatml,
       TALK,
       {.train_on_eos = KA_EOS_NONE},
       U("Hi<|im_end|>") A("[Yo]<|im_end|>") U("So?<|im_end|>") A("[No]<|im_end|>")},
      {chatml,
       TALK,
       {.train_on_eos = KA_EOS_LAST},
       U("Hi<|im_end|>") A("[Yo]<|im_end|>") U("So?<|im_end|>") A("[No<|im_end|>]")},
      {chatml,
       TALK,
       {.train_on_eos = KA_EOS_ALL},
       U("Hi[<|im_end|>]") A("[Yo<|im_end|>]") U("So?[<|im_end|>]") A("[No<|im_end|>]")},
      {chatml,
       TALK,
       {.roles_to_train = both, .n_roles = 2},
       U("[Hi<|im_end|>]") A("[Yo<|im_end|>]") U("[So?<|im_end|>]") A("[No<|im_end|>]")},
      {chatml,
       TALK,
       {.train_on_inputs = true},
       U("[Hi<|im_end|>]") A("[Yo<|im_end|>]") U("[So?<|im_end|>]") A("[No<|im_end|>]")},
      {chatml,
       "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\",\"train\":true},"
       "{\"role\":\"assistant\",\"content\":\"Yo\",\"train\":false},"
       "{\"role\":\"assistant\",\"content\":\"\\u00e9\\u00e8\"}]}",
       {0},
       U("[Hi<|im_end|>]") A("Yo<|im_end|>") A("[\u00e9\u00e8<|im_end|>]")},
      {chatml,
       "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\","
       "\"content\":[{\"text\":\"a \",\"train\":false},{\"text\":\"b\",\"train\":true},"
       "{\"text\":\" c\"}]}]}",
       {0},
       U("Hi<|im_end|>") A("a [b c<|im_end|>]")},
      {chatml,
       "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\","
       "\"content\":\"\"}]}",
       {0},
       U("Hi<|im_end|>") A("[<|im_end|>]")},
      {forgets,
       "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\","
       "\"content\":\"hm</think>Yo\"},{\"role\":\"user\",\"content\":\"So?\"},"
       "{\"role\":\"assistant\",\"content\":\"ah</think>No\"}]}",
       {0},
       U("Hi<|im_end|>") A("[Yo<|im_end|>]") U("So?<|im_end|>") A("[ah</think>No<|im_end|>]")},
      {tools,
       "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\","
       "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}}]},"
       "{\"role\":\"tool\",\"content\":\"7\"},{\"role\":\"assistant\",\"content\":\"7!\"}]}",
       {0},
       U("Hi<|im_end|>")
           A("[CALL f{\"a\": 1}<|im_end|>]") "<|im_start|>tool\n7<|im_end|>\n" A("[7!<|im_end|>]")},
      {marked,
       TALK,
       {0},
       U("Hi<|im_end|>") A("[Yo<|im_end|>]") U("So?<|im_end|>") A("[No<|im_end|>]")},
      {marked,
       "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\","
       "\"content\":\"Yo\",\"train\":false},{\"role\":\"assistant\",\"content\":\"No\"}]}",
       {0},
       U("Hi<|im_end|>") A("Yo<|im_end|>") A("[No<|im_end|>]")},
      {marked,
       TALK,
       {.roles_to_train = user, .n_roles = 1, .train_on_eos = KA_EOS_NONE},
       U("[Hi]<|im_end|>") A("Yo<|im_end|>") U("[So?]<|im_end|>") A("No<|im_end|>")},
      {opens, TALK, {0}, "<u>Hi<a>[Yo<e>]<u>So?<a>[No<e>]"},
      {opens,
       "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":"
       "\"<thin>\"}]}",
       {0},
       "<u>Hi<a>[<thin><e>]"},
      {opens_tag, TALK, {0}, "<u>Hi<a>[</think>Yo</s>]<u>So?<a>[</think>No</s>]"},
      {opens_line,
       TALK,
       {0},
       U("Hi<|im_end|>") A("[<think></think>Yo<|im_end|>]") U("So?<|im_end|>")
           A("[<think></think>No<|im_end|>]")},
      {marked,
       TALK,
       {.train_on_eos = KA_EOS_NONE},
       U("Hi<|im_end|>") A("[Yo]<|im_end|>") U("So?<|im_end|>") A("[No]<|im_end|>")},
      {marked,
       TALK,
       {.train_on_eos = KA_EOS_LAST},
       U("Hi<|im_end|>") A("[Yo]<|im_end|>") U("So?<|im_end|>") A("[No<|im_end|>]")},
      {marked_words,
       TALK,
       {0},
       U("Hi<|im_end|>") A("[~Yo]<|im_end|>") U("So?<|im_end|>") A("[~No]<|im_end|>")},
      {marked_words,
       TALK,
       {.train_on_eos = KA_EOS_NONE},
       U("Hi<|im_end|>") A("[~Yo]<|im_end|>") U("So?<|im_end|>") A("[~No]<|im_end|>")},
      {odd_ends,
       "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":"
       "\"Yo\"},{\"role\":\"tool\",\"content\":\"7\"},{\"role\":\"assistant\",\"content\":\"No\"}]"
       "}",
       {0},
       "<|im_start|>user\nHi<|im_end|><|im_start|>assistant\n[Yo<|im_end|>]"
       "<|im_start|>tool\n7<|im_end|><|im_start|>assistant\n[No</s>]"},
      {brackets, TALK, {0}, "<s>(Hi) [Yo</s>](So?) [No</s>]"},
  };
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  struct ka_tokenizer *t = tokenizer(ctx);
  struct ka_chat_masked out = {0};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    T_OK(mask(ctx, t, cases[i].template, cases[i].vars, &cases[i].opts, &out));
    assert_string_equal(shown(ctx, &out), cases[i].expected);
  }
  ka_chat_masked_deinit(&out);
  ka_tokenizer_close(t);
}

static void what_cannot_be_found_is_an_error(void **state) {
  (void)state;
  static const char ignores[] =
      "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}";
  static const char shouts[] = "{% for m in messages %}{{ m.content|upper }};{% endfor %}";
  static const struct {
    const char *template, *vars, *message;
  } cases[] = {
      {ignores, TALK, "messages[1]: the chat template shows nothing of this assistant message"},
      {shouts,
       "{\"messages\":[{\"role\":\"assistant\",\"content\":[{\"text\":\"a\",\"train\":true}]}]}",
       "changes the content"},
      {chatml, "{\"messages\":[{\"content\":\"a\"}]}", "\"role\" is not a text"},
      {chatml, "{\"messages\":[{\"role\":\"a\",\"content\":\"a\",\"train\":3}]}", "true or false"},
      {chatml, "{\"messages\":[]}", "no messages"},
      {chatml, "{\"messages\":[{\"role\":\"assistant\",\"content\":[{\"train\":true}]}]}",
       "content[0]: expected a text"},
  };
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  struct ka_tokenizer *t = tokenizer(ctx);
  struct ka_chat_masked out = {0};
  const struct ka_chat_mask_options usual = {0};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    T_FAILS(mask(ctx, t, cases[i].template, cases[i].vars, &usual, &out), KA_E_INPUT,
            cases[i].message);
  ka_chat_masked_deinit(&out);
  ka_tokenizer_close(t);
}

static void failing_allocations_are_survived(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  struct ka_tokenizer *t = tokenizer(ctx);
  struct ka_chat *chat;
  json_t *vars;
  const struct ka_chat_mask_options opts = {.train_on_eos = KA_EOS_ALL};
  T_OK(ka_chat_load_text(ctx, &chat, "t", forgets, strlen(forgets), NULL));
  T_OK(ka_json_parse(ctx, TALK, strlen(TALK), "vars", &vars));
  bool done = false;
  int n = 0;
  for (; !done; n++) {
    struct ka_chat_masked out = {0};
    ka_ctx_init(ctx);
    ctx->fail_alloc_at = n + 1;
    ka_status st = ka_chat_mask(ctx, chat, t, vars, &opts, &out);
    done = ctx->fail_alloc_at > 0;
    assert_int_equal(st.code, done ? KA_OK : KA_E_MEMORY);
    ka_chat_masked_deinit(&out);
  }
  assert_true(n > 10);
  json_decref(vars);
  ka_chat_destroy(chat);
  ka_tokenizer_close(t);
}

/* Where a template writes the space before an answer, " Y" is one token of both: it is trained. */
static void a_token_that_overlaps_an_answer_is_trained(void **state) {
  (void)state;
  struct ka_ctx c, *ctx = &c;
  ka_ctx_init(ctx);
  struct ka_tokenizer *t;
  struct ka_chat_masked m = {0};
  const char *path = t_str("%s/tokenizer.json", t_temp_dir());
  static const char merged[] =
      "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":6,\"content\":\"</s>\",\"single_word\":false,"
      "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}],\"normalizer\":"
      "null,"
      "\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":null,\"model\":{\"type\":\"BPE\","
      "\"vocab\":{\"(\":0,\")\":1,\" \":2,\"Y\":3,\" Y\":4,\"q\":5,\"</s>\":6},"
      "\"merges\":[[\" \",\"Y\"]]}}";
  char text[sizeof merged];
  memcpy(text, merged, sizeof merged);
  T_OK(ka_write_file(ctx, path, text, sizeof merged - 1));
  T_OK(ka_tokenizer_open(ctx, &t, path));
  const char *talk = "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},"
                     "{\"role\":\"assistant\",\"content\":\"Y\"}]}";
  const char *spaced = "{% for m in messages %}{% if m.role == 'user' %}({{ m.content }}){% else %}"
                       " {{ m.content }}</s>{% endif %}{% endfor %}";
  T_OK(mask(ctx, t, spaced, talk, &(struct ka_chat_mask_options){0}, &m));
  assert_string_equal(shown(ctx, &m), "(q)[ Y</s>]");
  const char *marks =
      "{% for m in messages %}{% if m.role == 'user' %}({{ m.content }}) {% else %}"
      "{% generation %}{{ m.content }}</s>{% endgeneration %}{% endif %}{% endfor %}";
  T_OK(mask(ctx, t, marks, talk, &(struct ka_chat_mask_options){0}, &m));
  assert_string_equal(shown(ctx, &m), "(q)[ Y</s>]");
  ka_chat_masked_deinit(&m);
  ka_tokenizer_close(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_trained_text_is_what_it_should_be),
      cmocka_unit_test(a_token_that_overlaps_an_answer_is_trained),
      cmocka_unit_test(what_cannot_be_found_is_an_error),
      cmocka_unit_test(failing_allocations_are_survived),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
