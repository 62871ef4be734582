// What training makes small: losses of logits, their derivatives, and the scores.
#pragma once

#include "basics.hpp"

namespace fedps {

// exp(x) for x <= 0, to about 1e-7 of it: 2^n times a polynomial of what is left (Cephes, expf); loops of it are vectors.
inline float exp_of_negative(float x) {
  x = std::max(x, -87.0f);
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounds to a whole number
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return (p * r * r + r + 1.0f) * power;
}

// log(1 + e) for 0 <= e <= 1, to about 1e-7 of it: the series of 2 artanh(e / (2 + e)).
inline float log_of_one_and(float e) {
  const float t = e / (2.0f + e), s = t * t;
  return 2.0f * t * (1.0f + s * (0.33333333f + s * (0.2f + s * (0.14285714f + s * (0.11111111f + s * 0.09090909f)))));
}

// The score of a logit x: its sigmoid, with e = exp(-|x|).
inline float score_of(float x, float e) { return (x >= 0 ? 1.0f : e) / (1.0f + e); }

inline void count(float score, float label, int64_t* counts) {
  ++counts[(label > 0 ? 0 : BUCKETS) + static_cast<int>(score * (BUCKETS - 1))];
}

// A head takes the logits z of a block's samples, `batch` being how many there are in the whole batch. It returns the loss
// (models/loss.py), as if each sample had the mean; leaves scores, counted too, and d = d(loss)/d(logit).

template <int Z>
double cross_entropy(const Call& c, int64_t batch, int samples, const float* z, const int32_t* order, float* d, float* scores) {
  const float share = 1.0f / static_cast<float>(batch);
  float losses[WIDE_BLOCK], slopes[WIDE_BLOCK], x[WIDE_BLOCK], y[WIDE_BLOCK];
  for (int s = 0; s < samples; ++s) x[s] = z[s * Z], y[s] = c.label[order[s]];
  for (int s = 0; s < samples; ++s) {
    const float e = exp_of_negative(-std::abs(x[s])), p = score_of(x[s], e);
    losses[s] = std::max(x[s], 0.0f) - x[s] * y[s] + log_of_one_and(e);
    scores[s] = p;
    slopes[s] = (p - y[s]) * share;
  }
  double loss = 0;
  for (int s = 0; s < samples; ++s) loss += losses[s], d[s * Z] = slopes[s];
  if (!std::isfinite(loss)) return std::nan("");
  for (int s = 0; s < samples; ++s) count(scores[s], y[s], c.counts);
  return loss;
}

template <int Z>
double pairwise(const Call& c, int64_t batch, int samples, const float* z, const int32_t* order, float* d, float* scores) {
  const float share = 2.0f / static_cast<float>(batch);
  float losses[WIDE_BLOCK / 2], slopes[WIDE_BLOCK / 2], x[WIDE_BLOCK];
  for (int s = 0; s < samples; ++s) {
    x[s] = z[s * Z];
    const float e = exp_of_negative(-std::abs(x[s]));
    scores[s] = score_of(x[s], e);
  }
  for (int p = 0; p < samples / 2; ++p) {
    const float above = x[2 * p] - x[2 * p + 1], e = exp_of_negative(-std::abs(above));
    losses[p] = std::max(-above, 0.0f) + log_of_one_and(e);
    slopes[p] = score_of(-above, e) * share;
  }
  double loss = 0;
  for (int p = 0; p < samples / 2; ++p) {
    loss += 2 * losses[p];
    d[2 * p * Z] = -slopes[p], d[(2 * p + 1) * Z] = slopes[p];
  }
  if (!std::isfinite(loss)) return std::nan("");
  for (int s = 0; s < samples; ++s) count(scores[s], c.label[order[s]], c.counts);
  return loss;
}

template <int Z>
double sampled_softmax(const Call& c, int64_t batch, int samples, const float* z, const int32_t* order, float* d, float* scores) {
  const int group = static_cast<int>(c.group);
  const float share = static_cast<float>(group) / static_cast<float>(batch);
  double loss = 0;
  for (int s = 0; s < samples; s += group, z += group * Z, d += group * Z) {
    float most = z[0], sum = 0, powers[BLOCK];
    for (int k = 0; k < group; ++k) most = std::max(most, z[k * Z]);
    for (int k = 0; k < group; ++k) sum += powers[k] = exp_of_negative(z[k * Z] - most);
    loss += group * (most - z[0] + std::log(sum));
    for (int k = 0; k < group; ++k) {
      d[k * Z] = share * (powers[k] / sum - (k == 0));
      scores[s + k] = score_of(z[k * Z], exp_of_negative(-std::abs(z[k * Z])));
    }
  }
  if (!std::isfinite(loss)) return std::nan("");
  for (int s = 0; s < samples; ++s) count(scores[s], c.label[order[s]], c.counts);
  return loss;
}

// Say of each label what the loss of a sample counts in a batch: its weight over the samples where it is known.
inline void begin_labels(const Call& c, int64_t batch, const int32_t* order) {
  for (int64_t k = 0; k < c.labels; ++k) {
    int64_t known = 0;
    for (int64_t i = 0; i < batch; ++i) known += !std::isnan(c.label[order[i] * c.labels + k]);
    c.each[k].share = c.each[k].weight / static_cast<float>(std::max<int64_t>(known, 1));
  }
}

// The sum over labels of their mean losses, each times its weight; a label that is NaN is left out.
template <int Z>
double weighted(const Call& c, int64_t batch, int samples, const float* z, const int32_t* order, float* d, float* scores) {
  double loss = 0;
  for (int s = 0; s < samples; ++s)
    for (int64_t k = 0; k < c.labels; ++k) {
      const Label label = c.each[k];
      const float x = z[s * Z + k], y = c.label[order[s] * c.labels + k], off = x - y;
      const float e = exp_of_negative(-std::abs(x)), p = score_of(x, e);
      if (k == c.scored) scores[s] = label.real ? x : p;
      const bool known = !std::isnan(y);
      const float own = label.real ? off * off : std::max(x, 0.0f) - x * y + log_of_one_and(e);
      d[s * Z + k] = known ? label.share * (label.real ? 2 * off : p - y) : 0.0f;
      loss += known ? label.share * own : 0.0f;
    }
  if (!std::isfinite(loss)) return std::nan("");
  if (!c.each[c.scored].real)
    for (int s = 0; s < samples; ++s) {
      const float y = c.label[order[s] * c.labels + c.scored];
      if (!std::isnan(y)) count(scores[s], y, c.counts);
    }
  return loss * static_cast<double>(batch);
}

// The derivatives come from elsewhere, one row a sample of the batch: the network is a part of one.
template <int Z>
double given(const Call& c, int64_t, int samples, const float*, const int32_t* order, float* d, float*) {
  const float* rows = c.label + (order - c.order) * c.labels;
  for (int s = 0; s < samples; ++s) std::memcpy(d + s * Z, rows + s * c.labels, sizeof(float) * c.labels);
  return 0;
}

}  // namespace fedps
