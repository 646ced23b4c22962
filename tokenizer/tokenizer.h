/* SPDX-License-Identifier: Apache-2.0
 *
 * Text to token ids and back, from a Hugging Face tokenizer.json whose model is BPE. Ids and
 * decoded text equal those of the `tokenizers` library reading the same file. What is not supported
 * (Unigram, WordPiece, WordLevel, dropout, unknown part types) is refused by name when the file is
 * opened; a file that contradicts itself is refused, never tokenized on a guess.
 *
 * A tokenizer is read-only once open: encode and decode may be called from many threads, each with
 * its own output. Cost is linear in the text (n log n inside one unsplittable word). */
#ifndef KAPPA_TOKENIZER_TOKENIZER_H
#define KAPPA_TOKENIZER_TOKENIZER_H

#include "base/str.h"
#include "tokenizer/tokens.h"

struct ka_tokenizer;

/* Does a model directory hold the files of any tokenizer, readable or not? */
bool ka_tokenizer_is_in(const char *dir);
/* Opens `path`: a tokenizer.json, or a directory that holds one, or else vocab.json and merges.txt
 * of a class that convert.h knows. A tokenizer_config.json beside it,
 * where present, names bos and eos; the post-processor of tokenizer.json alone decides which
 * special tokens encode adds. KA_E_INPUT: missing, malformed or contradictory file;
 * KA_E_UNSUPPORTED: a part that kappa does not implement. *out is NULL on failure; else close it.
 */
ka_status ka_tokenizer_open(struct ka_ctx *ctx, struct ka_tokenizer **out, const char *path);
void ka_tokenizer_close(struct ka_tokenizer *t); /* NULL is fine */

/* Appends the ids of text[0..n_bytes) to out; with add_special_tokens also those that the
 * post-processor adds. The text must be valid UTF-8 (it may hold NUL) and shorter than 2 GiB:
 * anything else is KA_E_INPUT naming the first bad byte, and out is as before. */
ka_status ka_tokenizer_encode(struct ka_ctx *ctx, const struct ka_tokenizer *t, const char *text,
                              size_t n_bytes, bool add_special_tokens, struct ka_tok_tokens *out);

/* Appends the text of ids[0..n) to out; ids that the vocabulary does not have give nothing, special
 * ones give nothing with skip_special. The result is valid UTF-8: bytes that are not become U+FFFD.
 */
ka_status ka_tokenizer_decode(struct ka_ctx *ctx, const struct ka_tokenizer *t, const int32_t *ids,
                              int64_t n, bool skip_special, struct ka_str *out);

/* Text as it is generated: push appends to out what the new id makes certain (nothing while a
 * character is incomplete). Zero-initialise; deinit. */
struct ka_tok_decode_stream {
  bool skip_special;
  int32_t *ids;
  int64_t n, cap, prefix_n;
  struct ka_str prefix, scratch;
};
ka_status ka_tok_decode_stream_push(struct ka_ctx *ctx, struct ka_tok_decode_stream *s,
                                    const struct ka_tokenizer *t, int32_t id, struct ka_str *out);
/* Appends what is still held back (an incomplete character, as U+FFFD). */
ka_status ka_tok_decode_stream_flush(struct ka_ctx *ctx, struct ka_tok_decode_stream *s,
                                     const struct ka_tokenizer *t, struct ka_str *out);
void ka_tok_decode_stream_deinit(struct ka_tok_decode_stream *s);

/* Largest id + 1, added tokens included: the rows that an embedding needs. */
int64_t ka_tokenizer_vocab_size(const struct ka_tokenizer *t);
/* Id of a token as the file spells it (byte-level tokens in the GPT-2 alphabet), or -1. */
int32_t ka_tokenizer_token_id(const struct ka_tokenizer *t, const char *token, size_t n_bytes);
/* As the file spells it, NUL-terminated (*n_bytes may be NULL); NULL for an id that no token has.
 */
const char *ka_tokenizer_token_text(const struct ka_tokenizer *t, int32_t id, size_t *n_bytes);
bool ka_tokenizer_is_special(const struct ka_tokenizer *t, int32_t id);
/* From tokenizer_config.json, else the token that the post-processor puts first (last); -1 = none.
 */
int32_t ka_tokenizer_bos(const struct ka_tokenizer *t);
int32_t ka_tokenizer_eos(const struct ka_tokenizer *t);

/* Writes a byte-level tokenizer.json to `path` (published by rename): ids 0..255 are the bytes in
 * GPT-2's alphabet, no merges, the n_special tokens get the ids from 256 on. */
ka_status ka_tokenizer_write_byte_level(struct ka_ctx *ctx, const char *path,
                                        const char *const *special, int64_t n_special);

#endif
