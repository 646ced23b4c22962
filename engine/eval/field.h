/* SPDX-License-Identifier: Apache-2.0
 *
 * One doc_to_* of a task: a column's name, a Jinja template, or a value that stands in the file. */
#ifndef KAPPA_ENGINE_EVAL_FIELD_H
#define KAPPA_ENGINE_EVAL_FIELD_H

#include "base/json.h"
#include "engine/job/yaml.h"

struct ka_eval_field {
  const char *text; /* column or template; NULL: not given, or a value */
  struct ka_jinja *template;
  json_t *value; /* number, list */
};

/* node NULL or null: an empty field. `name` is the key, for messages. A mapping becomes the list of
 * its values. KA_E_INPUT: a template that does not parse, a truth value. */
ka_status ka_eval_field_open(struct ka_arena *arena, struct ka_eval_field *f,
                             const struct ka_yaml *node, const char *name);
/* Of a key that is always text; NULL: an empty field. */
ka_status ka_eval_field_open_text(struct ka_arena *arena, struct ka_eval_field *f, const char *text,
                                  const char *place, const char *name);
void ka_eval_field_close(struct ka_eval_field *f);
bool ka_eval_field_given(const struct ka_eval_field *f);
/* Is this the name of a column of doc? */
bool ka_eval_field_is_column(const struct ka_eval_field *f, const json_t *doc);

/* A new reference: the column's value, what the template prints, the number or list. */
ka_status ka_eval_field_value(struct ka_ctx *ctx, const struct ka_eval_field *f, const json_t *doc,
                              json_t **out);

#endif
