/* SPDX-License-Identifier: Apache-2.0
 * See speech.h. */
#include "engine/data/speech.h"

#include "base/json.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

static const char file_json[] = "projector.json", file_weights[] = "projector.safetensors";
enum { FORMAT = 1, STRIDE_MOST = 16, SIZE_MOST = 1 << 20 };

/* --- from a job ------------------------------------------------------------------------------- */

bool ka_speech_wanted(const struct ka_job *job) {
  const struct ka_job_datasets *const lists[] = {&job->datasets, &job->test_datasets};
  for (int k = 0; k < 2; k++)
    for (int64_t i = 0; i < lists[k]->n; i++)
      if (lists[k]->items[i].type == KA_DOCUMENT_SPEECH) return true;
  return false;
}

static ka_status conv_of_job(struct ka_ctx *ctx, struct ka_projector_config *c,
                             const struct ka_job *job) {
  const struct ka_key_texts *list = &job->projector.conv;
  const char *place = ka_job_place(job, "projector.conv");
  if (list->n > KA_PROJECTOR_CONVS)
    return ka_fail(ctx, KA_E_INPUT, "%s: projector.conv: got %lld strides, expected at most %d",
                   place, (long long)list->n, KA_PROJECTOR_CONVS);
  c->n_conv = list->n;
  for (int64_t i = 0; i < list->n; i++)
    if (!ka_parse_i64(list->items[i], &c->conv[i]) || c->conv[i] < 1 || c->conv[i] > STRIDE_MOST)
      return ka_fail(ctx, KA_E_INPUT, "%s: projector.conv: got %s, expected a stride of 1 to %d",
                     place, list->items[i], STRIDE_MOST);
  return KA_STATUS_OK;
}

/* The prompt of the job's datasets; of several different ones the first. */
static const char *prompt_of_job(struct ka_ctx *ctx, const struct ka_job *job) {
  const char *first = NULL;
  for (int64_t i = 0; i < job->datasets.n; i++) {
    const struct ka_job_dataset *ds = &job->datasets.items[i];
    if (ds->type != KA_DOCUMENT_SPEECH || !ds->prompt || !*ds->prompt) continue;
    if (!first) first = ds->prompt;
    if (strcmp(first, ds->prompt) == 0) continue;
    ka_info(ctx, "data", "%s keeps the first of the datasets' prompts, \"%.80s\"", file_json,
            first);
    break;
  }
  return first;
}

static ka_status read_from(struct ka_ctx *ctx, struct ka_speech *out, const char *dir,
                           bool *there) {
  struct ka_arena a;
  ka_arena_init(&a, ctx, "projector");
  ka_status st = ka_speech_read(&a, out, dir, there);
  out->prompt = NULL; /* it says how that model was trained */
  ka_arena_deinit(&a);
  return st;
}

ka_status ka_speech_of_job(struct ka_ctx *ctx, struct ka_speech *out, const struct ka_job *job) {
  const struct ka_job_projector *p = &job->projector;
  struct ka_speech saved;
  bool there = false;
  KA_TRY(ka_audio_there(ctx));
  *out = (struct ka_speech){.projector = {.n_features = p->bands,
                                          .conv_width = p->conv_width,
                                          .n_layers = p->layers,
                                          .heads = p->heads,
                                          .stack = p->stack,
                                          .hidden = p->hidden},
                            .audio = {.n_mel = p->bands,
                                      .per_feature = p->normalise == KA_NORMALISE_PER_FEATURE,
                                      .max_s = p->max_seconds}};
  KA_TRY(conv_of_job(ctx, &out->projector, job));
  if (p->layers > 0 && (p->conv.n == 0 || p->conv_width % p->heads != 0))
    return ka_fail(ctx, KA_E_INPUT,
                   "%s: projector.layers: got %lld with %lld convolutions and conv_width %lld, "
                   "expected conv: [1, 2] or the like, and a multiple of heads (%lld)",
                   ka_job_place(job, "projector.layers"), (long long)p->layers,
                   (long long)p->conv.n, (long long)p->conv_width, (long long)p->heads);
  out->from = p->path ? p->path : job->base_model;
  KA_TRY(read_from(ctx, &saved, out->from, &there));
  if (there) {
    out->projector = saved.projector;
    out->audio = saved.audio;
  }
  if (!there) out->from = NULL;
  if (there && !p->path)
    ka_info(ctx, "data", "the projector of %s goes on, with its sizes", job->base_model);
  if (p->path && !there)
    return ka_fail(ctx, KA_E_INPUT, "%s: projector.path: %s has no %s",
                   ka_job_place(job, "projector.path"), p->path, file_json);
  out->audio.dir = job->dataset_prepared_path;
  out->prompt = prompt_of_job(ctx, job);
  return KA_STATUS_OK;
}

/* Opens the projector with the weights of dir. */
static ka_status open_from(struct ka_model *m, const struct ka_speech *s, const char *dir) {
  struct ka_ctx *ctx = m->ctx;
  const char *path;
  KA_TRY(ka_path_join(&m->meta, &path, dir, file_weights));
  return ka_projector_open(m, &s->projector, path, 0);
}

ka_status ka_speech_open_job(struct ka_model *m, const struct ka_speech *s,
                             const struct ka_job *job) {
  if (s->from) return open_from(m, s, s->from);
  return ka_projector_open(m, &s->projector, NULL, (uint64_t)job->projector.seed);
}

/* --- projector.json --------------------------------------------------------------------------- */

static ka_status size_of(struct ka_ctx *ctx, const char *path, const json_t *root, const char *key,
                         int64_t most, int64_t *out) {
  KA_TRY(ka_json_i64(ctx, path, root, key, out));
  if (*out >= 1 && *out <= most) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "%s: key \"%s\": got %lld, expected 1 to %lld", path, key,
                 (long long)*out, (long long)most);
}

static ka_status read_conv(struct ka_ctx *ctx, const char *path, const json_t *root,
                           struct ka_projector_config *c) {
  const json_t *list = json_object_get(root, "conv");
  c->n_conv = (int64_t)json_array_size(list);
  if (!json_is_array(list) || c->n_conv > KA_PROJECTOR_CONVS)
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"conv\": expected a list of at most %d strides", path,
                   KA_PROJECTOR_CONVS);
  for (int64_t i = 0; i < c->n_conv; i++) {
    c->conv[i] = json_integer_value(json_array_get(list, (size_t)i));
    if (c->conv[i] < 1 || c->conv[i] > STRIDE_MOST)
      return ka_fail(ctx, KA_E_INPUT, "%s: conv[%lld]: expected 1 to %d", path, (long long)i,
                     STRIDE_MOST);
  }
  return KA_STATUS_OK;
}

static ka_status read_root(struct ka_ctx *ctx, const char *path, const json_t *root,
                           struct ka_speech *s) {
  struct ka_projector_config *c = &s->projector;
  const char *input = json_string_value(json_object_get(root, "input"));
  const char *norm = json_string_value(json_object_get(root, "normalise"));
  int64_t format;
  KA_TRY(ka_json_i64(ctx, path, root, "version", &format));
  if (format != FORMAT)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: got version %lld, this kappa knows %d", path,
                   (long long)format, FORMAT);
  if (!input || strcmp(input, "log_mel") != 0)
    return ka_fail(ctx, KA_E_UNSUPPORTED, "%s: key \"input\": expected \"log_mel\"", path);
  s->audio.per_feature = norm && strcmp(norm, "per_feature") == 0;
  if (!norm || (!s->audio.per_feature && strcmp(norm, "whisper") != 0))
    return ka_fail(ctx, KA_E_INPUT, "%s: key \"normalise\": expected whisper or per_feature", path);
  KA_TRY(ka_json_f64_or(ctx, path, root, "max_seconds", 30, &s->audio.max_s));
  KA_TRY(size_of(ctx, path, root, "bands", KA_AUDIO_BANDS_MAX, &c->n_features));
  s->audio.n_mel = c->n_features;
  KA_TRY(size_of(ctx, path, root, "stack", 256, &c->stack));
  KA_TRY(size_of(ctx, path, root, "hidden", SIZE_MOST, &c->hidden));
  KA_TRY(size_of(ctx, path, root, "conv_width", SIZE_MOST, &c->conv_width));
  KA_TRY(read_conv(ctx, path, root, c));
  KA_TRY(ka_json_i64_or(ctx, path, root, "layers", 0, &c->n_layers));
  if (c->n_layers == 0) return KA_STATUS_OK;
  KA_TRY(size_of(ctx, path, root, "layers", KA_ENCODER_LAYERS, &c->n_layers));
  KA_TRY(size_of(ctx, path, root, "heads", c->conv_width, &c->heads));
  if (c->n_conv > 0 && c->conv_width % c->heads == 0) return KA_STATUS_OK;
  return ka_fail(ctx, KA_E_INPUT, "%s: layers without conv, or heads that do not divide conv_width",
                 path);
}

/* The text outlives the JSON. */
static ka_status read_prompt(struct ka_arena *a, const char *path, const json_t *root,
                             struct ka_speech *s) {
  struct ka_ctx *ctx = a->ctx;
  const char *text;
  KA_TRY(ka_json_str_or(ctx, path, root, "prompt", NULL, &text));
  return text ? ka_arena_str(a, &s->prompt, text, strlen(text)) : KA_STATUS_OK;
}

ka_status ka_speech_read(struct ka_arena *a, struct ka_speech *out, const char *dir, bool *there) {
  struct ka_ctx *ctx = a->ctx;
  const char *path;
  json_t *root;
  *out = (struct ka_speech){0};
  KA_TRY(ka_path_join(a, &path, dir, file_json));
  *there = ka_path_exists(path);
  if (!*there) return KA_STATUS_OK;
  KA_TRY(ka_json_load(ctx, path, &root));
  ka_status st = read_root(ctx, path, root, out);
  if (ka_ok(st)) st = read_prompt(a, path, root, out);
  json_decref(root);
  return st;
}

ka_status ka_speech_open(struct ka_model *m, struct ka_speech *out, const char *dir, bool *there) {
  struct ka_ctx *ctx = m->ctx;
  KA_TRY(ka_speech_read(&m->meta, out, dir, there));
  return *there ? open_from(m, out, dir) : KA_STATUS_OK;
}

ka_status ka_speech_write(struct ka_ctx *ctx, const struct ka_speech *s, const char *dir) {
  const struct ka_projector_config *c = &s->projector;
  struct ka_arena a;
  const char *path;
  json_t *conv = json_array();
  for (int64_t i = 0; i < c->n_conv; i++) json_array_append_new(conv, json_integer(c->conv[i]));
  json_t *root = json_pack(
      "{s:i, s:s, s:I, s:s, s:f, s:o, s:I, s:I, s:I, s:I, s:I}", "version", FORMAT, "input",
      "log_mel", "bands", (json_int_t)s->audio.n_mel, "normalise",
      s->audio.per_feature ? "per_feature" : "whisper", "max_seconds", s->audio.max_s, "conv", conv,
      "conv_width", (json_int_t)c->conv_width, "layers", (json_int_t)c->n_layers, "heads",
      (json_int_t)c->heads, "stack", (json_int_t)c->stack, "hidden", (json_int_t)c->hidden);
  if (!root) return ka_fail(ctx, KA_E_MEMORY, "%s: out of memory", file_json);
  ka_arena_init(&a, ctx, "projector");
  ka_status st = ka_path_join(&a, &path, dir, file_json);
  if (ka_ok(st) && s->prompt) st = ka_json_set(ctx, root, "prompt", json_string(s->prompt));
  if (ka_ok(st)) st = ka_json_write(ctx, root, path);
  json_decref(root);
  ka_arena_deinit(&a);
  return st;
}

/* --- prompts ---------------------------------------------------------------------------------- */

static ka_status add_places(struct ka_ctx *ctx, struct ka_tok_tokens *ids, int64_t n) {
  void *grown = ids->ids;
  KA_TRY(ka_grow(ctx, &grown, &ids->cap, ids->n + n, sizeof *ids->ids, "token ids"));
  ids->ids = grown;
  memset(ids->ids + ids->n, 0, (size_t)n * sizeof *ids->ids);
  ids->n += n;
  return KA_STATUS_OK;
}

ka_status ka_speech_prompt(struct ka_ctx *ctx, const struct ka_speech *s,
                           const struct ka_tokenizer *tokenizer, const char *path, const char *text,
                           size_t n, struct ka_tok_tokens *ids, struct ka_speech_clip *clip) {
  struct ka_audio_clip c;
  KA_TRY(ka_audio_read(ctx, &c, path, &s->audio));
  *clip = (struct ka_speech_clip){.path = path,
                                  .n_frames = c.n_frames,
                                  .rate = c.rate,
                                  .n_channels = c.n_channels,
                                  .seconds = c.seconds,
                                  .n_places = ka_projector_places(&s->projector, c.n_frames)};
  memcpy(clip->hash, c.hash, sizeof clip->hash);
  ka_audio_clip_deinit(&c);
  KA_TRY(ka_tokenizer_encode(ctx, tokenizer, "", 0, true, ids));
  if (ids->n > 0 && ids->ids[ids->n - 1] == ka_tokenizer_eos(tokenizer) &&
      ids->ids[ids->n - 1] != ka_tokenizer_bos(tokenizer))
    ids->n--; /* the text goes on */
  clip->at = ids->n;
  KA_TRY(add_places(ctx, ids, clip->n_places));
  return n > 0 ? ka_tokenizer_encode(ctx, tokenizer, text, n, false, ids) : KA_STATUS_OK;
}

ka_status ka_speech_frames(struct ka_ctx *ctx, const struct ka_speech *s,
                           const struct ka_speech_clip *clip, float *frames) {
  struct ka_audio_clip c;
  KA_TRY(ka_audio_read(ctx, &c, clip->path, &s->audio));
  ka_status st = KA_STATUS_OK;
  if (c.n_frames != clip->n_frames || strcmp(c.hash, clip->hash) != 0)
    st = ka_fail(ctx, KA_E_INPUT, "%s: the file is another one than when it was first read",
                 clip->path);
  else
    memcpy(frames, c.frames, (size_t)(c.n_frames * s->audio.n_mel) * sizeof *frames);
  ka_audio_clip_deinit(&c);
  return st;
}
