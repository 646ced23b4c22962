/* SPDX-License-Identifier: Apache-2.0
 * The plan of a job; see plan.h. Figures come from the objects that training itself uses: the
 * measuring arenas, the selection, the batches. */
#include "engine/train/memory.h"
#include "engine/train/plan.h"

#include "base/log.h"
#include "engine/spectral/units.h"
#include "engine/train/plan_figures.h"
#include "engine/train/plan_json.h"
#include "engine/train/plan_ranks.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MIB = 1 << 20 };
enum { SHOWN_UNITS = 40, SHOWN_ROWS = 3, SHOWN_TOKENS = 160 };

static void section(const char *title) { printf("\n%s\n", title); }

static void print_inputs(const struct ka_run *r) {
  char count[32];
  const struct ka_recipe *p = &r->open.model.recipe;
  section("model");
  printf("  %s: %s, %s parameters, %lld layers, width %lld, vocabulary %lld\n", r->job->base_model,
         r->open.model.family->name, ka_fmt_count((double)ka_model_n_elems(&r->open.model), count),
         (long long)p->L, (long long)p->C, (long long)p->V);
  printf("  computed in %s on %s; %s\n", ka_dtype_name(r->open.model.compute),
         r->open.dev.backend->name,
         r->open.tokenizer ? "with its tokenizer" : "no tokenizer: tokenized data only");
  bool used = ka_path_exists(r->job->output_dir);
  printf("  output_dir %s%s\n", r->job->output_dir, used ? " (exists already)" : "");
}

/* How many units a pattern alone finds, among those of the right shape. */
static ka_status count_matches(struct ka_ctx *ctx, const struct ka_train_selection *s,
                               struct ka_select_spec spec, const char *pattern, bool *scratch,
                               int64_t *n) {
  spec.include = &pattern;
  spec.n_include = 1;
  spec.n_exclude = 0;
  *n = 0;
  KA_TRY(ka_select_candidates(ctx, &spec, s->units, s->n_units, scratch));
  for (int64_t i = 0; i < s->n_units; i++) *n += scratch[i];
  return KA_STATUS_OK;
}

static ka_status print_patterns(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_train_selection *s = &r->selection;
  struct ka_select_spec spec;
  void *scratch = NULL;
  KA_TRY(ka_select_spec_of_job(&r->arena, r->job, &spec));
  KA_TRY(ka_arena_alloc_n(&r->arena, &scratch, s->n_units, sizeof(bool), "plan"));
  if (spec.n_exclude < 0 && strcmp(spec.metric, "all") != 0)
    printf("  without embeddings, heads and routers that include does not name: selection.exclude "
           "is not "
           "given\n");
  for (int list = 0; list < 2; list++) {
    int64_t n_patterns = list == 0 ? spec.n_include : spec.n_exclude;
    bool given = ka_job_given(r->job, list == 0 ? "selection.include" : "selection.exclude");
    for (int64_t i = 0; i < n_patterns; i++) {
      const char *pattern = list == 0 ? spec.include[i] : spec.exclude[i];
      int64_t n = 0;
      KA_TRY(count_matches(ctx, s, spec, pattern, scratch, &n));
      printf("  %s \"%s\": %lld tensors%s\n", list == 0 ? "include" : "exclude", pattern,
             (long long)n, n == 0 && given ? " (finds nothing: is it right?)" : "");
    }
  }
  return KA_STATUS_OK;
}

static void print_unit(const struct ka_selected *u) {
  double kappa = u->metrics[KA_METRIC_KAPPA];
  bool known = kappa > 0, used = u->affinity >= 0, scaled = u->lr_scale != 1;
  char name[512];
  printf("    %-*s", known || used || scaled ? 52 : 0, ka_visible(name, sizeof name, u->name));
  if (known) printf(" kappa %.6g", kappa);
  if (used) printf("%s affinity %.4f", known ? "," : "", u->affinity);
  if (scaled) printf("%s learning rate x %.3g", known || used ? "," : "", u->lr_scale);
  putchar('\n');
}

static ka_status print_selection(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_selection *s = &r->selection.chosen;
  char count[32], all[32], chosen[128];
  double total = (double)ka_model_n_elems(&r->open.model),
         trained = (double)ka_model_n_trained(&r->open.model);
  section("selection");
  if (r->job->selection.file)
    printf("  from %s\n", r->job->selection.file);
  else
    KA_TRY(print_patterns(r));
  printf("  %s: %s of %s parameters (%.2f %%)\n", ka_selection_words(s, chosen),
         ka_fmt_count(trained, count), ka_fmt_count(total, all), 100 * trained / total);
  if (r->has_speech)
    printf("  with them the projector, %s parameters, a place every %lld ms\n",
           ka_fmt_count((double)ka_projector_n_elems(&r->open.model), count),
           (long long)ka_projector_stride(&r->speech.projector) * 10);
  for (int64_t i = 0; i < s->n_units && i < SHOWN_UNITS; i++) print_unit(&s->units[i]);
  if (s->n_units > SHOWN_UNITS)
    printf("    ... and %lld more\n", (long long)s->n_units - SHOWN_UNITS);
  printf("  the backward pass ends %s\n",
         r->open.model.lowest_trained_layer < 0 ? "at the embedding"
         : r->open.model.lowest_trained_layer >= (int)r->open.model.recipe.L
             ? "below the head"
             : "at the lowest trained layer");
  const char *anchor;
  KA_TRY(ka_run_anchor_text(r, &anchor));
  printf("  anchor: %s\n", anchor);
  return KA_STATUS_OK;
}

/* One token as it reads: control characters made visible, so that a row stays a line. */
static void print_text(const struct ka_str *text) {
  for (size_t i = 0; i < text->len; i++) {
    unsigned char c = (unsigned char)text->data[i];
    if (c == '\n')
      fputs("\\n", stdout);
    else if (c < 32 || c == 127)
      printf("\\x%02x", c);
    else
      putchar(c);
  }
}

/* Decodes token by token, so that a character that spans tokens shows where it ends. */
static ka_status print_tokens(struct ka_run *r, const int32_t *ids, const int32_t *labels,
                              int64_t n, bool colour) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_tok_decode_stream decode = {0};
  struct ka_str text = {0};
  ka_status st = KA_STATUS_OK;
  bool open = false;
  for (int64_t t = 0; t < n; t++) {
    bool trained = t > 0 && labels[t] != -100;
    ka_str_clear(&text);
    if (r->open.tokenizer)
      KA_TRY_GOTO(ka_tok_decode_stream_push(ctx, &decode, r->open.tokenizer, ids[t], &text), out);
    else
      KA_TRY_GOTO(ka_str_printf(ctx, &text, "%d ", ids[t]), out);
    if (trained != open)
      fputs(colour ? (trained ? "\033[32m" : "\033[0m") : trained ? "[" : "]", stdout);
    open = trained;
    print_text(&text);
  }
out:
  if (open) fputs(colour ? "\033[0m" : "]", stdout);
  ka_tok_decode_stream_deinit(&decode);
  ka_str_deinit(&text);
  return st;
}

/* Runs of trained tokens stand in green, or in brackets where there is no terminal. */
static ka_status print_documents(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  int32_t ids[SHOWN_TOKENS], labels[SHOWN_TOKENS];
  bool colour = isatty(STDOUT_FILENO) == 1;
  section(colour ? "first documents (green: trained)" : "first documents ([ ]: trained)");
  for (int64_t i = 0; i < SHOWN_ROWS; i++) {
    int64_t n = ka_data_document(r->data.data, KA_DATA_TRAIN, i, SHOWN_TOKENS, ids, labels);
    if (n == 0) break;
    printf("  %lld (%lld tokens): ", (long long)i, (long long)n);
    KA_TRY(print_tokens(r, ids, labels, n < SHOWN_TOKENS ? n : SHOWN_TOKENS, colour));
    puts(n > SHOWN_TOKENS ? " ..." : "");
  }
  return KA_STATUS_OK;
}

static void print_part(const char *name, const struct ka_data_part_stats *p) {
  char tokens[32];
  printf("  %-10s %lld documents, %s tokens, %.1f %% of them trained; %lld rows, %.1f %% full, "
         "%lld micro-batches\n",
         name, (long long)p->n_documents, ka_fmt_count((double)p->n_tok, tokens),
         p->n_tok > 0 ? 100 * (double)p->n_targets / (double)p->n_tok : 0, (long long)p->n_rows,
         100 * p->efficiency, (long long)p->n_batches);
}

static void print_histogram(const struct ka_data_stats *s) {
  printf("  lengths in tokens, longest %lld:", (long long)s->longest_tok);
  for (int i = 0; i < KA_DATA_HISTOGRAM; i++)
    if (s->histogram[i] > 0) printf("  %lld+: %lld", 1LL << i, (long long)s->histogram[i]);
  putchar('\n');
}

static ka_status print_data(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_data_stats *s = ka_data_get_stats(r->data.data);
  struct ka_str losses = {0};
  char time[32];
  section("data");
  printf("  %lld files, %lld rows\n", (long long)s->n_files, (long long)s->n_rows);
  print_part("training", &s->part[KA_DATA_TRAIN]);
  print_part("validation", &s->part[KA_DATA_VALIDATION]);
  if (s->n_clips > 0)
    printf("  %lld sound files, %s; %lld of another rate are resampled, %lld of several channels "
           "mixed\n",
           (long long)s->n_clips, ka_fmt_duration(s->audio_s, time),
           (long long)s->n_noted[KA_NOTE_RESAMPLED], (long long)s->n_noted[KA_NOTE_MIXED]);
  print_histogram(s);
  ka_status st = ka_train_data_losses(ctx, s, &losses);
  if (ka_ok(st)) printf("  %s\n", losses.len ? losses.data : "nothing dropped, cut or masked");
  ka_str_deinit(&losses);
  KA_TRY(st);
  return print_documents(r);
}

static void print_steps(const struct ka_run *r) {
  const struct ka_loop_config *c = &r->loop;
  char tokens[32], padded[32];
  int64_t per_step = r->job->micro_batch_size * c->accumulation;
  int64_t n_micro = ka_loop_n_micro(c),
          last = n_micro - (c->schedule.n_steps - 1) * c->accumulation;
  double all = (double)n_micro * (double)(r->job->micro_batch_size * r->job->sequence_len);
  section("steps");
  const struct ka_data_part_stats *part = &ka_data_get_stats(r->data.data)->part[KA_DATA_TRAIN];
  printf("  %lld steps of %lld rows (%lld x %lld) of at most %lld tokens: %s tokens (%s with "
         "padding), "
         "%.2f epochs of %lld micro-batches\n",
         (long long)c->schedule.n_steps, (long long)per_step, (long long)r->job->micro_batch_size,
         (long long)c->accumulation, (long long)r->job->sequence_len,
         ka_fmt_count(all * part->efficiency, tokens), ka_fmt_count(all, padded),
         (double)n_micro / (double)r->data.train.n, (long long)r->data.train.n);
  if (last < c->accumulation)
    printf("  the last step has %lld of its %lld micro-batches: the data end there\n",
           (long long)last, (long long)c->accumulation);
  if (r->self.n > 0)
    printf(
        "  every step has %lld rows of %lld tokens beside them that the base wrote itself, %lld in "
        "all, from %s\n",
        (long long)r->self.per_step, (long long)r->self.T, (long long)r->self.n,
        r->self.start_name);
  printf("  %s, peak %g, %lld steps of warm-up; validation %lld micro-batches\n",
         ka_job_words_lr_scheduler[r->job->lr_scheduler], c->schedule.peak_lr,
         (long long)c->schedule.warmup_steps, (long long)r->data.validation.n);
}

static size_t print_arena(const struct ka_arena *a) {
  char bytes[32];
  for (int i = 0; i < a->n_names; i++)
    printf("    %-24s %10s\n", a->uses[i].name, ka_fmt_bytes((double)a->uses[i].bytes, bytes));
  return a->used_bytes;
}

static void print_recompute(const struct ka_run *r) {
  int64_t L = r->open.model.recipe.L, lowest = r->open.model.lowest_trained_layer,
          n = r->open.model.recompute;
  int64_t reached = L - (lowest > 0 ? lowest : 0);
  if (n > 0)
    printf("    %lld blocks are recomputed in the backward pass\n",
           (long long)(n < reached ? n : reached));
}

static void print_bytes(const char *name, double bytes, const char *note) {
  char text[32];
  if (bytes > 0) printf("    %-24s %10s%s\n", name, ka_fmt_bytes(bytes, text), note);
}

static void print_device_memory(const struct ka_run *r, size_t arenas) {
  char bytes[32], free_bytes[32];
  double own = (double)r->open.dev.own_bytes;
  print_bytes("the back end's own", own, "");
  printf("    %-24s %10s, the arenas may take %s\n", "in all",
         ka_fmt_bytes((double)arenas + own, bytes),
         ka_fmt_bytes((double)r->open.dev.free_bytes, free_bytes));
}

/* The arenas; then the process, which is what a limit of memory counts. */
static void print_memory(const struct ka_run *r, const struct ka_plan_figures *f) {
  char left[32], note[64] = "";
  bool own = ka_dev_own_memory(&r->open.dev), offload = ka_run_offloads(r);
  size_t all = 0;
  section(own ? "memory of the device" : "memory");
  print_recompute(r);
  all += print_arena(&r->open.model.run);
  if (!offload) all += print_arena(&r->optim.arena);
  all += print_arena(&r->open.model.step);
  if (own) {
    print_device_memory(r, all);
    section("memory of the host");
    if (offload) print_arena(&r->optim.arena);
  }
  print_bytes("program, libraries, data", f->process_bytes, "");
  print_bytes("the model's files", f->files_bytes, ", mapped");
  print_bytes("the base, writing rows", f->writing_bytes, ", before training begins");
  print_bytes("the base, for its KL", f->base_bytes,
              r->loop.watch_steps > 0 ? ", at evaluations and in the end"
                                      : ", once training is done");
  if (f->memory_free_bytes > 0)
    snprintf(note, sizeof note, ", %s are free%s", ka_fmt_bytes(f->memory_free_bytes, left),
             f->fits_memory ? "" : ": too much");
  printf("    %-24s %6.0f MiB%s\n",
         f->memory_bytes > f->analysis_bytes ? "peak" : "peak, of the analysis",
         f->memory_bytes / MIB, note);
}

/* What ranks exchange. */
static void print_ranks(const struct ka_run *r, const struct ka_plan_figures *f) {
  struct ka_plan_ranks p = ka_plan_ranks_of(r, f, r->options.link);
  char sent[32], full[32];
  if (p.n < 2) return;
  section("ranks");
  printf("  %lld, shard: %s; the memory above is a rank's\n", (long long)p.n,
         ka_job_words_shard[r->shard]);
  if (r->loop.accumulation % p.n != 0)
    printf("  %lld micro-batches a step are no multiple of %lld ranks: some of them wait\n",
           (long long)r->loop.accumulation, (long long)p.n);
  printf("  each sends %s a step; trained in full it would be %s\n",
         ka_fmt_bytes(p.wire_bytes, sent), ka_fmt_bytes(p.full_bytes, full));
  if (p.wire_s > 0) printf("  %.3g s of that link\n", p.wire_s);
  if (p.compute_s > 0)
    printf("  beside %.3g s of computing: %.0f to %.0f %% of %lld times one rank's speed, by how "
           "much of the exchange is hidden\n",
           p.compute_s, 100 * p.least, 100 * p.most, (long long)p.n);
}

static void print_disk(const struct ka_plan_figures *f) {
  char one[32], all[32], model[32], left[32];
  section("disk");
  if (f->rows_bytes > 0)
    printf("  rows of the base %s, in the cache\n", ka_fmt_bytes(f->rows_bytes, one));
  printf("  a checkpoint %s, at most %.0f kept and one in the making; the tuned model %s; %s in "
         "all, %s are free%s\n",
         ka_fmt_bytes(f->checkpoint_bytes, one), f->n_checkpoints,
         ka_fmt_bytes(f->model_bytes, model), ka_fmt_bytes(f->disk_bytes, all),
         ka_fmt_bytes(f->disk_free_bytes, left), f->fits_disk ? "" : ": too much");
}

static void print_phase(const char *name, double seconds, const char *fmt, int64_t n) {
  char time[32], note[64] = "";
  if (seconds <= 0) return;
  if (*fmt) snprintf(note, sizeof note, fmt, (long long)n);
  printf("    %-24s %10s%s\n", name, ka_fmt_duration(seconds, time), note);
}

static void print_time(const struct ka_plan_figures *f) {
  section("time");
  if (!f->timed) {
    printf("  %.3g flops; how long they take only the device itself can say\n", f->flops);
    return;
  }
  printf(
      "  estimated from %.3g flops and this device's matmul rate of %.3g a second, measured now\n",
      f->flops, f->rate);
  print_phase("rows of the base", f->writing_s, ", unless the cache has them", 0);
  print_phase("affinity of experts", f->affinity_s, "", 0);
  print_phase("training", f->train_s, "", 0);
  print_phase("validation", f->validation_s, ", %lld times", f->n_validations);
  print_phase("what is watched", f->watch_s, ", %lld times", f->n_watch);
  print_phase("spectra of the trained", f->spectra_s, "", 0);
  print_phase("saving", f->save_s, "", 0);
  print_phase("in all", f->all_s, "", 0);
}

/* What does not fit, after all is printed. */
static ka_status check_fits(struct ka_run *r, const struct ka_plan_figures *f) {
  char need[32], left[32];
  if (!f->fits_memory)
    return ka_fail(r->ctx, KA_E_MEMORY,
                   "the job needs %s of memory, %s are free; smaller: micro_batch_size, "
                   "sequence_len, selection, or gradient_checkpointing: auto",
                   ka_fmt_bytes(f->memory_bytes, need), ka_fmt_bytes(f->memory_free_bytes, left));
  if (!f->fits_disk)
    return ka_fail(r->ctx, KA_E_IO,
                   "%s: output_dir: the job needs %s of disk, %s are free; smaller: "
                   "save_total_limit, selection, or save_steps: 0",
                   ka_job_place(r->job, "output_dir"), ka_fmt_bytes(f->disk_bytes, need),
                   ka_fmt_bytes(f->disk_free_bytes, left));
  return KA_STATUS_OK;
}

ka_status ka_train_plan_print(struct ka_run *r) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_plan_figures f;
  print_inputs(r);
  KA_TRY(print_selection(r));
  KA_TRY(print_data(r));
  print_steps(r);
  KA_TRY(ka_plan_figures_of(r, &f));
  print_memory(r, &f);
  print_ranks(r, &f);
  print_disk(&f);
  print_time(&f);
  return check_fits(r, &f);
}

ka_status ka_train_plan_json(struct ka_run *r, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  struct ka_plan_figures f;
  json_t *root = NULL;
  KA_TRY(ka_plan_figures_of(r, &f));
  ka_status st = ka_plan_json(r, &f, &root);
  if (ka_ok(st)) st = ka_json_write(ctx, root, path);
  json_decref(root);
  KA_TRY(st);
  return check_fits(r, &f);
}

/* {"ids": [...], "labels": [...]} */
static ka_status put_numbers(struct ka_ctx *ctx, struct ka_str *out, const char *before,
                             const int32_t *v, int64_t n) {
  KA_TRY(ka_str_puts(ctx, out, before));
  for (int64_t i = 0; i < n; i++) {
    char digits[16];
    int len = snprintf(digits, sizeof digits, "%s%d", i ? ", " : "", v[i]);
    KA_TRY(ka_str_append(ctx, out, digits, (size_t)len));
  }
  return KA_STATUS_OK;
}

static ka_status write_documents(struct ka_run *r, FILE *f, const char *path) {
  struct ka_ctx *ctx = r->ctx;
  const struct ka_data *data = r->data.data;
  struct ka_str line = {0};
  void *ids = NULL;
  int64_t cap = 0;
  ka_status st = KA_STATUS_OK;
  for (int64_t i = 0; i < ka_data_n_documents(data); i++) {
    int64_t n = ka_data_document_tok(data, i);
    KA_TRY_GOTO(ka_grow(ctx, &ids, &cap, 2 * n, sizeof(int32_t), "document"), out);
    ka_data_read_document(data, i, ids, (int32_t *)ids + n);
    ka_str_clear(&line);
    KA_TRY_GOTO(put_numbers(ctx, &line, "{\"ids\": [", ids, n), out);
    KA_TRY_GOTO(put_numbers(ctx, &line, "], \"labels\": [", (int32_t *)ids + n, n), out);
    KA_TRY_GOTO(ka_str_puts(ctx, &line, "]}\n"), out);
    if (fwrite(line.data, 1, line.len, f) == line.len) continue;
    st = ka_fail(ctx, KA_E_IO, "%s: write failed", path);
    goto out;
  }
  if (fflush(f) != 0) st = ka_fail(ctx, KA_E_IO, "%s: write failed", path);
out:
  ka_free(ids);
  ka_str_deinit(&line);
  return st;
}

ka_status ka_train_plan_documents(struct ka_run *r, const char *path) {
  bool out = strcmp(path, "-") == 0;
  FILE *f = out ? stdout : fopen(path, "wb");
  if (!f) return ka_fail(r->ctx, KA_E_INPUT, "%s: cannot write: %s", path, strerror(errno));
  ka_status st = write_documents(r, f, path);
  if (!out && fclose(f) != 0 && ka_ok(st)) st = ka_fail(r->ctx, KA_E_IO, "%s: write failed", path);
  return st;
}
