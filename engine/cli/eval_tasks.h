/* SPDX-License-Identifier: Apache-2.0
 * kappa eval --tasks. */
#ifndef KAPPA_ENGINE_CLI_EVAL_TASKS_H
#define KAPPA_ENGINE_CLI_EVAL_TASKS_H

#include "engine/cli/cli.h"

/* Its options, for the table of `eval`. */
#define KA_EVAL_TASK_OPTIONS                                                                       \
  {"tasks", KA_OPT_STR, "A.yaml,B.yaml", NULL,                                                     \
   "score tasks instead, with lm-evaluation-harness's semantics"},                                 \
      {"include-path", KA_OPT_LIST, "DIR", NULL,                                                   \
       "directories whose task files --tasks and groups may name by task, group or tag"},          \
      {"native", KA_OPT_FLAG, NULL, NULL, "without the harness's quirks, see docs/evaluation.md"}, \
      {"limit", KA_OPT_FLOAT, "N", "0", "documents a task; below 1 that part of them; 0 all"},     \
      {"num-fewshot", KA_OPT_INT, "N", NULL, "examples, where the task does not say 0"},           \
      {"apply-chat-template", KA_OPT_FLAG, NULL, NULL,                                             \
       "prompts are conversations in the model's chat template"},                                  \
      {"fewshot-as-multiturn", KA_OPT_STR, "true|false", "true",                                   \
       "with it: examples are turns; false: all stands in the user's one message"},                \
      {"system-instruction", KA_OPT_STR, "TEXT", NULL, "in front of each task's description"},     \
      {"batch-size", KA_OPT_INT, "N", "0", "sequences at once; 0: as many as fit"},                \
      {"max-length", KA_OPT_INT, "N", NULL, "tokens at once (default: the model's positions)"},    \
      {"add-bos", KA_OPT_STR, "auto|true|false", "auto",                                           \
       "special tokens at the start of texts; auto: as tokenizer.json says"},                      \
      {"prefix-token", KA_OPT_INT, "ID", NULL,                                                     \
       "before texts without a context (default: BOS, else EOS)"},                                 \
      {"bootstrap-iters", KA_OPT_INT, "N", "100000", "for standard errors; 0: none"},              \
      {"output-path", KA_OPT_STR, "DIR", NULL, "write DIR/MODEL/results_DATE.json"}, {             \
    "log-samples", KA_OPT_FLAG, NULL, NULL, "also DIR/MODEL/samples_TASK_DATE.jsonl"               \
  }

ka_status ka_cli_eval_tasks(struct ka_ctx *ctx, const struct ka_cli *cli);

#endif
