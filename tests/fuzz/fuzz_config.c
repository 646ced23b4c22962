/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a config.json: parsed into sensible values, or refused as bad input. */
#include "engine/formats/config.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  struct ka_ctx ctx;
  struct ka_hf_config c;
  ka_ctx_init(&ctx);
  ka_status st = ka_hf_config_parse(&ctx, &c, (const char *)data, n, "config.json");
  if (ka_ok(st)) {
    bool good = c.head_dim > 0 && c.num_attention_heads % c.num_key_value_heads == 0 &&
                c.rope.theta > 0 && isfinite(c.rope.theta) && c.rope.kind_name &&
                c.rope_local.theta > 0 && c.hidden_act && (c.model_type || c.architecture);
    if (!good) abort();
  } else if (st.code != KA_E_INPUT && st.code != KA_E_UNSUPPORTED) {
    abort();
  }
  ka_hf_config_close(&c);
  return 0;
}
