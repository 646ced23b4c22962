/* SPDX-License-Identifier: Apache-2.0
 * What a job would do, in words. */
#ifndef KAPPA_ENGINE_TRAIN_PLAN_H
#define KAPPA_ENGINE_TRAIN_PLAN_H

#include "engine/train/run.h"

/* Prints an open run (opened with options.plan) on stdout: what is read, the selection and how many
 * tensors each pattern finds, the first rows with what is trained of them, steps, memory by part,
 * disk, and an estimate of the time from a measured matmul rate. A job that does not fit the
 * machine is KA_E_MEMORY or KA_E_IO, after all is printed. */
ka_status ka_train_plan_print(struct ka_run *r);
/* Writes every document as a line {"ids": [...], "labels": [...]} (labels: -100 where nothing is
 * trained, else the id), as read, before cutting and packing, in the order of the files; path "-":
 * stdout. */
ka_status ka_train_plan_documents(struct ka_run *r, const char *path);
/* The same as JSON into a file; "-": stdout. */
ka_status ka_train_plan_json(struct ka_run *r, const char *path);

#endif
