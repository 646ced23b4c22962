/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as YAML: a tree and its JSON, or there is one message. */
#include "engine/job/yaml_json.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  for (int last_wins = 0; last_wins < 2; last_wins++) {
    struct ka_ctx ctx;
    struct ka_arena arena;
    struct ka_yaml *root;
    json_t *json = NULL;
    ka_ctx_init(&ctx);
    ka_arena_init(&arena, &ctx, "yaml");
    ka_status st =
        ka_yaml_parse(&ctx, &arena, (const char *)data, n, "x.yaml", last_wins == 1, &root);
    if (ka_ok(st)) st = ka_yaml_json(&ctx, root, &json);
    if (ka_ok(st) ? !json : json || st.code != KA_E_INPUT || !*ctx.error.message) abort();
    json_decref(json);
    ka_arena_deinit(&arena);
  }
  return 0;
}
