/* SPDX-License-Identifier: Apache-2.0
 *
 * What Hugging Face tools have downloaded to this machine: models and datasets by the names they
 * have on the Hub. Nothing is ever downloaded here. */
#ifndef KAPPA_ENGINE_FORMATS_HUB_H
#define KAPPA_ENGINE_FORMATS_HUB_H

#include "base/file.h"

enum ka_hub_kind { KA_HUB_MODEL, KA_HUB_DATASET };

/* Could the text be a name on the Hub: "org/name", of letters, digits, - _ and .? */
bool ka_hub_is_name(const char *text);
/* The newest snapshot of org/name in HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub; NULL
 * when there is none. Memory from a. */
ka_status ka_hub_find(struct ka_arena *a, enum ka_hub_kind kind, const char *name,
                      const char **out);
/* A directory of that cache (models--ORG--NAME) stands for the snapshot of its main branch: *out,
 * else dir itself. */
ka_status ka_hub_snapshot(struct ka_arena *a, const char *dir, const char **out);
/* The name of what lies below such a directory ("org/name"), from the path alone; NULL: none.
 * Memory from a. */
ka_status ka_hub_name(struct ka_arena *a, enum ka_hub_kind kind, const char *path,
                      const char **out);
/* What to say of such a name that is not there: where it was looked for, and the command. */
ka_status ka_hub_advice(struct ka_arena *a, enum ka_hub_kind kind, const char *name,
                        const char **out);
/* A model that is no path here but may be a name on the Hub: *model becomes the snapshot in the
 * cache. KA_E_INPUT with the advice when there is none. */
ka_status ka_hub_model(struct ka_arena *a, const char **model);

#endif
