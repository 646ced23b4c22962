/* SPDX-License-Identifier: Apache-2.0
 * A sample call's operands on a device that has memory of its own, guard bands and all, so that the
 * same cases test and time every back end. Where the device is the host, the mirror is the call. */
#include "kernels/op_cases.h"

#include <string.h>

/* First byte and size of an operand's memory, as ka_op_call_make placed it. */
static char *span_of(const struct ka_tensor *t, struct ka_op_layout layout, size_t *n_bytes) {
  size_t size = ka_dtype_bytes(t->dtype), guard = (size_t)layout.guard_bytes;
  size_t lead = (size_t)layout.offset_elems * size;
  int64_t n = ka_tensor_elems(t), width = t->n_dim ? t->shape[t->n_dim - 1] : 1;
  if (t->n_dim >= 2 && width) n = n / width * t->row_stride;
  *n_bytes = guard + lead + (size_t)n * size + guard;
  return (char *)t->data - guard - lead;
}

static ka_status add_span(struct ka_op_mirror *m, struct ka_tensor *t, struct ka_op_layout layout) {
  struct ka_dev *dev = m->dev;
  struct ka_ctx *ctx = dev->ctx;
  size_t n_bytes;
  char *host = span_of(t, layout, &n_bytes);
  int i = 0;
  if (n_bytes == 0) return KA_STATUS_OK;
  while (i < m->n && m->spans[i].host != host) i++;
  struct ka_op_span *s = &m->spans[i];
  if (i == m->n) {
    *s = (struct ka_op_span){.host = host, .n_bytes = n_bytes};
    m->n++;
    KA_TRY(dev->backend->alloc(dev, KA_PLACE_DEVICE, &s->device, n_bytes, "operand"));
    KA_TRY(ka_dev_upload(dev, s->device, host, n_bytes));
  }
  t->data = (char *)s->device + ((char *)t->data - host);
  return KA_STATUS_OK;
}

/* What attn_bwd reads of the forward pass, by the device itself. */
static ka_status forward(struct ka_dev *dev, const struct ka_attn_bwd_args *a) {
  return ka_attn_fwd(dev, &(struct ka_attn_fwd_args){.out = a->out,
                                                     .lse = a->lse,
                                                     .q = a->q,
                                                     .k = a->k,
                                                     .v = a->v,
                                                     .doc_start = a->doc_start,
                                                     .window = a->window,
                                                     .scale = a->scale,
                                                     .softcap = a->softcap});
}

ka_status ka_op_mirror_open(struct ka_dev *dev, struct ka_op_mirror *m,
                            const struct ka_op_call *call, struct ka_op_layout layout,
                            bool forward_first) {
  struct ka_ctx *ctx = dev->ctx;
  *m = (struct ka_op_mirror){.dev = dev, .call = *call};
  for (int i = 0; ka_op_operands(call->op)[i].name && ka_dev_own_memory(dev); i++) {
    struct ka_tensor *t = ka_op_call_operand(&m->call, i);
    if (t->data && t->dtype != KA_U8) KA_TRY(add_span(m, t, layout));
  }
  if (call->op == KA_OP_attn_bwd && forward_first) return forward(dev, &m->call.args.attn_bwd);
  return KA_STATUS_OK;
}

ka_status ka_op_mirror_fetch(struct ka_op_mirror *m) {
  struct ka_ctx *ctx = m->dev->ctx;
  for (int i = 0; i < m->n; i++)
    KA_TRY(ka_dev_download(m->dev, m->spans[i].host, m->spans[i].device, m->spans[i].n_bytes));
  return KA_STATUS_OK;
}

void ka_op_mirror_close(struct ka_op_mirror *m) {
  for (int i = 0; i < m->n; i++)
    if (m->spans[i].device) m->dev->backend->release(m->dev, KA_PLACE_DEVICE, m->spans[i].device);
  m->n = 0;
}
