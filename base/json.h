/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON texts to jansson's values and back. Typed getters name the file and the key. Values from
 * getters are borrowed from their root; free roots with json_decref. */
#ifndef KAPPA_BASE_JSON_H
#define KAPPA_BASE_JSON_H

#include "base/str.h"

#include <jansson.h>

/* The library's allocations go through here, and one that fails is remembered: whatever was left
 * out of a value then, nothing made of it passes for whole. Call once before the first value. */
void ka_json_init(void);
/* KA_E_MEMORY after a failed allocation of the library; ka_json_dump and main ask. */
ka_status ka_json_check(struct ka_ctx *ctx);
/* Tests: the n-th allocation of the library from now fails; 0: none. Forgets earlier failures. */
void ka_json_fail_at(int64_t n);

/* The one reader of JSON. Integers beyond 64 bits become the nearest real; NaN, Infinity and
 * numbers too large for a double, which Python's json writes or reads, become null, so that they
 * trouble nobody who does not read them. KA_E_INPUT "WHAT:LINE:COLUMN: not valid JSON: ...":
 * anything else that is not JSON, bytes that are not UTF-8, half surrogates, duplicate keys,
 * nesting deeper than 2048, bytes after the value. `what` names the source (a path); NULL: one
 * line, the message has the column alone. *out is NULL on failure. */
ka_status ka_json_parse(struct ka_ctx *ctx, const char *text, size_t n, const char *what,
                        json_t **out);
/* The same of a row of data, an object on one line, as Python reads it: of duplicate keys the last
 * one holds. A member with a text that cannot be held (half a surrogate pair; NUL in a key) is
 * false, so that it troubles nobody who does not read it, one with such a name is left out; *why
 * says the reason, a literal, NULL: there was none. */
ka_status ka_json_parse_row(struct ka_ctx *ctx, const char *text, size_t n, json_t **out,
                            const char **why);
ka_status ka_json_load(struct ka_ctx *ctx, const char *path, json_t **out);

/* Required members when dflt pointers are absent: the _or variants take a default for missing or
 * null members. A member of the wrong type is KA_E_INPUT in both. */
ka_status ka_json_i64(struct ka_ctx *ctx, const char *what, const json_t *obj, const char *key,
                      int64_t *out);
ka_status ka_json_i64_or(struct ka_ctx *ctx, const char *what, const json_t *obj, const char *key,
                         int64_t dflt, int64_t *out);
ka_status ka_json_f64_or(struct ka_ctx *ctx, const char *what, const json_t *obj, const char *key,
                         double dflt, double *out); /* integers are accepted */
ka_status ka_json_bool_or(struct ka_ctx *ctx, const char *what, const json_t *obj, const char *key,
                          bool dflt, bool *out);
/* NULL default allowed; the string is borrowed. */
ka_status ka_json_str_or(struct ka_ctx *ctx, const char *what, const json_t *obj, const char *key,
                         const char *dflt, const char **out);

/* A real; null when v is not finite, which JSON has no number for. And back: NaN for what is no
 * number, v NULL too. */
json_t *ka_json_real(double v);
json_t *ka_json_reals(const double *v, int64_t n); /* an array of them */
double ka_json_number(const json_t *v);

/* Takes value over; NULL is KA_E_MEMORY, as a member that cannot be added is. */
ka_status ka_json_set(struct ka_ctx *ctx, json_t *object, const char *key, json_t *value);

/* The same for the end of an array. */
ka_status ka_json_append(struct ka_ctx *ctx, json_t *array, json_t *value);

/* Pretty printed with keys in insertion order and 17 significant digits, newline at the end. */
ka_status ka_json_dump(struct ka_ctx *ctx, const json_t *v, struct ka_str *out);
ka_status ka_json_dump_line(struct ka_ctx *ctx, const json_t *v, struct ka_str *out); /* compact */
ka_status ka_json_write(struct ka_ctx *ctx, const json_t *v, const char *path); /* "-" = stdout */

/* Appends text as a JSON string with its quotes; invalid UTF-8 bytes become U+FFFD. */
ka_status ka_json_quote(struct ka_ctx *ctx, struct ka_str *out, const char *text, size_t n);

#endif
