/* SPDX-License-Identifier: Apache-2.0
 *
 * Speech for a text model: how sound becomes the frames that a projector reads, and where a clip's
 * places stand in a prompt. Kept beside a tuned model: projector.safetensors, and projector.json:
 *
 *   {"version": 1, "input": "log_mel", "bands": 80, "normalise": "whisper", "max_seconds": 30,
 *    "conv": [2], "conv_width": 256, "layers": 0, "heads": 4, "stack": 4, "hidden": 1024,
 *    "prompt": "Transcript:"}   (docs/modality.md)
 *
 * A prompt is BOS, where the tokenizer begins texts with one, the clip's places, then the text. */
#ifndef KAPPA_ENGINE_DATA_SPEECH_H
#define KAPPA_ENGINE_DATA_SPEECH_H

#include "engine/audio/audio.h"
#include "engine/job/job.h"
#include "engine/model/projector.h"
#include "tokenizer/tokenizer.h"

struct ka_speech {
  struct ka_projector_config projector;
  struct ka_audio_spec audio;
  const char *from; /* of a job: the directory whose projector it starts from; NULL: a fresh one */
  const char *prompt; /* text behind a clip where nothing else is said; NULL: none. Borrowed */
};

/* Does an entry of the job's datasets or test_datasets hold speech? */
bool ka_speech_wanted(const struct ka_job *job);
/* What the job's `projector:` says, or projector.json of the directory that it names, or of the
 * base model where that has one. */
ka_status ka_speech_of_job(struct ka_ctx *ctx, struct ka_speech *out, const struct ka_job *job);
/* The job's projector in front of an opened model: fresh by its seed, or of the directory. */
ka_status ka_speech_open_job(struct ka_model *m, const struct ka_speech *s,
                             const struct ka_job *job);

/* Of a tuned model's directory, texts in a; *there false: it has none, which is no failure. */
ka_status ka_speech_read(struct ka_arena *a, struct ka_speech *out, const char *dir, bool *there);
/* The same, texts as long as the model, and puts the projector of that directory in front of the
 * model. */
ka_status ka_speech_open(struct ka_model *m, struct ka_speech *out, const char *dir, bool *there);
/* projector.json alone. */
ka_status ka_speech_write(struct ka_ctx *ctx, const struct ka_speech *s, const char *dir);

/* A clip in a prompt. */
struct ka_speech_clip {
  const char *path;
  int64_t n_frames, at, n_places; /* at: index of the first place among the prompt's ids */
  char hash[KA_HASH_TEXT];
  int64_t rate, n_channels; /* of the file */
  double seconds;
};

/* Appends a prompt of a file and a text to ids, which are empty before, and says where its places
 * are (their ids are 0). clip->path is borrowed. */
ka_status ka_speech_prompt(struct ka_ctx *ctx, const struct ka_speech *s,
                           const struct ka_tokenizer *tokenizer, const char *path, const char *text,
                           size_t n, struct ka_tok_tokens *ids, struct ka_speech_clip *clip);
/* The frames of such a clip, [n_frames, n_features]. KA_E_INPUT: the file is another one now. */
ka_status ka_speech_frames(struct ka_ctx *ctx, const struct ka_speech *s,
                           const struct ka_speech_clip *clip, float *frames);

#endif
