/* SPDX-License-Identifier: Apache-2.0
 *
 * What the harness does with Python's own functions: literals, str(), json.dumps and the like. */
#ifndef KAPPA_PYTHON_BUILTINS_H
#define KAPPA_PYTHON_BUILTINS_H

#include "base/json.h"

/* ast.literal_eval of lists, tuples (as arrays), mappings, strings, numbers, True, False, None. A
 * new reference. False: not such a literal; memory that is out counts as that too. */
bool ka_py_literal(const char *text, size_t n, json_t **out);

/* One row a function: what it is in Jinja, of x. */
#define KA_PY_TABLE(X)                                                                             \
  X(STR, "{{ x }}")                                                                                \
  X(DUMPS, "{{ x|tojson(indent=2) }}")                                                             \
  X(LOWER, "{{ x.lower() }}")                                                                      \
  X(UPPER, "{{ x.upper() }}")                                                                      \
  X(STRIP, "{{ x.strip() }}")

enum ka_py_function {
#define X(name, template) KA_PY_##name,
  KA_PY_TABLE(X)
#undef X
      KA_N_PY
};

struct ka_py {
  struct ka_jinja *functions[KA_N_PY];
};
ka_status ka_py_open(struct ka_ctx *ctx, struct ka_py *py);
void ka_py_close(struct ka_py *py);
/* Appends function(x): the str() of any value, json.dumps(x, indent=2, ensure_ascii=False), methods
 * of str. */
ka_status ka_py_call(struct ka_ctx *ctx, const struct ka_py *py, enum ka_py_function f,
                     const json_t *x, struct ka_str *out);

/* str.isspace of the first or the last character; false of an empty text. */
bool ka_py_starts_with_space(const char *text, size_t n);
bool ka_py_ends_with_space(const char *text, size_t n);
/* Bytes of text without its trailing white space (str.rstrip). */
size_t ka_py_rstrip(const char *text, size_t n);
int64_t ka_py_len(const char *text, size_t n); /* len(): code points */

#endif
