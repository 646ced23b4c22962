/* SPDX-License-Identifier: Apache-2.0
 *
 * The tensor map: what the tensors of a model's files are for, and how a weight lies in its tensor.
 * One map a family, as data (engine/model/family_x.c); the model, the spectra, adapters and `init`
 * read it and keep no names of their own.
 *
 * A row names one weight. Rows of one name are a fused tensor: its parts lie one behind the other
 * in the order of the rows, below each other, or side by side where the tensor is stored
 * transposed.
 *
 *   {KA_ROLE_Q, ".h.{layer}.attn.c_attn.weight", .transposed = true}    +----+----+----+
 *   {KA_ROLE_K, ".h.{layer}.attn.c_attn.weight", .transposed = true}    | q  | k  | v  |  [in, out]
 *   {KA_ROLE_V, ".h.{layer}.attn.c_attn.weight", .transposed = true}    +----+----+----+
 */
#ifndef KAPPA_ENGINE_FORMATS_TENSOR_MAP_H
#define KAPPA_ENGINE_FORMATS_TENSOR_MAP_H

#include "engine/formats/config.h"

/* Sizes that shapes are made of; what each is, a recipe says (ka_recipe_dim). */
#define KA_DIM_TABLE(X)                                                                            \
  X(ONE)  /* a vector's rows */                                                                    \
  X(UNIT) /* the one row of a matrix */                                                            \
  X(TWO)                                                                                           \
  X(V)   /* vocabulary */                                                                          \
  X(P)   /* learned positions */                                                                   \
  X(C)   /* channels of the residual stream */                                                     \
  X(H)   /* query heads */                                                                         \
  X(K)   /* key/value heads */                                                                     \
  X(HD)  /* all query heads */                                                                     \
  X(KD)  /* all key/value heads */                                                                 \
  X(OD)  /* what attention hands to o: all heads' values */                                        \
  X(QN)  /* what the norm of q spans: a head, or all of them */                                    \
  X(KN)  /* the same of k */                                                                       \
  X(F)   /* feed-forward width */                                                                  \
  X(E)   /* experts */                                                                             \
  X(EF)  /* width of one expert */                                                                 \
  X(EU)  /* its gate and up in one */                                                              \
  X(EK)  /* experts that a token takes, */                                                         \
  X(EKC) /* and their rows of C, EF, EU */                                                         \
  X(EKF)                                                                                           \
  X(EKU)                                                                                           \
  X(EKW) /* the widest of these */                                                                 \
  X(EN)  /* E + 1: where each one's rows begin, and the end */                                     \
  X(EUE) /* the widest vector of all of them: EU or C of each */                                   \
  X(SF)  /* width of the experts that every token sees */                                          \
  X(QR)  /* rank of latent queries */                                                              \
  X(KVR) /* rank of latent keys and values */                                                      \
  X(KVP) /* the same, and the part with positions */                                               \
  X(KVH) /* all keys without positions and values, from their latent */

enum ka_dim {
#define X(name) KA_DIM_##name,
  KA_DIM_TABLE(X)
#undef X
      KA_N_DIMS
};

enum ka_scope { KA_SCOPE_MODEL, KA_SCOPE_LAYER, KA_SCOPE_EXPERT };

/* NAME, field (of the structs in engine/model/weights.h, and the role's name in tables), rows,
 * columns (as a linear layer has them: [out, in]), scope, attention head structure ('q': query
 * heads in the rows, 'k': key/value heads in the rows, 'o': query heads in the columns, '-': none),
 * fresh value ('n': normal, '1', '0'). */
#define KA_ROLE_TABLE(X)                                                                           \
  X(EMBED, embed, V, C, MODEL, '-', 'n')                                                           \
  X(POSITIONS, positions, P, C, MODEL, '-', 'n')                                                   \
  X(FINAL_NORM, final_norm, ONE, C, MODEL, '-', '1')                                               \
  X(FINAL_NORM_BIAS, final_norm_bias, ONE, C, MODEL, '-', '0')                                     \
  X(HEAD, head, V, C, MODEL, '-', 'n')                                                             \
  X(ATTN_NORM, attn_norm, ONE, C, LAYER, '-', '1')                                                 \
  X(ATTN_NORM_BIAS, attn_norm_bias, ONE, C, LAYER, '-', '0')                                       \
  X(Q, q, HD, C, LAYER, 'q', 'n')                                                                  \
  X(K, k, KD, C, LAYER, 'k', 'n')                                                                  \
  X(V, v, KD, C, LAYER, 'k', 'n')                                                                  \
  X(O, o, C, OD, LAYER, 'o', 'n')                                                                  \
  X(Q_A, q_a, QR, C, LAYER, '-', 'n')                                                              \
  X(Q_B, q_b, HD, QR, LAYER, 'q', 'n')                                                             \
  X(KV_A, kv_a, KVP, C, LAYER, '-', 'n')                                                           \
  X(KV_B, kv_b, KVH, KVR, LAYER, 'q', 'n')                                                         \
  X(Q_BIAS, q_bias, ONE, HD, LAYER, '-', '0')                                                      \
  X(K_BIAS, k_bias, ONE, KD, LAYER, '-', '0')                                                      \
  X(V_BIAS, v_bias, ONE, KD, LAYER, '-', '0')                                                      \
  X(O_BIAS, o_bias, ONE, C, LAYER, '-', '0')                                                       \
  X(Q_A_BIAS, q_a_bias, ONE, QR, LAYER, '-', '0')                                                  \
  X(KV_A_BIAS, kv_a_bias, ONE, KVP, LAYER, '-', '0')                                               \
  X(Q_A_NORM, q_a_norm, ONE, QR, LAYER, '-', '1')                                                  \
  X(KV_A_NORM, kv_a_norm, ONE, KVR, LAYER, '-', '1')                                               \
  X(Q_NORM, q_norm, ONE, QN, LAYER, '-', '1')                                                      \
  X(K_NORM, k_norm, ONE, KN, LAYER, '-', '1')                                                      \
  X(SINKS, sinks, ONE, H, LAYER, '-', 'n')                                                         \
  X(ATTN_POST_NORM, attn_post_norm, ONE, C, LAYER, '-', '1')                                       \
  X(FFN_NORM, ffn_norm, ONE, C, LAYER, '-', '1')                                                   \
  X(FFN_NORM_BIAS, ffn_norm_bias, ONE, C, LAYER, '-', '0')                                         \
  X(GATE, gate, F, C, LAYER, '-', 'n')                                                             \
  X(UP, up, F, C, LAYER, '-', 'n')                                                                 \
  X(DOWN, down, C, F, LAYER, '-', 'n')                                                             \
  X(GATE_BIAS, gate_bias, ONE, F, LAYER, '-', '0')                                                 \
  X(UP_BIAS, up_bias, ONE, F, LAYER, '-', '0')                                                     \
  X(DOWN_BIAS, down_bias, ONE, C, LAYER, '-', '0')                                                 \
  X(FFN_POST_NORM, ffn_post_norm, ONE, C, LAYER, '-', '1')                                         \
  X(ROUTER, router, E, C, LAYER, '-', 'n')                                                         \
  X(ROUTER_BIAS, router_bias, ONE, E, LAYER, '-', 'n')                                             \
  X(ROUTER_CHOICE, router_choice, ONE, E, LAYER, '-', '0')                                         \
  X(SHARED_GATE, shared_gate, SF, C, LAYER, '-', 'n')                                              \
  X(SHARED_UP, shared_up, SF, C, LAYER, '-', 'n')                                                  \
  X(SHARED_DOWN, shared_down, C, SF, LAYER, '-', 'n')                                              \
  X(SHARED_SWITCH, shared_switch, UNIT, C, LAYER, '-', 'n')                                        \
  X(EXPERT_GATE, expert_gate, EF, C, EXPERT, '-', 'n')                                             \
  X(EXPERT_UP, expert_up, EF, C, EXPERT, '-', 'n')                                                 \
  X(EXPERT_DOWN, expert_down, C, EF, EXPERT, '-', 'n')                                             \
  X(EXPERT_GATE_UP, expert_gate_up, EU, C, EXPERT, '-', 'n') /* by turns: g0 u0 g1 u1 ... */       \
  X(EXPERT_GATE_UP_BIAS, expert_gate_up_bias, ONE, EU, EXPERT, '-', '0')                           \
  X(EXPERT_DOWN_BIAS, expert_down_bias, ONE, C, EXPERT, '-', '0')

enum ka_role {
#define X(name, field, rows, cols, scope, heads, fresh) KA_ROLE_##name,
  KA_ROLE_TABLE(X)
#undef X
      KA_N_ROLES
};

struct ka_role_info {
  const char *name;
  enum ka_dim rows, cols;
  enum ka_scope scope;
  char heads, fresh;
};
/* KA_N_ROLES: of a tensor that no map has, as a projector's. */
const struct ka_role_info *ka_role_info(enum ka_role role);
/* Is such a weight chosen for training unless it is asked for? Not those outside the layers, nor
 * routers, whose shape alone makes their kappa low. */
bool ka_role_usual(enum ka_role role);

struct ka_tensor_row {
  enum ka_role role;
  /* With {layer} and {expert}; one that starts with a dot takes any of the map's prefixes. */
  const char *name;
  bool transposed; /* [in, out], as GPT-2's Conv1D */
  bool stacked;    /* [experts, rows, cols]: all experts of a layer in one tensor */
};

struct ka_tensor_map {
  const char *const *prefixes;      /* of names that start with a dot, besides the usual words in
                                       front (model., transformer., ...). NULL-terminated: "model",
                                       "" (then the dot goes too), "*" (anything); the first is the
                                       one that is written */
  const struct ka_tensor_row *rows; /* NULL name ends; fused ones in order, behind each other */
  bool tied;                        /* where config.json does not say, the head is the embedding */
};

/* What a tensor of the files is, by its name. */
struct ka_tensor_match {
  const struct ka_tensor_row *row; /* the first of n_rows: the parts of a fused tensor */
  int n_rows;
  int layer, expert; /* -1: none in the name */
};
bool ka_tensor_map_match(const struct ka_tensor_map *map, const char *name,
                         struct ka_tensor_match *out);

enum { KA_TENSOR_NAME_MAX = 256 };
/* The name that is written for a row, with the first prefix. */
void ka_tensor_map_name(const struct ka_tensor_map *map, const struct ka_tensor_row *row, int layer,
                        int expert, char name[KA_TENSOR_NAME_MAX]);

/* The map of the family that config.json names, NULL: none knows it. The table of families answers
 * (engine/model/families.c), so that rooms below it need not be told. */
const struct ka_tensor_map *ka_tensor_map_of(const struct ka_hf_config *config);
/* What names mean in models that no family knows, and in bare files: by their ends. */
extern const struct ka_tensor_map ka_tensor_map_any;

/* The first row of a role, NULL: the family has no such weight. */
const struct ka_tensor_row *ka_tensor_map_row(const struct ka_tensor_map *map, enum ka_role role);

#endif
