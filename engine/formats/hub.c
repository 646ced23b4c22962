/* SPDX-License-Identifier: Apache-2.0
 * The cache's layout: models--ORG--NAME/refs/main holds a commit, snapshots/COMMIT its files (links
 * into blobs/). */
#include "engine/formats/hub.h"

#include <stdlib.h>
#include <string.h>

bool ka_hub_is_name(const char *text) {
  static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
  size_t n = strspn(text, allowed);
  if (n == 0 || text[0] == '.' || text[n] != '/' || text[n + 1] == '.') return false;
  size_t rest = strspn(text + n + 1, allowed);
  return rest > 0 && text[n + 1 + rest] == 0;
}

static const char *env(const char *name) {
  const char *v = getenv(name);
  return v && *v ? v : NULL;
}

static ka_status cache_dir(struct ka_arena *a, const char **out) {
  struct ka_ctx *ctx = a->ctx;
  const char *hub = env("HF_HUB_CACHE"), *home = env("HF_HOME"), *xdg = env("XDG_CACHE_HOME");
  if (!hub) hub = env("HUGGINGFACE_HUB_CACHE");
  if (hub) return ka_arena_str(a, out, hub, strlen(hub));
  if (home) return ka_path_join(a, out, home, "hub");
  if (xdg) return ka_path_join(a, out, xdg, "huggingface/hub");
  const char *user = env("HOME");
  KA_TRY(ka_path_join(a, out, user ? user : "/root", ".cache/huggingface/hub"));
  return KA_STATUS_OK;
}

/* The commit that refs/main names, or the only snapshot. */
static ka_status find_commit(struct ka_arena *a, const char *dir, const char *snapshots,
                             const char **commit) {
  struct ka_ctx *ctx = a->ctx;
  const char *ref, **names;
  struct ka_str text = {0};
  int64_t n = 0;
  *commit = NULL;
  KA_TRY(ka_path_join(a, &ref, dir, "refs/main"));
  if (ka_path_exists(ref)) {
    ka_status st = ka_read_file(ctx, ref, 4096, &text);
    size_t len = text.data ? strcspn(text.data, " \t\r\n/") : 0;
    if (ka_ok(st) && len > 0) st = ka_arena_str(a, commit, text.data, len);
    ka_str_deinit(&text);
    return st;
  }
  KA_TRY(ka_list_dir(a, snapshots, &names, &n));
  if (n == 1) *commit = names[0];
  return KA_STATUS_OK;
}

ka_status ka_hub_snapshot(struct ka_arena *a, const char *dir, const char **out) {
  struct ka_ctx *ctx = a->ctx;
  const char *snapshots, *blobs, *commit = NULL, *found;
  *out = dir;
  KA_TRY(ka_path_join(a, &snapshots, dir, "snapshots"));
  KA_TRY(ka_path_join(a, &blobs, dir, "blobs"));
  if (!ka_path_is_dir(snapshots) || !ka_path_is_dir(blobs)) return KA_STATUS_OK;
  KA_TRY(find_commit(a, dir, snapshots, &commit));
  if (!commit) return KA_STATUS_OK;
  KA_TRY(ka_path_join(a, &found, snapshots, commit));
  if (ka_path_is_dir(found)) *out = found;
  return KA_STATUS_OK;
}

ka_status ka_hub_find(struct ka_arena *a, enum ka_hub_kind kind, const char *name,
                      const char **out) {
  struct ka_ctx *ctx = a->ctx;
  const char *cache, *folder, *dir, *snapshot;
  *out = NULL;
  if (!ka_hub_is_name(name)) return KA_STATUS_OK;
  const char *slash = strchr(name, '/');
  KA_TRY(cache_dir(a, &cache));
  KA_TRY(ka_arena_printf(a, &folder, "%s--%.*s--%s", kind == KA_HUB_MODEL ? "models" : "datasets",
                         (int)(slash - name), name, slash + 1));
  KA_TRY(ka_path_join(a, &dir, cache, folder));
  if (!ka_path_is_dir(dir)) return KA_STATUS_OK;
  KA_TRY(ka_hub_snapshot(a, dir, &snapshot));
  if (snapshot != dir) *out = snapshot;
  return KA_STATUS_OK;
}

ka_status ka_hub_advice(struct ka_arena *a, enum ka_hub_kind kind, const char *name,
                        const char **out) {
  struct ka_ctx *ctx = a->ctx;
  const char *cache;
  KA_TRY(cache_dir(a, &cache));
  return ka_arena_printf(a, out,
                         "if it is a name on the Hugging Face Hub, it is not in %s, and kappa "
                         "downloads nothing: hf download %s%s",
                         cache, kind == KA_HUB_MODEL ? "" : "--repo-type dataset ", name);
}

ka_status ka_hub_model(struct ka_arena *a, const char **model) {
  struct ka_ctx *ctx = a->ctx;
  const char *found, *advice;
  if (ka_path_exists(*model) || !ka_hub_is_name(*model)) return KA_STATUS_OK;
  KA_TRY(ka_hub_find(a, KA_HUB_MODEL, *model, &found));
  if (!found) KA_TRY(ka_hub_advice(a, KA_HUB_MODEL, *model, &advice));
  if (!found) return ka_fail(ctx, KA_E_INPUT, "%s: no such file or directory; %s", *model, advice);
  *model = found;
  return KA_STATUS_OK;
}

ka_status ka_hub_name(struct ka_arena *a, enum ka_hub_kind kind, const char *path,
                      const char **out) {
  struct ka_ctx *ctx = a->ctx;
  const char *prefix = kind == KA_HUB_MODEL ? "models--" : "datasets--";
  const char *at = strstr(path, prefix);
  *out = NULL;
  if (!at || (at > path && at[-1] != '/')) return KA_STATUS_OK;
  at += strlen(prefix);
  size_t n = strcspn(at, "/");
  const char *name, *gap = strstr(at, "--");
  if (!gap || gap >= at + n) return KA_STATUS_OK;
  size_t org = (size_t)(gap - at);
  KA_TRY(ka_arena_printf(a, &name, "%.*s/%.*s", (int)org, at, (int)(n - org - 2), gap + 2));
  if (ka_hub_is_name(name)) *out = name;
  return KA_STATUS_OK;
}
