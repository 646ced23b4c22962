# SPDX-License-Identifier: Apache-2.0
# A function or constant of a header is used by a file besides that header and the one that defines it; else it
# is dead, or static: awk -f lint_unused.awk FILE... (all of the product). What tests call of a file's
# inside is listed here, with the reason.
BEGIN {
  # read from memory: what fuzzers feed, and tests without files
  allow("ka_chat_load_text ka_hf_config_parse ka_job_parse ka_train_data_spec ka_foreign_rows ka_foreign_known ka_job_features")
  # an inner step that a test holds to another implementation's figures
  allow("ka_crc32c ka_crc32c_masked ka_eval_student_cdf ka_eval_student_quantile ka_eval_divergence_row ka_repair_threshold")
  allow("ka_progress_bar ka_py_mt_random ka_spectrum_json ka_op_case_size")
  # faults on purpose
  allow("ka_json_fail_at ka_pattern_fail_at ka_pattern_failed")
  # the stand-in of cuDNN reads the graphs that are given to it
  allow("cudnn_node_wanted cudnn_tensor_shape cudnn_use_properties")
}
function allow(list,   n, k, words) {
  n = split(list, words, " ")
  for (k = 1; k <= n; k++) allowed[words[k]] = 1
}
FNR == 1 { in_comment = 0 }
{ # without comments
  line = ""
  rest = $0
  if (!in_comment) gsub(/"([^"\\]|\\.)*"/, "", rest)
  while (rest != "") {
    if (in_comment) {
      at = index(rest, "*/")
      if (!at) break
      rest = substr(rest, at + 2)
      in_comment = 0
    } else {
      at = index(rest, "/*")
      line = line (at ? substr(rest, 1, at - 1) " " : rest)
      if (!at) break
      rest = substr(rest, at + 2)
      in_comment = 1
    }
  }
}
line ~ /^(extern |const )?[a-z][A-Za-z0-9_ *]*[ *][a-z][a-z0-9_]*(\(|\[|;| =)/ && line !~ /^(static|typedef|return)/ {
  name = line
  sub(/ *[(\[;=].*/, "", name)
  sub(/.*[ *]/, "", name)
  if (FILENAME ~ /\.(c|cu)$/) defined[name] = FILENAME
  else if (line ~ /\(/ || line ~ /^extern/) declared[name] = FILENAME
}
{
  n = split(line, words, /[^A-Za-z0-9_]+/)
  for (k = 1; k <= n; k++)
    if (words[k] ~ /^[a-z]/ && !seen[words[k], FILENAME]++) files[words[k]]++
}
function used(name,   n) {
  n = files[name] - (seen[name, declared[name]] == 1) # by a macro or an inline function beside it, perhaps
  return n - ((name in defined) && seen[name, defined[name]]) > 0
}
END {
  for (name in declared)
    if (!used(name) && !(name in allowed))
      print declared[name] ": no other file of the product uses " name ": static, or dead (tests/lint_unused.awk)"
  for (name in allowed)
    if (!(name in declared) || (used(name) && name !~ /^ka_audio/)) print "tests/lint_unused.awk: " name " need not be in its list"
}
