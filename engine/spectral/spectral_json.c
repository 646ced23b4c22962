/* SPDX-License-Identifier: Apache-2.0
 * See spectral_json.h. */
#include "engine/spectral/spectral_json.h"

#include "engine/spectral/fp8.h"

#include <math.h>
#include <string.h>

static const char *dtype_of(const struct ka_unit *u) {
  if (u->fp8) return u->fp8->dtype_name;
  return u->skip ? "?" : ka_dtype_name(u->view.dtype);
}

static void add_place(json_t *o, const struct ka_unit *u) {
  json_t *shape = json_array();
  for (int i = 0; i < u->n_dim; i++)
    json_array_append_new(shape, json_integer((json_int_t)u->shape[i]));
  json_object_set_new(o, "shape", shape);
  if (strcmp(u->name, u->tensor) != 0) {
    json_object_set_new(o, "tensor", json_string(u->tensor));
    if (u->rows[0] >= 0)
      json_object_set_new(o, "rows",
                          json_pack("[I,I]", (json_int_t)u->rows[0], (json_int_t)u->rows[1]));
    if (u->cols[0] >= 0)
      json_object_set_new(o, "cols",
                          json_pack("[I,I]", (json_int_t)u->cols[0], (json_int_t)u->cols[1]));
  }
  json_object_set_new(o, "dtype", json_string(dtype_of(u)));
  if (u->layer >= 0) json_object_set_new(o, "layer", json_integer(u->layer));
  if (u->role) json_object_set_new(o, "role", json_string(u->role));
}

/* Singular, and how small the smallest value is was not computed. */
static bool only_bounded(const struct ka_spectrum *r) {
  return r->method == KA_SPECTRAL_TESTED && isnan(r->sigma_min_rel_bound);
}

json_t *ka_spectrum_json(const struct ka_spectrum *r) {
  json_t *o = json_object();
  add_place(o, r->unit);
  for (int i = 0; i < KA_N_METRICS; i++)
    json_object_set_new(o, ka_spectral_metric_info((enum ka_spectral_metric)i)->name,
                        ka_json_real(r->metrics[i]));
  if (only_bounded(r)) {
    json_object_set_new(o, "sigma_min", json_null());
    json_object_set_new(o, "sigma_min_high", ka_json_real(r->metrics[KA_METRIC_SIGMA_MIN]));
  }
  json_object_set_new(o, "kappa_rel_bound", ka_json_real(r->kappa_rel_bound));
  json_object_set_new(o, "kappa_low", r->error ? json_null() : ka_json_real(r->kappa_low));
  json_object_set_new(o, "kappa_high", ka_json_real(r->kappa_high));
  json_object_set_new(o, "sigma_max_rel_bound", ka_json_real(r->sigma_max_rel_bound));
  json_object_set_new(o, "sigma_min_rel_bound", ka_json_real(r->sigma_min_rel_bound));
  json_object_set_new(o, "singular", json_boolean(r->singular));
  json_object_set_new(o, "method", json_string(ka_spectral_method_name(r->method)));
  json_object_set_new(o, "time_s", ka_json_real(r->time_s));
  if (r->cached) json_object_set_new(o, "cached", json_true());
  if (r->error) json_object_set_new(o, "error", json_string(r->error));
  if (r->bad_index >= 0)
    json_object_set_new(o, "bad_index", json_integer((json_int_t)r->bad_index));
  if (r->n_values > 0) {
    json_t *values = json_array();
    for (int64_t i = 0; i < r->n_values; i++)
      json_array_append_new(values, json_real(r->values[i]));
    json_object_set_new(o, "singular_values", values);
  }
  return o;
}

ka_status ka_spectral_write_json(struct ka_ctx *ctx, const struct ka_spectrum *results, int64_t n,
                                 json_t *extra, const char *path) {
  json_t *tensors = json_object(), *root = json_object();
  for (int64_t i = 0; i < n; i++)
    json_object_set_new(tensors, results[i].unit->name, ka_spectrum_json(&results[i]));
  json_object_set_new(root, "tensors", tensors);
  if (extra) {
    json_object_update(root, extra);
    json_decref(extra);
  }
  ka_status st = ka_json_write(ctx, root, path);
  json_decref(root);
  return st;
}
