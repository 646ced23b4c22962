/* SPDX-License-Identifier: Apache-2.0
 *
 * Settings (settings.def), planted failures, counters. */
#include "tests/cudahost/internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static const struct row {
  const char *name, *kind, *initial;
} rows[] = {
#define SIZE "SIZE"
#define NUMBER "NUMBER"
#define FAIL "FAIL"
#define X(id, name, kind, initial, doc) {name, kind, initial},
#include "tests/cudahost/settings.def"
#undef X
};

static long long values[CH_N_SETTINGS];
static cudaError_t errors[CH_N_SETTINGS]; /* of FAIL settings; success: the call's usual one */
struct cudahost_counters ch_counters;

long long ch_setting(enum ch_setting id) { return values[id]; }

cudaError_t ch_inject(enum ch_setting fail, cudaError_t usual) {
  if (values[fail] <= 0 || --values[fail] > 0) return cudaSuccess;
  ch_counters.injected++;
  return errors[fail] ? errors[fail] : usual;
}

static bool parse_word(const char *kind, const char *text, long long *value) {
  size_t n = strlen(text);
  for (*value = 0; *kind; kind += strcspn(kind, "|"), kind += *kind == '|', ++*value)
    if (!strncmp(kind, text, n) && (kind[n] == '|' || !kind[n])) return true;
  return false;
}

static bool parse_error(const char *text, cudaError_t *error) {
  char *end;
  long number = strtol(text, &end, 10);
#define X(id, code, words)                                                                         \
  if ((!*end && number == code) || !strcasecmp(text, #id)) return *error = cudaError##id, true;
#include "cudahost_errors.def"
#undef X
  return false;
}

static bool parse(int id, const char *text) {
  char *end;
  long long value;
  cudaError_t error = cudaSuccess;
  if (strchr(rows[id].kind, '|')) {
    if (!parse_word(rows[id].kind, text, &value)) return false;
  } else {
    value = strtoll(text, &end, 10);
    if (end == text || value < 0) return false;
    const char *letter = *end && rows[id].kind[0] == 'S' ? strchr("kmg", tolower(*end)) : NULL;
    if (letter) value <<= 10 * (letter - "kmg" + 1), end++;
    if (*end == ':' && rows[id].kind[0] == 'F' && !parse_error(end + 1, &error)) return false;
    if (*end && *end != ':') return false;
  }
  values[id] = value;
  errors[id] = error;
  return true;
}

bool cudahost_set(const char *name, const char *value) {
  for (int id = 0; id < CH_N_SETTINGS; id++) {
    if (strcasecmp(rows[id].name, name)) continue;
    if (parse(id, value)) return true;
    fprintf(stderr, "cudahost: setting %s: got %s, expected %s\n", name, value, rows[id].kind);
    return false;
  }
  fprintf(stderr, "cudahost: no setting %s; tests/cudahost/settings.def lists them\n", name);
  return false;
}

/* CUDAHOST_NAME=VALUE; one that is wrong ends the program before a test believes it. */
__attribute__((constructor)) static void from_environment(void) {
  for (int id = 0; id < CH_N_SETTINGS; id++) parse(id, rows[id].initial);
  for (char **entry = environ; *entry; entry++) {
    char name[64];
    const char *value = strchr(*entry, '=');
    if (strncmp(*entry, "CUDAHOST_", 9) || !value) continue;
    snprintf(name, sizeof name, "%.*s", (int)(value - *entry) - 9, *entry + 9);
    if (!cudahost_set(name, value + 1)) exit(CH_EXIT_CODE);
  }
}

void cudahost_count(struct cudahost_counters *counters) { *counters = ch_counters; }

void cudahost_reset(void) {
  cudaDeviceReset();
  ch_counters = (struct cudahost_counters){0};
  from_environment();
}
