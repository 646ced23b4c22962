/* SPDX-License-Identifier: Apache-2.0
 * See grow.h. */
#include "engine/model/grow.h"

#include "base/log.h"
#include "base/rng.h"
#include "engine/formats/safetensors.h"
#include "engine/formats/tied_head.h"
#include "engine/model/family.h"
#include "tokenizer/convert.h"
#include "tokenizer/tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A stored tensor with rows behind its own. */
struct taller {
  const struct ka_tensor *old;
  struct ka_tensor more; /* [rows, C], the old one's dtype */
};

struct growing {
  struct ka_ctx *ctx;
  struct ka_arena arena;
  const char *dir, *out;
  struct ka_tokenizer *tokenizer;
  struct ka_hf_config config;
  struct ka_safetensors files;
  uint64_t seed;
  int64_t n_ids, n_rows; /* of the grown model */
};

/* --- the tokenizer ---------------------------------------------------------------------------- */

static json_t *entry_of(const char *token, int64_t id, bool special) {
  json_t *e = json_pack("{s:s, s:b, s:b, s:b, s:b, s:b}", "content", token, "single_word", 0,
                        "lstrip", 0, "rstrip", 0, "normalized", 0, "special", special);
  if (e && id >= 0) json_object_set_new(e, "id", json_integer(id));
  return e;
}

static ka_status add_token(struct growing *g, json_t *root, json_t *config, const char *token,
                           bool special) {
  struct ka_ctx *ctx = g->ctx;
  char id[32];
  json_t *decoder = json_object_get(config, "added_tokens_decoder");
  KA_TRY(ka_json_append(ctx, json_object_get(root, "added_tokens"),
                        entry_of(token, g->n_ids, special)));
  snprintf(id, sizeof id, "%lld", (long long)g->n_ids);
  if (decoder) KA_TRY(ka_json_set(ctx, decoder, id, entry_of(token, -1, special)));
  g->n_ids++;
  return KA_STATUS_OK;
}

static ka_status write_tokenizer(struct growing *g, json_t *root, json_t *config) {
  struct ka_ctx *ctx = g->ctx;
  const char *path;
  KA_TRY(ka_path_join(&g->arena, &path, g->out, "tokenizer.json"));
  KA_TRY(ka_json_write(ctx, root, path));
  if (!config) return KA_STATUS_OK;
  KA_TRY(ka_path_join(&g->arena, &path, g->out, "tokenizer_config.json"));
  return ka_json_write(ctx, config, path);
}

static ka_status grow_tokenizer(struct growing *g, const char *const *tokens, int64_t n,
                                bool special, int64_t *n_added) {
  struct ka_ctx *ctx = g->ctx;
  json_t *root = NULL, *config = NULL;
  const char *path;
  int64_t before = g->n_ids;
  KA_TRY(ka_path_join(&g->arena, &path, g->dir, "tokenizer_config.json"));
  ka_status st = ka_tok_read(ctx, g->dir, &root);
  if (ka_ok(st) && ka_path_exists(path)) st = ka_json_load(ctx, path, &config);
  if (ka_ok(st) && !json_object_get(root, "added_tokens"))
    st = ka_json_set(ctx, root, "added_tokens", json_array());
  for (int64_t i = 0; i < n && ka_ok(st); i++) {
    bool twice = ka_tokenizer_token_id(g->tokenizer, tokens[i], strlen(tokens[i])) >= 0;
    for (int64_t k = 0; k < i; k++) twice |= strcmp(tokens[k], tokens[i]) == 0;
    if (twice)
      ka_info(ctx, "init", "%s is in the vocabulary already", tokens[i]);
    else
      st = add_token(g, root, config, tokens[i], special);
  }
  if (ka_ok(st)) st = write_tokenizer(g, root, config);
  *n_added = g->n_ids - before;
  json_decref(root);
  json_decref(config);
  return st;
}

/* --- weights ---------------------------------------------------------------------------------- */

/* more[i] = mean + sqrt(1e-9 / V) sum_v g_v (row_v - mean), g normal: of that covariance
 * exactly. */
static ka_status draw_rows(struct growing *g, const char *name, struct taller *t) {
  struct ka_ctx *ctx = g->ctx;
  int64_t V = t->old->shape[0], C = t->old->shape[1], n = g->n_rows - V, shape[] = {n, C};
  void *memory;
  KA_TRY(ka_tensor_alloc(&g->arena, &t->more, "new rows", t->old->dtype, 2, shape));
  KA_TRY(ka_arena_alloc_n(&g->arena, &memory, 2 * C, sizeof(double), "mean"));
  double *mean = memory, *sum = mean + C, scale = sqrt(1e-9 / (double)V);
  for (int64_t v = 0; v < V; v++)
    for (int64_t c = 0; c < C; c++) mean[c] += ka_load(t->old->data, t->old->dtype, v * C + c);
  for (int64_t c = 0; c < C; c++) mean[c] /= (double)V;
  for (int64_t i = 0; i < n; i++) {
    memset(sum, 0, (size_t)C * sizeof *sum);
    for (int64_t v = 0; v < V; v++) {
      double z = ka_rng_normal(g->seed, ka_rng_stream(name), (uint64_t)(i * V + v));
      for (int64_t c = 0; c < C; c++)
        sum[c] += z * (ka_load(t->old->data, t->old->dtype, v * C + c) - mean[c]);
    }
    for (int64_t c = 0; c < C; c++)
      ka_data_store(t->more.data, t->more.dtype, i * C + c, mean[c] + scale * sum[c]);
    KA_TRY(ka_check_interrupted(ctx, "init"));
  }
  return KA_STATUS_OK;
}

static ka_status read_taller(void *user, int64_t first, int64_t n, void *to) {
  const struct taller *t = user;
  size_t size = ka_dtype_bytes(t->old->dtype);
  int64_t own = ka_tensor_elems(t->old);
  for (int64_t i = 0; i < n;) {
    bool old = first + i < own;
    int64_t at = old ? first + i : first + i - own, left = n - i;
    if (old && left > own - at) left = own - at;
    const char *from = old ? t->old->data : t->more.data;
    memcpy((char *)to + (size_t)i * size, from + (size_t)at * size, (size_t)left * size);
    i += left;
  }
  return KA_STATUS_OK;
}

static ka_status make_taller(struct growing *g, const struct ka_st_entry *e, struct ka_st_out *out,
                             const struct taller *same) {
  struct ka_ctx *ctx = g->ctx;
  struct taller *t;
  KA_TRY(KA_NEW(&g->arena, &t, 1, "grown tensor"));
  t->old = &e->t;
  if (same)
    t->more = same->more;
  else
    KA_TRY(draw_rows(g, e->name, t));
  out->t.data = NULL;
  out->t.shape[0] = g->n_rows;
  out->read = read_taller;
  out->user = t;
  return KA_STATUS_OK;
}

static ka_status write_weights(struct growing *g) {
  static const char *const metadata[] = {"format", "pt"};
  struct ka_ctx *ctx = g->ctx;
  const struct ka_tensor_map *map = ka_tensor_map_of(&g->config);
  const struct ka_st_entry *copy = NULL, *embed = NULL, *head = NULL;
  struct ka_st_out *out, *embed_out = NULL;
  const char *path;
  if (!map)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: no known family: its embedding is not found",
                   g->config.path);
  bool tied = ka_head_is_embedding(map, &g->config, &g->files, &copy);
  embed = ka_head_find(map, &g->files, KA_ROLE_EMBED);
  head = ka_head_find(map, &g->files, KA_ROLE_HEAD);
  KA_TRY(KA_NEW(&g->arena, &out, g->files.n_entries, "tensors"));
  for (int64_t i = 0; i < g->files.n_entries; i++) {
    const struct ka_st_entry *e = &g->files.entries[i];
    if (e->unreadable)
      return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: %s: %s", g->dir, e->name, e->unreadable);
    out[i] = (struct ka_st_out){.name = e->name, .t = e->t};
    if (e == embed) embed_out = &out[i];
  }
  if (g->n_rows > g->config.vocab_size) {
    if (!embed_out) return ka_fail(ctx, KA_E_INPUT, "%s: there is no embedding", g->dir);
    KA_TRY(make_taller(g, embed, embed_out, NULL));
    if (head && head != embed)
      KA_TRY(make_taller(g, head, &out[head - g->files.entries], tied ? embed_out->user : NULL));
  }
  KA_TRY(ka_path_join(&g->arena, &path, g->out, "model.safetensors"));
  return ka_st_write(ctx, path, out, g->files.n_entries, metadata, 1);
}

static ka_status write_config(struct growing *g) {
  struct ka_ctx *ctx = g->ctx;
  const char *path;
  KA_TRY(ka_path_join(&g->arena, &path, g->out, "config.json"));
  KA_TRY(ka_json_set(ctx, g->config.body, "vocab_size", json_integer(g->n_rows)));
  return ka_json_write(ctx, g->config.root, path);
}

/* --- all of it -------------------------------------------------------------------------------- */

static ka_status grow(struct growing *g, const char *const *tokens, int64_t n, bool special,
                      struct ka_model_grown *grown) {
  struct ka_ctx *ctx = g->ctx;
  const char *path;
  KA_TRY(ka_path_join(&g->arena, &path, g->out, "config.json"));
  if (ka_path_exists(path)) return ka_fail(ctx, KA_E_INPUT, "%s: there is a model already", g->out);
  KA_TRY(ka_hf_config_open(ctx, &g->config, g->dir));
  KA_TRY(ka_tokenizer_open(ctx, &g->tokenizer, g->dir));
  KA_TRY(ka_st_open(ctx, &g->files, g->dir));
  g->n_ids = ka_tokenizer_vocab_size(g->tokenizer);
  KA_TRY(ka_make_dirs(ctx, g->out));
  KA_TRY(ka_model_dir_carry(ctx, g->dir, g->out));
  KA_TRY(grow_tokenizer(g, tokens, n, special, &grown->n_added));
  g->n_rows = g->n_ids > g->config.vocab_size ? g->n_ids : g->config.vocab_size;
  grown->n_rows_added = g->n_rows - g->config.vocab_size;
  KA_TRY(write_weights(g));
  return write_config(g);
}

ka_status ka_model_grow(struct ka_ctx *ctx, const char *model_dir, const char *out_dir,
                        const char *const *tokens, int64_t n, bool special, uint64_t seed,
                        struct ka_model_grown *grown) {
  struct growing g = {.ctx = ctx, .dir = model_dir, .out = out_dir, .seed = seed};
  *grown = (struct ka_model_grown){0};
  ka_arena_init(&g.arena, ctx, "grown model");
  ka_status st = grow(&g, tokens, n, special, grown);
  ka_st_close(&g.files);
  ka_tokenizer_close(g.tokenizer);
  ka_hf_config_close(&g.config);
  ka_arena_deinit(&g.arena);
  return st;
}
