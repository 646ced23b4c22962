/* SPDX-License-Identifier: Apache-2.0
 * Frequencies of RoPE: default (Su et al. 2021), linear, llama3, yarn (Peng et al. 2023), longrope
 * (Ding et al. 2024). Written
 * in float where transformers computes with float32 tensors and in double where it uses Python
 * numbers, so that tables agree to the last bits. */
#include "engine/model/rope.h"

#include <math.h>

static const double two_pi = 6.283185307179586;

int64_t ka_rope_channels(const struct ka_hf_rope_params *p, int64_t D) {
  return (int64_t)((double)D * p->partial_rotary_factor);
}

/* theta^(2i/R): the power is taken in double and rounded once. */
static float position_frequency(const struct ka_hf_rope_params *p, int64_t R, int64_t i) {
  float exponent = (float)(2 * i) / (float)R;
  return (float)pow((double)(float)p->theta, (double)exponent);
}

static float llama3(const struct ka_hf_rope_params *p, float inv_freq) {
  float length = (float)p->original_max_position_embeddings;
  double low = p->original_max_position_embeddings / p->low_freq_factor;
  double high = p->original_max_position_embeddings / p->high_freq_factor;
  float wavelength = (float)two_pi / inv_freq;
  float scaled = wavelength > (float)low ? inv_freq / (float)p->factor : inv_freq;
  if (wavelength < (float)high || wavelength > (float)low) return scaled;
  float smooth = (length / wavelength - (float)p->low_freq_factor) /
                 (float)(p->high_freq_factor - p->low_freq_factor);
  return (1 - smooth) * scaled / (float)p->factor + smooth * scaled;
}

static double correction_dim(const struct ka_hf_rope_params *p, int64_t R, double rotations) {
  return ((double)R * log(p->original_max_position_embeddings / (rotations * two_pi))) /
         (2 * log(p->theta));
}

static void yarn(const struct ka_hf_rope_params *p, int64_t R, float *inv_freq) {
  double low = correction_dim(p, R, p->beta_fast), high = correction_dim(p, R, p->beta_slow);
  if (p->truncate) {
    low = floor(low);
    high = ceil(high);
  }
  low = fmax(low, 0);
  high = fmin(high, (double)(R - 1));
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < R / 2; i++) {
    float freq = position_frequency(p, R, i);
    float ramp = ((float)i - (float)low) / (float)(high - low);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    float keep = 1 - ramp;
    inv_freq[i] = 1.0f / ((float)p->factor * freq) * (1 - keep) + 1.0f / freq * keep;
  }
}

static double yarn_mscale(double scale, double mscale) {
  return scale <= 1 ? 1.0 : 0.1 * mscale * log(scale) + 1.0;
}

static double yarn_attention_factor(const struct ka_hf_rope_params *p) {
  if (p->attention_factor != 0) return p->attention_factor;
  if (p->mscale != 0 && p->mscale_all_dim != 0)
    return yarn_mscale(p->factor, p->mscale) / yarn_mscale(p->factor, p->mscale_all_dim);
  return yarn_mscale(p->factor, 1);
}

bool ka_rope_turns(const struct ka_hf_rope_params *p) { return p->kind == KA_ROPE_LONGROPE; }

void ka_rope_frequencies(const struct ka_hf_rope_params *p, int64_t R, bool beyond, float *inv_freq,
                         float *attention_factor) {
  *attention_factor = 1;
  if (p->kind == KA_ROPE_YARN) {
    yarn(p, R, inv_freq);
    *attention_factor = (float)yarn_attention_factor(p);
    return;
  }
  if (p->kind == KA_ROPE_LONGROPE) {
    double ratio = log(p->factor) / log(p->original_max_position_embeddings);
    *attention_factor = (float)(p->attention_factor != 0 ? p->attention_factor
                                : p->factor <= 1         ? 1
                                                         : sqrt(1 + ratio));
    const double *factors = beyond ? p->long_factor : p->short_factor;
    for (int64_t i = 0; i < R / 2; i++)
      inv_freq[i] = 1.0f / ((float)factors[i] * position_frequency(p, R, i));
    return;
  }
  for (int64_t i = 0; i < R / 2; i++) {
    inv_freq[i] = 1.0f / position_frequency(p, R, i);
    if (p->kind == KA_ROPE_LINEAR) inv_freq[i] /= (float)p->factor;
    if (p->kind == KA_ROPE_LLAMA3) inv_freq[i] = llama3(p, inv_freq[i]);
  }
}

void ka_rope_table(const struct ka_hf_rope_params *p, int64_t R, int64_t P, bool beyond,
                   float *cos_out, float *sin_out) {
  float factor, *inv_freq = cos_out; /* the first row is made last: position 0 needs no frequency */
  int64_t half = R / 2;
  ka_rope_frequencies(p, R, beyond, inv_freq, &factor);
  for (int64_t t = P - 1; t >= 0; t--)
    for (int64_t i = 0; i < half; i++) {
      double angle = inv_freq[i] * (float)t;
      cos_out[t * half + i] = (float)cos(angle) * factor;
      sin_out[t * half + i] = (float)sin(angle) * factor;
    }
}
