/* SPDX-License-Identifier: Apache-2.0
 * What takes more than a row of foreign.def: keys of the top of a job. */
#include "engine/job/foreign_parts.h"

#include <fnmatch.h>
#include <math.h>
#include <string.h>

static bool fits(const char *text, const char *const *patterns) {
  for (; *patterns; patterns++)
    if (fnmatch(*patterns, text, FNM_CASEFOLD) == 0) return true;
  return false;
}

/* torchtune's `_component_: a.b.c`: the last word; "" when there is none. */
static const char *component(const struct ka_yaml *v) {
  const char *text = ka_foreign_get(v, "_component_"), *dot = text ? strrchr(text, '.') : NULL;
  return dot ? dot + 1 : text ? text : "";
}

/* --- model ------------------------------------------------------------------- */

static ka_status model(struct ka_foreign *f, struct ka_yaml *v) {
  return v->kind == KA_YAML_SCALAR ? ka_foreign_put(f, "base_model", v) : ka_foreign_pass(f);
}

static ka_status checkpointer(struct ka_foreign *f, struct ka_yaml *v) {
  struct ka_yaml *dir = ka_yaml_get(v, "checkpoint_dir");
  return dir && dir->kind == KA_YAML_SCALAR ? ka_foreign_put(f, "base_model", dir)
                                            : ka_foreign_pass(f);
}

static ka_status tokenizer(struct ka_foreign *f, struct ka_yaml *v) {
  struct ka_yaml *len = ka_yaml_get(v, "max_seq_len");
  return len && !ka_yaml_is_null(len) ? ka_foreign_put(f, "sequence_len", len) : ka_foreign_pass(f);
}

static const char more_tokens[] =
    "a job adds no tokens: kappa init --from MODEL --tokens A B --out DIR makes a model that has "
    "them";

static ka_status special_tokens(struct ka_foreign *f, struct ka_yaml *v) {
  if (v->kind == KA_YAML_LIST && v->n > 0) return ka_foreign_refuse(f, more_tokens);
  if (ka_yaml_get(v, "additional_special_tokens")) return ka_foreign_refuse(f, more_tokens);
  const char *eos = ka_foreign_get(v, "eos_token");
  if (eos && *eos) return ka_foreign_put_text(f, "eos_token", "%s", eos);
  return ka_foreign_pass(f);
}

/* --- what is trained --------------------------------------------------------- */

static ka_status finetuning_type(struct ka_foreign *f, struct ka_yaml *v) {
  const char *text = ka_foreign_text(v);
  if (strcmp(text, "full") == 0) return ka_foreign_pass(f);
  if (strcmp(text, "freeze") == 0)
    return ka_foreign_warn(f,
                           "the selection decides what is trained; see selection.metric: last_n");
  return ka_foreign_refuse(f, "kappa trains whole units; there are no adapters");
}

static ka_status stage(struct ka_foreign *f, struct ka_yaml *v) {
  static const char *const good[] = {"sft", "pt", NULL};
  if (fits(ka_foreign_text(v), good)) return ka_foreign_pass(f);
  return ka_foreign_refuse(f, "kappa fine-tunes on texts and answers, not on preferences or "
                              "rewards");
}

static ka_status loss(struct ka_foreign *f, struct ka_yaml *v) {
  static const char *const good[] = {"*CrossEntropy*", "*CEWith*", "*.CE*", "", NULL};
  if (fits(component(v), good)) return ka_foreign_pass(f);
  return ka_foreign_refuse(f, "the loss is cross-entropy");
}

static ka_status plugins(struct ka_foreign *f, struct ka_yaml *v) {
  static const char *const bad[] = {"*diffusion*", "*.kd.*", "*grpo*", "*densemixer*", NULL};
  for (int64_t i = 0; i < v->n && v->kind == KA_YAML_LIST; i++)
    if (fits(ka_foreign_text(v->items[i]), bad))
      return ka_foreign_refuse(f, "kappa trains next tokens by cross-entropy; other objectives are "
                                  "not supported");
  return ka_foreign_pass(f);
}

/* --- steps, optimizer -------------------------------------------------------- */

static ka_status batch_size(struct ka_foreign *f, struct ka_yaml *v) {
  double all, micro;
  struct ka_yaml *m = ka_yaml_get(f->from, "micro_batch_size");
  if (!m) m = ka_yaml_get(f->from, "per_device_train_batch_size");
  if (!m) return ka_foreign_put(f, "micro_batch_size", v);
  struct ka_yaml *n = ka_yaml_get(f->from, "gradient_accumulation_steps");
  if (n && !ka_yaml_is_null(n)) return ka_foreign_pass(f);
  if (!ka_foreign_number(v, &all) || !ka_foreign_number(m, &micro) || micro < 1 || all < micro)
    return ka_foreign_refuse(f, "give micro_batch_size and gradient_accumulation_steps");
  return ka_foreign_put_text(f, "gradient_accumulation_steps", "%.0f", floor(all / micro));
}

/* A rate's share of the peak. */
static ka_status put_share(struct ka_foreign *f, const struct ka_yaml *v) {
  double min, peak;
  const struct ka_yaml *lr = ka_yaml_get(f->from, "learning_rate");
  if (!lr) lr = ka_yaml_get(f->from, "lr");
  if (!lr || !ka_foreign_number(lr, &peak) || !ka_foreign_number(v, &min) || peak <= 0)
    return ka_foreign_refuse(f, "the key is cosine_min_lr_ratio, its share of learning_rate");
  return ka_foreign_put_text(f, "cosine_min_lr_ratio", "%.9g", min / peak);
}

static ka_status min_lr(struct ka_foreign *f, struct ka_yaml *v) { return put_share(f, v); }

static ka_status scheduler_kwargs(struct ka_foreign *f, struct ka_yaml *v) {
  struct ka_yaml *rate = ka_yaml_get(v, "min_lr_rate");
  if (!rate) rate = ka_yaml_get(v, "min_lr_ratio");
  if (rate) return ka_foreign_put(f, "cosine_min_lr_ratio", rate);
  if (ka_yaml_get(v, "min_lr")) return put_share(f, ka_yaml_get(v, "min_lr"));
  if (ka_foreign_is_off(v)) return ka_foreign_pass(f);
  return ka_foreign_warn(f, "only min_lr and min_lr_rate have a meaning here");
}

/* torchtune: {_component_: ...get_cosine_schedule_with_warmup, num_warmup_steps: 100} */
static ka_status scheduler(struct ka_foreign *f, struct ka_yaml *v) {
  struct ka_ctx *ctx = f->ctx;
  const struct ka_yaml *warm = ka_yaml_get(v, "num_warmup_steps");
  static const char *const linear[] = {"*linear*", NULL}, *const constant[] = {"*constant*", NULL};
  /* a warm-up and one decay to the end, by another curve */
  static const char *const decays[] = {"rex", "one_cycle", "polynomial", "quadratic", NULL};
  if (v->kind != KA_YAML_MAP && fits(ka_foreign_text(v), decays)) {
    KA_TRY(ka_foreign_warn(f, "the rate decays by a cosine, for polynomial by a line"));
    bool straight = strcmp(ka_foreign_text(v), "polynomial") == 0;
    return ka_foreign_put_text(f, "lr_scheduler", straight ? "linear" : "cosine");
  }
  if (v->kind != KA_YAML_MAP) return ka_foreign_put(f, "lr_scheduler", v);
  if (warm) KA_TRY(ka_foreign_put(f, "warmup_steps", (struct ka_yaml *)(uintptr_t)warm));
  const char *word = fits(component(v), linear)     ? "linear"
                     : fits(component(v), constant) ? "constant"
                                                    : "cosine";
  return ka_foreign_put_text(f, "lr_scheduler", "%s", word);
}

static ka_status name_of_optimizer(struct ka_foreign *f, const char *name) {
  static const char *const adam[] = {"*adamw*", "adam", "adam_*", "*.adam", NULL};
  static const char *const others[] = {"*muon*", "*mini*", "*galore*", "*apollo*", NULL};
  if (!*name || (fits(name, adam) && !fits(name, others))) return ka_foreign_pass(f);
  return ka_foreign_warn(f, "the optimizer is AdamW");
}

/* A word, or torchtune's mapping of a component and its arguments. */
static ka_status optimizer(struct ka_foreign *f, struct ka_yaml *v) {
  static const char *const names[][2] = {
      {"lr", "learning_rate"}, {"weight_decay", "weight_decay"}, {"eps", "adam_epsilon"}};
  struct ka_ctx *ctx = f->ctx;
  if (v->kind == KA_YAML_SCALAR) return name_of_optimizer(f, v->text);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    struct ka_yaml *x = ka_yaml_get(v, names[i][0]);
    if (x && !ka_yaml_is_null(x)) KA_TRY(ka_foreign_put(f, names[i][1], x));
  }
  struct ka_yaml *betas = ka_yaml_get(v, "betas");
  if (betas && betas->kind == KA_YAML_LIST && betas->n == 2) {
    KA_TRY(ka_foreign_put(f, "adam_beta1", betas->items[0]));
    KA_TRY(ka_foreign_put(f, "adam_beta2", betas->items[1]));
  }
  return name_of_optimizer(f, component(v));
}

static ka_status optim_args(struct ka_foreign *f, struct ka_yaml *v) {
  return v->kind == KA_YAML_MAP
             ? optimizer(f, v)
             : ka_foreign_warn(f, "the keys are adam_beta1, adam_beta2, adam_epsilon");
}

static ka_status warmup_steps(struct ka_foreign *f, struct ka_yaml *v) {
  double n;
  bool part = ka_foreign_number(v, &n) && n > 0 && n < 1;
  return ka_foreign_put(f, part ? "warmup_ratio" : "warmup_steps", v);
}

/* Below 1: that part of the run. */
static ka_status part_of_run(struct ka_foreign *f, struct ka_yaml *v, const char *steps,
                             const char *per_epoch) {
  double part, n;
  if (!ka_foreign_number(v, &part) || part <= 0 || part >= 1) return ka_foreign_put(f, steps, v);
  if (ka_foreign_number(ka_yaml_get(f->from, "max_steps"), &n) && n > 0)
    return ka_foreign_put_text(f, steps, "%.0f", fmax(1, ceil(part * n)));
  if (!ka_foreign_number(ka_yaml_get(f->from, "num_train_epochs"), &n) &&
      !ka_foreign_number(ka_yaml_get(f->from, "num_epochs"), &n))
    n = 3;
  return ka_foreign_put_text(f, per_epoch, "%.0f", fmax(1, round(1 / (part * n))));
}

static ka_status eval_part(struct ka_foreign *f, struct ka_yaml *v) {
  return part_of_run(f, v, "eval_steps", "evals_per_epoch");
}

static ka_status save_part(struct ka_foreign *f, struct ka_yaml *v) {
  return part_of_run(f, v, "save_steps", "saves_per_epoch");
}

/* --- computing --------------------------------------------------------------- */

static ka_status not_of(struct ka_foreign *f, struct ka_yaml *v, const char *key) {
  bool off = ka_foreign_is_off(v);
  return ka_foreign_put_text(f, key, "%s", off ? "true" : "false");
}

/* LLaMA-Factory: neat_packing turns packing on. */
static ka_status neat_packing(struct ka_foreign *f, struct ka_yaml *v) {
  if (ka_foreign_get(f->from, "packing")) return ka_foreign_pass(f); /* packing() has it */
  return ka_foreign_put(f, "sample_packing", v);
}

static ka_status packing(struct ka_foreign *f, struct ka_yaml *v) {
  struct ka_yaml *neat = ka_yaml_get(f->from, "neat_packing");
  return ka_foreign_put(f, "sample_packing", neat && !ka_foreign_is_off(neat) ? neat : v);
}

static ka_status not_bf16(struct ka_foreign *f, struct ka_yaml *v) {
  return ka_foreign_is_off(v) ? ka_foreign_pass(f) : ka_foreign_put_text(f, "bf16", "false");
}

static ka_status not_shuffled(struct ka_foreign *f, struct ka_yaml *v) {
  return not_of(f, v, "shuffle");
}

static ka_status not_checkpointing(struct ka_foreign *f, struct ka_yaml *v) {
  return ka_foreign_is_off(v) ? ka_foreign_pass(f)
                              : ka_foreign_put_text(f, "gradient_checkpointing", "false");
}

static ka_status dtype(struct ka_foreign *f, struct ka_yaml *v) {
  static const char *const half[] = {"bf16", "bfloat16", "torch.bfloat16", NULL};
  static const char *const full[] = {"fp32", "float32", "torch.float32", "float", NULL};
  const char *text = ka_foreign_text(v);
  if (ka_yaml_get(f->from, "bf16")) return ka_foreign_pass(f);
  if (fits(text, half)) return ka_foreign_put_text(f, "bf16", "true");
  if (fits(text, full)) return ka_foreign_put_text(f, "bf16", "false");
  return ka_foreign_warn(f, "computed in bfloat16 or float32; the key is bf16");
}

/* --- watching ---------------------------------------------------------------- */

static ka_status strategy(struct ka_foreign *f, struct ka_yaml *v, const char *steps,
                          const char *per_epoch) {
  const char *text = ka_foreign_text(v);
  struct ka_yaml *n = ka_yaml_get(f->from, steps);
  if (strcmp(text, "steps") == 0) return ka_foreign_pass(f);
  if (strcmp(text, "best") == 0) return ka_foreign_warn(f, "the key is forgetting.keep: best");
  bool epoch = strcmp(text, "epoch") == 0;
  if (!epoch && !ka_foreign_is_off(v))
    return ka_foreign_refuse(f, "expected no, steps, epoch or best");
  if (n && !ka_yaml_is_null(n)) return ka_foreign_pass(f); /* kappa's own key is there */
  return ka_foreign_put_text(f, epoch ? per_epoch : steps, "%d", epoch);
}

static ka_status eval_strategy(struct ka_foreign *f, struct ka_yaml *v) {
  return strategy(f, v, "eval_steps", "evals_per_epoch");
}

static ka_status save_strategy(struct ka_foreign *f, struct ka_yaml *v) {
  return strategy(f, v, "save_steps", "saves_per_epoch");
}

static bool is_ours(const struct ka_yaml *v) {
  const char *text = ka_foreign_text(v);
  return strcmp(text, "tensorboard") == 0 || strcmp(text, "none") == 0;
}

/* What other places the rows of the log would go to is nothing that training depends on. */
static ka_status report_to(struct ka_foreign *f, struct ka_yaml *v) {
  static const char *const theirs[] = {"wandb",   "mlflow",       "comet_ml",   "swanlab",
                                       "trackio", "all",          "neptune",    "clearml",
                                       "dvclive", "azure_ml",     "codecarbon", "flyte",
                                       "dagshub", "tensorboardx", NULL};
  struct ka_ctx *ctx = f->ctx;
  struct ka_yaml single = {.kind = KA_YAML_LIST, .n = 1, .items = &v}, *list = v;
  struct ka_yaml *kept;
  void *items;
  if (v->kind != KA_YAML_LIST) list = &single;
  KA_TRY(ka_foreign_new(f, &kept, KA_YAML_LIST));
  KA_TRY(ka_arena_alloc_n(f->arena, &items, list->n, sizeof v, "foreign keys"));
  kept->items = items;
  for (int64_t i = 0; i < list->n; i++)
    if (is_ours(list->items[i]) || !fits(ka_foreign_text(list->items[i]), theirs))
      kept->items[kept->n++] = list->items[i];
  if (kept->n < list->n) KA_TRY(ka_foreign_pass(f));
  return kept->n > 0 ? ka_foreign_put(f, "report_to", kept) : KA_STATUS_OK;
}

static ka_status never(struct ka_foreign *f, struct ka_yaml *v) {
  return ka_foreign_put(f, *f->key == 'e' ? "eval_steps" : "save_steps", v);
}

static ka_status device(struct ka_foreign *f, struct ka_yaml *v) {
  if (ka_yaml_get(f->top, "checkpointer")) return ka_foreign_pass(f);
  return strcmp(ka_foreign_text(v), "cuda") == 0 ? ka_foreign_put(f, "device", v)
                                                 : ka_foreign_put_text(f, "device", "cuda");
}

static ka_status use_tensorboard(struct ka_foreign *f, struct ka_yaml *v) {
  return ka_foreign_put_text(f, "report_to", "%s", ka_foreign_is_off(v) ? "none" : "tensorboard");
}

ka_foreign_fn *ka_foreign_call(const char *name) {
  static const struct {
    const char *name;
    ka_foreign_fn *call;
  } calls[] = {
#define CALL(x) {#x, x}
      CALL(model),
      CALL(checkpointer),
      CALL(tokenizer),
      CALL(special_tokens),
      CALL(finetuning_type),
      CALL(stage),
      CALL(loss),
      CALL(plugins),
      CALL(batch_size),
      CALL(min_lr),
      CALL(scheduler_kwargs),
      CALL(scheduler),
      CALL(optimizer),
      CALL(optim_args),
      CALL(warmup_steps),
      CALL(eval_part),
      CALL(save_part),
      CALL(not_bf16),
      CALL(neat_packing),
      CALL(packing),
      CALL(not_shuffled),
      CALL(not_checkpointing),
      CALL(dtype),
      CALL(eval_strategy),
      CALL(save_strategy),
      CALL(report_to),
      CALL(use_tensorboard),
      CALL(never),
      CALL(device),
#undef CALL
  };
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
    if (strcmp(calls[i].name, name) == 0) return calls[i].call;
  return ka_foreign_data_call(name);
}
