/* SPDX-License-Identifier: Apache-2.0
 * Results and selections in the formats of other tools. */
#ifndef KAPPA_ENGINE_SPECTRAL_EXPORT_H
#define KAPPA_ENGINE_SPECTRAL_EXPORT_H

#include "engine/spectral/selection.h"

/* name, what is written by default, needs a selection, needs all singular values:
 * Names are those that transformers 5 has in memory; a warning says what a format cannot.
 *  kappatune  {NAME: kappa} of every tensor, as the method's own code caches it; singular is
 *             Infinity, as Python writes it
 *  peft       {"target_modules": [...], "target_parameters": [...]} for LoraConfig
 *  axolotl    unfrozen_parameters patterns, with row ranges for parts
 *  spectrum   {MODULE: {"snr", "type"}}, which axolotl's Spectrum plugin reads as
 *             snr_results_MODEL.json */
#define KA_EXPORT_TABLE(X)                                                                         \
  X(KAPPATUNE, "kappatune", "condition_numbers.json", false, false)                                \
  X(PEFT, "peft", "target_modules.json", true, false)                                              \
  X(AXOLOTL, "axolotl", "unfrozen_parameters.yaml", true, false)                                   \
  X(SPECTRUM, "spectrum", "snr_results.json", false, true)

enum ka_spectral_export {
#define X(id, name, file, selection, full) KA_EXPORT_##id,
  KA_EXPORT_TABLE(X)
#undef X
      KA_N_EXPORTS
};

struct ka_spectral_export_info {
  const char *name, *file;
  bool needs_selection, needs_full;
};
const struct ka_spectral_export_info *ka_spectral_export_info(enum ka_spectral_export format);
bool ka_spectral_export_parse(const char *name, enum ka_spectral_export *out);

/* Published by rename. selection may be NULL where the format needs none. */
ka_status ka_spectral_export_write(struct ka_ctx *ctx, enum ka_spectral_export format,
                                   const struct ka_spectrum *results, int64_t n,
                                   const struct ka_selection *selection, const char *path);

#endif
