/* SPDX-License-Identifier: Apache-2.0
 *
 * One YAML document as a tree in an arena, from libyaml's events, PyYAML's own parser. Aliases
 * share nodes instead of copying them and every size is limited, so that a hostile file costs no
 * more than its length. Merge keys (<<) are applied. Scalars stay text. */
#ifndef KAPPA_ENGINE_JOB_YAML_H
#define KAPPA_ENGINE_JOB_YAML_H

#include "base/arena.h"

enum ka_yaml_kind { KA_YAML_SCALAR, KA_YAML_LIST, KA_YAML_MAP };

struct ka_yaml {
  enum ka_yaml_kind kind;
  const char *file;       /* the parse's `what` */
  int line, column;       /* from 1 */
  const char *tag;        /* "!function"; NULL: none, or one of YAML's own, which `plain` follows */
  const char *text;       /* scalar; NUL-terminated, no NUL within */
  bool plain;             /* scalar without quotes: may be a number, true, false, null */
  int64_t n;              /* items of a list, pairs of a map */
  struct ka_yaml **items; /* list; may be shared by several parents */
  struct ka_yaml **keys;  /* map: scalars */
  struct ka_yaml **values; /* map */
};

enum { KA_YAML_MAX_BYTES = 1 << 20, KA_YAML_MAX_NODES = 100000, KA_YAML_MAX_DEPTH = 32 };

/* KA_E_INPUT "what:line:column: ..." on anything that is not one YAML document within the limits.
 * An empty document is a null scalar. `what` must outlive the tree. A key that is given twice is an
 * error; with last_wins the last one holds, as in PyYAML. KA_E_INTERRUPTED after a signal. */
ka_status ka_yaml_parse(struct ka_ctx *ctx, struct ka_arena *arena, const char *text, size_t n,
                        const char *what, bool last_wins, struct ka_yaml **root);

/* NULL when absent. */
struct ka_yaml *ka_yaml_get(const struct ka_yaml *map, const char *key);
bool ka_yaml_is_null(const struct ka_yaml *v); /* ~, null, nothing */

#endif
