/* SPDX-License-Identifier: Apache-2.0
 * Chat templates that are built in, by name: the files of engine/data/templates, which CMake makes
 * into strings. */
#include "engine/data/chat.h"

#include <string.h>

static const struct {
  const char *name, *text;
} templates[] = {
#include "engine/data/chat_templates.h"
};

const char *ka_chat_builtin(const char *name) {
  for (size_t i = 0; i < sizeof templates / sizeof *templates; i++)
    if (strcmp(templates[i].name, name) == 0) return templates[i].text;
  return NULL;
}
