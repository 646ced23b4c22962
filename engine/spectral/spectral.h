/* SPDX-License-Identifier: Apache-2.0
 *
 * Spectra of weights: the two ends with proof, all singular values on request, and the metrics
 * made of them. Units may lie in mapped files or in memory.
 *
 * Invariant: sigma_max, sigma_min and kappa of a result are within their stated bounds of the true
 * values of the stored weights, rounding of the bounds' own computation included (docs/spectra.md).
 * Not here: which units a model has (units.h), which are chosen (selection.h), printing. */
#ifndef KAPPA_ENGINE_SPECTRAL_SPECTRAL_H
#define KAPPA_ENGINE_SPECTRAL_SPECTRAL_H

#include "base/file.h"
#include "engine/spectral/metrics.h"
#include "kernels/tensor.h"
#include "linalg/dense.h"

struct ka_fp8;

/* A matrix to analyse: a stored tensor as [d0, rest], or a part of it. */
struct ka_unit {
  const char *name;   /* "model.layers.0.self_attn.q_proj.weight", with "#head3" for a part */
  const char *tensor; /* the stored tensor */
  const char *apart;  /* of an expert in a stack: the name where it is stored apart; else NULL */
  const char *role;   /* "q", "gate", ...; NULL when unknown */
  int layer, expert;  /* -1 outside layers; of no expert */
  int n_dim;          /* of the stored tensor */
  int64_t shape[KA_MAX_DIM];
  int64_t rows[2], cols[2]; /* [a,b) of the stored matrix; {-1,-1}: all */
  struct ka_tensor view;    /* the matrix of this unit, 2-D, any row stride; f32, bf16, f16, f64 */
  const struct ka_map *map; /* the file it lies in: its pages are dropped after use; may be NULL */
  size_t map_offset, map_bytes;
  const struct ka_fp8 *fp8; /* stored in 8 bits: view is loaded when it is analysed (fp8.h) */
  bool unusual;             /* embedding, head, router: no candidate by default */
  bool fixed;               /* nothing that training could change: never a candidate */
  double affinity;          /* of its expert, of 1 a layer (selection.h); NaN: not measured */
  bool has_parts;           /* a fused tensor whose parts are units of their own */
  const char *skip;         /* why it cannot be read (an exotic dtype); NULL: it can */
};

int64_t ka_unit_elems(const struct ka_unit *unit);

enum ka_spectral_precision {
  KA_PRECISION_AUTO,       /* above 512 rows only as exact as an order needs, at most 1e-3 */
  KA_PRECISION_F64,        /* as exact as float64 gives */
  KA_PRECISION_FIRST_PASS, /* only kappa_low; see choose.h */
};

/* Where a result's bound on the ends comes from. */
#define KA_SPECTRAL_METHODS(X)                                                                     \
  X(NONE, "none")       /* not computed: see error */                                              \
  X(EXACT, "exact")     /* one row or one column, or zero */                                       \
  X(GRAM, "gram")       /* Gram matrix, verified Cholesky at both ends */                          \
  X(INVERSE, "inverse") /* sigma_min by a verified preconditioned inverse */                       \
  X(SVD, "svd")         /* full float64 SVD with its backward error */                             \
  X(TESTED, "tested")   /* singular: a vector that the matrix takes to nearly nothing */
enum ka_spectral_method {
#define X(id, name) KA_SPECTRAL_##id,
  KA_SPECTRAL_METHODS(X)
#undef X
};
const char *ka_spectral_method_name(enum ka_spectral_method method);

struct ka_spectrum {
  const struct ka_unit *unit;
  double metrics[KA_N_METRICS]; /* NaN: not known (not asked for, singular, failed) */
  /* |true - kappa| <= kappa_rel_bound * kappa; the same for the ends. */
  double kappa_rel_bound, sigma_max_rel_bound, sigma_min_rel_bound;
  double kappa_low, kappa_high; /* proven; high may be infinite */
  bool singular;                /* s_min <= 2^-24 s_max within the bounds: kappa is NaN */
  bool zero;
  bool cached;
  uint64_t cache_key[2]; /* with a cache */
  enum ka_spectral_method method;
  double time_s;
  const char *error; /* NULL, or why there is no result: "NaN at [3,17]"; in the arena */
  int64_t bad_index; /* flat index in the unit of the first NaN or Inf, else -1 */
  double *values;    /* with full: all m singular values, descending, in the arena */
  int64_t n_values;
};

struct ka_spectral_options {
  struct ka_linalg_engine engine; /* zero: ka_linalg_engine_cpu() */
  bool full;                      /* all singular values */
  enum ka_spectral_precision precision;
  double rtol;       /* wanted relative bound of kappa; 0: see docs/spectra.md */
  int64_t max_dim;   /* units with a larger side are skipped; 0: none */
  int64_t max_bytes; /* memory for workspaces; 0: no limit. A unit that needs more is skipped; one
                      * that does not fit on a device goes to the host's engine */
  const char *cache; /* file of cached results; NULL: none */
  int n_threads;     /* 0: OpenMP's */
  /* Called from the calling thread as flops are done; may be NULL. */
  void (*progress)(void *user, double done_flops, double all_flops, const char *unit);
  void *user;
};

/* What a call spent, for benches and the log. */
struct ka_spectral_phases {
  double read_s, gram_s, cholesky_s, lanczos_s, inverse_s, svd_s, hash_s, total_s;
  double gram_flops;
  int64_t n_cached, n_computed;
};
/* to += from, every field. Not safe against another thread's. */
void ka_spectral_phases_add(struct ka_spectral_phases *to, const struct ka_spectral_phases *from);

/* results [n] in the units' order; strings and values live in the arena. A unit with NaN or Inf,
 * or that cannot be read, has `error` set and does not fail the call. KA_E_INTERRUPTED when
 * ctx->interrupted is set. phases may be NULL. */
ka_status ka_spectral_analyze(struct ka_ctx *ctx, struct ka_arena *arena,
                              struct ka_spectrum *results, const struct ka_unit *units, int64_t n,
                              const struct ka_spectral_options *options,
                              struct ka_spectral_phases *phases);

/* A result that says nothing yet: every metric NaN, kappa in [1, inf). */
void ka_spectrum_clear(struct ka_spectrum *r, const struct ka_unit *unit);

/* The work of such a call, in float64 operations: what progress counts against. */
double ka_spectral_flops(const struct ka_unit *units, int64_t n,
                         const struct ka_spectral_options *options);

/* A unit over a tensor in memory (training); the whole of it. name is borrowed. */
struct ka_unit ka_unit_of_tensor(const char *name, struct ka_tensor t);

#endif
